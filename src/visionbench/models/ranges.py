"""Checks of the numbers that a model is made of."""

from collections.abc import Sequence

from visionbench.errors import UserError


def check_counts(least: int = 1, **counts: int | Sequence[int]) -> None:
    """Refuses counts that are too small.

    Args:
        least: Smallest count.
        counts: Counts by the names of the model's arguments; a list where an argument is one.

    Raises:
        UserError: A count is below `least`.
    """
    for name, value in counts.items():
        if any(count < least for count in ([value] if isinstance(value, int) else value)):
            each = "" if isinstance(value, int) else ", each "
            raise UserError(f"model.{name} is {value}, expected {'numbers' * bool(each)}{each}{least} or more.")


def check_probabilities(**probabilities: float | Sequence[float]) -> None:
    """Refuses probabilities that are none.

    Args:
        probabilities: Probabilities by the names of the model's arguments; a list where an argument is one.

    Raises:
        UserError: A probability is not from 0 to 1.
    """
    for name, value in probabilities.items():
        values = [value] if isinstance(value, int | float) else value
        if not all(0 <= probability <= 1 for probability in values):
            raise UserError(f"model.{name} is {value}, expected 0 to 1, as a probability is.")
