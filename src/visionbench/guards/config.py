"""Guards of the configuration: asked before data is touched."""

import inspect
import math
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.accelerators import AcceleratorRegistry

from visionbench.classes import class_of
from visionbench.evaluation.predictions import EVALUATIONS
from visionbench.guards.base import Finding, Guard
from visionbench.processes import World
from visionbench.runs.identity import process_count

# By these the data set tells the model its shape; a value written by hand would be lost without a word.
LINKED = ("num_classes", "input_shape")

# Names of Lightning's profilers, apart from that of TPUs.
PROFILERS = ("simple", "advanced", "pytorch")

NumberRange = tuple[Callable[[float], bool], str]


def _at_least(least: int, *others: int) -> NumberRange:
    words = "".join(f", or {other} for {'all' if least == 0 else 'no limit'}" for other in others)
    return (lambda value: value in others or value >= least), f"{least} or more{words}"


def _part_of_batches(least: int) -> NumberRange:
    """A number of batches, or a share of them, which is written with a point."""
    share = "from 0.0 to 1.0" if least == 0 else "above 0.0, at most 1.0"

    def is_allowed(value: float) -> bool:
        return value >= least if isinstance(value, int) else 0 <= value <= 1 and (value > 0 or least == 0)

    return is_allowed, f"a number of batches, {least} or more, or a share of them, {share}"


# Numbers of the trainer, each with whether a value is allowed, and what is expected.
TRAINER_NUMBERS: dict[str, NumberRange] = {
    "max_epochs": _at_least(1, -1),
    "min_epochs": _at_least(0),
    "max_steps": _at_least(1, -1),
    "min_steps": _at_least(0),
    "limit_train_batches": _part_of_batches(1),
    "limit_val_batches": _part_of_batches(0),
    "limit_test_batches": _part_of_batches(0),
    "overfit_batches": _part_of_batches(0),
    "val_check_interval": _part_of_batches(1),
    "check_val_every_n_epoch": _at_least(1),
    "num_sanity_val_steps": _at_least(0, -1),
    "log_every_n_steps": _at_least(0),
    "accumulate_grad_batches": _at_least(1),
    "gradient_clip_val": (lambda value: 0 < value < math.inf, "a finite number above 0, or null for no clipping"),
    "reload_dataloaders_every_n_epochs": _at_least(0),
    "fast_dev_run": _at_least(0),
}
# Options of the trainer that visionbench does not pass on, with what to do instead.
WITHOUT_EFFECT = {
    "overfit_batches": "leave it out, and give the number of training samples with --data.train_size",
    "default_root_dir": "leave it out, and give the folder of all runs by --log_dir, or the run folder by --run_dir",
    "limit_predict_batches": "leave it out, since a run predicts nothing",
    "barebones": "leave it out, since a run keeps metrics and checkpoints; trainer.logger, "
    "trainer.enable_checkpointing and predictions turn them off",
    "model_registry": "leave it out, since the checkpoints of a run are in its folder",
}


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
        if (folder := context.config.log_dir) in ("", "null"):  # a text has no null on the command line
            return f"log_dir is {folder or 'empty'}, expected the path of a folder; leave it out for lightning_logs."
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
    """ReduceLROnPlateau makes its steps after epochs (`lr_interval: epoch`)."""

    def refusal(self, context: ConfigContext) -> str | None:  # noqa: D102
        if context.on_plateau and context.config.model.init_args.get("lr_interval") == "step":
            return "model.lr_interval is step, but ReduceLROnPlateau waits for the metric of an epoch; leave it out."
        return None


class WatchedValidation(_ConfigGuard):
    """Early stopping and ReduceLROnPlateau need validation samples, unless the objective is a training metric."""

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
    """A run has at least `trainer.check_val_every_n_epoch` epochs."""

    def refusal(self, context: ConfigContext) -> str | None:  # noqa: D102
        trainer = context.config.trainer
        every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
        if context.has_validation and every is not None and epochs is not None and 0 < epochs < every:
            return (
                f"trainer.check_val_every_n_epoch is {every}, but max_epochs is {epochs}, so that nothing would be "
                "validated; lower it, or set data.val_size 0."
            )
        return None


class NumbersOfTrainer(_ConfigGuard):
    """Numbers of the trainer are in their range."""

    def refusal(self, context: ConfigContext) -> str | None:  # noqa: D102
        trainer = context.config.trainer
        for name, (is_allowed, expected) in TRAINER_NUMBERS.items():
            value = trainer[name]
            if isinstance(value, int | float) and not isinstance(value, bool) and not is_allowed(value):
                return f"trainer.{name} is {value}, expected {expected}."
        if trainer.max_epochs is None and trainer.max_steps == -1 and trainer.max_time is None:
            return (
                "trainer.max_epochs is null, and neither trainer.max_steps nor trainer.max_time ends the run; give one "
                "of the three."
            )
        if trainer.min_epochs is not None and -1 != (trainer.max_epochs or -1) < trainer.min_epochs:
            return (
                f"trainer.min_epochs is {trainer.min_epochs}, but trainer.max_epochs is {trainer.max_epochs}; raise "
                "max_epochs, or leave min_epochs out."
            )
        return None


