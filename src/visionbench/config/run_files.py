"""Files of settings, read before the parser reads them: for mistakes that it takes, or names by no file and line."""

import codecs
import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from visionbench.config.messages import missing_file
from visionbench.data import DATA_SETS
from visionbench.errors import UserError
from visionbench.models import MODELS
from visionbench.text import one_line

# Groups of options, each of which is a mapping in a file, with one of their options.
GROUPS = {
    "trainer": "max_epochs",
    "objective": "metric",
    "early_stopping": "patience",
    "checkpoint": "every_n_steps",
}
# Options that name a class; a file of settings may stand for the name.
CLASSES = ("model", "data", "model.optimizer", "model.lr_scheduler")
# Endings of the names of files of settings, by which a missing file is told from a name.
SUFFIXES = (".yaml", ".yml", ".json")

# Tag of a text in YAML; a key of another kind is none of an option.
TEXT = "tag:yaml.org,2002:str"

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
ENCODINGS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


def with_file_named(words: Sequence[str]) -> list[str]:
    """Puts `--config` before a file of settings that stands first.

    Args:
        words: Options of a command.

    Raises:
        UserError: A model or a data set stands there instead.
    """
    if not words or words[0].startswith("-"):
        return list(words)
    for option, kind, known in (("model", "a model", MODELS), ("data", "a data set", DATA_SETS)):
        if words[0] in known and not Path(words[0]).exists():
            raise UserError(f"{words[0]} is {kind}, not a file of settings; write --{option} {words[0]}.")
    return ["--config", *words]


def check_files(words: Sequence[str]) -> None:
    """Refuses files of settings, and settings that are written out, which cannot be read as they are meant.

    Args:
        words: Options of a command.

    Raises:
        UserError: A file does not exist, is no UTF-8 text or no YAML, is empty, or gives an option twice.
    """
    for option, value in file_options(words):
        if not value or value.startswith("--"):  # nothing, or the next option
            raise UserError(f"--{option} has no value; give a file or a name, or leave it out.")
        if is_settings(value):
            check_text(value, f"--{option}", is_run=option == "config", is_file=False)
        elif option in ("config", *GROUPS) or (option in CLASSES and value.endswith(SUFFIXES)):
            if option in GROUPS and value == "null":  # which the parser refuses
                continue
            if not os.path.lexists(value):
                raise UserError(missing_file(option, value))
            check_text(read_text(Path(value)), value, is_run=option == "config")
        elif option in CLASSES and value.endswith(".py"):
            module = value.removesuffix(".py").removeprefix("./").replace("/", ".")
            raise UserError(
                f"--{option} is {value}, expected the name of a class in it: --{option} {module}.NAME, started in the "
                "folder that the module is imported from."
            )
        elif option in CLASSES and Path(value).is_file():
            check_text(read_text(Path(value)), value)


def is_settings(value: str) -> bool:
    """Whether the value of an option is settings themselves, not the name of a file or a class."""
    return "{" in value or ": " in value or "\n" in value


