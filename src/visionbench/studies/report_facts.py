"""Facts on a study's page: source and choices, time and parameters, test openings, environment, failed runs."""

from collections import Counter
from collections.abc import Iterator, Sequence

from visionbench.evaluation.ledger import LEDGER_FILE, Ledger
from visionbench.report import page
from visionbench.report.page import Html, tag
from visionbench.runs.identity import flat
from visionbench.studies.expand import PlannedRun
from visionbench.studies.jobs import LOG_FILE
from visionbench.studies.report_comparison import mean_text
from visionbench.studies.report_contents import ABSENT, Contents, cell_name, days, listed
from visionbench.studies.results import Row
from visionbench.studies.spec import SECONDS, is_share
from visionbench.text import counted, duration


def about(contents: Contents) -> Iterator[Html]:
    """Makes a table of what was published and how it is judged, and a list of what the study chose.

    Args:
        contents: Contents of the report.
    """
    study = contents.study
    seeds = listed([str(seed) for seed in study.seeds])
    facts = [("Source", study.source)] if study.source else []
    facts += [("Study file", tag("code", str(study.path))), ("Seeds", seeds)]
    for protocol in study.protocols.values() if not contents.is_plain else ():
        words = [*protocol.defects] or ["no defect"]
        is_published = study.published and protocol.name == study.published_protocol
        published = "; the published values are of this protocol" if is_published else ""
        facts.append((f"Protocol {protocol.name}", f"{listed(words)}{published}"))
        if protocol.set:
            options = [f"{name}: {value}" for name, value in flat(protocol.set).items()]
            facts.append((f"Options of {protocol.name}", "; ".join(options)))
    tolerances = []
    for name, value in study.tolerance.items():
        unit = f" point{'s' * (value != 1)}" if not name or is_share(name) else ""
        tolerances.append(f"{value:g}{unit}{f' for {name}' if name else ''}")
    if study.published:
        facts.append(
            ("Tolerance", f"{listed(tolerances)}: half the width of the widest interval of a reproduced value")
        )
    yield tag("div", page.table((), facts), class_="facts")
    if study.choices:
        yield tag("h3", "Choices that the source leaves open")
        yield tag("ul", *(tag("li", choice) for choice in study.choices))


def cost(contents: Contents) -> Iterator[Html]:
    """Makes a table of the time and the parameters of each cell.

    Args:
        contents: Contents of the report.
    """
    rows = []
    for stage in contents.study.stages.values():
        for group in contents.groups[stage.name]:
            for cell in group.cells:
                finished = [row for row in cell.rows if row.is_finished]
                if finished:
                    name = cell_name(cell.cell, stage.name)
                    rows.append((name if name == stage.name else f"{stage.name}: {name}", group.name, *_cost(finished)))
    if not rows:
        yield tag("p", "No run is finished.")
        return
    total, computing = sum(row.seconds for row in contents.finished), sum(row.cpu_seconds for row in contents.finished)
    yield tag(
        "p",
        f"{counted(len(contents.finished), 'finished run')}: {duration(total)} of training, {duration(computing)} of "
        "processor time. Times are those of single runs, which share the machine with the runs beside them.",
    )
    head = ("cell", "protocol", "parameters", "trained", "epochs", "seconds a run", "processor seconds", "runs")
    yield page.table(head, rows, range(2, 8))


def _cost(rows: Sequence[Row]) -> Iterator[str]:
    for values in ([row.parameters for row in rows], [row.trainable for row in rows], [row.epochs for row in rows]):
        yield f"{min(values):,}" if min(values) == max(values) else f"{min(values):,} to {max(values):,}"
    for times in ([row.seconds for row in rows], [row.cpu_seconds for row in rows]):
        yield mean_text(SECONDS, times)
    yield f"{len(rows):,}"