class OptionsWithoutEffect(_ConfigGuard):
    """An option that is given has an effect."""

    def refusal(self, context: ConfigContext) -> str | None:  # noqa: D102
        config, trainer = context.config, context.config.trainer
        for name, instead in WITHOUT_EFFECT.items():
            if (value := trainer[name]) not in (None, False):
                shown = "true" if value is True else value
                return f"trainer.{name} is {shown}, which has no effect here; {instead}."
        if isinstance(trainer.profiler, str) and trainer.profiler not in PROFILERS:
            return f"trainer.profiler is {trainer.profiler}, expected one of {', '.join(PROFILERS)}."
        if trainer.gradient_clip_algorithm is not None and trainer.gradient_clip_val is None:
            return (
                f"trainer.gradient_clip_algorithm is {trainer.gradient_clip_algorithm}, but no gradient is clipped; "
                "give trainer.gradient_clip_val too."
            )
        if trainer.sync_batchnorm and _processes(trainer) > 1 and not torch.cuda.is_available():
            return (
                "trainer.sync_batchnorm is true, but only batch norms on GPUs of NVIDIA can be synchronized; remove it."
            )
        views = config.model.init_args.get("views")
        if isinstance(views, int) and views and _processes(trainer) > 1:
            return (
                f"model.views is {views}, but in a run of several processes no features are computed once; set "
                "model.views to 0, which augments the images anew in each epoch, or use one process."
            )
        if config.early_stopping.min_delta and config.early_stopping.patience is None:
            return (
                f"early_stopping.min_delta is {config.early_stopping.min_delta}, but training is not ended early; give "
                "early_stopping.patience too."
            )
        return None


def _processes(trainer: Any) -> int:
    launch = World.detect().launch
    return launch.size if launch is not None else process_count(trainer.as_dict())


class OneProcessADevice(_ConfigGuard):
    """A run does not use ddp_fork, ddp_spawn or ddp_notebook; torchrun or srun starts processes of several machines."""

    def refusal(self, context: ConfigContext) -> str | None:  # noqa: D102
        trainer = context.config.trainer
        if trainer.strategy in ("ddp_fork", "ddp_spawn", "ddp_notebook"):
            return (
                f"trainer.strategy is {trainer.strategy}, whose processes keep their metrics to themselves; use ddp, "
                "which starts this command once for each device."
            )
        launch = World.detect().launch
        nodes = launch.nodes if launch is not None else 1
        if trainer.num_nodes not in (None, 1, nodes):
            started = f"{launch.program} started it on {nodes}" if launch is not None else "it was started on this one"
            return (
                f"trainer.num_nodes is {trainer.num_nodes}, but {started}; leave it out, and start the processes of "
                "several machines with torchrun or srun."
            )
        return None


class WholeWeights(_ConfigGuard):
    """Each process of a run holds all weights: FSDP, DeepSpeed and other strategies that divide them are not used."""

    def refusal(self, context: ConfigContext) -> str | None:  # noqa: D102
        strategy = context.config.trainer.strategy
        name = str(getattr(strategy, "class_path", strategy)).rpartition(".")[2]
        if any(part in name.lower().replace("_", "") for part in ("fsdp", "deepspeed", "modelparallel")):
            return (
                f"trainer.strategy is {name}, with which each process holds a part of the weights, but checkpoints and "
                "digests are of all weights; use ddp, for which a model has to fit on one device."
            )
        return None


class AvailableAccelerator(_ConfigGuard):
    """The accelerator is one that this machine has."""

    def refusal(self, context: ConfigContext) -> str | None:  # noqa: D102
        return missing_accelerator("trainer.accelerator", context.config.trainer.accelerator)


def missing_accelerator(option: str, name: Any) -> str | None:
    """The sentence about an accelerator that this machine does not have; `None` for one that it has.

    Args:
        option: Option that names the accelerator.
        name: Name of the accelerator, or an object of Lightning, which is not checked.
    """
    known = {key: entry["accelerator"] for key, entry in AcceleratorRegistry.items()}
    if not isinstance(name, str) or name == "auto" or (name in known and known[name].is_available()):
        return None
    available = [key for key, kind in known.items() if kind.is_available()]
    if name == "gpu" and not {"cuda", "mps"}.isdisjoint(available):
        return None
    why = "which this machine does not have" if name in ("gpu", *known) else "which is unknown"
    return f"{option} is {name}, {why}; give one that is available here: {', '.join(('auto', *sorted(available)))}."


class NamedDevices(_ConfigGuard):
    """Devices are a number or numbers."""

    def refusal(self, context: ConfigContext) -> str | None:  # noqa: D102
        devices = context.config.trainer.devices
        if isinstance(devices, str) and not re.fullmatch(r"auto|-1|\d+(\s*,\s*\d+)*,?", devices.strip()):
            return f"trainer.devices is {devices}, expected auto, a number of devices, or numbers of GPUs, such as 0,1."
        return None
