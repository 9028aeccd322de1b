"""Prepared stores: a data set decoded once into arrays that open at once and are shared through the page cache.

A store is a folder `<root>/<dataset>/<key>/` with one `.npy` file an array and `meta.json`, written last. It is made
under another name and renamed, so a store that can be seen is whole. It holds all that is needed: copied to another
machine it works there without the source or a network.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from visionbench.errors import UserError

SCHEMA = 1
SPLITS = ("train", "val", "test")  # of which a store has the first, and the others where they are official


# What is relied on where it stands in a `meta.json`, which somebody may have edited.
META_TYPES = {"class_names": list, "settings": dict, "fingerprint": dict, "skipped": list}


@dataclass(frozen=True)
class Store:
    """An opened store.

    Attributes:
        folder: Where it lies.
        meta: What `meta.json` says: class names, source, licence, split, settings and the arrays' sha256.
        arrays: Memory-mapped by name; images (N, H, W, C) uint8 (or a table's raw columns (N, K) float64), labels (N,)
            int64.
    """

    folder: Path
    meta: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


def store_key(settings: Mapping[str, Any]) -> str:
    """The name of the store that these prepare settings give; other settings never meet it."""
    text = json.dumps({"schema": SCHEMA, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find_store(parent: Path, settings: Mapping[str, Any], source: str) -> Path | None:
    """The store of a source that is gone, by how the source was written; `None` where there is none.

    Args:
        parent: Where the data set's stores lie.
        settings: All that decides which store it is; the place of the source in them does not count.
        source: How the user has written it.

    Raises:
        UserError: There are several.
    """
    # As JSON gives them back, with lists for tuples.
    wanted = json.loads(json.dumps({**settings, "source": source}))
    found = []
    for path in sorted(parent.glob("[!.]*/meta.json")):
        meta = read_meta(path.parent)
        if meta.get("settings", {}) | {"source": meta.get("source_as_written")} == wanted:
            found.append(path.parent)
    if len(found) > 1:
        raise UserError(
            f"There is no {source!r}, and {len(found)} prepared stores come from sources written like that "
            f"({', '.join(map(str, found))}); give the one that is meant by its whole path."
        )
    return found[0] if found else None


class Writer:
    """What a store is written through, an array after the other, each whole in memory or piece by piece.

    Args:
        folder: Where the files go; it is renamed when all are there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arrays: dict[str, dict[str, Any]] = {}
        """What `meta.json` is to say of the arrays written so far, by name: shape, dtype and sha256."""

    def save(self, name: str, array: np.ndarray) -> None:
        """Writes an array that is there in memory."""
        with (self.folder / f"{name}.npy").open("wb") as file:
            np.save(file, array, allow_pickle=False)
            _flush(file)
        digest = hashlib.sha256(np.ascontiguousarray(array).data)
        self._note(name, array.shape, array.dtype, digest.hexdigest())

    @contextlib.contextmanager
    def growing(
        self, name: str, item_shape: tuple[int, ...], dtype: type[np.generic]
    ) -> Iterator[Callable[[np.ndarray], None]]:
        """Writes an array of a length that is known at its end, without ever holding it.

        Args:
            name: The array's name.
            item_shape: The shape without the first axis, which grows.
            dtype: The type of its values.

        Yields:
            A function that appends rows, shape (n, *item_shape) of that type.
        """
        count = 0
        digest = hashlib.sha256()
        with (self.folder / f"{name}.npy").open("wb") as file:

            def write_header() -> None:
                said = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
                np.lib.format.write_array_header_1_0(file, said | {"shape": (count, *item_shape)})

            def append(rows: np.ndarray) -> None:
                nonlocal count
                content = np.ascontiguousarray(rows, dtype=dtype).data
                file.write(content)
                digest.update(content)
                count += len(rows)

            write_header()
            begin = file.tell()
            yield append
            file.seek(0)
            write_header()  # NumPy leaves room in it for the first axis to grow to any length
            if file.tell() != begin:
                raise RuntimeError(f"The header of {name} has grown from {begin} to {file.tell()} bytes.")
            _flush(file)
        self._note(name, (count, *item_shape), np.dtype(dtype), digest.hexdigest())

    def _note(self, name: str, shape: tuple[int, ...], dtype: np.dtype, digest: str) -> None:
        self.arrays[name] = {"shape": list(shape), "dtype": str(dtype), "sha256": digest}


def open_or_prepare(folder: Path, prepare: Callable[[], tuple[Mapping[str, np.ndarray], dict[str, Any]]]) -> Store:
    """Opens the store in `folder`, preparing it first, from arrays that fit in memory, where there is none.

    Args:
        folder: The store's place; its parents are made.
        prepare: Gives the arrays by name and the data set's part of `meta.json`; called only where it is needed.

    Raises:
        UserError: The store that is there is damaged, or the folder cannot be written.
    """

    def write(writer: Writer) -> dict[str, Any]:
        arrays, meta = prepare()
        for name, array in arrays.items():
            writer.save(name, array)
        return meta

    return open_or_write(folder, write)


def open_or_write(
    folder: Path,
    write: Callable[[Writer], dict[str, Any]],
    is_stale: Callable[[Mapping[str, Any]], bool] | None = None,
) -> Store:
    """Opens the store in `folder`, writing it first where there is none, or an old one.

    Several processes may call this at once: one prepares, the others wait for it. A store that is there is opened
    without a lock, so that a read-only root works. An old store stays until the new one is whole.

    Args:
        folder: The store's place; its parents are made.
        write: Writes the arrays and gives the data set's part of `meta.json`; called only where it is needed.
        is_stale: Whether the store with this `meta.json` is to be replaced; by default none is.

    Raises:
        UserError: The store that is there is damaged, or the folder cannot be written.
    """

    def current() -> Store | None:
        if not folder.exists():
            return None
        store = open_store(folder)
        return None if is_stale is not None and is_stale(store.meta) else store

    try:
        if (store := current()) is not None:
            return store
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if current() is None:  # another process may have prepared it while this one waited
                for abandoned in folder.parent.glob(f".{folder.name}-*"):  # by a process that was killed
                    shutil.rmtree(abandoned)
                _write(folder, write)
    except OSError as error:
        locked = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        raise UserError(
            f"The prepared data set could not be written to {folder} ({error.strerror or error}); "
            f"{'make it writable' if locked else 'free some space there'}, or give another folder with --data.root."
        ) from error
    return open_store(folder)


def open_store(folder: Path) -> Store:
    """Opens a prepared store, checking that every array is there, whole and as `meta.json` says.

    Raises:
        UserError: It is not, naming the file.
    """
    again = _again(folder)
    meta = read_meta(folder)
    arrays = {}
    for name, said in meta["arrays"].items():
        path = folder / f"{name}.npy"
        try:
            # NumPy checks the file's length against its header here, so an array cut short does not open.
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"The prepared array {path} cannot be read ({error}); {again}") from error
        if (list(array.shape), str(array.dtype)) != (said["shape"], said["dtype"]):
            raise UserError(
                f"The prepared array {path} holds {array.dtype} {list(array.shape)}, but its meta.json says "
                f"{said['dtype']} {said['shape']}; {again}"
            )
        arrays[name] = array
    if read_meta(folder) != meta:
        return open_store(folder)  # another process has just put a new store in its place
    return Store(folder, meta, arrays)


