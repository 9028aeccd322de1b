"""Guards of the configuration: asked before data is touched."""

import inspect
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionbench.classes import class_of
from visionbench.evaluation.predictions import EVALUATIONS
from visionbench.guards.base import Finding, Guard

# By these the data set tells the model its shape; a value written by hand would be lost without a word.
LINKED = ("num_classes", "input_shape")


@dataclass(frozen=True)
class ConfigContext:
    """A configuration before anything is made of it.

    Attributes:
        config: Settings by their names, as the parser gives them.
        metrics: Metrics that the model logs, with the mode of each.
        on_plateau: Whether the scheduler is ReduceLROnPlateau.
    """

    config: Any
    metrics: Mapping[str, str]
    on_plateau: bool

    @property
    def has_validation(self) -> bool:
        """Whether any sample will be validated."""
        config = self.config
        return bool(config.data.init_args.get("val_size") != 0 and config.trainer.limit_val_batches != 0)


class _ConfigGuard(Guard):
    stage = "config"

    def check(self, context: ConfigContext) -> Iterator[Finding]:
        """Refuses the run with the sentence of `refusal`, if there is one."""
        if (sentence := self.refusal(context)) is not None:
            yield Finding("refusal", sentence)

    @abstractmethod
    def refusal(self, context: ConfigContext) -> str | None:
        """Gives why the configuration is refused, or `None`."""


class LinkedArguments(_ConfigGuard):
    """The number of classes and the input shape come from the data set alone."""

    def refusal(self, context: ConfigContext) -> str | None:  # noqa: D102
        parameters = inspect.signature(class_of(context.config.model)).parameters
        for name in LINKED:
            default = parameters[name].default if name in parameters else None
            if (value := context.config.model.init_args.get(name)) is not None and value != default:
                return f"model.{name} is set to {value}, but it comes from the data set; remove it."
        return None


class RunName(_ConfigGuard):
    """The name of a run is the name of one folder."""

    def refusal(self, context: ConfigContext) -> str | None:  # noqa: D102
        name = context.config.name
        if name is not None and (name in ("", ".", "..") or Path(name).name != name):
            return f"name is {name!r}, expected the name of one folder; --log_dir says where it lies."
        return None


class WatchableObjective(_ConfigGuard):
    """The objective is a metric that is logged, in its own mode, and never of the test set."""

    def refusal(self, context: ConfigContext) -> str | None:  # noqa: D102
        objective, metrics = context.config.objective, context.metrics
        watchable = [name for name in metrics if not name.startswith("test/")]
        metric = objective.metric
        if metric not in watchable:
            why = "is the test set's, which nothing may be chosen on" if metric in metrics else "is logged by nothing"
            if metric.partition("/")[0] in EVALUATIONS:
                why = "is of a further evaluation (evaluate), by which nothing is chosen"
            return f"objective.metric is {metric}, which {why}; expected one of {', '.join(watchable)}."
        if objective.mode is not None and objective.mode != metrics[metric]:
            better = "large" if metrics[metric] == "max" else "small"
            return (
                f"objective.mode is {objective.mode}, but {metric} is better when it is {better}; leave objective.mode "
                "out."
            )
        return None


class PlateauInterval(_ConfigGuard):
    """A plateau scheduler follows epochs."""

    def refusal(self, context: ConfigContext) -> str | None:  # noqa: D102
        if context.on_plateau and context.config.model.init_args.get("lr_interval") == "step":
            return "model.lr_interval is step, but ReduceLROnPlateau waits for the metric of an epoch; leave it out."
        return None


class WatchedValidation(_ConfigGuard):
    """What watches the validation needs one."""

    def refusal(self, context: ConfigContext) -> str | None:  # noqa: D102
        config = context.config
        watching = "ReduceLROnPlateau" if context.on_plateau else "early_stopping"
        watches = context.on_plateau or config.early_stopping.patience is not None
        if watches and not context.has_validation and config.objective.metric.startswith("val/"):
            return (
                f"{watching} watches {config.objective.metric}, but there is no validation; set data.val_size above 0, "
                f"remove {watching}, or watch train/loss by objective.metric."
            )
        return None


class ReachedValidation(_ConfigGuard):
    """A run that validates every few epochs lasts that long."""

    def refusal(self, context: ConfigContext) -> str | None:  # noqa: D102
        trainer = context.config.trainer
        every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
        if context.has_validation and every is not None and epochs is not None and 0 < epochs < every:
            return (
                f"trainer.check_val_every_n_epoch is {every}, but max_epochs is {epochs}, so that nothing would be "
                "validated; lower it, or set data.val_size 0."
            )
        return None


class OneProcessADevice(_ConfigGuard):
    """Processes that are forked keep their metrics to themselves; other machines are out of reach."""

    def refusal(self, context: ConfigContext) -> str | None:  # noqa: D102
        trainer = context.config.trainer
        if trainer.strategy in ("ddp_fork", "ddp_spawn", "ddp_notebook"):
            return (
                f"trainer.strategy is {trainer.strategy}, whose processes keep their metrics to themselves; use ddp, "
                "which starts this command once for each device."
            )
        if trainer.num_nodes not in (None, 1):
            return (
                f"trainer.num_nodes is {trainer.num_nodes}, but visionbench trains a run on one machine; leave it out, "
                "and give the devices of this machine with --trainer.devices."
            )
        return None


class NamedDevices(_ConfigGuard):
    """Devices are a number or numbers."""

    def refusal(self, context: ConfigContext) -> str | None:  # noqa: D102
        devices = context.config.trainer.devices
        if isinstance(devices, str) and not re.fullmatch(r"auto|-1|\d+(\s*,\s*\d+)*,?", devices.strip()):
            return f"trainer.devices is {devices}, expected auto, a number of devices, or numbers of GPUs, such as 0,1."
        return None
