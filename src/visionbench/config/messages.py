"""Sentences about mistakes in a command line, for which nothing heavy is imported."""

import difflib
from collections.abc import Collection, Iterable

# Options that other versions had, with what replaced them.
REPLACED = {"--data.allow": "--allow '[test_as_validation]'"}

# Least likeness of the names of two options, from 0 to 1, for one to be a slip of the other.
LIKE = 0.6


def unknown_class(key: str, name: str, known: Collection[str]) -> str:
    """The sentence about a name that is not the name of a class.

    Args:
        key: Option that names the class, such as model.
        name: Name as it was given.
        known: Names of the classes that may be given; none where they cannot be listed.
    """
    return f"{key}.class_path: there is no class {name}{known_classes(name, known)}"


def known_classes(name: str, known: Collection[str]) -> str:
    """The end of a sentence about a class that does not exist: the known ones, and the one that is most like it.

    Args:
        name: Name as it was given.
        known: Names of the classes that may be given; none where they cannot be listed.
    """
    import_path = "the import path of a class, such as my_package.MyClass."
    if not known:
        return f"; give {import_path}"
    close = difflib.get_close_matches(name, sorted(known), n=1)
    ending = f"did you mean {close[0]}?" if close else f"give one of these, or {import_path}"
    return f"; known: {', '.join(sorted(known))}; {ending}"


def missing_file(key: str, path: str) -> str:
    """The sentence about a file that does not exist.

    Args:
        key: Option that names the file.
        path: Path as it was given.
    """
    return f"{key}: there is no file {path}; give the path of a file that exists."


def unknown_option(option: str, known: Iterable[str]) -> str:
    """The sentence about an option that does not exist.

    Args:
        option: Option as it was given.
        known: Options of the command.
    """
    if option in REPLACED:
        return f"There is no option {option} any more; use {REPLACED[option]}."
    close = difflib.get_close_matches(option, list(known), n=1, cutoff=0.7)
    # Options of one group have the name of the group in common; only the last names tell them apart.
    if close and difflib.SequenceMatcher(None, _last_name(option), _last_name(close[0])).ratio() >= LIKE:
        return f"There is no option {option}; did you mean {close[0]}?"
    return f"There is no option {option}; --help lists the options."


def _last_name(option: str) -> str:
    return option.rpartition(".")[2].lstrip("-")
