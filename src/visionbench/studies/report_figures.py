"""Figures of a study's page that are drawn from its rows: curves, effects, confusion matrices."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from visionbench.report import page
from visionbench.report.page import Html, tag
from visionbench.report.run_contents import Picture, picture_of
from visionbench.runs.folder import RunFolder
from visionbench.studies.figure_words import CONFUSION, LINES, LOSS_AGAINST_EXAMPLES, LOSS_AND_ACCURACIES
from visionbench.studies.report_contents import (
    ABSENT,
    SPLITS,
    Contents,
    Group,
    capitalized,
    cell_name,
    finished_seeds,
    is_number,
    main_measure,
    measure_words,
    number,
    p_text,
    seed_curves,
    summed_confusion,
    titles_of,
    untrained,
    validated_instead,
)
from visionbench.studies.results import Row
from visionbench.studies.spec import SECONDS, Stage, is_share
from visionbench.studies.statistics import analysis_of_variance, main_effects
from visionbench.studies.tables import POINTS, CellRuns, distinct
from visionbench.text import counted

# Modules of figures are imported where they are used, since matplotlib comes with them.
if TYPE_CHECKING:
    from visionbench.figures.figure import Figure
    from visionbench.figures.studies import Effects, Panel, Series

# Largest number of small diagrams in one figure.
MAX_PANELS, MAX_MATRICES = 120, 36
# Largest number of cells for which loss and accuracy stand side by side in one figure.
MAX_PAIRS = 2
# Largest number of cells that are drawn as lines in one diagram, and of cells that have a diagram of their own.
MAX_LINES = 10
MAX_STEPS = 400
UNITS = {"loss": "loss", "acc": "accuracy, %"}
PROTOCOL_COLORS = ("#1f77b4", "#d95f02", "#2ca02c", "#9467bd", "#8c564b")


# Main effects


def effects(contents: Contents) -> Iterator[Html]:
    """Draws the main effects of each grid with two or more axes, on the main measure and on time.

    Args:
        contents: Contents of the report.
    """
    for stage, groups, axes, measure in _crossed(contents):
        found: dict[str, Effects] = {}
        for name in (measure, SECONDS):
            by_protocol = {group.name: rows for group in groups if (rows := _runs(group, axes, name))}
            found[_unit(name)] = {protocol: main_effects(rows) for protocol, rows in by_protocol.items()}
        if any(found.values()):
            from visionbench.figures.studies import draw_effects

            colors = {group.name: PROTOCOL_COLORS[n % len(PROTOCOL_COLORS)] for n, group in enumerate(groups)}
            figure = draw_effects(f"{stage.name}-main-effects", found, colors)
            cells = {tuple(cell.cell[axis] for axis in axes) for group in groups for cell in group.cells}
            every = _all_combinations({axis: {cell[n] for cell in cells} for n, axis in enumerate(axes)}, axes)
            part = f" {len(cells)} of {every} combinations; axes are taken to add up." if len(cells) < every else ""
            description = (
                "Mean of all runs with each label, every label of the other axes weighted alike; bars: 95 % intervals "
                f"of the means.{part}"
            )
            yield _card(figure, f"Main effects, {stage.name}", description)


def tests_of_axes(contents: Contents) -> Iterator[Html]:
    """Makes a table of F-tests for each grid with two or more axes: of each axis, and of the interactions of two.

    Args:
        contents: Contents of the report.
    """
    for stage, groups, axes, measure in _crossed(contents):
        rows, residuals = [], []
        for group in groups:
            runs = _runs(group, axes, measure)
            labels = main_effects(runs)
            sources, degrees = analysis_of_variance(runs)
            residuals += [f"{degrees} ({group.name})" if len(groups) > 1 else str(degrees)] if sources else []
            for source in sources:
                difference = ABSENT
                if len(source.axes) == 1:
                    means = {label: effect.mean for label, effect in labels[source.axes[0]].items()}
                    low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
                    higher = f" ({high} higher than {low})" * (means[high] > means[low])
                    difference = f"{number(measure, means[high] - means[low])}{higher}"
                rows.append(
                    (
                        " x ".join(source.axes),
                        *((group.name,) if len(groups) > 1 else ()),
                        difference,
                        str(source.degrees),
                        f"{source.f:.2f}",
                        p_text(source.p_value),
                    )
                )
        if not rows:
            continue
        protocol = ("protocol",) if len(groups) > 1 else ()
        head = ("axis", *protocol, "largest difference between two labels", "degrees of freedom", "F", "p")
        words = (
            f"Analysis of variance of {measure_words(measure)} (type II); degrees of freedom of the residual: "
            f"{', '.join(residuals)}. P-values after Holm's correction for the rows of a protocol."
        )
        if any(row[0] not in axes for row in rows):
            words += " A small p-value of an interaction of two axes says that the effect of one depends on the other."
        yield tag("h3", f"Axes and interactions, {stage.name}")
        yield tag("p", words, class_="same")
        yield page.table(head, rows, range(len(head) - 3, len(head)))


def _crossed(contents: Contents) -> Iterator[tuple[Stage, list[Group], list[str], str]]:
    """Each grid with two or more axes: its stage, its groups with finished runs, the axes and the main measure."""
    for stage in contents.study.stages.values():
        measure = main_measure(contents, stage)
        axes = _crossed_axes(contents.groups[stage.name], measure) if measure is not None else []
        if measure is not None and len(axes) > 1:
            yield stage, [group for group in contents.groups[stage.name] if group.finished], axes, measure


def _crossed_axes(groups: Sequence[Group], measure: str) -> list[str]:
    """Axes with two or more labels among the cells that count.

    There are none where these cells are neither all combinations of them nor a balanced part. In a balanced part, each
    label of an axis stands in equally many cells, and each two labels of two axes stand in one cell together. In any
    other, means over the other axes would stand for combinations that the study does not have.
    """
    cells = [cell.cell for group in groups for cell in distinct(group.cells, measure)]
    if not cells or any(cell.keys() != cells[0].keys() for cell in cells):
        return []
    labels = {axis: {cell[axis] for cell in cells} for axis in cells[0]}
    axes = [axis for axis in labels if len(labels[axis]) > 1]
    combinations = {tuple(cell[axis] for axis in axes) for cell in cells}
    if len(combinations) == _all_combinations(labels, axes):
        return axes
    columns = list(zip(*combinations, strict=True))
    equal = all(len(set(Counter(column).values())) == 1 for column in columns)
    pairs = itertools.combinations(range(len(axes)), 2)
    crossed = all(
        len(set(zip(columns[a], columns[b], strict=True))) == len(labels[axes[a]]) * len(labels[axes[b]])
        for a, b in pairs
    )
    return axes if equal and crossed else []


def _all_combinations(labels: Mapping[str, Any], axes: Sequence[str]) -> int:
    return math.prod(len(labels[axis]) for axis in axes)


def _runs(group: Group, axes: Sequence[str], measure: str) -> list[tuple[Mapping[str, str], float]]:
    return [
        ({axis: cell.cell[axis] for axis in axes}, value)
        for cell in distinct(group.cells, measure)
        for seed, value in cell.values(measure).items()
        if seed in group.stage.seeds  # those that all cells have, so that each cell counts alike
    ]


# Curves


def curves(contents: Contents) -> Iterator[Html]:
    """Draws the learning curves of every cell, and what else of their course the study file asks for.

    Args:
        contents: Contents of the report.
    """
    for stage in contents.study.stages.values():
        kinds = {request.kind for request in contents.study.figures.get(stage.name, ())}
        for group in contents.groups[stage.name]:
            if not group.finished:
                continue
            parts = list(_lines(contents, group, asked=LINES in kinds))
            if not _is_continued(contents, stage):  # the curves of the later stage begin with those of this one
                parts += _learning_curves(group)
            if LOSS_AND_ACCURACIES in kinds:
                parts += _loss_and_accuracies(group)
            if LOSS_AGAINST_EXAMPLES in kinds:
                parts += _loss_against_examples(contents, group)
            if parts:
                yield tag("h3", f"{stage.name}, {group.name}")
                yield page.figures(parts)


def _is_continued(contents: Contents, stage: Stage) -> bool:
    followers = [other.name for other in contents.study.stages.values() if other.continues == stage.name]
    return any(group.finished for name in followers for group in contents.groups[name])


def _line(cell: CellRuns, metric: str, label: str, color: Any, style: Literal["-", "--"] = "-") -> "Series | None":
    from visionbench.figures.studies import Series

    values = seed_curves(cell, metric)
    if values is None:
        return None
    places = np.arange(1, values.shape[1] + 1, dtype=float)
    return Series(label, places, values * (POINTS if is_share(metric) else 1.0), color, style)


def _course(cell: CellRuns, metric: str) -> list["Series"]:
    """Lines of a metric in all splits that have it."""
    from visionbench.figures.curves import COLORS, CURVES, LABELS

    lines = [_line(cell, f"{split}/{metric}", LABELS[split], COLORS[split]) for split in CURVES]
    return [line for line in lines if line is not None]


def _over_seeds(group: Group, cells: Sequence[CellRuns]) -> str:
    """Sentence that says what line and band are, and which samples are validated where a defect chose others."""
    counts = {finished_seeds(cell) for cell in cells} - {0}
    fewest, most = min(counts), max(counts)
    if most == 1:
        text = "One seed"
    else:
        seeds = counted(most, "seed") if fewest == most else f"{fewest} to {counted(most, 'seed')}"
        text = f"Line: mean over {seeds}; band: from the lowest to the highest seed"
    if group.stage.folds is not None:
        text += f"; the {group.stage.folds} folds of a seed are averaged"
    if any(len({row.epochs for row in cell.rows if row.is_finished}) > 1 for cell in cells):
        text += "; after the last epoch of a seed, of the seeds that are left"
    if samples := _instead(group):
        text += f"; validation is on {samples}"
    return f"{text}."


def _instead(group: Group) -> str:
    """Samples that all runs validate on instead of validation samples; empty where a run has these."""
    found = {validated_instead(row.findings) for row in group.finished}
    return found.pop() if len(found) == 1 else ""


def _learning_curves(group: Group) -> Iterator[Html]:
    from visionbench.figures.studies import Panel, draw_panels, title_room

    cells = [cell for cell in group.cells if _course(cell, "loss") or _course(cell, "acc")]
    if not cells or max(row.epochs for row in group.finished) < 2:
        return
    name = _figure_name(group, "curves")
    if len(cells) <= MAX_PAIRS:
        panels = [
            Panel(f"{cell_name(cell.cell, group.stage.name)}: {unit.partition(',')[0]}", _course(cell, metric), unit)
            for cell in cells
            for metric, unit in UNITS.items()
        ]
        figure = draw_panels(name, panels, 2, width=8.6, height=2.4)
        description = f"{_drawn('loss and accuracy', panels)} after each epoch. {_over_seeds(group, cells)}"
        yield _card(figure, "Learning curves", description)
        return
    shown = cells[:MAX_PANELS]
    which = f" The first {len(shown)} of {len(cells)} cells." if len(cells) > len(shown) else ""
    columns = _columns(len(shown))
    titles, words = titles_of(shown, group.stage.name, title_room(9.0, columns))
    for metric, unit in UNITS.items():
        panels = [Panel(title, _course(cell, metric), unit) for title, cell in zip(titles, shown, strict=True)]
        figure = draw_panels(f"{name}-{metric}", panels, columns, height=1.5 if columns < 6 else 1.0)
        word = unit.partition(",")[0]
        description = f"{_drawn(word, panels)} after each epoch. {_over_seeds(group, shown)}{which}{words}"
        yield _card(figure, f"{word.capitalize()} of every cell", description)


def _drawn(what: str, panels: Sequence["Panel"]) -> str:
    """What is drawn, with the split where there is only one and hence no legend."""
    labels = {line.label for panel in panels for line in panel.series}
    return capitalized(f"{labels.pop()} {what}" if len(labels) == 1 else what)


def _columns(panels: int) -> int:
    return 3 if panels in (3, 5, 6, 9) else 4 if panels <= 32 else 6


def _lines(contents: Contents, group: Group, asked: bool) -> Iterator[Html]:
    """Draws one line a cell: always where the only axis has numbers, for other cells where they are asked for."""
    cells = [cell for cell in group.cells if finished_seeds(cell)]
    axes = list(cells[0].cell) if cells else []
    is_numeric = len(axes) == 1 and all(is_number(cell.cell.get(axes[0], "")) for cell in cells)
    metric = _curve_metric(contents, group)
    if len(cells) < 2 or metric is None or not (asked or is_numeric):
        return
    if len(cells) > MAX_LINES:
        if asked:
            yield tag("p", f"{len(cells)} cells are too many for lines in one diagram, which holds {MAX_LINES}.")
        return
    from visionbench.figures.studies import Panel, draw_panels, gradient

    colors = gradient(len(cells), ordered=is_numeric)
    named = [(cell, cell_name(cell.cell, group.stage.name), color) for cell, color in zip(cells, colors, strict=True)]
    series = [line for cell, name, color in named if (line := _line(cell, metric, name, color)) is not None]
    if series and max(len(line.places) for line in series) > 1:
        marks = _published_marks(contents, group, metric, {tuple(cell.cell.items()): color for cell, _, color in named})
        panel = Panel("", series, _unit(metric), marks)
        figure = draw_panels(_figure_name(group, "lines"), [panel], 1, width=6.0, height=3.0)
        crosses = " Crosses: published values." if marks else ""
        description = f"{capitalized(measure_words(metric))} after each epoch. {_over_seeds(group, cells)}{crosses}"
        yield _card(figure, "One line for each cell", description, alone=False)
    measure = main_measure(contents, group.stage)
    if is_numeric and measure is not None:
        yield from _over_axis(group, axes[0], cells, measure)


def _published_marks(
    contents: Contents, group: Group, metric: str, colors: Mapping[tuple[tuple[str, str], ...], Any]
) -> list[tuple[float, float, Any]]:
    """Epoch, value and color of the values that are published for an epoch."""
    if contents.study.published_protocol not in group.protocols:
        return []
    rows = [row for row in contents.study.published.get(group.stage.name, ()) if row.epoch is not None]
    return [
        (float(row.epoch or 0), float(text), colors.get(tuple(row.cell.items()), "black"))
        for row in rows
        if (text := row.values.get(metric, "-")) != "-"
    ]


def _over_axis(group: Group, axis: str, cells: Sequence[CellRuns], measure: str) -> Iterator[Html]:
    """Draws the result against an axis whose labels are numbers."""
    from visionbench.figures.studies import Panel, Series, draw_panels

    by_cell = [list(cell.values(measure).values()) for cell in cells]
    values = np.full((max(map(len, by_cell)), len(cells)), np.nan)
    for place, found in enumerate(by_cell):
        values[: len(found), place] = found
    if not len(values):
        return
    numbers = np.array([float(cell.cell[axis]) for cell in cells])
    order = np.argsort(numbers)
    series = Series(measure, numbers[order], values[:, order], PROTOCOL_COLORS[0])
    panel = Panel("", [series], _unit(measure), across=axis)
    figure = draw_panels(_figure_name(group, f"over-{axis}"), [panel], 1, width=4.2, height=3.0)
    description = f"{capitalized(measure_words(measure))} of the result. {_over_seeds(group, cells)}"
    yield _card(figure, f"Result against {axis}", description, alone=False)


def _curve_metric(contents: Contents, group: Group) -> str | None:
    """The share whose curve is drawn: one that is published for an epoch, or else the validation accuracy."""
    published = [
        measure
        for row in contents.study.published.get(group.stage.name, ())
        for measure in row.values
        if row.epoch is not None and is_share(measure)
    ]
    usual = [*published, group.stage.by, "val/acc", "train/acc"]
    return next((m for m in usual if any(seed_curves(cell, m) is not None for cell in group.cells)), None)


def _loss_and_accuracies(group: Group) -> Iterator[Html]:
    from visionbench.figures.curves import COLORS, LABELS
    from visionbench.figures.studies import draw_loss_and_accuracies

    styles: dict[str, Literal["-", "--"]] = {"loss": "--", "acc": "-"}
    for cell in _first_cells(group):
        lines: dict[str, list[Series]] = {"loss": [], "acc": []}
        for metric, style in styles.items():
            for split in ("train", "val"):
                word = f"{LABELS[split]} {'accuracy' if metric == 'acc' else 'loss'}"
                line = _line(cell, f"{split}/{metric}", word, COLORS[split], style)
                lines[metric] += [line] if line is not None else []
        if lines["loss"] or lines["acc"]:
            name = cell_name(cell.cell, group.stage.name)
            figure = draw_loss_and_accuracies(
                _figure_name(group, "loss-and-accuracies"), name, lines["loss"], lines["acc"]
            )
            description = f"Dashed: loss, left scale; solid: accuracy, right scale. {_over_seeds(group, [cell])}"
            yield _card(figure, "Loss and both accuracies", description, alone=False)
    yield from _note_on_others(group)


def _loss_against_examples(contents: Contents, group: Group) -> Iterator[Html]:
    """Draws the losses against the number of training samples seen."""
    from visionbench.figures.studies import Panel, draw_panels

    for cell in _first_cells(group):
        finished = [row for row in cell.rows if row.is_finished]
        samples = next((row.counts.get("train", 0) for row in finished), 0)
        after_epochs = _losses_of_epochs(cell, samples)
        if not samples or not after_epochs:
            continue
        steps = _step_losses(contents, finished, samples)
        panel = Panel(
            cell_name(cell.cell, group.stage.name), [*steps, *after_epochs], "loss", across="training samples seen"
        )
        figure = draw_panels(_figure_name(group, "loss-against-samples"), [panel], 1, width=6.0, height=3.0)
        absent = "" if steps else " The loss of each batch is drawn where the run folders are."
        yield _card(figure, "Loss against samples seen", f"{_over_seeds(group, [cell])}{absent}", alone=False)
    yield from _note_on_others(group)


def _losses_of_epochs(cell: CellRuns, samples: int) -> list["Series"]:
    from visionbench.figures.curves import COLORS, LABELS
    from visionbench.figures.studies import Series

    series = []
    for split in ("train", "val"):
        line = _line(cell, f"{split}/loss", LABELS[split], COLORS[split])
        if line is not None:
            places, values = line.places * samples, line.values
            before = untrained(cell, f"{split}/loss")
            if before is not None and len(before) == len(values):
                places, values = np.append(0.0, places), np.column_stack([before, values])
            series.append(Series(line.label, places, values, line.color))
    return series


def _step_losses(contents: Contents, rows: Sequence[Row], samples: int) -> list["Series"]:
    """Losses of the batches of the first run whose folder is here, as means of several where there are many."""
    from visionbench.figures.studies import Series

    for row in rows:
        losses = RunFolder(contents.folder / "runs" / row.id).step_losses
        if len(losses):
            size = max(1, len(losses) // MAX_STEPS)
            means = losses[: len(losses) // size * size].reshape(-1, size).astype(float).mean(axis=1)
            seen = (np.arange(len(means)) + 1) * size * row.epochs * samples / len(losses)
            name = f"batches of seed {row.seed}" + (f", means of {size}" if size > 1 else "")
            return [Series(name, seen, means[np.newaxis], "#b8c7d9")]
    return []


def _first_cells(group: Group) -> list[CellRuns]:
    return [cell for cell in group.cells if finished_seeds(cell)][:MAX_LINES]


def _note_on_others(group: Group) -> Iterator[Html]:
    count = sum(finished_seeds(cell) > 0 for cell in group.cells)
    if count > MAX_LINES:
        yield tag("p", f"Such a figure is drawn of the first {MAX_LINES} of {count} cells.")


# Confusion matrices


def matrices(contents: Contents) -> Iterator[Html]:
    """Draws the confusion matrices that the study file asks for, and those of tested stages.

    Args:
        contents: Contents of the report.
    """
    for stage in contents.study.stages.values():
        splits = [r.split for r in contents.study.figures.get(stage.name, ()) if r.kind == CONFUSION]
        if stage.test and "test" not in splits:
            splits.append("test")
        splits.sort(key=lambda split: split != "train_eval")  # training and test side by side
        cards = [card for group in contents.groups[stage.name] if splits for card in _matrices(group, splits)]
        if cards:
            yield tag("h3", stage.name)
            yield page.figures(cards)


def _matrices(group: Group, splits: Sequence[str]) -> Iterator[Html]:
    by_classes: dict[tuple[str, ...], list[tuple[CellRuns, str, np.ndarray]]] = {}
    for cell in group.cells:
        for split in splits:
            if (counts := summed_confusion(cell, split)) is not None:
                classes = next(row.classes for row in cell.rows if row.is_finished)
                by_classes.setdefault(classes, []).append((cell, split, counts))
    for classes, shown in by_classes.items():
        yield _matrices_card(group, shown, classes)


def _matrices_card(group: Group, shown: list[tuple[CellRuns, str, np.ndarray]], classes: tuple[str, ...]) -> Html:
    from visionbench.figures.study_matrices import DENSITY, draw_matrices, matrix_room

    which = f" The first {MAX_MATRICES} of {len(shown)}." if len(shown) > MAX_MATRICES else ""
    shown = shown[:MAX_MATRICES]
    splits = [split for _, split, _ in shown]
    several = len(set(splits)) > 1
    columns = min(6, 2 * max(1, round(math.sqrt(len(shown)) / 2))) if several else 2 if len(shown) == 4 else 3
    ends = [f": {SPLITS.get(split, 'training')}" if several else "" for split in splits]
    room = matrix_room(classes, min(columns, len(shown))) - max(map(len, ends))
    titles, words = titles_of([cell for cell, *_ in shown], group.stage.name, room)
    drawn = [(f"{title}{end}", counts) for title, end, (*_, counts) in zip(titles, ends, shown, strict=True)]
    figure = draw_matrices(_figure_name(group, CONFUSION), drawn, classes, columns)
    return page.figure(
        _hidpi(figure, DENSITY),
        f"Confusion matrices, {group.name}",
        f"{_sample_words(group, splits)}: percent of each true class (row) by predicted class (column), summed over "
        f"all finished runs. Shares below 2.5 % are shown by their color, without a number.{which}{words}",
        alone=len(shown) > 1,
    )


def _sample_words(group: Group, splits: Sequence[str]) -> str:
    names = {"train_eval": "training samples in evaluation mode", "val": "validation samples", "test": "test samples"}
    if samples := _instead(group):
        names["val"] += f", which are {samples}"
    return capitalized(" and ".join(names[split] for split in dict.fromkeys(splits)))


# Parts of several figures


def _unit(measure: str) -> str:
    return f"{measure_words(measure)}{', %' if is_share(measure) else ''}"


def _figure_name(group: Group, kind: str) -> str:
    return f"{group.stage.name}-{'-'.join(group.protocols)}-{kind}"


def _card(figure: "Figure", heading: str, description: str, alone: bool = True) -> Html:
    from visionbench.figures.studies import vector

    picture = Picture(figure.name, *vector(figure)) if figure.is_curve else picture_of(figure)
    return page.figure(picture, heading, description, alone)


def _hidpi(figure: "Figure", density: int) -> Picture:
    """Picture that is shown smaller than its pixels, so that it is sharp on every screen.

    Args:
        figure: Figure.
        density: Number of pixels for each CSS pixel.
    """
    picture = picture_of(figure)
    return Picture(picture.name, picture.content, picture.width // density, picture.height // density)
