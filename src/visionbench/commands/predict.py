"""`visionbench predict`: the predicted class of each image, or of each row of a table, as CSV."""

import contextlib
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from visionbench.arguments import add_data_options, make_data, split_inputs
from visionbench.config.parser import Parser
from visionbench.config.patches import watched_parsing
from visionbench.console import plain_console, quiet_libraries
from visionbench.data.base import VisionDataModule
from visionbench.data.store import SPLITS, read_meta
from visionbench.errors import Stopped, UserError
from visionbench.evaluation.intervals import accuracy_text
from visionbench.inference.inputs import Sample, batches, check_folders, check_inputs, count_samples, samples
from visionbench.inference.origins import numbers_by_split, with_digests
from visionbench.inference.predict import PredictionCounts, check_output, table_file, write_predictions
from visionbench.inference.tables import InputTables, Keep, TableNotes, refuse_tables
from visionbench.inference.trained import Predictor, TrainedRun, open_run
from visionbench.interrupts import ended_by_sigterm
from visionbench.runs.folder import RunFolder, folder_argument
from visionbench.text import counted
from visionbench.training.device import threads_for

USAGE = """\
visionbench predict RUN_DIR INPUT... [options]

INPUT is a split of the run's data set (train, val, test), a folder, a file, or -, which reads a list of files from
standard input, one path per line, or separated by NUL as `find -print0` writes them. Files are images or, for a run on
a table, CSV files with its columns. A folder with the name of a split is written as ./test. With a split, the options
of the run's data set are also accepted, such as --data.root DIR."""


def run(args: Sequence[str]) -> int:
    """Writes a CSV row for each image or row: path, predicted class, confidence, next classes, true class and error.

    Args:
        args: Run folder, inputs and options.

    Returns:
        The exit status: 0, also where files or rows cannot be used; what is written for them has the reason.

    Raises:
        UserError: The run or an input does not exist, or the data of a split cannot be read.
    """
    parser = _parser()
    if args and args[0] in ("-h", "--help"):
        parser.print_help()
        return 0
    run_folder, rest = folder_argument("predict", args)
    inputs, options = split_inputs(rest)
    if not inputs and not {"-h", "--help"} & set(options):
        raise UserError(
            f"predict needs an input: visionbench predict {run_folder} INPUT..., where INPUT is a split "
            f"({', '.join(SPLITS)}), a folder, a file, or - for a list of files on standard input."
        )
    console = plain_console(stderr=True)
    with quiet_libraries():
        data_options: list[str] = []
        run_config: dict[str, Any] = {}
        has_splits = not set(SPLITS).isdisjoint(inputs)
        if has_splits:
            run_folder.result_checkpoint()
            run_config = run_folder.config
            data_options = add_data_options(parser, run_config)
        with watched_parsing(console.print):
            config = parser.parse_args([*data_options, *options])
        _check_options(config)
        check_inputs(inputs)
        check_output(config.output, inputs)
        trained = open_run(run_folder.path)
        _check_kind(config, inputs, trained)
        tables = None
        if trained.table is not None:
            unseen = config.unseen if config.unseen is not None else trained.table.options.unseen
            tables = InputTables(inputs, trained.table.with_unseen(unseen), config.keep or "unused")
        else:
            check_folders(inputs)
        if (warning := run_folder.warning()) is not None:
            console.print(warning)
        data, note = None, None
        digests: list[np.ndarray] = []
        if has_splits:
            with contextlib.redirect_stdout(sys.stderr):  # where a data set reports how it is prepared
                data = make_data(parser, config, run_config)
                trained.set_up(data)
            for split in ("val", "test"):
                if split in inputs:
                    data.check_unseen(split, str(run_folder), run_folder.metadata.get("split_digests") or {})
            if trained.data_digest not in (None, data.data_digest()):
                console.print(
                    f"note: the {data.item}s, their split or their normalization differ from those of the run"
                )
            if "test" in inputs:
                note = run_folder.open_test(data.sealed_samples(), "predict", trained.checkpoint)
        predictor = Predictor(trained, config.accelerator, config.precision)
        size = config.batch_size if config.batch_size is not None else trained.batch_size
        # As `visionbench test`: another number of threads may change the last digits.
        threads = trained.config.get("threads") or threads_for(trained.model, size, torch.get_num_threads())
        torch.set_num_threads(threads)
        try:
            with ended_by_sigterm():
                found = tables.samples(data) if tables is not None else _images(trained, inputs, data, config)
                if tables is None and not has_splits:
                    found = with_digests(found, digests)
                stream = batches(found, size)
                rows_on_screen = config.output is None and sys.stdout.isatty()
                has_bar = console.is_terminal and not rows_on_screen
                with _open_output(config.output) as file, _bar(console, trained.item, disable=not has_bar) as bar:
                    count = tables.count if tables is not None else partial(count_samples, inputs)
                    task = bar.add_task("", total=count(data) if has_bar else None, rate=0)

                    def advance(counts: PredictionCounts) -> None:
                        bar.update(task, completed=counts.samples, rate=counts.samples / max(counts.seconds, 1e-9))

                    repeated = ("line", *tables.kept) if tables is not None else ()
                    counts = write_predictions(
                        stream, predictor, trained.class_names, config.top_k, file, advance, repeated
                    )
        except Stopped as stopped:
            return stopped.status
    for line in _closing_lines(counts, trained.item, config.output):
        console.print(line)
    if tables is not None:
        for line in _table_lines(tables.notes):
            console.print(line)
    if counts.labeled:
        for line in _provenance_lines(run_folder, inputs, data):
            console.print(line)
    if digests and (numbers := _own_samples(trained, run_folder.config, digests)):
        console.print(_own_samples_line(numbers, counts.labeled, trained.item))
    if note is not None:
        console.print(note)
    return 0