def read_meta(folder: Path) -> dict[str, Any]:
    """What a prepared store's `meta.json` says.

    Raises:
        UserError: It cannot be read, or is not one that this version writes.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"The prepared store's meta.json cannot be read ({error}); {_again(folder)}") from error
    said_of = meta.get("arrays") if isinstance(meta, dict) and meta.get("schema") == SCHEMA else None
    if (
        not isinstance(said_of, dict)
        or "train-images" not in said_of
        or not _are_splits(set(said_of))
        or not all(map(_is_array, said_of.values()))
        or not all(isinstance(meta[name], kind) for name, kind in META_TYPES.items() if name in meta)
        or not all(isinstance(name, str) for name in meta.get("class_names", ()))
    ):
        raise UserError(f"The prepared store's meta.json is not of the kind this version writes; {_again(folder)}")
    whole: dict[str, Any] = meta
    return whole


def _are_splits(names: set[Any]) -> bool:
    """Whether each split has images and labels; what its images are called is there for some data sets."""
    splits = [split for split in SPLITS if f"{split}-images" in names]
    needed = {f"{split}-{kind}" for split in splits for kind in ("images", "labels")}
    return needed <= names <= needed | {f"{split}-names" for split in splits}


def _is_array(said: Any) -> bool:
    """Whether this is what `Writer` notes of an array."""
    if not isinstance(said, dict) or not all(isinstance(said.get(name), str) for name in ("dtype", "sha256")):
        return False
    shape = said.get("shape")
    return isinstance(shape, list) and len(shape) > 0 and all(type(length) is int for length in shape)


def _again(folder: Path) -> str:
    return f"delete {folder} and run the same command to prepare it again."


def _write(folder: Path, write: Callable[[Writer], dict[str, Any]]) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        writer = Writer(temporary)
        meta = write(writer) | {"schema": SCHEMA, "arrays": writer.arrays}
        with (temporary / "meta.json").open("w", encoding="utf-8") as text:
            json.dump(meta, text, indent=2, ensure_ascii=False)
            _flush(text)
        temporary.chmod(0o755)  # mkdtemp's 0o700 would lock out the other users of a shared root
        old = folder.with_name(f"{temporary.name}-old")
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
        if old.exists():  # whoever has opened its arrays keeps them: their names go, the files stay until closed
            shutil.rmtree(old)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(file: Any) -> None:
    """Puts a file on the disk before the rename can be seen, lest a power cut leave a store of empty files."""
    file.flush()
    os.fsync(file.fileno())
