"""Writes docs/results/README.md, docs/results/defects.md and the pictures of the verdicts, from the saved rows.

    python docs/write_results.py

What a person found out about a study stands in docs/results/STUDY/notes.md, and is copied into the page.
"""

import csv
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from visionbench.studies.expand import PlannedRun
from visionbench.studies.report_contents import (
    Contents,
    capitalized,
    cell_name,
    days,
    interval_text,
    is_number,
    mean_and_deviation,
    measure_words,
    number,
    seeds_text,
    signed,
)
from visionbench.studies.report_tables import MARKDOWN
from visionbench.studies.runner import SAVED, Options, Runner
from visionbench.studies.spec import load_study
from visionbench.studies.tables import Measured
from visionbench.studies.verdicts import summary_sentence
from visionbench.text import counted, duration

STUDIES = Path("configs/studies")
# Studies of files that a user brings, and what is said of the numbers of files that are not the report's.
SOURCES = {"heart-mlp", "greek-transfer", "fracture-transfer", "cifar-mlp-depth-activation"}
OTHER_FILES = {"cifar-mlp-depth-activation": "JPEG copy of CIFAR-10"}
RESULTS = """\
# Results of studies

Each study runs a published table again, with what its report did (*reported*) and with what it should have done
(*corrected*). Our runs give an interval in which 95 % of further runs would lie, and a verdict on each printed value
([the rules](../studies.md#verdicts)):

- *reproduced*: the printed value, within its rounding, lies in the interval, and half the width of the interval is at
  most the tolerance of the study;
- *not reproduced*: it lies outside, further than another random cut of the samples may move it;
- *inconclusive*: it lies inside, but the interval is wider than that; or outside, by what another cut may explain; or
  there are too few runs to know the spread;
- *incomplete*: seeds are missing.

The spread over seeds is pooled over the cells of a table, so that cells with different ± may have intervals of the same
width. *Validation accuracy* is what a report watched; where that was no validation set, the text says so.
[What the defects did](defects.md) compares both protocols.

A study's folder holds `runs.csv`, a row for each run, `verdicts.csv` and `judged.json`, the digest of what its verdicts
depend on. `visionbench study report NAME` makes the whole page of a study from its rows: tables of all values, curves,
confusion matrices, times, commands. `visionbench study repeat NAME RUN` trains one of its runs again and compares it
with its row. This page and the pictures are written by `python docs/write_results.py`.
"""
NOTEBOOK = """\
*In a notebook*: what the same trainings would take there, by one cell of each study that was trained both ways
([notebook.csv](notebook.csv), `python benchmarks/notebook_cells.py`, n = 1): the ratio of the two times, and the
processor time multiplied by this ratio. A notebook normalizes each image anew in each epoch, in a plain loop with one
thread. Where the ratio is below 1, the notebook is faster than a run of ours, as for the small table of heart-mlp: a
run also writes checkpoints, metrics and predictions after each epoch."""
DEFECTS_TEXT = """\
# What thirteen defects did

The ten studies are of student reports, in which thirteen defects were found. None of them stopped its program; two had
printed a warning. Each row has the printed number, ours with the defect and ours without it: mean ± standard deviation
over seeds, and the 95 % interval for one more run where the spread over seeds is known. *Without* is the corrected
protocol, in which all defects of that report are corrected; the difference is that of one defect only in sections 1, 3,
10, 11 and 12. Numbers of the CIFAR-10 study are of a JPEG copy of the images.
Written by `python docs/write_results.py`."""
KINDS = ("reproduced", "not reproduced", "inconclusive", "not comparable", "incomplete")


@dataclass(frozen=True)
class Number:
    """A measured value of a study.

    Attributes:
        stage: Stage.
        measure: Measure.
        cell: Labels of the cell, as far as they are needed to find it.
        epoch: Epoch; `None` for the result.
        protocol: Protocol.
    """

    stage: str
    measure: str
    cell: tuple[tuple[str, str], ...] = ()
    epoch: int | None = None
    protocol: str = "reported"


