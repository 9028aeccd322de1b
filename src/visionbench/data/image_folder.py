"""Folders of images, with one folder per class."""

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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import PIL
from lightning.fabric.utilities.rank_zero import rank_zero_only
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from visionbench.data.folder_names import check_distinct, class_name, ignored_as, is_ignored, look_alikes
from visionbench.data.from_source import FromSource
from visionbench.data.memory import processor_cores
from visionbench.data.store import SPLITS, Store, StoreWriter, read_meta
from visionbench.decoding import DECODING, FORMATS, Decoded, Recipe, decode_files, start_process
from visionbench.errors import UserError
from visionbench.file_kinds import UNPACK, kind_of_file
from visionbench.text import counted
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
TASK_BYTES = 4 * 2**20  # pixels of one task that is sent to a decoding process
TASK_FILES = 256
FEW_FILES = 256  # this many files are decoded faster than other processes start
MAX_LISTED = 10  # files named on the screen; meta.json names all


Folders = Mapping[str, Mapping[str, Path]]  # by split, then by class name


class File(NamedTuple):
    """A file in a class folder: its path within the source, its label, and the reason why it cannot be used, if any."""

    path: str
    label: int
    problem: str | None


@dataclass(frozen=True)
class Listing:
    """Files of a source.

    Attributes:
        files: Files of each split, in order.
        fingerprint: Number of files, their bytes, and a sha256 of the class names and of the names, sizes and times of
            the files.
        ignored: Number of files and folders that are ignored, by the kind of their names, such as `._*`.
    """

    files: Mapping[str, Sequence[File]]
    fingerprint: Mapping[str, Any]
    ignored: Mapping[str, int]


@dataclass
class FileFilter:
    """Decides which files become images, and records skipped and duplicate files.

    Attributes:
        duplicates: Treatment of duplicates, as in `ImageFolder`.
        accepted: Number of files that became images, by (split, label).
        skipped: Skipped files: file and reason.
        copies: Accepted files with the same bytes as another file: file and the other file.
        duplicates_skipped: Number of files skipped because their bytes are those of another file.
        seen: First file with each digest: path, split and label.
    """

    duplicates: Literal["keep", "skip"] | None
    accepted: Counter[tuple[str, int]] = field(default_factory=Counter)
    skipped: list[dict[str, str]] = field(default_factory=list)
    copies: list[dict[str, str]] = field(default_factory=list)
    duplicates_skipped: int = 0
    seen: dict[bytes, tuple[str, str, int]] = field(default_factory=dict)

    def skip(self, path: str, reason: str) -> None:
        """Records a file that is not used, and the reason."""
        self.skipped.append({"file": _shown(path), "reason": reason})

    def admits(self, file: File, split: str, digest: bytes | None) -> bool:
        """Whether a file that was decoded becomes an image."""
        if digest in self.seen:
            path, *split_and_label = self.seen[digest]
            if self.duplicates == "skip" or (self.duplicates is None and split_and_label != [split, file.label]):
                self.skip(file.path, f"the same bytes as {_shown(path)}")
                self.duplicates_skipped += 1
                return False
            self.copies.append({"file": _shown(file.path), "of": _shown(path)})
        elif digest is not None:
            self.seen[digest] = (file.path, split, file.label)
        self.accepted[split, file.label] += 1
        return True


