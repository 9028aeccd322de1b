"""Free memory, within the limits of a container or a job, and processor cores."""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch  # which takes seconds to import; a study's dry run does without it


def processor_cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(device: "torch.device") -> float:
    """Free memory of a device in bytes; infinite if the system does not report it.

    Args:
        device: Training device.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return free_host_memory()


def free_host_memory(proc_folder: Path = Path("/proc"), cgroup_folder: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes of host memory that this process can allocate before the system swaps or kills processes.

    Args:
        proc_folder: Folder in which Linux describes processes.
        cgroup_folder: Folder in which Linux describes control groups (version 1 or 2).
    """
    return max(0.0, min(_available(proc_folder), *_free_in_groups(proc_folder, cgroup_folder), math.inf))


def _available(proc_folder: Path) -> float:
    for line in _lines(proc_folder / "meminfo"):
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return math.inf


def _free_in_groups(proc_folder: Path, cgroup_folder: Path) -> list[float]:
    """Free bytes of each control group of this process; the parents of a group limit it too."""
    free: list[float] = []
    for line in _lines(proc_folder / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            top, names = cgroup_folder / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        elif controllers == "":
            top, names = cgroup_folder, ("memory.max", "memory.current", "")
        else:
            continue
        # In a container the path of the group may be hidden; its files are then in the top folder.
        inner = top / path.strip("/")
        for group in [folder for folder in (inner, *inner.parents) if folder.is_relative_to(top)]:
            limit, used = _number(group / names[0]), _number(group / names[1])
            if limit is not None and used is not None:
                free.append(limit - used + _reclaimable(group / "memory.stat", names[2]))
    return free


def _number(file: Path) -> int | None:
    text = "".join(_lines(file)).strip()
    return int(text) if text.isdecimal() else None  # "max" means that there is no limit


def _reclaimable(file: Path, prefix: str) -> int:
    """Bytes of files in a group's page cache, which count as used but are freed when memory is needed."""
    values = dict(line.split(maxsplit=1) for line in _lines(file))
    return sum(int(values.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
