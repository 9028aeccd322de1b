"""Columns of a table of which each alone tells the class of every training row."""

import math
from collections.abc import Sequence

import numpy as np

MAX_CHANCE = 1e-6
"""Largest chance that one of the columns of a table would tell all classes if the classes were shuffled."""
FIRST_ROWS = 1000  # rows that are looked at before all are


def telling_columns(columns: Sequence[np.ndarray], labels: np.ndarray) -> list[int]:
    """Finds columns that tell the class of each row: copies of the target, and numbers in the order of the classes.

    A column tells the class if each of its values occurs with one class only, and this is no chance: neither among all
    rows nor among 1,000 of them.

    Args:
        columns: Values of each column, shape (N,); NaN is a value of its own.
        labels: Labels of the rows, shape (N,), integers.

    Returns:
        The indices of these columns.
    """
    # Evenly spaced, since rows may be sorted by class.
    some = np.linspace(0, len(labels) - 1, min(FIRST_ROWS, len(labels))).astype(np.int64)
    chance = MAX_CHANCE / max(1, len(columns))
    return [
        number
        for number, values in enumerate(columns)
        if _tells(values[some], labels[some], chance) and _tells(values, labels, chance)
    ]


def _tells(values: np.ndarray, labels: np.ndarray, chance: float) -> bool:
    """Whether each value occurs with one class only, and shuffled labels would give this with no more than a chance.

    Of all ways to shuffle the labels of K classes, as many as K to the power of the number of different values would;
    where the rows of each class are neighbors when the values are sorted, K! would give that.
    """
    order = np.lexsort((labels, values))  # NaN comes last
    values, labels = values[order], labels[order]
    is_other = (values[1:] != values[:-1]) & ~(np.isnan(values[1:]) & np.isnan(values[:-1]))
    is_next_class = labels[1:] != labels[:-1]
    if (is_next_class & ~is_other).any():
        return False
    counts = np.unique(labels, return_counts=True)[1].tolist()
    telling = (1 + int(is_other.sum())) * math.log(len(counts))
    if int(is_next_class.sum()) == len(counts) - 1:
        telling = min(telling, math.lgamma(len(counts) + 1))
    ways = math.lgamma(len(labels) + 1) - sum(math.lgamma(count + 1) for count in counts)
    return len(counts) > 1 and telling - ways <= math.log(chance)
