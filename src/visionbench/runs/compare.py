"""Two runs side by side: their settings, data and results; and whether a repeated run is the same run."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visionbench.runs.folder import RunFolder
from visionbench.runs.identity import comparable, flat

# Keys of run.json in which two runs of one configuration may differ.
CIRCUMSTANCES = ("data_digest", "code", "device", "processor", "world_size", "precision", "threads", "seed")


def compare(first: Path, second: Path) -> Iterator[str]:
    """Lines that say in what two runs differ.

    Args:
        first: Folder of one run.
        second: Folder of the other run.

    Raises:
        UserError: One of the folders is not a run folder, or one of its files is damaged.
    """
    runs = [RunFolder(first), RunFolder(second)]
    configs = [flat(comparable(run.config)) for run in runs]
    one, other = (run.metadata for run in runs)
    for run in runs:
        if not run.is_finished:
            yield f"{run} is {run.status}"
    yield f"runs          {first} | {second}  (the second minus the first)"
    names = sorted(configs[0] | configs[1])
    yield from _table("configuration", [(name, configs[0].get(name), configs[1].get(name)) for name in names])
    if not one or not other:
        return
    before, after = circumstances(one), circumstances(other)
    yield from _table("circumstances", [(name, before[name], after[name]) for name in before])
    versions = [metadata.get("versions") or {} for metadata in (one, other)]
    names = sorted(versions[0] | versions[1])
    yield from _table("versions", [(name, versions[0].get(name), versions[1].get(name)) for name in names])
    sides = [(str(run), metadata, run.config) for run, metadata in zip(runs, (one, other), strict=True)]
    yield from (f"note: {sentence}" for sentence in incomparable(sides))
    for run in runs:
        if marks := run.allowed_defects:
            yield f"note: {run} allows {', '.join(marks)}, with which its numbers were made"
    yield "metrics"
    metrics = [metadata.get("metrics") or {} for metadata in (one, other)]
    for name in [name for name in metrics[0] if name in metrics[1]]:
        value, other_value = metrics[0][name], metrics[1][name]
        if value is None or other_value is None:  # a loss that was not a number
            yield f"  {name:<12} {value} | {other_value}"
        else:
            yield f"  {name:<12} {value:.6g} | {other_value:.6g}  ({other_value - value:+.3g})"
    digests = [metadata.get("weights_digest") for metadata in (one, other)]
    if None in digests:
        yield "weights       unknown, since one of the runs has not finished"
    else:
        yield f"weights       {'the same, bit for bit' if digests[0] == digests[1] else 'different'}"


def incomparable(runs: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]]) -> Iterator[str]:
    """Sentences about numbers of runs that bear one name but were measured in different ways.

    Args:
        runs: Name, content of run.json and configuration of each run.
    """
    for stage, word in (("test", "test"), ("val", "validation")):
        digests = {
            name: (metadata.get("split_digests") or {}).get(stage)
            for name, metadata, _ in runs
            if f"{stage}/acc" in (metadata.get("metrics") or {})
        }
        if len(set(digests.values()) - {None}) > 1:
            yield (
                f"the {word} accuracies were measured on different {word} samples ({_grouped(digests)}), so that their "
                "difference is not one of the models alone"
            )
    losses = {name: ((config.get("model") or {}).get("init_args") or {}).get("loss") for name, _, config in runs}
    if len(set(losses.values()) - {None}) > 1:
        words = ", ".join(f"{name} {str(loss).replace('_', ' ')}" for name, loss in losses.items())
        yield f"the losses are different functions ({words}), so that they cannot be compared"


def _grouped(values: Mapping[str, Any]) -> str:
    """The names of the runs, those with the same value together: A and C; B."""
    groups: dict[Any, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(value, []).append(name)
    return "; ".join(" and ".join(names) for names in groups.values())


def circumstances(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs of one configuration may differ in, by name; the digest of the starting weights is `start`.

    Args:
        metadata: Content of run.json.
    """
    start = (metadata.get("start") or {}).get("weights_digest")
    return {**{name: metadata.get(name) for name in CIRCUMSTANCES}, "start": start}


def first_difference(first: Path, second: Path) -> str | None:
    """The first difference between two runs of one configuration; `None` where they are the same bit for bit.

    Args:
        first: Folder of a finished run.
        second: Folder of another finished run.
    """
    runs = [RunFolder(first), RunFolder(second)]
    losses, other_losses = (run.step_losses for run in runs)
    common = min(len(losses), len(other_losses))
    differs = np.flatnonzero(losses[:common].view(np.uint32) != other_losses[:common].view(np.uint32))
    if len(differs):
        step = int(differs[0])
        return f"the loss of step {step + 1} is {losses[step]:.9g} in {first} and {other_losses[step]:.9g} in {second}"
    if len(losses) != len(other_losses):
        paths = [run.losses_path for run in runs]
        return f"{paths[0]} has the losses of {len(losses)} steps and {paths[1]} those of {len(other_losses)}"
    for run in runs:
        if not run.metrics_path.is_file():
            return f"all losses of the steps are the same, but {run.metrics_path} is missing"
    if runs[0].metrics_path.read_bytes() != runs[1].metrics_path.read_bytes():
        return "all losses of the steps are the same, but metrics.csv differs"
    if runs[0].metadata.get("weights_digest") != runs[1].metadata.get("weights_digest"):
        return "all losses and metrics are the same, but the weights differ"
    return None


def _table(title: str, rows: Sequence[tuple[str, Any, Any]]) -> Iterator[str]:
    differing = [(name, before, after) for name, before, after in rows if before != after]
    yield title if differing else f"{title:<13} the same"
    width = max((len(name) for name, _, _ in differing), default=0)
    for name, before, after in differing:
        yield f"  {name:<{width}}  {_short(before)} | {_short(after)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 64 else f"{text[:12]}..."