def _own_samples(trained: TrainedRun, run_config: Mapping[str, Any], digests: list[np.ndarray]) -> dict[str, int]:
    """Number of predicted samples in each split of the run; none where its data set is not prepared as it was then."""
    parser = Parser(allow_abbrev=False)
    try:
        with quiet_libraries(), contextlib.redirect_stdout(sys.stderr):
            config = parser.parse_args(add_data_options(parser, run_config))
            data = make_data(parser, config, run_config)
            if not data.store_folder().exists() or data.is_stale(read_meta(data.store_folder())):
                return {}
            data.mean, data.std = trained.mean, trained.std  # which setup would compute from all training images
            data.setup()
    except UserError:  # such as a class of the user's own that is not here: then nothing is known of the splits
        return {}
    return numbers_by_split(digests, data) if trained.data_digest in (None, data.data_digest()) else {}


def _own_samples_line(numbers: Mapping[str, int], labeled: int, item: str) -> str:
    words = {"train": "training", "val": "validation", "test": "test"}
    listed = ", ".join(f"{number:,} {words[stage]} {item}s" for stage, number in numbers.items())
    text = f"note: of these {counted(labeled, item)}, the run itself has {listed}"
    if numbers.keys() & {"train", "val"}:
        text += f"; the accuracy of the test {item}s is the estimate for new ones"
    return text


def _parser() -> Parser:
    parser = Parser(
        prog="visionbench predict",
        usage=USAGE,
        description="Predict the class of each image or row.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="CSV file, which appears when it is complete; default: standard output, row by row.",
    )
    parser.add_argument(
        "--top_k", type=int, default=3, help="Number of most probable classes in each row of the table."
    )
    parser.add_argument(
        "--batch_size", type=int | None, default=None, help="Number of samples per batch; default: the run's."
    )
    parser.add_argument(
        "--resize",
        type=Literal["crop", "squash", "none"] | None,
        default=None,
        help="How an image file is resized for the model, as in --data.help ImageFolder; default: the run's.",
    )
    parser.add_argument(
        "--invert", type=bool | None, default=None, help="Invert the brightness of image files; default: the run's."
    )
    parser.add_argument(
        "--keep",
        type=Keep | None,
        default=None,
        help="Columns of a table that are repeated beside its predictions: unused, those that are neither features nor "
        "the target, such as an id; or all. Default: unused.",
    )
    parser.add_argument(
        "--unseen",
        type=Literal["error", "zeros"] | None,
        default=None,
        help="Treatment of a category that the training table does not have: error, its row is not predicted; or "
        "zeros, as in --data.help Table; default: the run's.",
    )
    parser.add_argument(
        "--accelerator", type=str | None, default=None, help="Kind of device, such as cpu or gpu; default: the run's."
    )
    parser.add_argument(
        "--precision",
        type=str | None,
        default=None,
        help="Precision of the computation, such as 32-true or bf16-mixed; default: the run's.",
    )
    return parser


