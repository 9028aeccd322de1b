"""Prepared stores: a data set decoded once into memory-mapped arrays, which processes share through the page cache.

A store is a folder `<root>/<dataset>/<key>/` with one `.npy` file per array and `meta.json`, which is written last. The
folder is written under a temporary name and then renamed, so that a store with its final name is complete. A store
copied to another machine works there without the source and without a network.
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
from visionbench.text import shown

SCHEMA = 1
SPLITS = ("train", "val", "test")  # a store always has train; val and test only if they are official

# Errors of a file that is read: it is not there, is no file, or may not be read.
UNREADABLE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM)

# End of the name of an array of samples.
SAMPLES = "-images"

# Types of optional entries of `meta.json`, checked on reading since a user may have edited the file.
META_TYPES = {"class_names": list, "settings": dict, "fingerprint": dict, "skipped": list}


@dataclass(frozen=True)
class Store:
    """An opened store.

    Attributes:
        folder: Folder of the store.
        meta: Content of `meta.json`: class names, source, licence, split, settings and the sha256 of each array.
        arrays: Memory-mapped arrays by name: images, shape (N, H, W, C), uint8 (or a table's raw columns, shape (N, K),
            float64), and labels, shape (N,), int64.
    """

    folder: Path
    meta: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


def default_root() -> Path:
    """Folder of prepared data sets where none is given."""
    return Path(os.environ.get("VISIONBENCH_DATA") or "data").expanduser()


def store_key(settings: Mapping[str, Any]) -> str:
    """Folder name of the store for these settings; other settings give another name."""
    text = json.dumps({"schema": SCHEMA, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find_store(parent: Path, settings: Mapping[str, Any], source: str) -> Path | None:
    """Finds the store of a source that no longer exists, by the user's spelling of its path.

    Args:
        parent: Folder that holds all stores of the data set.
        settings: Settings that identify the store; the resolved path of the source in them is not compared.
        source: Path of the source as the user wrote it.

    Returns:
        The folder of the store; `None` if there is none.

    Raises:
        UserError: Several stores match.
    """
    # The JSON round trip turns tuples into lists, as in the stored settings.
    expected = json.loads(json.dumps({**settings, "source": source}))
    matches = []
    for path in sorted(parent.glob("[!.]*/meta.json")):
        meta = read_meta(path.parent)
        if meta.get("settings", {}) | {"source": meta.get("source_as_written")} == expected:
            matches.append(path.parent)
    if len(matches) > 1:
        raise UserError(
            f"The source {source!r} does not exist, and {len(matches)} prepared stores come from a source of this name "
            f"({', '.join(map(str, matches))}); give the absolute path of the source."
        )
    return matches[0] if matches else None


@dataclass(frozen=True)
class RememberedSource:
    """A source that a data set was prepared from.

    Attributes:
        source: Path of the source, which may no longer exist.
        folder: Store with the settings that were asked for; `None` if there are only stores with other settings.
        differences: Names of the settings in which the store that was prepared last differs; empty with a `folder`.
        fingerprint: Fingerprint of the source when it was prepared.
        others: Sources of stores that were prepared from other files, or from files that have changed since.
    """

    source: Path
    folder: Path | None
    differences: list[str]
    fingerprint: Mapping[str, Any]
    others: list[Path]


def remembered_source(parent: Path, settings: Mapping[str, Any]) -> RememberedSource | None:
    """Finds what a data set was last prepared from, with these settings or else with others.

    Args:
        parent: Folder that holds all stores of the data set.
        settings: Settings that identify the store; the source in them is not compared.

    Returns:
        The source; `None` if there is no store of this class.

    Raises:
        UserError: The `meta.json` of a store cannot be read.
    """
    wanted = {name: value for name, value in json.loads(json.dumps(settings)).items() if name != "source"}
    stores = []
    for path in parent.glob("[!.]*/meta.json"):
        meta = read_meta(path.parent)
        of_store = dict(meta.get("settings", {}))
        source = of_store.pop("source", None)
        if isinstance(source, str) and all(of_store.get(name) == wanted.get(name) for name in ("dataset", "code")):
            differences = [n for n in sorted(of_store | wanted) if of_store.get(n) != wanted.get(n)]
            stores.append((path.stat().st_mtime_ns, path.parent, Path(source), differences, meta))
    if not stores:
        return None
    stores.sort(key=lambda entry: (not entry[3], entry[0], entry[1]), reverse=True)
    _, folder, source, differences, meta = stores[0]
    others: dict[Path, None] = {}
    for _, _, other, its_differences, its_meta in stores[1:]:
        # With equal settings the samples can be compared, so that a folder that was only moved is no other source.
        key = "arrays" if its_differences == differences else "fingerprint"
        if its_meta.get(key) != meta.get(key):
            others[other] = None
    return RememberedSource(
        source, None if differences else folder, differences, meta.get("fingerprint", {}), [*others]
    )


def digests_file(name: str) -> str:
    """Name of the file with the digests of an array of samples; it lies beside the array, and `meta.json` has none.

    Args:
        name: Name of the array, such as train-images.
    """
    return f"{name.removesuffix(SAMPLES)}-digests.npy"


def digests_of_rows(array: np.ndarray) -> np.ndarray:
    """A digest of the bytes of each row, shape (N,), uint64.

    The probability that any two different rows among a million have the same digest is 3e-8.

    Args:
        array: Array of samples.
    """
    found = (hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in array)
    return np.frombuffer(b"".join(found), dtype="<u8").astype(np.uint64)


def sample_digests(store: Store, part: str) -> np.ndarray:
    """Digests of the samples of a part, as they were computed when the store was written.

    A store of an earlier version gets them now, and keeps them where its folder can be written. Those of arrays in
    memory, which have no folder, are computed at each call.

    Args:
        store: Store.
        part: Part: `train`, `val` or `test`.

    Raises:
        UserError: The digests cannot be read.
    """
    images = store.arrays[f"{part}{SAMPLES}"]
    path = store.folder / digests_file(f"{part}{SAMPLES}")
    is_on_disk = (store.folder / "meta.json").exists()
    if is_on_disk and path.exists():
        try:
            digests: np.ndarray = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"The prepared array {path} cannot be read ({error}); delete this file.") from error
        if digests.shape == (len(images),) and digests.dtype == np.uint64:
            return digests
    digests = digests_of_rows(images)
    if is_on_disk and os.access(store.folder, os.W_OK):
        temporary = path.with_name(f".{path.name}-{os.getpid()}")
        with temporary.open("wb") as file:
            np.save(file, digests, allow_pickle=False)
        temporary.replace(path)
    return digests


class StoreWriter:
    """Writes the arrays of a store, one after the other, from memory or in chunks.

    Args:
        folder: Temporary folder for the files; renamed by the caller when the store is complete.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arrays: dict[str, dict[str, Any]] = {}
        """Entries of `meta.json` for the arrays written so far, by name: shape, dtype and sha256."""

    def save(self, name: str, array: np.ndarray) -> None:
        """Writes an array that is in memory."""
        with (self.folder / f"{name}.npy").open("wb") as file:
            np.save(file, array, allow_pickle=False)
            _flush(file)
        digest = hashlib.sha256(np.ascontiguousarray(array).data)
        self._note(name, array.shape, array.dtype, digest.hexdigest())
        if name.endswith(SAMPLES):
            self._save_digests(name, digests_of_rows(array))

    @contextlib.contextmanager
    def stream_array(
        self, name: str, item_shape: tuple[int, ...], dtype: type[np.generic]
    ) -> Iterator[Callable[[np.ndarray], None]]:
        """Writes an array of unknown length in chunks, so that it is never in memory as a whole.

        Args:
            name: Name of the array.
            item_shape: Shape of one row, without the first axis.
            dtype: Type of the values.

        Yields:
            A function that appends rows, shape (n, *item_shape), of this type.
        """
        count = 0
        digest = hashlib.sha256()
        rows_seen = [np.zeros(0, np.uint64)]
        with (self.folder / f"{name}.npy").open("wb") as file:

            def write_header() -> None:
                header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
                np.lib.format.write_array_header_1_0(file, header | {"shape": (count, *item_shape)})

            def append(rows: np.ndarray) -> None:
                nonlocal count
                content = np.ascontiguousarray(rows, dtype=dtype).data
                file.write(content)
                digest.update(content)
                count += len(rows)
                if name.endswith(SAMPLES):
                    rows_seen.append(digests_of_rows(np.ascontiguousarray(rows, dtype=dtype)))

            write_header()
            header_size = file.tell()
            yield append
            file.seek(0)
            write_header()  # NumPy pads the header, so that a longer first axis does not change its size
            if file.tell() != header_size:
                raise RuntimeError(f"The header of {name} grew from {header_size} to {file.tell()} bytes.")
            _flush(file)
        self._note(name, (count, *item_shape), np.dtype(dtype), digest.hexdigest())
        if name.endswith(SAMPLES):
            self._save_digests(name, np.concatenate(rows_seen))

    def _save_digests(self, name: str, digests: np.ndarray) -> None:
        with (self.folder / digests_file(name)).open("wb") as file:
            np.save(file, digests, allow_pickle=False)
            _flush(file)

    def _note(self, name: str, shape: tuple[int, ...], dtype: np.dtype, digest: str) -> None:
        self.arrays[name] = {"shape": list(shape), "dtype": str(dtype), "sha256": digest}


