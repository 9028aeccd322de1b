"""What is given to a trained model: splits of its data set, folders, files, or a list of files on standard input."""

import itertools
import json
import os
import stat
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from visionbench.config.parser import Parser
from visionbench.data.base import VisionDataModule
from visionbench.data.image_folder import FEW_FILES, SPLIT_NAMES, decoder, is_folder, is_hidden, task_size
from visionbench.data.store import SPLITS
from visionbench.decoding import Recipe
from visionbench.errors import UserError, first_user_error
from visionbench.inference.trained import TrainedRun
from visionbench.text import shown

LIST = "-"  # stands for a list of files on standard input
MANY = 1024  # files without an image, which a batch does not wait for the end of


@dataclass(frozen=True)
class Sample:
    """An image, or a file that cannot be one.

    Attributes:
        name: The file's path as it was given or found, or what its data set calls it.
        label: Of its class, if that is known.
        pixels: Shape (H, W, C), uint8; `None` where there is a problem.
        problem: Why it cannot be used; `None` where it can.
    """

    name: str
    label: int | None
    pixels: np.ndarray | None
    problem: str | None = None


def check_words(words: Sequence[str]) -> None:
    """Makes sure that each word names something.

    Raises:
        UserError: One does not.
    """
    for word in words:
        if word not in (LIST, *SPLITS) and not os.path.lexists(word):
            raise UserError(
                f"There is no file or folder {shown(word)}; give a split of the run's data set ({', '.join(SPLITS)}), "
                "folders, files, or - for a list of files on standard input."
            )


def add_data_options(parser: Parser, run_config: Mapping[str, object]) -> list[str]:
    """Adds the options of a data set, as they are in `visionbench fit`; gives the words that set those of a run."""
    parser.add_lightning_class_args(VisionDataModule, "data", subclass_mode=True, required=True)
    return ["--data", json.dumps(run_config["data"])]


def make_data(parser: Parser, config: object, run: TrainedRun) -> VisionDataModule:
    """Makes and sets up the data set of a run.

    Raises:
        UserError: Its images cannot be had, or are not such as the model was trained on.
    """
    try:
        data: VisionDataModule = parser.instantiate_classes(config).data
    except ValueError as error:
        if (refusal := first_user_error(error)) is not None:
            raise refusal from None
        raise
    data.prepare_data()
    data.setup()
    if tuple(data.class_names) != run.class_names or tuple(data.input_shape) != run.input_shape:
        raise UserError(
            f"{data.title} has images of {data.input_shape} and the classes {', '.join(data.class_names)}, but "
            f"{run.folder} was trained on images of {run.input_shape} and {', '.join(run.class_names)}; give the data "
            "that it was trained on, or files."
        )
    return data


def samples(
    words: Sequence[str], recipe: Recipe, class_names: Sequence[str], data: VisionDataModule | None
) -> Iterator[Sample]:
    """Every image that is named, in order, one after the other; few are in memory at a time.

    Args:
        words: Splits, folders, files, or - for standard input.
        recipe: How a file becomes pixels.
        class_names: A file in a folder with such a name, or in its folder `train`, `val` or `test`, is of that class.
        data: The data set, after `setup`, where a split is among the words.
    """
    for is_split, group in itertools.groupby(words, key=SPLITS.__contains__):
        if not is_split:
            yield from _decoded(itertools.chain.from_iterable(map(_files, group)), recipe, class_names)
            continue
        for stage in group:
            if data is None:
                raise ValueError(f"{stage} is a split, but no data set is given.")
            split, store = data.splits[stage], data.open_store(look=False)
            images, labels = store.arrays[f"{split.part}-images"], store.arrays[f"{split.part}-labels"]
            if not len(split.index):
                raise UserError(f"{data.title} has no {stage} images, as its sizes are set; give another split.")
            for place in split.index:
                yield Sample(data.sample_name(split.part, int(place)), int(labels[place]), images[place])


def count_samples(words: Sequence[str], data: VisionDataModule | None) -> int | None:
    """How many samples there are; `None` where that is known only at the end of a list."""
    if LIST in words:
        return None
    return sum(
        len(data.splits[word].index) if data is not None and word in SPLITS else sum(1 for _ in _files(word))
        for word in words
    )


def batches(stream: Iterator[Sample], size: int) -> Iterator[list[Sample]]:
    """Lists of samples in their order, of which `size` are images, as in a batch of the loader's, save in the last."""
    batch: list[Sample] = []
    images = 0
    for sample in stream:
        batch.append(sample)
        images += sample.pixels is not None
        if images == size or len(batch) - images == MANY:  # so that files without an image do not pile up
            yield batch
            batch, images = [], 0
    if batch:
        yield batch


def _files(word: str) -> Iterator[tuple[str, str | None]]:
    """The paths that a word stands for, each with what is wrong with it, if that can be seen from outside."""
    if word == LIST:
        for line in sys.stdin.buffer:
            if path := os.fsdecode(line.rstrip(b"\r\n")):
                yield path, None
    elif Path(word).is_dir():
        yield from _walk(word)
    else:
        yield word, None


def _walk(folder: str) -> Iterator[tuple[str, str | None]]:
    """The files in a folder and in those in it, sorted, without those that are hidden."""
    try:
        with os.scandir(folder) as scan:
            entries = sorted((entry for entry in scan if not is_hidden(entry)), key=lambda entry: entry.name)
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


def _decoded(files: Iterator[tuple[str, str | None]], recipe: Recipe, class_names: Sequence[str]) -> Iterator[Sample]:
    """Files as samples, in their order, decoded by all processors where they are many."""
    labels = {name: label for label, name in enumerate(class_names)}
    first = list(itertools.islice(files, FEW_FILES + 1))
    files = itertools.chain(first, files)
    # The lists that are being decoded, in their order: each path with what is known to be wrong with it.
    given: deque[list[tuple[str, str | None]]] = deque()

    def tasks() -> Iterator[list[str]]:
        while task := list(itertools.islice(files, task_size(recipe))):
            given.append([(path, problem or _problem_outside(path)) for path, problem in task])
            yield [path for path, problem in given[-1] if problem is None]

    with decoder(recipe, len(first)) as decode:
        for decoded in decode(tasks()):
            problems, images = iter(decoded.problems), iter(decoded.images)
            for path, known in given.popleft():
                problem = known if known is not None else next(problems)
                pixels = next(images) if problem is None else None
                yield Sample(path, _label(path, labels), pixels, problem)


def _problem_outside(path: str) -> str | None:
    """Whether a path is of something that would be waited for, or cannot be opened as a file."""
    try:
        return None if stat.S_ISREG(Path(path).stat().st_mode) else "not a file"
    except (OSError, ValueError):
        return None  # which the decoder says better


def _label(path: str, labels: Mapping[str, int]) -> int | None:
    above, parent = ("", "", *map(shown, Path(os.path.abspath(path)).parts[:-1]))[-2:]  # noqa: PTH100 - no links
    if parent not in labels and parent.casefold() in SPLIT_NAMES:  # CLASS/train/*
        parent = above
    return labels.get(parent)
