"""Inputs of a trained model: splits of its data set, folders, files, or a list of files on standard input."""

import codecs
import itertools
import os
import stat
import sys
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from visionbench.data.base import VisionDataModule
from visionbench.data.folder_names import class_name, is_ignored
from visionbench.data.image_folder import FEW_FILES, SPLIT_NAMES, decoder, is_folder, task_size
from visionbench.data.store import SPLITS
from visionbench.decoding import Recipe
from visionbench.errors import UserError
from visionbench.text import shown

LIST = "-"  # stands for a list of files on standard input
MAX_UNUSABLE = 1024  # unusable samples in a batch, after which the batch is complete


@dataclass(frozen=True)
class Sample:
    """An image or a row of a table, or one that cannot be used.

    Attributes:
        name: Path of the file, or name of the sample in its data set.
        label: Label of the true class; `None` where the class is not known.
        values: Pixels of the image, shape (H, W, C), uint8, or raw columns of the row, shape (columns,), float64;
            `None` where the file or the row cannot be used.
        problem: Reason why it cannot be used; `None` where it can.
        repeated: Texts that the row of its prediction repeats: of a row, its line and the cells that are kept.
    """

    name: str
    label: int | None
    values: np.ndarray | None
    problem: str | None = None
    repeated: tuple[str, ...] = ()


def check_inputs(inputs: Sequence[str]) -> None:
    """Checks that each input exists.

    Args:
        inputs: Splits, folders, files, or - for standard input.

    Raises:
        UserError: An input is neither a split nor an existing file or folder.
    """
    for source in inputs:
        if source not in (LIST, *SPLITS) and not os.path.lexists(source):
            raise UserError(
                f"There is no file or folder {shown(source)}; give a split of the run's data set "
                f"({', '.join(SPLITS)}), folders, files, or - for a list of files on standard input."
            )


def check_folders(inputs: Sequence[str]) -> None:
    """Checks that each folder of images holds files.

    Args:
        inputs: Splits, folders, files, or - for standard input.

    Raises:
        UserError: A folder holds no files.
    """
    for source in inputs:
        if source not in (LIST, *SPLITS) and next(list_files(source), None) is None:
            raise UserError(
                f"The folder {shown(source)} and its subfolders hold no files, apart from hidden ones and those that "
                "systems leave; give a folder that holds images."
            )


def samples(
    inputs: Sequence[str], recipe: Recipe, class_names: Sequence[str], data: VisionDataModule | None
) -> Iterator[Sample]:
    """The samples of all inputs, in order; few samples are in memory at a time.

    Args:
        inputs: Splits, folders, files, or - for standard input.
        recipe: Recipe that turns a file into pixels.
        class_names: Names of the classes. A file has the class whose name its folder has; a folder `train`, `val` or
            `test` between the two is skipped.
        data: Data set of the splits, after `setup`; `None` where no input is a split.
    """
    for is_split, group in itertools.groupby(inputs, key=SPLITS.__contains__):
        if not is_split:
            yield from decoded_files(itertools.chain.from_iterable(map(list_files, group)), recipe, class_names)
            continue
        for stage in group:
            yield from split_samples(stage, data)


def split_samples(stage: str, data: VisionDataModule | None) -> Iterator[Sample]:
    """The samples of a split, in its order.

    Args:
        stage: Split: `train`, `val` or `test`.
        data: Data set of the split, after `setup`.
    """
    if data is None:
        raise ValueError(f"{stage} is a split; expected its data set.")
    split, store = data.splits[stage], data.open_store(check_source=False)
    samples, labels = store.arrays[f"{split.part}-images"], store.arrays[f"{split.part}-labels"]
    if not len(split.index):
        raise UserError(f"{data.title} has no {stage} {data.item}s with these sizes of its splits; give another split.")
    for row in split.index:
        yield Sample(data.sample_name(split.part, int(row)), int(labels[row]), samples[row])


def count_samples(inputs: Sequence[str], data: VisionDataModule | None) -> int | None:
    """The number of samples of all inputs; `None` where a list on standard input is among them.

    Args:
        inputs: Splits, folders, files, or - for standard input.
        data: Data set of the splits, after `setup`; `None` where no input is a split.
    """
    if LIST in inputs:
        return None
    return sum(
        len(data.splits[source].index) if data is not None and source in SPLITS else sum(1 for _ in list_files(source))
        for source in inputs
    )


