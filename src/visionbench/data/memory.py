"""What the machine has to give: free memory, also to a container or a job that may take only so much, and cores."""

import math
import os
from pathlib import Path

import torch


def processor_cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(device: torch.device) -> float:
    """Bytes that can be taken on a device; infinite where nobody says.

    Args:
        device: One that trains.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return free_host_memory()


def free_host_memory(processes: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes that this process can take without others being swapped out or killed.

    Args:
        processes: Where Linux tells of processes.
        groups: Where it tells of control groups, of version 1 or 2.
    """
    return max(0.0, min(_available(processes), *_left_by_groups(processes, groups), math.inf))


def _available(processes: Path) -> float:
    for line in _lines(processes / "meminfo"):
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return math.inf


def _left_by_groups(processes: Path, groups: Path) -> list[float]:
    """What each control group around this process has left; those around a group limit it too."""
    left: list[float] = []
    for line in _lines(processes / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            top, names = groups / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        elif controllers == "":
            top, names = groups, ("memory.max", "memory.current", "")
        else:
            continue
        # In a container the group's own path may be hidden, and its files lie at the top.
        inner = top / path.strip("/")
        for group in [folder for folder in (inner, *inner.parents) if folder.is_relative_to(top)]:
            limit, used = _number(group / names[0]), _number(group / names[1])
            if limit is not None and used is not None:
                left.append(limit - used + _reclaimable(group / "memory.stat", names[2]))
    return left


def _number(file: Path) -> int | None:
    said = "".join(_lines(file)).strip()
    return int(said) if said.isdecimal() else None  # no limit is written as "max"


def _reclaimable(file: Path, prefix: str) -> int:
    """Bytes of files in a group's page cache: they count as used, but make room."""
    said = dict(line.split(maxsplit=1) for line in _lines(file))
    return sum(int(said.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
