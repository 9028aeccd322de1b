"""A study as the runs that it consists of."""

import copy
import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from visionbench.errors import UserError
from visionbench.runs.identity import comparable, flat, starting_paths
from visionbench.studies.results import CURVE_DIGITS, Row, evaluations_of
from visionbench.studies.search import PRUNING, TRIAL, Search, medians, propose
from visionbench.studies.spec import GUARD_WORDS, MINIMIZED, SECONDS, Cell, Need, Protocol, Stage, Study, load_study

# Arguments of a run file whose value is a class with arguments, or its name alone.
CLASSES = ("model", "data", "model.optimizer", "model.lr_scheduler")
EPOCHS = "trainer.max_epochs"
ID_DIGITS = 16
WITH_EXPONENT = r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+"
# Metrics that are means over samples, so that the mean over folds, weighted by samples, is that of all samples.
MEANS_OF_SAMPLES = frozenset({"acc", "loss", "log_loss"})


@dataclass(frozen=True)
class Use:
    """A place in the study that a run is for.

    Attributes:
        protocol: Protocol.
        stage: Stage.
        cell: Cell.
        seed: Seed.
        fold: Fold that is held out; `None` without folds.
    """

    protocol: str
    stage: str
    cell: Cell
    seed: int
    fold: int | None


@dataclass(frozen=True)
class Source:
    """A run whose checkpoint another run needs.

    Attributes:
        study: Id of the study of the run.
        run: Id of the run.
        epoch: Checkpoint: `last` or `best`.
    """

    study: str
    run: str
    epoch: str


@dataclass
class PlannedRun:
    """One training of a study.

    Attributes:
        id: Digest of what determines the run.
        study: Study.
        config: Run file, with `$WORD` where the path of a checkpoint of another run belongs.
        uses: Places in the study that the run is for; protocols that do not differ in training share a run.
        continues: Run whose last checkpoint this run resumes in a folder of its own.
        sources: Runs whose checkpoints `$WORD` stands for, by the word.
        order: Place among the runs: seed by seed, in each seed stage by stage.
    """

    id: str
    study: Study
    config: dict[str, Any]
    uses: list[Use]
    continues: Source | None = None
    sources: dict[str, Source] = field(default_factory=dict)
    order: tuple[int, ...] = ()

    @property
    def parents(self) -> list[Source]:
        """Runs that must be finished before this one."""
        return [*([self.continues] if self.continues is not None else []), *self.sources.values()]

    @property
    def evaluations(self) -> set[str]:
        """Names of what the run measures, as `evaluations_of` has them."""
        return set(evaluations_of(self.config))

    @property
    def first(self) -> Use:
        """The first place that the run is for."""
        return self.uses[0]

    @property
    def protocols(self) -> tuple[str, ...]:
        """Names of the protocols that share the run."""
        return tuple(dict.fromkeys(use.protocol for use in self.uses))


@dataclass(frozen=True)
class Waiting:
    """Runs that are not known yet, since a result chooses their cell.

    Attributes:
        protocol: Protocol.
        stage: Stage.
        count: Number of runs.
        reason: Text that says what they wait for, or why they never come.
    """

    protocol: str
    stage: str
    count: int
    reason: str


@dataclass(frozen=True)
class Choice:
    """A cell that a stage took from another one.

    Attributes:
        protocol: Protocol.
        stage: Stage that uses the cell.
        cell: Cell.
        seed: Seed that chose it; `None` where all seeds did.
        by: Text that says who chose it.
    """

    protocol: str
    stage: str
    cell: Cell
    seed: int | None
    by: str


@dataclass
class Plan:
    """All runs of a study that can be named, by the results so far.

    Attributes:
        study: Study.
        runs: Runs by id, in the order in which they are trained.
        foreign: Runs of other studies that are needed, by study and id.
        waiting: Runs that are not known yet.
        choices: Cells that stages took from others.
    """

    study: Study
    runs: dict[str, PlannedRun]
    foreign: dict[tuple[str, str], PlannedRun]
    waiting: list[Waiting]
    choices: list[Choice]

    def using(self, protocol: str, stage: str) -> Iterator[tuple[Use, PlannedRun]]:
        """Gives each place of a stage in a protocol with its run, in the order of cells, seeds and folds."""
        places = [
            (u, run) for run in self.runs.values() for u in run.uses if (u.protocol, u.stage) == (protocol, stage)
        ]
        used = self.study.stages[stage]
        seeds = {seed: place for place, seed in enumerate((*used.seeds, *used.more_seeds))}
        cells = list(dict.fromkeys(tuple(u.cell.items()) for u, _ in places))
        yield from sorted(
            places, key=lambda p: (cells.index(tuple(p[0].cell.items())), seeds.get(p[0].seed, 0), p[0].fold or 0)
        )