def batches(stream: Iterator[Sample], size: int) -> Iterator[list[Sample]]:
    """Groups samples, in their order, into lists.

    Args:
        stream: Samples, some of which cannot be used.
        size: Number of usable samples in a batch; the last batch, and one with many unusable samples, may have fewer.
    """
    batch: list[Sample] = []
    usable = 0
    for sample in stream:
        batch.append(sample)
        usable += sample.values is not None
        if usable == size or len(batch) - usable == MAX_UNUSABLE:  # unusable samples do not pile up
            yield batch
            batch, usable = [], 0
    if batch:
        yield batch


def list_files(source: str) -> Iterator[tuple[str, str | None]]:
    """The paths of an input, each with its problem, where the problem is known before the file is opened.

    Args:
        source: Folder, file, or - for a list of files on standard input.
    """
    if source == LIST:
        for path in _listed(sys.stdin.buffer):
            yield path, None
    elif Path(source).is_dir():
        yield from _walk(source)
    else:
        yield source, None


def _listed(lines: Iterable[bytes]) -> Iterator[str]:
    """The paths of a list, without empty ones: one a line, or separated by NUL as `find -print0` does."""
    lines = iter(lines)
    first = next(lines, b"")
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as PowerShell writes it
        yield from filter(None, b"".join([first, *lines]).decode("utf-16", "replace").splitlines())
        return
    rest = b""
    is_separated = b"\0" in first  # a line feed is then part of a path
    for line in itertools.chain([first.removeprefix(codecs.BOM_UTF8)], lines):
        *paths, rest = (rest + line).split(b"\0") if is_separated else [line.rstrip(b"\r\n"), b""]
        yield from map(os.fsdecode, filter(None, paths))
    if rest:
        yield os.fsdecode(rest)


def _walk(folder: str) -> Iterator[tuple[str, str | None]]:
    """The files in a folder and its subfolders, sorted, without hidden files."""
    try:
        with os.scandir(folder) as scan:
            entries = sorted((entry for entry in scan if not is_ignored(entry)), key=lambda entry: entry.name)
    except OSError as error:
        yield folder, f"cannot be read ({error.strerror})"
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path)
        elif is_folder(entry):
            yield entry.path, "a link to a folder, which is not followed"
        else:
            yield entry.path, None


def decoded_files(
    files: Iterator[tuple[str, str | None]], recipe: Recipe, class_names: Sequence[str]
) -> Iterator[Sample]:
    """Decodes files in their order; many files are decoded by all processors.

    Args:
        files: Paths, each with its problem where the problem is known.
        recipe: Recipe that turns a file into pixels.
        class_names: Names of the classes, for the labels of files in folders with these names.
    """
    labels = {unicodedata.normalize("NFC", name): label for label, name in enumerate(class_names)}
    first = list(itertools.islice(files, FEW_FILES + 1))
    files = itertools.chain(first, files)
    # The lists in decoding, in their order: each path with its problem, where the problem is known.
    pending: deque[list[tuple[str, str | None]]] = deque()

    def tasks() -> Iterator[list[str]]:
        while task := list(itertools.islice(files, task_size(recipe))):
            pending.append([(path, problem or _problem_outside(path)) for path, problem in task])
            yield [path for path, problem in pending[-1] if problem is None]

    with decoder(recipe, len(first)) as decode:
        for decoded in decode(tasks()):
            problems, images = iter(decoded.problems), iter(decoded.images)
            for path, known in pending.popleft():
                problem = known if known is not None else next(problems)
                pixels = next(images) if problem is None else None
                yield Sample(path, _label(path, labels), pixels, problem)


def _problem_outside(path: str) -> str | None:
    """The problem of a path that is not a regular file, such as a pipe, which would block its reader."""
    try:
        return None if stat.S_ISREG(Path(path).stat().st_mode) else "not a file"
    except (OSError, ValueError):
        return None  # the decoder has a better message


def _label(path: str, labels: Mapping[str, int]) -> int | None:
    above, parent = ("", "", *map(class_name, Path(os.path.abspath(path)).parts[:-1]))[-2:]  # noqa: PTH100 - no links
    if parent not in labels and parent.casefold() in SPLIT_NAMES:  # CLASS/train/*
        parent = above
    return labels.get(parent)
