"""Run folders: claimed before anything is written, and a `run.json` that says what was run, on what and how it went."""

import hashlib
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionbench.classes import file_of, is_ours

if TYPE_CHECKING:
    from torch import Tensor

PACKAGES = ("visionbench", "torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "numpy", "scikit-learn")


def weights_digest(state: Mapping[str, "Tensor"]) -> str:
    """The sha256 of parameters and buffers: names, types, shapes and every byte."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# What does not change which numbers come out: where a run is kept, how it is shown, on how many devices it runs, how
# images are read.
ASIDE = {
    *("config", "name", "log_dir", "test_after_fit", "resume", "resume_changed", "checkpoint"),
    *("figures", "figure_layers", "figure_channels"),
}
TRAINER_ASIDE = {
    *("default_root_dir", "logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"),
    *("log_every_n_steps", "profiler", "devices", "num_nodes", "strategy"),
}
DATA_ASIDE = {"root", "offline", "memory_budget", "workers"}


def comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says about a run's numbers."""
    kept = {key: value for key, value in config.items() if key not in ASIDE}
    kept["trainer"] = {key: value for key, value in config["trainer"].items() if key not in TRAINER_ASIDE}
    data = dict(config["data"])
    data["init_args"] = {k: v for k, v in (data.get("init_args") or {}).items() if k not in DATA_ASIDE}
    kept["data"] = data
    return kept


def config_digest(config: Mapping[str, Any]) -> str:
    """The sha256 of what a configuration says about a run's numbers."""
    return hashlib.sha256(json.dumps(comparable(config), sort_keys=True, default=str).encode()).hexdigest()


def code_digest(kinds: Iterable[type]) -> str:
    """The sha256 of the package's source and of the files that define `kinds`, a user's own classes among them."""
    package = Path(__file__).parents[1]
    files = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}
    for base in {base for kind in kinds for base in kind.__mro__}:
        source = file_of(base)
        if source is None or is_ours(base) or base.__module__.partition(".")[0] in sys.stdlib_module_names:
            continue
        if "site-packages" not in source.parts:  # what is installed is told by its version
            files[base.__module__] = source
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + files[name].read_bytes() + b"\0")
    return digest.hexdigest()


def git_state() -> dict[str, Any] | None:
    """The commit that the package lies in, and whether tracked files differ from it; `None` outside a checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        # A checkout around a site-packages folder says nothing of the package in it.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    """Python and the packages that results depend on."""
    return {"python": sys.version.split()[0]} | {name: importlib.metadata.version(name) for name in PACKAGES}
