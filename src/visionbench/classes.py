"""Where classes are written."""

import importlib
import sys
from pathlib import Path
from typing import Any


def file_of(kind: type) -> Path | None:
    """The file that a class is written in; `None` for one typed into a notebook or built into Python."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return Path(file) if file is not None and file.endswith(".py") else None


def is_ours(kind: type) -> bool:
    """Whether a class belongs to this package."""
    return kind.__module__.partition(".")[0] == "visionbench"


def class_of(spec: Any) -> type:
    """The class that a resolved `{class_path: ..., init_args: ...}` names."""
    module, _, name = str(spec["class_path"]).rpartition(".")
    kind: type = getattr(importlib.import_module(module), name)
    return kind
