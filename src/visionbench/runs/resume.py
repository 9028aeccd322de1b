"""Resuming a run: which run, from which of its checkpoints, and whether it is still the same run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visionbench.errors import UserError
from visionbench.runs import identity as identities
from visionbench.runs.checkpoints import CHECKPOINT_FILES, promote, read_checkpoint
from visionbench.runs.folder import RunFolder
from visionbench.runs.identity import comparable, flat, starting_paths
from visionbench.text import counted

# Settings whose effect lies in a checkpoint (learning rates, momenta, the best value so far), or in predictions that
# were kept (those of the best epoch, or of the last): other values would be accepted and have no effect.
FIXED_BY_CHECKPOINT = (
    *("model.init_args.optimizer.", "model.init_args.lr_scheduler.", "early_stopping.", "objective."),
    "checkpoint.result",
)


@dataclass
class Resumption:
    """A run to resume.

    Attributes:
        folder: Run folder.
        file: Checkpoint to resume from; `None` where the run has none and starts from the beginning.
        state: Content of the checkpoint that visionbench added; `None` likewise.
        notes: Lines to print.
        changes: Differences between the run as it was started and as it is resumed, a phrase each.
        extends: Whether the run gets more epochs than it was started with.
    """

    folder: Path
    file: Path | None = None
    state: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    extends: bool = False

    @property
    def epochs(self) -> int:
        """Number of finished epochs."""
        return int(self.state["epochs"]) if self.state is not None else 0

    @property
    def step(self) -> int:
        """Number of finished optimizer steps."""
        return int(self.state["step"]) if self.state is not None else 0

    @property
    def batches(self) -> int:
        """Number of finished batches, in all epochs."""
        return int(self.state["all_batches"]) if self.state is not None else 0

    @property
    def finished(self) -> bool:
        """Whether training was finished."""
        return self.state is not None and bool(self.state["finished"])


def record(identity: Mapping[str, Any], config: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """What each checkpoint holds about the run, to be compared when the run is resumed; in plain types.

    Args:
        identity: Identity of the run; a run to be resumed has no need to read the starting weights for it.
        config: Complete configuration, in plain types.
        threads: Number of threads of torch.
    """
    return {
        "identity": dict(identity),
        "starting_paths": starting_paths(config),
        "versions": identities.versions(),
        "machine": {"threads": threads},
    }


def open_for_resume(folder: Path, current: Mapping[str, Any], allow_changes: bool) -> Resumption:
    """Opens a run to resume it.

    Args:
        folder: Run folder.
        current: Record of the run as it would be resumed.
        allow_changes: Whether the run may be resumed with other settings, data, code or versions.

    Raises:
        UserError: The folder is not a run folder, or the run is finished, damaged or not the same run.
    """
    run = RunFolder(folder)
    run.require_run()
    try:
        file, state, notes = read_checkpoint(run.checkpoints)
    except FileNotFoundError:
        torn = [name for name in CHECKPOINT_FILES if (run.checkpoints / name).is_file()]
        if torn:
            raise UserError(
                f"None of the checkpoints in {run.checkpoints} ({', '.join(torn)}) can be read; restore one from a "
                f"copy, or {run.how_to_repeat()}."
            ) from None
        return Resumption(folder, notes=["The run has no checkpoint yet, so it starts from the beginning."])
    before = _started_as(state)
    changes = differences(before, current)
    extends = _config(current).get("trainer.max_epochs") != _config(before).get("trainer.max_epochs")
    epochs = counted(state["epochs"], "epoch")
    if run.is_finished and not extends:
        raise UserError(f"{folder} is finished, after {epochs}; to train longer, raise --trainer.max_epochs.")
    if run.status == "diverged" and not changes:
        raise UserError(
            f"{folder} has diverged after {epochs}, and would do so again with the same settings; start a new run with "
            "others, such as a lower learning rate."
        )
    if extends and state["finished"] and state["should_stop"]:
        raise UserError(
            f"{folder} was stopped after {epochs}, by early stopping or max_time, and more epochs would not change "
            "that; start a new run."
        )
    if changes and not allow_changes:
        raise UserError(
            f"{folder} was started with other settings: {'; '.join(changes[:8])}{' ...' if len(changes) > 8 else ''}; "
            "resume it with the same ones, or with --resume_changed true, which is recorded."
        )
    if fixed := [change for change in changes if change.startswith(FIXED_BY_CHECKPOINT)]:
        raise UserError(
            f"{fixed[0]}, but a resumed run keeps its optimizer, scheduler, objective, early stopping and "
            "checkpoint.result; start a new run, with --model.start_from if it should use the weights of this one."
        )
    if before["machine"] != current["machine"]:
        was, now = before["machine"]["threads"], current["machine"]["threads"]
        notes.append(
            f"The run was started with {counted(was, 'thread')} and is resumed with {counted(now, 'thread')}: the last "
            "digits may differ."
        )
    return Resumption(folder, file, state, notes, changes, extends)


def finish_interrupted_writes(resumption: Resumption) -> None:
    """Finishes what a killed run was writing: removes temporary files, and gives a new checkpoint its name."""
    run = RunFolder(resumption.folder)
    places = [(run.checkpoints, ".*.ckpt.*")]
    places += [(run.path, pattern) for pattern in (".*.csv.*", ".*.json.*", ".*.yaml.*")]
    places += [(run.predictions_folder, pattern) for pattern in (".*.csv.*", ".*.npy.*")]
    for folder, pattern in places:
        for temporary in folder.glob(pattern):
            temporary.unlink()
    if resumption.file is not None and resumption.state is not None:
        promote(resumption.file, best=resumption.state["improved"])
        if resumption.file.name == "next.ckpt":
            resumption.file = resumption.file.with_name("last.ckpt")


def newest_unfinished(parent: Path, current: Mapping[str, Any]) -> Path | None:
    """The newest run in a folder that can be resumed: with the same settings, not ended, and not running.

    Args:
        parent: Folder of the runs.
        current: Record of the run as it would be resumed.
    """
    for run in RunFolder.all_in(parent):
        if not any((run.checkpoints / name).is_file() for name in CHECKPOINT_FILES):
            continue
        try:
            # A diverged run would diverge again.
            if run.status in ("finished", "diverged"):
                continue
            _, state, _ = read_checkpoint(run.checkpoints)
            run.lock().release()
        except (FileNotFoundError, UserError):
            continue
        before = _started_as(state)
        if _config(before) == _config(current) and not _start_changes(before, current):
            return run.path
    return None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences between two records of a run, a phrase each; more epochs are not one.

    Args:
        before: Record of the run as it was started.
        now: Record of the run as it would be resumed.
    """
    changes = []
    for name, was, new in _changed(_config(before), _config(now)):
        if name != "trainer.max_epochs" or not _more(was, new):
            changes.append(f"{name} was {was}, is {new}")
    changes += _start_changes(before, now)
    one, other = before["identity"], now["identity"]
    if one["data"] != other["data"]:
        changes.append("the data (images, split or normalization) changed")
    if one["processes"] not in (None, other["processes"]):
        changes.append(f"the number of processes was {one['processes']}, is {other['processes']}")
    if one["code"] != other["code"]:
        changes.append("the source code changed")
    changes += [f"{name} was {was}, is {new}" for name, was, new in _changed(before["versions"], now["versions"])]
    return changes


