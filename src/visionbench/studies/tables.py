"""What was measured beside what was published: one entry for each cell, measure and protocol, with its verdict."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from visionbench.studies.expand import Plan, Use, pooled
from visionbench.studies.results import Row
from visionbench.studies.spec import NOT_GIVEN, SECONDS, TEST_AS_VALIDATION, Cell, PublishedRow, Stage, Study, is_share
from visionbench.studies.statistics import Spread, pooled_spread
from visionbench.studies.verdicts import Verdict, judge

POINTS = 100.0


@dataclass(frozen=True)
class Measured:
    """A measure of a cell over all seeds.

    Attributes:
        protocol: Protocol.
        stage: Stage.
        cell: Cell; empty where each seed chose its own.
        epoch: Number of epochs after which the value is taken, 0 before training; `None` for the result.
        measure: Measure.
        values: Value by seed: points for shares, the unit of the measure for others. Folds are pooled.
        rows: Rows that the values come from.
        asked: Number of seeds that the study asks for.
        unfinished: Number of runs that failed or diverged.
        items: Number of samples that a value is measured on, over all folds; `None` where it is not known.
        is_cut: Whether these samples are cut at random.
        published: Printed value of this cell, as text, whatever its protocol; `None` without one.
        compared: Whether the published value is of this protocol.
        judged: Whether the study asks for a verdict.
        spread: Spread of the values of one more run; `None` where nothing tells.
        verdict: Verdict; `None` for a value that is shown only.
    """

    protocol: str
    stage: str
    cell: Cell
    epoch: int | None
    measure: str
    values: dict[int, float]
    rows: tuple[Row, ...]
    asked: int
    unfinished: int = 0
    items: int | None = None
    is_cut: bool = False
    published: str | None = None
    compared: bool = False
    judged: bool = False
    spread: Spread | None = None
    verdict: Verdict | None = None

    @property
    def mean(self) -> float | None:
        """Mean over the seeds; `None` without values."""
        # fsum, since from Python 3.12 on, sum adds up otherwise than before.
        return math.fsum(self.values.values()) / len(self.values) if self.values else None

    @property
    def label(self) -> str:
        """Text that names the cell, and the epoch where there is one."""
        words = [", ".join(self.cell.values()) or self.stage]
        return " ".join([*words, *([f"epoch {self.epoch}"] if self.epoch is not None else [])])


@dataclass
class CellRuns:
    """The runs of one cell in one stage and protocol.

    Attributes:
        protocol: Protocol.
        stage: Stage.
        cell: Cell; empty where each seed chose its own.
        seeds: Rows of the folds by seed, as far as they are there.
        planned: Number of planned runs by seed.
        cut: Splits whose samples are cut at random, so that another study has others; none with folds, which measure on
            each sample once.
    """

    protocol: str
    stage: str
    cell: Cell
    seeds: dict[int, list[Row]] = field(default_factory=dict)
    planned: dict[int, int] = field(default_factory=dict)
    cut: frozenset[str] = frozenset()

    @property
    def rows(self) -> list[Row]:
        """All rows."""
        return [row for rows in self.seeds.values() for row in rows]

    @property
    def finished(self) -> dict[int, list[Row]]:
        """Rows of the seeds whose folds are all finished."""
        return {
            seed: rows
            for seed, rows in self.seeds.items()
            if len(rows) >= self.planned[seed] and all(row.is_finished for row in rows)
        }

    def values(self, measure: str, epoch: int | None = None) -> dict[int, float]:
        """Gives the value of each seed whose folds are all finished: points for shares."""
        values = {}
        for seed, rows in self.finished.items():
            if (value := pooled(rows, measure, epoch)) is not None:
                values[seed] = value * POINTS if is_share(measure) else value
        return values

    def samples(self, split: str) -> int | None:
        """Gives the number of samples of a split, over all folds of a seed; `None` where it is not known."""
        rows = next(iter(self.finished.values()), [])
        return sum(row.counts.get(split, 0) for row in rows) or None


def distinct(cells: Sequence[CellRuns], measure: str) -> list[CellRuns]:
    """The cells that count in a comparison: of those with the same trainings, the first.

    Two trials of a search may be the same runs, and an option without an effect gives copies of runs. Counted as
    independent, copies would make intervals narrower and p-values smaller.

    Args:
        cells: Cells of one stage and protocol.
        measure: Measure that is compared; cells in which it differs are not copies.
    """
    known: dict[tuple[Any, ...], CellRuns] = {}
    for cell in cells:
        key = _trainings(cell.rows, cell.values(measure)) if cell.rows else (str(cell.cell),)
        known.setdefault(key, cell)
    return list(known.values())


def _trainings(rows: Sequence[Row], values: Mapping[int, float]) -> tuple[Any, ...]:
    """What two cells have in common whose runs end with the same weights and the same values."""
    return tuple(row.weights_digest or row.id for row in rows), tuple(values.items())


def cells_of(plan: Plan, rows: Mapping[str, Row], protocol: str, stage: Stage) -> list[CellRuns]:
    """Gives the cells of a stage in a protocol with their rows.

    Args:
        plan: Plan of the study.
        rows: Rows by the ids of their runs.
        protocol: Protocol.
        stage: Stage.
    """
    cells: dict[tuple[tuple[str, str], ...], CellRuns] = {}
    first = stage  # of those that resume each other
    while first.continues is not None:
        first = plan.study.stages[first.continues]
    is_chosen = first.name in plan.study.protocols[protocol].chosen
    for use, run in plan.using(protocol, stage.name):
        cell = {} if first.best_of is not None and first.over == "each seed" and not is_chosen else _cell(use)
        runs = cells.setdefault(tuple(cell.items()), CellRuns(protocol, stage.name, cell, cut=_cut(run.config, stage)))
        runs.planned[use.seed] = runs.planned.get(use.seed, 0) + 1
        if run.id in rows:
            runs.seeds.setdefault(use.seed, []).append(rows[run.id])
    return list(cells.values())


def measure_study(plan: Plan, rows: Mapping[str, Row]) -> list[Measured]:
    """Gives everything that the study measured, in the order of stages, protocols, cells and columns.

    Args:
        plan: Plan of the study.
        rows: Rows by the ids of their runs.
    """
    study, measured = plan.study, []
    for stage in study.stages.values():
        for protocol in stage.protocols:
            cells = cells_of(plan, rows, protocol, stage)
            for measure, epoch in _columns(study, stage):
                found = [
                    entry for cell in cells if (entry := _measured(study, stage, cell, measure, epoch)) is not None
                ]
                measured += list(_with_verdicts(study, found))
        measured += _without_runs(study, stage, measured)
    return measured


def _without_runs(study: Study, stage: Stage, measured: Sequence[Measured]) -> Iterator[Measured]:
    """The judged values of a stage that nothing was measured beside, such as those of a cell that was not chosen."""
    known = [entry for entry in measured if entry.judged and entry.stage == stage.name]
    for row in study.published.get(stage.name, ()):
        for measure in study.judged.get(stage.name, ()):
            published = row.values.get(measure, NOT_GIVEN)
            if published == NOT_GIVEN or row.epoch == 0:
                continue
            if any(
                (entry.measure, entry.epoch) == (measure, row.epoch)
                and all(entry.cell.get(axis) == label for axis, label in row.cell.items())
                for entry in known
            ):
                continue
            entry = Measured(
                *(study.published_protocol, stage.name, dict(row.cell), row.epoch, measure, {}, ()),
                asked=len(stage.seeds_of(dict(row.cell))),
                published=published,
                compared=True,
                judged=True,
            )
            verdict = judge(published, [], None, study.tolerance_of(measure), asked_seeds=entry.asked)
            yield replace(entry, verdict=replace(verdict, sentence="incomplete: no run of this cell is planned by now"))


def measures_of(study: Study, stage: Stage) -> list[str]:
    """Measures that are shown of a stage: those that are published, or else those that it has anyway."""
    columns = [name for row in study.published.get(stage.name, ())[:1] for name in row.values]
    # Beside a measure of augmented validation samples stands that of the samples themselves.
    plain = [name.removeprefix("augmented_") for name in columns if name.startswith("augmented_val/")]
    columns += [name for name in plain if name not in columns]
    if stage.test and "test/acc" not in columns:
        columns.append("test/acc")
    if not columns:
        chosen_by = stage.search.by if stage.search is not None else stage.by
        columns = [chosen_by] if not stage.test else ["test/acc"]
    return columns


def _columns(study: Study, stage: Stage) -> Iterator[tuple[str, int | None]]:
    epochs = list(dict.fromkeys(row.epoch for row in study.published.get(stage.name, ()))) or [None]
    for epoch in epochs:
        for measure in measures_of(study, stage):
            if epoch is None or measure.partition("/")[0] != "test":  # a test is of the result alone
                yield measure, epoch
    if epochs != [None] and stage.test:
        yield "test/acc", None


def _measured(study: Study, stage: Stage, cell: CellRuns, measure: str, epoch: int | None) -> Measured | None:
    published = _published(study.published.get(stage.name, ()), cell.cell, measure, epoch)
    values = cell.values(measure, epoch)
    if not values and published is None:
        return None
    compared = published is not None and cell.protocol == study.published_protocol
    split = measure.rpartition(" ")[2].partition("/")[0]
    items = cell.samples(split)
    return Measured(
        protocol=cell.protocol,
        stage=stage.name,
        cell=cell.cell,
        epoch=epoch,
        measure=measure,
        values=values,
        rows=tuple(cell.rows),
        asked=len(stage.seeds_of(cell.cell)),
        unfinished=sum(not row.is_finished for row in cell.rows),
        items=items if is_share(measure) else None,
        is_cut=split.removeprefix("augmented_") in cell.cut,
        published=published,
        compared=compared,
        judged=compared and measure in study.judged.get(stage.name, ()) and epoch != 0,
    )


def _published(rows: Sequence[PublishedRow], cell: Cell, measure: str, epoch: int | None) -> str | None:
    for row in rows:
        fits = all(cell.get(axis) == label for axis, label in row.cell.items())
        if fits and row.epoch == epoch and row.values.get(measure, NOT_GIVEN) != NOT_GIVEN:
            return row.values[measure]
    return None


def _with_verdicts(study: Study, entries: Sequence[Measured]) -> Iterator[Measured]:
    """Judges one column of a stage in a protocol, over whose cells the spread is pooled."""
    # Of cells with the same trainings, the values count once: see `distinct`.
    first: dict[tuple[Any, ...], int] = {}
    places = {
        place: first.setdefault(_trainings(entry.rows, entry.values), place) for place, entry in enumerate(entries)
    }
    groups = {place: list(entries[place].values.values()) for place in places.values() if entries[place].values}
    spreads = pooled_spread(groups) if groups else {}
    missing = [entry for entry in entries if len(entry.values) < entry.asked]
    for place, entry in enumerate(entries):
        spread = spreads.get(places[place])
        verdict = None
        if entry.judged and entry.published is not None:
            protocol = study.protocols[entry.protocol]
            defect = protocol.changes.get(entry.measure)
            verdict = judge(
                entry.published,
                list(entry.values.values()),
                spread,
                study.tolerance_of(entry.measure),
                asked_seeds=entry.asked,
                items=entry.items,
                is_cut=entry.is_cut,
                unit="points" if is_share(entry.measure) else ("s" if entry.measure == SECONDS else ""),
                defect=defect,
                defect_sentence=protocol.defects.get(defect) if defect is not None else None,
            )
            if missing and entry.asked == 1 and verdict.kind in ("reproduced", "not reproduced", "inconclusive"):
                # Its spread is that of others, which may still change.
                text = f"incomplete: its spread comes from cells of which runs are missing, such as {missing[0].label}"
                verdict = replace(verdict, kind="incomplete", sentence=text)
            if not entry.values and sum(row.is_finished for row in entry.rows) >= entry.asked:
                after = f" after epoch {entry.epoch}" if entry.epoch is not None else ""
                verdict = replace(verdict, sentence=f"incomplete: no run has {entry.measure}{after}")
        yield replace(entry, spread=spread, verdict=verdict)


def _cut(config: Mapping[str, Any], stage: Stage) -> frozenset[str]:
    """The splits of a run whose samples are cut at random, as far as its configuration tells."""
    if stage.folds is not None:
        return frozenset()
    data = config.get("data")
    arguments = (data.get("init_args") if isinstance(data, Mapping) else None) or {}
    is_cut = {"val": TEST_AS_VALIDATION not in config["allow"], "test": bool(arguments.get("test_size"))}
    return frozenset(split for split, cut in is_cut.items() if cut)


def _cell(use: Use) -> Cell:
    return dict(use.cell)
