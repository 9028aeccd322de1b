"""Going on with a run: which one, from which of its checkpoints, and whether it is still the same run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from visionbench.data.base import VisionDataModule
from visionbench.errors import UserError
from visionbench.runs import identity
from visionbench.runs.checkpoints import NAMES, give_names, read_checkpoint
from visionbench.runs.compare import flat
from visionbench.runs.folder import lock
from visionbench.runs.identity import comparable

# Settings whose effect lies in a checkpoint (learning rates, momenta, what was best so far), so that other values would
# be taken and not heeded.
KEPT = ("model.init_args.optimizer.", "model.init_args.lr_scheduler.", "early_stopping.", "objective.")


@dataclass
class GoingOn:
    """A run to go on with.

    Attributes:
        folder: The run's.
        file: The checkpoint; `None` where the run was ended before its first, and is begun again.
        state: Our part of the checkpoint; `None` likewise.
        notes: What is to be said of it on the screen.
        changes: What is not as it was when the run began.
        train_on: Whether there are to be more epochs than the run was begun with.
    """

    folder: Path
    file: Path | None = None
    state: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    train_on: bool = False

    @property
    def epochs(self) -> int:
        """Epochs that are finished."""
        return int(self.state["epochs"]) if self.state is not None else 0

    @property
    def step(self) -> int:
        """Optimizer steps that are done."""
        return int(self.state["step"]) if self.state is not None else 0

    @property
    def batches(self) -> int:
        """Batches that are done, in all epochs."""
        return int(self.state["all_batches"]) if self.state is not None else 0

    @property
    def finished(self) -> bool:
        """Whether training had come to its end."""
        return self.state is not None and bool(self.state["finished"])


def describe(config: Mapping[str, Any], data: VisionDataModule, kinds: Iterable[type]) -> dict[str, Any]:
    """What makes a run the same run: configuration, data, code, versions; and the device, which bits depend on.

    Args:
        config: The whole configuration, in plain types.
        data: After `setup`.
        kinds: The classes of model and data.
    """
    return {
        "config": flat(comparable(config)),
        "data": {"digest": data.data_digest()},
        "code": {"digest": identity.code_digest(kinds)},
        "versions": identity.versions(),
        "machine": {"threads": torch.get_num_threads()},
    }


def find(folder: Path, described: Mapping[str, Any], allow_changes: bool) -> GoingOn:
    """A run by its folder.

    Args:
        folder: The run's.
        described: What the run would be now.
        allow_changes: Whether it may be another than it was.

    Raises:
        UserError: It is no run, is finished, or is another run now.
    """
    if not (folder / "config.yaml").is_file():
        raise UserError(
            f"{folder} is not a run folder (it has no config.yaml); give one like lightning_logs/cnn/version_0."
        )
    checkpoints = folder / "checkpoints"
    try:
        file, state, notes = read_checkpoint(checkpoints)
    except FileNotFoundError:
        torn = [name for name in NAMES if (checkpoints / name).is_file()]
        if torn:
            raise UserError(
                f"None of the checkpoints in {checkpoints} ({', '.join(torn)}) can be read; start the run anew."
            ) from None
        return GoingOn(folder, notes=["The run was ended before its first checkpoint, so it begins again."])
    before = state["described"]
    changes = differences(before, described)
    train_on = described["config"].get("trainer.max_epochs") != before["config"].get("trainer.max_epochs")
    if (folder / "run.json").is_file() and not train_on:
        raise UserError(
            f"{folder} is finished, after {state['epochs']} epochs; to train on, raise --trainer.max_epochs."
        )
    if train_on and state["finished"] and state["should_stop"]:
        raise UserError(
            f"{folder} was stopped after {state['epochs']} epochs, by early stopping or max_time, as it would be with "
            "more; start a new run."
        )
    if changes and not allow_changes:
        raise UserError(
            f"{folder} was begun otherwise: {'; '.join(changes[:8])}{' ...' if len(changes) > 8 else ''}; go on as it "
            "was begun, or with --resume_changed true, which is recorded."
        )
    if kept := [change for change in changes if change.startswith(KEPT)]:
        raise UserError(
            f"{kept[0]}, but a run that is gone on with keeps its optimizer, scheduler, objective and early stopping; "
            "start a new run, with --model.start_from if need be."
        )
    if before["machine"] != described["machine"]:
        was, now = before["machine"]["threads"], described["machine"]["threads"]
        notes.append(f"The run was begun with {was} threads, now there are {now}: its last digits may differ.")
    return GoingOn(folder, file, state, notes, changes, train_on)


def tidy(going_on: GoingOn) -> None:
    """Ends what a run was in the midst of when it was killed: files half-written, a checkpoint without its name."""
    folder = going_on.folder
    for place, name in ((folder / "checkpoints", ".*.ckpt.*"), (folder, ".*.csv.*"), (folder, ".*.json.*")):
        for left in place.glob(name):
            left.unlink()
    if going_on.file is not None and going_on.state is not None:
        give_names(going_on.file, best=going_on.state["improved"])
        if going_on.file.name == "next.ckpt":
            going_on.file = going_on.file.with_name("last.ckpt")


def newest_unfinished(parent: Path, described: Mapping[str, Any]) -> Path | None:
    """The newest run in a folder that can be gone on with: of this configuration, unfinished, and not running."""
    folders = [p for p in parent.glob("version_*") if p.name[8:].isdecimal()]
    for folder in sorted(folders, key=lambda p: int(p.name[8:]), reverse=True):
        if (folder / "run.json").exists() or not any((folder / "checkpoints" / name).is_file() for name in NAMES):
            continue
        try:
            _, state, _ = read_checkpoint(folder / "checkpoints")
            lock(folder).release()
        except (FileNotFoundError, UserError):
            continue
        if state["described"]["config"] == described["config"]:
            return folder
    return None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two descriptions, a phrase each; more epochs are no difference."""
    found = []
    for part in ("config", "data", "code", "versions"):
        names = sorted(set(before[part]) | set(now[part]))
        for name in names:
            was, new = before[part].get(name), now[part].get(name)
            if was == new:
                continue
            if part == "config" and name == "trainer.max_epochs" and _more(was, new):
                continue
            if part in ("data", "code"):
                what = "the data (images, split or normalisation)" if part == "data" else "the source code"
                found.append(f"{what} changed")
            else:
                found.append(f"{name} was {was}, is {new}")
    return found


def _more(was: Any, new: Any) -> bool:
    return new == -1 or (isinstance(was, int) and isinstance(new, int) and was != -1 and new > was)
