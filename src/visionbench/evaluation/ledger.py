"""The ledger of test openings: when the test samples of a log folder were looked at, by which run, and what for.

Each look at a test set is a chance to choose by it. The ledger counts them all, so that the twentieth run of a folder
says that its test accuracy is the twentieth one that somebody has seen.
"""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from visionbench.text import counted

LEDGER_FILE = "test-ledger.jsonl"


@dataclass(frozen=True)
class SealedSamples:
    """The test samples of a data set.

    Attributes:
        title: Name of the data set.
        item: Word for one sample: image or row.
        count: Number of test samples.
        digest: Digest of the test samples and their labels.
    """

    title: str
    item: str
    count: int
    digest: str


@dataclass(frozen=True)
class Opening:
    """One evaluation of test samples.

    Attributes:
        time: Date and time in UTC, in ISO 8601.
        run: Run folder, relative to the log folder where it lies in it.
        checkpoint: Name of the file of the weights.
        purpose: What for: fit, resume, test, predict or export.
        data: Name of the data set.
        samples: Number of test samples.
        test_digest: Digest of the test samples and their labels.
    """

    time: str
    run: str
    checkpoint: str
    purpose: str
    data: str
    samples: int
    test_digest: str


class Ledger:
    """The test openings of a log folder, a line of JSON each; several processes may write it at once.

    Args:
        folder: Log folder; its ledger is made by the first opening.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEDGER_FILE

    def add(self, opening: Opening) -> int:
        """Adds an opening, and flushes it to the disk.

        Returns:
            Number of openings of the same test samples in this folder, this one included.

        Raises:
            OSError: The ledger cannot be read or written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{LEDGER_FILE}.lock")), self.path.open("a+b") as file:
            file.seek(0)
            content = file.read()
            torn = b"\n" if content and not content.endswith(b"\n") else b""  # by a process that was killed
            line = json.dumps(dataclasses.asdict(opening), ensure_ascii=False)
            file.write(torn + f"{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        earlier = [entry for entry in _entries(content) if entry.get("test_digest") == opening.test_digest]
        return len(earlier) + 1

    def openings(self) -> list[dict[str, Any]]:
        """Every opening, the oldest first; lines that a killed process left unfinished are left out."""
        return _entries(self.path.read_bytes()) if self.path.exists() else []


def opening_in_words(in_folder: int | None, by_run: int, item: str) -> str:
    """Text that says how often test samples were opened.

    Args:
        in_folder: Number of openings in the log folder, the last one of this run included; `None` where the ledger
            could not be written.
        by_run: Number of openings by this run.
        item: Word for one sample.
    """
    own = f"{counted(by_run, 'time')} by this run"
    if in_folder is None:
        return f"opened {own}"
    return f"the test {item}s were opened {counted(in_folder, 'time')} in this log folder, {own}"


def _entries(content: bytes) -> list[dict[str, Any]]:
    entries = []
    for line in content.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # written by half when its process was killed
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries
