"""What a study's report shows, gathered once: cells, values as text, curves over seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from visionbench.studies.expand import Plan
from visionbench.studies.results import Row, read_rows
from visionbench.studies.runner import RESULTS_FILE, Store
from visionbench.studies.spec import MINIMIZED, SECONDS, Cell, Stage, Study, is_share
from visionbench.studies.statistics import prediction_interval
from visionbench.studies.tables import CellRuns, Measured, cells_of, measure_study
from visionbench.studies.verdicts import Verdict
from visionbench.text import MINUS, counted

ABSENT = "\N{EN DASH}"
# Largest number of samples for which the interval of a single accuracy is shown: more have one of under 7 points.
SMALL_SET = 1000
# Largest number of characters of a cell's name with the names of its axes.
MAX_NAME = 34
# From here on, numbers are written with a power of ten: the loss of a run that diverges has thirty digits.
LARGE = 1e6
SPLITS = {"train": "training", "val": "validation", "test": "test", "augmented_val": "augmented validation"}
PLACES = {"train_eval": "on training samples in evaluation mode", "before": "on validation samples before training"}
# Samples that a defect puts in the place of the validation samples.
VALIDATED_INSTEAD = {"test_as_validation": "the test samples", "train_as_test": "the training samples"}
METRICS = {"acc": "accuracy", "loss": "loss", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1"}


def with_unfinished(study: Study, plan: Plan, rows: Mapping[str, Row], folder: Path) -> dict[str, Row]:
    """Adds the rows of failed and diverged runs, which do not count as rows of a study: they are tried again.

    Args:
        study: Study.
        plan: Plan of the study.
        rows: Rows by the ids of their runs.
        folder: Folder of the study.
    """
    store = Store(study, folder)
    # A run whose process was killed left a row, but no record in its run folder.
    found = [row for row in read_rows(folder / RESULTS_FILE) if row.id in plan.runs]
    found += [row for run in plan.runs.values() if run.id not in rows and (row := store.read(run)) is not None]
    return {**{row.id: row for row in found if not row.is_finished}, **rows}


@dataclass(frozen=True)
class Group:
    """The cells of a stage in one protocol, or in several that share all trainings.

    Attributes:
        protocols: Names of the protocols.
        stage: Stage.
        cells: Cells with their rows.
    """

    protocols: tuple[str, ...]
    stage: Stage
    cells: list[CellRuns]

    @property
    def name(self) -> str:
        """Names of the protocols as text."""
        return listed(self.protocols)

    @property
    def finished(self) -> list[Row]:
        """All finished rows."""
        return [row for cell in self.cells for row in cell.rows if row.is_finished]


@dataclass
class Contents:
    """A study with its plan and its rows.

    Attributes:
        study: Study.
        plan: Plan.
        rows: Rows by the ids of their runs.
        folder: Folder of the study.
        notes: Sentences about the rows.
    """

    study: Study
    plan: Plan
    rows: Mapping[str, Row]
    folder: Path
    notes: Sequence[str] = ()

    @cached_property
    def measured(self) -> list[Measured]:
        """Everything that was measured, with verdicts."""
        return measure_study(self.plan, self.rows)

    @property
    def judged(self) -> list[tuple[Measured, Verdict]]:
        """The measures with a verdict."""
        return [(entry, entry.verdict) for entry in self.measured if entry.verdict is not None]

    @property
    def is_plain(self) -> bool:
        """Whether the study compares models in one protocol, which nobody named, instead of repeating a table."""
        return not self.study.published and len(self.study.protocols) == 1

    @property
    def present(self) -> list[Row]:
        """The rows of the plan's runs, in their order."""
        return [self.rows[run] for run in self.plan.runs if run in self.rows]

    @property
    def finished(self) -> list[Row]:
        """The finished rows of the plan's runs."""
        return [row for row in self.present if row.is_finished]

    def of_stage(self, stage: str) -> list[Measured]:
        """What was measured in a stage."""
        return [entry for entry in self.measured if entry.stage == stage]

    @cached_property
    def groups(self) -> dict[str, list[Group]]:
        """Cells by stage; protocols that share all trainings are one group."""
        groups: dict[str, list[Group]] = {}
        for stage in self.study.stages.values():
            known: dict[tuple[tuple[Any, ...], ...], Group] = {}
            for protocol in stage.protocols:
                places = self.plan.using(protocol, stage.name)
                key = tuple((*use.cell.items(), use.seed, use.fold, run.id) for use, run in places)
                if key in known:
                    known[key] = Group((*known[key].protocols, protocol), stage, known[key].cells)
                elif key:
                    known[key] = Group((protocol,), stage, cells_of(self.plan, self.rows, protocol, stage))
            groups[stage.name] = list(known.values())
        return groups