class ImageFolder(FromSource):
    """Your own images, with one folder per class, in one of three layouts.

    The layouts are `source/train/CLASS/*`, optionally with `val` (or `valid`, `validation`) and `test` beside `train`;
    `source/CLASS/*`, from which the other splits are cut; and `source/CLASS/train/*` and so on. Names of splits may be
    in upper or lower case. The class names are the sorted names of the class folders. Names that begin with a dot and
    names that systems leave in folders, such as `__MACOSX` and `Thumbs.db`, are ignored.

    - Images: AVIF, BMP, GIF, JPEG, JPEG 2000, PNG, PPM, TIFF or WebP, recognized by content, resized and converted to
      uint8. The EXIF orientation is applied; transparent pixels are put on white; 16-bit values are divided by 257;
      only the first of several frames is used; color profiles are ignored.
    - Classes: one per folder. A class folder without a usable image is an error, as is a class in `val` or `test` that
      `train` does not have.
    - Split: that of the folders; without a folder for a split, or with a size, folds or `pool`, cut by `split_seed`.
    - Source: `source`, which is only read; links that lead out of it are not followed. It is prepared again when the
      name, size or time of a file has changed, or the rules of decoding. License: that of your images.
    - Files: your own, in the folder `source`.

    Files that cannot be used (damaged, empty, not an image, too large, or a duplicate) are named in the store's
    `meta.json`.

    Args:
        source: Folder that holds the images, as `source/CLASS/*`, `source/train/CLASS/*` or `source/CLASS/train/*`. If
            it no longer exists, the store prepared from a source of the same spelling is used.
        size: Side of the images in pixels, or [height, width].
        channels: Number of channels: 3 for color, 1 for gray.
        resize: Way to reach the size: `crop` scales the image until it covers the size and crops the rest on both
            sides; `squash` scales without keeping the aspect ratio; `none` crops the center without scaling.
        scale: Zoom factor about the center, applied before cropping, with the nearest pixels; only for `none`.
        invert: Whether black and white are exchanged.
        max_skipped: Number of files that may be skipped, or their fraction (below 1). The default is 0, so that a study
            always uses exactly the images of its folder.
        duplicates: Treatment of a file with the same bytes as another: `keep`; or `skip`, which for two splits skips
            the training image. By default a duplicate is kept within a split and class, and skipped otherwise. A
            validation or test set that is cut from the same images gets all copies of an image, or none.
        pool: Whether the images of `train`, `val` and `test` are combined and split again.
    """

    title = "ImageFolder"
    # What brings the images of one folder to their form says nothing about those of another.
    specific_arguments: ClassVar[frozenset[str]] = FromSource.specific_arguments | {
        *("size", "channels", "resize", "scale", "invert", "max_skipped", "duplicates", "pool")
    }

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
            raise UserError(f"data.channels is {channels}, expected 1 for gray or 3 for color.")
        if not scale > 0:
            raise UserError(f"data.scale is {scale}, expected a factor above 0.")
        if scale != 1 and resize != "none":
            raise UserError(
                f"data.scale is {scale} but data.resize is {resize}, which scales the images by itself; "
                "give --data.resize none, or remove data.scale."
            )
        if not max_skipped >= 0 or (isinstance(max_skipped, float) and max_skipped >= 1):
            raise UserError(f"data.max_skipped is {max_skipped}, expected a count of files, or a fraction below 1.")
        self.recipe = Recipe((sides[0], sides[1]), channels, resize, scale, invert)
        if not self.named:
            self.title = _shown(_resolved(Path(source).expanduser()).name)
        super().__init__(**kwargs)
        self.max_skipped = max_skipped
        self.duplicates = duplicates
        self.pool = pool
        self._listing: Listing | None = None
        fingerprint = self.set_source(source)
        is_read = self.prepared is None and self.source_problem() is None
        self._folders = find_classes(self.source) if is_read else None
        self._check_root()
        if fingerprint is not None and self._folders is not None:
            self.check_unchanged(fingerprint, self._list(self._folders).fingerprint)
        self._class_names = tuple(self._folders["train"]) if self._folders is not None else self._stored_class_names()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Sorted names of the class folders."""
        return self._class_names

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return (self.recipe.channels, *self.recipe.size)

    def file_recipe(self) -> Recipe:  # noqa: D102
        return self.recipe

    def prepare_settings(self) -> dict[str, Any]:  # noqa: D102
        source = str(_resolved(self.source))
        recipe = {**vars(self.recipe), "decoding": DECODING}
        return {"source": source, **recipe, "duplicates": self.duplicates, "pool": self.pool}

    def source_problem(self) -> str | None:
        """Reason why the source is not a readable folder; `None` if it is one."""
        return _folder_problem(self.source)

    def _check_root(self) -> None:
        """Refuses a folder of prepared data sets that lies where class folders are, and would be taken for a class."""
        parents = {folder.parent for classes in (self._folders or {}).values() for folder in classes.values()}
        for parent in parents:
            root, inside = _resolved(self.root), _resolved(parent)
            if root == inside or (root.is_relative_to(inside) and not ignored_as(root.relative_to(inside).parts[0])):
                raise UserError(
                    f"data.root {_shown(str(self.root))} lies among the class folders of {_shown(str(parent))}, so "
                    "that prepared images would be taken for a class; give another folder with --data.root, or a "
                    "data.source that holds nothing but the class folders."
                )

    def _stored_class_names(self) -> tuple[str, ...]:
        folder = self.store_folder()
        if folder.exists():
            return tuple(read_meta(folder).get("class_names", ()))
        raise UserError(
            f"data.source {_shown(self.as_written)} {self.source_problem()}, and {self.root} has no store that "
            "was prepared from it with these settings; give the folder that holds the images."
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
                f"{_shown(str(self.source))} has changed since it was prepared (the name, size or time of a "
                "file), and data.offline is on; remove data.offline to prepare the images again, or restore the folder."
            )
        return True

    def setup(self, stage: str | None = None) -> None:
        """Opens the store, makes the splits and computes the statistics; prints the classes that a split lacks."""
        if self.store is not None:
            return
        super().setup(stage)
        store, _, _ = self._ready()
        for name, word in (("val", "validation"), ("test", "test")):
            split = self.splits[name]
            present = set(store.arrays[f"{split.part}-labels"][split.index].tolist())
            missing = [c for label, c in enumerate(self.class_names) if label not in present]
            if present and missing:
                listed = ", ".join(missing[:MAX_LISTED]) + " ..." * (len(missing) > MAX_LISTED)
                rank_zero_only(print)(f"note: no {word} image is of the class{'es' * (len(missing) > 1)} {listed}")

    def open_store(self, check_source: bool = True) -> Store:
        """Opens the prepared store, preparing it first if there is none or if the source has changed.

        Args:
            check_source: Whether the store is prepared again if its source has changed.

        Raises:
            UserError: The images cannot be read, too many files are skipped, or the store is damaged.
        """
        store = super().open_store(check_source)
        self._listing = None  # hundreds of bytes per file, which a run does not need
        skipped = len(store.meta.get("skipped", ()))
        if skipped > self._limit(skipped + sum(len(store.arrays[name]) for name in store.arrays if "labels" in name)):
            raise UserError(
                f"The prepared store {store.folder} skips {skipped} of the files (its meta.json names them), but "
                f"data.max_skipped is {self.max_skipped}; raise it, or repair the files."
            )
        return store

    def write_store(self, writer: StoreWriter, downloads: Path) -> dict[str, Any]:  # noqa: D102
        start = time.monotonic()
        if self._folders is None:
            raise UserError(f"There is no folder {_shown(str(self.source))} to prepare; give an existing folder.")
        listing = self._list(self._folders)
        total = sum(map(len, listing.files.values()))
        height, width = self.recipe.size
        if self.store_folder().exists():
            print(f"{_shown(str(self.source))} has changed since it was prepared")
        print(f"preparing {total:,} files of {_shown(str(self.source))} as {height} x {width} x {self.recipe.channels}")
        if unread := _unread_entries(self.source, self._folders):
            listed = ", ".join(unread[:MAX_LISTED]) + " ..." * (len(unread) > MAX_LISTED)
            print(f"  outside of the class folders, not read: {listed}")
        if listing.ignored:
            print(f"  ignored, as left by systems or hidden: {_ignored_in_words(listing.ignored)}")
        if alike := look_alikes(self.class_names):
            print(f"  note: these classes have names that look alike: {', '.join(alike)}")
        file_filter = FileFilter(self.duplicates)
        # Test first, so that of two duplicates in different splits the training image is skipped.
        parts = {split: listing.files[split] for split in reversed(SPLITS) if split in listing.files}
        if self.pool:
            parts = {"train": [file for split in listing.files for file in listing.files[split]]}
        with decoder(self.recipe, total) as decode, _progress(total) as advance:
            for split, files in parts.items():
                self._write_split(writer, split, files, decode, file_filter, advance)
        self._check_skipped(file_filter, total, self._folders)
        if list_files(self.source, find_classes(self.source)).fingerprint != listing.fingerprint:
            raise UserError(
                f"{_shown(str(self.source))} has changed while it was prepared (the name, size or time of a file); "
                "run the same command again when nothing writes to it any more."
            )
        count, seconds = sum(file_filter.accepted.values()), time.monotonic() - start
        print(f"prepared {count:,} images in {seconds:.1f} s, {count / max(seconds, 1e-9):,.0f} per second")
        return {
            "source": _shown(f"the folder {_resolved(self.source)}"),
            "source_as_written": self.as_written,
            "licence": "that of the folder's images",
            "decoded_by": f"Pillow {PIL.__version__}",
            "split": f"folders{', combined' * self.pool}: {', '.join(listing.files)}",
            "fingerprint": listing.fingerprint,
            "skipped": file_filter.skipped,
            "copies": file_filter.copies,
            "not_read": unread,
            "ignored": listing.ignored,
        }

    def _write_split(
        self,
        writer: StoreWriter,
        split: str,
        files: Sequence[File],
        decode: Callable[[Iterable[list[str]]], Iterator[Decoded]],
        file_filter: FileFilter,
        advance: Callable[[int], None],
    ) -> None:
        usable = []
        for file in files:
            if file.problem is None:
                usable.append(file)
            else:
                file_filter.skip(file.path, file.problem)
        size = task_size(self.recipe)
        tasks = [usable[start : start + size] for start in range(0, len(usable), size)]
        labels, names = [], []
        shape = (*self.recipe.size, self.recipe.channels)
        with writer.stream_array(f"{split}-images", shape, np.uint8) as append:
            paths = ([f"{self.source}/{file.path}" for file in task] for task in tasks)
            for task, decoded in zip(tasks, decode(paths), strict=True):
                admitted = []  # one entry per decoded image
                for file, digest, problem in zip(task, decoded.digests, decoded.problems, strict=True):
                    if problem is not None:
                        file_filter.skip(file.path, problem)
                        continue
                    admitted.append(file_filter.admits(file, split, digest))
                    if admitted[-1]:
                        labels.append(file.label)
                        names.append(os.fsencode(file.path))
                append(decoded.images[np.array(admitted, dtype=bool)])
                advance(len(task))
        writer.save(f"{split}-labels", np.array(labels, dtype=np.int64))
        writer.save(f"{split}-names", np.array(names, dtype=np.bytes_))

    def _check_skipped(self, file_filter: FileFilter, total: int, folders: Folders) -> None:
        """Prints skipped files; refuses too many of them, and empty classes."""
        for entry in file_filter.skipped[:MAX_LISTED]:
            print(f"  skipped: {entry['file']}: {entry['reason']}")
        if len(file_filter.skipped) > MAX_LISTED:
            print(f"  skipped: {len(file_filter.skipped) - MAX_LISTED:,} more")
        if len(file_filter.skipped) > self._limit(total):
            first = file_filter.skipped[0]
            example = f"such as {first['file']} ({first['reason']})"
            source = _shown(str(self.source))
            if not file_filter.accepted:
                raise UserError(
                    f"None of the {total:,} files of {source} can be used, {example}; repair them, or give another "
                    "folder."
                )
            keep = ", or keep copies with --data.duplicates keep" * bool(file_filter.duplicates_skipped)
            raise UserError(
                f"{len(file_filter.skipped):,} of the {total:,} files of {source} cannot be used, {example}, but "
                f"data.max_skipped is {self.max_skipped}; repair them, or skip them with --data.max_skipped "
                f"{len(file_filter.skipped)}{keep}."
            )
        for split, classes in folders.items():
            for name, folder in classes.items():
                if not file_filter.accepted["train" if self.pool else split, self.class_names.index(name)]:
                    raise UserError(
                        f"The class folder {_shown(str(folder))} holds no image that can be used; add images, or "
                        "remove the folder."
                    )


def find_classes(source: Path) -> dict[str, dict[str, Path]]:
    """Finds the class folders of each split, without reading the files in them.

    Args:
        source: Folder that holds the images.

    Returns:
        The folders by split, then by class name, sorted; `train` first, then `val` and `test` if they exist.

    Raises:
        UserError: The folders have none of the three layouts, or there are fewer than two classes.
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
        by_split: dict[str, dict[str, Path]] = {}
        for name, folder in top.items():
            splits = _by_split(_folders(folder, source), folder)
            if not splits and _holds_images(folder):
                raise UserError(
                    f"{_shown_folder(source, folder)} holds images, but no folder of a split, expected one as in "
                    f"{_shown_folder(source, next(iter(top.values())))}; put the images into folders of splits, or "
                    "move it out of the source if it is no class."
                )
            for split, path in splits.items():
                by_split.setdefault(split, {})[name] = path
    elif any(split == "train" and _folders(top[name], source) for name, split in by_name.items()):
        # A class may be called train: it holds images, not folders.
        by_split = {split: _folders(path, source) for split, path in _by_split(top, source).items()}
    else:
        named = [name for name, split in by_name.items() if split is not None]
        if len({by_name[name] for name in named}) > 1 and not any(_folders(top[name], source) for name in named):
            raise UserError(
                f"The folders {', '.join(named)} of {_shown(str(source))} hold no class folders, so that their images "
                "have no labels; make one folder per class in each of them, as train/CLASS/."
            )
        by_split = {"train": top}
    train = by_split.get("train", {})
    if len(train) < 2:
        raise UserError(
            f"{_shown(str(source))} holds {counted(len(train), 'class folder')} for training "
            f"({', '.join(train) or 'none'}), expected two or more, as train/CLASS/, CLASS/ or CLASS/train/."
        )
    for split, folders in by_split.items():
        if not folders:
            raise UserError(
                f"The folder {split} of {_shown(str(source))} holds no class folders, so that its images have no "
                "labels; make one folder per class, or remove the folder."
            )
        if unknown := [name for name in folders if name not in train]:
            raise UserError(
                f"{_shown_folder(source, folders[unknown[0]])} is of a class that train does not have (train has "
                f"{', '.join(train)}); rename the folder, or remove it."
            )
    return {split: by_split[split] for split in SPLITS if split in by_split}


