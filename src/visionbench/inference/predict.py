"""What `visionbench predict` does: says of each image which class it is of, as CSV."""

import contextlib
import csv
import errno
import io
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import yaml
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from visionbench.config.parser import Parser, watched_parsing
from visionbench.console import plain_console, quiet_libraries
from visionbench.data.store import SPLITS
from visionbench.errors import RunFailed, Stopped, UserError
from visionbench.evaluation.intervals import wilson_interval
from visionbench.inference.inputs import (
    Sample,
    add_data_options,
    batches,
    check_words,
    count_samples,
    make_data,
    samples,
)
from visionbench.inference.trained import Predictor, TrainedRun, open_run
from visionbench.interrupts import ended_by_sigterm
from visionbench.runs.folder import folder_argument, result_checkpoint

USAGE = """\
visionbench predict RUN_DIR INPUT... [options]

INPUT is a split of the run's data set (train, val, test), a folder, a file, or - for a list of files on standard
input, a path a line; a folder called test is ./test. With a split the options of the data set are taken too, such as
--data.root DIR."""


@dataclass
class Tally:
    """What came out, in numbers.

    Attributes:
        images: That were given a class.
        broken: Files that could not be read as images.
        known: Images whose class is known.
        correct: Those of them that were given it.
        seconds: Since the first was asked for.
    """

    images: int = 0
    broken: int = 0
    known: int = 0
    correct: int = 0
    seconds: float = 0.0


