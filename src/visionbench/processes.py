"""Which of several processes this one is, and a process that a run leaves as it found it."""

import contextlib
import contextvars
import gc
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from visionbench.launch import Launch, find_launch, number

T = TypeVar("T")

# The process that claims the run folder names it in this variable for the processes that it starts.
RUN_FOLDER_VARIABLE = "VISIONBENCH_RUN_FOLDER"


@dataclass(frozen=True)
class World:
    """The group of processes that train one run, and the place of this process in it.

    Attributes:
        rank: Number of this process in the group, from 0.
        run_folder: Run folder that the first process claimed; `None` in the first process.
        launch: How another program started the processes; `None` where the run starts them itself.
    """

    rank: int
    run_folder: Path | None = None
    launch: Launch | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process claims the run folder, writes its files and prints."""
        return self.rank == 0

    @classmethod
    def detect(cls, environment: Mapping[str, str] | None = None) -> "World":
        """Reads the place of this process from the environment.

        Args:
            environment: Environment variables; by default those of this process.

        Raises:
            UserError: A program other than torchrun and srun started this process as one of several.
        """
        variables = os.environ if environment is None else environment
        if (folder := variables.get(RUN_FOLDER_VARIABLE)) is not None:
            return cls(rank=number(variables, "LOCAL_RANK"), run_folder=Path(folder))
        launch = find_launch(variables)
        return cls(rank=launch.rank if launch is not None else 0, launch=launch)


@contextlib.contextmanager
def unchanged_process() -> Iterator[None]:
    """Puts back what a run changes in its process.

    That is: environment variables, the import path, warning filters, signal handlers, torch's number of threads and its
    choice of deterministic kernels.
    """
    import torch

    environment, import_path = dict(os.environ), list(sys.path)
    in_main_thread = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    try:
        with warnings.catch_warnings():
            yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:] = import_path
        if in_main_thread:
            for number, handler in handlers.items():
                if handler is not None and signal.getsignal(number) is not handler:
                    signal.signal(number, handler)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = benchmark


def run_cleanly(action: Callable[[], T]) -> T:
    """Calls a function that trains or evaluates, and leaves the process as it was.

    A Trainer, its model and its data refer to each other, and so keep the store's files open until Python looks for
    such circles: done here, where nothing else refers to them. Only what is made meanwhile is looked at, since the
    objects of torch and Lightning alone take 0.2 s.

    Args:
        action: Function whose result does not refer to the Trainer.
    """
    frozen_here = gc.get_freeze_count() == 0  # otherwise by the caller, who would lose it by unfreeze
    if frozen_here:
        gc.freeze()
    try:
        with unchanged_process():
            # jsonargparse keeps its last parser in a context variable, and the parser keeps the run.
            return contextvars.copy_context().run(action)
    finally:
        gc.collect()
        if frozen_here:
            gc.unfreeze()
