"""Statistics of the runs of a study: spread, intervals, comparisons on the same seeds, effects of the grid's axes.

All intervals are 95 % intervals. Functions take plain numbers: no study file, no run folder.
"""

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

import numpy as np

from visionbench.evaluation.intervals import wilson_interval
from visionbench.evaluation.paired import Paired

# SciPy and statsmodels are imported where they are used, since they take one to two seconds; for a p-value,
# scipy.special does, which takes a tenth of that.
if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

SOURCES = (
    'Efron, "Better bootstrap confidence intervals", 1987',
    'Brown and Forsythe, "Robust tests for the equality of variances", 1974: Levene\'s test around the median',
    'Holm, "A simple sequentially rejective multiple test procedure", 1979',
    'Nadeau and Bengio, "Inference for the generalization error", 2003: the t-test over folds',
    'Yates, "The analysis of multiple classifications with unequal numbers in the different classes", 1934: type II',
    'Searle, Speed and Milliken, "Population marginal means in the linear model", 1980',
)
LEVEL = 0.05  # error rate of intervals and tests
FAR_LEVEL = 0.001  # error rate of the F-test, which is strict since values with outliers are not normal
MOST_SEEDS = 100_000  # a difference that needs more seeds is no difference to anybody
Interval = tuple[float, float]
Mode = Literal["min", "max"]
Key = TypeVar("Key", bound=Hashable)
Seed = TypeVar("Seed", bound=Hashable)


@dataclass(frozen=True)
class Summary:
    """Mean and spread of the values of several runs.

    Attributes:
        n: Number of values.
        mean: Mean of the values.
        sd: Standard deviation with n - 1 in the denominator; `None` for a single value.
        t_interval: Interval of the mean by Student's t; `None` for a single value.
        bootstrap_interval: Interval of the mean by the bootstrap (BCa); `None` for a single value. With five or fewer
            values it is too narrow, as every bootstrap of so few values is.
    """

    n: int
    mean: float
    sd: float | None
    t_interval: Interval | None
    bootstrap_interval: Interval | None


@dataclass(frozen=True)
class Spread:
    """Standard deviation of a single run of a cell.

    Attributes:
        sd: Standard deviation; `None` if no cell has two runs to learn it from.
        degrees_of_freedom: Number of runs less one, summed over the cells that the standard deviation is from.
        pooled: Whether other cells contribute.
    """

    sd: float | None
    degrees_of_freedom: int
    pooled: bool


@dataclass(frozen=True)
class PairedTest:
    """Comparison of two cells on the same seeds.

    Attributes:
        difference: Mean of the second values minus the first.
        p_value: P-value, two-sided.
        method: `t` or `permutation`.
        n: Number of pairs.
    """

    difference: float
    p_value: float
    method: Literal["t", "permutation"]
    n: int


@dataclass(frozen=True)
class BestSet(Generic[Key]):
    """The best cell of a table, and the cells that it cannot be distinguished from.

    Attributes:
        best: Cell with the best mean.
        ties: Other cells whose difference from the best one is not significant, in the table's order.
        undecided: Cells that cannot be compared, for lack of a second shared seed and of a pooled spread.
        p_values: P-value of each compared cell against the best one, after Holm's correction.
    """

    best: Key
    ties: tuple[Key, ...]
    undecided: tuple[Key, ...]
    p_values: dict[Key, float]


@dataclass(frozen=True)
class Effect:
    """Mean of all runs with one label of an axis.

    Attributes:
        mean: Mean for the label, with every label of the other axes weighted alike.
        interval: Interval of the mean; `None` if the table has no degree of freedom left.
        n: Number of runs with the label.
        adjusted: Whether the other axes are accounted for; without that, the mean is the plain one of the label's runs.
    """

    mean: float
    interval: Interval | None
    n: int
    adjusted: bool


@dataclass(frozen=True)
class AxisTest:
    """A row of an analysis of variance: an axis, or the interaction of two.

    Attributes:
        axes: The axis, or the two axes.
        degrees: Degrees of freedom.
        f: Mean square over that of the residual.
        p_value: P-value of the F-test, after Holm's correction for all rows.
    """

    axes: tuple[str, ...]
    degrees: int
    f: float
    p_value: float


