"""The verdicts of a study on its page: the picture of all of them, and the tables of a stage."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from visionbench.errors import UserError
from visionbench.evaluation.intervals import MIN_SAMPLES, wilson_interval
from visionbench.report import page
from visionbench.report.page import Html, tag
from visionbench.studies.expand import is_mean_of_folds
from visionbench.studies.report_contents import (
    ABSENT,
    SMALL_SET,
    Contents,
    capitalized,
    cell_name,
    interval_of,
    interval_text,
    listed,
    mean_and_deviation,
    measure_words,
    number,
    seeds_text,
    signed,
    validated_instead,
)
from visionbench.studies.spec import SECONDS, Stage, is_share
from visionbench.studies.tables import Measured
from visionbench.studies.verdicts import Verdict, printed_range
from visionbench.text import MINUS, counted

if TYPE_CHECKING:
    from visionbench.figures.figure import Figure

SPLIT_ITEMS = {
    "train": "training samples",
    "val": "validation samples",
    "test": "test samples",
    "train_eval": "training samples in evaluation mode",
    "augmented_val": "augmented validation samples",
}
# Shape of each kind of verdict, drawn in a square of 12: known without its color.
SHAPES = {
    "reproduced": tag("circle", cx=6, cy=6, r=5),
    "not reproduced": tag("path", d="M2 2 10 10M10 2 2 10", fill="none", stroke="currentColor", stroke_width=2.6),
    "inconclusive": tag("path", d="M6 1 11 6 6 11 1 6Z", fill="none", stroke="currentColor", stroke_width=1.8),
    "not comparable": tag("path", d="M6 1 11.5 11H.5Z"),
    "incomplete": tag("circle", cx=6, cy=6, r=4.4, fill="none", stroke="currentColor", stroke_width=1.8),
    "not judged": tag("path", d="M1 6H11", stroke="currentColor", stroke_width=2.4),
}
# A stage with more rows than this shows the values without a verdict only when the reader opens them.
MAX_OPEN_ROWS = 16

STYLE = """
:root { --reproduced: #1c6b39; --not-reproduced: #b3261e; --inconclusive: #8a5a00; --not-comparable: #63499c;
  --incomplete: #5f6266; --not-judged: #5f6266; }
@media (prefers-color-scheme: dark) {
  :root { --reproduced: #7ccf97; --not-reproduced: #ff9a8f; --inconclusive: #e6b85c; --not-comparable: #c2aff3;
    --incomplete: #a2a4a8; --not-judged: #a2a4a8; }
}
@media print {
  :root { --reproduced: #1c6b39; --not-reproduced: #b3261e; --inconclusive: #8a5a00; --not-comparable: #63499c;
    --incomplete: #444; --not-judged: #444; }
}
.lead { font-size: clamp(1.15rem, 3.4vw, 1.5rem); line-height: 1.3; font-weight: 600; letter-spacing: -.01em;
  max-width: 50rem; margin: 0 0 1.25rem; }
.kind { display: inline-flex; align-items: center; gap: .4em; font-weight: 600; white-space: nowrap; }
.kind svg { width: .75em; height: .75em; flex: none; fill: currentColor; }
.key { display: flex; flex-wrap: wrap; gap: .3rem 1.25rem; margin: 0 0 1rem; padding: 0; list-style: none;
  font-size: .85rem; color: var(--soft); }
.key b { font-weight: 400; }
.verdicts { margin: 0 0 1.75rem; padding: 0; list-style: none; border: 1px solid var(--line); border-radius: 8px;
  background: var(--paper); }
.verdicts > li { display: grid; grid-template-columns: 13rem minmax(0, 1fr) 15rem; column-gap: 1.25rem;
  align-items: center; padding: .45rem 1rem; border-top: 1px solid var(--line); font-size: .875rem; line-height: 1.35; }
.verdicts > li:first-child { border-top: 0; }
.verdicts .what small, .verdicts .said small { display: block; color: var(--soft); font-size: .8rem;
  font-variant-numeric: tabular-nums; }
.verdicts .scale { color: var(--soft); font-size: .8rem; padding-top: .6rem; }
.strip { position: relative; height: 1.5rem; }
.strip > * { position: absolute; top: 50%; }
.strip .zero { left: 50%; top: -.5rem; bottom: -.5rem; border-left: 1px dashed var(--soft); }
.strip .printed { top: .3rem; bottom: .3rem; background: var(--line); min-width: 2px; }
.strip .range { border-top: 3px solid currentColor; margin-top: -1.5px; opacity: .55; min-width: 2px; }
.strip svg { width: 12px; height: 12px; margin: -6px 0 0 -6px; fill: currentColor; }
.strip .off { margin-top: -.75em; font-weight: 700; line-height: 1.5em; }
.ticks { display: grid; grid-template-columns: 1fr auto 1fr; white-space: nowrap; }
.ticks span:last-child { text-align: right; }
.stage-table td, .stage-table th { font-size: .875rem; }
.stage-table tbody th { min-width: 8rem; }
.stage-table .label { white-space: nowrap; }
.stage-table .measure th { background: var(--code); font-weight: 600; text-align: left; }
.stage-table .verdict { min-width: 17rem; white-space: normal; }
.stage-table small { color: var(--soft); display: block; font-size: .8rem; white-space: normal; }
.commands td:last-child, .broken td:last-child { overflow-wrap: anywhere; }
.commands td > div, .commands details > div { margin-bottom: .3rem; }
.commands code { display: block; width: fit-content; }
.commands small { color: var(--soft); }
.commands details { margin: 0; }
.note li { margin-bottom: .5rem; }
.effects td:nth-child(5) { min-width: 15rem; }
.broken td:nth-child(3) { min-width: 15rem; }
@media (max-width: 700px) {
  /* The name of a row stays in sight while its values scroll sideways. */
  .wide tbody th[scope=row] { position: sticky; left: 0; background: var(--paper); min-width: 8rem; max-width: 8rem; }
  .facts tbody th[scope=row], .commands tbody th[scope=row], .broken tbody th[scope=row] { position: static;
    max-width: none; }
  .stage-table .label { white-space: normal; }
  .stage-table .measure th > * { position: sticky; left: .85rem; }
  .commands table, .commands tbody, .commands tr, .commands th, .commands td,
  .broken table, .broken tbody, .broken tr, .broken th, .broken td { display: block; width: auto; }
  .commands thead, .broken thead { display: none; }
  .commands .wide tbody td, .broken .wide tbody td { border-top: 0; padding-top: 0; }
  .verdicts > li { grid-template-columns: minmax(0, 1fr) auto; row-gap: .2rem; padding: .6rem .85rem; }
  .verdicts .strip, .verdicts .ticks { grid-column: 1 / -1; grid-row: 2; }
  .verdicts .said { text-align: right; }
  .verdicts .scale .what, .verdicts .scale .said { grid-row: 1; }
}
"""


def mark(kind: str) -> Html:
    """Shape of a verdict, of the size of the text."""
    return tag("svg", SHAPES[kind], viewBox="0 0 12 12", aria_hidden="true")


def color_of(kind: str) -> str:
    """Color of a verdict, as a style."""
    return f"color: var(--{kind.replace(' ', '-')})"


def named(kind: str) -> Html:
    """Shape and word of a verdict, in its color."""
    return tag("span", mark(kind), kind, class_="kind", style=color_of(kind))


def verdict_picture(contents: Contents) -> Iterator[Html]:
    """Draws all verdicts: the interval of one more run around the printed value, a row for each judged value."""
    judged = contents.judged
    if not judged:
        return
    kinds = [kind for kind in SHAPES if any(verdict.kind == kind for _, verdict in judged)]
    yield tag("ul", *(tag("li", named(kind), tag("b", f" {_count(judged, kind)}")) for kind in kinds), class_="key")
    yield tag(
        "p",
        "A row for each judged value. Dashed line: the printed value; gray: the values that are rounded to it. Mark: "
        "mean of the runs. Bar: 95 % interval for one more run; a value whose bar does not reach the gray is not "
        "reproduced, or inconclusive where other samples alone may explain it.",
        class_="same",
    )
    for unit, entries in _by_unit(judged).items():
        limit = _limit(entries)
        several = len({entry.stage for entry, _ in entries}) > 1
        rows = [_row(entry, verdict, limit, several) for entry, verdict in entries]
        yield tag("ul", _axis(limit, unit), *rows, class_="verdicts")


def verdict_figure(contents: Contents) -> "Figure":
    """Draws all verdicts as one picture for a document.

    Args:
        contents: Contents of the report.

    Raises:
        UserError: Nothing is judged.
    """
    from visionbench.figures.verdicts import VerdictRow, draw_verdicts  # here, since matplotlib comes with it

    panels = {}
    for unit, entries in _by_unit(contents.judged).items():
        several = len({entry.stage for entry, _ in entries}) > 1
        measures = {
            stage: {e.measure for e, _ in entries if e.stage == stage} for stage in {e.stage for e, _ in entries}
        }
        rows = []
        for entry, verdict in entries:
            if (printed := _as_number(verdict.printed)) is None:
                continue
            name = _row_name(entry, several)
            if len(measures[entry.stage]) > 1:
                name += f": {measure_words(entry.measure)}"
            ends = printed_range(verdict.printed)
            rows.append(VerdictRow(name, printed, ends, verdict.mean, verdict.interval, verdict.kind))
        if rows:
            panels[unit] = (rows, _limit(entries))
    if not panels:
        raise UserError(f"{contents.study.path} judges no value, so that there is no picture of verdicts.")
    return draw_verdicts(contents.study.title, panels)


def _by_unit(judged: Sequence[tuple[Measured, Verdict]]) -> dict[str, list[tuple[Measured, Verdict]]]:
    by_unit: dict[str, list[tuple[Measured, Verdict]]] = {}
    for entry, verdict in judged:
        unit = "points" if is_share(entry.measure) else measure_words(entry.measure)
        by_unit.setdefault(unit, []).append((entry, verdict))
    return by_unit


def _row_name(entry: Measured, several_stages: bool) -> str:
    name = cell_name(entry.cell, entry.stage, entry.epoch)
    return f"{entry.stage}: {name}" if several_stages and name != entry.stage else name


def _count(judged: Sequence[tuple[Measured, Verdict]], kind: str) -> int:
    return sum(verdict.kind == kind for _, verdict in judged)


def _axis(limit: float, unit: str) -> Html:
    end = f"{limit:g}"
    names = (f"{MINUS}{end}", "printed value", f"+{end}")
    ticks = tag("span", *(tag("span", name) for name in names), class_="ticks")
    words = "points above or below" if unit == "points" else f"{unit}, above or below"
    return tag("li", tag("span", words, class_="what"), ticks, tag("span", "", class_="said"), class_="scale")


def _row(entry: Measured, verdict: Verdict, limit: float, several_stages: bool) -> Html:
    what = tag(
        "span",
        _row_name(entry, several_stages),
        tag("small", measure_words(entry.measure)),
        class_="what",
    )
    measured = (
        f"{verdict.printed} printed, {number(entry.measure, verdict.mean, verdict.printed)} measured"
        if verdict.mean is not None
        else f"{verdict.printed} printed, no run"
    )
    said = tag("span", named(verdict.kind), tag("small", measured), class_="said", title=verdict.sentence)
    return tag("li", what, _strip(verdict, limit), said)


def _strip(verdict: Verdict, limit: float) -> Html:
    """Draws the printed value, the interval and the mean, as differences from the printed value."""
    printed = _as_number(verdict.printed)
    if printed is None:
        return tag("span", class_="strip")
    color = color_of(verdict.kind)
    lowest, highest = printed_range(verdict.printed)
    parts = [_bar("printed", lowest - printed, highest - printed, limit), tag("span", class_="zero")]
    if verdict.interval is not None:
        low, high = (end - printed for end in verdict.interval)
        if low < limit and high > -limit:
            parts.append(_bar("range", low, high, limit, color))
    if verdict.mean is not None:
        difference = verdict.mean - printed
        if abs(difference) <= limit:
            style = f"left: {_place(difference, limit):.2f}%; {color}"
            parts.append(tag("svg", SHAPES[verdict.kind], viewBox="0 0 12 12", style=style))
        else:  # outside of the picture: an arrow with the distance
            text = f"{abs(difference):.3g}"
            side = "right: 0" if difference > 0 else "left: 0"
            arrow = f"+{text} \N{RIGHTWARDS ARROW}" if difference > 0 else f"\N{LEFTWARDS ARROW} {MINUS}{text}"
            parts.append(tag("span", arrow, class_="off", style=f"{side}; {color}"))
    return tag("span", *parts, class_="strip", aria_hidden="true")


def _bar(kind: str, low: float, high: float, limit: float, style: str = "") -> Html:
    start, end = _place(low, limit), _place(high, limit)
    return tag("span", class_=kind, style=f"left: {start:.2f}%; width: {end - start:.2f}%; {style}".rstrip("; "))


def _place(difference: float, limit: float) -> float:
    """Position of a difference from the printed value, in percent of the width."""
    return min(100.0, max(0.0, 50 + 50 * difference / limit))


def _limit(entries: Sequence[tuple[Measured, Verdict]]) -> float:
    """Difference at the edge of the picture: a round number that most intervals fit into, whatever the outliers."""
    reaches = []
    for _, verdict in entries:
        printed = _as_number(verdict.printed)
        if printed is None or verdict.mean is None:
            continue
        ends = verdict.interval or (verdict.mean, verdict.mean)
        reaches.append(max(abs(end - printed) for end in ends))
    if not reaches:
        return 1.0
    middle = sorted(reaches)[len(reaches) // 2]
    widest = max([reach for reach in reaches if reach <= 4 * middle], default=middle)
    if widest <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(widest))
    return float(
        next(step * unit for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * unit >= 1.02 * widest or step == 10)
    )


def _as_number(printed: str) -> float | None:
    try:
        return float(printed)
    except ValueError:
        return None


def stage_tables(contents: Contents, stage: Stage) -> Iterator[Html]:
    """Makes the table of a stage: printed and measured values of all protocols, with verdicts.

    Args:
        contents: Contents of the report.
        stage: Stage.
    """
    entries = contents.of_stage(stage.name)
    if not entries:
        yield tag("p", "No run of this stage is finished.")
        return
    judged = list(dict.fromkeys(entry.measure for entry in entries if entry.judged))
    others = list(dict.fromkeys(entry.measure for entry in entries if entry.measure not in judged))
    yield tag("p", _caption(contents, stage, entries), class_="same")
    rows = len({(tuple(entry.cell.items()), entry.epoch, entry.measure) for entry in entries})
    if rows > MAX_OPEN_ROWS and not any(entry.published is not None for entry in entries):
        cells = len({tuple(entry.cell.items()) for entry in entries})
        yield page.fold(f"All {cells} cells", _StageTable(contents, stage, entries, [*judged, *others]).html())
    elif judged and others and rows > MAX_OPEN_ROWS:
        yield _StageTable(contents, stage, entries, judged).html()
        names = listed([measure_words(measure) for measure in others])
        yield page.fold(f"Shown, not judged: {names}", _StageTable(contents, stage, entries, others).html())
    else:
        yield _StageTable(contents, stage, entries, [*judged, *others]).html()


def _caption(contents: Contents, stage: Stage, entries: Sequence[Measured]) -> str:
    words = [f"Mean ± standard deviation over {counted(len(stage.seeds), 'seed')}"]
    if stage.more_seeds:
        cells = [cell_name(cell, stage.name) for cell in stage.more_seeds_of]
        words.append(f"{len(stage.seeds) + len(stage.more_seeds)} seeds of {listed(cells)}")
    if stage.folds is not None:
        words.append(f"{stage.folds} folds pooled in each")
        means = [entry.measure for entry in entries if is_mean_of_folds(entry.measure, entry.epoch)]
        if means := [measure_words(measure) for measure in dict.fromkeys(means) if measure != SECONDS]:
            words.append(f"of {listed(means)} the mean of the folds")
    words.append("accuracies in percent")
    if any(entry.epoch is None for entry in entries):
        words.append("the result is the last epoch" if stage.last_epoch else "the result is the best epoch")
    words += _items(contents, entries)
    text = "; ".join(words) + "."
    if len({tuple(entry.cell.items()) for entry in entries if interval_of(entry)}) > 1:
        text += " Intervals have the spread of all cells together, unless that of a cell clearly differs."
    if any(small_set_text(entry) for entry in entries):
        text += " Wilson: 95 % interval of a single accuracy as high as the mean, on that many samples."
    chosen = [
        f"{choice.protocol}: {cell_name(choice.cell, stage.name)}"
        f"{f' (seed {choice.seed})' if choice.seed is not None else ''}, chosen by {choice.by}"
        for choice in contents.plan.choices
        if choice.stage == stage.name
    ]
    return f"{text} Cell of {'; '.join(chosen)}." if chosen else text


Place = tuple[tuple[tuple[str, str], ...], int | None]
"""Labels of a cell, and the epoch of its value."""


def _items(contents: Contents, entries: Sequence[Measured]) -> list[str]:
    """Numbers of samples that the values are of, by protocol where the protocols measure different ones."""
    by_split: dict[str, dict[str, list[str]]] = {}
    for entry in entries:
        split = entry.measure.rpartition(" ")[2].partition("/")[0]
        if entry.items:
            defects = contents.study.protocols[entry.protocol].defects
            instead = validated_instead(defects) if split == "val" else ""
            text = f"{entry.items:,} {SPLIT_ITEMS.get(split, split)}{f', which are {instead}' if instead else ''}"
            protocols = by_split.setdefault(split, {}).setdefault(text, [])
            protocols += [entry.protocol] if entry.protocol not in protocols else []
    if all(len(texts) == 1 for texts in by_split.values()):
        return [listed([text for texts in by_split.values() for text in texts])] if by_split else []
    return [f"{listed(names)}: {text}" for texts in by_split.values() for text, names in texts.items()]


class _StageTable:
    """Table of some measures of a stage: a row for each cell and epoch, a column for each protocol.

    Args:
        contents: Contents of the report.
        stage: Stage.
        entries: What was measured in the stage.
        measures: Measures that the table shows.
    """

    def __init__(self, contents: Contents, stage: Stage, entries: Sequence[Measured], measures: Sequence[str]) -> None:
        self.stage, self.measures = stage, measures
        self.entries = [entry for entry in entries if entry.measure in measures]
        self.protocols, headings = _protocol_columns(stage, self.entries)
        self.has_printed = any(entry.published is not None for entry in self.entries)
        self.has_verdicts = any(entry.verdict is not None for entry in self.entries)
        published = contents.study.published_protocol
        self.with_interval: str | None = published if published in self.protocols else self.protocols[0]
        if not any(interval_of(entry) for entry in self.entries if entry.protocol == self.with_interval):
            self.with_interval = None
        self.head = ["cell", *(["printed"] if self.has_printed else [])]
        for protocol, heading in zip(self.protocols, headings, strict=True):
            self.head.append("measured" if contents.is_plain else heading)
            self.head += ["95 % interval for one more run"] if protocol == self.with_interval else []
        self.head += ["verdict"] if self.has_verdicts else []

    def html(self) -> Html:
        """Makes the table in a box that scrolls sideways."""
        columns = [tag("th", name, scope="col", class_=self._class(place)) for place, name in enumerate(self.head)]
        bodies = [self._body(measure) for measure in self.measures]
        table = tag("table", tag("thead", tag("tr", *columns)), *bodies)
        return tag("div", table, class_="wide stage-table", tabindex="0")

    def _class(self, place: int) -> str | None:
        is_verdict = self.has_verdicts and place == len(self.head) - 1
        return None if place == 0 else "verdict" if is_verdict else "number"

    def _body(self, measure: str) -> Html:
        by_place: dict[Place, dict[str, Measured]] = {}
        for entry in self.entries:
            if entry.measure == measure:
                by_place.setdefault((tuple(entry.cell.items()), entry.epoch), {})[entry.protocol] = entry
        words = tag("span", measure_words(measure), " ", tag("code", measure))
        heading = tag("tr", tag("th", words, colspan=len(self.head), scope="rowgroup"), class_="measure")
        rows = [self._row(by_place[place]) for place in sorted(by_place, key=self._order)]
        return tag("tbody", heading, *rows)

    def _row(self, by_protocol: dict[str, Measured]) -> Html:
        entries = list(by_protocol.values())
        values: list[object] = [_unbroken(cell_name(entries[0].cell, self.stage.name, entries[0].epoch))]
        if self.has_printed:
            values.append(next((e.published for e in entries if e.published is not None), ABSENT))
        for protocol in self.protocols:
            found = by_protocol.get(protocol)
            values.append(_measured(found) if found is not None else ABSENT)
            if protocol == self.with_interval:
                values.append(interval_text(found) if found is not None else ABSENT)
        if self.has_verdicts:
            values.append(next((_verdict_cell(e, e.verdict) for e in entries if e.verdict is not None), ABSENT))
        name, *others = values
        cells = [tag("td", value, class_=self._class(place)) for place, value in enumerate(others, 1)]
        return tag("tr", tag("th", name, scope="row"), *cells)

    def _order(self, place: Place) -> tuple[int, int]:
        cells = [tuple(cell.items()) for cell in self.stage.cells]
        number = cells.index(place[0]) if place[0] in cells else len(cells)
        return number, -1 if place[1] is None else place[1]


def _unbroken(name: str) -> Html:
    """Name of a cell, broken between its labels alone."""
    return page.join(
        page.join([" " if place else "", tag("span", f"{part}{',' * (place < name.count(', '))}", class_="label")])
        for place, part in enumerate(name.split(", "))
    )


def _protocol_columns(stage: Stage, entries: Sequence[Measured]) -> tuple[list[str], list[str]]:
    """Protocols that have a column of their own, and its heading; those with the same values share one."""
    values: dict[str, dict[object, dict[int, float]]] = {}
    for entry in entries:
        place = (tuple(entry.cell.items()), entry.epoch, entry.measure)
        values.setdefault(entry.protocol, {})[place] = entry.values
    shared: list[list[str]] = []
    for protocol in stage.protocols:
        if protocol not in values:
            continue
        same = next((names for names in shared if values[names[0]] == values[protocol]), None)
        if same is None:
            shared.append([protocol])
        else:
            same.append(protocol)
    return [names[0] for names in shared], [listed(names) for names in shared]


def _measured(entry: Measured) -> Html:
    details = []
    if len(entry.values) != entry.asked:
        failed = f", {counted(entry.unfinished, 'run')} failed or diverged" if entry.unfinished else ""
        details.append(f"{seeds_text(entry)}{failed}")
    if (wilson := small_set_text(entry)) is not None:
        details.append(wilson.replace(" ", "\N{NO-BREAK SPACE}"))
    return page.join([mean_and_deviation(entry), *(tag("small", text) for text in details)])


def small_set_text(entry: Measured) -> str | None:
    """The interval of a single accuracy on a small set of samples; `None` for other values.

    Args:
        entry: Measured value.
    """
    if entry.mean is None or not entry.items or entry.items > SMALL_SET or not is_share(entry.measure):
        return None
    if not entry.measure.endswith("/acc"):
        return None
    if entry.items < MIN_SAMPLES:
        return f"{counted(entry.items, 'sample')}: too few for an interval"
    low, high = wilson_interval(round(entry.mean / 100 * entry.items), entry.items)
    return f"Wilson: {100 * low:.1f} to {100 * high:.1f}"


def _verdict_cell(entry: Measured, verdict: Verdict) -> Html:
    reason = verdict.sentence.removeprefix(verdict.kind).lstrip(": ")
    details = [f"{capitalized(reason)}."] if reason else []
    if verdict.mean is not None and (printed := _as_number(verdict.printed)) is not None:
        difference = signed(entry.measure, verdict.mean - printed, verdict.printed)
        details.append(f"Measured minus printed: {difference}.")
    return page.join([named(verdict.kind), tag("small", " ".join(details))])
