"""Learning-rate schedulers besides torch's own, and what a scheduler has to be told of the run."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from visionbench.errors import UserError

# Steps told to a scheduler that is made for a trial: all that could be wrong but the length is then found.
LONG_RUN = 10**9


class WarmupCosineLR(LRScheduler):
    """Raises the learning rate in a straight line, then lowers it along half a cosine to the end of the run.

    Steps are optimiser steps or epochs, as model.lr_interval says. The rates are those of torch's LinearLR followed by
    CosineAnnealingLR.

    Args:
        warmup: Steps to the full learning rate; 0 for none.
        total_steps: Steps of the whole run; by default filled in.
        start_factor: Share of the learning rate to begin with.
        end_factor: Share of the learning rate to end with.
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
            raise ValueError("WarmupCosineLR needs total_steps, the steps of the whole run")
        if not 0 <= warmup < total_steps:
            raise ValueError(f"WarmupCosineLR has a warmup of {warmup}, expected 0 to {total_steps - 1} steps")
        if not (0 < start_factor <= 1 and 0 <= end_factor <= 1):
            raise ValueError("WarmupCosineLR expects factors up to 1, start_factor above 0")
        self.warmup = warmup
        self.total_steps = total_steps
        self.start_factor = start_factor
        self.end_factor = end_factor
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """The rates of the step that comes."""
        return [rate * self._factor(self.last_epoch) for rate in self.base_lrs]

    def _factor(self, step: int) -> float:
        if step < self.warmup:
            return self.start_factor + (1 - self.start_factor) * step / self.warmup
        done = min(1.0, (step - self.warmup) / (self.total_steps - self.warmup))
        return self.end_factor + (1 - self.end_factor) * (1 + math.cos(math.pi * done)) / 2


def made_by(function: Callable[..., Any]) -> tuple[type | None, dict[str, Any]]:
    """The class that a function given for an optimiser or scheduler makes, and the arguments it has been given.

    `None` where it does not tell: only a class and a `functools.partial` of one do; the command line gives the latter.
    """
    if isinstance(function, functools.partial):
        kinds = [part for part in (function.func, *function.args) if isinstance(part, type)]
        return (kinds[0] if kinds else None), function.keywords
    return (function if isinstance(function, type) else None), {}


def wants_total_steps(function: Callable[..., Any]) -> bool:
    """Whether a scheduler has to be told the steps of the run, and nobody has."""
    kind, given = made_by(function)
    if kind is None or "total_steps" not in inspect.signature(kind).parameters:
        return False
    return given.get("total_steps") is None and (given.get("epochs") is None or given.get("steps_per_epoch") is None)


def check_covers(scheduler: LRScheduler, steps: float, interval: str) -> None:
    """Refuses a scheduler that ends before the run does, since torch's one-cycle fails in the step after its last.

    Args:
        scheduler: The scheduler.
        steps: Of the run.
        interval: What a step is: epoch or step.

    Raises:
        UserError: It does.
    """
    total = getattr(scheduler, "total_steps", None)
    if total is not None and total < steps:
        unit = "epochs" if interval == "epoch" else "optimiser steps"
        raise UserError(
            f"{type(scheduler).__name__} ends after {total} {unit}, but the run has {steps:,}; leave total_steps, "
            "epochs and steps_per_epoch out, and they are filled in."
        )
