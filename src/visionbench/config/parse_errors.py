"""jsonargparse's errors as sentences: what was found, what was expected, what to do."""

import difflib
import inspect
import re
import sys
import textwrap
import traceback
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

import jsonargparse._typehints as typehints
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from visionbench.classes import class_of
from visionbench.config.messages import known_classes, missing_file, unknown_option
from visionbench.data.augment import Augmentation
from visionbench.data.base import VisionDataModule
from visionbench.errors import causes, root_cause
from visionbench.models.base import Classifier
from visionbench.text import one_line

# Base of the classes that each key takes, for the list of known ones.
BASES: dict[str, type] = {
    "model": Classifier,
    "data": VisionDataModule,
    "augment": Augmentation,
    "optimizer": Optimizer,
    "lr_scheduler": LRScheduler,
}
# Types of Python as a message calls them.
TYPES = {
    "NoneType": "null",
    "bool": "true or false",
    "int": "an integer",
    "float": "a number",
    "str": "a text",
    "list": "a list",
    "dict": "a mapping",
}
# Similarity from which a name is taken for a slip of the pen, `width` for `widths`, rather than another class's option.
SLIP = 0.9


def sentence(message: str, error: BaseException | None, options: Set[str]) -> str:
    """Turns an error of jsonargparse, often ten lines of types, into one sentence.

    The reason is in the exception that the others were raised from; the others name the keys that lead to it.

    Args:
        message: Message of the parser.
        error: Exception behind the message.
        options: Options of the parser.
    """
    if match := re.match(r"unrecognized arguments: (\S+)", message):
        if not match[1].startswith("-"):
            return (
                f"{match[1]} belongs to no option; write several values as a list, '[..., {match[1]}]', and give a "
                "file of settings with --config."
            )
        return unknown_option(match[1].split("=")[0], options, _elsewhere(options))
    if match := re.match(r"Group '(.+)' does not accept option '(.+)'", message):
        return unknown_option(f"--{match[1]}.{match[2]}", options, _elsewhere(options))
    if match := re.match(r"the following arguments are required: (\w+)", message):
        return f"No {match[1]} is given; name it with --{match[1]} NAME or in a file given by --config."
    if match := re.match(r"--([\w.]+)\.help: (.+)", message):
        return _unknown_class(match[1].split("."), match[2]) or f"--{match[1]}.help: {match[2].rstrip('.')}."
    chain = [f"{type(cause).__name__}: {cause}" for cause in causes(error)]
    named_keys = (re.match(r'TypeError: (?:Parser key "([^"]+)"|--([\w.]+)\.help: )', text) for text in chain)
    keys = [match[1] or match[2] for match in named_keys if match is not None]
    key = ".".join(keys)
    reason = chain[-1].partition(": ")[2] if chain else message
    if key and (match := re.match(r"the following arguments are required: (.+?)\.?$", reason)):
        names = [f"--{key}.{name}" for name in match[1].split(", ")]
        return f"{' and '.join(names)} must be given; --{key}.help NAME lists the options of a class."
    if match := re.match(r"Option '(.+)' is not accepted", reason):
        if not keys:  # at the top of a file
            return unknown_option(f"--{match[1]}", options, _elsewhere(options))
        named = re.findall(r"class_path(?:=| )'([\w.]+\.\w+)'", "\n".join(chain))
        owner = class_of({"class_path": named[-1]}) if named else object
        if key == "data" and not getattr(owner, "from_command_line", True):  # such an option is in config.yaml
            return (
                f"The data set is {owner.__name__}, whose samples were in the memory of a Python program, so that no "
                "command can make them again; call visionbench.fit there, or predict and export with a folder or files."
            )
        if match[1] in _arguments(owner):  # which the class sets itself, so that it cannot be given
            return f"{owner.__name__} has no option --{key}.{match[1]}, although other classes have it; remove it."
        others = [kind.__name__ for kind in classes(keys[-1]) if match[1] in _arguments(kind)]
        # `width` of an MLP is a slip for its `widths`, although another class has a `width`.
        is_slip = bool(difflib.get_close_matches(match[1], _arguments(owner), cutoff=SLIP))
        if others and owner is not object and not is_slip:
            listed = [*sorted(others)[:3], "others"] if len(others) > 3 else sorted(others)
            few = " and ".join(text for text in (", ".join(listed[:-1]), listed[-1]) if text)
            have = "has" if len(others) == 1 else "have"
            return f"{owner.__name__} has no option --{key}.{match[1]}, which {few} {have}; remove it."
        known = {f"--{key}.{name}" for name in _arguments(owner)}
        return unknown_option(f"--{key}.{match[1]}", known, _elsewhere(options))
    if keys and (match := re.match(r"unrecognized arguments: --([\w.]+)", reason)):
        option, base = f"--{key}.{match[1]}", BASES.get(keys[-1], object)
        if match[1].partition(".")[0] in _arguments(base):  # of a class that does not hand on what its base takes
            return (
                f"The class of {key} has no option {option}, which its base {base.__name__} has; let its __init__ take "
                "**kwargs, and pass them on to super().__init__."
            )
        return unknown_option(option, {f"--{key}.{name}" for name in _arguments(base)}, _elsewhere(options))
    if match := re.search(r"File does not exist: '?([^']+?)'?$", reason):
        return missing_file(key or "config", match[1])
    if keys and error is not None and (mistake := _mistake_in_module(root_cause(error))) is not None:
        return f"{key}: the module of the class cannot be imported ({mistake}); correct the module."
    if keys and keys[-1] in BASES and "is abstract" in reason:
        given = (re.findall(r"Given value: (.+)$", "\n".join(chain), re.MULTILINE) or [""])[-1]
        if given.startswith("NestedArg("):
            return f"No {key} is given; name it with --{key} NAME or in a file given by --config."
        if given.startswith(("{", "Namespace(")) and BASES[keys[-1]].__name__ not in given:
            short = textwrap.shorten(given.removeprefix("Namespace"), 80, placeholder=" ...")
            return (
                f"{key}: found {short}, expected the "
                f"name of a class with its options, as in {key}: {{class_path: NAME, init_args: {{OPTION: VALUE}}}}."
            )
    if keys and (text := _unknown_class(keys, reason)) is not None:
        return text
    # A value of several possible types was tried as each of them in turn.
    tried = chain[-2] if len(chain) > 1 and "Union subtypes" in chain[-2] else chain[-1] if chain else message
    expected = re.findall(r"Expected an? (.+?)(?:\. Got value: .*)?$", tried, flags=re.MULTILINE)
    expected = [text for text in expected if not text.startswith(("path but", "dot import"))]
    value = re.search(r"(?:Given value|Got value): (.*)", tried)
    if value and (match := re.match(r"Namespace\(class_path='(?:\w+\.)*(\w+)'", value[1])):
        found = match[1]  # a class that was found, where a list of them was expected
    else:
        found = "null" if value and value[1] == "None" else value[1] if value else ""
    if key and keys[-1] == "augment" and re.fullmatch(r"[A-Za-z_][\w.]*", found) and found != "null":
        return f"{key}: found {found}, expected a list; write it in brackets and quotes, {_as_list(found)}."
    if key and keys[-1] in BASES and value:
        # The options of an optimizer are asked for, but it is not known yet of which model.
        if match := re.match(r"NestedArg\(key='((?:\w+\.)*help)'", value[1]):
            return f"Give --{key} NAME or --config FILE before --{key}.{match[1]}."
        return f"{key}: found {value[1]}, expected the name of a class{_known(keys[-1], value[1])}"
    if key and expected and value:
        names = list(dict.fromkeys(map(_type_name, expected)))
        if "a number" in names and "an integer" in names:
            names.remove("an integer")
        if key == "seed_everything":  # true is refused, although LightningCLI takes it
            names.remove("true or false")
        choices = [name.removeprefix("one of ") for name in names if name.startswith("one of ")]
        if len(choices) > 1:
            others_than_choices = [name for name in names if not name.startswith("one of ")]
            names = [f"one of {', '.join(dict.fromkeys(', '.join(choices).split(', ')))}", *others_than_choices]
        ending = ""
        if "a number" in names and re.fullmatch(r"-?\d+,\d+", found):
            ending = f"; write it with a point, {found.replace(',', '.')}"
        elif "a list" in names and found != "null":
            ending = f"; write it in brackets and quotes, {_as_list(found)}"
        elif "a mapping" in names and found != "null":
            ending = "; write it in braces and quotes, '{NAME: VALUE}'"
        return f"{key}: found {found}, expected {' or '.join(names)}{ending}."
    return re.sub(r"\s*\n\s*(- )?", " ", f"{key}: {reason}" if key else message).strip().rstrip(".") + "."


