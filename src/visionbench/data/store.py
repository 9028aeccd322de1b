"""Prepared stores: a data set decoded once into arrays that open at once and are shared through the page cache.

A store is a folder `<root>/<dataset>/<key>/` with one `.npy` file an array and `meta.json`, written last. It is made
under another name and renamed, so a store that can be seen is whole. It holds all that is needed: copied to another
machine it works there without the source or a network.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from visionbench.errors import UserError

SCHEMA = 1
ARRAYS = ("train-images", "train-labels", "test-images", "test-labels")


@dataclass(frozen=True)
class Store:
    """An opened store.

    Attributes:
        folder: Where it lies.
        meta: What `meta.json` says: class names, source, licence, split, settings and the arrays' sha256.
        arrays: Memory-mapped by name; images (N, H, W, C) uint8, labels (N,) int64.
    """

    folder: Path
    meta: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


def store_key(settings: Mapping[str, Any]) -> str:
    """The name of the store that these prepare settings give; other settings never meet it."""
    text = json.dumps({"schema": SCHEMA, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def open_or_prepare(folder: Path, prepare: Callable[[], tuple[Mapping[str, np.ndarray], dict[str, Any]]]) -> Store:
    """Opens the store in `folder`, preparing it first where there is none.

    Several processes may call this at once: one prepares, the others wait for it. A store that is there is opened
    without a lock, so that a read-only root works.

    Args:
        folder: The store's place; its parents are made.
        prepare: Gives the arrays by name and the data set's part of `meta.json`; called only where it is needed.

    Raises:
        UserError: The store that is there is damaged, or the folder cannot be written.
    """
    try:
        if folder.exists():
            return open_store(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.exists():
                for abandoned in folder.parent.glob(f".{folder.name}-*"):  # by a process that was killed
                    shutil.rmtree(abandoned)
                _write(folder, *prepare())
    except OSError as error:
        raise UserError(
            f"The prepared data set could not be written to {folder} ({error}); free some space there, or give another "
            "folder with --data.root."
        ) from error
    return open_store(folder)


def open_store(folder: Path) -> Store:
    """Opens a prepared store, checking that every array is there, whole and as `meta.json` says.

    Raises:
        UserError: It is not, naming the file.
    """
    again = f"delete {folder} and run the same command to prepare it again."
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"The prepared store's meta.json cannot be read ({error}); {again}") from error
    said_of = meta.get("arrays") if isinstance(meta, dict) and meta.get("schema") == SCHEMA else None
    if (
        not isinstance(said_of, dict)
        or set(said_of) != set(ARRAYS)
        or not all(isinstance(said, dict) and {"shape", "dtype", "sha256"} <= set(said) for said in said_of.values())
    ):
        raise UserError(f"The prepared store's meta.json is not of the kind this version writes; {again}")
    arrays = {}
    for name, said in said_of.items():
        path = folder / f"{name}.npy"
        try:
            # NumPy checks the file's length against its header here, so an array cut short does not open.
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"The prepared array {path} cannot be read ({error}); {again}") from error
        if (list(array.shape), str(array.dtype)) != (said["shape"], said["dtype"]):
            raise UserError(
                f"The prepared array {path} holds {array.dtype} {array.shape}, but its meta.json says "
                f"{said['dtype']} {tuple(said['shape'])}; {again}"
            )
        arrays[name] = array
    return Store(folder, meta, arrays)


def _write(folder: Path, arrays: Mapping[str, np.ndarray], meta: dict[str, Any]) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name in ARRAYS:
            with (temporary / f"{name}.npy").open("wb") as file:
                np.save(file, arrays[name], allow_pickle=False)
                _flush(file)
        meta |= {
            "schema": SCHEMA,
            "arrays": {
                name: {"shape": list(arrays[name].shape), "dtype": str(arrays[name].dtype), "sha256": digest}
                for name in ARRAYS
                for digest in [hashlib.sha256(np.ascontiguousarray(arrays[name]).data).hexdigest()]
            },
        }
        with (temporary / "meta.json").open("w", encoding="utf-8") as text:
            json.dump(meta, text, indent=2, ensure_ascii=False)
            _flush(text)
        temporary.chmod(0o755)  # mkdtemp's 0o700 would lock out the other users of a shared root
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(file: Any) -> None:
    """Puts a file on the disk before the rename can be seen, lest a power cut leave a store of empty files."""
    file.flush()
    os.fsync(file.fileno())