def _started_as(state: Mapping[str, Any]) -> dict[str, Any]:
    """The record in a checkpoint; one of an earlier version gets today's form, as far as it tells."""
    found: dict[str, Any] = state["described"]
    if "identity" in found:
        return found
    config = _nested(found["config"])
    start = state.get("start") or {}
    return {
        "identity": {
            "config": flat(comparable(config)),
            "data": found["data"]["digest"],
            "start": start.get("weights_digest"),
            "processes": None,
            "code": found["code"]["digest"],
        },
        "starting_paths": starting_paths(config),
        "versions": found["versions"],
        "machine": found["machine"],
    }


def _config(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"checkpoint.result": "best", **entry["identity"]["config"]}  # the identity leaves out the default


def _start_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Other starting weights; the same path is taken for the same, since the checkpoint replaces its weights."""
    digest = now["identity"]["start"]
    if digest is not None and digest == before["identity"]["start"]:
        return []
    paths = list(_changed(before["starting_paths"], now["starting_paths"]))
    if not paths and digest is not None:
        return ["the starting weights changed"]
    return [f"model.init_args.{name} was {was}, is {new}" for name, was, new in paths]


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    names = sorted(set(before) | set(now))
    return [(name, before.get(name), now.get(name)) for name in names if before.get(name) != now.get(name)]


def _nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in leaves.items():
        *parents, last = name.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[last] = value
    return tree


def _more(was: Any, new: Any) -> bool:
    return new == -1 or (isinstance(was, int) and isinstance(new, int) and was != -1 and new > was)
