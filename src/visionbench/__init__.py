"""Image-classification studies in PyTorch Lightning: right, exact, fast, and shown."""

import sys

# `python -m` puts the working directory first, where a random.py would hide Python's own; `cli` puts it last.
if sys.argv[:1] == ["-m"] and sys.orig_argv[1:3] == ["-m", "visionbench"] and not sys.flags.safe_path:
    sys.path.append(sys.path.pop(0))

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visionbench.api import fit, load_data, open_run
    from visionbench.data.arrays import Arrays
    from visionbench.estimator import VisionClassifier

__all__ = ["Arrays", "VisionClassifier", "__version__", "fit", "load_data", "open_run"]

# Imported when they are asked for: with them come torch and Lightning, for which `visionbench compare` need not wait.
_MODULES = {
    "Arrays": "visionbench.data.arrays",
    "VisionClassifier": "visionbench.estimator",
    "fit": "visionbench.api",
    "load_data": "visionbench.api",
    "open_run": "visionbench.api",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("visionbench")
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'visionbench' has no attribute {name!r}")