def predict(args: Sequence[str]) -> int:
    """Writes a row for each image: path, predicted class, confidence, the next classes, true class and error.

    Args:
        args: The run's folder, inputs and options.

    Returns:
        The exit status: 0, also where files could not be read; their rows say why.

    Raises:
        UserError: There is no such run or input, or the data of a split cannot be had.
    """
    parser = _parser()
    if args and args[0] in ("-h", "--help"):
        parser.print_help()
        return 0
    folder, rest = folder_argument("predict", args)
    words, options = split_words(rest)
    if not words and not {"-h", "--help"} & set(options):
        raise UserError(
            f"predict needs something to look at: visionbench predict {folder} INPUT..., where INPUT is a split "
            f"({', '.join(SPLITS)}), a folder, a file, or - for a list on standard input."
        )
    console = plain_console(stderr=True)
    with quiet_libraries():
        given: list[str] = []
        needs_data = not set(SPLITS).isdisjoint(words)
        if needs_data:
            result_checkpoint(folder)
            given = add_data_options(parser, yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
        with watched_parsing(console.print):
            config = parser.parse_args([*given, *options])
        _check(config)
        check_words(words)
        run = open_run(folder)
        with contextlib.redirect_stdout(sys.stderr):  # what is said while a data set is prepared
            data = make_data(parser, config, run) if needs_data else None
        if data is not None and _digest(folder) not in (None, data.data_digest()):
            console.print("note: the images, their split or their normalisation are not those of the run")
        recipe = run.recipe
        if config.resize is not None:
            recipe = replace(recipe, resize=config.resize, scale=1.0)
        if config.invert is not None:
            recipe = replace(recipe, invert=config.invert)
        predictor = Predictor(run, config.accelerator, config.precision)
        size = config.batch_size if config.batch_size is not None else run.batch_size
        try:
            with ended_by_sigterm():
                stream = batches(samples(words, recipe, run.class_names, data), size)
                shows = console.is_terminal and not (config.output is None and sys.stdout.isatty())  # rows are there
                with _table(config.output) as file, _bar(console, disable=not shows) as bar:
                    bar.add_task("", total=count_samples(words, data) if shows else None, rate=0)
                    tally = _write(stream, predictor, run, config.top_k, file, bar)
        except Stopped as stopped:
            return stopped.status
    for line in _closing_lines(tally, config.output):
        console.print(line)
    return 0


def _write(
    stream: Iterator[list[Sample]], predictor: Predictor, run: TrainedRun, top_k: int, file: TextIO, bar: Progress
) -> Tally:
    tally, began = Tally(), time.monotonic()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(header(run, top_k))
    for batch in stream:
        rows.writerows(predict_batch(batch, predictor, run.class_names, top_k, tally))
        file.flush()
        tally.seconds = time.monotonic() - began
        done = tally.images + tally.broken
        bar.update(bar.task_ids[0], completed=done, rate=done / max(tally.seconds, 1e-9))
    return tally


def header(run: TrainedRun, top_k: int) -> list[str]:
    """The names of the columns: the second class and its confidence come after the first, and so on."""
    more = [f"{name}_{place}" for place in range(2, _shown_classes(run.class_names, top_k) + 1) for name in PAIR]
    return ["path", *PAIR, *more, "true", "error"]


PAIR = ("predicted", "confidence")


def predict_batch(
    batch: Sequence[Sample], predictor: Predictor, class_names: Sequence[str], top_k: int, tally: Tally
) -> Iterator[list[str]]:
    """A row for each sample; what came out is added to the tally.

    Args:
        batch: Some samples.
        predictor: Of the run.
        class_names: One a label.
        top_k: How many classes a row names.
        tally: Of all batches.
    """
    count = _shown_classes(class_names, top_k)
    pixels = [sample.pixels for sample in batch if sample.pixels is not None]
    if pixels:
        probabilities, predicted = predictor(np.stack(pixels))
        # The class that the model gives comes first, also where another has the same probability.
        ranked = np.where(np.arange(len(class_names)) == predicted[:, None], np.inf, probabilities)
        order = np.argsort(-ranked, axis=1, kind="stable")[:, :count]
    image = 0
    for sample in batch:
        true = class_names[sample.label] if sample.label is not None else ""
        name = sample.name.encode("utf-8", "backslashreplace").decode()
        if sample.pixels is None:
            tally.broken += 1
            yield [name, *[""] * (2 * count), true, str(sample.problem)]
            continue
        tally.images += 1
        if sample.label is not None:
            tally.known += 1
            tally.correct += int(predicted[image] == sample.label)
        # The shortest digits that read back as the same number.
        pairs = [(class_names[label], str(probabilities[image, label])) for label in order[image]]
        yield [name, *(text for pair in pairs for text in pair), true, ""]
        image += 1


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Parts inputs from options, each of which has a value; what comes after -- is input."""
    inputs: list[str] = []
    options: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            inputs += rest
        elif word == "-" or not word.startswith("-"):
            inputs.append(word)
        else:
            options.append(word)
            if "=" not in word and word not in ("-h", "--help"):
                options += [value for value in [next(rest, None)] if value is not None]
    return inputs, options


def _shown_classes(class_names: Sequence[str], top_k: int) -> int:
    return min(top_k, len(class_names))


def _parser() -> Parser:
    parser = Parser(
        prog="visionbench predict", usage=USAGE, description="Say which class images are of.", allow_abbrev=False
    )
    parser.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="The CSV file, which is there when it is whole; default: standard output, row by row.",
    )
    parser.add_argument("--top_k", type=int, default=3, help="How many classes a row names.")
    parser.add_argument(
        "--batch_size", type=int | None, default=None, help="Images that are looked at together; default: the run's."
    )
    parser.add_argument(
        "--resize",
        type=Literal["crop", "squash", "none"] | None,
        default=None,
        help="How files are brought to the model's size, as in --data.help ImageFolder; default: the run's.",
    )
    parser.add_argument(
        "--invert", type=bool | None, default=None, help="Whether to turn black into white; default: the run's."
    )
    parser.add_argument("--accelerator", type=str | None, default=None, help="Such as cpu or gpu; default: the run's.")
    parser.add_argument(
        "--precision", type=str | None, default=None, help="Such as 32-true or bf16-mixed; default: the run's."
    )
    return parser


def _check(config: Any) -> None:
    for name in ("top_k", "batch_size"):
        if config[name] is not None and config[name] < 1:
            raise UserError(f"{name} is {config[name]}, expected 1 or more.")


def _bar(console: Console, disable: bool) -> Progress:
    return Progress(
        *(TextColumn("predicting"), BarColumn(bar_width=24), MofNCompleteColumn()),
        *(TextColumn("{task.fields[rate]:,.0f} images/s"), TimeRemainingColumn()),
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        disable=disable,
    )


def _digest(folder: Path) -> str | None:
    """Of the data that a finished run was trained on."""
    said = folder / "run.json"
    return json.loads(said.read_text(encoding="utf-8"))["data_digest"] if said.is_file() else None


@contextlib.contextmanager
def _table(output: str | None) -> Iterator[TextIO]:
    """Where the rows go: standard output, or a file that gets its name when it is whole.

    Raises:
        UserError: It cannot be written, or another process is writing it.
    """
    if output is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", newline="")  # as in a file, whatever the terminal's
        yield sys.stdout
        return
    place = Path(output)
    part = place.with_name(f".{place.name}.part")
    lock = FileLock(part, timeout=0)
    try:
        if place.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        place.parent.mkdir(parents=True, exist_ok=True)
        # Held on the file itself: a process that is killed leaves no lock, and the next one begins the file anew.
        lock.acquire()
    except Timeout:
        raise UserError(f"Another process is writing {place}; wait for it, or give another --output.") from None
    except OSError as error:
        raise UserError(f"{place} cannot be written ({error.strerror}); give another --output.") from error
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(place)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        raise RunFailed(
            f"{place} could not be written ({error}); free some space, or give another --output."
        ) from error
    finally:
        part.unlink(missing_ok=True)
        lock.release()


def _closing_lines(tally: Tally, output: str | None) -> Iterator[str]:
    where = f" in {output}" if output is not None else ""
    speed = tally.images / max(tally.seconds, 1e-9)
    yield f"predicted  {tally.images:,} images in {tally.seconds:.1f} s, {speed:,.0f} a second{where}"
    if tally.known:
        low, high = (100 * share for share in wilson_interval(tally.correct, tally.known))
        yield (
            f"accuracy   {100 * tally.correct / tally.known:.2f} %  (95 % interval {low:.2f} to {high:.2f}, "
            f"{tally.known:,} images whose class is known)"
        )
    if tally.broken:
        yield f"broken     {tally.broken:,} files could not be read; their rows say why"
