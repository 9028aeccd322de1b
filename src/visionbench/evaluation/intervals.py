"""Intervals of a proportion."""

import math


def wilson_interval(correct: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval of a share, by default at 95 %.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    share = correct / count
    center = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return center - half, center + half