def _folders(parent: Path, source: Path) -> dict[str, Path]:
    """Folders in `parent` that are not hidden, sorted, by their printable names."""
    try:
        with os.scandir(parent) as entries:
            paths = {entry.name: Path(entry.path) for entry in entries if is_folder(entry) and not is_ignored(entry)}
    except OSError as error:
        raise _unreadable(parent, error) from error
    for path in paths.values():
        if not _is_inside(path, source):
            raise UserError(
                f"{_shown(str(path))} is a link that leads out of {_shown(str(source))}, which is not followed; "
                "replace the link with the folder itself."
            )
    check_distinct(paths, str(parent))
    return {class_name(name): paths[name] for name in sorted(paths)}


def _shown_folder(source: Path, folder: Path) -> str:
    """A folder within the source, with escapes for blanks at the ends of names."""
    return "/".join([_shown(str(source)), *map(class_name, folder.relative_to(source).parts)])


def _unreadable(folder: Path, error: OSError) -> UserError:
    return UserError(f"The folder {_shown(str(folder))} cannot be read ({error.strerror}); make it readable.")


def _by_split(folders: Mapping[str, Path], parent: Path) -> dict[str, Path]:
    """Folders whose name is that of a split, by split."""
    by_split: dict[str, Path] = {}
    for name, path in folders.items():
        split = SPLIT_NAMES.get(name.casefold())
        if split in by_split:
            raise UserError(
                f"{_shown(str(parent))} holds two folders for {split}, {by_split[split].name} and {name}; keep one."
            )
        if split is not None:
            by_split[split] = path
    return by_split


