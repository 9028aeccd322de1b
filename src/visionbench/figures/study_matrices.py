"""Figures of a study made of images: confusion matrices as small multiples, grids of images."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure as Canvas

from visionbench.evaluation.measures import shares_of_rows
from visionbench.figures.figure import DPI, STYLE, Figure, Grid, cut

# Largest number of classes for which the cells of a small matrix hold numbers, and for which classes are named.
MAX_NUMBERED, MAX_NAMED = 12, 27
# Smallest share with a number: smaller ones are many, and hard to read.
SMALLEST_SHARE = 0.025
# The picture is shown at half its size, so that small numbers are sharp on a phone too.
DENSITY = 2
# Room between two matrices, and for a title, in inches.
GAP, TITLE = 0.12, 0.24


def draw_matrices(
    name: str, matrices: Sequence[tuple[str, np.ndarray]], class_names: Sequence[str], columns: int
) -> Figure:
    """Draws confusion matrices side by side, each row as shares of its true class in percent.

    Shares of less than 2.5 % have a color alone.

    Args:
        name: Name of the figure.
        matrices: Title and counts of each matrix, shape (classes, classes), one row per true class.
        class_names: Names of the classes, in the order of the labels.
        columns: Number of matrices in a row.
    """
    columns = min(columns, len(matrices))
    lines = math.ceil(len(matrices) / columns)
    labels = [cut(text, 12) for text in class_names] if len(class_names) <= MAX_NAMED else []
    room, side = _room(class_names), _side(class_names, columns)
    is_upright = max(map(len, labels), default=0) * 0.065 < side / len(class_names)
    below = 0.42 if is_upright else room
    width = room + columns * (side + GAP)
    height = lines * (side + TITLE) + below
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(width, height), dpi=DPI * DENSITY, facecolor="white")
        FigureCanvasAgg(canvas)
        for place, (heading, counts) in enumerate(matrices):
            line, column = divmod(place, columns)
            x, y = room + column * (side + GAP), height - (line + 1) * (side + TITLE)
            axes = canvas.add_axes((x / width, y / height, side / width, side / height))
            title = cut(heading, matrix_room(class_names, columns))
            axes.set_title(title, fontsize=8, pad=4, y=1.0)  # a height is given, since matplotlib's search is slow
            _draw_shares(axes, np.nan_to_num(shares_of_rows(counts)), side)
            size = min(8.0, 72 * side / len(class_names) * 0.8)
            is_last = place + columns >= len(matrices)
            for axis, shown, turned in (
                (axes.yaxis, labels if column == 0 else [], False),
                (axes.xaxis, labels if is_last else [], not is_upright),
            ):
                axis.set_ticks(range(len(shown)), shown, fontsize=size, rotation=90 if turned else 0)
            axes.tick_params(length=0, pad=2)
            if column == 0:
                axes.set_ylabel("true", fontsize=7)
            if is_last:
                axes.set_xlabel("predicted", fontsize=7)
    rows = [
        [heading, class_names[n], *counts[n].tolist()] for heading, counts in matrices for n in range(len(class_names))
    ]
    return Figure(name, canvas, ["matrix", "true", *class_names], rows)


def matrix_room(class_names: Sequence[str], columns: int) -> int:
    """Number of characters that fit above a matrix of `draw_matrices`.

    Args:
        class_names: Names of the classes.
        columns: Number of matrices in a row.
    """
    return int(_side(class_names, columns) * 15)


def _room(class_names: Sequence[str]) -> float:
    """Room for the names of the classes beside the matrices, in inches."""
    if len(class_names) > MAX_NAMED:
        return 0.3
    return 0.3 + 0.065 * max(min(12, len(text)) for text in class_names)


def _side(class_names: Sequence[str], columns: int) -> float:
    """Width and height of a matrix, in inches."""
    largest = min(2.6, max(1.7, 0.3 * len(class_names)))  # two classes need no large squares
    return min(largest, max(1.25, (9.0 - _room(class_names)) / columns - GAP))


def _draw_shares(axes: Any, shares: np.ndarray, side: float) -> None:
    """Draws a matrix, with the numbers of the shares that are not small where the classes are few."""
    axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    size = min(9.0, 72 * side / len(shares) * 0.5)
    for true, predicted in np.argwhere(shares >= SMALLEST_SHARE) if len(shares) <= MAX_NUMBERED else ():
        share = shares[true, predicted]
        color = "white" if share > 0.36 else "black"
        axes.text(predicted, true, f"{100 * share:.0f}", ha="center", va="center", fontsize=size, color=color)


def draw_image_grid(
    name: str, title: str, images: Sequence[np.ndarray], captions: Sequence[tuple[str, str]], columns: int
) -> Figure:
    """Draws images in rows, each with a caption.

    Args:
        name: Name of the figure.
        title: Title.
        images: Images, each of shape (H, W, C), uint8.
        captions: Text and color of each caption.
        columns: Number of images in a row.
    """
    lines = math.ceil(len(images) / columns)
    grid = Grid(lines, columns, 1.15, 0.34, cut(title, max(24, 18 * columns)))
    for place, (image, (text, color)) in enumerate(zip(images, captions, strict=True)):
        grid.show_picture(place, image, text, color)
    return Figure(name, grid.canvas, ["image", "caption"], [[n, text] for n, (text, _) in enumerate(captions)])
