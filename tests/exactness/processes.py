"""Runs in processes of their own, to be killed.

They are forked from one that has imported everything and trained once (warm.py), so that each costs a second or two
instead of ten.
"""

import contextlib
import io
import multiprocessing
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch

from visionbench.cli import main
from visionbench.data import loader
from visionbench.data.loader import ResidentLoader
from visionbench.models.base import Classifier
from visionbench.runs import checkpoints as files
from visionbench.training.callbacks import StepLosses, checkpoints

# What a process is doing, as it was last heard of.
STARTING, TRAINING, VALIDATING, WRITING, TESTING = range(5)
STEP, PHASE = range(2)  # places in the memory that it shares

torch.set_num_threads(1)
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.exactness.warm"])


class Run:
    """`visionbench` with the words of a line, in a process of its own.

    Args:
        folder: Where.
        line: The words.
        data: Folder of the prepared Digits.
        hooks: Names in `HOOKS`, of what the process is to call first.
    """

    def __init__(self, folder: Path, line: str, data: Path, *hooks: str) -> None:
        self.said = folder / f"said-{time.monotonic_ns()}"
        self.shared = context.RawArray("i", 2)
        place = f"{line} --data.root {data}" if "--data Digits" in line else line
        self.process = context.Process(
            target=_child, args=(str(folder), place, hooks, self.said, self.shared), daemon=True
        )
        self.process.start()

    @property
    def phase(self) -> int:
        return self.shared[PHASE]

    def wait_for_step(self, step: int = 1) -> None:
        """Waits until it has made so many optimizer steps."""
        while self.process.is_alive() and self.shared[STEP] < step:
            time.sleep(0.005)

    def wait_for_phase(self, phase: int) -> None:
        """Waits until it does what `phase` says."""
        while self.process.is_alive() and self.phase != phase:
            time.sleep(0.005)

    def send(self, number: int) -> None:
        """Sends a signal, if there is still a process to send it to."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def end(self, number: int | None = None) -> int:
        """Sends a signal, waits, and gives the exit status."""
        if number is not None:
            self.send(number)
        self.process.join(300)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"The process does not end: {self.output()}")
        return self.process.exitcode

    def output(self) -> str:
        return self.said.read_text(encoding="utf-8")


def _child(folder: str, line: str, hooks: tuple[str, ...], said: Path, shared: Any) -> None:
    os.chdir(folder)
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), line_buffering=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), line_buffering=True)
    for hook in hooks:
        HOOKS[hook]()
    _tell(shared)  # around them, so that their time counts
    status = main(shlex.split(line))
    sys.stdout.flush()
    sys.exit(status)


def _wrap(owner: Any, name: str, before: Any = None, after: Any = None) -> None:
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before()
        result = original(*args, **kwargs)
        if after is not None:
            after()
        return result

    setattr(owner, name, wrapped)


def _tell(shared: Any) -> None:
    """Lets the process tell what it is doing."""

    def phase(number: int) -> Any:
        def set_phase() -> None:
            shared[PHASE] = number

        return set_phase

    on_steps = StepLosses.on_steps

    def count(callback: Any, trainer: Any, model: Any, steps: Any) -> None:
        on_steps(callback, trainer, model, steps)
        shared[STEP] += steps.batches

    _wrap(Classifier, "training_step", before=phase(TRAINING))
    StepLosses.on_steps = count
    # Hooks of the batches, since the trial step before training calls the steps themselves.
    _wrap(Classifier, "on_validation_batch_start", before=phase(VALIDATING))
    _wrap(Classifier, "on_validation_epoch_end", after=phase(TRAINING))
    _wrap(Classifier, "on_test_batch_start", before=phase(TESTING))
    _wrap(checkpoints.RunCheckpoints, "_save", before=phase(WRITING), after=phase(TRAINING))


def _slow() -> None:
    """Makes a step, a validation batch and each part of the writing of a checkpoint take their time."""
    save = torch.save

    def save_in_halves(content: Any, file: Any) -> None:
        buffer = io.BytesIO()
        save(content, buffer)
        written = buffer.getvalue()
        for part in (written[: len(written) // 2], written[len(written) // 2 :]):
            file.write(part)
            file.flush()
            time.sleep(0.02)

    torch.save = save_in_halves
    _wrap(Classifier, "training_step", before=lambda: time.sleep(0.01))
    for step in ("on_validation_batch_start", "on_test_batch_start"):
        _wrap(Classifier, step, before=lambda: time.sleep(0.12))
    for name in ("_copy_at_once", "_flush_folder"):
        _wrap(files, name, before=lambda: time.sleep(0.01))


def _endless_validation() -> None:
    _wrap(Classifier, "on_validation_batch_start", before=lambda: time.sleep(3600))


def _small_blocks() -> None:
    """Makes a block of each batch, so that there are many to be read ahead."""
    loader.BLOCK_BYTES = 1


def _without_order() -> None:
    ResidentLoader.begin_at = lambda self, batches: None


def _without_random_state() -> None:
    checkpoints.set_random_state = lambda state: None


HOOKS = {
    "slow": _slow,
    "endless validation": _endless_validation,
    "small blocks": _small_blocks,
    "without order": _without_order,
    "without random state": _without_random_state,
}
