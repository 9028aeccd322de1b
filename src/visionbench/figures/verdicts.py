"""The verdicts of a study as one picture: each printed value beside the interval of one more run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from visionbench.figures.figure import CORRECT, WRONG, Figure, cut, new_canvas

# Color and marker of each kind of verdict: known without the color too.
LOOKS = {
    "reproduced": (CORRECT, "o"),
    "not reproduced": (WRONG, "X"),
    "inconclusive": ("#8a5a00", "D"),
    "not comparable": ("#63499c", "^"),
    "incomplete": ("#5f6266", "s"),
}
NAME_LENGTH = 48
LEGEND_COLUMNS = 4


@dataclass(frozen=True)
class VerdictRow:
    """A judged value.

    Attributes:
        name: Name of the cell.
        printed: Printed value.
        rounded: The least and the greatest value that are printed so.
        mean: Mean of the runs; `None` without runs.
        interval: The 95 % interval for one more run; `None` where the spread is not known.
        kind: Verdict.
    """

    name: str
    printed: float
    rounded: tuple[float, float]
    mean: float | None
    interval: tuple[float, float] | None
    kind: str


def draw_verdicts(title: str, panels: Mapping[str, tuple[Sequence[VerdictRow], float]]) -> Figure:
    """Draws a row for each judged value: the interval of one more run as its difference from the printed value.

    Args:
        title: Title of the figure.
        panels: Rows of each panel and the difference at its edges, by the unit of the differences.
    """
    counts = [len(rows) for rows, _ in panels.values()]
    canvas = new_canvas(7.2, 0.95 + 0.55 * len(counts) + 0.21 * sum(counts))
    all_axes = canvas.subplots(len(counts), 1, squeeze=False, height_ratios=[count + 0.6 for count in counts])
    canvas.suptitle(cut(title, 90), fontsize=10)
    table: list[list[Any]] = []
    for axes, (unit, (rows, limit)) in zip(all_axes[:, 0], panels.items(), strict=True):
        for place, row in enumerate(rows):
            _draw_row(axes, place, row, limit)
            low, high = row.interval or ("", "")
            table.append([unit, row.name, row.printed, "" if row.mean is None else row.mean, low, high, row.kind])
        axes.axvline(0, color="0.35", linewidth=0.8, linestyle="--")
        axes.set_xlim(-limit, limit)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(range(len(rows)), [cut(row.name, NAME_LENGTH) for row in rows], fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(7))
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(alpha=0.25, axis="x")
        axes.set_xlabel(f"measured minus printed, {unit}", fontsize=8)
    kinds = [kind for kind in LOOKS if any(row.kind == kind for rows, _ in panels.values() for row in rows)]
    handles: list[Any] = [
        Line2D([], [], color=color, marker=marker, linewidth=0) for color, marker in (LOOKS[kind] for kind in kinds)
    ]
    handles += [Line2D([], [], color="0.5", linewidth=2.2), Patch(color="0.86")]
    words = [*kinds, "95 % interval of one more run", "rounded to the printed value"]
    canvas.legend(
        handles, words, loc="outside lower center", ncols=min(LEGEND_COLUMNS, len(words)), fontsize=8, frameon=False
    )
    return Figure("verdicts", canvas, ["unit", "value", "printed", "mean", "low", "high", "verdict"], table)


def _draw_row(axes: Any, place: int, row: VerdictRow, limit: float) -> None:
    color, marker = LOOKS.get(row.kind, LOOKS["incomplete"])
    low, high = (end - row.printed for end in row.rounded)
    axes.barh(place, high - low, 0.8, low, color="0.86", zorder=1)
    if row.interval is not None:
        ends = [end - row.printed for end in row.interval]
        axes.plot(ends, [place, place], color=color, linewidth=2.2, alpha=0.7, solid_capstyle="butt")
    if row.mean is None:
        return
    difference = row.mean - row.printed
    if abs(difference) <= limit:
        axes.plot(difference, place, marker, color=color, markersize=6, clip_on=False, zorder=3)
        return
    side = 1 if difference > 0 else -1
    text = f"{difference:+.3g} \N{RIGHTWARDS ARROW}" if side > 0 else f"\N{LEFTWARDS ARROW} {difference:+.3g}"
    where = {"ha": "right" if side > 0 else "left", "va": "center", "fontsize": 8, "color": color}
    axes.text(side * limit * 0.99, place, text.replace("-", "\N{MINUS SIGN}"), **where)
