"""Comparison of two models on the same samples: a paired test, and an interval of the difference in accuracy."""

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
    """Counts of samples by the correctness of two models.

    Attributes:
        both: Number of samples on which both models are correct.
        only_first: Number of samples on which only the first model is correct.
        only_second: Number of samples on which only the second model is correct.
        neither: Number of samples on which both models are wrong.
    """

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def samples(self) -> int:
        """Number of all samples."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of the second model minus accuracy of the first."""
        return (self.only_second - self.only_first) / self.samples

    @property
    def p_value(self) -> float:
        """P-value of McNemar's exact test, two-sided.

        Null hypothesis: of the samples on which only one model is correct, each model has each with probability 1/2.
        """
        from scipy.stats import binomtest  # here, since it takes a second to import

        discordant = self.only_first + self.only_second
        return float(binomtest(self.only_first, discordant, 0.5).pvalue) if discordant else 1.0

    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference, by Newcombe's method 10.

        The method combines the Wilson intervals of both accuracies, corrected for their correlation.
        """
        total = self.samples
        correct = (self.both + self.only_second, self.both + self.only_first)  # the second model, then the first
        (second, low, high), (first, first_low, first_high) = (
            (count / total, *wilson_interval(count, total)) for count in correct
        )
        marginals = math.prod((*correct, total - correct[0], total - correct[1]))
        covariance = float(self.both * self.neither - self.only_first * self.only_second)
        if covariance > 0:
            covariance = max(covariance - total / 2, 0.0)  # the continuity correction of method 10
        phi = covariance / math.sqrt(marginals) if marginals else 0.0

        def combined(one: float, other: float) -> float:
            return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))

        return (
            self.difference - combined(second - low, first_high - first),
            self.difference + combined(high - second, first - first_low),
        )


def pair(first: Predictions, second: Predictions) -> Paired:
    """Counts the correct predictions of two models on the same samples, in the same order."""
    one, other = first.predicted == first.labels, second.predicted == second.labels
    counts = (one & other, one & ~other, ~one & other, ~one & ~other)
    return Paired(*(int(np.count_nonzero(part)) for part in counts))


def reordered(first: Predictions, second: Predictions) -> Predictions | None:
    """The second predictions in the order of the first; `None` if their samples or labels differ."""
    if list(first.names) == list(second.names):
        order = np.arange(len(first))
    else:
        index = {name: number for number, name in enumerate(second.names)}
        if len(index) != len(second) or len(second) != len(first) or not index.keys() >= set(first.names):
            return None
        order = np.array([index[name] for name in first.names], dtype=np.int64)
    if not np.array_equal(first.labels, second.labels[order]):
        return None
    return Predictions(
        second.stage, second.probabilities[order], second.predicted[order], second.labels[order], list(first.names)
    )


def disagreements(correct: Predictions, wrong: Predictions) -> np.ndarray:
    """Indices, (n,), of samples that only the first model predicts correctly, most confident errors first."""
    indices = np.flatnonzero((correct.predicted == correct.labels) & (wrong.predicted != wrong.labels))
    confidence = np.nan_to_num(wrong.confidence[indices], nan=-1)
    order: np.ndarray = indices[np.argsort(-confidence, kind="stable")]
    return order
