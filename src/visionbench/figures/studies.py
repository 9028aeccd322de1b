"""Figures of a study: curves with bands over seeds as small multiples, and effects of the grid's axes."""

import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from visionbench.figures.figure import DPI, STYLE, Figure, cut

# Number of points of a line for each inch: about as many as there are pixels.
POINTS_PER_INCH = 96
# Figures with more panels are saved as PNG: as SVG they would be large.
MAX_SVG_PANELS = 30
# A loss whose largest value is this many times its smallest one is drawn on a logarithmic scale.
LOG_RATIO = 20
# Number of characters in an inch of a title, at 8 points; titles are smaller where the longest one does not fit.
TITLE_CHARACTERS, SMALLEST_TITLE = 15, 6.5
# Room left of the first panel and between two panels, in inches.
LEFT, GAP = 0.62, 0.14

Effects = dict[str, dict[str, dict[str, Any]]]
"""Main effects of one measure by protocol, axis and label, as `main_effects` of the studies gives them."""


@dataclass(frozen=True)
class Series:
    """A line: the mean over seeds, with a band from the lowest to the highest seed.

    Attributes:
        label: Name in the legend.
        places: Position of each value on the horizontal axis, shape (N,).
        values: Values, shape (seeds, N).
        color: Color.
        style: Style of the line, as matplotlib names it.
    """

    label: str
    places: np.ndarray
    values: np.ndarray
    color: Any
    style: Literal["-", "--"] = "-"


@dataclass(frozen=True)
class Panel:
    """A small diagram.

    Attributes:
        title: Title.
        series: Lines.
        unit: Name of the vertical axis; panels with the same name have the same scale.
        marks: Position, value and color of published values.
        across: Name of the horizontal axis.
    """

    title: str
    series: list[Series]
    unit: str
    marks: list[tuple[float, float, Any]] = field(default_factory=list)
    across: str = "epoch"


def draw_panels(name: str, panels: Sequence[Panel], columns: int, width: float = 9.0, height: float = 1.5) -> Figure:
    """Draws small multiples, all in one pair of axes: axes of their own for a hundred panels would take half a minute.

    Args:
        name: Name of the figure.
        panels: Panels, row by row; all have the same horizontal axis.
        columns: Number of panels in a row.
        width: Width of the figure, in inches.
        height: Height of the diagram of a panel, in inches.
    """
    columns = min(columns, len(panels))
    lines = math.ceil(len(panels) / columns)
    own_scale = len({panel.unit for panel in panels}) > 1  # numbers at each panel, not only at the first of its row
    handles = _legend(panels)
    lines_of_legend = math.ceil(_legend_width(handles) / (width - 0.4)) if len(handles) > 1 else 0
    gap, top, bottom = 0.62 if own_scale else GAP, 0.26, 0.46 + 0.2 * lines_of_legend
    side = _side(width, columns, gap)
    step = height + 0.32
    total = top + (lines - 1) * step + height + bottom
    size = _title_size([panel.title for panel in panels], side)
    with matplotlib.rc_context(STYLE):
        canvas = _plain_canvas(width, total)
        paper = canvas.add_axes((0, 0, 1, 1), frameon=False, xticks=[], yticks=[])
        paper.set(xlim=(0, width), ylim=(0, total), autoscale_on=False)
        across = _across(panels)
        scales = {unit: _scale([p for p in panels if p.unit == unit]) for unit in {p.unit for p in panels}}
        for place, panel in enumerate(panels):
            line, column = divmod(place, columns)
            x, y = LEFT + column * (side + gap), total - top - line * step - height
            box = _Box(x, y, side, height, across, scales[panel.unit])
            is_last = place + columns >= len(panels)
            box.draw(paper, panel, size, named=column == 0 or own_scale, numbered=is_last)
        if len(handles) > 1:
            ncols = max(1, min(len(handles), int(len(handles) * (width - 0.4) / _legend_width(handles))))
            canvas.legend(
                list(handles.values()), list(handles), loc="lower center", ncols=ncols, fontsize=8, frameon=False
            )
    rows = [
        [panel.title, series.label, float(place), *(_or_empty(v) for v in _statistics(series.values[:, n]))]
        for panel in panels
        for series in panel.series
        for n, place in enumerate(series.places)
    ]
    columns_of_table = ["panel", "line", panels[0].across, "mean", "lowest", "highest"]
    return Figure(name, canvas, columns_of_table, rows, is_curve=len(panels) <= MAX_SVG_PANELS)


def title_room(width: float, columns: int) -> int:
    """Number of characters that fit above a panel of `draw_panels` in the smallest size.

    Args:
        width: Width of the figure, in inches.
        columns: Number of panels in a row.
    """
    return _characters(_side(width, columns, GAP), SMALLEST_TITLE)


def _side(width: float, columns: int, gap: float) -> float:
    """Width of the diagram of a panel, in inches."""
    return (width - LEFT - 0.1 - gap * (columns - 1)) / columns


def _title_size(titles: Sequence[str], side: float) -> float:
    """Size of all titles, in points, with which the longest one fits above a diagram of so many inches."""
    return min(8.0, max(SMALLEST_TITLE, 8 * _characters(side, 8) / max(1, *map(len, titles))))


def _characters(side: float, size: float) -> int:
    """Number of characters that fit above a diagram of so many inches, in a size of so many points."""
    return int(side * TITLE_CHARACTERS * 8 / size)


def _legend(panels: Sequence[Panel]) -> dict[str, Line2D]:
    """Lines of the legend by their names."""
    lines = {cut(series.label, 60): series for panel in panels for series in panel.series}
    handles = {name: Line2D([], [], color=line.color, linestyle=line.style) for name, line in lines.items()}
    if any(panel.marks for panel in panels):
        handles["published"] = Line2D([], [], color="black", marker="x", linestyle="", markersize=5)
    return handles


class _Scale:
    """Range of an axis, in numbers or in their logarithms."""

    def __init__(self, low: float, high: float, logarithmic: bool = False, integer: bool = False) -> None:
        self.logarithmic = logarithmic
        self.low, self.high = (math.log10(end) if logarithmic else end for end in (low, high))
        if logarithmic:
            powers = range(math.floor(self.low), math.ceil(self.high) + 1, 1 + int(self.high - self.low) // 6)
            steps = (1, 2, 5) if self.high - self.low < 1.5 else (1,)
            found = [step * 10.0**power for power in powers for step in steps]
        else:
            found = list(MaxNLocator(5, integer=integer, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
        self.ticks = [value for value in found if self.low - 1e-9 <= self.place(value) <= self.high + 1e-9]

    def place(self, value: Any) -> Any:
        return np.log10(value) if self.logarithmic else value

    def share(self, values: Any) -> Any:
        return (self.place(values) - self.low) / (self.high - self.low)


class _Box:
    """Diagram of a panel: a rectangle on the paper, in inches."""

    def __init__(self, left: float, bottom: float, width: float, height: float, across: _Scale, upward: _Scale) -> None:
        self.left, self.bottom, self.width, self.height = left, bottom, width, height
        self.across, self.upward = across, upward

    def x(self, values: Any) -> Any:
        return self.left + self.width * self.across.share(values)

    def y(self, values: Any) -> Any:
        return self.bottom + self.height * self.upward.share(values)

    def draw(self, paper: Any, panel: Panel, title_size: float, named: bool, numbered: bool) -> None:
        right, top = self.left + self.width, self.bottom + self.height
        grid = [[(self.x(v), self.bottom), (self.x(v), top)] for v in self.across.ticks]
        grid += [[(self.left, self.y(v)), (right, self.y(v))] for v in self.upward.ticks]
        paper.add_collection(LineCollection(grid, colors="#dddddd", linewidths=0.6), autolim=False)
        for series in panel.series:
            self._line(paper, series)
        corners = [(self.left, self.bottom), (right, self.bottom), (right, top), (self.left, top)]
        frame = LineCollection([[*corners, corners[0]]], colors="#555555", linewidths=0.7)
        paper.add_collection(frame, autolim=False)
        for place, value, color in panel.marks:
            x, y = self.x(place), self.y(value)
            paper.plot(x, y, "x", color="white", markersize=8, markeredgewidth=3.5, zorder=5)
            paper.plot(x, y, "x", color=color, markersize=7, markeredgewidth=1.8, zorder=6)
        middle = self.left + self.width / 2
        title = cut(panel.title, _characters(self.width, title_size))
        paper.text(middle, top + 0.05, title, fontsize=title_size, ha="center", va="bottom")
        if not panel.series:
            paper.text(middle, self.bottom + self.height / 2, "no value", fontsize=7, ha="center", va="center")
        self._numbers(paper, panel, named, numbered)

    def _numbers(self, paper: Any, panel: Panel, named: bool, numbered: bool) -> None:
        """Numbers and names of the axes, where the panel has its own."""
        size = 7 if self.height < 2 else 8
        if numbered:
            for value in self.across.ticks:
                paper.text(self.x(value), self.bottom - 0.05, f"{value:,g}", fontsize=size, ha="center", va="top")
            name = cut(panel.across, max(12, int(self.width * 15)))
            paper.text(self.left + self.width / 2, self.bottom - 0.2, name, fontsize=8, ha="center", va="top")
        if named:
            for value in self.upward.ticks:
                paper.text(self.left - 0.05, self.y(value), f"{value:g}", fontsize=size, ha="right", va="center")
            x, y = self.left - 0.46, self.bottom + self.height / 2
            unit = cut(panel.unit, max(12, int(self.height * 16)))
            paper.text(x, y, unit, fontsize=8, ha="center", va="center", rotation=90)

    def _line(self, paper: Any, series: Series) -> None:
        places, means, lows, highs = _drawn_points(series, self.width)
        if not len(places):
            return
        x, small = self.x(places), self.height < 2
        low, high = (self.y(ends) for ends in (lows, highs))
        if len(series.values) > 1 and len(x) > 1:
            band = np.concatenate([np.column_stack([x, low]), np.column_stack([x, high])[::-1]])
            paper.add_collection(
                PolyCollection([band], facecolors=[series.color], alpha=0.22, linewidths=0), autolim=False
            )
        if len(x) == 1:
            paper.plot([x[0]] * 2, [low[0], high[0]], color=series.color, linewidth=1)
        marker = "o" if len(x) == 1 or (not small and len(x) < 30) else ""
        width = 1.0 if small else 1.4
        paper.plot(
            x, self.y(means), marker=marker, markersize=3, linestyle=series.style, color=series.color, linewidth=width
        )


@dataclass(frozen=True)
class _EffectsLayout:
    """Places of the panels of main effects, in inches.

    Attributes:
        labels: Labels of each axis of the grid.
        width: Width of the figure.
        left: Room left of the panels.
        height: Height of a panel.
        gap: Room between two panels.
        side: Width that a label has.
    """

    labels: dict[str, list[str]]
    width: float = 9.0
    left: float = 0.72
    height: float = 1.5
    gap: float = 0.12
    side: float = 0.48

    @classmethod
    def of(cls, labels: dict[str, list[str]]) -> "_EffectsLayout":
        """Makes panels as wide as their labels ask for, within the width of a page."""
        layout = cls(labels)
        fixed = layout.left + 0.1 + layout.gap * (len(labels) - 1)
        weight = sum(layout.weight(axis) for axis in labels)
        width = min(9.0, max(4.5, fixed + 0.48 * weight))
        return replace(layout, width=width, side=(width - fixed) / weight)

    def weight(self, axis: str) -> float:
        """Width of the panel of an axis, in labels."""
        return max(2.2, len(self.labels[axis]))

    def is_rotated(self, axis: str) -> bool:
        """Whether the labels of an axis are too long to stand side by side."""
        room = 13 * self.weight(axis) * self.side / len(self.labels[axis])
        return max(map(len, self.labels[axis])) > room

    @property
    def bottom(self) -> float:
        """Room for the labels below the last panels."""
        rotated = [len(cut(label, 14)) for axis in self.labels if self.is_rotated(axis) for label in self.labels[axis]]
        return 0.25 + 0.04 * max(rotated, default=0)


def draw_effects(name: str, effects: dict[str, Effects], colors: dict[str, Any]) -> Figure:
    """Draws the mean of each label of each axis with its interval: a row of panels for each measure.

    Args:
        name: Name of the figure.
        effects: Effects of each protocol by the name of the measure.
        colors: Color of each protocol.
    """
    by_axis = [found for protocols in effects.values() for found in protocols.values()]
    axes_of_grid = list(dict.fromkeys(axis for found in by_axis for axis in found))
    labels = {axis: list(dict.fromkeys(label for f in by_axis for label in f.get(axis, ()))) for axis in axes_of_grid}
    layout = _EffectsLayout.of(labels)
    protocols = list(dict.fromkeys(protocol for found in effects.values() for protocol in found))
    top, legend = 0.26, 0.25 if len(protocols) > 1 else 0.0
    total = top + len(effects) * (layout.height + 0.2) - 0.2 + layout.bottom + legend
    with matplotlib.rc_context(STYLE):
        canvas = _plain_canvas(layout.width, total)
        for line, (unit, found) in enumerate(effects.items()):
            y, x = total - top - line * (layout.height + 0.2) - layout.height, layout.left
            limits = _limits_of_effects(unit, found)
            for axis in axes_of_grid:
                side = layout.weight(axis) * layout.side
                axes = canvas.add_axes((x / layout.width, y / total, side / layout.width, layout.height / total))
                x += side + layout.gap
                for place, (protocol, of_axes) in enumerate(found.items()):
                    shift = 0.16 * (place - (len(found) - 1) / 2)
                    _draw_effects_of_axis(axes, of_axes.get(axis, {}), labels[axis], shift, colors[protocol])
                axes.set_ylim(*limits)
                is_last = line == len(effects) - 1
                _name_labels(axes, labels[axis] if is_last else [], len(labels[axis]), layout.is_rotated(axis))
                if axis == axes_of_grid[0]:
                    axes.set_ylabel(textwrap.fill(unit, 22), fontsize=8)
                else:
                    axes.yaxis.set_major_formatter(NullFormatter())
                if line == 0:
                    size = _title_size([axis], side)
                    axes.set_title(cut(axis, _characters(side, size)), fontsize=size, pad=4)
        if len(protocols) > 1:
            handles = [Line2D([], [], color=colors[protocol], marker="o", markersize=4) for protocol in protocols]
            names = [cut(protocol, 40) for protocol in protocols]
            canvas.legend(handles, names, loc="lower center", ncols=len(names), fontsize=8, frameon=False)
    columns = ["measure", "protocol", "axis", "label", "mean", "low", "high", "runs"]
    return Figure(name, canvas, columns, _rows_of_effects(effects), is_curve=True)


def _draw_effects_of_axis(axes: Any, effects: dict[str, Any], labels: list[str], shift: float, color: Any) -> None:
    places = [labels.index(label) + shift for label in effects]
    for where, effect in zip(places, effects.values(), strict=True):
        if effect.interval is not None:
            axes.plot([where, where], effect.interval, color=color, linewidth=1.4)
    axes.plot(places, [effect.mean for effect in effects.values()], "o-", color=color, markersize=4, linewidth=0.7)


def _name_labels(axes: Any, names: list[str], count: int, rotated: bool) -> None:
    axes.set_xlim(-0.6, count - 0.4)
    axes.grid(alpha=0.3, axis="y")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    shown = [cut(name, 14) for name in names] or [""] * count
    axes.set_xticks(range(count), shown, fontsize=7, rotation=30 if rotated else 0, ha="right" if rotated else "center")
    axes.tick_params(labelsize=7, length=2)


def _limits_of_effects(unit: str, effects: Effects) -> tuple[float, float]:
    """Range of the vertical axis; an interval is cut off where no value can be: shares above 100 %, times below 0."""
    found = [effect for by_axis in effects.values() for labels in by_axis.values() for effect in labels.values()]
    means = [effect.mean for effect in found]
    low, high = _span([end for effect in found for end in (effect.mean, *(effect.interval or ()))] or [0.0])
    if min(means, default=-1.0) >= 0:
        low = max(low, 0.0)
    if unit.endswith("%"):
        high = min(high, 101.0)
    return low, high


def _rows_of_effects(effects: dict[str, Effects]) -> list[list[Any]]:
    return [
        [unit, protocol, axis, label, effect.mean, *(effect.interval or ("", "")), effect.n]
        for unit, protocols in effects.items()
        for protocol, by_axis in protocols.items()
        for axis, labels in by_axis.items()
        for label, effect in labels.items()
    ]


def draw_loss_and_accuracies(name: str, title: str, losses: Sequence[Series], accuracies: Sequence[Series]) -> Figure:
    """Draws losses, on the left scale, and accuracies, on the right one, after each epoch.

    Args:
        name: Name of the figure.
        title: Title.
        losses: Lines of losses.
        accuracies: Lines of accuracies, in percent.
    """
    with matplotlib.rc_context(STYLE):
        canvas = _plain_canvas(6.2, 3.8)
        axes = canvas.add_axes((0.1, 0.24, 0.79, 0.66))
        other = axes.twinx()
        for series in losses:
            _draw_series(axes, series)
        for series in accuracies:
            _draw_series(other, series)
        axes.set_title(cut(title, 80), fontsize=9)
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss")
        other.set_ylabel("accuracy, %")
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        shown = [*losses, *accuracies]
        handles = [Line2D([], [], color=series.color, linestyle=series.style) for series in shown]
        names = [series.label for series in shown]
        canvas.legend(handles, names, loc="lower center", ncols=2, fontsize=8, frameon=False)
    rows = [
        [series.label, float(place), *(_or_empty(v) for v in _statistics(series.values[:, n]))]
        for series in shown
        for n, place in enumerate(series.places)
    ]
    return Figure(name, canvas, ["line", "epoch", "mean", "lowest", "highest"], rows, is_curve=True)


def vector(figure: Figure) -> tuple[bytes, int, int]:
    """SVG file of a figure, its width and its height in CSS pixels; its pixels are not drawn.

    Args:
        figure: Figure whose parts are placed by hand.
    """
    picture = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.canvas.savefig(picture, format="svg", metadata={"Date": None})
    width, height = figure.canvas.get_size_inches()
    return picture.getvalue(), round(96 * width), round(96 * height)


def _plain_canvas(width: float, height: float) -> Canvas:
    """An empty figure whose axes are placed by hand: the constrained layout of a hundred axes takes half a minute."""
    canvas = Canvas(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(canvas)
    return canvas


def _drawn_points(series: Series, width: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Position, mean, lowest and highest value of the points that are drawn in a diagram of so many inches."""
    keep = _thinned(len(series.places), int(POINTS_PER_INCH * width))
    places, values = series.places[keep], series.values[:, keep]
    means, lows, highs = np.array([_statistics(values[:, n]) for n in range(values.shape[1])]).T
    present = ~np.isnan(means)
    return places[present], means[present], lows[present], highs[present]


def _draw_series(axes: Any, series: Series) -> None:
    places, means, lows, highs = _drawn_points(series, 4.9)
    if len(series.values) > 1 and len(places) > 1:
        axes.fill_between(places, lows, highs, color=series.color, alpha=0.22, linewidth=0)
    marker = "o" if len(places) < 30 else ""
    axes.plot(places, means, marker=marker, markersize=3, linestyle=series.style, color=series.color, linewidth=1.4)


def _across(panels: Sequence[Panel]) -> _Scale:
    """Scale of the horizontal axis, which all panels share."""
    places = [float(end) for p in panels for s in p.series for end in (s.places.min(), s.places.max())]
    places += [place for panel in panels for place, _, _ in panel.marks]
    low, high = (min(places), max(places)) if places else (0.0, 1.0)
    room = 0.03 * (high - low) or 0.5
    return _Scale(low - room, high + room, integer=panels[0].across == "epoch")


def _scale(panels: Sequence[Panel]) -> _Scale:
    """Scale of the vertical axis of some panels."""
    values = [value for panel in panels for series in panel.series for value in series.values[~np.isnan(series.values)]]
    values += [value for panel in panels for _, value, _ in panel.marks]
    if not values:
        return _Scale(0.0, 1.0)
    low, high = float(min(values)), float(max(values))
    if "loss" in panels[0].unit and low > 0 and high > LOG_RATIO * low:
        return _Scale(low / 1.1, high * 1.1, logarithmic=True)
    return _Scale(*_span(values))


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = float(min(values)), float(max(values))
    room = 0.06 * (high - low) or 0.02 * abs(high) or 0.5
    return low - room, high + room


def _thinned(count: int, most: int) -> np.ndarray:
    """Indices of the points that are drawn, the first and the last one among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _statistics(values: np.ndarray) -> tuple[float, float, float]:
    """Mean, lowest and highest of the values that are numbers."""
    numbers = values[~np.isnan(values)]
    if not len(numbers):
        return math.nan, math.nan, math.nan
    return float(numbers.mean()), float(numbers.min()), float(numbers.max())


def _legend_width(names: Iterable[str]) -> float:
    """Estimated width of a legend in one row, in inches."""
    return sum(0.55 + 0.075 * len(name) for name in names)


def _or_empty(value: float) -> Any:
    return "" if math.isnan(value) else value


def gradient(count: int, ordered: bool) -> list[Any]:
    """Colors of lines: from light to dark where their order means something.

    Args:
        count: Number of colors.
        ordered: Whether the order of the lines means something.
    """
    if not ordered:
        return [f"C{place}" for place in range(count)]
    scale = matplotlib.colormaps["viridis_r"]
    return [scale(0.15 + 0.85 * place / max(1, count - 1)) for place in range(count)]