@dataclass(frozen=True)
class PooledFolds:
    """Accuracy over all folds of a cross-validation.

    Attributes:
        correct: Number of correct samples in all folds.
        n: Number of samples in all folds.
        accuracy: Share of correct samples.
        interval: Wilson interval of the share.
    """

    correct: int
    n: int
    accuracy: float
    interval: Interval


def _vector(values: "ArrayLike") -> "NDArray[np.float64]":
    """The values as a vector of finite numbers, at least one."""
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or not len(vector) or not np.isfinite(vector).all():
        raise ValueError(f"expected a sequence of finite numbers, at least one, but found {values!r}")
    return vector


def _is_constant(vector: "NDArray[np.float64]") -> bool:
    """Whether all values are equal, but for the rounding of differences and of percentages."""
    return bool(np.ptp(vector) <= 1e-12 * np.abs(vector).max())


def _t_quantile(degrees_of_freedom: float) -> float:
    """Half-width of the interval, in standard errors."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees_of_freedom, 1 - LEVEL / 2))


def _t_test(statistic: float, degrees_of_freedom: float) -> float:
    """P-value of a t-test, two-sided."""
    from scipy.special import stdtr

    return float(2 * stdtr(degrees_of_freedom, -abs(statistic)))


def summarize(values: "ArrayLike") -> Summary:
    """Mean, standard deviation and intervals of the mean.

    Values that are all equal have intervals of width 0.

    Args:
        values: Finite values, one for each run.
    """
    vector = _vector(values)
    n = len(vector)
    if n == 1:
        return Summary(1, float(vector[0]), None, None, None)
    mean, sd = float(vector.mean()), float(vector.std(ddof=1))
    if _is_constant(vector) or sd == 0:
        mean = float(vector[0])
        return Summary(n, mean, 0.0, (mean, mean), (mean, mean))
    half = _t_quantile(n - 1) * sd / math.sqrt(n)
    low, high = _bootstrap_interval((vector - mean) / sd)  # standardized, as cubes of tiny deviations are 0
    return Summary(n, mean, sd, (mean - half, mean + half), (mean + low * sd, mean + high * sd))


def _bootstrap_interval(vector: "NDArray[np.float64]") -> Interval:
    """The BCa interval of the mean, with 9,999 resamples that are the same at each call."""
    from scipy.stats import bootstrap

    found = bootstrap((vector,), np.mean, confidence_level=1 - LEVEL, method="BCa", rng=np.random.default_rng(0))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def pooled_spread(groups: "Mapping[Key, ArrayLike]") -> dict[Key, Spread]:
    """Standard deviation of a single run of each cell, pooled over the cells of a table.

    Cells with one run take the pooled value. Of the cells with three runs or more, one keeps its own spread if it
    clearly differs:

    - its variance is far above that of the others together: p < 0.001 in the F-test, after Bonferroni's correction;
    - or Levene's test around the median, over all of them, has p < 0.05, and it differs most from all others (by the
      same test, one cell against the rest).

    It is set apart, and the others are tested again. When two cells are left and differ, each keeps its own.

    In 1,000 simulated tables of 3 to 18 cells with normal values of equal spread, a cell was set apart in at most 0.2 %
    (3 runs a cell), in 6 to 7 % (4 runs), in at most 1 % (5 runs) and in 2 to 5 % (6 to 20 runs): with few runs and an
    odd number of them, Levene's test rejects much more rarely than its level says, hence 0.05, and the F-test beside
    it. Of cells of 5 runs with 2, 3, 6 and 15 times the spread of seven others, 12, 48, 91 and 99.7 % were set apart. A
    cell with a smaller spread than the others is hardly ever noticed; its interval is then wider than need be.

    Args:
        groups: Values of the runs of each cell, at least one.
    """
    vectors = {key: _vector(values) for key, values in groups.items()}
    own = _set_apart({key: vector for key, vector in vectors.items() if len(vector) > 2})
    together = {key: vector for key, vector in vectors.items() if key not in own}
    degrees = sum(len(vector) - 1 for vector in together.values())
    squares = sum(_squares(vector) for vector in together.values())
    sd = math.sqrt(squares / degrees) if degrees else None
    spreads = {}
    for key, vector in vectors.items():
        alone = len(vector) - 1
        if key in own:
            spreads[key] = Spread(math.sqrt(_squares(vector) / alone), alone, pooled=False)
        else:
            spreads[key] = Spread(sd, degrees, pooled=degrees > alone)
    return spreads


def _squares(vector: "NDArray[np.float64]") -> float:
    """Sum of squared deviations from the mean, exactly 0 for equal values."""
    return 0.0 if _is_constant(vector) else float(((vector - vector.mean()) ** 2).sum())


def _set_apart(vectors: "dict[Key, NDArray[np.float64]]") -> set[Key]:
    """The cells whose spread clearly differs from that of the others."""
    left = dict(vectors)
    while len(left) > 1:
        differing = _far_widest(left)
        if differing is None and _levene(list(left.values())) >= LEVEL:
            break
        if len(left) == 2:
            left = {}
            break
        if differing is None:
            deviations = {key: np.abs(vector - np.median(vector)) for key, vector in left.items()}
            p_values = {
                key: _anova([own, np.concatenate([other for name, other in deviations.items() if name != key])])
                for key, own in deviations.items()
            }
            differing = min(p_values, key=p_values.__getitem__)
        del left[differing]
    return set(vectors) - set(left)


def _far_widest(vectors: "Mapping[Key, NDArray[np.float64]]") -> Key | None:
    """The cell whose variance is that of no run of the others; `None` where there is none."""
    from scipy.special import fdtrc

    squares = {key: _squares(vector) for key, vector in vectors.items()}
    degrees = {key: len(vector) - 1 for key, vector in vectors.items()}
    widest = max(vectors, key=lambda key: squares[key] / degrees[key])
    rest, rest_degrees = (sum(by_key.values()) - by_key[widest] for by_key in (squares, degrees))
    if rest <= 0:
        return None
    ratio = squares[widest] / degrees[widest] / (rest / rest_degrees)
    return widest if len(vectors) * fdtrc(degrees[widest], rest_degrees, ratio) < FAR_LEVEL else None


def _levene(vectors: "list[NDArray[np.float64]]") -> float:
    """P-value of Levene's test around the median; 1 if all cells are constant."""
    return _anova([np.abs(vector - np.median(vector)) for vector in vectors])


