"""When a learning-rate scheduler makes its steps."""

from typing import Literal

Interval = Literal["epoch", "step"]

# Schedulers of torch that its documentation steps after each batch.
STEP_SCHEDULERS = frozenset({"OneCycleLR", "CyclicLR"})


def usual_interval(scheduler: str) -> Interval:
    """Unit of a scheduler step where none is given: optimizer steps for cycles, epochs for all others.

    Args:
        scheduler: Name of the scheduler's class.
    """
    return "step" if scheduler in STEP_SCHEDULERS else "epoch"