@dataclass(frozen=True)
class Effect:
    """What a defect did to a printed value.

    Attributes:
        printed: Printed value.
        means: What the report says that the value is.
        with_defect: The value with the defect.
        without: The value without it; `None` where there is none.
        sentence: Text about it.
        study: Study, where it is not that of the defect but another with the same one; its name stands in the table.
    """

    printed: str
    means: str
    with_defect: Number | None
    without: Number | None
    sentence: str = ""
    study: str | None = None


@dataclass(frozen=True)
class Defect:
    """A defect of the reports.

    Attributes:
        study: Study whose report has it.
        title: What it is.
        effects: What it did.
        sentence: Text that stands for effects where there is none, or goes with them.
    """

    study: str
    title: str
    effects: tuple[Effect, ...] = ()
    sentence: str = ""


def corrected(stage: str, measure: str, cell: tuple[tuple[str, str], ...] = ()) -> Number:
    """A value of the corrected protocol."""
    return Number(stage, measure, cell, protocol="corrected")


RMSPROP = (("optimizer", "RMSprop"), ("regularization", "batch norm"))
DEEP_TANH = (("hidden layers", "3"), ("activation", "Tanh"))
SMALL = (("network", "11-10-1"), ("epochs", "20"))
BEST_DROPOUT = (("p1", "0"), ("p2", "0"), ("p3", "0.3"))
DEFECTS = (
    Defect(
        "fashion-mlp-regularization",
        "A softmax before the cross-entropy, which applies one itself (double softmax)",
        (
            Effect(
                *("1.5", "training loss of RMSprop with batch norm", Number("candidates", "minimized", RMSPROP)),
                corrected("candidates", "minimized", RMSPROP),
            ),
            Effect(
                *("88.54", "its validation accuracy", Number("candidates", "val/acc", RMSPROP)),
                corrected("candidates", "val/acc", RMSPROP),
            ),
        ),
        "No loss can be below 1.4612.",
    ),
    Defect(
        "fashion-cnn-grid",
        "All 288 fits of a search failed, and the first candidate was printed as the best",
        sentence="The report has no number of the search: every score was NaN. What a search gives is on the page of "
        "the study.",
    ),
    Defect(
        "fashion-cnn-grid",
        "The largest validation accuracy of 20 epochs, reported as a test accuracy",
        (
            Effect(
                *("90.19", "called a test accuracy: best of 20 epochs", Number("base-20", "max val/acc", epoch=20)),
                Number("base-20", "test/acc"),
                "without: the epoch is chosen on the validation images, and measured once on the test images",
            ),
        ),
    ),
    Defect(
        "fashion-patch-mlp",
        "The scheduler and the epoch were chosen on the test images",
        (
            Effect(
                *("89.84", "best test accuracy", Number("network", "max val/acc", epoch=40)),
                corrected("tested", "test/acc"),
            ),
            Effect(
                *("98.17", "test accuracy, watched in each epoch", Number("more", "val/acc", epoch=8)),
                corrected("more", "test/acc"),
                study="mnist-cnn",
            ),
        ),
    ),
    Defect(
        "greek-transfer",
        "Measured on the images that were trained on",
        (
            Effect(
                *("100", "accuracy after 170 epochs", Number("letters", "val/acc", epoch=170)),
                corrected("leave-one-out", "val/acc"),
                "without: each image by a network that was trained on the 26 others",
            ),
        ),
    ),
    Defect(
        "heart-mlp",
        "The predicted class is the argmax over one column, which is always class 0",
        (
            Effect(
                *("48", "test accuracy of 11-10-1 after 20 epochs", Number("networks", "test/acc", SMALL)),
                corrected("networks", "test/acc", SMALL),
            ),
        ),
    ),
    Defect(
        "heart-mlp",
        "The squared error compares each output with the labels of all rows of its batch",
        sentence="The accuracy does not show it, since the defect above hides it, and the loss of the corrected "
        "network is another function: there is no pair of numbers.",
    ),
    Defect(
        "cifar-mlp-depth-activation",
        "Pixels in [0, 1], which are not centered",
        (
            Effect(
                *("36.49", "test accuracy of 3 hidden layers with tanh", Number("networks", "test/acc", DEEP_TANH)),
                corrected("networks", "test/acc", DEEP_TANH),
            ),
        ),
    ),
    Defect(
        "mnist-cnn",
        "The saved state was loaded into an object that is not used",
        sentence="Training went on with the first network, whose state it was: no number is changed.",
    ),
    Defect(
        "fashion-cnn-dropout",
        "The validation images were augmented as those of training",
        (
            Effect(
                *(
                    "92.83",
                    "validation accuracy of (0, 0, 0.3)",
                    Number("candidates", "augmented_val/acc", BEST_DROPOUT),
                ),
                Number("candidates", "val/acc", BEST_DROPOUT),
                "both of the same trainings",
            ),
        ),
    ),
    Defect(
        "fashion-cnn-grid",
        "Accuracies of other images and of other numbers of epochs, compared with each other",
        (
            Effect(
                *("90.19", "best of 20 epochs, on validation images", Number("base-20", "max val/acc", epoch=20)),
                Number("base-20", "test/acc"),
            ),
            Effect(
                *("89.81", "after 10 epochs, on test images", Number("base", "test/acc"), Number("base", "test/acc")),
            ),
        ),
        "The gain from 10 to 20 epochs is the difference of the two rows: 0.38 points in the report. Both values "
        "without the defect are of test images.",
    ),
    Defect(
        "heart-mlp",
        "The loss of one batch of 10 rows, reported as the loss of an epoch",
        (
            Effect(
                *("0.255010", "loss of the last epoch", Number("networks", "step train/loss", SMALL)),
                Number("networks", "train/loss", SMALL),
                "with: the last full batch; without: the mean over the epoch of the same trainings",
            ),
        ),
        "In fracture-transfer, a test loss of 0.933 beside an accuracy of 17.86 % and a training loss of 2.21 cannot "
        "be a mean over the images.",
    ),
    Defect(
        "greek-transfer",
        "The frozen part of the network stayed in training mode",
        sentence="It comes together with other defects in both reports (greek-transfer, fracture-transfer), so that no "
        "pair of numbers is of this defect alone.",
    ),
)


