"""The files of checkpoints: written whole, read with care."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from visionbench.errors import RunFailed, UserError
from visionbench.files import replacing

# The key of our part of a checkpoint, beside Lightning's own.
OURS = "visionbench"


# All that a run may be gone on from; which of them is newest is inside.
NAMES = ("next.ckpt", "last.ckpt", "previous.ckpt", "best.ckpt")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, flushes it to the disk and renames it; the one before stays until then."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: D102
        place = Path(path)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with replacing(place) as temporary, temporary.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's zip writer turns a full disk into the latter
            cause = error.__context__ if isinstance(error, RuntimeError) and error.__context__ else error
            raise RunFailed(
                f"The checkpoint {place} could not be written ({cause}); the one before it stands."
            ) from error


def give_names(file: Path, best: bool) -> None:
    """Makes a new checkpoint the last, the last the previous, and where it is the best so far, it is that too.

    Done again, this mends a run that was ended in the midst of it.

    Args:
        file: The checkpoint; one that is not next.ckpt has its name already.
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


def read_checkpoint(folder: Path) -> tuple[Path, dict[str, Any], list[str]]:
    """The newest whole checkpoint in a folder.

    Returns:
        The file, our part of it, and a line for each file that is torn or not one of ours.

    Raises:
        FileNotFoundError: There is no whole one.
        UserError: There is one, but the best epoch is lost.
    """
    whole: dict[Path, dict[str, Any]] = {}
    torn: dict[Path, str] = {}
    for file in (folder / name for name in NAMES):
        if not file.is_file():
            continue
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a torn file fails in a dozen ways, each with an exception of its own
            torn[file] = str(error).splitlines()[0] if str(error) else type(error).__name__
            continue
        if isinstance(content, dict) and OURS in content:
            whole[file] = content[OURS]
        else:
            torn[file] = "no run of visionbench wrote it"
    if not whole:
        raise FileNotFoundError(folder)
    newest = max(whole, key=lambda file: (whole[file]["epochs"], whole[file]["batches"]))
    state, best = whole[newest], folder / "best.ckpt"
    # Where the best is one file with a newer checkpoint, and torn with it, its epoch comes again.
    again = best in torn and any(file != best and file.samefile(best) for file in torn)
    if state["best_epoch"] is not None and not state["improved"] and best not in whole and not again:
        raise UserError(
            f"{best}, the result of epoch {state['best_epoch'] + 1}, is {'torn' if best in torn else 'not there'}; put "
            "it back, or start the run anew."
        )
    used = f"going on from {newest.name}"
    return newest, state, [f"{file} is torn or not a checkpoint of a run ({torn[file]}); {used}" for file in torn]


def _copy_at_once(source: Path, target: Path) -> None:
    """The same file under another name, without a moment in which the target is not whole."""
    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(source, temporary)


def _flush_folder(folder: Path) -> None:
    """Puts renames on the disk."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
