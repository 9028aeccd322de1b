"""Any folder of images, a folder for each class."""

import hashlib
import json
import math
import os
import stat
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import PIL
from lightning.fabric.utilities.rank_zero import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from visionbench.data.base import VisionDataModule
from visionbench.data.memory import processor_cores
from visionbench.data.store import SPLITS, Store, Writer, find_store, read_meta
from visionbench.decoding import Decoded, Recipe, decode_files, start_process
from visionbench.errors import UserError
from visionbench.text import shown as _shown

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
LITTER = ("thumbs.db", "desktop.ini")  # which file managers leave, as they do names that begin with a dot
TASK_BYTES = 4 * 2**20  # of pixels that a process decodes before it hands them on
TASK_FILES = 256
FEW_FILES = 256  # that are decoded before other processes would have started
SHOWN = 10  # files named on the screen; all are in meta.json


Folders = Mapping[str, Mapping[str, Path]]  # by split, then by class name


class File(NamedTuple):
    """A file in a class folder: its path within the source, its label, and why it cannot be used, if that is known."""

    path: str
    label: int
    problem: str | None


@dataclass(frozen=True)
class Listing:
    """The files of a source.

    Attributes:
        files: Those of each split, in order.
        fingerprint: Their number and bytes, and a sha256 of the class names and the files' names, sizes and times.
    """

    files: Mapping[str, Sequence[File]]
    fingerprint: Mapping[str, Any]


@dataclass
class Judge:
    """Decides which files become images, and keeps account of the others.

    Attributes:
        duplicates: As in `ImageFolder`.
        kept: How many files became images, by (split, label).
        skipped: What was left out: file and reason.
        copies: What was kept although its bytes are those of another: file and the other.
        copies_skipped: How many files were left out because their bytes are those of another.
        seen: For each digest the file that it was first seen in: path, split and label.
    """

    duplicates: Literal["keep", "skip"] | None
    kept: Counter[tuple[str, int]] = field(default_factory=Counter)
    skipped: list[dict[str, str]] = field(default_factory=list)
    copies: list[dict[str, str]] = field(default_factory=list)
    copies_skipped: int = 0
    seen: dict[bytes, tuple[str, str, int]] = field(default_factory=dict)

    def skip(self, path: str, reason: str) -> None:
        """Notes a file that cannot be used."""
        self.skipped.append({"file": _shown(path), "reason": reason})

    def admits(self, file: File, split: str, digest: bytes | None) -> bool:
        """Whether a file that can be decoded is to be used."""
        if digest in self.seen:
            path, *place = self.seen[digest]
            if self.duplicates == "skip" or (self.duplicates is None and place != [split, file.label]):
                self.skip(file.path, f"the same bytes as {_shown(path)}")
                self.copies_skipped += 1
                return False
            self.copies.append({"file": _shown(file.path), "of": _shown(path)})
        elif digest is not None:
            self.seen[digest] = (file.path, split, file.label)
        self.kept[split, file.label] += 1
        return True


