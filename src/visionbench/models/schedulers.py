"""Learning-rate schedulers beside torch's own, and checks of a scheduler against the length of the run."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from visionbench.errors import UserError
from visionbench.text import counted

# Length of the run for a scheduler that is only built to check its arguments: long enough for any warm-up.
LONG_RUN = 10**9


class WarmupCosineLR(LRScheduler):
    """Raises the learning rate linearly, then lowers the rate along half a cosine until the end of the run.

    A step is an epoch or an optimizer step; model.lr_interval sets which. The learning rates are those of torch's
    LinearLR followed by CosineAnnealingLR.

    Args:
        warmup: Number of steps until the full learning rate; 0 for no warm-up.
        total_steps: Number of steps of the whole run; by default the length of the run.
        start_factor: Learning rate of the first step, as a share of the full learning rate.
        end_factor: Learning rate after the last step, as a share of the full learning rate.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup: int,
        total_steps: int | None = None,
        start_factor: float = 0.01,
        end_factor: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if total_steps is None:
            raise ValueError("WarmupCosineLR needs total_steps, the number of steps of the whole run")
        if not 0 <= warmup < total_steps:
            raise ValueError(f"WarmupCosineLR has a warmup of {warmup}, expected 0 to {total_steps - 1} steps")
        if not (0 < start_factor <= 1 and 0 <= end_factor <= 1):
            raise ValueError(
                f"WarmupCosineLR has start_factor {start_factor} and end_factor {end_factor}, expected start_factor "
                "above 0 and both at most 1, end_factor at least 0"
            )
        self.warmup = warmup
        self.total_steps = total_steps
        self.start_factor = start_factor
        self.end_factor = end_factor
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """The learning rates of the next step, one for each parameter group."""
        return [rate * self._factor(self.last_epoch) for rate in self.base_lrs]

    def _factor(self, step: int) -> float:
        if step < self.warmup:
            return self.start_factor + (1 - self.start_factor) * step / self.warmup
        progress = min(1.0, (step - self.warmup) / (self.total_steps - self.warmup))
        return self.end_factor + (1 - self.end_factor) * (1 + math.cos(math.pi * progress)) / 2


def class_and_arguments(function: Callable[..., Any]) -> tuple[type | None, dict[str, Any]]:
    """The class of the optimizer or scheduler that a function makes, and the arguments that are already set.

    The class is known only of a class itself and of a `functools.partial` of a class, as the command line makes them;
    for any other function the class is None.

    Args:
        function: Function that makes an optimizer or a scheduler.
    """
    if isinstance(function, functools.partial):
        kinds = [part for part in (function.func, *function.args) if isinstance(part, type)]
        return (kinds[0] if kinds else None), function.keywords
    return (function if isinstance(function, type) else None), {}


def wants_total_steps(function: Callable[..., Any]) -> bool:
    """Whether a scheduler needs the number of steps of the run, and its arguments do not set that number.

    Args:
        function: Function that makes the scheduler.
    """
    kind, arguments = class_and_arguments(function)
    if kind is None or "total_steps" not in inspect.signature(kind).parameters:
        return False
    if arguments.get("total_steps") is not None:
        return False
    return arguments.get("epochs") is None or arguments.get("steps_per_epoch") is None


def steps_in_words(steps: float, interval: str) -> str:
    """A number of steps with its unit, such as 3 epochs or 1 optimizer step.

    Args:
        steps: Number of steps.
        interval: Unit of a step: epoch or (optimizer) step.
    """
    unit = "epoch" if interval == "epoch" else "optimizer step"
    return counted(int(steps), unit) if math.isfinite(steps) else f"unlimited {unit}s"


def check_covers(scheduler: LRScheduler, steps: float, interval: str) -> None:
    """Refuses a scheduler that ends before the run, because OneCycleLR fails in the step after its last.

    Args:
        scheduler: Scheduler of the run.
        steps: Number of epochs or optimizer steps of the run.
        interval: Unit of a step: epoch or (optimizer) step.

    Raises:
        UserError: The scheduler ends before the run.
    """
    total = getattr(scheduler, "total_steps", None)
    if total is not None and total < steps:
        length = f"{steps:,.0f}" if math.isfinite(steps) else "no limit"
        raise UserError(
            f"{type(scheduler).__name__} ends after {steps_in_words(total, interval)}, but the run has {length}; "
            "remove total_steps, epochs and steps_per_epoch from the scheduler, so that the length of the run is used."
        )
