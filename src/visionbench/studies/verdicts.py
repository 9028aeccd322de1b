"""Verdicts: whether a printed value is what one more run would give."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal

from visionbench.errors import UserError
from visionbench.evaluation.intervals import wilson_interval
from visionbench.studies.statistics import Spread, pooled_spread, prediction_interval
from visionbench.text import MINUS, counted

Kind = Literal["reproduced", "not reproduced", "inconclusive", "not comparable", "incomplete", "not judged"]
NOT_LEGIBLE = "-"
NORMAL_QUANTILE = 1.96  # what t comes to with ever more seeds, at 95 %
FEWEST_DEGREES = 4  # of freedom: with fewer, the interval says more about t than about the runs
# A value without a verdict (not comparable, not judged) speaks neither for nor against the printed one, as an
# inconclusive verdict does.
RANKS = {"not reproduced": 0, "inconclusive": 1, "not comparable": 1, "not judged": 1, "reproduced": 2}
KINDS = (*RANKS, "incomplete")


@dataclass(frozen=True)
class Verdict:
    """What became of one printed value.

    Attributes:
        kind: Word of the verdict.
        sentence: Verdict with its reason.
        interval: The 95 % prediction interval for one more run; `None` if the spread is not known.
        mean: Mean of the runs; `None` without runs.
        sd: Standard deviation of a single run, pooled or of the cell alone; `None` if it is not known.
        degrees_of_freedom: Degrees of freedom of the standard deviation.
        n: Number of runs.
        printed: Value as it was printed.
        tolerance: Greatest half-width of the interval with which a value counts as reproduced.
    """

    kind: Kind
    sentence: str
    interval: tuple[float, float] | None
    mean: float | None
    sd: float | None
    degrees_of_freedom: int
    n: int
    printed: str
    tolerance: float


def printed_range(printed: str) -> tuple[float, float]:
    """The values that are printed so: half a unit of the last digit either way, 47.5 to 48.5 for 48.

    Args:
        printed: Value as it was printed; the zeros at its end count.
    """
    try:
        value = Decimal(printed.strip())
        exponent = value.as_tuple().exponent
    except InvalidOperation:
        exponent = "n"
    if not isinstance(exponent, int):
        raise UserError(f"The published value {printed!r} is not a number; write it as printed, such as '97.80'.")
    half = Decimal(5).scaleb(exponent - 1)
    return float(value - half), float(value + half)


def judge(
    printed: str,
    values: Sequence[float],
    spread: Spread | None,
    tolerance: float,
    *,
    asked_seeds: int,
    items: int | None = None,
    is_cut: bool = False,
    unit: Literal["points", "s", ""] = "points",
    defect: str | None = None,
    defect_sentence: str | None = None,
) -> Verdict:
    """Compares a printed value with the runs of its cell.

    The first of these that holds is the verdict:

    - not judged: the printed value is not legible;
    - incomplete: fewer seeds have finished than were asked for;
    - not comparable: a defect changes what the measure means;
    - inconclusive: the standard deviation has fewer than 4 degrees of freedom;
    - inconclusive: no value that is printed so lies in the 95 % prediction interval for one more run, but one lies in
      that for a run with other samples;
    - not reproduced: no value that is printed so lies in the 95 % prediction interval for one more run;
    - reproduced: half the width of the interval is at most the tolerance;
    - inconclusive: the interval is wider.

    If a printed value is one more run of the same normal distribution, the verdict is "not reproduced" in 5 % of cells,
    for any number of seeds. If all runs of all pooled cells are equal, the interval is that one value.

    Where both the report and the study have cut their samples at random, the two cuts differ too: by a standard
    deviation of sqrt(2 p (1 - p) / items), which the seeds of one cut do not show; p is the mean of both accuracies.

    Args:
        printed: Value as it was printed, or "-" if it is not legible.
        values: Values of the finished runs, one for each seed, in the unit of the printed value; values that are not
            finite do not count.
        spread: Spread of the cell, as `pooled_spread` gives it for the table; `None` for that of the values alone.
        tolerance: Greatest half-width of the interval of a reproduced value, in the unit of the printed value.
        asked_seeds: Number of seeds that the study asks for.
        items: Number of samples that an accuracy is measured on; the tolerance is then at least half the width of the
            Wilson interval of the mean accuracy. `None` for measures other than accuracies in percent.
        is_cut: Whether these samples were cut at random, so that those of the report are others.
        unit: Unit of differences: `points` for accuracies in percent, `s` for seconds.
        defect: Word of the defect that changes what the measure means.
        defect_sentence: What the defect does.
    """
    finite = [float(value) for value in values if math.isfinite(value)]
    if spread is None and finite:
        spread = pooled_spread({"cell": finite})["cell"]
    mean = math.fsum(finite) / len(finite) if finite else None
    sd, degrees = (spread.sd, spread.degrees_of_freedom) if spread else (None, 0)
    interval = None
    if mean is not None and sd is not None and degrees:
        interval = prediction_interval(mean, sd, len(finite), degrees)
    floor = 0.0
    if items and mean is not None:
        low, high = wilson_interval(round(mean / 100 * items), items)
        floor = 100 * (high - low) / 2
    widest = max(tolerance, floor)

    def verdict(kind: Kind, reason: str) -> Verdict:
        return Verdict(kind, f"{kind}: {reason}", interval, mean, sd, degrees, len(finite), printed, widest)

    if printed.strip() == NOT_LEGIBLE:
        return verdict("not judged", "the printed value is not legible")
    lowest, highest = printed_range(printed)
    if len(finite) < asked_seeds or mean is None:
        return verdict("incomplete", f"{len(finite)} of {counted(asked_seeds, 'seed')} have finished")
    if defect is not None:
        reason = f"the defect {defect} changes what the measure means"
        return verdict("not comparable", f"{reason} ({defect_sentence})" if defect_sentence else reason)
    if interval is None or degrees < FEWEST_DEGREES:
        known = f"{counted(degrees, 'degree')} of freedom, {FEWEST_DEGREES} are needed"
        measured = (
            f"the {'run gave' if len(finite) == 1 else f'mean of {len(finite)} runs is'} {_number(mean, printed)}"
        )
        return verdict("inconclusive", f"{printed} was printed, {measured}, but the spread over seeds has {known}")
    low, high = interval
    text = _comparison(printed, interval, len(finite), unit)
    slack = 1e-9 * max(abs(low), abs(high), abs(lowest), abs(highest))  # 47.5 in percent is 47.5 only nearly
    if highest < low - slack or lowest > high + slack:
        share = (mean + float(printed)) / 2  # as of both cuts together
        if is_cut and items and 0 < share < 100:
            other = NORMAL_QUANTILE * math.sqrt(2 * share * (100 - share) / items)
            half = math.hypot((high - low) / 2, other)
            if highest >= mean - half and lowest <= mean + half:
                reason = f"those of the report are others, which alone may change it by {other:.1f} {unit}"
                return verdict("inconclusive", f"{text} on the same {counted(items, 'sample')}, but {reason}")
        return verdict("not reproduced", text)
    if not low <= float(printed) <= high:
        text += f" ({printed} stands for {_number(lowest, printed)} to {_number(highest, printed)})"
    half = (high - low) / 2
    if half <= widest + slack:
        return verdict("reproduced", text)
    limit = f"{widest:.3g} {unit}".strip()
    source = ""
    if floor > tolerance:
        source = (
            f" (half the interval of an accuracy on {counted(items or 0, 'sample')}; the study gives "
            f"{tolerance:g}, which is less)"
        )
    enough = NORMAL_QUANTILE * (sd or 0.0) <= widest
    seeds = "more seeds make it narrower" if enough else "no number of seeds makes it so narrow"
    return verdict("inconclusive", f"{text}: ± {half:.3g} is wider than the tolerance of {limit}{source}; {seeds}")


def _decimals(printed: str) -> int:
    exponent = Decimal(printed.strip()).as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _number(value: float, printed: str) -> str:
    """A number with at most one decimal more than the printed one."""
    text = f"{value:.{_decimals(printed) + 1}f}"
    return text.rstrip("0").rstrip(".").replace("-", MINUS)


def _comparison(printed: str, interval: tuple[float, float], runs: int, unit: str) -> str:
    """The printed value beside the interval, with as many decimals as either needs."""
    low, high = interval
    if low == high:
        every = "the run" if runs == 1 else "both runs" if runs == 2 else f"all {runs} runs"
        return f"{printed} was printed, {every} gave {_number(low, printed)}"
    decimals = min(9, max(_decimals(printed), 1 - math.floor(math.log10(high - low))))  # two digits of the width
    if unit == "points":  # no accuracy lies outside 0 to 100, although the normal distribution does
        low, high = max(0.0, low), min(100.0, high)
    elif unit == "s":  # nor is any time below 0
        low = max(0.0, low)
    ends = (f"{end:.{decimals}f}".replace("-", MINUS) for end in (low, high))
    return f"{printed} was printed, one more run would lie between {' and '.join(ends)}"


def worse(old: str, new: str) -> bool:
    """Whether a verdict is worse than the one recorded before.

    From best to worst: reproduced; inconclusive, not comparable and not judged, which say nothing either way; not
    reproduced. An incomplete verdict is neither better nor worse than any other, since it is not a verdict yet.

    Args:
        old: Kind of the recorded verdict.
        new: Kind of the verdict now.
    """
    for kind in (old, new):
        if kind not in KINDS:
            raise UserError(f"There is no verdict {kind!r}; expected one of: {', '.join(KINDS)}.")
    if "incomplete" in (old, new):
        return False
    return RANKS[new] < RANKS[old]


def summary_sentence(verdicts: Iterable[Verdict]) -> str:
    """The number of verdicts of each kind, such as: 14 of 16 judged values are reproduced, 1 is not, 1 is inconclusive.

    Judged values are those with one of the three verdicts of a comparison.

    Args:
        verdicts: All verdicts of a study.
    """
    counts = Counter(verdict.kind for verdict in verdicts)
    reproduced, wrong, open_ = (counts[kind] for kind in ("reproduced", "not reproduced", "inconclusive"))
    judged = reproduced + wrong + open_
    others = [
        f"{counts[kind]} {'is' if counts[kind] == 1 else 'are'} {kind}"
        for kind in ("not comparable", "incomplete", "not judged")
        if counts[kind]
    ]
    if not judged:
        return ", ".join(["no value has a verdict", *others])
    if judged == 1:
        kind = "reproduced" if reproduced else "not reproduced" if wrong else "inconclusive"
        parts = [f"the judged value is {kind}"]
    elif reproduced == judged:
        parts = [f"{'both' if judged == 2 else f'all {judged}'} judged values are reproduced"]
    else:
        parts = [f"{reproduced or 'none'} of {judged} judged values {'is' if reproduced < 2 else 'are'} reproduced"]
        parts += [f"{wrong} {'is' if wrong == 1 else 'are'} not"] if wrong else []
        parts += [f"{open_} {'is' if open_ == 1 else 'are'} inconclusive"] if open_ else []
    further = f"; of the others, {', '.join(others)}" if others else ""
    return ", ".join(parts) + further
