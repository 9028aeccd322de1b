"""A JSON Schema of run files, from which an editor completes and marks mistakes."""

import collections.abc
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from visionbench.config.cli import settings_parser
from visionbench.config.parse_errors import BASES, classes
from visionbench.config.signatures import annotations, defaults, descriptions
from visionbench.guards import GUARDS
from visionbench.guards.config import LINKED

PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string", type(None): "null"}
# Arguments that are made for a class, and not given.
NOT_GIVEN = {"optimizer": {"params"}, "lr_scheduler": {"optimizer"}, "model": set(LINKED)}
# Numbers that are refused when a run is made, by option: what JSON Schema has to say about them.
AT_LEAST_1: Mapping[str, Any] = {"minimum": 1}
AT_LEAST_0: Mapping[str, Any] = {"minimum": 0}
SHARE: Mapping[str, Any] = {"minimum": 0, "maximum": 1}
RANGES: Mapping[str, Mapping[str, Any]] = {
    "seed_everything": {"minimum": 0, "maximum": 2**32 - 1},
    "threads": {"minimum": 0, "maximum": 1024},
    "steps_per_execution": AT_LEAST_1,
    "checkpoint.every_n_steps": AT_LEAST_1,
    "early_stopping.patience": AT_LEAST_0,
    "data.batch_size": AT_LEAST_1,
    "data.val_size": AT_LEAST_0,
    "data.test_size": AT_LEAST_0,
    "data.folds": {"minimum": 2},
    "model.dropout": SHARE,
    "model.dense_dropout": SHARE,
    "model.label_smoothing": {"minimum": 0, "exclusiveMaximum": 1},
    "model.l1": AT_LEAST_0,
    "model.patch_size": AT_LEAST_1,
    "model.blocks": AT_LEAST_1,
    "optimizer.lr": AT_LEAST_0,
}


def json_schema() -> dict[str, Any]:
    """The schema of the files that `--config` reads.

    It knows the names of this package and of torch. A class by its import path may have any arguments.
    """
    properties: dict[str, Any] = {}
    for action in settings_parser()._actions:
        annotation, name = getattr(action, "_typehint", None), action.dest
        if annotation is None or name.endswith(".help") or name in BASES:
            continue
        place = properties
        *groups, last = name.split(".")
        for group in groups:
            place = place.setdefault(group, {"type": "object", "additionalProperties": False, "properties": {}})
            place = place["properties"]
        place[last] = _described(_of_type(annotation, name), action.help, action.default)
    properties["allow"]["items"] = {"enum": sorted(guard.name for guard in GUARDS if guard.name)}
    for name in ("model", "data"):
        properties[name] = _class_of(name)
    properties["trainer"]["properties"]["callbacks"] = {}  # of any class
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Run file of visionbench",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "$defs": {name: _class_of(name, define=True) for name in BASES if name not in ("model", "data")},
    }


def _class_of(key: str, define: bool = False) -> dict[str, Any]:
    """The schema of a class by name, or by name and arguments."""
    if not define and key not in ("model", "data"):
        return {"$ref": f"#/$defs/{key}"}
    known = sorted(classes(key), key=lambda kind: kind.__name__)
    names = [kind.__name__ for kind in known]
    import_path = {"type": "string", "pattern": r"^[\w]+(\.[\w]+)+$"}
    conditions = [
        {
            "if": {"properties": {"class_path": {"enum": [kind.__name__, *_paths(kind)]}}, "required": ["class_path"]},
            "then": {"properties": {"init_args": _arguments_of(key, kind)}},
        }
        for kind in known
    ]
    named = {"anyOf": [{"enum": names}, import_path]}
    of_class = {
        "type": "object",
        "required": ["class_path"],
        "additionalProperties": False,
        "properties": {"class_path": named, "init_args": {"type": "object"}, "dict_kwargs": {"type": "object"}},
        "allOf": conditions,
    }
    return {"anyOf": [{"enum": names}, import_path, of_class]}


def _paths(kind: type) -> Iterator[str]:
    """The import paths of a class: where it is written, and the package that shows it."""
    yield f"{kind.__module__}.{kind.__qualname__}"
    package = kind.__module__
    while "." in package:
        package = package.rpartition(".")[0]
        yield f"{package}.{kind.__qualname__}"


def _arguments_of(key: str, kind: type) -> dict[str, Any]:
    texts, values = descriptions(kind), defaults(kind)
    properties = {
        name: _described(_of_type(annotation, f"{key}.{name}"), texts.get(name, ""), values.get(name))
        for name, annotation in annotations(kind).items()
        if name not in NOT_GIVEN.get(key, ())
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _described(schema: dict[str, Any], text: str | None, default: Any) -> dict[str, Any]:
    described = dict(schema)
    if text and "$ref" not in schema:
        described["description"] = " ".join(text.split())
    if isinstance(default, bool | int | float | str) and "$ref" not in schema:
        described["default"] = default
    return described


def _of_type(annotation: Any, name: str) -> dict[str, Any]:
    """The schema of a type; `{}`, which anything fits, where JSON has no word for it."""
    last = name.rpartition(".")[2]
    if last in BASES:
        choices = [_class_of(last)]
        if last == "augment":
            return {"anyOf": [{"type": "array", "items": choices[0]}, {"type": "null"}]}
        return {"anyOf": [*choices, {"type": "null"}]} if _takes_none(annotation) else choices[0]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in PLAIN:
        numeric = annotation in (int, float)
        return {"type": PLAIN[annotation], **(RANGES.get(name, {}) if numeric else {})}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin in (typing.Union, types.UnionType):
        # A file cannot hold a tensor, which some optimizers take for a number.
        parts = [_of_type(part, name) for part in arguments if part is not Tensor]
        return {"anyOf": parts} if all(parts) else {}
    if origin in (list, collections.abc.Sequence):
        return {"type": "array", "items": _of_type(arguments[0], "") if arguments else {}}
    if origin is tuple or annotation is tuple:
        return {"type": "array"}
    if origin in (dict, collections.abc.Mapping) or annotation is dict:
        return {"type": "object"}
    return {}


def _takes_none(annotation: Any) -> bool:
    return type(None) in typing.get_args(annotation)
