"""HTML elements with escaped text, and the layout and style of a report's page."""

import base64
import html
import importlib.metadata
from collections.abc import Iterable, Sequence
from typing import Any

from visionbench.report.run_contents import Picture

GENERATOR = "visionbench"
# Elements without an end tag.
VOID = frozenset({"img", "meta", "link", "br"})


class Html(str):
    """Markup; any other text is escaped when it becomes part of markup."""


def safe(content: Any) -> Html:
    """Markup unchanged; anything else as escaped text."""
    return content if isinstance(content, Html) else Html(html.escape(str(content)))


def join(parts: Iterable[Any]) -> Html:
    """Joins pieces of markup or text."""
    return Html("".join(map(safe, parts)))


def tag(element: str, /, *content: Any, **attributes: Any) -> Html:
    """Makes an element.

    Args:
        element: Name of the element, such as `p`.
        content: Markup or text inside of the element.
        attributes: Attributes of the element; an underscore at the end of a name is dropped, any
            other becomes a hyphen, and a value of `None` is omitted.
    """
    attribute_text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    start = f"<{element}{attribute_text}>"
    return Html(start if element in VOID else f"{start}{join(content)}</{element}>")


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], numbers: Iterable[int] = ()) -> Html:
    """Makes a table in a box that scrolls sideways.

    Args:
        head: Names of the columns; empty for a table without a head.
        rows: Rows of cells; the first cell names the row.
        numbers: Indices of the columns that hold numbers.
    """
    number_columns = set(numbers)

    def cells(row: Sequence[Any], first: str, others: str) -> Html:
        return join(
            tag(
                first if column == 0 else others,
                cell,
                class_="number" if column in number_columns else None,
                scope=("col" if others == "th" else "row" if column == 0 else None),
            )
            for column, cell in enumerate(row)
        )

    body = tag("tbody", *(tag("tr", cells(row, "th", "td")) for row in rows))
    top = tag("thead", tag("tr", cells(head, "th", "th"))) if head else Html("")
    return tag("div", tag("table", top, body), class_="wide", tabindex="0")


def figure(picture: Picture, heading: str, description: str, alone: bool = False) -> Html:
    """Makes a white card with a heading, a description and a picture.

    Args:
        picture: Picture, which is embedded in the page.
        heading: Heading above the picture.
        description: Text below the heading; also the alternative text of the picture.
        alone: Whether the card has a line of its own.
    """
    data = base64.b64encode(picture.content).decode("ascii")
    image = tag(
        "img",
        src=f"data:{picture.media_type};base64,{data}",
        alt=f"{heading}. {description}".strip(),
        width=picture.width,
        height=picture.height,
        style=f"--width: {picture.width}px",
    )
    caption = tag("figcaption", tag("h3", heading), tag("p", description) if description else "")
    return tag(
        "figure",
        caption,
        tag("div", image, class_="card", tabindex="0"),
        class_="alone" if alone else None,
        style=f"--width: {picture.width}px",
    )


def figures(parts: Iterable[Html]) -> Html:
    """Puts cards side by side, as many as fit."""
    return tag("div", *parts, class_="figures")


def section(key: str, heading: str, *content: Any) -> tuple[str, str, Html]:
    """Makes a section of the page: its anchor, its heading and its markup."""
    return key, heading, tag("section", tag("h2", heading), *content, id=key)


def note(*content: Any, kind: str = "") -> Html:
    """Makes a highlighted note; kind `warn` makes it a warning."""
    return tag("div", *content, class_=f"note {kind}".strip(), role="note")


def fold(summary: str, *content: Any) -> Html:
    """Makes content that is hidden until the reader opens it."""
    return tag("details", tag("summary", summary), *content)


def swatch(letter: str, color: str) -> Html:
    """Makes a mark of a run: its letter and its color."""
    return tag("span", tag("i", style=f"background: {color}"), letter, class_="swatch")


