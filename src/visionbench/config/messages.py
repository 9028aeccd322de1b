"""Sentences about mistakes in a command line, for which nothing heavy is imported."""

import difflib
from collections.abc import Collection, Iterable
from pathlib import Path

# Options that other versions had, with what replaced them.
REPLACED = {"--data.allow": "--allow '[test_as_validation]'"}

# Least likeness of the names of two options, from 0 to 1, for one to be a slip of the other.
LIKE = 0.6
# Least likeness for a slip to be likelier than an option of the same last name in another group.
VERY_LIKE = 0.8

# Names by which other programs call an option.
OTHER_NAMES = {
    "epochs": "--trainer.max_epochs",
    "num_epochs": "--trainer.max_epochs",
    "learning_rate": "--model.optimizer.lr",
    "seed": "--seed_everything",
    "gpus": "--trainer.devices",
    "device": "--trainer.accelerator",
    "batchsize": "--data.batch_size",
    "output_dir": "--run_dir",
    "num_workers": "--data.workers",
    "scheduler": "--model.lr_scheduler",
    "source": "--data.source",
    "target": "--data.target",
}


def unknown_class(key: str, name: str, known: Collection[str]) -> str:
    """The sentence about a name that is not the name of a class.

    Args:
        key: Option that names the class, such as model.
        name: Name as it was given.
        known: Names of the classes that may be given; none where they cannot be listed.
    """
    return f"{key}.class_path: there is no class {name}{known_classes(name, known)}"


def known_classes(name: str, known: Collection[str], base: str = "") -> str:
    """The end of a sentence about a class that does not exist: the known ones, and the one that is most like it.

    Args:
        name: Name as it was given.
        known: Names of the classes that may be given; none where they cannot be listed.
        base: Class that they are subclasses of, where the class that was given is none.
    """
    import_path = f"the import path of a {f'subclass of {base}' if base else 'class'}, such as my_package.MyClass."
    if not known:
        return f"; give {import_path}"
    alike = [other for other in sorted(known) if other.lower() == name.lower()]
    close = alike or difflib.get_close_matches(name, sorted(known), n=1)
    ending = f"did you mean {close[0]}?" if close else f"give one of these, or {import_path}"
    return f"; known: {', '.join(sorted(known))}; {ending}"


def no_value(option: str) -> str:
    """The sentence about an option that nothing follows, or that another option follows.

    Args:
        option: Option as it was given.
    """
    return f"{option} has no value; give one after it, or {option}=VALUE where the value begins with -."


def missing_file(key: str, path: str) -> str:
    """The sentence about a file that does not exist.

    Args:
        key: Option that names the file.
        path: Path as it was given.
    """
    asked = Path(path)
    # glob finds nothing in a folder that is not there or cannot be read.
    found = [file for folder in (asked.parent / "configs", asked.parent) for file in folder.glob("*")]
    files = {file.name: file for file in found if file.suffix == asked.suffix}
    close = difflib.get_close_matches(asked.name, sorted(files), n=1, cutoff=0.7)
    ending = f"did you mean {files[close[0]]}?" if close else "give the path of a file that exists."
    return f"{key}: the file {path} does not exist; {ending}"


def unknown_option(option: str, known: Iterable[str], elsewhere: Iterable[str] = ()) -> str:
    """The sentence about an option that does not exist.

    Args:
        option: Option as it was given.
        known: Options of the command, or of the class, in which it was looked for.
        elsewhere: Options of other groups, one of which may be meant where it has the same last name.
    """
    if option in REPLACED:
        return f"There is no option {option} any more; use {REPLACED[option]}."
    known, last = list(known), _last_name(option)
    close = difflib.get_close_matches(option, known, n=1, cutoff=0.7)
    # Options of one group have the name of the group in common; only the last names tell them apart.
    likeness = difflib.SequenceMatcher(None, last, _last_name(close[0])).ratio() if close else 0.0
    same = OTHER_NAMES.get(last) or next((name for name in elsewhere if _last_name(name) == last), None)
    meant = close[0] if likeness >= VERY_LIKE or (likeness >= LIKE and same is None) else same
    if meant is None or meant == option:
        return f"There is no option {option}; --help lists the options."
    return f"There is no option {option}; did you mean {meant}?"


def _last_name(option: str) -> str:
    return option.rpartition(".")[2].lstrip("-")
