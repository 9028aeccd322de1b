"""Where the runs of a study are trained: processes that are forked on this machine."""

import json
import os
import selectors
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from visionbench.errors import RunFailed
from visionbench.studies.jobs import Job


class Pool(ABC):
    """What trains runs, several at once.

    Attributes:
        gpus: Number of GPUs, of which each run is given one; 0 where there are none, or where the pool gives them.
        workers: Number of runs at once; `None` where the runner chooses it.
        resumes: Whether stopped runs are resumed by the next command; otherwise it trains them from the beginning.
    """

    gpus: int = 0
    workers: int | None = None
    resumes: bool = True

    @abstractmethod
    def send(self, job: Job, slot: int) -> None:
        """Starts a run.

        Args:
            job: Run.
            slot: Number of the place among those of the runs at once.
        """

    @abstractmethod
    def answers(self, timeout: float | None) -> list[dict[str, Any]] | None:
        """Waits for runs that have ended.

        Args:
            timeout: Seconds to wait; `None` for as long as it takes.

        Returns:
            `id` and exit `status` of each; none after the time is over. `None` where the pool itself has ended.
        """


class _LocalPool(Pool):
    """The process that forks the runs, as its starter sees it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.buffer = b""
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("The server has no pipes.")
        self.input, self.output = process.stdin, process.stdout
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.output, selectors.EVENT_READ)
        ready = self.answers(None)
        if ready is None:
            raise RunFailed("The process that starts the runs ended before it was ready; its messages are above.")
        self.gpus = int(ready[0]["gpus"])

    def send(self, job: Job, slot: int) -> None:
        try:
            self.input.write(json.dumps(vars(job)).encode() + b"\n")
            self.input.flush()
        except BrokenPipeError:  # `answers` tells of it
            return

    def answers(self, timeout: float | None) -> list[dict[str, Any]] | None:
        lines: list[bytes] = []
        while not lines:
            if not self.selector.select(timeout):
                return []
            content = os.read(self.output.fileno(), 2**16)
            if not content:
                return None
            self.buffer += content
            *lines, self.buffer = self.buffer.split(b"\n")
        return [json.loads(line) for line in lines]


@contextmanager
def local_pool() -> Iterator[Pool]:
    """Starts the process that forks the runs, and ends it: runs that are still trained write a checkpoint first."""
    environment = dict(os.environ)
    paths = [str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    process = subprocess.Popen(
        [sys.executable, "-m", "visionbench.studies.server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,  # Ctrl+C is for the runner, which lets the runs write their checkpoints
    )
    try:
        yield _LocalPool(process)
    finally:
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