def _anova(samples: "list[NDArray[np.float64]]") -> float:
    """P-value of a one-way analysis of variance, by which Levene's test compares deviations."""
    from scipy.special import fdtrc

    everything = np.concatenate(samples)
    within = sum(_squares(sample) for sample in samples)
    between = sum(len(sample) * (sample.mean() - everything.mean()) ** 2 for sample in samples)
    if _is_constant(everything):
        return 1.0
    if within == 0:
        return 0.0
    numerator, denominator = len(samples) - 1, len(everything) - len(samples)
    return float(fdtrc(numerator, denominator, between / numerator / (within / denominator)))


def prediction_interval(mean: float, sd: float, n: int, df: int) -> Interval:
    """Interval that one more run lies in: mean ± t · sd · sqrt(1 + 1/n).

    Args:
        mean: Mean of the runs of the cell.
        sd: Standard deviation of a single run.
        n: Number of runs that the mean is from.
        df: Degrees of freedom of the standard deviation, at least 1.
    """
    if df < 1 or n < 1:
        raise ValueError(f"expected at least one run and one degree of freedom, but found {n} and {df}")
    half = _t_quantile(df) * sd * math.sqrt(1 + 1 / n)
    return mean - half, mean + half


def paired_test(first: "ArrayLike", second: "ArrayLike", method: Literal["t", "permutation"] = "t") -> PairedTest:
    """Compares two cells that ran with the same seeds.

    The paired t-test is the default for any number of pairs, since the exact permutation test cannot be significant
    with five seeds or fewer: of 2^n patterns of signs, at least two are as extreme as what was found, so that p is at
    least 0.0625 for five pairs. For differences that are all equal and not 0, where t is infinite, p is that least
    value of the permutation test.

    Args:
        first: Values of one cell, at least two.
        second: Values of the other cell, with the same seeds in the same order.
        method: `t` for the paired t-test; `permutation` for the permutation of signs, exact up to 16 pairs, from
            99,999 drawn patterns above.
    """
    one, other = _vector(first), _vector(second)
    if len(one) != len(other) or len(one) < 2:
        raise ValueError(f"expected two or more pairs of values, but found {len(one)} and {len(other)} values")
    differences = other - one
    n, difference = len(differences), float(differences.mean())
    scale = 1e-12 * max(np.abs(one).max(), np.abs(other).max())  # what rounding leaves of equal values
    if np.abs(differences).max() <= scale:
        return PairedTest(0.0, 1.0, method, n)
    if np.ptp(differences) <= 2 * scale:
        return PairedTest(difference, 2.0 ** (1 - n), "permutation", n)
    if method == "permutation":
        return PairedTest(difference, _permutation_of_signs(differences), method, n)
    statistic = difference / (float(differences.std(ddof=1)) / math.sqrt(n))
    return PairedTest(difference, _t_test(statistic, n - 1), method, n)


def difference_interval(first: "ArrayLike", second: "ArrayLike") -> Interval:
    """Interval of the mean of the second values minus the first, for pairs with the same seeds, by Student's t.

    Args:
        first: Values of one cell, at least two.
        second: Values of the other cell, with the same seeds in the same order.
    """
    differences = _vector(second) - _vector(first)
    if len(differences) < 2:
        raise ValueError(f"expected two or more pairs of values, but found {len(differences)}")
    mean, half = float(differences.mean()), _t_quantile(len(differences) - 1) * _standard_error(differences)
    return mean - half, mean + half


def fold_test(first: "ArrayLike", second: "ArrayLike", held_out: float | None = None) -> float:
    """P-value for other samples: whether two cells differ by more than the folds vary.

    The training sets of two folds share samples, so that the plain t-test over folds finds differences where there are
    none. The variance of the mean is therefore multiplied by 1 + k * h, for k folds and h held-out samples for each
    training sample (Nadeau and Bengio, 2003). For differences that are all equal and not 0, where t is infinite, p is
    the least value of the permutation of signs.

    Args:
        first: Value of each fold of one cell, at least two; the mean over its seeds.
        second: Values of the other cell, of the same folds in the same order.
        held_out: Number of samples that a fold is measured on, divided by that of its training samples; by default
            1 / (k - 1), where all others are trained on.
    """
    one, other = _vector(first), _vector(second)
    differences = other - one
    k, difference = len(differences), float(differences.mean())
    if k < 2:
        raise ValueError(f"expected two or more folds, but found {k}")
    scale = 1e-12 * max(np.abs(one).max(), np.abs(other).max())  # what rounding leaves of equal values
    if np.ptp(differences) <= 2 * scale:
        return 1.0 if abs(difference) <= scale else float(2.0 ** (1 - k))
    error = _standard_error(differences) * math.sqrt(1 + k * (held_out if held_out is not None else 1 / (k - 1)))
    return _t_test(difference / error, k - 1)


def _standard_error(vector: "NDArray[np.float64]") -> float:
    return math.sqrt(_squares(vector) / (len(vector) - 1) / len(vector))


def _permutation_of_signs(differences: "NDArray[np.float64]") -> float:
    """Share of sign patterns whose mean is at least as far from 0 as the one found, two-sided."""
    n = len(differences)
    if n <= 16:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=n - 1)))  # the first sign is fixed: p is two-sided
        sums = np.abs(differences[0] + signs @ differences[1:])
        extreme, total = np.count_nonzero(sums >= abs(differences.sum()) - 1e-9 * np.abs(differences).sum()), len(sums)
    else:
        signs = np.random.default_rng(0).choice((-1.0, 1.0), size=(99_999, n))
        sums = np.abs(signs @ differences)
        extreme = 1 + np.count_nonzero(sums >= abs(differences.sum()) - 1e-9 * np.abs(differences).sum())
        total = 100_000  # with the pattern found
    return extreme / total


