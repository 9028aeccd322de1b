"""Run folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from filelock import FileLock, Timeout

from visionbench.errors import UserError

SCHEMA = 1


def claim(parent: Path) -> Path:
    """Makes the first free `version_N` in `parent`; two processes that ask at once get different ones.

    Raises:
        UserError: The folder cannot be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        taken = [int(p.name[8:]) for p in parent.glob("version_*") if p.name[8:].isdecimal()]
        number = max(taken, default=-1) + 1
        while True:
            try:
                (parent / f"version_{number}").mkdir()
                return parent / f"version_{number}"
            except FileExistsError:
                number += 1
    except OSError as error:
        raise UserError(
            f"The run's folder cannot be made in {parent} ({error.strerror}); give another place with --log_dir."
        ) from error


def folder_argument(command: str, args: Sequence[str]) -> tuple[Path, list[str]]:
    """The run folder that a command's arguments start with, and the arguments after it.

    Args:
        command: Name of the command, for the message.
        args: Arguments of the command.

    Raises:
        UserError: The arguments do not start with a folder.
    """
    if not args or args[0].startswith("-"):
        raise UserError(
            f"{command} needs a run folder first: visionbench {command} lightning_logs/cnn/version_0 [options]."
        )
    return Path(args[0]), list(args[1:])


def result_checkpoint(run: Path) -> Path:
    """The checkpoint that stands for a run: the best one, or the last where nothing was watched.

    Raises:
        UserError: There is none.
    """
    if not (run / "config.yaml").is_file():
        raise UserError(
            f"{run} is not a run folder (it has no config.yaml); give one like lightning_logs/cnn/version_0."
        )
    for name in ("best", "last"):
        if (path := run / "checkpoints" / f"{name}.ckpt").is_file():
            return path
    raise UserError(f"{run} has no checkpoint yet, so there is nothing to evaluate; let its first epoch finish.")


def read_config(folder: Path) -> dict[str, Any]:
    """What a run's config.yaml says.

    Raises:
        UserError: The folder is no run's, or its config.yaml is not as the run wrote it.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"{folder} is not a run folder (it has no config.yaml); give one like lightning_logs/cnn/version_0."
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{path} cannot be read ({reason}); put it back as the run wrote it.") from error
    parts = ("trainer", "model", "data")
    if not isinstance(content, dict) or not all(isinstance(content.get(part), dict) for part in parts):
        raise UserError(f"{path} has no trainer, model and data; put it back as the run wrote it.")
    return content


# Little-endian float32, one a batch.
DTYPE = np.dtype("<f4")


def read_losses(path: Path) -> np.ndarray:
    """The losses of a run, shape (batches,), float32; empty where there is no file."""
    return np.fromfile(path, dtype=DTYPE) if path.is_file() else np.zeros(0, dtype=DTYPE)


def lock(folder: Path) -> FileLock:
    """Keeps other processes from going on with a run while this one trains it; ends with the process.

    Raises:
        UserError: Another process has it.
    """
    held = FileLock(folder / ".lock", timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise UserError(f"{folder} is being trained by another process; wait for it, or start a new run.") from None
    return held
