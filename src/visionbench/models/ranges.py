"""Checks of the numbers that a model is made of."""

from collections.abc import Sequence

from visionbench.errors import UserError

# Largest count. Of a much larger one, which its integers cannot hold, torch says so with a stack of its own functions.
MOST = 2**31 - 1


def check_counts(least: int = 1, **counts: int | Sequence[int]) -> None:
    """Refuses counts that are too small or too large.

    Args:
        least: Smallest count.
        counts: Counts by the names of the model's arguments; a list where an argument is one.

    Raises:
        UserError: A count is below `least` or above `MOST`.
    """
    for name, value in counts.items():
        each = "" if isinstance(value, int) else ", each "
        numbers = [value] if isinstance(value, int) else value
        if any(count > MOST for count in numbers):
            raise UserError(f"model.{name} is {value}, expected {'numbers' * bool(each)}{each}{least} to {MOST}.")
        if any(count < least for count in numbers):
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
