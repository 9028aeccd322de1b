"""The report of a study: a page with verdicts, tables and figures, and the values as a table."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from visionbench.errors import UserError
from visionbench.files import write_whole
from visionbench.report import page
from visionbench.report.page import Html, tag
from visionbench.studies.expand import Plan
from visionbench.studies.report_commands import commands
from visionbench.studies.report_comparison import best_cells, defects
from visionbench.studies.report_contents import Contents, capitalized, listed, with_unfinished
from visionbench.studies.report_facts import about, circumstances, cost, unfinished
from visionbench.studies.report_figures import curves, effects, matrices, tests_of_axes
from visionbench.studies.report_images import images
from visionbench.studies.report_tables import csv_table, latex_table, markdown_table
from visionbench.studies.report_verdicts import STYLE, stage_tables, verdict_figure, verdict_picture
from visionbench.studies.results import Row
from visionbench.studies.spec import Study
from visionbench.studies.verdicts import summary_sentence
from visionbench.text import counted

# File of each format.
FILES = {"html": "report.html", "csv": "report.csv", "markdown": "report.md", "latex": "report.tex"}
FILES |= {"png": "verdicts.png"}


def write_report(
    study: Study,
    plan: Plan,
    rows: Mapping[str, Row],
    folder: Path,
    *,
    notes: Sequence[str] = (),
    formats: Sequence[str] = ("html", "csv"),
) -> list[Path]:
    """Writes the report of a study.

    Args:
        study: Study.
        plan: Plan of the study, made with its rows.
        rows: Rows by the ids of their runs; those of failed and diverged runs are read from the folder too.
        folder: Folder of the study, with its run folders in `runs` where they were trained on this machine.
        notes: Sentences about the rows, which the page shows.
        formats: Formats to write: html, csv, markdown, latex, and png for the picture of the verdicts.

    Returns:
        The files.

    Raises:
        UserError: A format is not known, or a file cannot be written.
    """
    if not formats:
        raise UserError(f"There is no format given; expected some of: {', '.join(FILES)}.")
    for name in formats:
        if name not in FILES:
            raise UserError(f"There is no format {name}; expected some of: {', '.join(FILES)}.")
    contents = Contents(study, plan, with_unfinished(study, plan, rows, folder), folder, notes)
    makers: dict[str, Callable[[Contents], bytes]] = {
        "html": study_page,
        "csv": lambda contents: csv_table(contents).encode(),
        "markdown": lambda contents: markdown_table(contents).encode(),
        "latex": lambda contents: latex_table(contents).encode(),
        "png": lambda contents: verdict_figure(contents).picture()[1],
    }
    paths = []
    for name in dict.fromkeys(formats):
        path = folder / FILES[name]
        content = makers[name](contents)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror or error}); give another folder.") from error
        paths.append(path)
    return paths


def study_page(contents: Contents) -> bytes:
    """Makes the page of a study, a complete HTML file.

    Args:
        contents: Contents of the report.
    """
    study = contents.study
    parts: list[tuple[str, str, list[Html]]] = [
        ("verdicts", "Verdicts" if study.published else "Notes", list(_verdicts(contents))),
        ("about", "The study", list(about(contents))),
        ("values", "Published and measured" if study.published else "Measured", list(_values(contents))),
        ("defects", "What the defects did", list(defects(contents))),
        ("best", "Best cells and main effects", list(_comparison(contents))),
        ("curves", "Learning curves", list(curves(contents))),
        ("confusion", "Confusion matrices", list(matrices(contents))),
        ("images", "Images", list(images(contents))),
        ("cost", "Time and parameters", list(cost(contents))),
        ("runs", "Circumstances", list(circumstances(contents))),
        ("failed", "Failed and diverged runs", list(unfinished(contents))),
        ("commands", "Commands", list(commands(contents))),
    ]
    if not study.published:  # what is asked then is which cell is best
        parts.insert(1, parts.pop([key for key, _, _ in parts].index("best")))
    sections = [page.section(key, heading, *content) for key, heading, content in parts if content]
    return page.page(study.title, "Study report", tag("p", study.source) if study.source else "", sections, style=STYLE)


def _verdicts(contents: Contents) -> Iterator[Html]:
    judged = contents.judged
    if judged:
        sentence = summary_sentence([verdict for _, verdict in judged])
        yield tag("p", f"{capitalized(sentence)}.", class_="lead")
    elif contents.study.published:
        yield tag("p", "Nothing is judged: the study judges none of its published values.", class_="lead")
    if missing := _missing(contents):
        yield page.note(tag("p", missing), kind="warn")
    yield from verdict_picture(contents)
    for sentence in contents.notes:
        yield page.note(tag("p", sentence))


def _missing(contents: Contents) -> str:
    """Sentence about runs without a score; empty where all are finished."""
    planned = len(contents.plan.runs) + sum(entry.count for entry in contents.plan.waiting)
    finished = len(contents.finished)
    if finished == planned:
        return ""
    broken = len(contents.present) - finished
    words = [f"{finished} of {counted(planned, 'run')} {'is' if finished == 1 else 'are'} finished"]
    words += [f"{counted(broken, 'run')} failed or diverged"] if broken else []
    words += [f"{entry.stage} ({entry.protocol}) waits: {entry.reason}" for entry in contents.plan.waiting]
    return f"This study is not complete: {listed(words)}."


def _values(contents: Contents) -> Iterator[Html]:
    stages = contents.study.stages.values()
    for stage in stages:
        if len(stages) > 1:
            yield tag("h3", f"Stage {stage.name}")
        yield from stage_tables(contents, stage)


def _comparison(contents: Contents) -> Iterator[Html]:
    yield from best_cells(contents)
    if cards := list(effects(contents)):
        yield page.figures(cards)
    yield from tests_of_axes(contents)
