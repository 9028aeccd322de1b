"""Cells that a search proposes: drawn at random, or by Optuna from the results so far."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

from visionbench.errors import UserError

# Axis that numbers the cells of a search, from 1.
TRIAL = "trial"
# Callback that ends a trial; named here, since the process that plans runs does without torch.
PRUNING = "visionbench.training.callbacks.EndBelowMedian"
# Fewer runs than these have no median that a run should be ended for.
LEAST_RUNS = 4


@dataclass(frozen=True)
class Range:
    """Values that an option may take in a search: those from low to high, or those of a list.

    Attributes:
        low: Least value.
        high: Greatest value.
        log: Whether the logarithm is searched evenly.
        integer: Whether values are whole numbers.
        values: Values of the list; empty for a range of numbers.
    """

    low: float = 0.0
    high: float = 1.0
    log: bool = False
    integer: bool = False
    values: tuple[Any, ...] = ()

    def at(self, share: float) -> str:
        """Gives a value as the label of a cell.

        Args:
            share: Place in the range, from 0 to below 1.
        """
        if self.values:
            return json.dumps(self.values[int(share * len(self.values))])
        low, high = self.low, self.high + self.integer  # each whole number is as likely as any other
        if self.log:
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            value = low + share * (high - low)
        return self.label(math.floor(value) if self.integer else value)

    def label(self, value: float) -> str:
        """Gives a number as the label of a cell, which is all that its run gets of it."""
        value = min(max(value, self.low), self.high)
        if self.integer:
            return str(round(value))
        short = float(f"{value:.6g}")
        return repr(short if self.low <= short <= self.high else value)

    def has(self, label: str) -> bool:
        """Whether a label is that of a value of this range."""
        value = self.value(label)
        if self.values:
            return value in self.values
        is_number = isinstance(value, int if self.integer else int | float) and not isinstance(value, bool)
        return is_number and self.low <= value <= self.high

    def value(self, label: str) -> Any:
        """Gives the value of a label."""
        return json.loads(label)


@dataclass(frozen=True)
class Search:
    """How a stage finds its cells.

    Attributes:
        over: Range of each option.
        trials: Number of cells.
        sampler: Draws at random, or by a tree-structured Parzen estimator (Bergstra et al. 2011) of Optuna.
        at_once: Number of cells that are proposed together, from the results of all before them.
        by: Measure that the estimator improves.
        seed: Seed of the sampler.
        prune_after: First epoch after which a run is ended that is worse than the median of earlier ones; `None` for
            none.
    """

    over: dict[str, Range] = field(default_factory=dict)
    trials: int = 20
    sampler: Literal["random", "tpe"] = "random"
    at_once: int = 4
    by: str = "val/acc"
    seed: int = 0
    prune_after: int | None = None

    def has(self, cell: dict[str, str]) -> bool:
        """Whether a cell is one of this search, and not of an earlier one with other options or ranges.

        Args:
            cell: Cell.
        """
        return cell.keys() - {TRIAL} == self.over.keys() and all(self.over[axis].has(cell[axis]) for axis in self.over)

    def batches(self) -> list[range]:
        """Numbers of the trials that are proposed together, from 0."""
        at_once = self.sampler == "random" and self.prune_after is None
        size = self.trials if at_once else self.at_once
        return [range(start, min(start + size, self.trials)) for start in range(0, self.trials, size)]


def propose(
    search: Search, batch: range, results: Sequence[tuple[dict[str, str], float | None]], best: Literal["min", "max"]
) -> list[dict[str, str]]:
    """Proposes the cells of a batch: always the same ones after the same results.

    Args:
        search: Search.
        batch: Numbers of the trials.
        results: Cell and value of each trial before them, in their order; the value `None` for one that has failed.
        best: Whether large or small values are good.

    Raises:
        UserError: Optuna is needed and not installed.
    """
    cells = _drawn(search, batch) if search.sampler == "random" else _estimated(search, batch, results, best)
    return [{TRIAL: str(number + 1), **cell} for number, cell in zip(batch, cells, strict=True)]


def medians(curves: Sequence[Sequence[float | None]], mode: Literal["min", "max"], after: int) -> list[float | None]:
    """Median of the best values so far, after each epoch.

    Args:
        curves: Values of each run after each epoch; a run that ended early has fewer.
        mode: Direction of improvement.
        after: First epoch, from 1, after which a run may be ended.

    Returns:
        The medians; `None` before `after`, and where fewer than `LEAST_RUNS` runs have come as far. Empty without any.
    """
    worst = -math.inf if mode == "max" else math.inf
    best = max if mode == "max" else min
    so_far = [list(accumulate((worst if value is None else value for value in curve), best)) for curve in curves]
    found: list[float | None] = []
    for epoch in range(max(map(len, so_far), default=0)):
        values = [curve[epoch] for curve in so_far if len(curve) > epoch]
        median = statistics.median(values) if epoch + 1 >= after and len(values) >= LEAST_RUNS else None
        # Nine digits hold the median of values of six, and none that the addition leaves behind.
        found.append(float(f"{median:.9g}") if median is not None and math.isfinite(median) else None)
    return found if any(value is not None for value in found) else []


def _drawn(search: Search, batch: range) -> list[dict[str, str]]:
    import numpy as np

    randoms = [np.random.default_rng([search.seed, number]) for number in batch]
    return [{name: option.at(random.random()) for name, option in search.over.items()} for random in randoms]


def _estimated(
    search: Search, batch: range, results: Sequence[tuple[dict[str, str], float | None]], best: Literal["min", "max"]
) -> list[dict[str, str]]:
    try:
        import optuna
    except ImportError:
        raise UserError('The sampler tpe needs Optuna; install it with: pip install "visionbench[search]"') from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # A seed for each batch, so that nothing of the batches before is needed but their results.
    seed = 1_000_003 * search.seed + batch.start
    sampler = optuna.samplers.TPESampler(seed=seed % 2**32, constant_liar=True)
    study = optuna.create_study(direction="maximize" if best == "max" else "minimize", sampler=sampler)
    distributions = {name: _distribution(option) for name, option in search.over.items()}
    for cell, value in results:
        values = {name: option.value(cell[name]) for name, option in search.over.items()}
        parameters = {
            name: option.values.index(values[name]) if option.values else values[name]
            for name, option in search.over.items()
        }
        state = optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE
        study.add_trial(
            optuna.trial.create_trial(params=parameters, distributions=distributions, value=value, state=state)
        )
    trials = [study.ask(distributions) for _ in batch]
    return [
        {
            name: json.dumps(option.values[trial.params[name]]) if option.values else option.label(trial.params[name])
            for name, option in search.over.items()
        }
        for trial in trials
    ]


def _distribution(option: Range) -> Any:
    import optuna

    if option.values:  # by their places, since Optuna takes no lists
        return optuna.distributions.CategoricalDistribution(range(len(option.values)))
    if option.integer:
        return optuna.distributions.IntDistribution(round(option.low), round(option.high), log=option.log)
    return optuna.distributions.FloatDistribution(option.low, option.high, log=option.log)