def list_files(source: Path, folders: Folders) -> Listing:
    """Lists the files of the class folders; links out of the source and special files are recorded as unusable.

    Raises:
        UserError: A class folder is empty, holds another folder, or cannot be read.
    """
    labels = {name: label for label, name in enumerate(folders["train"])}
    digest = hashlib.sha256(json.dumps({split: list(names) for split, names in folders.items()}).encode())
    files: dict[str, list[File]] = {}
    ignored: Counter[str] = Counter()
    size = 0
    parents = {source, *(folder.parent for classes in folders.values() for folder in classes.values())}
    for parent in parents:
        with os.scandir(parent) as scan:
            ignored.update(kind for entry in scan if (kind := ignored_as(entry.name)) is not None)
    for split, classes in folders.items():
        files[split] = []
        for name, folder in classes.items():
            try:
                with os.scandir(folder) as scan:
                    every = sorted(scan, key=lambda entry: entry.name)
            except OSError as error:
                raise _unreadable(folder, error) from error
            kinds = [ignored_as(entry.name) for entry in every]
            entries = [entry for entry, kind in zip(every, kinds, strict=True) if kind is None]
            ignored.update(kind for kind in kinds if kind is not None)
            if not entries:
                besides = f", besides {_ignored_in_words(Counter(filter(None, kinds)))}" if kinds else ""
                raise UserError(f"The class folder {_shown(str(folder))} is empty{besides}; add images, or remove it.")
            prefix = folder.relative_to(source)
            for entry in entries:
                if is_folder(entry):
                    raise UserError(
                        f"The class folder {_shown(str(folder))} holds the folder {_shown(entry.name)}, expected only "
                        "images, as train/CLASS/*, CLASS/* or CLASS/train/*; move a folder that is no class out of "
                        "the source."
                    )
                path = f"{prefix}/{entry.name}"
                problem, state = _inspect(entry, source)
                files[split].append(File(path, labels[name], problem))
                digest.update(os.fsencode(path) + b"\0%d %d\0" % state)
                size += state[0]
    count = sum(map(len, files.values()))
    return Listing(files, {"files": count, "bytes": size, "sha256": digest.hexdigest()}, dict(ignored))