def _check_options(config: Any) -> None:
    for name in ("top_k", "batch_size"):
        if config[name] is not None and config[name] < 1:
            raise UserError(f"{name} is {config[name]}, expected 1 or more.")


def _check_kind(config: Any, inputs: Sequence[str], run: TrainedRun) -> None:
    """Refuses options and files that the run has no use for."""
    of_images, of_tables = ("resize", "invert"), ("keep", "unseen")
    wrong, kind = (of_tables, "images") if run.table is None else (of_images, "a table")
    for name in wrong:
        if config[name] is not None:
            raise UserError(f"--{name} has no effect, since the run was trained on {kind}; remove it.")
    if run.table is None:
        refuse_tables(inputs)


def _images(run: TrainedRun, inputs: Sequence[str], data: VisionDataModule | None, config: Any) -> Iterator[Sample]:
    recipe = run.image_recipe
    if config.resize is not None:
        recipe = replace(recipe, resize=config.resize, scale=1.0)
    if config.invert is not None:
        recipe = replace(recipe, invert=config.invert)
    return samples(inputs, recipe, run.class_names, data)


def _bar(console: Console, item: str, disable: bool) -> Progress:
    return Progress(
        *(TextColumn("predicting"), BarColumn(bar_width=24), MofNCompleteColumn()),
        *(TextColumn(f"{{task.fields[rate]:,.0f}} {item}s/s"), TimeRemainingColumn()),
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        disable=disable,
    )


@contextlib.contextmanager
def _open_output(output: str | None) -> Iterator[TextIO]:
    """The file of the rows: the one that --output names, or standard output."""
    if output is not None:
        with table_file(Path(output)) as file:
            yield file
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", newline="")  # as in a file, whatever the terminal's encoding
    yield sys.stdout


def _closing_lines(counts: PredictionCounts, item: str, output: str | None) -> Iterator[str]:
    place = f" in {output}" if output is not None else ""
    speed = counts.predicted / max(counts.seconds, 1e-9)
    yield f"predicted  {counted(counts.predicted, item)} in {counts.seconds:.1f} s, {speed:,.0f} per second{place}"
    if counts.labeled:
        samples = f"{counted(counts.labeled, item)} with a known class"
        yield f"accuracy   {accuracy_text(counts.correct, counts.labeled, samples)}"
    if counts.unusable:
        files, verb = ("file", "read") if item == "image" else ("row", "used")
        rows = "row has" if counts.unusable == 1 else "rows have"
        first = f", such as {counts.first_unusable}" if item == "row" else ""
        yield f"broken     {counted(counts.unusable, files)} could not be {verb}{first}; the {rows} the reason"


def _table_lines(notes: TableNotes) -> Iterator[str]:
    if notes.unseen:
        one = notes.unseen == 1
        yield (
            f"unseen     {counted(notes.unseen, 'row')} of these {'has' if one else 'have'} a category that the "
            f"training table does not have; --unseen zeros predicts {'it' if one else 'them'}"
        )
    if notes.unknown_classes:
        one = notes.unknown_classes == 1
        yield (
            f"note: {counted(notes.unknown_classes, 'row')} {'has' if one else 'have'} a class that the run does not "
            f"have, such as {notes.first_unknown}; the accuracy leaves {'it' if one else 'them'} out"
        )


def _provenance_lines(run: RunFolder, inputs: Sequence[str], data: VisionDataModule | None) -> Iterator[str]:
    """What the accuracy of these inputs is worth."""
    yield f"{'result' if run.choosing_metric is None else 'chosen':<9}  {run.provenance}"
    if marks := run.allowed_defects:
        yield f"allowed    {', '.join(marks)}: this accuracy is that of a run with this defect"
    if data is None:
        return
    if "train" in inputs:
        yield (
            f"note: the run was trained on the {data.item}s of train, so that this accuracy (train_eval/acc) is no "
            f"estimate for other {data.item}s"
        )
    if "val" in inputs and (run.choosing_metric or "").startswith("val/"):
        yield f"note: the epoch was chosen on the {data.item}s of val, so that the accuracy is slightly too high"
    if "test" in inputs and (opening := run.opening_in_words(data.item)) is not None:
        yield f"openings   {opening}"
