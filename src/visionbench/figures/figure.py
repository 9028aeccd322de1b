"""A figure with its data: drawn without a screen, and written as a picture and a CSV file."""

import contextlib
import csv
import functools
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from PIL import Image

from visionbench.files import CsvLines, write_whole

DPI = 100
CORRECT, WRONG = "#2f6f3e", "#b3261e"
FONTS = ["DejaVu Sans"]  # matplotlib's own; those after it are installed ones that have glyphs which it lacks
# Equal figures give equal files, since the files contain no time and no random identifiers.
STYLE: Any = {"svg.hashsalt": "visionbench", "font.size": 9, "axes.titlesize": 10}


@dataclass(frozen=True)
class Figure:
    """A figure and its data.

    Attributes:
        name: Name of the figure's files and, under `figures/`, of its TensorBoard image.
        canvas: Figure of matplotlib.
        columns: Names of the columns of the data.
        rows: Rows of the data.
        is_curve: Whether the figure consists of lines and is saved as SVG; other figures are saved as PNG.
    """

    name: str
    canvas: Canvas
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    is_curve: bool = False

    @property
    def file(self) -> str:
        """File name of the picture."""
        return f"{self.name}.{'svg' if self.is_curve else 'png'}"

    def picture(self) -> tuple[np.ndarray, bytes]:
        """Pixels, (H, W, 3), uint8, and content of the picture's file."""
        with matplotlib.rc_context({**STYLE, "font.sans-serif": FONTS}):
            pixels = render(self.canvas)
            picture = io.BytesIO()
            if self.is_curve:
                self.canvas.savefig(picture, format="svg", metadata={"Date": None})
            else:
                Image.fromarray(pixels).save(picture, format="png")
        return pixels, picture.getvalue()

    def save(self, folder: Path) -> np.ndarray:
        """Writes the picture and a CSV file of the data; returns the pixels, (H, W, 3), uint8."""
        pixels, picture = self.picture()
        table = io.StringIO()
        writer = csv.writer(CsvLines(table))
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        write_whole(folder / self.file, picture)
        write_whole(folder / f"{self.name}.csv", table.getvalue().encode("utf-8", "backslashreplace"))
        return pixels


def new_canvas(width: float, height: float) -> Canvas:
    """An empty figure of a size in inches, with a layout in which parts do not overlap."""
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
        FigureCanvasAgg(canvas)
    return canvas


class Grid:
    """A figure of images in equal cells, each with a caption above it.

    All images are drawn in one pair of axes, in inches, since separate axes would take most of the drawing time.

    Args:
        lines: Number of rows of cells.
        columns: Number of columns of cells.
        side: Width and height of a cell, in inches.
        text_height: Height of the caption above each cell, in inches.
        title: Title of the figure.
        right: Width of the margin right of the cells, in inches.
    """

    def __init__(
        self, lines: int, columns: int, side: float, text_height: float, title: str, right: float = 0.1
    ) -> None:
        gap, title_height, left = 0.08, 0.32, 0.1
        width = left + columns * (side + gap) - gap + right
        height = title_height + lines * (side + text_height) + 0.08
        self.side = side
        self.lefts = [left + column * (side + gap) for column in range(columns)]
        self.bottoms = [height - title_height - (line + 1) * (side + text_height) for line in range(lines)]
        with matplotlib.rc_context(STYLE):
            self.canvas = Canvas(figsize=(width, height), dpi=DPI, facecolor="white")
            FigureCanvasAgg(self.canvas)
            self.axes = self.canvas.add_axes((0, 0, 1, 1), frameon=False, xticks=[], yticks=[])
            self.axes.text(width / 2, height - 0.2, title, ha="center", va="center", fontsize=10)
        self.axes.set(xlim=(0, width), ylim=(0, height), autoscale_on=False)

    def show(self, number: int, image: np.ndarray, text: str = "", color: str = "black", **options: Any) -> Any:
        """Draws an image, as `Axes.imshow` takes it, into a cell; cells are numbered row by row."""
        line, column = divmod(number, len(self.lefts))
        high, wide = image.shape[:2]
        width, height = (self.side * length / max(high, wide) for length in (wide, high))
        left = self.lefts[column] + (self.side - width) / 2
        bottom = self.bottoms[line]
        if text:
            center = self.lefts[column] + self.side / 2
            self.axes.text(center, bottom + height + 0.04, text, ha="center", va="bottom", fontsize=7, color=color)
        extent = (left, left + width, bottom, bottom + height)
        return self.axes.imshow(image, extent=extent, aspect="auto", interpolation="nearest", **options)

    def show_picture(self, number: int, image: np.ndarray, text: str = "", color: str = "black") -> None:
        """Draws an image, (H, W, C), uint8: in color with 3 channels, otherwise its first channel in gray."""
        if image.shape[-1] == 3:
            self.show(number, image, text, color)
        else:
            self.show(number, image[..., 0], text, color, cmap="gray", vmin=0, vmax=255)


def render(canvas: Canvas) -> np.ndarray:
    """Pixels of a figure, (H, W, 3), uint8."""
    backend: Any = canvas.canvas  # matplotlib's own types do not declare its methods
    backend.draw()
    canvas.set_layout_engine("none")  # keeps the layout when the figure is drawn again
    return np.ascontiguousarray(np.asarray(backend.buffer_rgba())[..., :3])


def cut(name: str, length: int) -> str:
    """Shortens a name to a length, on one line, as matplotlib can draw it.

    The middle is removed, since similar names differ at their ends. Characters without a glyph are escaped.
    """
    drawn = [character if has_glyph(character) else escaped(character) for character in " ".join(name.split())]
    if sum(map(len, drawn)) > length:
        tail = (length - 3) // 2
        start, end = _within(drawn, length - 3 - tail), _within(drawn[::-1], tail)[::-1]
        drawn = [*start, "...", *end]
    return "".join(drawn).replace("$", r"\$")


def _within(parts: Sequence[str], length: int) -> list[str]:
    """The first parts that together are not longer than a length."""
    return [part for part, end in zip(parts, itertools.accumulate(map(len, parts)), strict=True) if end <= length]


def escaped(character: str) -> str:
    """A character as an escape of ASCII, with its code point."""
    return character.encode("unicode_escape", "surrogatepass").decode()


@functools.cache
def has_glyph(character: str) -> bool:
    """Whether a character can be drawn; if need be, with another installed font, which figures then also use."""
    if character.isascii():
        return character.isprintable()
    for path in _fonts():
        with contextlib.suppress(RuntimeError):  # a font that matplotlib cannot open, such as one of bitmaps
            font = font_manager.get_font(path)
            if font.get_char_index(ord(character)):
                if font.family_name not in FONTS:
                    FONTS.append(font.family_name)
                return True
    return False


@functools.cache
def _fonts() -> list[str]:
    """Files of the upright fonts of usual weight, the default font first; without those whose glyphs are all boxes."""
    default = font_manager.findfont(FONTS[0])
    others = [
        (font.name, font.fname)
        for font in font_manager.fontManager.ttflist
        if font.style == "normal" and font.weight in (400, "normal") and "Last Resort" not in font.name
    ]
    return [default, *(path for _, path in sorted(others) if path != default)]
