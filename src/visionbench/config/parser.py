"""The parser behind the commands: one-sentence errors, and the places where jsonargparse would be silently wrong."""

import contextlib
import difflib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jsonargparse._typehints as typehints
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from visionbench.classes import class_of
from visionbench.data.augment import Augmentation
from visionbench.data.base import VisionDataModule
from visionbench.errors import UserError
from visionbench.models.base import Classifier

Say = Callable[[str], None]

# What may be named where; a list of them helps where a name is mistyped.
BASES: dict[str, type] = {
    "model": Classifier,
    "data": VisionDataModule,
    "augment": Augmentation,
    "optimizer": Optimizer,
    "lr_scheduler": LRScheduler,
}

# jsonargparse finds two classes of this name, torch's and Lightning's, and refuses to choose.
SHORT_NAMES = {"ReduceLROnPlateau": "torch.optim.lr_scheduler.ReduceLROnPlateau"}


class Parser(LightningArgumentParser):
    """A parser whose errors are one sentence, raised instead of printed below a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises the message as a sentence.

        Raises:
            UserError: In the parser of the command line; that of a class in it raises what jsonargparse expects.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        raise UserError(_sentence(message, ex, self)) from ex


@contextlib.contextmanager
def watched_parsing(say: Say) -> Iterator[None]:
    """Parses with two gaps closed: short names that are ambiguous, and arguments that outlive their class.

    Changing only a class (`--data Digits`, `--model.optimizer SGD`) keeps the arguments of the class before it that the
    new one accepts too, and drops the others. Both are said here, and what speaks of one data set alone is dropped.

    Args:
        say: Gets a line for each class changed.
    """
    # Both functions are private to jsonargparse; tests/test_parsing.py fails when they are no longer what it calls.
    resolve: Any = typehints.resolve_class_path_by_name
    discard: Any = typehints.discard_init_args_on_class_path_change
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
            for name in specific & set(previous["init_args"].keys()):
                previous["init_args"].pop(name)
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

    typehints.resolve_class_path_by_name = resolve_with_short_names
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


def _sentence(message: str, error: BaseException | None, parser: LightningArgumentParser) -> str:
    """Turns an error of jsonargparse, often ten lines of types, into what was found and what was expected.

    The reason is in the exception that the others were raised from; the others name the keys that lead to it.
    """
    known = {string for action in parser._actions for string in action.option_strings}
    if match := re.match(r"unrecognized arguments: (\S+)", message):
        return _unknown_option(match[1].split("=")[0], known)
    if match := re.match(r"Group '(.+)' does not accept option '(.+)'", message):
        return _unknown_option(f"--{match[1]}.{match[2]}", known)
    if match := re.match(r"the following arguments are required: (\w+)", message):
        return f"No {match[1]} is given; name it with --{match[1]} NAME or in a file given by --config."
    chain: list[str] = []
    while error is not None:
        chain.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    keys = [match[1] for text in chain if (match := re.match(r'TypeError: Parser key "([^"]+)"', text))]
    key = ".".join(keys)
    reason = chain[-1].partition(": ")[2] if chain else message
    if key and (match := re.match(r"the following arguments are required: (.+?)\.?$", reason)):
        names = [f"--{key}.{name}" for name in match[1].split(", ")]
        return f"{' and '.join(names)} must be given; --{key}.help CLASS says what to give."
    if match := re.match(r"Option '(.+)' is not accepted", reason):
        if not keys:  # at the top of a file
            return _unknown_option(f"--{match[1]}", known)
        classes = re.findall(r"class_path(?:=| )'([\w.]+)'", "\n".join(chain))
        owner = class_of({"class_path": classes[-1]}) if classes else object
        if match[1] in _arguments(owner):  # of a base that the class gives another value
            return f"{owner.__name__} takes no --{key}.{match[1]}, as others do; leave it out."
        return _unknown_option(f"--{key}.{match[1]}", {f"--{key}.{name}" for name in _arguments(owner)})
    if match := re.match(r"Expected a dot import path string: (\S+)", reason):
        return (
            f"{key}: found {match[1]}, which is not the name of a class{_known(keys[-1], match[1])}; give a known one, "
            "or the import path of your own, such as my_package.MyClass."
        )
    if "is abstract" in reason and keys and keys[-1] in BASES:
        return f"{key} names no class{_known(keys[-1], '')}; give one with --{key} NAME."
    if reason.startswith("Import path"):
        return f"{key}: {reason[0].lower()}{reason[1:]}."
    # A value of several possible types was tried as each of them in turn.
    tried = chain[-2] if len(chain) > 1 and "Union subtypes" in chain[-2] else chain[-1] if chain else message
    expected = re.findall(r"Expected an? (.+?)(?:\. Got value: .*)?$", tried, flags=re.MULTILINE)
    expected = [text for text in expected if not text.startswith(("path but", "dot import"))]
    found = re.search(r"(?:Given value|Got value): (.*)", tried)
    if key and expected and found:
        return f"{key}: found {found[1]}, expected {' or '.join(dict.fromkeys(map(_type_name, expected)))}."
    return re.sub(r"\s*\n\s*(- )?", " ", f"{key}: {reason}" if key else message).strip().rstrip(".") + "."


def _type_name(text: str) -> str:
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text).replace("typing.", "")
    if match := re.match(r"Literal\[(.*)\]", text):
        return "one of " + match[1].replace("'", "")
    return {"NoneType": "null", "bool": "true or false"}.get(text, text)


def _known(key: str, name: str) -> str:
    if key not in BASES:
        return ""
    names = sorted({path.rsplit(".", 1)[-1] for path in typehints.get_all_subclass_paths(BASES[key])})
    close = difflib.get_close_matches(name, names, n=1)
    return f" (known: {', '.join(names)}" + (f"; did you mean {close[0]}?" if close else "") + ")"


def _unknown_option(option: str, known: set[str]) -> str:
    if option == "--data.allow":  # of versions in which it was an argument of the data set
        return "There is no option --data.allow any more; use --allow '[test_as_validation]'."
    close = difflib.get_close_matches(option, known, n=1, cutoff=0.7)
    return f"There is no option {option}; " + (f"did you mean {close[0]}?" if close else "--help lists the options.")


def _arguments(kind: type) -> set[str]:
    """The names that a class takes, with those of its base where it hands on `**kwargs`."""
    names: set[str] = set()
    for base in kind.__mro__:
        parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if all(p.kind != p.VAR_KEYWORD for p in parameters):
            break
    return names - {"self"}
