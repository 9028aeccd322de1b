"""The values of a study as tables in files: CSV, Markdown and LaTeX."""

import csv
from collections.abc import Iterable, Iterator
from io import StringIO

from visionbench.studies.report_contents import (
    ABSENT,
    Contents,
    cell_name,
    deviation,
    interval_of,
    interval_text,
    mean_and_deviation,
    seeds_text,
)
from visionbench.studies.search import TRIAL
from visionbench.studies.tables import Measured
from visionbench.text import MINUS

# Characters that Markdown and LaTeX read as markup, and those that LaTeX's usual fonts do not have.
MARKDOWN = {character: f"\\{character}" for character in "\\`*_{}[]<>#|~$&"}
LATEX = {character: f"\\{character}" for character in "&%$#_{}"}
LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "[": "{[}", "]": "{]}"}
LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
LATEX |= {MINUS: "$-$", "±": r"$\pm$", ABSENT: "--", "\N{MULTIPLICATION SIGN}": r"$\times$"}
HEAD = ("protocol", "cell", "measure", "printed", "measured", "95 % interval", "seeds", "verdict")


def csv_table(contents: Contents) -> str:
    """Makes a row for each measured value, with full precision.

    Args:
        contents: Contents of the report.
    """
    searches = [stage.search for stage in contents.study.stages.values() if stage.search is not None]
    axes = list(dict.fromkeys([*contents.study.grid, *(name for search in searches for name in (TRIAL, *search.over))]))
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ("epoch", "measure", "published", "seeds", "seeds_asked", "samples", "mean", "sd", "low", "high")
    writer.writerow(("protocol", "stage", *axes, *head, "verdict", "sentence"))
    for entry in contents.measured:
        interval = interval_of(entry) or ("", "")
        values = [
            "" if entry.epoch is None else entry.epoch,
            entry.measure,
            entry.published or "",
            len(entry.values),
            entry.asked,
            entry.items or "",
            *map(_exact, (entry.mean, deviation(list(entry.values.values())), *interval)),
            entry.verdict.kind if entry.verdict is not None else "",
            entry.verdict.sentence if entry.verdict is not None else "",
        ]
        writer.writerow((entry.protocol, entry.stage, *(entry.cell.get(axis, "") for axis in axes), *values))
    return text.getvalue()


def markdown_table(contents: Contents) -> str:
    """Makes a table for each stage.

    Args:
        contents: Contents of the report.
    """
    lines = [f"# {_markdown(contents.study.title)}", ""]
    lines += [_markdown(contents.study.source), ""] if contents.study.source else []
    for stage, entries in _by_stage(contents):
        lines += [f"## {_markdown(stage)}", "", _markdown_row(HEAD), _markdown_row(["---"] * len(HEAD))]
        lines += [*(_markdown_row(map(_markdown, _texts(entry))) for entry in entries), ""]
    return "\n".join(lines)


def latex_table(contents: Contents) -> str:
    """Makes a tabular for each stage, which needs no package.

    Args:
        contents: Contents of the report.
    """
    name = ": ".join(filter(None, [contents.study.title, contents.study.source]))
    lines = [" ".join(f"% {name}".split())]  # a line break ends a comment
    for stage, entries in _by_stage(contents):
        head = " & ".join(map(_latex, HEAD))
        lines += [f"% {' '.join(stage.split())}", r"\begin{tabular}{lllrrrrl}", r"\hline", rf"{head} \\", r"\hline"]
        lines += [rf"{' & '.join(map(_latex, _texts(entry)))} \\" for entry in entries]
        lines += [r"\hline", r"\end{tabular}", ""]
    return "\n".join(lines)


def _by_stage(contents: Contents) -> Iterator[tuple[str, list[Measured]]]:
    for stage in contents.study.stages:
        if entries := contents.of_stage(stage):
            yield stage, entries


def _texts(entry: Measured) -> list[str]:
    name = cell_name(entry.cell, entry.stage, entry.epoch)
    kind = entry.verdict.kind if entry.verdict is not None else ""
    return [
        *(entry.protocol, name, entry.measure, entry.published or ABSENT, mean_and_deviation(entry)),
        *(interval_text(entry), seeds_text(entry), kind),
    ]


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(text: str) -> str:
    return "".join(MARKDOWN.get(character, character) for character in " ".join(text.split()))


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in " ".join(text.split()))


def _exact(value: float | str | None) -> str:
    return repr(float(value)) if isinstance(value, float) else ""