def mcnemar(first: "ArrayLike", second: "ArrayLike") -> Paired:
    """Compares two runs on the same test samples; the result has McNemar's exact p-value and the interval.

    Args:
        first: Whether one run predicts each sample correctly.
        second: Whether the other run predicts each sample correctly, in the same order.
    """
    one, other = np.asarray(first), np.asarray(second)
    if one.dtype != bool or other.dtype != bool or one.ndim != 1 or one.shape != other.shape or not len(one):
        raise ValueError("expected two arrays of truth values of the same samples, at least one")
    parts = (one & other, one & ~other, ~one & other, ~one & ~other)
    return Paired(*(int(np.count_nonzero(part)) for part in parts))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values after Holm's correction for the number of tests, in the same order.

    Args:
        p_values: P-values of all tests of one table.
    """
    # Not by statsmodels, whose function collects garbage at each call, up to 0.6 s beside torch.
    corrected, least, n = [0.0] * len(p_values), 0.0, len(p_values)
    for place, index in enumerate(sorted(range(n), key=p_values.__getitem__)):
        least = max(least, (n - place) * p_values[index])
        corrected[index] = min(1.0, least)
    return corrected


def best_and_indistinguishable(
    cells: Mapping[Key, Mapping[Seed, float]], mode: Mode, spread: Mapping[Key, Spread] | None = None
) -> BestSet[Key]:
    """The cell with the best mean, and all cells that it cannot be distinguished from.

    Each cell is compared with the best one on the seeds that both have, by the paired t-test. Cells that share fewer
    than two seeds are compared by the t-test with the pooled spread, where it is given. P-values are corrected by
    Holm's method over all comparisons.

    In 2,000 simulated tables of 8 cells of 5 runs with equal means, any given cell was in the set in 98.5 %, and all of
    them were in 90 %, since the best one is chosen by its values. A cell better than seven others by three standard
    deviations was alone in the set in 55 %.

    Args:
        cells: Value of each seed, for each cell.
        mode: Whether the greatest mean is best (`max`) or the smallest (`min`).
        spread: Spread of each cell, as `pooled_spread` gives it; without it, cells with one seed are undecided.
    """
    means = {key: float(_vector(list(runs.values())).mean()) for key, runs in cells.items()}
    best = (max if mode == "max" else min)(means, key=means.__getitem__)
    found: dict[Key, float] = {}
    undecided = []
    for key, runs in cells.items():
        if key == best:
            continue
        shared = [seed for seed in cells[best] if seed in runs]
        if len(shared) > 1:
            test = paired_test([runs[seed] for seed in shared], [cells[best][seed] for seed in shared])
            # On the seeds that both have, another cell may be better than the one with the best mean of all its seeds.
            is_better = test.difference > 0 if mode == "max" else test.difference < 0
            found[key] = test.p_value if is_better else 1.0
        else:
            p_value = _unpaired(cells[best], runs, (spread[best], spread[key]) if spread else None)
            if p_value is None:
                undecided.append(key)
            else:
                found[key] = p_value
    p_values = dict(zip(found, holm(list(found.values())), strict=True))
    ties = tuple(key for key, p_value in p_values.items() if p_value >= LEVEL)
    return BestSet(best, ties, tuple(undecided), p_values)


def _unpaired(
    first: Mapping[Seed, float], second: Mapping[Seed, float], spreads: tuple[Spread, Spread] | None
) -> float | None:
    """P-value of the t-test with known spreads; `None` where one is not known."""
    if not spreads or not all(spread.degrees_of_freedom for spread in spreads):
        return None
    means, variances = [], []
    for runs, spread in zip((first, second), spreads, strict=True):
        means.append(float(np.mean(list(runs.values()))))
        variances.append((spread.sd or 0.0) ** 2 / len(runs))
    if spreads[0] == spreads[1]:
        degrees: float = spreads[0].degrees_of_freedom
    elif sum(variances):  # Welch and Satterthwaite
        parts = (v * v / spread.degrees_of_freedom for v, spread in zip(variances, spreads, strict=True))
        degrees = sum(variances) ** 2 / sum(parts)
    difference, error = abs(means[0] - means[1]), math.sqrt(sum(variances))
    if error == 0:
        return float(difference == 0)
    return _t_test(difference / error, degrees)


def seeds_to_separate(
    first: "ArrayLike", second: "ArrayLike", sd: float | None = None, power: float = 0.8
) -> int | None:
    """Number of further seeds with which the paired t-test would tell two cells apart, at the level of 5 %.

    The difference found so far is taken for the true one, which makes the number a rough guide.

    Args:
        first: Values of one cell.
        second: Values of the other cell, with the same seeds in the same order.
        sd: Standard deviation of the difference of two runs with the same seed; by default that of the values.
        power: Chance that the test is significant with that many seeds.

    Returns:
        The number, 0 if there are enough seeds already; `None` if the means are equal, if the standard deviation is not
        known, or if more than 100,000 seeds are needed.
    """
    one, other = _vector(first), _vector(second)
    if len(one) != len(other):
        raise ValueError(f"expected pairs of values, but found {len(one)} and {len(other)} values")
    differences = other - one
    scale = 1e-12 * max(np.abs(one).max(), np.abs(other).max())
    difference = abs(float(differences.mean()))
    if sd is None and len(differences) > 1:
        sd = 0.0 if np.ptp(differences) <= 2 * scale else float(differences.std(ddof=1))
    if difference <= scale or sd is None:
        return None
    if sd == 0:
        return max(0, 2 - len(differences))
    from statsmodels.stats.power import TTestPower

    test = TTestPower()

    def is_enough(seeds: int) -> bool:
        reached = float(test.power(difference / sd, nobs=seeds, alpha=LEVEL))
        return math.isnan(reached) or reached >= power  # nan where the power is too close to 1 to be computed

    too_few, enough = 1, 2
    while not is_enough(enough):
        too_few, enough = enough, 2 * enough
        if too_few >= MOST_SEEDS:
            return None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if is_enough(middle) else (middle, enough)
    return max(0, enough - len(differences))


def main_effects(rows: Sequence[tuple[Mapping[str, str], float]]) -> dict[str, dict[str, Effect]]:
    """Mean and interval for each label of each axis of a grid.

    Means are marginal means of a linear model with a term for each label and without interactions, fitted by least
    squares: in a balanced grid they are the plain means, and where combinations are missing or repeated, a label is
    not credited with the combinations that it happens to have. The residual, which contains the interactions, gives the
    intervals. Where two axes cannot be distinguished, since their labels always change together, the plain mean is
    given.

    Args:
        rows: Label of each axis and value, for each run; all rows have the same axes.
    """
    if not rows:
        return {}
    if any(cell.keys() != rows[0][0].keys() for cell, _ in rows):
        raise ValueError("expected rows that all have the same axes")
    from statsmodels.regression.linear_model import OLS

    values = _vector([value for _, value in rows])
    labels = {axis: list(dict.fromkeys(cell[axis] for cell, _ in rows)) for axis in rows[0][0]}
    columns = [(axis, label) for axis in labels for label in labels[axis]]
    design = np.array([[1.0, *(float(cell[axis] == label) for axis, label in columns)] for cell, _ in rows])
    inverse = np.linalg.pinv(design)
    independent: list[int] = []  # the columns of an axis sum up to the constant
    for column in range(design.shape[1]):
        if np.linalg.matrix_rank(design[:, [*independent, column]]) > len(independent):
            independent.append(column)
    fitted = OLS(values, design[:, independent]).fit()
    degrees = int(fitted.df_resid)
    # A perfect fit leaves rounding errors.
    variance = 0.0 if degrees < 1 or fitted.ssr <= 1e-20 * (values**2).sum() else float(fitted.scale)
    effects: dict[str, dict[str, Effect]] = {}
    for axis, label in columns:
        members = np.array([cell[axis] == label for cell, _ in rows])
        n = int(members.sum())
        weights = np.array(
            [1.0, *(float(name == label) if other == axis else 1 / len(labels[other]) for other, name in columns)]
        )
        adjusted = bool(np.allclose(weights @ inverse @ design, weights, atol=1e-8))
        if not adjusted:
            weights = design[members].mean(axis=0)
        weights = weights @ inverse @ design[:, independent]
        mean = float(weights @ fitted.params)
        interval = None
        if degrees > 0:
            error = math.sqrt(max(0.0, variance * float(weights @ fitted.normalized_cov_params @ weights)))
            half = _t_quantile(degrees) * error
            interval = mean - half, mean + half
        effects.setdefault(axis, {})[label] = Effect(mean, interval, n, adjusted)
    return effects


def analysis_of_variance(rows: Sequence[tuple[Mapping[str, str], float]]) -> tuple[list[AxisTest], int]:
    """F-tests of each axis of a grid and of the interaction of each two axes.

    Sums of squares are of type II: an axis or an interaction is tested beside all axes and interactions that do not
    contain it. In a part of a grid, where interactions may have the same columns as an axis, the axis is tested beside
    the other axes alone. The residual is what the model with all of them leaves; it contains the interactions of three
    axes or more.

    Args:
        rows: Label of each axis and value, for each run; all rows have the same axes.

    Returns:
        The tests, none where nothing is left for the residual or all values are explained; and the degrees of freedom
        of the residual.
    """
    if not rows:
        return [], 0
    from scipy.special import fdtrc

    values = _vector([value for _, value in rows])
    axes = list(rows[0][0])
    terms = [*((axis,) for axis in axes), *itertools.combinations(axes, 2)]
    columns = {term: _indicators([tuple(cell[axis] for axis in term) for cell, _ in rows]) for term in terms}

    def residual(kept: Sequence[tuple[str, ...]]) -> tuple[float, int]:
        design = np.hstack([np.ones((len(values), 1)), *(columns[term] for term in kept)])
        solution, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
        return float(((values - design @ solution) ** 2).sum()), len(values) - int(rank)

    def beside(base: Sequence[tuple[str, ...]], term: tuple[str, ...]) -> tuple[int, float]:
        (larger, more), (smaller, less) = residual(base), residual([*base, term])
        return more - less, larger - smaller

    error, degrees = residual(terms)
    if degrees < 1 or error <= 1e-20 * (values**2).sum():  # a perfect fit leaves rounding errors
        return [], degrees
    tests = []
    for term in terms:
        base = [other for other in terms if not set(term) <= set(other)]
        own, explained = beside(base, term)
        if len(term) == 1:
            alone = beside([other for other in base if len(other) == 1], term)
            own, explained = alone if alone[0] > own else (own, explained)
        if own:  # otherwise the others tell all that it tells
            tests.append((term, own, max(0.0, explained / own / (error / degrees))))
    p_values = holm([float(fdtrc(own, degrees, f)) for _, own, f in tests])
    return [AxisTest(*entry, p) for entry, p in zip(tests, p_values, strict=True)], degrees


def _indicators(labels: Sequence[tuple[str, ...]]) -> "NDArray[np.float64]":
    """A column for each label, with 1 in its rows."""
    names = list(dict.fromkeys(labels))
    return np.array([[float(label == name) for name in names] for label in labels])


def pool_folds(folds: Sequence[tuple[int, int]]) -> PooledFolds:
    """Accuracy over all folds, with one interval for all samples.

    Args:
        folds: Number of correct samples and number of samples of each fold.
    """
    correct, n = sum(part for part, _ in folds), sum(count for _, count in folds)
    if n < 1:
        raise ValueError("expected folds with at least one sample")
    return PooledFolds(correct, n, correct / n, wilson_interval(correct, n))