def circumstances(contents: Contents) -> Iterator[Html]:
    """Says how often test samples were opened, what the runs allow, and what they were made with.

    Args:
        contents: Contents of the report.
    """
    yield tag("h3", "Test openings")
    yield from _openings(contents)
    count = counted(len(contents.finished), "finished run")
    found = Counter(word for row in contents.finished for word in row.findings)
    if found:
        yield tag("h3", "Defects that the runs have and allow")
        yield tag("ul", *(tag("li", tag("code", word), f": {n} of {count}") for word, n in found.items()))
    yield tag("h3", "Environment")
    yield from _environment(contents.finished)


def _environment(finished: Sequence[Row]) -> Iterator[Html]:
    if not finished:
        yield tag("p", "No run is finished.")
        return
    machines = Counter((row.processor, row.threads, row.precision) for row in finished)
    rows = [
        (processor or "not recorded", f"{threads}", precision or ABSENT, f"{count:,}")
        for (processor, threads, precision), count in machines.items()
    ]
    yield page.table(("processor", "threads", "precision", "runs"), rows, (1, 3))
    if len({row.processor for row in finished}) > 1:
        yield page.note(tag("p", "The runs of several processors are pooled; their last digits may differ."))
    if when := days(finished):
        yield tag("p", f"Days of training: {when}.")
    for versions, count in Counter(tuple(row.versions.items()) for row in finished).items():
        words = ", ".join(f"{name} {version}" for name, version in versions)
        yield tag("p", f"{counted(count, 'run')}: {words or 'versions not recorded'}.", class_="same")


def _openings(contents: Contents) -> Iterator[Html]:
    tested = [row for row in contents.finished if any(name.startswith("test/") for name in row.metrics)]
    runs = counted(len(tested), "finished run") if tested else "No finished run"
    yield tag("p", f"{runs} measured test samples after training.")
    by_samples: dict[tuple[str, int], list[tuple[str, str]]] = {}
    for opening in Ledger(contents.folder).openings():
        place = (str(opening.get("data")), int(opening.get("samples") or 0))
        by_samples.setdefault(place, []).append((str(opening.get("run")), str(opening.get("test_digest"))))
    for (data, samples), openings in by_samples.items():
        digests = len({digest for _, digest in openings})
        versions = f"; they are not the same in all runs ({digests} digests)" if digests > 1 else ""
        yield tag(
            "p",
            tag("code", LEDGER_FILE),
            f" of {contents.folder}: the {counted(samples, 'test sample')} of {data} were opened "
            f"{counted(len(openings), 'time')}, by {counted(len({run for run, _ in openings}), 'run')}{versions}.",
        )
    if tested and not by_samples:
        text = f"How often they were opened is recorded where the runs were trained: {contents.folder} has no "
        yield tag("p", text, tag("code", LEDGER_FILE), ".")
    if watched := sum("test_as_validation" in row.findings for row in contents.finished):
        yield tag(
            "p",
            f"{counted(watched, 'finished run')} had the test samples as validation samples, and measured them after "
            "every epoch (test_as_validation): what this page calls validation is the test set there.",
        )


def unfinished(contents: Contents) -> Iterator[Html]:
    """Makes a table of the failed and diverged runs, with their messages and logs.

    Args:
        contents: Contents of the report.
    """
    broken = [(contents.plan.runs[row.id], row) for row in contents.present if not row.is_finished]
    if not broken:
        return
    yield tag("p", "Their numbers are in no table and no figure; the value of a cell with such a run is incomplete.")
    rows = [
        (
            _place(run),
            row.status,
            row.error or "no message",
            tag("code", str(contents.folder / "runs" / run.id / LOG_FILE)),
        )
        for run, row in broken
    ]
    yield tag("div", page.table(("run", "status", "message", "log"), rows), class_="broken")


def _place(run: PlannedRun) -> str:
    """Place of a run in the study: stage, cell, seed, fold and protocols."""
    use = run.first
    words = [use.stage, *use.cell.values(), f"seed {use.seed}"]
    words += [f"fold {use.fold}"] if use.fold is not None else []
    return f"{', '.join(words)} ({listed(run.protocols)})"
