"""What the arguments of a class are: their types and their descriptions."""

import inspect
import typing
from typing import Any

from docstring_parser import parse


def annotations(kind: type) -> dict[str, Any]:
    """The types of the arguments that a class takes by name, `inspect.Parameter.empty` for one without a type.

    Arguments of a base belong to them where the class hands on `**kwargs`.

    Args:
        kind: Class.
    """
    found: dict[str, Any] = {}
    for base in kind.__mro__:
        init = vars(base).get("__init__")
        if init is None:
            continue
        try:
            hints = typing.get_type_hints(init)
        except (NameError, TypeError, AttributeError):  # a name that only a type checker sees
            hints = {}
        parameters = list(inspect.signature(init).parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                found.setdefault(parameter.name, hints.get(parameter.name, inspect.Parameter.empty))
        if all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def defaults(kind: type) -> dict[str, Any]:
    """The defaults of the arguments that a class takes, of those that have one."""
    found: dict[str, Any] = {}
    for base in kind.__mro__:
        for parameter in inspect.signature(base).parameters.values():
            if parameter.default is not parameter.empty:
                found.setdefault(parameter.name, parameter.default)
    return found


def descriptions(kind: type) -> dict[str, str]:
    """The `Args:` texts of a class and its bases, each on one line."""
    found: dict[str, str] = {}
    for base in kind.__mro__:
        for text in (vars(base).get("__doc__"), getattr(vars(base).get("__init__"), "__doc__", None)):
            for parameter in parse(text or "").params:
                found.setdefault(parameter.arg_name, " ".join((parameter.description or "").split()))
    return found