def plan(
    study: Study,
    rows: Mapping[str, Row],
    others: Callable[[str], Study] | None = None,
    epochs: int | None = None,
    retried: Collection[str] = (),
) -> Plan:
    """Names the runs of a study.

    Args:
        study: Study.
        rows: Rows of this study by the ids of their runs, which choose the cells of stages with `best_of`.
        others: Gives the study with an id; by default from the folder of the study file.
        epochs: Number of epochs of every run instead of the study's own, for a trial; a run that resumes another one
            gets as many more.
        retried: Ids of failed runs that are tried again.

    Raises:
        UserError: An option contradicts another one, or a run of another study that is needed does not exist.
    """
    return _Planner(
        study, rows, others or (lambda name: load_study(study.path.with_name(f"{name}.yaml"))), epochs, retried
    ).plan()


def configure(study: Study, protocol: Protocol, stages: Sequence[Stage], cell: Cell) -> dict[str, Any]:
    """The run file of a cell, without seed and fold.

    Args:
        study: Study.
        protocol: Protocol, whose options come before those of the cell.
        stages: Stages whose options come after those of the cell.
        cell: Cell.

    Raises:
        UserError: A label would undo what the protocol sets, or a stage what a label sets.
    """
    config = copy.deepcopy(study.base)
    for name, value in protocol.set.items():
        set_option(config, name, value)
    named = {name: _class_at(config, name) for name, value in protocol.set.items() if isinstance(value, str)}
    labeled: dict[str, str] = {}
    for axis, label in cell.items():
        # An axis of a search is an option, and its label a value of it.
        for name, value in _options_of(study, axis, label).items():
            labeled[name] = f"label {label} of {axis}"
            held = [option for option in protocol.set if option.startswith(f"{name}.") and named.get(option) is None]
            for option in _set_and_lost(config, name, value, held):
                raise UserError(
                    f"{study.path}: {labeled[name]} replaces {name}, so that {option} of protocol {protocol.name} "
                    f"is lost; set arguments of {name} instead, or give {option} in set of a stage that has this "
                    "protocol alone."
                )
            for place, kind in named.items():
                if kind is not None and _class_at(config, place) != kind:
                    raise UserError(
                        f"{study.path}: {label} of {axis} replaces {place}, which is {kind} in protocol "
                        f"{protocol.name}; set arguments of {place} instead, or the class in one place."
                    )
    for stage in stages:
        for name, value in stage.set.items():
            # A stage that resumes runs counts its epochs from their first one.
            is_longer = stage.continues is not None and name == EPOCHS
            held = [option for option in labeled if f"{option}.".startswith(f"{name}.") and not is_longer]
            for option in _set_and_lost(config, name, value, held):
                raise UserError(
                    f"{study.path}: stages.{stage.name}.set has {name}, which would undo {option} of "
                    f"{labeled[option]}, so that the cell would not be what it is called; leave one of them out."
                )
    return config


def _options_of(study: Study, axis: str, label: str) -> Mapping[str, Any]:
    """What a label sets; an axis of a search is an option, and its label a value of it."""
    if axis in study.grid:
        return study.grid[axis][label]
    return {} if axis == TRIAL else {axis: json.loads(label)}


def set_option(config: dict[str, Any], name: str, value: Any) -> None:
    """Sets an option of a run file by its dotted name on the command line.

    A mapping with `class_path` replaces a class and its arguments; a name alone replaces the class and keeps the
    arguments.

    Args:
        config: Run file, which is changed.
        name: Dotted name.
        value: Value; `None` is null.
    """
    *groups, last = name.split(".")
    node, path = config, ""
    for place, group in enumerate(groups):
        path = f"{path}.{group}".lstrip(".")
        child = node.get(group)
        if isinstance(child, str):
            child = {"class_path": child}
        elif not isinstance(child, dict):
            child = {}
        node[group] = child
        following = [*groups, last][place + 1]
        if (path in CLASSES or "class_path" in child) and following not in ("class_path", "init_args"):
            child = child.setdefault("init_args", {})
        node = child
    present = node.get(last)
    if isinstance(value, str) and isinstance(present, dict) and "class_path" in present:
        present["class_path"] = value
    elif isinstance(value, str) and f"{path}.{last}".lstrip(".") in CLASSES:
        node[last] = {"class_path": value}
    else:
        node[last] = copy.deepcopy(value)


