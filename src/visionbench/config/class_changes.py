"""What a file or a flag has set for one class, and what becomes of it where another class replaces that one.

A value that was chosen for Adam says nothing about SGD. Where a later file or flag changes the class of the model, its
optimizer or its scheduler, the new class therefore begins with its own defaults, and what was set for the class before
is refused with the options to write, unless it is given again.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from visionbench.classes import class_of
from visionbench.errors import UserError

# Keys that jsonargparse puts between a class and its arguments.
BETWEEN = ("init_args", "dict_kwargs")


@dataclass(frozen=True)
class Setting:
    """A value that a file or flag sets.

    Attributes:
        name: Name of the option with dots, such as model.optimizer.lr.
        value: Value; the name of a class, or any other value in plain types.
        is_class: Whether the value is the name of a class.
        source: File that sets the value; empty for a flag.
    """

    name: str
    value: Any
    is_class: bool
    source: str

    def __str__(self) -> str:
        return f"--{self.name} {_word(self.value)}"


@dataclass(frozen=True)
class Carried:
    """Values that were set for a class before it was replaced.

    Attributes:
        name: Name of the option whose class changed.
        old: Name of the class before.
        new: Name of the class that replaced it.
        settings: Values that were set for the class before, by name.
    """

    name: str
    old: str
    new: str
    settings: dict[str, Setting]


def carried_settings(words: Sequence[str]) -> list[Carried]:
    """Finds the values that were set for a class of the model, its optimizer or scheduler before it was replaced.

    Values that are given again later are left out.

    Args:
        words: Command line.
    """
    current: dict[str, Setting] = {}
    carried: list[Carried] = []
    for setting in _settings(words):
        for change in carried:
            _forget(change.settings, setting)
        if setting.is_class:
            before = current.get(setting.name)
            below = {n: s for n, s in current.items() if n.startswith(f"{setting.name}.")}
            if below and (before is None or _last(before.value) != _last(setting.value)):
                old = _last(before.value) if before is not None else "its default class"
                carried.append(Carried(setting.name, old, _last(setting.value), below))
                for name in below:
                    del current[name]
        current[setting.name] = setting
    return [change for change in carried if change.settings]


def check_carried(words: Sequence[str], config: Namespace) -> Iterator[str]:
    """Refuses a change of class that would lose, or carry over, what was set for the class before.

    Args:
        words: Command line.
        config: Configuration that was made of it.

    Yields:
        Lines about values that the new class does not have.

    Raises:
        UserError: The new class has an option that was set for the class before.
    """
    for change in carried_settings(words):
        spec = _value_at(config, change.name)
        arguments = _arguments(class_of(spec)) if spec is not None else set()
        kept: list[Setting] = []
        dropped: list[Setting] = []
        for name, setting in change.settings.items():
            argument = name.removeprefix(f"{change.name}.").partition(".")[0]
            if argument not in arguments:
                dropped.append(setting)
            elif not _same(_value_at(config, name), setting):
                kept.append(setting)
        if kept:
            source = next((setting.source for setting in kept if setting.source), "the command")
            values = ", ".join(f"{s.name.removeprefix(f'{change.name}.')}={_word(s.value)}" for s in kept)
            it = "it" if len(kept) == 1 else "them"
            raise UserError(
                f"{change.name} is changed from {change.old} to {change.new}, but {source} sets {values} before that; "
                f"write {' '.join(map(str, kept))} after the change to keep {it}, or other values."
            )
        if dropped:
            values = ", ".join(f"{s.name.removeprefix(f'{change.name}.')}={_word(s.value)}" for s in dropped)
            yield f"{change.old} was replaced by {change.new}: dropped {values}"


def _settings(words: Sequence[str]) -> Iterator[Setting]:
    """The values of model, optimizer and scheduler that a command line sets, in the order of their precedence."""
    names = iter(range(len(words)))
    for place in names:
        word = words[place]
        if not word.startswith("--"):
            continue
        option, equals, text = word.removeprefix("--").partition("=")
        if not equals:
            text = words[place + 1] if place + 1 < len(words) else ""
        if option == "config":
            content, source = _content(text)
            if isinstance(content, Mapping) and "model" in content:
                yield from _flat("model", content["model"], source)
        elif option == "model" or (option.startswith("model.") and not option.endswith((".help", "+"))):
            name = ".".join(part for part in option.split(".") if part not in BETWEEN)
            name = name.removesuffix(".class_path")
            content, source = _content(text) if option == "model" else (_parsed(text), "")
            yield from _flat(name, content, source)


def _flat(name: str, value: Any, source: str) -> Iterator[Setting]:
    """The settings that a value makes: a class, then its arguments."""
    if isinstance(value, Mapping) and ("class_path" in value or any(key in value for key in BETWEEN)):
        if "class_path" in value:
            yield Setting(name, value["class_path"], True, source)
        for key in BETWEEN:
            for argument, entry in (value.get(key) or {}).items():
                yield from _flat(f"{name}.{argument}", entry, source)
    else:
        is_class = name == "model" or name.rpartition(".")[2] in ("optimizer", "lr_scheduler")
        yield Setting(name, value, is_class and isinstance(value, str), source)


def _content(text: str) -> tuple[Any, str]:
    """The content of a file, with its name, or of a value that is written out; what cannot be read is refused later."""
    if "\n" not in text and "{" not in text and ": " not in text:
        try:
            return _parsed(Path(text).read_text(encoding="utf-8")), text
        except (OSError, ValueError):
            return _parsed(text), ""
    return _parsed(text), ""


def _parsed(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _forget(settings: dict[str, Setting], given: Setting) -> None:
    """Removes what is given again: the value itself, and what belongs to a class that is given again."""
    for name in list(settings):
        if name == given.name or name.startswith(f"{given.name}."):
            del settings[name]


def _value_at(config: Namespace, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = value.init_args if isinstance(value, Namespace) and "init_args" in value else value
        value = value.get(part) if isinstance(value, Namespace) else None
    return value


def _same(value: Any, setting: Setting) -> bool:
    if setting.is_class:
        return isinstance(value, Namespace) and _last(value.class_path) == _last(setting.value)
    if isinstance(value, bool | int | float) and isinstance(setting.value, str):
        return str(value) == setting.value
    return bool(value == setting.value)


def _arguments(kind: type) -> set[str]:
    names: set[str] = set()
    for base in kind.__mro__:
        names |= set(inspect.signature(base.__init__).parameters)  # type: ignore[misc]
    return names


def _last(name: Any) -> str:
    return str(name).rpartition(".")[2]


def _word(value: Any) -> str:
    """A value as it is written on the command line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**9).removesuffix("\n...\n").strip()
    return f"'{text}'" if any(sign in text for sign in " {}[]*$") else text
