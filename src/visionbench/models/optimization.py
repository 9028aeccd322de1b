"""Optimizer and learning-rate scheduler of a model: built for a run, and described as plain values."""

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from visionbench.errors import UserError
from visionbench.models import optimizers as optimizers  # a run file can then name them without their path
from visionbench.models.intervals import Interval
from visionbench.models.schedulers import LONG_RUN, check_covers, class_and_arguments, steps_in_words, wants_total_steps

if TYPE_CHECKING:
    from visionbench.models.base import Classifier

OptimizerCallable = Callable[[Iterable[Any]], Optimizer]
LRSchedulerCallable = Callable[[Optimizer], LRScheduler]
Mode = Literal["min", "max"]


def configure(model: "Classifier", trainer: Trainer | None) -> Any:
    """Builds the optimizer of the parameters that are not frozen, and its scheduler, in the form that Lightning takes.

    Args:
        model: Model to train.
        trainer: Trainer that runs the training; None for a model outside a run, whose length is unknown.

    Raises:
        UserError: All parameters are frozen, or the scheduler does not fit the length of the run.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise UserError(
            f"All parameters of {type(model).__name__} are frozen, so there is nothing to train; remove a part from "
            "model.freeze."
        )
    optimizer = model.make_optimizer(trainable)
    if model.make_lr_scheduler is None:
        return optimizer
    steps = run_steps(trainer, model.lr_interval) if trainer is not None else math.inf
    # The single step of fast_dev_run is too short for any warm-up.
    fast_dev_run = trainer is not None and bool(getattr(trainer, "fast_dev_run", False))
    try:
        scheduler = model.build_lr_scheduler(optimizer, LONG_RUN if fast_dev_run else steps)
    except (ValueError, ZeroDivisionError) as error:  # for example a warm-up that is longer than the run
        raise UserError(
            f"The learning-rate scheduler does not fit a run of {steps_in_words(steps, model.lr_interval)} ({error}); "
            "make the run longer, or change the scheduler's arguments."
        ) from error
    settings: dict[str, Any] = {"scheduler": scheduler, "interval": model.lr_interval}
    if trainer is not None:
        check_covers(scheduler, steps, model.lr_interval)
    if isinstance(scheduler, ReduceLROnPlateau):
        settings["monitor"] = model.objective.metric
        if model.objective.metric.startswith("val/") and trainer is not None:
            # The metric changes only when there is a validation.
            settings["frequency"] = trainer.check_val_every_n_epoch or 1
    return {"optimizer": optimizer, "lr_scheduler": settings}


def build_lr_scheduler(model: "Classifier", optimizer: Optimizer, steps: float) -> LRScheduler:
    """Builds a model's scheduler; the length of the run and the mode of the objective are filled in where not set.

    Args:
        model: Model whose scheduler is built; it must have one.
        optimizer: Optimizer whose learning rate the scheduler changes.
        steps: Number of epochs or optimizer steps of the run; infinite where the run has no limit.

    Raises:
        UserError: The scheduler needs the length of a run that has no limit, or its mode is not the objective's
            and cannot be changed.
    """
    make: Any = model.make_lr_scheduler
    if wants_total_steps(make):
        if steps == math.inf:
            raise UserError(
                "The learning-rate scheduler needs the length of the run, but nothing ends the run; set "
                "trainer.max_epochs, or total_steps of the scheduler."
            )
        scheduler: LRScheduler = make(optimizer, total_steps=int(steps))
        return scheduler
    scheduler = make(optimizer)
    if isinstance(scheduler, ReduceLROnPlateau) and scheduler.mode != (mode := _objective_mode(model)):
        if not isinstance(make, functools.partial):
            raise UserError(
                f"ReduceLROnPlateau has mode {scheduler.mode!r}, expected {mode!r} for the objective "
                f"{model.objective.metric}; make the scheduler with mode={mode!r}."
            )
        scheduler = make(optimizer, mode=mode)
    return scheduler


def _objective_mode(model: "Classifier") -> Mode:
    return model.objective.mode if model.objective.mode is not None else model.metrics[model.objective.metric]


def run_steps(trainer: Trainer, interval: Interval) -> float:
    """The number of epochs or optimizer steps of the whole run; infinite where the run has no limit.

    Args:
        trainer: Trainer that runs the training.
        interval: Unit of the number: epoch or (optimizer) step.
    """
    steps = trainer.estimated_stepping_batches
    if interval == "step" or steps == math.inf:
        return steps
    trainer.fit_loop.setup_data()  # with max_steps, Lightning has not yet counted the batches of an epoch
    steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    return math.ceil(steps / max(steps_per_epoch, 1))


def plain_hparams(
    make_optimizer: OptimizerCallable, make_lr_scheduler: LRSchedulerCallable | None
) -> dict[str, dict[str, Any] | None]:
    """The settings of optimizer and scheduler as plain values, under the names of the hyperparameters.

    A function among the hyperparameters would give a checkpoint that `torch.load(weights_only=True)` refuses.

    Args:
        make_optimizer: Function that makes the optimizer.
        make_lr_scheduler: Function that makes the scheduler; None for a constant learning rate.
    """

    def sample_optimizer() -> Optimizer:
        return make_optimizer([nn.Parameter(torch.zeros(1))])

    settings = {"optimizer": class_path_and_arguments(make_optimizer, sample_optimizer)}
    if make_lr_scheduler is not None:
        make = make_lr_scheduler
        settings["lr_scheduler"] = class_path_and_arguments(make, lambda: make(sample_optimizer()))
    return settings


def class_path_and_arguments(
    function: Callable[..., Any], make_sample: Callable[[], Optimizer | LRScheduler]
) -> dict[str, Any] | None:
    """The class that a function makes and its arguments, as `class_path` and `init_args`.

    Args:
        function: Function that makes an optimizer or a scheduler.
        make_sample: Function that makes a sample object; the arguments are read from the sample where `function` is
            not a class or a partial of one.

    Returns:
        Plain values, or None where the arguments cannot be known or are not plain.
    """
    kind, arguments = class_and_arguments(function)
    if kind is None:
        sample = make_sample()
        kind, values = type(sample), sample.defaults if isinstance(sample, Optimizer) else vars(sample)
        # A new scheduler has already changed its `last_epoch`; as an argument, the new value would mean a resumed run.
        names = [n for n in inspect.signature(kind).parameters if n not in ("params", "optimizer", "last_epoch")]
        if not set(names) <= set(values):
            return None
        arguments = {name: values[name] for name in names}
    if not all(isinstance(value, bool | int | float | str | list | tuple | None) for value in arguments.values()):
        return None
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": dict(arguments)}


def arguments_of(kind: type) -> set[str]:
    """Names of the arguments that a class takes: its own, and those of its bases that it hands on by `**kwargs`.

    Args:
        kind: Class.
    """
    return set(ArgumentParser(exit_on_error=False).add_class_arguments(kind, fail_untyped=False))
