"""Predictions as the rows of a table."""

import contextlib
import csv
import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from filelock import FileLock, Timeout

from visionbench.data.store import SPLITS
from visionbench.errors import RunFailed, UserError, is_disk_error
from visionbench.files import CsvLines, replacing
from visionbench.inference.inputs import Sample
from visionbench.inference.trained import Predictor
from visionbench.runs.folder import RunFolder

RANKED = ("predicted", "confidence")


@dataclass
class PredictionCounts:
    """Numbers of predictions.

    Attributes:
        predicted: Number of samples with a predicted class.
        unusable: Number of files that could not be read as images, or of rows that could not be used.
        first_unusable: Name of the first of them, with the reason.
        labeled: Number of predicted samples whose true class is known.
        correct: Number of labeled samples with a correct prediction.
        seconds: Time since the first sample was requested.
    """

    predicted: int = 0
    unusable: int = 0
    first_unusable: str = ""
    labeled: int = 0
    correct: int = 0
    seconds: float = 0.0

    @property
    def samples(self) -> int:
        """Number of rows."""
        return self.predicted + self.unusable


def write_predictions(
    stream: Iterator[list[Sample]],
    predictor: Predictor,
    class_names: Sequence[str],
    top_k: int,
    file: TextIO,
    on_batch: Callable[[PredictionCounts], None],
    repeated: Sequence[str] = (),
) -> PredictionCounts:
    """Writes the CSV header and a row for each sample, batch by batch.

    Args:
        stream: Batches of samples.
        predictor: Predictor of the run.
        class_names: Names of the classes, in the order of the labels.
        top_k: Number of most probable classes in each row of the table.
        file: Text file for the rows.
        on_batch: Function that receives the counts after each batch.
        repeated: Names of the texts that each sample repeats.

    Returns:
        The counts of all batches.
    """
    counts, start = PredictionCounts(), time.monotonic()
    rows = csv.writer(CsvLines(file))
    rows.writerow(header(class_names, top_k, repeated))
    for batch in stream:
        rows.writerows(predict_batch(batch, predictor, class_names, top_k, counts, len(repeated)))
        file.flush()
        counts.seconds = time.monotonic() - start
        on_batch(counts)
    return counts


def header(class_names: Sequence[str], top_k: int, repeated: Sequence[str] = ()) -> list[str]:
    """The names of the columns: the second class and its confidence follow the first, and so on.

    Args:
        class_names: Names of the classes, in the order of the labels.
        top_k: Number of most probable classes in each row of the table.
        repeated: Names of the texts that each sample repeats; one with the name of another column begins with `input.`.
    """
    lower = [f"{name}_{rank}" for rank in range(2, _ranks(class_names, top_k) + 1) for name in RANKED]
    predictions = [*RANKED, *lower, "true", "error"]
    names = ["path"]
    for name in repeated:
        while name in (*names, *predictions, *repeated[len(names) :]):
            name = f"input.{name}"
        names.append(name)
    return [*names, *predictions]


def predict_batch(
    batch: Sequence[Sample],
    predictor: Predictor,
    class_names: Sequence[str],
    top_k: int,
    counts: PredictionCounts,
    repeated: int = 0,
) -> Iterator[list[str]]:
    """Predicts a batch; gives a row for each sample.

    Args:
        batch: Samples, some of which cannot be used.
        predictor: Predictor of the run.
        class_names: Names of the classes, in the order of the labels.
        top_k: Number of most probable classes in each row of the table.
        counts: Counts of all batches, to which those of this batch are added.
        repeated: Number of texts that each sample repeats; a sample without any has empty cells.
    """
    ranks = _ranks(class_names, top_k)
    values = [sample.values for sample in batch if sample.values is not None]
    if values:
        probabilities, predicted = predictor(np.stack(values))
        # The predicted class is the first, even where another class has the same probability.
        scores = np.where(np.arange(len(class_names)) == predicted[:, None], np.inf, probabilities)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :ranks]
    place = 0
    for sample in batch:
        true = class_names[sample.label] if sample.label is not None else ""
        name = sample.name.encode("utf-8", "backslashreplace").decode()
        first = [name, *(sample.repeated or [""] * repeated)]
        if sample.values is None:
            counts.unusable += 1
            counts.first_unusable = counts.first_unusable or f"{name}, {sample.problem}"
            yield [*first, *[""] * (2 * ranks), true, str(sample.problem)]
            continue
        counts.predicted += 1
        if sample.label is not None:
            counts.labeled += 1
            counts.correct += int(predicted[place] == sample.label)
        # The shortest digits that read back as the same number.
        pairs = [(class_names[label], str(probabilities[place, label])) for label in order[place]]
        yield [*first, *(text for pair in pairs for text in pair), true, ""]
        place += 1


