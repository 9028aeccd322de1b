"""What a command is started in: the import path, variables that other programs set, and the standard streams."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from visionbench.errors import RunFailed, UserError
from visionbench.launch import is_launched
from visionbench.processes import RUN_FOLDER_VARIABLE

# The number of a process among others, as other programs set it. A run numbers its processes itself, and Lightning
# would take the number of another program for it.
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


class OutputFailed(RunFailed):
    """Standard output cannot be written."""


# How often a thread of GNU OpenMP, which torch uses, looks whether the others are done before it sleeps; read when
# torch is imported. By default it looks thirty times as often, for milliseconds, on a core that another training could
# use. benchmarks/beside.py shows what the number costs a training alone, and what it saves two beside each other.
SPINS_VARIABLE, SPINS = "GOMP_SPINCOUNT", "10000"


@contextlib.contextmanager
def own_surroundings() -> Iterator[None]:
    """Gives a command surroundings in which it works, and restores those of the process.

    - A module in the working directory is found, but hides none of Python or of an installed package; nor does it in
      the processes that the command starts.
    - Figures are drawn to files, whatever backend of matplotlib a notebook has set for the processes of its cells.
    - Threads that wait for each other soon leave their core to other processes, unless the user has decided it.
    - Text that the encoding of the output lacks is written as escapes.

    Raises:
        UserError: The working directory is gone.
        OutputFailed: Standard output cannot be written.
    """
    try:
        here = str(Path.cwd())
    except FileNotFoundError:
        raise UserError("The working directory does not exist any more; change to another folder.") from None
    variables, path, streams = dict(os.environ), list(sys.path), (sys.stdin, sys.stdout, sys.stderr)
    _open_closed_streams()
    sys.path[:] = [*(entry for entry in path if not _is_folder(entry, here)), here]
    os.environ["PYTHONSAFEPATH"] = "1"  # otherwise Python puts the working directory first in each process it starts
    if (value := os.environ.get("PYTHONPATH")) is not None:
        others = [entry for entry in value.split(os.pathsep) if not _is_folder(entry, here)]
        os.environ["PYTHONPATH"] = os.pathsep.join(others)
    os.environ["MPLBACKEND"] = "agg"
    if not {"OMP_WAIT_POLICY", SPINS_VARIABLE} & set(os.environ):
        os.environ[SPINS_VARIABLE] = SPINS
    if RUN_FOLDER_VARIABLE not in os.environ and not is_launched(os.environ):
        for name in RANKS:
            os.environ.pop(name, None)
    handlers = [(stream, stream.errors) for stream in (sys.stdout, sys.stderr) if hasattr(stream, "reconfigure")]
    for stream, _ in handlers:
        stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = _Output(sys.stdout), _Errors(sys.stderr)
    try:
        yield
    finally:
        for stream, errors in handlers:
            stream.reconfigure(errors=errors)
        sys.stdin, sys.stdout, sys.stderr = streams
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(variables)


def _is_folder(entry: str, folder: str) -> bool:
    """Whether an entry of an import path is a folder; an empty one is the working directory."""
    return entry == "" or os.path.realpath(entry) == os.path.realpath(folder)


def _open_closed_streams() -> None:
    """Opens the null device in the place of closed streams, or the next file that is opened would get their numbers."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


class _Stream:
    """A standard stream that is not the process's own; what is not defined here is that of the stream.

    Args:
        stream: Standard stream.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _Output(_Stream):
    """Standard output, of which a failure is told from that of a file."""

    def write(self, text: str) -> int:
        with _failures_named():
            return self.stream.write(text)

    def flush(self) -> None:
        with _failures_named():
            self.stream.flush()


class _Errors(_Stream):
    """Standard error; what cannot be written there can be said nowhere, and is no reason to end a run."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            return self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self.stream.flush()


@contextlib.contextmanager
def _failures_named() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # as of `visionbench ... | head`, which is no failure
        raise
    except OSError as error:
        raise OutputFailed(
            f"Standard output cannot be written ({error.strerror}); send it to a file on a disk with room, or to a "
            "terminal."
        ) from error