def page(title: str, above: str, below: Any, sections: Sequence[tuple[str, str, Html]], style: str = "") -> bytes:
    """Makes the complete HTML file.

    Args:
        title: Title of the page.
        above: Line above the title.
        below: Content below the title.
        sections: Sections made by `section`.
        style: Further rules of style.
    """
    version = importlib.metadata.version("visionbench")
    head = join(
        [
            tag("meta", charset="utf-8"),
            tag("meta", name="generator", content=f"{GENERATOR} {version}"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            # The browser enforces that the page loads nothing and runs no script.
            tag(
                "meta",
                http_equiv="Content-Security-Policy",
                content="default-src 'none'; img-src data:; style-src 'unsafe-inline'",
            ),
            tag("link", rel="icon", href="data:,"),
            tag("title", title),
            tag("style", Html(STYLE + style)),
        ]
    )
    links = [tag("a", heading, href=f"#{key}") for key, heading, _ in sections]
    body = join(
        [
            tag("header", tag("p", above, class_="above"), tag("h1", title), tag("div", below, class_="below")),
            tag("nav", *links, aria_label="Parts of this page") if len(links) > 1 else "",
            tag("main", *(content for *_, content in sections)),
            tag("footer", tag("p", f"Written by visionbench {version}. This file contains everything that it shows.")),
        ]
    )
    text = f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'
    return text.encode("utf-8", "backslashreplace")


STYLE = """
:root {
  color-scheme: light dark;
  --ground: #faf9f7; --paper: #ffffff; --ink: #1d1e20; --soft: #5f6266; --line: #e2e0db; --accent: #1f5c99;
  --warn-ground: #fdf4e3; --warn-line: #e2b55b; --code: #f1efea; --shade: #0003;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #141517; --paper: #1c1d20; --ink: #e8e6e1; --soft: #a2a4a8; --line: #303236; --accent: #8ab8ea;
    --warn-ground: #2a2314; --warn-line: #8a6a25; --code: #232529; --shade: #000b;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0 auto; max-width: 1120px; padding: 2.5rem 1.5rem 4rem; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: anywhere;
}
p { margin: 0 0 .75rem; max-width: 44rem; }
a { color: var(--accent); }
h1 { font-size: clamp(1.7rem, 5vw, 2.4rem); line-height: 1.15; letter-spacing: -.02em; font-weight: 650; margin: 0; }
h2 { font-size: 1.3rem; letter-spacing: -.01em; font-weight: 650; margin: 0 0 1rem; }
h3 { font-size: 1rem; font-weight: 600; margin: 0; }
.above { color: var(--soft); font-size: .85rem; margin: 0 0 .35rem; }
.below { color: var(--soft); margin-top: .5rem; }
.below p { margin: 0; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 1.5rem 0 0; padding: .75rem 0;
  border-top: 1px solid var(--line); border-bottom: 1px solid var(--line); font-size: .9rem; }
nav a { text-decoration: none; }
nav a:hover, nav a:focus { text-decoration: underline; }
section { margin-top: 3rem; }
.note { border-left: 3px solid var(--line); padding: .15rem 0 .15rem 1rem; margin: 0 0 1rem; color: var(--soft); }
.note p:last-child, .note ul:last-child { margin-bottom: 0; }
.note ul { margin: 0; padding-left: 1.1rem; }
.note.warn { background: var(--warn-ground); border-color: var(--warn-line); color: var(--ink); padding: .75rem 1rem;
  border-radius: 0 6px 6px 0; }
.result { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: 1.5rem 2rem;
  margin: 0 0 1.5rem; }
.result div:first-child { grid-column: span 2; }
.result dt { color: var(--soft); font-size: .85rem; }
.result dd { margin: 0; }
.result .value { font-size: 1.6rem; line-height: 1.25; font-weight: 600; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.result div:first-child .value { font-size: clamp(2.6rem, 9vw, 3.6rem); line-height: 1.05; font-weight: 650; }
.result .words { color: var(--soft); font-size: .85rem; line-height: 1.45; }
.wide { overflow-x: auto; margin: 0 0 1.25rem; border: 1px solid var(--line); border-radius: 8px;
  /* A shadow at each edge behind which content is hidden; a background that scrolls covers it at the end. */
  background: linear-gradient(90deg, var(--paper) 40%, transparent) left / 2.5rem 100% no-repeat local,
    linear-gradient(270deg, var(--paper) 40%, transparent) right / 2.5rem 100% no-repeat local,
    linear-gradient(90deg, var(--shade), transparent) left / .8rem 100% no-repeat scroll,
    linear-gradient(270deg, var(--shade), transparent) right / .8rem 100% no-repeat scroll, var(--paper); }
section > h3 { margin-top: 1.75rem; }
section > h2 + h3 { margin-top: 0; }
h3 + .wide, h3 + .square, h3 + p { margin-top: .4rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .85rem; text-align: left; vertical-align: top; border-top: 1px solid var(--line);
  overflow-wrap: normal; }
tbody tr:first-child > *, thead th { border-top: 0; }
thead + tbody tr:first-child > * { border-top: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 500; font-size: .8rem; vertical-align: bottom; }
thead th.number { white-space: normal; }
tbody th { font-weight: 500; }
.number { text-align: right; white-space: nowrap; }
.facts th { width: 11rem; color: var(--soft); font-weight: 400; }
.facts td { overflow-wrap: anywhere; }
code, pre { font: .85em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { background: var(--code); border-radius: 4px; padding: .1em .3em; }
pre { overflow-x: auto; background: var(--code); border-radius: 8px; padding: 1rem; margin: 0; overflow-wrap: normal; }
.figures { display: flex; flex-wrap: wrap; gap: 2rem 1.25rem; margin: 1.5rem 0; }
h2 + .figures { margin-top: 0; }
figure { margin: 0; flex: none; width: min(100%, calc(var(--width) + 1.5rem + 2px)); }
figure.alone { margin-right: 100%; }
figcaption { margin-bottom: .6rem; }
figcaption p { color: var(--soft); font-size: .875rem; margin: .15rem 0 0; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: .75rem; overflow-x: auto; }
.card img { display: block; width: var(--width); max-width: 100%; height: auto; }
details { margin: 0 0 1rem; }
summary { cursor: pointer; color: var(--accent); padding: .25rem 0; }
details[open] > summary { margin-bottom: .6rem; }
.square { max-width: 22rem; }
.source { color: var(--soft); font-size: .85rem; }
.swatch { display: inline-flex; align-items: center; gap: .4em; font-weight: 600; white-space: nowrap; }
.swatch i { width: .75em; height: .75em; border-radius: 50%; flex: none; }
.same { color: var(--soft); }
footer { margin-top: 4rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--soft);
  font-size: .85rem; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
@media (max-width: 700px) {
  body { padding: 1.5rem 1rem 3rem; }
  section { margin-top: 2.25rem; }
  .result { grid-template-columns: 1fr 1fr; gap: 1.1rem 1rem; }
  .figures { display: block; }
  figure, figure.alone { margin: 0 0 1.75rem; width: auto; }
  /* Text in a picture stays legible: the picture shrinks to 0.7 at most and scrolls sideways in its card. */
  .card img { max-width: none; width: max(min(100%, var(--width)), calc(.7 * var(--width))); }
  .facts table, .facts tbody, .facts tr, .facts th, .facts td { display: block; width: auto; }
  .facts th { padding-bottom: 0; font-size: .8rem; }
  .facts td { border-top: 0; padding-top: 0; }
}
@media print {
  :root { --ground: #fff; --paper: #fff; --ink: #000; --soft: #444; --line: #ccc; --accent: #000; }
  body { max-width: none; padding: 0; font-size: 11pt; }
  nav { display: none; }
  figure, tr, .note { break-inside: avoid; }
  .card, .wide { overflow: visible; }
  .card img { max-width: 100%; }
}
"""
