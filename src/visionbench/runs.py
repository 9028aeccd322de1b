"""Run folders: claimed before anything is written, and a `run.json` that says what was run, on what and how it went."""

import hashlib
import importlib.metadata
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visionbench.errors import UserError
from visionbench.source_code import file_of, is_ours

SCHEMA = 1
PACKAGES = ("visionbench", "torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "numpy", "scikit-learn")


def claim(parent: Path) -> Path:
    """Makes the first free `version_N` in `parent`; two processes that ask at once get different ones.

    Raises:
        UserError: The folder cannot be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        taken = [int(p.name[8:]) for p in parent.glob("version_*") if p.name[8:].isdecimal()]
        number = max(taken, default=-1) + 1
        while True:
            try:
                (parent / f"version_{number}").mkdir()
                return parent / f"version_{number}"
            except FileExistsError:
                number += 1
    except OSError as error:
        raise UserError(
            f"The run's folder cannot be made in {parent} ({error.strerror}); give another place with --log_dir."
        ) from error


def result_checkpoint(run: Path) -> Path:
    """The checkpoint that stands for a run: the best one, or the last where nothing was watched.

    Raises:
        UserError: There is none.
    """
    if not (run / "config.yaml").is_file():
        raise UserError(
            f"{run} is not a run folder (it has no config.yaml); give one like lightning_logs/cnn/version_0."
        )
    for name in ("best", "last"):
        if (path := run / "checkpoints" / f"{name}.ckpt").is_file():
            return path
    raise UserError(f"{run} has no checkpoint yet, so there is nothing to evaluate; let its first epoch finish.")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file that is never seen half-written."""
    # JSON has no NaN: a diverged run's loss is null, and the file stays one that every reader takes.
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(path, f"{text}\n".encode())


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that is never seen half-written, and puts it on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """The sha256 of parameters and buffers: names, types, shapes and every byte."""
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
    package = Path(__file__).parent
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


def wilson_interval(correct: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval of a share, by default at 95 %.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    share = correct / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return centre - half, centre + half
