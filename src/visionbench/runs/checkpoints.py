"""The files of checkpoints: replaced in one step, and checked when they are read."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from visionbench.errors import RunFailed, UserError
from visionbench.files import replacing

# Key of what visionbench adds to Lightning's checkpoint.
CHECKPOINT_KEY = "visionbench"

# Files that a run can be resumed from; their content says which is the newest.
CHECKPOINT_FILES = ("next.ckpt", "last.ckpt", "previous.ckpt", "best.ckpt")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Replaces a checkpoint in one step: the checkpoint before stays until the new one is on the disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: D102
        place = Path(path)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with replacing(place) as temporary, temporary.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's zip writer turns a full disk into the latter
            cause = error.__context__ if isinstance(error, RuntimeError) and error.__context__ else error
            raise RunFailed(
                f"The checkpoint {place} could not be written ({cause}); the checkpoint before it is kept."
            ) from error


def promote(file: Path, best: bool) -> None:
    """Makes a new checkpoint the last one, the last one the previous one, and the new one the best where it is.

    Calling it again finishes what a killed process left undone.

    Args:
        file: Checkpoint; only `next.ckpt` has no final name yet.
        best: Whether it is the best so far.
    """
    folder = file.parent
    if best:
        _copy_at_once(file, folder / "best.ckpt")
    if file.name != "next.ckpt":
        return
    last = folder / "last.ckpt"
    with contextlib.suppress(FileNotFoundError):
        last.replace(folder / "previous.ckpt")
    file.replace(last)
    _flush_folder(folder)


def load_checkpoint(file: Path, otherwise: str) -> dict[str, Any]:
    """The content of a checkpoint, on the processor.

    Args:
        file: Checkpoint.
        otherwise: Words that say what to do where no copy of a torn file is left.

    Raises:
        UserError: The file is torn, or it is not a checkpoint.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn file fails in a dozen ways, each with an exception of its own
        if isinstance(error, MemoryError):
            raise
        raise UserError(
            f"{file} cannot be read ({_reason(file, error)}); restore the file from a copy, or {otherwise}."
        ) from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise UserError(f"{file} is not a checkpoint of a run; restore the file from a copy, or {otherwise}.")
    return content


def _reason(file: Path, error: Exception) -> str:
    """Why a checkpoint cannot be read, in few words; torch's further sentences are for its developers."""
    if not file.stat().st_size:
        return "it is empty"
    reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
    # What torch says of a file that none of its formats fits, in words about its own way of loading.
    return "it is not a file of torch.save" if reason == "Weights only load failed" else reason or type(error).__name__


def read_checkpoint(folder: Path) -> tuple[Path, dict[str, Any], list[str]]:
    """Reads the newest complete checkpoint in a folder.

    Args:
        folder: Folder of the checkpoints.

    Returns:
        The file, what visionbench added to it, and a line for each file that is torn or not a checkpoint of a run.

    Raises:
        FileNotFoundError: There is no complete checkpoint.
        UserError: The checkpoint of the best epoch is lost.
    """
    complete: dict[Path, dict[str, Any]] = {}
    torn: dict[Path, str] = {}
    for file in (folder / name for name in CHECKPOINT_FILES):
        if not file.is_file():
            continue
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a torn file fails in a dozen ways, each with an exception of its own
            torn[file] = _reason(file, error)
            continue
        if isinstance(content, dict) and CHECKPOINT_KEY in content:
            complete[file] = content[CHECKPOINT_KEY]
        else:
            torn[file] = "no run of visionbench wrote the file"
    if not complete:
        raise FileNotFoundError(folder)
    newest = max(complete, key=lambda file: (complete[file]["epochs"], complete[file]["batches"]))
    state, best = complete[newest], folder / "best.ckpt"
    # Where the best is the same file as a newer checkpoint, and torn with it, its epoch is trained once more.
    repeated = best in torn and any(file != best and file.samefile(best) for file in torn)
    if state["best_epoch"] is not None and not state["improved"] and best not in complete and not repeated:
        raise UserError(
            f"{best}, the result of epoch {state['best_epoch'] + 1}, is {'torn' if best in torn else 'missing'}; "
            "restore the file from a copy, or start a new run, such as by visionbench repeat for a finished run."
        )
    used = f"resuming from {newest.name}"
    return newest, state, [f"{file} is torn or not a checkpoint of a run ({torn[file]}); {used}" for file in torn]


def _copy_at_once(source: Path, target: Path) -> None:
    """Gives a file a second name; the target is complete at every moment."""
    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(source, temporary)


def _flush_folder(folder: Path) -> None:
    """Flushes renames to the disk."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