def _unknown_class(keys: list[str], reason: str) -> str | None:
    """The sentence about a class that does not exist or cannot be used; `None` for another reason."""
    # The entries of a list have no key of their own.
    place = ".".join(keys) if keys[-1] == "augment" or keys[-1] not in BASES else f"{'.'.join(keys)}.class_path"
    if match := re.match(r"Expected a dot import path string: (\S+)", reason):
        return f"{place}: there is no class {match[1]}{_known(keys[-1], match[1])}"
    if match := re.match(r"No module named '(.+)'", reason):
        looked = f"there is no module {match[1]}, neither in the folder you are in nor among the installed ones"
        return f"{place}: {looked}{_known(keys[-1], match[1])}"
    if match := re.match(r"module '(.+)' has no attribute '(.+)'", reason):
        if (path := _in_submodule(match[1], match[2])) is not None:
            return f"{place}: there is no class {match[2]} in {match[1]}; did you mean {path}?"
        return f"{place}: there is no class {match[2]} in {match[1]}{_known(keys[-1], match[2])}"
    if match := re.match(r"Import path '?(\S+?)'? does not correspond to a subclass of (\w+)", reason):
        base = _public(match[2])
        return f"{place}: {match[1]} is not a subclass of {base}{_known(keys[-1], '', base)}"
    if match := re.match(r"Expected '(\S+)' to be a subclass of <class '(?:\w+\.)*(\w+)'>", reason):
        base = _public(match[2])
        return f"{place}: {match[1]} is not a subclass of {base}{_known(keys[-1], '', base)}"
    if "is abstract" in reason and keys[-1] in BASES:
        return f"{place}: {BASES[keys[-1]].__name__} is only the base of the classes{_known(keys[-1], '')}"
    return None