def _set_and_lost(config: dict[str, Any], name: str, value: Any, options: Iterable[str]) -> list[str]:
    """Sets an option, and gives those of other options that have another value by that."""
    before = {option: copy.deepcopy(_node_at(config, option)) for option in options}
    set_option(config, name, value)
    return [option for option in before if _node_at(config, option) != before[option]]


def _class_at(config: Mapping[str, Any], name: str) -> str | None:
    """The class that an option names, if it names one."""
    node = _node_at(config, name)
    kind = node.get("class_path") if isinstance(node, Mapping) else None
    return kind if isinstance(kind, str) else None


def _node_at(config: Mapping[str, Any], name: str) -> Any:
    """What an option is set to; `None` where it is not set."""
    node: Any = config
    for part in name.split("."):
        if isinstance(node, Mapping) and part not in node and isinstance(node.get("init_args"), Mapping):
            node = node["init_args"]
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


class _Planner:
    def __init__(
        self,
        study: Study,
        rows: Mapping[str, Row],
        others: Callable[[str], Study],
        epochs: int | None,
        retried: Collection[str] = (),
    ) -> None:
        self.study, self.rows, self.others, self.epochs, self.retried = study, rows, others, epochs, retried
        self.runs: dict[str, PlannedRun] = {}
        self.foreign: dict[tuple[str, str], PlannedRun] = {}
        self.waiting: list[Waiting] = []
        self.choices: list[Choice] = []
        self.by_use: dict[tuple[Any, ...], PlannedRun] = {}
        # Ids of runs, by what they would be without texts such as 1e-3.
        self.by_numbers: dict[str, str] = {}
        self.planners: dict[str, _Planner] = {}

    def plan(self) -> Plan:
        for place, stage in enumerate(self.study.stages.values()):
            for number, name in enumerate(stage.protocols):
                protocol = self.study.protocols[name]
                if stage.continues is not None:
                    self._continue(stage, protocol, (place, number))
                elif stage.best_of is not None:
                    self._best(stage, protocol, (place, number))
                elif stage.search is not None:
                    self._search(stage, stage.search, protocol, (place, number))
                else:
                    for cell in stage.cells:
                        self._add(stage, protocol, cell, stage.seeds_of(cell), (place, number))
        self._check_idle_options()
        runs = dict(sorted(self.runs.items(), key=lambda entry: entry[1].order))
        return Plan(self.study, runs, self.foreign, self.waiting, self.choices)

    def _check_idle_options(self) -> None:
        """Refuses an option of a protocol that the labels of each of its cells set otherwise."""
        for protocol in self.study.protocols.values():
            cells = {key[2] for key in self.by_use if key[0] == protocol.name}
            for option in protocol.set if cells else ():
                if all(any(option in _options_of(self.study, *label) for label in cell) for cell in cells):
                    raise UserError(
                        f"{self.study.path}: protocols.{protocol.name}.set has {option}, which every cell sets by a "
                        "label of its own, so that it has no effect; leave it out."
                    )

    def _check_chooser(self, key: str, measure: str, source: str, protocol: Protocol) -> None:
        """Refuses a measure that chooses a cell, but that the runs which it is to be chosen from do not have."""
        for run in (run for place, run in self.by_use.items() if place[:2] == (protocol.name, source)):
            if not _is_measured(measure, run.config):
                name = measure.partition("/")[2]
                raise UserError(
                    f"{self.study.path}: {key} is {measure}, which the runs of {source} do not measure; write "
                    f"metrics: [{name}] in base."
                )

    def _add(
        self,
        stage: Stage,
        protocol: Protocol,
        cell: Cell,
        seeds: Iterable[int],
        order: tuple[int, int],
        earlier: Mapping[tuple[int, int | None], Sequence[Sequence[float | None]]] | None = None,
    ) -> None:
        """Adds the runs of a cell; `earlier` has the curves of earlier trials of a search, by seed and fold."""
        config = configure(self.study, protocol, [stage], cell)
        for seed in seeds:
            for fold in range(stage.folds) if stage.folds is not None else (None,):
                own = config
                if stage.search is not None and earlier is not None:
                    own = _pruned(config, stage.search, earlier.get((seed, fold), ()))
                self._run(Use(protocol.name, stage.name, cell, seed, fold), stage, protocol, own, order)

    def _continue(self, stage: Stage, protocol: Protocol, order: tuple[int, int]) -> None:
        parent = self.study.stages[stage.continues or ""]
        chain = self._chain(stage)
        for key, run in list(self.by_use.items()):
            if key[:2] == (protocol.name, parent.name):
                use = next(use for use in run.uses if _key(use) == key)
                config = configure(self.study, protocol, chain, use.cell)
                self._check_longer(stage, config, run.config)
                continued = Use(protocol.name, stage.name, use.cell, use.seed, use.fold)
                self._run(continued, stage, protocol, config, order, Source(self.study.id, run.id, "last"))
        if not any(key[:2] == (protocol.name, parent.name) for key in self.by_use):
            self._wait(stage, protocol, f"it resumes the runs of {parent.name}, which are not known yet")

    def _check_longer(self, stage: Stage, config: Mapping[str, Any], resumed: Mapping[str, Any]) -> None:
        """Refuses a run that resumes another one and would train nothing, since it has no more epochs."""
        before, now = ((entry.get("trainer") or {}).get("max_epochs") for entry in (resumed, config))
        if self.epochs is not None or not isinstance(before, int) or not isinstance(now, int) or now == -1:
            return
        if before != -1 and now <= before and not {"trainer.max_steps", "trainer.max_time"} & stage.set.keys():
            raise UserError(
                f"{self.study.path}: stages.{stage.name} continues {stage.continues}, whose runs have {before} epochs, "
                f"and has {EPOCHS} {now}, so that it would train nothing; give it set: {{{EPOCHS}: ...}} with more "
                "epochs, counted from the first one."
            )

    def _search(self, stage: Stage, search: Search, protocol: Protocol, order: tuple[int, int]) -> None:
        """Adds the cells that are known by their rows, and those that the results so far propose."""
        known = {
            row.cell[TRIAL]: row.cell
            for row in self.rows.values()
            if row.stage == stage.name and protocol.name in row.protocols and search.has(row.cell)
        }
        results: list[tuple[Cell, float | None]] = []
        curves: dict[tuple[int, int | None], list[list[float | None]]] = {}
        for batch in search.batches():
            cells = [known.get(str(number + 1)) for number in batch]
            if any(cell is None for cell in cells):
                try:
                    proposed = propose(search, batch, results, mode_of_measure(search.by))
                except UserError as error:  # what is known can be shown without Optuna
                    self._wait(stage, protocol, str(error), (search.trials - batch.start) * len(stage.seeds))
                    return
                cells = [cell or proposal for cell, proposal in zip(cells, proposed, strict=True)]
            chosen = [cell for cell in cells if cell is not None]
            for cell in chosen:
                self._add(stage, protocol, cell, stage.seeds, order, curves)
            self._check_chooser(f"stages.{stage.name}.search.by", search.by, stage.name, protocol)
            means = [self._mean(protocol, stage.name, cell, search.by, stage.seeds, final=True) for cell in chosen]
            if not all(ended for ended, _ in means):
                if later := search.trials - batch.stop:
                    reason = "the results of those before propose them"
                    self._wait(stage, protocol, reason, later * len(stage.seeds))
                return
            results += [(cell, mean) for cell, (_, mean) in zip(chosen, means, strict=True)]
            for row in (row for cell in chosen for row in self._rows_of(protocol, stage.name, cell, stage.seeds)):
                if row is not None and row.is_finished:
                    curves.setdefault((row.seed, row.fold), []).append(row.curves.get(_metric(search), []))

    def _rows_of(self, protocol: Protocol, stage: str, cell: Cell, seeds: Sequence[int]) -> list[Row | None]:
        start = (protocol.name, stage, tuple(cell.items()))
        return [self.rows.get(run.id) for key, run in self.by_use.items() if key[:3] == start and key[3] in seeds]

    def _mean(
        self, protocol: Protocol, stage: str, cell: Cell, by: str, seeds: Sequence[int], final: bool = False
    ) -> tuple[bool, float | None]:
        """Whether all runs of a cell have ended, and the mean of a measure over seeds; `None` where one has failed.

        With `final`, a failed run that is tried again has not ended.
        """
        found = self._rows_of(protocol, stage, cell, seeds)
        rows = [row for row in found if row is not None and not (final and row.id in self.retried)]
        values = [pooled(list(of_seed), by) for of_seed in _by_seed(rows)]
        numbers = [value for value in values if value is not None]
        mean = sum(numbers) / len(numbers) if numbers and len(numbers) == len(values) else None
        return len(rows) == len(found), mean

    def _chain(self, stage: Stage) -> list[Stage]:
        """The stage after those that it resumes, the first of them first."""
        parent = self.study.stages[stage.continues] if stage.continues is not None else None
        return [*(self._chain(parent) if parent is not None else ()), stage]

    def _best(self, stage: Stage, protocol: Protocol, order: tuple[int, int]) -> None:
        if (chosen := protocol.chosen.get(stage.name)) is not None:
            self.choices.append(Choice(protocol.name, stage.name, chosen, None, "the report"))
            self._add(stage, protocol, chosen, stage.seeds, order)
            return
        source = self.study.stages[stage.best_of or ""]
        if protocol.name not in source.protocols:
            raise UserError(
                f"{self.study.path}: {stage.name} takes the best cell of {source.name}, which has no protocol "
                f"{protocol.name}; give the stage the same protocols, or name the cell under chosen."
            )
        self._check_chooser(f"stages.{stage.name}.by", stage.by, source.name, protocol)
        groups: list[tuple[int | None, list[int]]] = [(None, list(source.seeds))]
        if stage.over == "each seed":
            groups = [(seed, [seed]) for seed in source.seeds]
        for seed, seeds in groups:
            cell, reason = self._choose(stage, source, protocol, seeds)
            if cell is None:
                self._wait(stage, protocol, reason, 1 if seed is not None else len(stage.seeds))
                continue
            self.choices.append(Choice(protocol.name, stage.name, cell, seed, f"{stage.by} of {source.name}{reason}"))
            self._add(stage, protocol, cell, [seed] if seed is not None else stage.seeds, order)

    def _choose(self, stage: Stage, source: Stage, protocol: Protocol, seeds: Sequence[int]) -> tuple[Cell | None, str]:
        """The best cell over some seeds, and what is to be said of it; without one, the reason.

        A cell with a failed run cannot be chosen.
        """
        scores: list[tuple[float, Cell]] = []
        keys = [key for key in self.by_use if key[:2] == (protocol.name, source.name)]
        is_searched = source.search is not None
        still = any((entry.protocol, entry.stage) == (protocol.name, source.name) for entry in self.waiting)
        if not keys or (is_searched and still):
            return None, f"the runs of {source.name} choose its cell"
        for cell in [dict(labels) for labels in dict.fromkeys(key[2] for key in keys)]:
            known, mean = self._mean(protocol, source.name, cell, stage.by, seeds, final=is_searched)
            if not known:
                return None, f"the runs of {source.name} choose its cell"
            if mean is not None:
                scores.append((mean, cell))
        if not scores:
            return None, f"no cell of {source.name} has finished runs with {stage.by} alone"
        best = (max if mode_of_measure(stage.by) == "max" else min)(mean for mean, _ in scores)
        # Rows are rounded, so that equal means may differ in their last digit: the first of them is chosen.
        equal = [cell for mean, cell in scores if math.isclose(mean, best, rel_tol=1e-8)]
        return equal[0], f", the first of {len(equal)} cells with the same mean" if len(equal) > 1 else ""

    def _wait(self, stage: Stage, protocol: Protocol, reason: str, count: int | None = None) -> None:
        total = count if count is not None else len(stage.seeds)
        self.waiting.append(Waiting(protocol.name, stage.name, total * (stage.folds or 1), reason))

    def _run(
        self,
        use: Use,
        stage: Stage,
        protocol: Protocol,
        base: Mapping[str, Any],
        order: tuple[int, int],
        continues: Source | None = None,
    ) -> None:
        config: dict[str, Any] = copy.deepcopy(dict(base))
        config["seed_everything"] = use.seed
        trainer = config["trainer"] = dict(config.get("trainer") or {})
        # What a machine would choose is not left to it: one cell's runs may come from several machines.
        trainer.setdefault("precision", "32-true")
        trainer.setdefault("logger", False)
        if self.epochs is not None:
            trainer["max_epochs"] = self.epochs * len(self._chain(stage))
        config.setdefault("threads", 1)
        config.setdefault("figures", "none")
        config["test_after_fit"] = stage.test
        # A defect that no guard knows, such as one of the report's text, stands in the study alone.
        config["allow"] = sorted({*(config.get("allow") or ()), *(protocol.defects.keys() & GUARD_WORDS)})
        if stage.evaluate:
            config["evaluate"], config["evaluate_every"] = list(stage.evaluate), stage.every
        if stage.last_epoch:
            set_option(config, "checkpoint.result", "last")
        elif (config.get("checkpoint") or {}).get("result") == "last":
            raise UserError(
                f"{self.study.path}: the runs of {stage.name} have checkpoint.result: last, but the stage has the "
                "result best; write result: last epoch in the stage, and leave checkpoint.result out."
            )
        if use.fold is not None:
            set_option(config, "data.folds", stage.folds)
            set_option(config, "data.fold", use.fold)
            arguments = config["data"].get("init_args") if isinstance(config["data"], dict) else None
            if arguments is None or "fold_is" not in arguments:
                set_option(config, "data.fold_is", "val")
            self._check_fold(config, stage)
        sources = {word: self._source(word, need, use.seed) for word, need in self._needed(config)}
        parents = [continues, *sources.values()] if continues is not None else list(sources.values())
        run_id = _run_id(config, parents, anew=stage.best_of is not None)
        numbers = _as_numbers(config)  # mostly the same, and digests of 10,000 runs take seconds
        by_numbers = run_id if numbers == config else _run_id(numbers, parents, anew=stage.best_of is not None)
        self._check_same_numbers(by_numbers, run_id, use, stage)
        run = self.runs.get(run_id)
        if run is None:
            place = (*stage.seeds, *stage.more_seeds).index(use.seed)
            run = PlannedRun(run_id, self.study, config, [use], continues, sources, (place, *order, len(self.runs)))
            self.runs[run_id] = run
        else:
            self._check_twin(run, use, stage)
            run.uses.append(use)
            run.config["test_after_fit"] = run.config["test_after_fit"] or stage.test
            # What one protocol allows, another one that trains the same run may not have.
            run.config["allow"] = sorted({*run.config["allow"]} & {*config["allow"]})
            if metrics := config.get("metrics"):
                run.config["metrics"] = list(dict.fromkeys([*(run.config.get("metrics") or ()), *metrics]))
            if stage.evaluate:
                run.config["evaluate"] = list(dict.fromkeys([*run.config.get("evaluate", ()), *stage.evaluate]))
                often = "epoch" in (stage.every, run.config.get("evaluate_every"))
                run.config["evaluate_every"] = "epoch" if often else "end"
        self.by_use[_key(use)] = run

    def _check_same_numbers(self, by_numbers: str, run_id: str, use: Use, stage: Stage) -> None:
        """Refuses two cells that differ only in how a number is written, such as 0.001 and 1e-3."""
        first = self.by_numbers.setdefault(by_numbers, run_id)
        if first != run_id and first in self.runs:
            self._check_twin(self.runs[first], use, stage)

    def _check_twin(self, run: PlannedRun, use: Use, stage: Stage) -> None:
        """Refuses two cells of a grid that are one run, which would count as two that are independent."""
        if stage.search is not None or self.epochs is not None:  # where a cell may be tried twice, or has other epochs
            return
        for other in run.uses:
            if other.cell != use.cell and _key(replace(other, cell=use.cell)) == _key(use):
                cells = [
                    ", ".join(f"{axis} {label}" for axis, label in cell.items()) for cell in (other.cell, use.cell)
                ]
                raise UserError(
                    f"{self.study.path}: stages.{stage.name}: the cells {cells[0]} and {cells[1]} are the same run in "
                    f"protocol {use.protocol}; see whether the stage sets what their labels set, or leave one out."
                )

    def _check_fold(self, config: Mapping[str, Any], stage: Stage) -> None:
        """Refuses folds whose score would be of too many samples, or of an epoch that they have chosen themselves."""
        if config["data"]["init_args"]["fold_is"] != "val":
            return
        if (config.get("checkpoint") or {}).get("result") != "last":
            raise UserError(
                f"{self.study.path}: stages.{stage.name} has folds of validation samples, and its result is the epoch "
                "that is best on them, so that their score would be too good; write result: last epoch, or set: "
                "{data.fold_is: test} and test: true for folds that are tested."
            )
        if stage.test:
            raise UserError(
                f"{self.study.path}: stages.{stage.name} has folds and test: true, but its folds hold out validation "
                "samples, so that each fold would test the same samples; write set: {data.fold_is: test} for folds "
                "that cover the test samples, or leave test out."
            )

    def _needed(self, config: Mapping[str, Any]) -> list[tuple[str, Need]]:
        words = [value[1:] for value in flat(config).values() if isinstance(value, str) and value.startswith("$")]
        for word in words:
            if word not in self.study.needs:
                raise UserError(
                    f"{self.study.path}: ${word} stands for a run of another study, but needs has no {word}."
                )
        return [(word, self.study.needs[word]) for word in words]

    def _source(self, word: str, need: Need, seed: int) -> Source:
        if need.study not in self.planners:
            self.planners[need.study] = _Planner(self.others(need.study), {}, self.others, self.epochs)
            self.planners[need.study].plan()
        planner = self.planners[need.study]
        other = planner.study
        for run in planner.runs.values():
            for use in run.uses:
                if (use.protocol, use.stage, use.cell, use.seed) == (need.protocol, need.stage, need.cell, seed):
                    self._adopt(run, planner)
                    return Source(other.id, run.id, need.epoch)
        raise UserError(
            f"{self.study.path}: needs.{word}: {other.id} has no run of protocol {need.protocol}, stage {need.stage}, "
            f"cell {need.cell or 'without labels'}, seed {seed}."
        )

    def _adopt(self, run: PlannedRun, planner: "_Planner") -> None:
        self.foreign[(run.study.id, run.id)] = run
        for parent in run.parents:
            above = planner.runs.get(parent.run) or planner.foreign[(parent.study, parent.run)]
            self._adopt(above, planner)


def _metric(search: Search) -> str:
    return search.by.rpartition(" ")[2]


def _pruned(config: dict[str, Any], search: Search, earlier: Sequence[Sequence[float | None]]) -> dict[str, Any]:
    """A run's configuration with what ends the run below the median of earlier ones, if there is a median."""
    mode = mode_of_measure(search.by)
    if search.prune_after is None or not (thresholds := medians(earlier, mode, search.prune_after)):
        return config
    trainer = dict(config.get("trainer") or {})
    given = trainer.get("callbacks") or []
    pruning = {"metric": _metric(search), "mode": mode, "thresholds": thresholds, "digits": CURVE_DIGITS}
    trainer["callbacks"] = [
        *([given] if isinstance(given, Mapping | str) else given),
        {"class_path": PRUNING, "init_args": pruning},
    ]
    return {**config, "trainer": trainer}


def place_in_words(run: PlannedRun) -> str:
    """Text that names a run: its stage, its protocols where there are several, its cell, its seed and its fold."""
    use = run.first
    protocols = "+".join(run.protocols) if len(run.study.protocols) > 1 else ""
    parts = [use.stage, protocols, ", ".join(use.cell.values()), f"seed {use.seed}"]
    if use.fold is not None:
        parts.append(f"fold {use.fold}")
    return " · ".join(part for part in parts if part)


