"""Whether two runs are the same run, to the last bit: all that a run's folder holds, save times and process ids."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

DIGITS = "fit --data Digits --trainer.precision 32-true --trainer.limit_val_batches 2 --trainer.limit_test_batches 2"
DIGITS += " --figures none"  # which take longer than these runs
SMALL = f"{DIGITS} --model MLP --model.widths [8] --data.batch_size 32 --trainer.limit_train_batches 5"

# Keys of run.json in which two equal runs are equal. A run that ended while it was tested has opened the test set once
# more, so that test_openings is no such key.
SAME_IN_METADATA = ("status", "identity", "config_digest", "data_digest", "objective", "epochs", "best_epoch")
SAME_IN_METADATA += ("metrics", "counts", "weights_digest")


def next_second() -> None:
    """Waits, since event files are read in the order of their names, which hold the second of their beginning."""
    now = int(time.time())
    while int(time.time()) == now:
        time.sleep(0.02)


def first_event_file() -> None:
    """Lets this process count its event files anew: TensorBoard reads the tenth of a second before the second."""
    event_file_writer._global_uid = event_file_writer.AtomicCounter(0)


def differences(first: Path, second: Path) -> list[str]:
    """The names of what differs; none for the same run."""
    found = []
    for name in ("last", "best"):
        there = [(run / "checkpoints" / f"{name}.ckpt").is_file() for run in (first, second)]
        if not all(there):
            found += [f"{name} is in one alone"] if any(there) else []
            continue
        ours, theirs = (checkpoint(run, name) for run in (first, second))
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "loops", "epoch", "global_step"):
            if not equal(ours[part], theirs[part]):
                found.append(f"{name} {part}")
    for name in ("metrics.csv", "step-losses.bin"):
        if (first / name).read_bytes() != (second / name).read_bytes():
            found.append(name)
    kept = [{path.name: path.read_bytes() for path in (run / "predictions").glob("*")} for run in (first, second)]
    if kept[0] != kept[1]:
        found.append("predictions")
    if curves(first) != curves(second):
        found.append("curves")
    ours, theirs = report(first), report(second)
    for name in SAME_IN_METADATA:
        if ours[name] != theirs[name]:
            found.append(f"run.json {name}")
    return found


def checkpoint(run: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def report(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: step and value of each point, by tag; points that a resumption took back are left out."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(s.step, s.value) for s in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def equal(ours: Any, theirs: Any) -> bool:
    """Equal in type and value, tensors bit for bit."""
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, torch.Tensor):
        return ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(equal(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(equal, ours, theirs))
    return bool(ours == theirs)
