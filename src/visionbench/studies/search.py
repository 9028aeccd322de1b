"""Cells that a search proposes: drawn at random, or by Optuna from the results so far."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from visionbench.errors import UserError


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
            share: Place in the range, from 0 to 1.
        """
        if self.values:
            return json.dumps(self.values[min(int(share * len(self.values)), len(self.values) - 1)])
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        return self.label(value)

    def label(self, value: float) -> str:
        """Gives a number as the label of a cell, which is all that its run gets of it."""
        return str(round(value)) if self.integer else f"{value:.4g}"


@dataclass(frozen=True)
class Search:
    """How a stage finds its cells.

    Attributes:
        over: Range of each option.
        trials: Number of cells.
        sampler: Draws at random, or by a tree-structured Parzen estimator (Bergstra et al. 2011) of Optuna.
        at_once: Number of cells that the estimator proposes together, from the results of all before them.
        by: Measure that the estimator improves.
        seed: Seed of the sampler.
    """

    over: dict[str, Range] = field(default_factory=dict)
    trials: int = 20
    sampler: Literal["random", "tpe"] = "random"
    at_once: int = 4
    by: str = "val/acc"
    seed: int = 0


def propose(search: Search, results: Sequence[float | None], best: Literal["min", "max"]) -> list[dict[str, str]]:
    """Proposes the next cells: always the same ones after the same results, so that nothing else has to be kept.

    Args:
        search: Search.
        results: Value of each trial so far, in their order; `None` for one that has failed.
        best: Whether large or small values are good.

    Raises:
        UserError: Optuna is needed and not installed.
    """
    if search.sampler == "random":
        return [_drawn(search, number) for number in range(len(results), search.trials)]
    return _estimated(search, results, best, min(search.at_once, search.trials - len(results)))


def _drawn(search: Search, number: int) -> dict[str, str]:
    import numpy as np

    random = np.random.default_rng([search.seed, number])
    return {name: option.at(random.random()) for name, option in search.over.items()}


def _estimated(
    search: Search, results: Sequence[float | None], best: Literal["min", "max"], count: int
) -> list[dict[str, str]]:
    try:
        import optuna
    except ImportError:
        raise UserError('The sampler tpe needs Optuna; install it with: pip install "visionbench[search]"') from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=search.seed, constant_liar=True)
    study = optuna.create_study(direction="maximize" if best == "max" else "minimize", sampler=sampler)
    distributions = {name: _distribution(option) for name, option in search.over.items()}
    trials: list[Any] = []
    for begin in range(0, len(results) + count, search.at_once):
        end = min(begin + search.at_once, len(results) + count)
        trials += [study.ask(distributions) for _ in range(begin, end)]
        for trial, value in zip(trials[begin:end], results[begin:end], strict=False):
            if value is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, value)
    return [
        {
            name: json.dumps(option.values[trial.params[name]]) if option.values else option.label(trial.params[name])
            for name, option in search.over.items()
        }
        for trial in trials[len(results) :]
    ]


def _distribution(option: Range) -> Any:
    import optuna

    if option.values:  # by their places, since Optuna takes no lists
        return optuna.distributions.CategoricalDistribution(range(len(option.values)))
    if option.integer:
        return optuna.distributions.IntDistribution(round(option.low), round(option.high), log=option.log)
    return optuna.distributions.FloatDistribution(option.low, option.high, log=option.log)