def main() -> int:
    """Writes the pages and the pictures."""
    from visionbench.studies.report_verdicts import verdict_figure

    everything = {path.stem: contents_of(path) for path in sorted(STUDIES.glob("*.yaml"))}
    for name, contents in everything.items():
        if _is_measured(contents):
            (SAVED / name / "verdicts.png").write_bytes(verdict_figure(contents).picture()[1])
    (SAVED / "README.md").write_text(results_page(everything), encoding="utf-8")
    (SAVED / "defects.md").write_text(defects_page(everything), encoding="utf-8")
    return 0


def contents_of(path: Path) -> Contents:
    """A study with its saved rows."""
    study = load_study(path)
    # A folder that is not there, so that the saved rows alone count.
    runner = Runner(study, Options(studies=SAVED / ".none", accept_code=True))
    return Contents(study, runner.plan, runner.store.rows, SAVED / study.id, runner.notes)


def results_page(everything: dict[str, Contents]) -> str:
    """Makes the page with all verdicts."""
    lines = [
        RESULTS,
        "| study | judged values | runs | processor time | in a notebook |",
        "|---|---|---|---|---|",
    ]
    notebook = notebook_ratios()
    for name, contents in everything.items():
        counts = Counter(verdict.kind for _, verdict in contents.judged)
        kinds = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
        runs = f"{len(contents.finished)} of {len(contents.plan.runs) + sum(w.count for w in contents.plan.waiting)}"
        usual = ""
        if contents.finished and name in notebook:
            usual = f"{notebook[name]:.1f} x: {duration(notebook[name] * _processor_seconds(contents))}"
        cells = [f"[{name}](#{name})", kinds if contents.finished else "not run", runs, _time(contents), usual]
        lines.append(_row(cells))
    lines += ["", NOTEBOOK] if notebook else []
    for name, contents in everything.items():
        lines += ["", *_section(name, contents)]
    return "\n".join(lines) + "\n"


