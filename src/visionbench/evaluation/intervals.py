"""Intervals of a proportion."""

import math

from visionbench.text import as_percent

MIN_SAMPLES = 10  # with fewer samples, a percentage says more than they do, and an interval covers half of all values


def wilson_interval(correct: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval of a proportion.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.

    Args:
        correct: Number of correct samples.
        count: Number of all samples.
        z: Quantile of the normal distribution; by default for 95 %.
    """
    share = correct / count
    center = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    # Where none or all are correct, an end is exactly 0 or 1, which rounding may miss by a digit.
    return max(0.0, center - half), min(1.0, center + half)


def accuracy_text(correct: int, count: int, samples: str) -> str:
    """Text of an accuracy with its 95 % interval; for very few samples, the two counts only.

    Args:
        correct: Number of correct samples.
        count: Number of all samples.
        samples: Text of the number of samples, such as 360 images.
    """
    if count < MIN_SAMPLES:
        return f"{correct} of {count} correct (too few for an interval)"
    low, high = wilson_interval(correct, count)
    return f"{as_percent(correct / count)}  (95 % interval {100 * low:.2f} to {100 * high:.2f}, {samples})"