def pooled(rows: Sequence[Row], measure: str, epoch: int | None = None) -> float | None:
    """The value of a measure over the folds of one seed, over all samples that were held out.

    A metric of the confusion matrix, such as macro_f1, is that of the sum of the folds' matrices; a mean over samples,
    such as a loss, is that of all samples. Others (`is_mean_of_folds`) are means over the folds, weighted by samples.

    Args:
        rows: Rows of the folds; a single row without folds.
        measure: Measure.
        epoch: Number of epochs after which the value is taken; `None` for the result.

    Returns:
        The value; `None` where a fold has none.
    """
    values = [row.value(measure, epoch) for row in rows]
    numbers = [value for value in values if value is not None]
    if not numbers or len(numbers) < len(values):
        return None
    split, _, name = measure.rpartition(" ")[2].partition("/")
    if len(rows) > 1 and not is_mean_of_folds(measure, epoch) and name not in MEANS_OF_SAMPLES:
        return _of_confusion(rows, split, name)
    weights = [row.counts.get(split, 0) for row in rows]
    if len(rows) == 1 or not all(weights):
        return sum(numbers) / len(numbers)
    return sum(value * weight for value, weight in zip(numbers, weights, strict=True)) / sum(weights)


def is_mean_of_folds(measure: str, epoch: int | None = None) -> bool:
    """Whether the value of a measure over folds is a mean of their values, though not of their samples.

    Args:
        measure: Measure.
        epoch: Number of epochs after which the value is taken; `None` for the result.
    """
    split, _, name = measure.partition("/")
    if name in MEANS_OF_SAMPLES:
        return False
    # The confusion matrix is that of the result, and of the samples that are validated or tested.
    return epoch is not None or split not in ("val", "test") or not _is_of_confusion(name)