class ImageFolder(VisionDataModule):
    """Your own images: a folder for each class, in one of three layouts.

    `source/train/CLASS/*`, with `val` (or `valid`, `validation`) and `test` beside `train` where there are official
    ones; `source/CLASS/*`, of which test is cut; or `source/CLASS/train/*` and so on. Upper or lower case is all the
    same. The classes are the names of their folders, sorted. Names that begin with a dot are passed over.

    - Images: BMP, GIF, JPEG, JPEG 2000, PNG, PPM, TIFF or WebP by their content, brought to one size and to uint8. They
      are turned as their EXIF says; what is transparent lies on white; 16 bits become 8 by dividing by 257; of several
      frames the first counts; colour profiles do not.
    - Classes: one a folder. A folder without an image that can be used is an error, and so is a class that `val` or
      `test` has but `train` has not.
    - Split: that of the folders; else, or where a size, folds or `pool` say so, cut by `split_seed`.
    - Source: `source`, which is only read; links that lead out of it are not followed. It is prepared again when a
      name, size or time of its files has changed. Licence: your images'.

    Files that cannot be used - broken, empty, no images, too large, or the same bytes as another - are named in the
    store's `meta.json`.

    Args:
        source: The folder. Where it is gone, a prepared store is found that was made of one written in the same way.
        size: Side of the images in pixels, or [height, width].
        channels: 3 for colour, 1 for grey.
        resize: How they are brought to that size: `crop` shrinks or enlarges until it is covered and cuts the rest off
            both ends; `squash` changes the shape; `none` cuts out the centre as it is.
        scale: Zooms about the centre before it is cut out, with the nearest pixels; goes with `none`.
        invert: Turn black into white.
        max_skipped: How many files may be left out: a count, or a fraction below 1. It is 0 so that no study rests on
            other images than its author believes.
        duplicates: What happens to a file with the same bytes as another: `keep`, or `skip`, which leaves it out - of
            two splits it is the training image that goes; by default it is kept within a split and class, where it
            does little harm, and skipped elsewhere.
        pool: Put the images of `train`, `val` and `test` together, to be cut anew.
    """

    title = "ImageFolder"

    def __init__(
        self,
        source: str,
        size: int | list[int],
        channels: Literal[1, 3] = 3,
        resize: Literal["crop", "squash", "none"] = "crop",
        scale: float = 1.0,
        invert: bool = False,
        max_skipped: int | float = 0,
        duplicates: Literal["keep", "skip"] | None = None,
        pool: bool = False,
        **kwargs: Any,
    ) -> None:
        sides = [size, size] if isinstance(size, int) else size
        if len(sides) != 2 or min(sides) < 1:
            raise UserError(f"data.size is {size}, expected a number of pixels of 1 or more, or [height, width].")
        if channels not in (1, 3):
            raise UserError(f"data.channels is {channels}, expected 1 for grey or 3 for colour.")
        if not scale > 0:
            raise UserError(f"data.scale is {scale}, expected a factor above 0.")
        if scale != 1 and resize != "none":
            raise UserError(
                f"data.scale is {scale} but data.resize is {resize}, which brings the images to their size by itself; "
                "give --data.resize none, or leave data.scale out."
            )
        if not max_skipped >= 0 or (isinstance(max_skipped, float) and max_skipped >= 1):
            raise UserError(f"data.max_skipped is {max_skipped}, expected a count of files, or a fraction below 1.")
        self.recipe = Recipe((sides[0], sides[1]), channels, resize, scale, invert)
        self.source = Path(source).expanduser()
        self.title = _shown(_real(self.source).name)
        super().__init__(**kwargs)
        self.as_written = source
        self.max_skipped = max_skipped
        self.duplicates = duplicates
        self.pool = pool
        self._listing: Listing | None = None
        self._folders = find_classes(self.source) if _no_folder(self.source) is None else None
        self._class_names = tuple(self._folders["train"]) if self._folders is not None else self._stored_class_names()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the class folders, sorted."""
        return self._class_names

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return (self.recipe.channels, *self.recipe.size)

    def file_recipe(self) -> Recipe:  # noqa: D102
        return self.recipe

    def prepare_settings(self) -> dict[str, Any]:  # noqa: D102
        source = str(_real(self.source))
        return {"source": source, **vars(self.recipe), "duplicates": self.duplicates, "pool": self.pool}

    def store_folder(self) -> Path:
        """Where the prepared store lies, or is going to; without the source, that of one that was written like it."""
        folder = super().store_folder()
        if folder.exists() or _no_folder(self.source) is None:
            return folder
        return find_store(folder.parent, self.settings(), self.as_written) or folder

    def _stored_class_names(self) -> tuple[str, ...]:
        folder = self.store_folder()
        if folder.exists():
            return tuple(read_meta(folder).get("class_names", ()))
        raise UserError(
            f"data.source {_shown(self.as_written)} {_no_folder(self.source)}, and {self.root} has no store that was "
            "prepared from it with these settings; give the folder that holds the images."
        )

    def _list(self, folders: Folders) -> Listing:
        if self._listing is None:
            self._listing = list_files(self.source, folders)
        return self._listing

    def _limit(self, files: int) -> int:
        return int(self.max_skipped * files) if isinstance(self.max_skipped, float) else self.max_skipped

    def is_stale(self, meta: Mapping[str, Any]) -> bool:  # noqa: D102
        if self._folders is None:
            return False
        now, then = self._list(self._folders).fingerprint, meta.get("fingerprint")
        if now == then:
            return False
        if self.offline:
            raise UserError(
                f"{_shown(str(self.source))} has changed since it was prepared (a name, a size or a time of its "
                "files), and data.offline is on; leave it out to prepare the images again, or give back the folder as "
                "it was."
            )
        return True

    def setup(self, stage: str | None = None) -> None:
        """Opens the store, cuts the splits and computes the statistics; says which classes a split has no image of."""
        if self.store is not None:
            return
        super().setup(stage)
        store, _, _ = self._ready()
        for name, word in (("val", "validation"), ("test", "test")):
            split = self.splits[name]
            there = set(store.arrays[f"{split.part}-labels"][split.index].tolist())
            missing = [c for label, c in enumerate(self.class_names) if label not in there]
            if there and missing:
                listed = ", ".join(missing[:SHOWN]) + " ..." * (len(missing) > SHOWN)
                rank_zero_only(print)(f"note: no {word} image is of the class{'es' * (len(missing) > 1)} {listed}")

    def open_store(self, look: bool = True) -> Store:
        """Opens the prepared store, preparing it where there is none or the source has changed.

        Args:
            look: Whether to look at the source.

        Raises:
            UserError: The images cannot be had, too many files had to be left out, or the store is damaged.
        """
        store = super().open_store(look)
        self._listing = None  # hundreds of bytes a file, which a run need not hold
        skipped = len(store.meta.get("skipped", ()))
        if skipped > self._limit(skipped + sum(len(store.arrays[name]) for name in store.arrays if "labels" in name)):
            raise UserError(
                f"The prepared store {store.folder} leaves out {skipped} of the files (its meta.json names them), but "
                f"data.max_skipped is {self.max_skipped}; raise it, or mend the files."
            )
        return store

    def write_store(self, writer: Writer, downloads: Path) -> dict[str, Any]:  # noqa: D102
        began = time.monotonic()
        if self._folders is None:
            raise UserError(f"There is no folder {_shown(self.as_written)} to prepare images from; give one that is.")
        listing = self._list(self._folders)
        total = sum(map(len, listing.files.values()))
        height, width = self.recipe.size
        if self.store_folder().exists():
            print(f"{_shown(str(self.source))} has changed since it was prepared")
        print(f"preparing {total:,} files of {_shown(str(self.source))} as {height} x {width} x {self.recipe.channels}")
        if aside := _beside(self.source, self._folders):
            print(f"  not read, since in no class folder: {', '.join(aside[:SHOWN])}{' ...' * (len(aside) > SHOWN)}")
        judge = Judge(self.duplicates)
        # Test first, so that of two files with the same bytes it is the training image that goes.
        parts = {split: listing.files[split] for split in reversed(SPLITS) if split in listing.files}
        if self.pool:
            parts = {"train": [file for split in listing.files for file in listing.files[split]]}
        with decoder(self.recipe, total) as decode, _progress(total) as advance:
            for split, files in parts.items():
                self._write_split(writer, split, files, decode, judge, advance)
        self._say_and_check(judge, total, self._folders)
        if list_files(self.source, find_classes(self.source)).fingerprint != listing.fingerprint:
            raise UserError(
                f"{_shown(str(self.source))} has changed while it was prepared (a name, a size or a time of its "
                "files); run the same command again when nothing writes to it any more."
            )
        kept, seconds = sum(judge.kept.values()), time.monotonic() - began
        print(f"prepared {kept:,} images in {seconds:.1f} s, {kept / max(seconds, 1e-9):,.0f} a second")
        return {
            "source": _shown(f"the folder {_real(self.source)}"),
            "source_as_written": self.as_written,
            "licence": "that of the folder's images",
            "decoded_by": f"Pillow {PIL.__version__}",
            "split": f"folders{', put together' * self.pool}: {', '.join(listing.files)}",
            "fingerprint": listing.fingerprint,
            "skipped": judge.skipped,
            "copies": judge.copies,
            "not_read": aside,
        }

    def _write_split(
        self,
        writer: Writer,
        split: str,
        files: Sequence[File],
        decode: Callable[[Iterable[list[str]]], Iterator[Decoded]],
        judge: Judge,
        advance: Callable[[int], None],
    ) -> None:
        usable = []
        for file in files:
            if file.problem is None:
                usable.append(file)
            else:
                judge.skip(file.path, file.problem)
        size = task_size(self.recipe)
        tasks = [usable[start : start + size] for start in range(0, len(usable), size)]
        labels, names = [], []
        shape = (*self.recipe.size, self.recipe.channels)
        with writer.growing(f"{split}-images", shape, np.uint8) as append:
            paths = ([f"{self.source}/{file.path}" for file in task] for task in tasks)
            for task, decoded in zip(tasks, decode(paths), strict=True):
                admitted = []  # of those that could be decoded
                for file, digest, problem in zip(task, decoded.digests, decoded.problems, strict=True):
                    if problem is not None:
                        judge.skip(file.path, problem)
                        continue
                    admitted.append(judge.admits(file, split, digest))
                    if admitted[-1]:
                        labels.append(file.label)
                        names.append(os.fsencode(file.path))
                append(decoded.images[np.array(admitted, dtype=bool)])
                advance(len(task))
        writer.save(f"{split}-labels", np.array(labels, dtype=np.int64))
        writer.save(f"{split}-names", np.array(names, dtype=np.bytes_))

    def _say_and_check(self, judge: Judge, total: int, folders: Folders) -> None:
        """Says what was left out or is there twice; refuses what is too much."""
        for entry in judge.skipped[:SHOWN]:
            print(f"  left out: {entry['file']}: {entry['reason']}")
        if len(judge.skipped) > SHOWN:
            print(f"  left out: {len(judge.skipped) - SHOWN:,} more")
        if judge.copies:
            print(
                f"  {len(judge.copies):,} kept although they have the same bytes as another file, such as "
                f"{judge.copies[0]['file']}; --data.duplicates skip leaves them out"
            )
        if len(judge.skipped) > self._limit(total):
            first = judge.skipped[0]
            such = f"such as {first['file']} ({first['reason']})"
            source = _shown(str(self.source))
            if not judge.kept:
                raise UserError(
                    f"None of the {total:,} files of {source} can be used, {such}; mend them, or give another folder."
                )
            raise UserError(
                f"{len(judge.skipped):,} of the {total:,} files of {source} cannot be used, {such}, but "
                f"data.max_skipped is {self.max_skipped}; mend them, or leave them out with --data.max_skipped "
                f"{len(judge.skipped)}{', or keep copies with --data.duplicates keep' * bool(judge.copies_skipped)}."
            )
        for split, classes in folders.items():
            for name, folder in classes.items():
                if not judge.kept["train" if self.pool else split, self.class_names.index(name)]:
                    raise UserError(
                        f"The class folder {_shown(str(folder))} holds no image that can be used; fill it, or take it "
                        "away."
                    )


def find_classes(source: Path) -> dict[str, dict[str, Path]]:
    """Finds the class folders of each split, without looking at the files in them.

    Args:
        source: The folder with everything.

    Returns:
        The folders by split, then by class name, sorted; with `train` first, and the others where they are there.

    Raises:
        UserError: They are not laid out in one of the three ways, or there are fewer than two classes.
    """
    top = _folders(source, source)
    if not top:
        raise UserError(
            f"{_shown(str(source))} holds no folders; expected train/CLASS/, CLASS/ or CLASS/train/ with images in "
            "them."
        )
    by_name = {name: SPLIT_NAMES.get(name.casefold()) for name in top}
    inner = _folders(next(iter(top.values())), source)
    if None in by_name.values() and inner and None not in {SPLIT_NAMES.get(name.casefold()) for name in inner}:
        found: dict[str, dict[str, Path]] = {}
        for name, folder in top.items():
            for split, path in _by_split(_folders(folder, source), folder).items():
                found.setdefault(split, {})[name] = path
    elif any(split == "train" and _folders(top[name], source) for name, split in by_name.items()):
        # A class may be called train: it holds images, not folders.
        found = {split: _folders(path, source) for split, path in _by_split(top, source).items()}
    else:
        found = {"train": top}
    if len(found.get("train", ())) < 2:
        raise UserError(
            f"{_shown(str(source))} holds {len(found.get('train', ()))} class folders to train on "
            f"({', '.join(found.get('train', ())) or 'none'}), expected two or more, as train/CLASS/, CLASS/ or "
            "CLASS/train/."
        )
    for split, folders in found.items():
        if not folders:
            raise UserError(
                f"The folder {split} of {_shown(str(source))} holds no class folders, so that its images have no "
                "labels; give each class its folder, or take it away."
            )
        if unknown := [name for name in folders if name not in found["train"]]:
            raise UserError(
                f"{_shown(str(folders[unknown[0]]))} is of a class that train does not have (train has "
                f"{', '.join(found['train'])}); rename it, or take it away."
            )
    return {split: found[split] for split in SPLITS if split in found}


def _folders(parent: Path, source: Path) -> dict[str, Path]:
    """The folders in one that can be seen, by their names as they are shown, sorted."""
    try:
        with os.scandir(parent) as entries:
            found = {entry.name: Path(entry.path) for entry in entries if is_folder(entry) and not is_hidden(entry)}
    except OSError as error:
        raise _unreadable(parent, error) from error
    for path in found.values():
        if not _lies_in(path, source):
            raise UserError(
                f"{_shown(str(path))} is a link that leads out of {_shown(str(source))}, which is not followed; put "
                "the folder itself in its place."
            )
    return {_shown(name): found[name] for name in sorted(found)}


def _unreadable(folder: Path, error: OSError) -> UserError:
    return UserError(f"The folder {_shown(str(folder))} cannot be read ({error.strerror}); make it readable.")


def _by_split(folders: Mapping[str, Path], parent: Path) -> dict[str, Path]:
    """Those of the folders that are named as a split is."""
    found: dict[str, Path] = {}
    for name, path in folders.items():
        split = SPLIT_NAMES.get(name.casefold())
        if split in found:
            raise UserError(
                f"{_shown(str(parent))} holds two folders for {split}, {found[split].name} and {name}; keep one."
            )
        if split is not None:
            found[split] = path
    return found


def list_files(source: Path, folders: Folders) -> Listing:
    """Lists the files of the class folders; links out of the source and what is no file are noted as unusable.

    Raises:
        UserError: A class folder is empty, holds another folder, or cannot be read.
    """
    labels = {name: label for label, name in enumerate(folders["train"])}
    digest = hashlib.sha256(json.dumps({split: list(names) for split, names in folders.items()}).encode())
    files: dict[str, list[File]] = {}
    size = 0
    for split, classes in folders.items():
        files[split] = []
        for name, folder in classes.items():
            try:
                with os.scandir(folder) as scan:
                    entries = sorted((e for e in scan if not is_hidden(e)), key=lambda entry: entry.name)
            except OSError as error:
                raise _unreadable(folder, error) from error
            if not entries:
                raise UserError(f"The class folder {_shown(str(folder))} is empty; fill it, or take it away.")
            prefix = folder.relative_to(source)
            for entry in entries:
                if is_folder(entry):
                    raise UserError(
                        f"The class folder {_shown(str(folder))} holds the folder {_shown(entry.name)}, expected only "
                        "images, as train/CLASS/*, CLASS/* or CLASS/train/*."
                    )
                path = f"{prefix}/{entry.name}"
                problem, state = _look_at(entry, source)
                files[split].append(File(path, labels[name], problem))
                digest.update(os.fsencode(path) + b"\0%d %d\0" % state)
                size += state[0]
    count = sum(map(len, files.values()))
    return Listing(files, {"files": count, "bytes": size, "sha256": digest.hexdigest()})


def _beside(source: Path, folders: Folders) -> list[str]:
    """What lies in the source beside the folders of splits or classes, as it is shown."""
    read = {path.relative_to(source).parts[0] for classes in folders.values() for path in classes.values()}
    with os.scandir(source) as entries:
        return sorted(_shown(entry.name) for entry in entries if entry.name not in read and not is_hidden(entry))


def _look_at(entry: os.DirEntry[str], source: Path) -> tuple[str | None, tuple[int, int]]:
    """Why a file cannot be used, if that can be seen from outside, and its size and time."""
    if entry.is_symlink() and not _lies_in(Path(entry.path), source):
        return "a link that leads out of the folder", (0, 0)
    try:
        state = entry.stat()
    except OSError as error:
        return f"cannot be read ({error.strerror})", (0, 0)
    return None if stat.S_ISREG(state.st_mode) else "not a file", (state.st_size, state.st_mtime_ns)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself; `_look_at` says so
        return False


def _no_folder(path: Path) -> str | None:
    """Why a path is not that of a folder, if it is not."""
    try:
        return None if stat.S_ISDIR(path.stat().st_mode) else "is not a folder"
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _lies_in(path: Path, source: Path) -> bool:
    """Whether a path is within the source when every link is followed."""
    return _real(path).is_relative_to(_real(source))


def _real(path: Path) -> Path:
    """A path with every link followed; `Path.resolve` fails where one leads to itself."""
    return Path(os.path.realpath(path))


def is_hidden(entry: os.DirEntry[str]) -> bool:
    """Whether a file or folder is passed over: its name begins with a dot, or a file manager left it."""
    return entry.name.startswith(".") or entry.name.casefold() in LITTER


def task_size(recipe: Recipe) -> int:
    """How many files a process decodes before it hands them on."""
    return max(1, min(TASK_FILES, TASK_BYTES // (math.prod(recipe.size) * recipe.channels)))


@contextmanager
def decoder(recipe: Recipe, files: int) -> Iterator[Callable[[Iterable[list[str]]], Iterator[Decoded]]]:
    """Gives a function that decodes lists of files, in their order, by all processors where there are many files."""
    processes = processor_cores()
    if processes == 1 or files <= FEW_FILES:
        yield lambda tasks: (decode_files(task, recipe) for task in tasks)
        return
    # Not forked: torch's threads may be running.
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=start_process)

    def decode(tasks: Iterable[list[str]]) -> Iterator[Decoded]:
        waiting: deque[Future[Decoded]] = deque()
        for task in tasks:
            waiting.append(pool.submit(decode_files, task, recipe))
            if len(waiting) > 2 * processes:  # few at a time, so that what is ready does not pile up in memory
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield decode
    except BrokenProcessPool as error:
        raise UserError(
            "A process that decodes images came to a sudden end, as it does when memory is short, or when a script "
            'prepares data outside of `if __name__ == "__main__":`; mend that and run the same command again.'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; gives what moves it on by some files."""
    console = Console()
    columns = (TextColumn("decoding"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)
