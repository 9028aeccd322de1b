"""Files and folders that are never seen half-written."""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO


@contextlib.contextmanager
def replacing(path: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Replaces a file in one step: gives the path of a temporary file beside it, which the caller writes.

    At the end the temporary file is flushed to the disk and renamed. After an error it is removed, and the file that
    was there before stays.

    Args:
        path: Path of the file to replace.
        temporary: Path of the temporary file, in the same folder; by default a hidden name with the process id.
    """
    if temporary is None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file that is never seen half-written."""
    # JSON has no NaN: the loss of a diverged run is null, so that every JSON reader can read the file.
    text = json.dumps(_without_nan(content), indent=2, ensure_ascii=False, allow_nan=False)
    # A name that is no UTF-8 text has half characters, which JSON writes as the same escapes.
    write_whole(path, f"{text}\n".encode("utf-8", "backslashreplace"))


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that is never seen half-written, and flushes it to the disk."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


class CsvLines:
    r"""A text file for the rows of a `csv.writer` with its usual line ends, of which only the line feed is written.

    With `lineterminator="\n"`, the csv module leaves a carriage return within a cell unquoted, and the row is read back
    as two.

    Args:
        file: Text file that does not translate line ends.
    """

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, row: str) -> None:
        """Writes a row, for which the csv module makes a single call."""
        self.file.write(row.removesuffix("\r\n") + "\n")


def set_aside(folder: Path, word: str) -> None:
    """Renames a folder, so that its name is free and its content is kept; does nothing where there is no folder.

    Args:
        folder: Folder.
        word: Word that says why; a number follows it in the new name.
    """
    if not folder.exists():
        return
    number = 1
    while (target := folder.with_name(f"{folder.name}.{word}-{number}")).exists():
        number += 1
    folder.rename(target)


def put_in_place(folder: Path, target: Path, word: str) -> None:
    """Gives a folder that is complete its name; what has that name is set aside.

    Args:
        folder: Folder, beside the target.
        target: Its name.
        word: Word that says why the other folder is set aside.
    """
    set_aside(target, word)
    folder.rename(target)


def copy_whole(source: Path, target: Path, without: Iterable[str]) -> None:
    """Copies a folder that is never seen half-copied.

    Args:
        source: Folder.
        target: Folder that is made.
        without: Patterns of the names that are not copied.
    """
    temporary = target.with_name(f".{target.name}.copy")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary, ignore=shutil.ignore_patterns(*without))
    temporary.rename(target)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
