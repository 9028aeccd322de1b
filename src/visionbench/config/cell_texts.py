"""Names of columns and texts of cells in a configuration, as they are written.

YAML reads `no` as false, `010` as 8 and `12:30` as 750, so that the cells and columns of a table could not be named.
The options below therefore keep the text of each value, in files and on the command line.
"""

import json
import re
from typing import Any

import yaml
from jsonargparse import _loaders_dumpers, _typehints, set_loader
from yaml import MappingNode, Node, ScalarNode, SequenceNode

from visionbench.errors import UserError
from visionbench.text import option, quoted

NAMES = ("numeric", "categorical", "ignore")  # lists of names
VALUES = "missing"  # texts of cells by name
TEXTS = ("target", "source", "root")  # one text
TEXT = "tag:yaml.org,2002:str"
NUMBERS = {"tag:yaml.org,2002:int": int, "tag:yaml.org,2002:float": float}

# Private names of jsonargparse; tests/data/test_table_texts.py fails when they are no longer what it calls.
_typing: Any = _typehints
_loading: Any = _loaders_dumpers
_PAIR = re.compile(r"((?<!\\)(?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})")
_parse_value_or_config = _typing.parse_value_or_config


class _Loader(_loading.get_yaml_default_loader()):  # type: ignore[misc]
    """The loader of jsonargparse, but with the texts of tables.

    Args:
        text: YAML text.
        name: Option that the text is the value of; empty for a configuration, or the value of another option.
    """

    def __init__(self, text: str, name: str = "") -> None:
        # JSON writes a character such as an emoji as two escapes, which YAML does not read.
        self.text, self.name = _PAIR.sub(lambda pair: pair[1] + json.loads(f'"{pair[2]}"'), text), name
        super().__init__(self.text)

    def get_single_node(self) -> Node | None:
        """The syntax tree of the document."""
        node: Node | None = super().get_single_node()
        if node is not None:
            if self.name:
                return _as_written(node, self.name, self.text)
            _keep_texts(node, self.text)
        return node


def _keep_texts(node: Node, text: str) -> None:
    """Keeps the texts of a configuration, of the settings of a class, or of its arguments."""
    for place, (key, value) in enumerate(node.value if isinstance(node, MappingNode) else ()):
        if key.value in ("data", "init_args"):
            _keep_texts(value, text)
        elif key.value in (*NAMES, VALUES, *TEXTS):
            node.value[place] = (key, _as_written(value, key.value, text))


def _as_written(node: Node, name: str, text: str) -> Node:
    """The value of one of the options, in which each scalar is a text.

    Raises:
        UserError: A text is empty, or the name of a column is given twice.
    """
    if _is_null(node):
        return node
    if isinstance(node, ScalarNode) and name != VALUES:
        return ScalarNode(TEXT, node.value)
    if name in NAMES and isinstance(node, SequenceNode):
        node.value = [_text(each, name, text) for each in node.value]
    if name == VALUES and isinstance(node, MappingNode):
        pairs = [(_text(key, name, text), value) for key, value in node.value]
        names = [key.value for key, _ in pairs]
        for column in names:
            if names.count(column) > 1:
                raise UserError(
                    f"data.missing gives column {quoted(column)} {names.count(column)} times; give all its values in "
                    f"one list, as in {option('data.missing', {column: ['value', 'other value']})}."
                )
        for _, value in pairs:
            if isinstance(value, SequenceNode):
                value.value = [_text(each, name, text, numbers=True) for each in value.value]
        node.value = [
            (key, value if isinstance(value, SequenceNode) else _text(value, name, text, numbers=True))
            for key, value in pairs
        ]
    return node


def _is_null(node: Node) -> bool:
    """Whether the whole value is null, which stands for no value."""
    return isinstance(node, ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _text(node: Node, name: str, text: str, numbers: bool = False) -> ScalarNode:
    """A scalar with the text as it is written; with `numbers`, a number that is written as usual stays one."""
    if isinstance(node, ScalarNode) and node.style and node.style in "'\"|>":
        return ScalarNode(TEXT, node.value)
    written = text[node.start_mark.index : node.end_mark.index].strip()
    if not written:
        example: Any = {"column": "value"} if name == VALUES else ["column"]
        raise UserError(
            f"data.{name} has an empty entry in line {node.start_mark.line + 1}, expected a text; put each text in "
            f"quotes, as in {option(f'data.{name}', example)}, also one that is empty or begins with #."
        )
    kind = NUMBERS.get(node.tag)
    if numbers and kind is not None:
        try:
            if str(kind(written)) == written:
                return node
        except ValueError:
            pass
    return ScalarNode(TEXT, written)


def _load(text: str) -> Any:
    """Loads a YAML text as jsonargparse does, but with the texts of tables."""
    if not any(name in text for name in (*NAMES, VALUES, *TEXTS)) and not _PAIR.search(text):
        return _loading.yaml_load(text)
    return yaml.load(text, Loader=_Loader)


def _parse(value: Any, enable_path: bool = True, simple_types: bool = False) -> Any:
    """Parses the value of an option; one of a table keeps its texts.

    Raises:
        UserError: The value of such an option is no YAML.
    """
    if not isinstance(value, _typing.NestedArg) or not isinstance(value.val, str):
        return _parse_value_or_config(value, enable_path, simple_types)
    name = value.key.rpartition(".")[2].rstrip("+")
    if name in TEXTS:
        return value, None
    if name not in (*NAMES, VALUES):
        return _parse_value_or_config(value, enable_path, simple_types)
    loader = _Loader(value.val, name)
    try:
        content = loader.get_single_data()
        if value.key.endswith("+") and not isinstance(content, list):
            content = [value.val]  # one name to append
        return _typing.NestedArg(value.key, content), None
    except yaml.YAMLError as error:
        example: Any = {"column": "value"} if name == VALUES else ["column"]
        raise UserError(
            f"data.{name}: {quoted(value.val)} cannot be read ({getattr(error, 'problem', None) or error}); put each "
            f"text in quotes, as in {option(f'data.{name}', example)}."
        ) from error
    finally:
        loader.dispose()


set_loader("yaml", _load, exceptions=(yaml.YAMLError,))
_typing.parse_value_or_config = _parse
