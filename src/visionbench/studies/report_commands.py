"""The exact commands that train the runs of a study one by one."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

from visionbench.report import page
from visionbench.report.page import Html, tag
from visionbench.studies.expand import PlannedRun, runs_folder
from visionbench.studies.report_contents import Contents, cell_name, listed
from visionbench.studies.spec import Cell
from visionbench.text import counted


def commands(contents: Contents) -> Iterator[Html]:
    """Makes a table with the commands of each cell.

    Args:
        contents: Contents of the report.
    """
    yield tag(
        "p",
        tag("code", f"visionbench study run {shlex.quote(str(contents.study.path))}"),
        " trains every run that is missing. The commands below train one run each, in a run folder of its own; their "
        f"run files, in {contents.folder / 'cells'}, are written when the study starts the runs.",
    )
    rows = []
    seen: set[str] = set()
    for name, cell, runs in _cells(contents):
        if runs[0].id not in seen:  # another protocol may train the same runs
            seen.add(runs[0].id)
            head = cell_name(cell, name)
            first, *others = (tag("div", _seed(run), " ", _as_code(contents, run)) for run in runs)
            more = page.fold(counted(len(others), "more run"), *others) if others else ""
            rows.append(
                (head if head == name else f"{name}: {head}", listed(runs[0].protocols), page.join([first, more]))
            )
    yield tag("div", page.table(("cell", "protocol", "commands"), rows), class_="commands")


def run_commands(contents: Contents, run: PlannedRun, options: str = "") -> list[str]:
    """Gives the commands that train one run outside of the study: several where it resumes others.

    Args:
        contents: Contents of the report.
        run: Run.
        options: Further options of the last command.
    """
    chain = [run]
    while (source := chain[0].continues) is not None:
        chain.insert(0, contents.plan.runs[source.run])
    target = f"my-{run.id}"  # folder of a run that several commands train further and further
    words = []
    for place, part in enumerate(chain):
        has_module = f"{part.study.module.stem}." in json.dumps(part.config, default=str)
        path = f"PYTHONPATH={shlex.quote(str(part.study.path.parent))} " if has_module else ""
        command = f"{path}visionbench fit --config {shlex.quote(str(run_file(contents, part)))}"
        if len(chain) > 1:
            command += f" {'--resume' if place else '--run_dir'} {target}"
        words.append(command)
    words[-1] += f" {options}" if options else ""
    return words


def run_file(contents: Contents, run: PlannedRun) -> Path:
    """Path of the run file of a run, which is written when the run is started.

    Args:
        contents: Contents of the report.
        run: Run of this study, or of one that it needs.
    """
    folder = runs_folder(contents.folder.parent, run.study.id).parent
    return (contents.folder if run.study is contents.study else folder) / "cells" / f"{run.id}.yaml"


def _cells(contents: Contents) -> Iterator[tuple[str, Cell, list[PlannedRun]]]:
    """Stage, cell and runs of each cell in each protocol."""
    for stage in contents.study.stages.values():
        for protocol in stage.protocols:
            cells: dict[tuple[tuple[str, str], ...], list[PlannedRun]] = {}
            for use, run in contents.plan.using(protocol, stage.name):
                cells.setdefault(tuple(use.cell.items()), []).append(run)
            for cell, runs in cells.items():
                yield stage.name, dict(cell), runs


def _as_code(contents: Contents, run: PlannedRun) -> Html:
    return page.join(tag("code", command) for command in run_commands(contents, run))


def _seed(run: PlannedRun) -> Html:
    use = run.first
    return tag("small", f"seed {use.seed}" + (f", fold {use.fold}" if use.fold is not None else ""))