def _section(name: str, contents: Contents) -> Iterator[str]:
    study = contents.study
    yield f"## {name}"
    yield ""
    yield f"{_text(study.title)}. {_text(study.source)}."
    yield ""
    if not contents.finished:
        yield "Not run."
    else:
        verdicts = summary_sentence([verdict for _, verdict in contents.judged])
        yield f"{capitalized(verdicts)}; {_tolerance(contents)}. {_circumstances(contents)}"
    if (notes := SAVED / name / "notes.md").exists():
        yield ""
        yield notes.read_text(encoding="utf-8").strip()
    if not contents.finished:
        return
    yield ""
    if _is_measured(contents):
        yield f"![Measured minus printed values of {name}, with their intervals]({name}/verdicts.png)"
        yield ""
    yield from _folded("Printed and measured", _judged_table(contents))
    if table := _corrected_table(contents):
        yield ""
        shown = {entry.protocol for entry in contents.measured if entry.mean is not None}
        others = [name for name in _other_protocols(contents) if name in shown]
        yield from _folded(capitalized(" and ".join(others)), table)
    yield ""
    source = " --data.source FOLDER" if name in SOURCES else ""
    shortest = _shortest(contents)
    yield "```"
    yield f"visionbench study run {name}{source}"
    yield f"visionbench study repeat {name} {shortest.id}{source}  # {_place(shortest)}: {_seconds(contents, shortest)}"
    yield "```"


def _is_measured(contents: Contents) -> bool:
    """Whether any judged value was measured, so that there is something to draw."""
    return any(entry.mean is not None for entry, _ in contents.judged)


def _folded(title: str, table: Sequence[str]) -> Iterator[str]:
    yield f"<details markdown='1'><summary>{title}: {counted(len(table) - 2, 'value')}</summary>"
    yield ""
    yield from table
    yield ""
    yield "</details>"


def _judged_table(contents: Contents) -> list[str]:
    head = ["value", "measure", "printed", _measured_on(contents), "95 % interval", "seeds", "verdict"]
    lines = [_row(head), _row(["---"] * len(head))]
    for entry, verdict in contents.judged:
        if entry.mean is None:
            cells = [entry.published or "", "", "", seeds_text(entry), verdict.kind]
        else:
            cells = [entry.published or "", mean_and_deviation(entry), interval_text(entry), seeds_text(entry)]
            cells.append(verdict.kind)
        lines.append(_row([_text(_name(entry)), measure_words(entry.measure), *cells]))
    return lines


def _other_protocols(contents: Contents) -> list[str]:
    return [name for name in contents.study.protocols if name != contents.study.published_protocol]


def _tolerance(contents: Contents) -> str:
    values = {contents.study.tolerance_of(measure) for names in contents.study.judged.values() for measure in names}
    return f"tolerance ± {' or '.join(f'{value:g}' for value in sorted(values))} point{'s' * (values != {1.0})}"


def _measured_on(contents: Contents) -> str:
    files = OTHER_FILES.get(contents.study.id)
    return "measured" if files is None else f"measured on a {files}"


def _axes(contents: Contents) -> str:
    """Names of the axes, where the labels of a cell stand without them."""
    axes = list(contents.study.grid)
    cells = [entry.cell for entry in contents.measured if len(entry.cell) == len(axes)]
    bare = any(axis not in cell_name(cell, "") for cell in cells for axis, label in cell.items() if is_number(label))
    return f": {', '.join(axes)}" if bare else ""


def _corrected_table(contents: Contents) -> list[str]:
    protocols = _other_protocols(contents)
    measures = {measure for names in contents.study.judged.values() for measure in names} | {"test/acc", "val/acc"}
    measures = {measure for measure in measures if not measure.startswith("augmented_val/")}
    lines = []
    for entry in contents.measured:
        if entry.protocol in protocols and entry.measure in measures and entry.mean is not None and entry.epoch is None:
            name = f"{entry.protocol}: {_name(entry)}" if len(protocols) > 1 else _name(entry)
            folds = contents.study.stages[entry.stage].folds
            seeds = seeds_text(entry) + (f", {folds} folds" if folds is not None else "")
            cells = [mean_and_deviation(entry), interval_text(entry), seeds]
            lines.append(_row([_text(name), measure_words(entry.measure), *cells]))
    head = [
        _row([f"value{_text(_axes(contents))}", "measure", _measured_on(contents), "95 % interval", "seeds"]),
        _row(["---"] * 5),
    ]
    return [*head, *lines] if lines else []