def _is_of_confusion(name: str) -> bool:
    """Whether a metric is computed from the confusion matrix."""
    from visionbench.evaluation.metrics import CLASS_F1, METRICS  # here, since it takes a third of a second to import

    return name.startswith(CLASS_F1) or (name in METRICS and METRICS[name].source == "confusion matrix")


def _of_confusion(rows: Sequence[Row], split: str, name: str) -> float | None:
    import numpy as np

    from visionbench.evaluation.metrics import Outcome, resolve  # here, since it takes a third of a second to import

    if not all(row.confusion.get(split) for row in rows):
        return None
    counts = np.sum([row.confusion[split] for row in rows], axis=0)
    empty = np.zeros(0)
    value = resolve(name, rows[0].classes).compute(Outcome(empty, counts, None, None, empty))
    return None if math.isnan(value) else value


def _is_measured(measure: str, config: Mapping[str, Any]) -> bool:
    """Whether a run has a metric of the validation: loss and accuracy, and what its metrics and its objective name."""
    name = measure.rpartition(" ")[2].partition("/")[2]
    objective = (config.get("objective") or {}).get("metric") or ""
    asked = {*map(str, config.get("metrics") or ()), str(objective).partition("/")[2]}
    return (
        measure in (SECONDS, MINIMIZED)
        or name in ("acc", "loss", "minimized")
        or name in asked
        or (name.startswith("f1_") and "per_class_f1" in asked)
    )


