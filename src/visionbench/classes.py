"""Where classes are written."""

import ast
import contextlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping
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


def lazy_attributes(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Makes the `__getattr__` of a package whose modules are imported when one of their names is asked for.

    Args:
        package: Name of the package.
        modules: Module of each name, within the package.
    """

    def attribute(name: str) -> Any:
        if name in modules:
            return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return attribute


def docstring_of(class_path: str) -> str:
    """The docstring of a class, from its source alone: no module is imported.

    Args:
        class_path: Import path of the class, with the module that defines it.
    """
    return ast.get_docstring(_definition(class_path)) or ""


def sheet_entry(docstring: str, name: str) -> str:
    """An entry of the data sheet in a docstring, such as `- Files: ...`, on one line; empty if there is none.

    Args:
        docstring: Docstring of a data set.
        name: Name of the entry, such as Files.
    """
    entry = re.search(rf"^ *- {name}: (.*?)(?=^ *- |^ *$|\Z)", docstring, flags=re.MULTILINE | re.DOTALL)
    return " ".join(entry[1].split()) if entry is not None else ""


def defaults_of(class_path: str) -> dict[str, Any]:
    """The defaults of a class's `__init__` that are plain values, by name, from its source alone.

    Args:
        class_path: Import path of the class, with the module that defines it.
    """
    for node in _definition(class_path).body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            arguments = node.args
            with_defaults = [*arguments.posonlyargs, *arguments.args][-len(arguments.defaults) :]
            pairs = [*zip(with_defaults, arguments.defaults, strict=False)]
            pairs += [
                (name, value) for name, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value
            ]
            return {name.arg: plain for name, value in pairs for plain in _plain(value)}
    return {}


def _plain(value: ast.expr) -> Iterator[Any]:
    """The value that an expression writes, where that is a plain one or the quotient of two."""
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Div):
        for dividend, divisor in zip(_plain(value.left), _plain(value.right), strict=False):
            yield dividend / divisor
        return
    with contextlib.suppress(ValueError):
        yield ast.literal_eval(value)


def _definition(class_path: str) -> ast.ClassDef:
    module, _, name = class_path.rpartition(".")
    package, *rest = module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise LookupError(f"there is no package {package}")
    path = Path(spec.submodule_search_locations[0]).joinpath(*rest).with_suffix(".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    raise LookupError(f"{path} defines no class {name}")
