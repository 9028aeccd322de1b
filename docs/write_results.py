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
(*corrected*). A printed value is *reproduced* if the 95 % interval for one more run contains a value that is rounded
to it, and half its width is at most the tolerance;
[the rules](../studies.md#verdicts). [What the defects did](defects.md) compares both protocols.

A study's folder holds `runs.csv`, a row for each run, `verdicts.csv` and `judged.json`, the digest of what its verdicts
depend on. `visionbench study report NAME` makes the whole page of a study from its rows: tables of all values, curves,
confusion matrices, times, commands. `visionbench study repeat NAME RUN` trains one of its runs again and compares it
with its row. This page and the pictures are written by `python docs/write_results.py`.
"""
NOTEBOOK = """\
*In a notebook*: what the same trainings would take there, by one cell of each study that was trained both ways
([notebook.csv](notebook.csv), `python benchmarks/notebook_cells.py`, n = 1): the ratio, and the processor time times
that.
A notebook decodes and normalizes each image anew in each epoch, in a plain loop with one thread."""
DEFECTS_TEXT = """\
# What thirteen defects did

The ten studies are of student reports, in which thirteen defects were found. None of them stopped its program; two had
printed a warning. Each row has the printed number, ours with the defect and ours without it: mean ± standard deviation
over seeds, and the 95 % interval for one more run where the spread over seeds is known. Numbers of the CIFAR-10 study
are of a JPEG copy of the images. Written by `python docs/write_results.py`."""
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
    """

    printed: str
    means: str
    with_defect: Number | None
    without: Number | None
    sentence: str = ""


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
        "A softmax before the cross-entropy, which applies one itself",
        (
            Effect(
                *("1.5", "loss of RMSprop with batch norm", Number("candidates", "minimized", RMSPROP)),
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
        sentence="The report has no number of the search: every score was NaN. What a search gives is shown there.",
    ),
    Defect(
        "fashion-cnn-grid",
        "The largest validation accuracy of 20 epochs, reported as a test accuracy",
        (
            Effect(
                *("90.19", "test accuracy after 20 epochs", Number("base-20", "max val/acc", epoch=20)),
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
                *("48", "test accuracy", Number("networks", "test/acc", SMALL)),
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
                *("90.19", "after 20 epochs: validation", Number("base-20", "max val/acc", epoch=20)),
                Number("base-20", "test/acc"),
            ),
            Effect("89.81", "after 10 epochs: test", None, Number("base", "test/acc")),
        ),
        "The gain from 10 to 20 epochs is the difference of the two rows: 0.38 points in the report.",
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
        yield f"{capitalized(verdicts)}. {_circumstances(contents)}"
    if (notes := SAVED / name / "notes.md").exists():
        yield ""
        yield notes.read_text(encoding="utf-8").strip()
    if not contents.finished:
        return
    yield ""
    if _is_measured(contents):
        yield f"![The verdicts of {name}]({name}/verdicts.png)"
        yield ""
    yield from _folded("Printed and measured", _judged_table(contents))
    if table := _corrected_table(contents):
        yield ""
        yield from _folded("Corrected", table)
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
    lines = [_row(["value", "measure", "printed", "measured", "95 % interval", "seeds", "verdict"]), _row(["---"] * 7)]
    for entry, verdict in contents.judged:
        if entry.mean is None:
            cells = [entry.published or "", "", "", seeds_text(entry), verdict.kind]
        else:
            cells = [entry.published or "", mean_and_deviation(entry), interval_text(entry), seeds_text(entry)]
            cells.append(verdict.kind)
        lines.append(_row([_text(_name(entry)), measure_words(entry.measure), *cells]))
    return lines


def _corrected_table(contents: Contents) -> list[str]:
    protocols = [name for name in contents.study.protocols if name != contents.study.published_protocol]
    measures = {measure for names in contents.study.judged.values() for measure in names} | {"test/acc", "val/acc"}
    lines = []
    for entry in contents.measured:
        if entry.protocol in protocols and entry.measure in measures and entry.mean is not None and entry.epoch is None:
            name = f"{entry.protocol}: {_name(entry)}" if len(protocols) > 1 else _name(entry)
            cells = [mean_and_deviation(entry), interval_text(entry), seeds_text(entry)]
            lines.append(_row([_text(name), measure_words(entry.measure), *cells]))
    head = [_row(["value", "measure", "measured", "95 % interval", "seeds"]), _row(["---"] * 5)]
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
            one, other = _find(contents, effect.with_defect), _find(contents, effect.without)
            difference = ""
            if one is not None and other is not None and one.mean is not None and other.mean is not None:
                difference = signed(one.measure, one.mean - other.mean)
            cells = [effect.means, effect.printed, _measured(effect.with_defect, one), _measured(effect.without, other)]
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
    return number("seconds", contents.rows[run.id].seconds) + " s"


def _place(run: PlannedRun) -> str:
    use = run.first
    words = [use.stage, *use.cell.values(), f"seed {use.seed}", *([f"fold {use.fold}"] if use.fold is not None else [])]
    return ", ".join(words)


def _name(entry: Measured) -> str:
    name = cell_name(entry.cell, entry.stage, entry.epoch)
    return name if name.startswith(entry.stage) else f"{entry.stage}: {name}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(text: str) -> str:
    return "".join(MARKDOWN.get(character, character) for character in " ".join(text.split()))


if __name__ == "__main__":
    sys.exit(main())