def mode_of_measure(measure: str) -> Literal["min", "max"]:
    """Whether large values of a measure are good (max), or small ones (min).

    Args:
        measure: Measure.

    Raises:
        UserError: There is no such metric.
    """
    name = measure.rpartition(" ")[2].partition("/")[2]
    if measure in (SECONDS, MINIMIZED) or name == "loss":
        return "min"
    from visionbench.evaluation.metrics import mode_of  # here, since it takes a third of a second to import

    return mode_of(name)


def _by_seed(rows: Iterable[Row]) -> Iterator[list[Row]]:
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.seed, []).append(row)
    yield from groups.values()


def _key(use: Use) -> tuple[Any, ...]:
    return (use.protocol, use.stage, tuple(use.cell.items()), use.seed, use.fold)


def _as_numbers(value: Any) -> Any:
    """A value without texts such as 1e-3, which are numbers to `fit`, but to YAML only with a point, as in 1.0e-3."""
    if isinstance(value, Mapping):
        return {key: _as_numbers(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_as_numbers(entry) for entry in value]
    return float(value) if isinstance(value, str) and re.fullmatch(WITH_EXPONENT, value) else value


def _run_id(config: Mapping[str, Any], parents: Sequence[Source], anew: bool) -> str:
    """Digest of what determines a run and can be known without its data: settings, threads and the runs before it.

    Args:
        config: Run file.
        parents: Runs before it.
        anew: Whether the run is trained again after its cell was chosen, though another run may be the same.
    """
    kept = {key: value for key, value in config.items() if key not in ("evaluate", "evaluate_every")}
    for part in ("data", "model"):
        if isinstance(kept.get(part), str):
            kept[part] = {"class_path": kept[part]}
    # Paths that the identity of a run leaves out, since digests stand for them, which are not known yet.
    paths = {"source": ((kept.get("data") or {}).get("init_args") or {}).get("source"), **starting_paths(kept)}
    paths = {name: str(path) for name, path in paths.items() if path is not None and not str(path).startswith("$")}
    content = {
        "config": flat(comparable(kept)),
        "threads": config["threads"],
        # The data are other ones then: the official test samples are the validation split.
        "watches_test": "test_as_validation" in config["allow"],
        "parents": [[parent.study, parent.run, parent.epoch] for parent in parents],
        "anew": anew,
        **({"paths": paths} if paths else {}),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:ID_DIGITS]


def runs_folder(studies: Path, study: str) -> Path:
    """Folder that holds the run folders of a study, each named by its id.

    Args:
        studies: Folder of all studies.
        study: Id of the study.
    """
    return studies / study / "runs"
