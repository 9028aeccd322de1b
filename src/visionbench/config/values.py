"""Values that the parser takes although nothing can be made of them."""

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

from jsonargparse import Namespace

from visionbench.classes import class_of
from visionbench.config.run_files import GROUPS
from visionbench.config.signatures import annotations, defaults
from visionbench.errors import UserError
from visionbench.guards.config import LINKED


def check_values(config: Namespace) -> None:
    """Refuses a group that is a single value, null where a class takes no null, and what is needed but not given.

    Args:
        config: Parsed options.

    Raises:
        UserError: A value is refused.
    """
    for name in GROUPS:
        value = config.get(name)
        if not isinstance(value, Namespace):
            found = "null" if value is None else value
            raise UserError(f"{name}: found {found}, expected a group of options, such as {name}.{GROUPS[name]}.")
    for name in ("model", "data"):
        if isinstance(spec := config.get(name), Namespace):
            _check_nulls(name, spec)


def _check_nulls(key: str, spec: Namespace) -> None:
    arguments = spec.get("init_args")
    if not isinstance(arguments, Namespace):
        return
    kind = class_of(spec)
    known, have_defaults = annotations(kind), defaults(kind)
    for name in (name for name, value in vars(arguments).items() if value is None and name not in LINKED):
        annotation = known.get(name, Any)
        # The parser asks for each argument without a default, but takes null for one that has no type either.
        if annotation is inspect.Parameter.empty and name not in have_defaults:
            raise UserError(f"{key}.{name}: not given, and {kind.__name__} has no default for it; give a value.")
        if not _takes_null(annotation):
            raise UserError(f"{key}.{name}: found null, expected {_type_in_words(annotation)}; remove it, or set it.")


def _takes_null(annotation: Any) -> bool:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return any(_takes_null(part) for part in typing.get_args(annotation))
    return annotation in (None, type(None), Any, object, inspect.Parameter.empty)


def _type_in_words(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(annotation)))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " or ".join(_type_in_words(part) for part in typing.get_args(annotation))
    if typing.get_origin(annotation) is list:
        return "a list"
    if typing.get_origin(annotation) is Callable:
        return "the name of a class"
    words = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))