def open_or_prepare(folder: Path, prepare: Callable[[], tuple[Mapping[str, np.ndarray], dict[str, Any]]]) -> Store:
    """Opens the store in `folder`; if there is none, prepares it first from arrays that fit in memory.

    Args:
        folder: Folder of the store; its parents are created.
        prepare: Function that returns the arrays by name and the data set's entries of `meta.json`; called only if
            there is no store.

    Raises:
        UserError: The existing store is damaged, or the folder cannot be written.
    """

    def write(writer: StoreWriter) -> dict[str, Any]:
        arrays, meta = prepare()
        for name, array in arrays.items():
            writer.save(name, array)
        return meta

    return open_or_write(folder, write)


def open_or_write(
    folder: Path,
    write: Callable[[StoreWriter], dict[str, Any]],
    is_stale: Callable[[Mapping[str, Any]], bool] | None = None,
) -> Store:
    """Opens the store in `folder`; if there is none, or an outdated one, writes it first.

    Several processes may call this at the same time: one of them writes, the others wait. An existing store is opened
    without a lock, so that a read-only root works. An outdated store stays until the new one is complete.

    Args:
        folder: Folder of the store; its parents are created.
        write: Function that writes the arrays and returns the data set's entries of `meta.json`; called only if a store
            has to be written.
        is_stale: Function that says from `meta.json` whether the store is outdated; by default no store is.

    Raises:
        UserError: The existing store is damaged, or the folder cannot be written.
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
                for abandoned in folder.parent.glob(f".{folder.name}-*"):  # left by a process that was killed
                    shutil.rmtree(abandoned)
                _write(folder, write)
    except OSError as error:
        if error.errno in UNREADABLE and _is_elsewhere(error.filename, folder):
            raise UserError(
                f"{shown(os.fsdecode(error.filename))}, which the data set is prepared from, cannot be read "
                f"({error.strerror}); correct its path, or make it readable."
            ) from error
        is_read_only = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        raise UserError(
            f"The prepared data set could not be written to {folder} ({error.strerror or error}); "
            f"{'make it writable' if is_read_only else 'free some space there'}, or give another folder with "
            "--data.root."
        ) from error
    return open_store(folder)


def _is_elsewhere(file: Any, folder: Path) -> bool:
    """Whether the file of an error is none that is written where the store in `folder` is prepared."""
    if not isinstance(file, str | bytes | os.PathLike):
        return False
    path, folder = Path(os.fsdecode(file)).absolute(), folder.absolute()
    written = (folder.parent, folder.parent.parent / "downloads")
    return not folder.is_relative_to(path) and not any(path.is_relative_to(place) for place in written)


def open_store(folder: Path) -> Store:
    """Opens a prepared store and checks that every array is complete and has the shape and type of `meta.json`.

    Raises:
        UserError: An array is missing, damaged or different; the message names its file.
    """
    advice = _advice(folder)
    meta = read_meta(folder)
    arrays = {}
    for name, entry in meta["arrays"].items():
        path = folder / f"{name}.npy"
        try:
            # NumPy compares the length of the file with its header, so that a truncated array does not open.
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"The prepared array {path} cannot be read ({error}); {advice}") from error
        if (list(array.shape), str(array.dtype)) != (entry["shape"], entry["dtype"]):
            raise UserError(
                f"The prepared array {path} holds {array.dtype} {list(array.shape)}, but its meta.json says "
                f"{entry['dtype']} {entry['shape']}; {advice}"
            )
        arrays[name] = array
    if read_meta(folder) != meta:
        return open_store(folder)  # another process replaced the store in the meantime
    return Store(folder, meta, arrays)


def read_meta(folder: Path) -> dict[str, Any]:
    """Reads the `meta.json` of a prepared store.

    Raises:
        UserError: The file cannot be read, or this version does not write such a file.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"The prepared store's meta.json cannot be read ({error}); {_advice(folder)}") from error
    entries = meta.get("arrays") if isinstance(meta, dict) and meta.get("schema") == SCHEMA else None
    if (
        not isinstance(entries, dict)
        or "train-images" not in entries
        or not _are_complete_splits(set(entries))
        or not all(map(_is_array_entry, entries.values()))
        or not all(isinstance(meta[name], kind) for name, kind in META_TYPES.items() if name in meta)
        or not all(isinstance(name, str) for name in meta.get("class_names", ()))
    ):
        raise UserError(
            f"The prepared store's meta.json does not have the form that this version writes; {_advice(folder)}"
        )
    checked: dict[str, Any] = meta
    return checked