def _ignored_in_words(ignored: Mapping[str, int]) -> str:
    """Kinds of ignored names, each with the number of files and folders: ._* (24), .DS_Store (2)."""
    kinds = sorted(ignored, key=lambda kind: (-ignored[kind], kind))
    return ", ".join(f"{kind} ({ignored[kind]:,})" for kind in kinds[:MAX_LISTED]) + " ..." * (len(kinds) > MAX_LISTED)


def _unread_entries(source: Path, folders: Folders) -> list[str]:
    """Printable names of files and folders in the source that are not read, since they are no splits or classes.

    Args:
        source: Folder that holds the images.
        folders: Class folders; what lies beside one of them is not read either.
    """
    read = {path for classes in folders.values() for folder in classes.values() for path in (folder, folder.parent)}
    unread = []
    for parent in {source, *(folder.parent for classes in folders.values() for folder in classes.values())}:
        with os.scandir(parent) as entries:
            beside = [Path(entry.path) for entry in entries if not is_ignored(entry)]
        unread += [_shown(path.relative_to(source).as_posix()) for path in beside if path not in read]
    return sorted(unread)


def _holds_images(folder: Path) -> bool:
    """Whether one of the first files of a folder is an image."""
    with os.scandir(folder) as scan:
        paths = sorted(entry.path for entry in scan if not is_ignored(entry) and entry.is_file())
    for path in paths[:MAX_LISTED]:
        with suppress(Exception), Image.open(path, formats=FORMATS):  # Pillow raises many types
            return True
    return False