def file_options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The options whose values may be files of settings, each with its value.

    Args:
        words: Options of a command.
    """
    known = ("config", *GROUPS, *CLASSES)
    for word, following in zip(words, [*words[1:], None], strict=False):
        option, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and option in known:
            if equals:
                yield option, value
            elif following is not None:
                yield option, following


def read_text(path: Path) -> str:
    """The text of a file of settings.

    Args:
        path: Path of the file.

    Raises:
        UserError: The file cannot be read, or is not UTF-8 text.
    """
    try:
        content = path.read_bytes()
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; give a file of settings.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a file that can be read.") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        looks_like = next((f", but {encoding}" for mark, encoding in ENCODINGS.items() if content.startswith(mark)), "")
        raise UserError(f"{path} is not UTF-8 text{looks_like} (line {line}); save it as UTF-8.") from error


def check_text(text: str, name: str, is_run: bool = False, is_file: bool = True) -> None:
    """Refuses settings that are no YAML, that name no option, or that give one twice.

    Args:
        text: Settings as YAML.
        name: Name of the file, or of the option whose value they are.
        is_run: Whether the settings are those of a run, with groups at the top.
        is_file: Whether the settings are a file, whose lines can be named.

    Raises:
        UserError: The settings are refused.
    """
    try:
        node = yaml.compose(text, Loader=Loader)
        with contextlib.suppress(ValueError):  # of a date that is none, which is a text to the parser
            yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise UserError(yaml_mistake(error, text, name, is_file)) from error
    if node is None or (isinstance(node, yaml.ScalarNode) and not node.value):
        raise UserError(f"{name} is empty, or all of its lines are comments; write options in it, or leave it out.")
    if not isinstance(node, yaml.MappingNode):
        if not is_file:  # which the parser refuses
            return
        found = "a list" if isinstance(node, yaml.SequenceNode) else f"the text {node.value[:40]!r}"
        place = _place(name, node.start_mark.line + 1, is_file)
        raise UserError(f"{place}: found {found}, expected options with their values, such as max_epochs: 3.")
    if is_run and is_file and {"stages", "base"} <= {key.value for key, _ in node.value}:
        raise UserError(f"{name} is a study file, expected a run file; visionbench study run {name} trains its runs.")
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag != TEXT:
            found = key.value if isinstance(key, yaml.ScalarNode) else "a list or a mapping"
            place = _place(name, key.start_mark.line + 1, is_file)
            raise UserError(f"{place}: found {found} as a key, expected the name of an option.")
    _refuse_twice(node, name, is_file)
    if is_run:
        _refuse_empty_groups(node, name, is_file)


def yaml_mistake(error: yaml.YAMLError, text: str, name: str, is_file: bool = True) -> str:
    """The sentence about a text that is no YAML.

    Args:
        error: Error of PyYAML.
        text: The text.
        name: Name of the file, or of the option whose value the text is.
        is_file: Whether the text is a file, whose lines can be named.
    """
    return f"{_place(name, _line_of(error, text), is_file)}: {_problem(error, text)}; correct the line."


def _refuse_twice(root: yaml.MappingNode, name: str, is_file: bool) -> None:
    """Refuses a key that a mapping has twice: of two, YAML takes the last one without a word."""
    waiting: list[tuple[str, yaml.Node]] = [("", root)]
    seen: set[int] = set()  # nodes, since one with a name may stand in many places
    while waiting:
        prefix, node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += [(prefix, entry) for entry in node.value]
        if not isinstance(node, yaml.MappingNode):
            continue
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (first := lines.get((key.tag, key.value))) is not None:
                    second = key.start_mark.line + 1
                    where = f" (line {first})" if second == first else f" (lines {first} and {second})"
                    raise UserError(
                        f"{name}: {prefix}{key.value} is given twice{where if is_file else ''}; join the two into one."
                    )
                lines[key.tag, key.value] = key.start_mark.line + 1
                waiting.append((f"{prefix}{key.value}.", value))


def _refuse_empty_groups(root: yaml.MappingNode, name: str, is_file: bool) -> None:
    """Refuses a group with nothing under it, such as one whose options are all comments."""
    for key, value in root.value:
        is_null = isinstance(value, yaml.ScalarNode) and value.tag == "tag:yaml.org,2002:null"
        if is_null and key.value in (*GROUPS, "model", "data"):
            place = _place(name, key.start_mark.line + 1, is_file)
            example = f"an option there, such as {GROUPS[key.value]}," if key.value in GROUPS else "the name of a class"
            raise UserError(f"{place}: {key.value} has nothing under it; write {example} or remove {key.value}.")


def _place(name: str, line: int | None, is_file: bool) -> str:
    return f"{name}, line {line}" if is_file and line is not None else name


def _line_of(error: yaml.YAMLError, text: str) -> int | None:
    """The line, from 1, in which reading ended."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return int(error.problem_mark.line) + 1
    if isinstance(error, yaml.reader.ReaderError):
        return text.count("\n", 0, error.position) + 1
    return None


def _problem(error: yaml.YAMLError, text: str) -> str:
    """What is wrong, in few words."""
    if isinstance(error, yaml.reader.ReaderError):
        return "a character that no text has"
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    if problem is None or mark is None:
        return f"this is no YAML ({one_line(error).rstrip('.')})"
    if "cannot start any token" in problem:
        character = text.splitlines()[mark.line][mark.column]
        return (
            "a tab, where YAML takes blanks only"
            if character == "\t"
            else f"a value that begins with {character} has to be quoted"
        )
    return f"this is no YAML ({problem.removeprefix('but ')})"