def _are_complete_splits(names: set[Any]) -> bool:
    """Whether each split has images and labels; names of images are optional."""
    splits = [split for split in SPLITS if f"{split}-images" in names]
    needed = {f"{split}-{kind}" for split in splits for kind in ("images", "labels")}
    return needed <= names <= needed | {f"{split}-names" for split in splits}


def _is_array_entry(entry: Any) -> bool:
    """Whether an entry of `meta.json` has the form that `StoreWriter` writes for an array."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in ("dtype", "sha256")):
        return False
    shape = entry.get("shape")
    return isinstance(shape, list) and len(shape) > 0 and all(type(length) is int for length in shape)


def _advice(folder: Path) -> str:
    return f"delete {folder} and run the same command to prepare it again."


def _write(folder: Path, write: Callable[[StoreWriter], dict[str, Any]]) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        writer = StoreWriter(temporary)
        meta = write(writer) | {"schema": SCHEMA, "arrays": writer.arrays}
        with (temporary / "meta.json").open("w", encoding="utf-8", errors="backslashreplace") as text:
            # A path that is not UTF-8 is escaped as JSON escapes it.
            json.dump(meta, text, indent=2, ensure_ascii=False)
            _flush(text)
        temporary.chmod(0o755)  # mkdtemp's 0o700 would exclude the other users of a shared root
        old = folder.with_name(f"{temporary.name}-old")
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
        if old.exists():  # a process that has mapped its arrays keeps them until it closes the files
            shutil.rmtree(old)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(file: Any) -> None:
    """Writes a file to the disk before its folder is renamed, so that a power failure leaves no empty files."""
    file.flush()
    os.fsync(file.fileno())