def defects_page(everything: dict[str, Contents]) -> str:
    """Makes the page about the defects."""
    lines = [DEFECTS_TEXT]
    for place, defect in enumerate(DEFECTS, 1):
        lines += ["", f"## {place}. {defect.title}", "", f"Study [{defect.study}](README.md#{defect.study})."]
        contents = everything[defect.study]
        if defect.sentence:
            lines[-1] += f" {defect.sentence}"
        if not defect.effects:
            continue
        lines += ["", _row(["value", "printed", "with the defect", "without it", "difference"]), _row(["---"] * 5)]
        notes = []
        for effect in defect.effects:
            own = everything[effect.study] if effect.study is not None else contents
            one, other = _find(own, effect.with_defect), _find(own, effect.without)
            difference = ""
            if one is not None and other is not None and one.mean is not None and other.mean is not None:
                difference = signed(one.measure, one.mean - other.mean)
            means = f"{effect.study}: {effect.means}" if effect.study is not None else effect.means
            cells = [means, effect.printed, _measured(effect.with_defect, one), _measured(effect.without, other)]
            lines.append(_row([*map(_text, cells), difference]))
            notes += [effect.sentence] if effect.sentence else []
        lines += [line for note in notes for line in ("", f"{capitalized(note)}.")]
    return "\n".join(lines) + "\n"


def _find(contents: Contents, wanted: Number | None) -> Measured | None:
    if wanted is None:
        return None
    for entry in contents.measured:
        if (entry.stage, entry.measure, entry.protocol) != (wanted.stage, wanted.measure, wanted.protocol):
            continue
        if entry.epoch == wanted.epoch and all(entry.cell.get(axis) == label for axis, label in wanted.cell):
            return entry
    return None


def _measured(wanted: Number | None, entry: Measured | None) -> str:
    if wanted is None:
        return "the same"
    if entry is None or entry.mean is None:
        return "not run"
    seeds = counted(len(entry.values), "seed")
    interval = interval_text(entry)
    return f"{mean_and_deviation(entry)} ({f'{interval}; ' if ' to ' in interval else ''}{seeds})"


def _circumstances(contents: Contents) -> str:
    """Where and how long the runs were trained."""
    processors = Counter(row.processor for row in contents.finished)
    named = ", ".join(processors)
    parts = [
        f"{counted(len(contents.finished), 'run')}, {_time(contents)} of processor time ({named}, one thread a run)"
    ]
    if when := days(contents.finished):
        parts.append(f"on {when}")
    if (files := OTHER_FILES.get(contents.study.id)) is not None:
        parts.append(f"**all numbers are of a {files}**")
    return f"{'; '.join(parts)}."


def notebook_ratios() -> dict[str, float]:
    """How many times the processor time of one cell of each study takes in notebook style, as it was measured."""
    path = SAVED / "notebook.csv"
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["study"]: float(row["notebook"]) / float(row["ours"]) for row in csv.DictReader(file)}


def _processor_seconds(contents: Contents) -> float:
    return sum(row.cpu_seconds for row in contents.finished)


def _time(contents: Contents) -> str:
    return duration(_processor_seconds(contents)) if contents.finished else ""


def _shortest(contents: Contents) -> PlannedRun:
    finished = [run for run in contents.plan.runs.values() if run.id in contents.rows]
    return min(finished, key=lambda run: (len(run.parents), contents.rows[run.id].seconds))


def _seconds(contents: Contents, run: PlannedRun) -> str:
    row = contents.rows[run.id]
    return number("seconds", max(row.seconds, row.cpu_seconds)) + " s"


def _place(run: PlannedRun) -> str:
    use = run.first
    words = [use.stage, *use.cell.values(), f"seed {use.seed}", *([f"fold {use.fold}"] if use.fold is not None else [])]
    return ", ".join(words)


def _name(entry: Measured) -> str:
    # The extreme of all epochs is of no epoch that the table names.
    epoch = None if entry.measure.startswith(("max ", "min ")) else entry.epoch
    name = cell_name(entry.cell, entry.stage, epoch)
    return name if name.startswith(entry.stage) else f"{entry.stage}: {name}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(text: str) -> str:
    return "".join(MARKDOWN.get(character, character) for character in " ".join(text.split()))


if __name__ == "__main__":
    sys.exit(main())
