"""What two models say of the same samples: the paired test of their predictions, and an interval of the difference."""

import math
from dataclasses import dataclass

import numpy as np

from visionbench.evaluation.intervals import wilson_interval
from visionbench.evaluation.predictions import Predictions

SOURCES = (
    'McNemar, "Note on the sampling error of the difference between correlated proportions or percentages", 1947, in '
    "its exact form",
    'Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired data", '
    "1998, method 10",
)


@dataclass(frozen=True)
class Paired:
    """How often two models are right on the same samples.

    Attributes:
        both: Samples that both get right.
        only_first: That the first gets right and the second wrong.
        only_second: That the second gets right and the first wrong.
        neither: That both get wrong.
    """

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def samples(self) -> int:
        """All of them."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """The second's accuracy less the first's."""
        return (self.only_second - self.only_first) / self.samples

    @property
    def p_value(self) -> float:
        """McNemar's exact test, two-sided: how likely so uneven a split of the samples is that one alone gets right.

        Were both models right equally often, each such sample would be either's with probability 1/2.
        """
        from scipy.stats import binomtest  # here, since it takes a second to import

        discordant = self.only_first + self.only_second
        return float(binomtest(self.only_first, discordant, 0.5).pvalue) if discordant else 1.0

    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference, by Newcombe's method 10.

        It joins the Wilson intervals of both accuracies by what their correlation leaves.
        """
        total = self.samples
        correct = (self.both + self.only_second, self.both + self.only_first)  # of the second, then of the first
        (second, low, high), (first, first_low, first_high) = (
            (count / total, *wilson_interval(count, total)) for count in correct
        )
        marginals = math.prod((*correct, total - correct[0], total - correct[1]))
        covariance = float(self.both * self.neither - self.only_first * self.only_second)
        if covariance > 0:
            covariance = max(covariance - total / 2, 0.0)  # the correction that makes it method 10
        phi = covariance / math.sqrt(marginals) if marginals else 0.0

        def joined(one: float, other: float) -> float:
            return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))

        return (
            self.difference - joined(second - low, first_high - first),
            self.difference + joined(high - second, first - first_low),
        )


def pair(first: Predictions, second: Predictions) -> Paired:
    """Counts what two models get right of the same samples, in the same order."""
    one, other = first.predicted == first.labels, second.predicted == second.labels
    counts = (one & other, one & ~other, ~one & other, ~one & ~other)
    return Paired(*(int(np.count_nonzero(part)) for part in counts))


def in_order_of(first: Predictions, second: Predictions) -> Predictions | None:
    """The second's predictions in the order of the first's samples; `None` where these are others, or other labels."""
    if list(first.names) == list(second.names):
        order = np.arange(len(first))
    else:
        place = {name: number for number, name in enumerate(second.names)}
        if len(place) != len(second) or len(second) != len(first) or not place.keys() >= set(first.names):
            return None
        order = np.array([place[name] for name in first.names], dtype=np.int64)
    if not np.array_equal(first.labels, second.labels[order]):
        return None
    return Predictions(
        second.stage, second.probabilities[order], second.predicted[order], second.labels[order], list(first.names)
    )


def disagreements(correct: Predictions, wrong: Predictions) -> np.ndarray:
    """The places that the one gets right and the other wrong, (n,); those first that the other is surest of."""
    places = np.flatnonzero((correct.predicted == correct.labels) & (wrong.predicted != wrong.labels))
    confidence = np.nan_to_num(wrong.confidence[places], nan=-1)
    order: np.ndarray = places[np.argsort(-confidence, kind="stable")]
    return order
