"""Guards of the model: asked when the model is built, before the data are prepared."""

import functools
import inspect
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from visionbench.data.augment import Mixing
from visionbench.data.base import VisionDataModule
from visionbench.guards.base import Finding, Guard
from visionbench.models.base import Classifier
from visionbench.models.schedulers import LONG_RUN, class_and_arguments
from visionbench.text import one_line


@dataclass(frozen=True)
class ModelContext:
    """The model of a run and its data set.

    Attributes:
        model: Model with its starting weights; a resumed run reads them later.
        data: Data module, which may not be prepared yet.
    """

    model: Classifier
    data: VisionDataModule


# Smallest and largest values of the schedulers' arguments that torch takes and uses in another way, by name.
SCHEDULER_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(
        ("patience", "cooldown", "eps", "min_lr", "eta_min", "warmup", "threshold", "factor"), (0, math.inf)
    ),
    **dict.fromkeys(("step_size", "T_max", "T_0", "T_mult", "total_steps", "epochs"), (1, math.inf)),
    **dict.fromkeys(("steps_per_epoch", "milestones"), (1, math.inf)),
}
# Steps of a scheduler that is tried: enough for a division by zero, and for a rate that changes its sign.
TRIED_STEPS = 3


class OptimizerSettings(Guard):
    """Optimizer and scheduler take their settings and use them, which a trial shows before the run starts."""

    stage = "model"

    def check(self, context: ModelContext) -> Iterator[Finding]:  # noqa: D102
        sentences = list(self._sentences(context.model))
        yield from (Finding("refusal", sentence) for sentence in sentences)
        if not sentences:
            yield from self._without_effect(context.model)

    def _sentences(self, model: Classifier) -> Iterator[str]:
        try:
            optimizer = model.make_optimizer(_weights(model))
        except (ValueError, TypeError, RuntimeError) as error:
            yield f"model.optimizer does not take these settings: {one_line(error)}"
            return
        name = type(optimizer).__name__
        for key, value in optimizer.defaults.items():
            if not _all_finite(value):
                yield f"model.optimizer.{key} is {_shown(value)}, expected finite numbers for {name}."
                return
        if (momentum := optimizer.defaults.get("momentum", 0)) > 1:
            yield f"model.optimizer.momentum is {momentum}, expected 0 to 1, since {name} would not converge."
            return
        if model.make_lr_scheduler is None:
            return
        arguments = class_and_arguments(model.make_lr_scheduler)[1]
        for key, value in arguments.items():
            least, most = SCHEDULER_RANGES.get(key, (-math.inf, math.inf))
            values = value if isinstance(value, list | tuple) else [value]
            if not all(least <= entry <= most for entry in values if isinstance(entry, int | float)):
                yield f"model.lr_scheduler.{key} is {_shown(value)}, expected {least:g} or more."
                return
            if not _all_finite(value):
                yield f"model.lr_scheduler.{key} is {_shown(value)}, expected finite numbers."
                return
        yield from self._tried(model, optimizer)

    def _tried(self, model: Classifier, optimizer: torch.optim.Optimizer) -> Iterator[str]:
        """Builds the scheduler and steps it a few times."""
        try:
            scheduler, rates = _tried_values(model, optimizer, "lr")
        except (ValueError, TypeError, ZeroDivisionError, OverflowError, RuntimeError) as error:
            yield f"model.lr_scheduler does not take these settings: {one_line(error)}"
            return
        if wrong := [float(rate) for rate in rates if not 0 <= float(rate) < math.inf]:
            yield (
                f"model.lr_scheduler ({scheduler}) makes a learning rate of {wrong[0]:g}, "
                "expected a finite number of 0 or more."
            )

    def _without_effect(self, model: Classifier) -> Iterator[Finding]:
        """Reports a learning rate of 0, and what the scheduler sets to values of its own."""
        kind, arguments = class_and_arguments(model.make_optimizer)
        if model.make_lr_scheduler is None:
            if not any(group["lr"] for group in model.make_optimizer(_weights(model)).param_groups):
                yield Finding("warning", "model.optimizer.lr is 0, so that no weight is trained; give a larger one.")
            return
        if kind is None:
            return
        scheduler, of_scheduler = class_and_arguments(model.make_lr_scheduler)
        parameters = inspect.signature(kind).parameters
        words: dict[str, tuple[str, Literal["refusal", "warning"]]] = {
            "lr": ("learning rate", "refusal"),
            # torch's own examples give SGD a momentum and then cycle it, which is no reason to refuse a run.
            "momentum": ("momentum", "warning"),
        }
        for key, (word, severity) in words.items():
            value = arguments.get(key)
            is_default = key in parameters and value == parameters[key].default  # perhaps not given
            if not isinstance(value, int | float) or is_default or value in of_scheduler.values():
                continue
            (name, values), (_, others) = (
                _tried_values(model, functools.partial(model.make_optimizer, **{key: entry})(_weights(model)), key)
                for entry in (value, value / 2)
            )
            if values == others:
                options = inspect.signature(scheduler).parameters if scheduler is not None else ()
                own = " or ".join(f"model.lr_scheduler.{option}" for option in options if option.endswith(f"_{key}"))
                yield Finding(
                    severity,
                    f"model.optimizer.{key} is {value}, which has no effect, since {name} sets the {word} of each "
                    f"step; {f'set {own} instead' if own else 'remove it'}.",
                )


def _weights(model: Classifier) -> list[torch.nn.Parameter]:
    """Small parameters with as many axes as those that are trained, since an optimizer may group them by that."""
    axes = {parameter.ndim for parameter in model.parameters() if parameter.requires_grad} or {1}
    return [torch.nn.Parameter(torch.zeros((1,) * number)) for number in sorted(axes)]


def _tried_values(model: Classifier, optimizer: torch.optim.Optimizer, key: str) -> tuple[str, list[Any]]:
    """Name of the scheduler, and what a setting of the optimizer is before and after each of its first steps."""
    scheduler: Any = model.build_lr_scheduler(optimizer, LONG_RUN)
    values = [group[key] for group in optimizer.param_groups]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimizer makes no step in between
        for _ in range(min(TRIED_STEPS, getattr(scheduler, "total_steps", None) or TRIED_STEPS)):
            scheduler.step(*([0.0] if isinstance(scheduler, ReduceLROnPlateau) else []))
            values += [group[key] for group in optimizer.param_groups]
    return type(scheduler).__name__, values


def _all_finite(value: Any) -> bool:
    values = value if isinstance(value, list | tuple) else [value]
    return all(math.isfinite(entry) for entry in values if isinstance(entry, float))


def _shown(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


class SharesOfClasses(Guard):
    """Mixed images need a loss that takes shares of classes as labels."""

    stage = "model"

    def check(self, context: ModelContext) -> Iterator[Finding]:  # noqa: D102
        model = context.model
        mixing = [type(entry).__name__ for entry in context.data.augment if isinstance(entry, Mixing)]
        if mixing and not model.loss_function.takes_shares:
            yield Finding(
                "refusal",
                f"model.loss is {model.loss_name}, which takes one class for each image, but {' and '.join(mixing)} in "
                f"data.augment {'makes' if len(mixing) == 1 else 'make'} labels that are shares of classes; use "
                "cross_entropy, or remove these from data.augment.",
            )
