"""The functions of jsonargparse that are replaced: three while a command line is parsed, and two for good.

- `resolve_class_path_by_name` finds two classes for a short name that torch and Lightning share, and refuses to choose.
- `discard_init_args_on_class_path_change` keeps and drops arguments without a word when only a class changes; the
  method of the same name fails where the new class has got no arguments.
- `sort_subtypes_for_union` leaves int and float in the order of the annotation, and typing may give an annotation in
  the order of an equal one that was made earlier in the process, by any library: 4 images would become 4.0. It also
  tries text last, so that the text 010 of a cell would become 10. It is replaced for good, since values are also
  converted when classes are instantiated.
- `open`, where files of settings are read, takes the encoding of the machine, which may be none for names in UTF-8.
"""

import contextlib
import inspect
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonargparse._paths as paths
import jsonargparse._typehints as typehints
from jsonargparse import Namespace
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from visionbench.classes import class_of
from visionbench.data.base import VisionDataModule
from visionbench.data.table import CellValue
from visionbench.models.base import Classifier

Say = Callable[[str], None]

# Short names that torch and Lightning share, with the class that is meant.
SHORT_NAMES = {"ReduceLROnPlateau": "torch.optim.lr_scheduler.ReduceLROnPlateau"}

_sort: Any = typehints.sort_subtypes_for_union


def _sort_with_int_first(subtypes: Any, value: Any, *arguments: Any, **options: Any) -> Any:
    """Types of a union in the order in which they are tried: int before float, which accepts integers too.

    The text of a cell, however, is a text.
    """
    order = list(_sort(subtypes, value, *arguments, **options))
    cell = {*typing.get_args(CellValue)}
    others = [kind for kind in order if kind not in cell and typing.get_origin(kind) is not list]
    if isinstance(value, str) and cell <= set(order) and not others:  # the interval of validations is no cell
        order.remove(str)
        order.insert(0, str)
    if int in order and float in order and order.index(float) < order.index(int):
        order.remove(int)
        order.insert(order.index(float), int)
    return order


typehints.sort_subtypes_for_union = _sort_with_int_first  # type: ignore[assignment]


def _open_as_utf8(file: Any, mode: str = "r") -> Any:
    """Opens a file of settings as the check of run files reads it, whatever the locale of the machine."""
    return Path(file).open(mode, encoding=None if "b" in mode else "utf-8")


vars(paths)["open"] = _open_as_utf8


@contextlib.contextmanager
def watched_parsing(say: Say) -> Iterator[None]:
    """Parses with two gaps closed: short names that are ambiguous, and arguments that outlive their class.

    Changing only the data set (`--data Digits`) keeps the arguments of the one before it that the new one accepts too,
    and drops the others. Both are said here, and what speaks of one data set alone is dropped. A new model, optimizer
    or scheduler begins with its own defaults.

    Args:
        say: Gets a line for each class changed.
    """
    # These functions are private to jsonargparse; tests/test_parsing.py fails when they are no longer what it calls.
    resolve: Any = typehints.resolve_class_path_by_name
    discard: Any = typehints.discard_init_args_on_class_path_change
    action: Any = typehints.ActionTypeHint
    below: Any = action.discard_init_args_on_class_path_change
    lines: dict[str, None] = {}

    def resolve_with_short_names(cls: Any, name: str) -> str:
        path: str = SHORT_NAMES.get(name) or resolve(cls, name)
        return path

    def discard_and_note(parser_or_action: Any, previous: Any, value: Any) -> None:
        if not (previous and previous.get("init_args") and previous["class_path"] != value["class_path"]):
            discard(parser_or_action, previous, value)
            return
        new, old = class_of(value), class_of(previous)
        given = value.get("init_args") or {}
        before = dict(previous["init_args"].items(branches=True, nested=False))
        discard(parser_or_action, previous, value)
        if issubclass(new, VisionDataModule):
            specific = new.specific_arguments | getattr(old, "specific_arguments", frozenset())
            if issubclass(old, VisionDataModule) and new.store_class() is old.store_class():
                specific = frozenset()  # the same images, of which only hooks make something else
            for name in specific & set(previous["init_args"].keys()):
                previous["init_args"].pop(name)
        elif issubclass(new, Classifier | Optimizer | LRScheduler):
            # Defaults of the class before are none of the new one's; what was set is refused by `check_carried`.
            for name in list(previous["init_args"].keys()):
                previous["init_args"].pop(name)
            return
        kept = dict(previous["init_args"].items(branches=True, nested=False))
        # Only what makes a difference is worth a word: a value that is the new class's default anyway is not.
        carried = {n: v for n, v in kept.items() if n not in given and v is not None and v != _default(new, n)}
        dropped = {n: v for n, v in before.items() if n not in kept and v is not None and v != _default(old, n)}
        if carried or dropped:
            parts = [
                f"{verb} {', '.join(f'{n}={_short(v)}' for n, v in values.items())}"
                for verb, values in (("kept", carried), ("dropped", dropped))
                if values
            ]
            lines[f"{old.__name__} was replaced by {new.__name__}: {'; '.join(parts)}"] = None

    def discard_below(parser_or_action: Any, previous: Any, value: Any) -> None:
        if value is not None:  # a class that has got no arguments
            below(parser_or_action, previous, value)

    typehints.resolve_class_path_by_name = resolve_with_short_names
    action.discard_init_args_on_class_path_change = staticmethod(discard_below)
    typehints.discard_init_args_on_class_path_change = discard_and_note
    try:
        yield
    except SystemExit:  # --print_config: standard output is for the configuration
        for line in lines:
            print(line, file=sys.stderr)
        raise
    finally:
        typehints.resolve_class_path_by_name = resolve
        typehints.discard_init_args_on_class_path_change = discard
        action.discard_init_args_on_class_path_change = staticmethod(below)
    for line in lines:
        say(line)


def _default(kind: type, name: str) -> Any:
    for base in kind.__mro__:
        parameters = inspect.signature(base.__init__).parameters  # type: ignore[misc]
        if name in parameters:
            return parameters[name].default
    return inspect.Parameter.empty


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_short, value))}]"
    return str(value["class_path"]).rsplit(".", 1)[-1] if isinstance(value, Namespace) else str(value)