def _mistake_in_module(error: BaseException) -> str | None:
    """What a user's own module raises while it is imported, and where; `None` for any other exception."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{Path(error.filename).name}, line {error.lineno}: {error.msg}"
    places = [place for place in traceback.extract_tb(error.__traceback__) if place.name == "<module>"]
    if not places:
        return None
    return f"{Path(places[-1].filename).name}, line {places[-1].lineno}: {type(error).__name__}: {one_line(error)[:-1]}"


def _in_submodule(package: str, name: str) -> str | None:
    """Import path of a class that a module of a package defines, without importing that module; `None` without one."""
    for folder in map(Path, getattr(sys.modules.get(package), "__path__", ())):
        for file in sorted(folder.rglob("*.py")):
            if re.search(
                rf"^class {re.escape(name)}\b", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE
            ):
                parts = file.relative_to(folder).with_suffix("").parts
                return ".".join([package, *(part for part in parts if part != "__init__"), name])
    return None


def _as_list(found: str) -> str:
    """Values that were not written as a list, as one."""
    words = re.split(r"[\s,;]+", found.strip("()[]{} "))
    return f"'[{', '.join(words)}]'" if len(words) > 1 else f"'[{words[0]}]', or '[{words[0]}, ...]' for several"


def _type_name(text: str) -> str:
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text).replace("typing.", "")
    if match := re.match(r"Literal\[(.*)\]", text):
        return "one of " + match[1].replace("'", "")
    return TYPES.get(text, text)


def _public(base: str) -> str:
    """A base class with the module that a user's own class imports it from, where it is the package's."""
    places = {"Classifier": "visionbench.models", "VisionDataModule": "visionbench.data"}
    return f"{places[base]}.{base}" if base in places else base


def _known(key: str, name: str, base: str = "") -> str:
    """The end of a sentence about a class that does not exist: the known ones, and the one that is most like it."""
    return known_classes(name, {kind.__name__ for kind in classes(key)}, base)


def classes(key: str) -> set[type]:
    """The classes that a key takes; none where they are not known."""
    if key not in BASES:
        return set()
    paths: Iterable[str] = typehints.get_all_subclass_paths(BASES[key])
    found = set()
    for path in paths:
        module, _, last = path.rpartition(".")
        kind = getattr(sys.modules.get(module), last, None)  # Lightning makes classes that no module holds
        if kind is not None and kind is not BASES[key] and getattr(kind, "from_command_line", True):
            found.add(kind)
    return found


def _elsewhere(options: Set[str]) -> Iterator[str]:
    """Options that a slip in the name of the group may mean, the likeliest first."""
    groups: tuple[tuple[str, type], ...] = (
        ("model", Classifier),
        ("data", VisionDataModule),
        ("model.optimizer", Adam),
        ("model.optimizer", SGD),
        ("model.lr_scheduler", ReduceLROnPlateau),
    )
    for group, kind in groups:
        for name in sorted(_arguments(kind) - {"params", "optimizer"}):
            yield f"--{group}.{name}"
    yield from sorted(options)


def _arguments(kind: type) -> set[str]:
    """The names that a class takes, with those of its base where it hands on `**kwargs`."""
    names: set[str] = set()
    for base in kind.__mro__:
        parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if all(p.kind != p.VAR_KEYWORD for p in parameters):
            break
    return names - {"self"}