def check_output(
    output: str | None, inputs: Sequence[str], is_older: Callable[[Path], bool] | None = None, kind: str = "predictions"
) -> None:
    """Refuses an output that would replace what is needed, or what is no file.

    That is an input, a file that a run has written, any other file that is not an older output of the command, or a
    pipe or device, of which only the name would be replaced.

    Args:
        output: File to write; `None` for the default.
        inputs: Splits, folders, files, or - for a list of files.
        is_older: Whether a file is an older output of the command; by default, whether it holds predictions.
        kind: What an older output is, for the message.

    Raises:
        UserError: The output would replace one of these, or it is a folder or empty.
    """
    if output is None:
        return
    if not output:
        raise UserError("--output is empty, expected the name of a file; give one, or leave --output out.")
    path = Path(output)
    if path.is_dir():
        raise UserError(f"{output} cannot be written (it is a directory); give another --output.")
    file = path.resolve()
    if (run := _run_of(file)) is not None:
        raise UserError(f"{output} belongs to the run {run}, which --output would damage; give another --output.")
    if not path.is_file():
        if path.exists():
            raise UserError(f"{output} is no file, but a pipe or a device; give the name of a file with --output.")
        return
    for source in (Path(name) for name in inputs if name not in SPLITS):
        is_within = source.is_dir() and file.is_relative_to(source.resolve()) and not _is_predictions(file)
        if is_within or (source.is_file() and source.samefile(file)):
            raise UserError(f"{output} is an input, which --output would replace; give another --output.")
    if path.stat().st_size and not (is_older or _is_predictions)(file):
        raise UserError(f"{output} exists and holds no {kind}; remove it, or give another --output.")


def _run_of(file: Path) -> Path | None:
    """The run folder that a file is needed in, which `exports` and further files are not; `None` for other files."""
    for folder in (file.parent, file.parent.parent):
        run = RunFolder(folder)
        if not run.config_path.is_file() or not (run.metadata_path.is_file() or run.has_results):
            continue
        kept = [run.config_path, run.metadata_path, run.input_path, run.metrics_path, run.losses_path]
        if file in (*kept, run.untrained_path) or file.parent in (run.checkpoints, run.predictions_folder, run.figures):
            return folder
    return None


def _is_predictions(file: Path) -> bool:
    """Whether a file begins as `header` does; what cannot be read is taken for something else."""
    try:
        with file.open("rb") as opened:
            first = opened.readline(1 << 16).rstrip(b"\r\n")
    except OSError:
        return False
    return first.startswith(b"path,") and b",predicted,confidence," in first and first.endswith(b",true,error")


@contextlib.contextmanager
def table_file(path: Path) -> Iterator[TextIO]:
    """Opens a CSV file that appears under its name only when it is complete.

    Args:
        path: File to write; a file with this name is replaced at the end.

    Raises:
        UserError: The file cannot be written, or another process is writing it.
        RunFailed: The disk is full or fails.
    """
    part = path.with_name(f".{path.name}.part")
    lock = FileLock(part, timeout=0)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        # The lock is on the file itself: a killed process leaves no lock, and the next process empties the file.
        lock.acquire()
    except Timeout:
        raise UserError(f"Another process is writing {path}; wait for it, or give another --output.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); give another --output.") from error
    try:
        with replacing(path, part), part.open("w", encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        if not is_disk_error(error):
            raise
        raise RunFailed(f"{path} could not be written ({error}); free some space, or give another --output.") from error
    finally:
        lock.release()


def _ranks(class_names: Sequence[str], top_k: int) -> int:
    return min(top_k, len(class_names))
