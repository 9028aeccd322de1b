"""Mistakes in a command line that are found without torch, which takes seconds to import."""

import re
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from visionbench import data, models
from visionbench.config.messages import unknown_class
from visionbench.config.run_files import check_files, is_settings
from visionbench.data import DATA_SETS
from visionbench.errors import UserError
from visionbench.models import MODELS

# For each option that names a class: the names that a message lists, and all names of the package, the others
# being refused by the parser, since a base class is no model.
KNOWN: dict[str, tuple[Collection[str], Collection[str]]] = {
    "model": (MODELS, models.__all__),
    "data": (DATA_SETS, data.__all__),
}


def check_names(args: Sequence[str]) -> None:
    """Refuses files of settings that cannot be read, and a model or data set that is not of this package.

    The short name of a class of the user's own is known once its module is imported. Names are therefore checked only
    where no module is named and none has been imported; every other mistake is left to the parser.

    Args:
        args: Options of `visionbench fit`.

    Raises:
        UserError: A file cannot be read, or a class does not exist.
    """
    check_files(args)
    configs = [_content(Path(file)) for file in _values(args, "config") if not is_settings(file)]
    if "visionbench.models.base" in sys.modules:  # which the module of a user's own class imports
        return
    named = [(key, name) for config in configs for key in KNOWN if (name := _class_name(config.get(key))) is not None]
    named += [(key, value) for key in KNOWN for value in _values(args, key)]
    # A dotted name names a module, and a path a file with more settings; either may define the others.
    if all(re.fullmatch(r"[A-Za-z]\w*", name) and not Path(name).exists() for _, name in named):
        for key, name in named:
            known, of_package = KNOWN[key]
            if name not in (*of_package, "null"):
                raise UserError(unknown_class(key, name, known))


def _values(args: Sequence[str], option: str) -> Iterator[str]:
    for argument, following in zip(args, [*args[1:], ""], strict=False):
        if argument == f"--{option}":
            yield following
        elif argument.startswith(f"--{option}="):
            yield argument.partition("=")[2]


def _content(path: Path) -> dict[str, Any]:
    """Content of a config file; empty where the parser has better words for what is wrong."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _class_name(setting: Any) -> str | None:
    name = setting.get("class_path") if isinstance(setting, dict) else setting
    return name if isinstance(name, str) else None