def days(rows: Iterable[Row]) -> str:
    """First and last day on which runs ended, as text; empty where none is recorded.

    Args:
        rows: Rows.
    """
    found = sorted({row.date for row in rows} - {""})
    return " to ".join(dict.fromkeys(found[:1] + found[-1:]))


def listed(words: Sequence[str]) -> str:
    """Words as a list in a sentence: a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def capitalized(text: str) -> str:
    """A text with a capital first letter; the others stay as they are."""
    return text[:1].upper() + text[1:]


def cell_name(cell: Cell, stage: str, epoch: int | None = None) -> str:
    """Labels of a cell; the stage where it has none.

    A label that is a number stands after the name of its axis, as long as the name is not too long for a figure.

    Args:
        cell: Cell.
        stage: Stage.
        epoch: Number of epochs after which its value is taken; `None` for the result.
    """
    full = ", ".join(f"{axis} {label}" if is_number(label) else label for axis, label in cell.items())
    words = [full if len(full) <= MAX_NAME else ", ".join(cell.values())] if cell else []
    if epoch is not None:
        words.append("before training" if epoch == 0 else f"epoch {epoch}")
    return ", ".join(words) or stage


def titles_of(cells: Sequence[CellRuns], stage: str, room: int) -> tuple[list[str], str]:
    """Names of cells above small diagrams, and a sentence about them where the names of the axes do not fit.

    Args:
        cells: Cells.
        stage: Stage of the cells.
        room: Number of characters that fit.
    """
    names = [cell_name(cell.cell, stage) for cell in cells]
    axes = [axis for axis in cells[0].cell if len({cell.cell.get(axis) for cell in cells}) > 1]
    if max(map(len, names)) <= room or not axes:
        return names, ""
    joined = {mark: [mark.join(cell.cell.get(axis, ABSENT) for axis in axes) for cell in cells] for mark in (", ", " ")}
    fitting = [titles for titles in joined.values() if max(map(len, titles)) <= room]
    titles = fitting[0] if fitting else joined[" "]
    return titles, f" Titles: {', '.join(axes)}."


def is_number(label: str) -> bool:
    """Whether a label is a finite number."""
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False


def measure_words(measure: str) -> str:
    """A measure in words, such as: validation accuracy."""
    if measure == SECONDS:
        return "seconds of training"
    if measure == MINIMIZED:
        return "minimized loss, penalties included"
    word, _, metric = measure.rpartition(" ")
    split, _, name = metric.partition("/")
    words = METRICS.get(name, name.replace("_", " "))
    words = f"{words} {PLACES[split]}" if split in PLACES else f"{SPLITS.get(split, split)} {words}"
    if word in ("max", "min"):
        return f"{'greatest' if word == 'max' else 'least'} {words} of all epochs"
    return f"{words} of one batch, the last full one" if word == "step" else words


def number(measure: str, value: float, printed: str | None = None) -> str:
    """A value of a measure, with at least as many decimals as the printed one.

    Args:
        measure: Measure.
        value: Value: points for shares.
        printed: Printed value beside it.
    """
    decimals = 2 if is_share(measure) else 1 if measure == SECONDS else 4
    if printed is not None:
        decimals = max(decimals, len(printed.strip().partition(".")[2]))
    is_small = printed is None and decimals == 4 and 0 < abs(value) < 1e-3
    text = f"{value:.3g}" if is_small or abs(value) >= LARGE else f"{value:.{decimals}f}"
    return text.replace("-", MINUS)


def signed(measure: str, value: float, printed: str | None = None) -> str:
    """A difference with its sign."""
    text = number(measure, value, printed)
    is_zero = float(text.replace(MINUS, "-")) == 0
    return text.lstrip(MINUS) if is_zero else text if value < 0 else f"+{text}"


def p_text(p: float | None) -> str:
    """A p-value as text."""
    return ABSENT if p is None else "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def deviation(values: Sequence[float]) -> float | None:
    """Standard deviation with n - 1 in the denominator; `None` for fewer than two values."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def mean_and_deviation(entry: Measured) -> str:
    """Mean ± standard deviation over the seeds; an en dash without values."""
    if entry.mean is None:
        return ABSENT
    return with_deviation(entry.measure, entry.mean, deviation(list(entry.values.values())), entry.published)


