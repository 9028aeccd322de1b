"""Figures of several runs: curves in common axes, accuracies, and samples on which the runs disagree."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from visionbench.evaluation.measures import shares_of_rows
from visionbench.evaluation.predictions import SPLIT_TITLES, Predictions
from visionbench.figures.classes import LABEL_LENGTH, MAX_NUMBERED_CLASSES
from visionbench.figures.figure import WRONG, Figure, Grid, cut, new_canvas
from visionbench.figures.images import CAPTION_LENGTH, Images, predicted_class, short_name
from visionbench.text import MINUS, as_percent

MAX_SHOWN = 24
COLUMNS = 6


def draw_overlaid(metric: str, courses: Mapping[str, Sequence[Mapping[str, Any]]], colors: Sequence[str]) -> Figure:
    """Draws a metric of several runs after each epoch, in training and in validation.

    Args:
        metric: Metric to draw: `loss` or `acc`.
        courses: Rows of metrics.csv by label of the run.
        colors: Color of each run.
    """
    word = "accuracy" if metric == "acc" else metric
    canvas = new_canvas(5.1, 4.0)
    axes = canvas.subplots()
    finite: list[float] = []
    table: list[list[Any]] = []
    for (_, rows), color in zip(courses.items(), colors, strict=True):
        epochs = np.array([row["epoch"] + 1 for row in rows])
        for stage, style in (("train", "--"), ("val", "-")):
            values = np.array([float(row.get(f"{stage}/{metric}", math.nan)) for row in rows])
            present = ~np.isnan(values)  # the line connects the epochs that have a validation
            if present.any():
                marker = "o" if present.sum() < 30 else ""
                line: dict[str, Any] = {"linewidth": 1.0, "alpha": 0.75} if stage == "train" else {"linewidth": 1.6}
                axes.plot(epochs[present], values[present], f"{marker}{style}", markersize=3, color=color, **line)
                finite += values[np.isfinite(values)].tolist()
    if metric == "loss" and finite and min(finite) > 0 and max(finite) > 20 * min(finite):
        axes.set_yscale("log")
    if not finite:
        axes.text(0.5, 0.5, f"no {word} is a number", ha="center", transform=axes.transAxes)
    axes.set_title(f"{word.capitalize()} after each epoch")
    axes.set_xlabel("epoch")
    axes.set_ylabel(word)
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = [Line2D([], [], color=color, linewidth=2) for color in colors]
    handles += [Line2D([], [], color="black", linestyle=style, linewidth=1.2) for style in ("-", "--")]
    names = [cut(name, 26) for name in courses]
    columns = 2 if len(names) > 2 else len(names)
    canvas.legend(
        handles, [*names, "validation", "training"], loc="outside lower center", ncols=max(2, columns), fontsize=8
    )
    for name, rows in courses.items():
        table += [
            [name, row["epoch"] + 1, row.get(f"train/{metric}", ""), row.get(f"val/{metric}", "")] for row in rows
        ]
    return Figure(f"overlaid-{metric}", canvas, ["run", "epoch", "train", "val"], table, is_curve=True)


def draw_intervals(title: str, accuracies: Mapping[str, tuple[float, float, float]], colors: Sequence[str]) -> Figure:
    """Draws the accuracy of several runs, each with its interval.

    Args:
        title: Title of the figure.
        accuracies: Accuracy and lower and upper end of its interval, by label of the run.
        colors: Color of each run.
    """
    canvas = new_canvas(5.1, 1.0 + 0.4 * max(2, len(accuracies)))
    axes = canvas.subplots()
    for place, ((share, low, high), color) in enumerate(zip(accuracies.values(), colors, strict=True)):
        axes.plot([low, high], [place, place], color=color, linewidth=2.4, solid_capstyle="round")
        axes.plot(share, place, "o", color=color, markersize=7)
        axes.annotate(as_percent(share), (share, place), (0, 7), textcoords="offset points", ha="center", fontsize=7)
    axes.set_yticks(range(len(accuracies)), [cut(name, 30) for name in accuracies], fontsize=8)
    axes.set_ylim(len(accuracies) - 0.5, -0.65)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(alpha=0.3, axis="x")
    axes.set_title(title)
    rows = [[name, *numbers] for name, numbers in accuracies.items()]
    return Figure("accuracies", canvas, ["run", "accuracy", "low", "high"], rows, is_curve=True)


def draw_confusion_difference(
    stage: str,
    counts: tuple[np.ndarray, np.ndarray],
    class_names: Sequence[str],
    letters: tuple[str, str],
    colors: tuple[str, str],
    of_rows: bool,
) -> Figure:
    """Draws the second run's confusion matrix minus the first's; a cell has the color of the better run in it.

    Args:
        stage: Split: train, val or test.
        counts: Confusion matrices of both runs, each of shape (classes, classes), one row per true class.
        class_names: Names of the classes, in the order of the labels.
        letters: Letters that stand for the runs.
        colors: Colors of the runs.
        of_rows: Whether the cells are shares of the true class instead of counts, for runs with different samples.
    """
    classes = len(class_names)
    first, second = ((shares_of_rows(part) * 100 if of_rows else part) for part in counts)
    values = np.nan_to_num(second - first)
    # Larger is better on the diagonal, smaller is better elsewhere.
    gain = np.where(np.eye(classes, dtype=bool), values, -values)
    has_numbers = classes <= MAX_NUMBERED_CLASSES
    longest = max((len(_signed(value)) for value in values.flat), default=1)
    side = min(12.0, max(2.8, (0.34 + 0.02 * longest) * classes)) if has_numbers else 9.0
    canvas = new_canvas(side + 1.6, side + 1.5)
    axes = canvas.subplots()
    # Color follows the square root, so that a difference of one is visible beside a difference of a hundred.
    shade = np.sign(gain) * np.sqrt(np.abs(gain))
    top = max(1.0, float(np.abs(shade).max()))
    scale = LinearSegmentedColormap.from_list("better", [colors[0], "white", colors[1]])
    axes.imshow(shade, cmap=scale, vmin=-1.25 * top, vmax=1.25 * top, interpolation="nearest")
    unit = ", points of each true class" if of_rows else ""
    axes.set_title(f"Confusion matrix of {letters[1]} minus that of {letters[0]}{unit}, {SPLIT_TITLES[stage]}")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    every = max(1, math.ceil(classes * 9 / (72 * side)))
    named = range(0, classes, every)
    labels = [cut(class_names[n], LABEL_LENGTH) for n in named]
    rotated = max(map(len, labels)) * 0.08 > side / len(labels)
    axes.set_xticks(named, labels, fontsize=7, rotation=90 if rotated else 0)
    axes.set_yticks(named, labels, fontsize=7)
    axes.tick_params(length=0 if has_numbers else 2)
    if has_numbers:
        for true, predicted in np.argwhere(np.round(values, 1) != 0):
            axes.text(predicted, true, _signed(values[true, predicted]), ha="center", va="center", fontsize=7)
    handles = [Patch(color=color, label=f"{letter} is better") for letter, color in zip(letters, colors, strict=True)]
    canvas.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    rows = [[class_names[n], *values[n].tolist()] for n in range(classes)]
    return Figure(f"confusion-{letters[1]}-less-{letters[0]}", canvas, ["true", *class_names], rows)


def _signed(value: Any) -> str:
    """Text of a difference: +3, or with the typographic minus sign."""
    whole = float(value).is_integer()
    size = f"{abs(value):,.0f}" if whole else f"{abs(value):.1f}"
    return f"{'+' if value > 0 else MINUS if value < 0 else ''}{size}"


def draw_disagreements(
    correct: Predictions,
    wrong: Predictions,
    places: np.ndarray,
    class_names: Sequence[str],
    letters: tuple[str, str],
    images: Images,
) -> Figure:
    """Draws samples that one run predicts correctly and another wrongly, the most confident errors first.

    Args:
        correct: Predictions of the run that is correct on the samples.
        wrong: Predictions of the other run on the same samples.
        places: Indices of these samples, in the order in which they are shown.
        class_names: Names of the classes, in the order of the labels.
        letters: Letters that stand for the runs, the correct one first.
        images: Function that returns the images at given indices.
    """
    shown = places[:MAX_SHOWN]
    title = f"{letters[0]} correct, {letters[1]} wrong: {len(places):,}"
    if len(shown) < len(places):
        title = f"{title}, the {len(shown)} most confident errors of {letters[1]}"
    columns = min(COLUMNS, max(3, len(shown)))  # room for the title
    grid = Grid(max(1, -(-len(shown) // columns)), columns, 1.5, 0.5, title)
    for number, (place, picture) in enumerate(zip(shown, images(shown), strict=True)):
        predicted = predicted_class(wrong, class_names, place)
        true = cut(class_names[correct.labels[place]], CAPTION_LENGTH)
        words = f"{short_name(correct.names[place])}\npredicted {predicted}\ntrue {true}"
        grid.show_picture(number, picture, words, WRONG)
    rows = [
        [correct.names[n], class_names[correct.labels[n]], class_names[wrong.predicted[n]], str(wrong.confidence[n])]
        for n in places
    ]
    name = f"{letters[0]}-right-{letters[1]}-wrong"
    return Figure(name, grid.canvas, ["sample", "true", letters[1], f"confidence of {letters[1]}"], rows)