def _inspect(entry: os.DirEntry[str], source: Path) -> tuple[str | None, tuple[int, int]]:
    """Reason why a file cannot be used, if known without opening it, and its size and time."""
    if entry.is_symlink() and not _is_inside(Path(entry.path), source):
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
    except OSError:  # a link that leads to itself; `_inspect` says so
        return False


def _folder_problem(path: Path) -> str | None:
    """Reason why a path is not a readable folder; `None` if it is one."""
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            return None
        kind = kind_of_file(path) if path.is_file() else None
        name, _, advice = (kind or "").partition("; ")
        return "is not a folder" + f" but {name}" * bool(name) + " (unpack it)" * (advice == UNPACK)
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _is_inside(path: Path, source: Path) -> bool:
    """Whether a path with all links resolved is within the source."""
    return _resolved(path).is_relative_to(_resolved(source))


def _resolved(path: Path) -> Path:
    """A path with all links resolved; `Path.resolve` would fail for a link to itself."""
    return Path(os.path.realpath(path))


def task_size(recipe: Recipe) -> int:
    """Number of files in one task for a decoding process."""
    return max(1, min(TASK_FILES, TASK_BYTES // (math.prod(recipe.size) * recipe.channels)))


@contextmanager
def decoder(recipe: Recipe, files: int) -> Iterator[Callable[[Iterable[list[str]]], Iterator[Decoded]]]:
    """Context with a function that decodes lists of files in their order, in several processes if there are many."""
    processes = processor_cores()
    if processes == 1 or files <= FEW_FILES:
        yield lambda tasks: (decode_files(task, recipe) for task in tasks)
        return
    # Spawned, not forked, since torch's threads may be running.
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=start_process)

    def decode(tasks: Iterable[list[str]]) -> Iterator[Decoded]:
        waiting: deque[Future[Decoded]] = deque()
        for task in tasks:
            waiting.append(pool.submit(decode_files, task, recipe))
            if len(waiting) > 2 * processes:  # a limit, so that decoded images do not fill the memory
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield decode
    except BrokenProcessPool as error:
        raise UserError(
            "A process that decodes images ended unexpectedly; the memory may be full, or a script may prepare data "
            'outside of `if __name__ == "__main__":`. Free memory or correct the script, and run the command again.'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Context with a progress bar on a terminal; yields a function that advances it by a number of files."""
    console = Console()
    columns = (TextColumn("decoding"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)
