"""Sentences about mistakes in a command line, for which nothing heavy is imported."""

import difflib
from collections.abc import Collection, Iterable


def unknown_class(key: str, name: str, known: Collection[str]) -> str:
    """The sentence about a name that is not the name of a class.

    Args:
        key: Option that names the class, such as model.
        name: Name as it was given.
        known: Names of the classes that may be given; none where they cannot be listed.
    """
    return (
        f"{key}: found {name}, which is not the name of a class{known_classes(name, known)}; give a known one, "
        "or the import path of your own, such as my_package.MyClass."
    )


def known_classes(name: str, known: Collection[str]) -> str:
    """The known names in parentheses, with the one closest to `name`; nothing where there are none.

    Args:
        name: Name as it was given.
        known: Names of the classes that may be given.
    """
    if not known:
        return ""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f" (known: {', '.join(sorted(known))}" + (f"; did you mean {close[0]}?" if close else "") + ")"


def unknown_option(option: str, known: Iterable[str]) -> str:
    """The sentence about an option that does not exist.

    Args:
        option: Option as it was given.
        known: Options of the command.
    """
    close = difflib.get_close_matches(option, list(known), n=1, cutoff=0.7)
    return f"There is no option {option}; " + (f"did you mean {close[0]}?" if close else "--help lists the options.")