def with_deviation(measure: str, mean: float, sd: float | None, printed: str | None = None) -> str:
    """A mean with its standard deviation, both with the same decimals.

    Args:
        measure: Measure.
        mean: Mean: points for shares.
        sd: Standard deviation; `None` for a single value.
        printed: Printed value beside them.
    """
    text = number(measure, mean, printed)
    if sd is None:
        return text
    return f"{text} ± {sd:.3g}" if "e" in text or sd >= LARGE else f"{text} ± {sd:.{len(text.partition('.')[2])}f}"


def interval_of(entry: Measured) -> tuple[float, float] | None:
    """The 95 % prediction interval for one more run; `None` where the spread is not known."""
    if entry.verdict is not None and entry.verdict.interval is not None:
        return entry.verdict.interval
    spread = entry.spread
    if entry.mean is None or spread is None or spread.sd is None or spread.degrees_of_freedom < 1:
        return None
    return prediction_interval(entry.mean, spread.sd, len(entry.values), spread.degrees_of_freedom)


def interval_text(entry: Measured) -> str:
    """The prediction interval as text; an en dash without one."""
    interval = interval_of(entry)
    if interval is None:
        return ABSENT
    if is_share(entry.measure):  # no accuracy lies outside 0 to 100, although the normal distribution does
        interval = max(0.0, interval[0]), min(100.0, interval[1])
    elif entry.measure == SECONDS or entry.measure.endswith(("loss", "/calibration_error")):
        interval = max(0.0, interval[0]), interval[1]  # nor is any time, or any loss of a classifier, below 0
    return " to ".join(number(entry.measure, end, entry.published) for end in interval)


def seeds_text(entry: Measured) -> str:
    """Number of seeds that have finished: 5 seeds, or 3 of 5 seeds."""
    if len(entry.values) == entry.asked:
        return counted(entry.asked, "seed")
    return f"{len(entry.values)} of {counted(entry.asked, 'seed')}"


def seed_curves(cell: CellRuns, metric: str) -> np.ndarray | None:
    """Curve of each seed whose folds are all finished, shape (seeds, epochs); the mean over folds.

    Args:
        cell: Cell.
        metric: Metric, such as `val/acc`.

    Returns:
        The curves, not a number where a run has no value; `None` without any value.
    """
    curves = []
    for seed, rows in cell.seeds.items():
        if len(rows) < cell.planned[seed] or not all(row.is_finished for row in rows):
            continue
        folds = [_curve(row, metric) for row in rows]
        length = max(map(len, folds))
        if length:
            padded = np.full((len(folds), length), np.nan)
            for place, fold in enumerate(folds):
                padded[place, : len(fold)] = fold
            weights = np.array([row.counts.get(metric.partition("/")[0], 0) or 1 for row in rows], dtype=float)
            curves.append(np.average(padded, axis=0, weights=weights))
    if not curves or all(np.isnan(curve).all() for curve in curves):
        return None
    length = max(map(len, curves))
    return np.stack([np.pad(curve, (0, length - len(curve)), constant_values=np.nan) for curve in curves])


def validated_instead(findings: Iterable[str]) -> str:
    """Samples that runs with some findings validate on instead of validation samples, with the finding; or empty."""
    return next((f"{VALIDATED_INSTEAD[word]} ({word})" for word in findings if word in VALIDATED_INSTEAD), "")


def finished_seeds(cell: CellRuns) -> int:
    """Number of seeds of a cell whose folds are all finished."""
    return len(cell.values(SECONDS))


def _curve(row: Row, metric: str) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in row.curves.get(metric, ())], dtype=float)


def untrained(cell: CellRuns, metric: str) -> np.ndarray | None:
    """Value of a validation metric before training, for each finished row; `None` where it was not measured."""
    if not metric.startswith("val/"):
        return None
    found = [row.value(metric, 0) for row in cell.rows]
    values = [value for value in found if value is not None]
    return np.array(values) if values else None


def summed_confusion(cell: CellRuns, split: str) -> np.ndarray | None:
    """Confusion matrix of a split over all finished rows of a cell; `None` where no row has one."""
    matrices = [np.array(row.confusion[split]) for row in cell.rows if row.is_finished and split in row.confusion]
    return np.sum(matrices, axis=0) if matrices else None


def main_measure(contents: Contents, stage: Stage) -> str | None:
    """The measure that tells which cell of a stage is best; `None` where there are no values."""
    judged = [name for name in contents.study.judged.get(stage.name, ()) if is_share(name)]
    chosen = [other.by for other in contents.study.stages.values() if other.best_of == stage.name]
    usual = [*judged, *chosen, "test/acc" if stage.test else stage.by, stage.by, "test/acc"]
    cells = [cell for group in contents.groups[stage.name] for cell in group.cells]
    return next((measure for measure in usual if any(cell.values(measure) for cell in cells)), None)
