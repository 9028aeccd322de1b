"""Two runs side by side: what was asked for, on what, and what came out; and a run done again."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visionbench.runs.folder import read_config, read_losses
from visionbench.runs.identity import comparable

# What two runs of one configuration may differ in besides it, in run.json's words.
CIRCUMSTANCES = ("data_digest", "code", "device", "precision", "threads", "seed")


def compare(first: Path, second: Path) -> Iterator[str]:
    """Lines that say in what two runs differ.

    Raises:
        UserError: One of them is no run.
    """
    configs: list[dict[str, Any]] = []
    reports: list[dict[str, Any] | None] = []
    for folder in (first, second):
        configs.append(flat(comparable(read_config(folder))))
        report = folder / "run.json"
        reports.append(json.loads(report.read_text(encoding="utf-8")) if report.is_file() else None)
        if reports[-1] is None:
            yield f"{folder} is not finished: it has no run.json"
    asked = sorted(configs[0] | configs[1])
    yield from _table("configuration", [(name, configs[0].get(name), configs[1].get(name)) for name in asked])
    one, other = reports
    if one is None or other is None:
        return
    yield from _table("circumstances", [(n, one.get(n), other.get(n)) for n in CIRCUMSTANCES])
    versions = sorted(one["versions"] | other["versions"])
    yield from _table("versions", [(n, one["versions"].get(n), other["versions"].get(n)) for n in versions])
    yield "metrics"
    for name in [n for n in one["metrics"] if n in other["metrics"]]:
        was, now = one["metrics"][name], other["metrics"][name]
        if was is None or now is None:  # a loss that was not a number
            yield f"  {name:<12} {was} | {now}"
        else:
            yield f"  {name:<12} {was:.6g} | {now:.6g}  ({now - was:+.3g})"
    same = one["weights_digest"] == other["weights_digest"]
    yield f"weights       {'the same, bit for bit' if same else 'different'}"


def first_difference(first: Path, second: Path) -> str | None:
    """Where two runs of one configuration part, or `None` where they are the same bit for bit.

    Args:
        first: A finished run's folder.
        second: Another's.
    """
    reports = [json.loads((folder / "run.json").read_text(encoding="utf-8")) for folder in (first, second)]
    ours, theirs = read_losses(first / "step-losses.bin"), read_losses(second / "step-losses.bin")
    common = min(len(ours), len(theirs))
    apart = np.flatnonzero(ours[:common].view(np.uint32) != theirs[:common].view(np.uint32))
    if len(apart):
        step = int(apart[0])
        return f"the loss of step {step + 1} is {ours[step]:.9g} in {first} and {theirs[step]:.9g} in {second}"
    if len(ours) != len(theirs):
        return f"{first} has {len(ours)} steps and {second} has {len(theirs)}"
    if (first / "metrics.csv").read_bytes() != (second / "metrics.csv").read_bytes():
        return "all losses of the steps are the same, but metrics.csv differs"
    if reports[0]["weights_digest"] != reports[1]["weights_digest"]:
        return "all losses and metrics are the same, but the weights differ"
    return None


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names; lists are written out, so that they compare and print as one."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value if isinstance(value, bool | int | float | str | None) else str(value)
    return leaves


def _table(title: str, rows: Sequence[tuple[str, Any, Any]]) -> Iterator[str]:
    differing = [(name, was, now) for name, was, now in rows if was != now]
    yield title if differing else f"{title:<13} the same"
    width = max((len(name) for name, _, _ in differing), default=0)
    for name, was, now in differing:
        yield f"  {name:<{width}}  {_short(was)} | {_short(now)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 64 else f"{text[:12]}..."
