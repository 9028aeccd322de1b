"""Mutated configurations and command lines: each is refused in one sentence, or means what it says.

    python benchmarks/fuzz_configurations.py [--count 2000] [--seed 0] [--summary FILE]

Each case takes one of the base configurations, changes one thing (a name, a type, a number, a class, the text of the
file, or an option on the command line), and passes it to `visionbench check` in this process, every twentieth to
`visionbench fit`. It fails where

- an exception leaves `main` that is not of the project (`main` catches only the project's own),
- an exit status is none of 0, 1 and 2, or nothing is said with 1 or 2,
- the exit status is 0 and the resolved configuration differs from that of the base in more than the changed option and
  what is derived from it (`DERIVED`),
- it takes longer than `LIMIT` seconds, or more memory than `MEMORY`.

A refused `fit` may leave no run folder either. The summary counts the cases by kind and outcome; failures are printed
with all that is needed to repeat them. Exit status 1 if there is one.
"""

import argparse
import collections
import contextlib
import copy
import io
import json
import random
import resource
import signal
import string
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from visionbench.cli import main as visionbench
from visionbench.config import cli
from visionbench.runs.identity import flat

LIMIT = 120
MEMORY = 8 * 2**30  # bytes that this process may take
# Options that start other processes, which would run this program.
NOT_CHANGED = ("trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.plugins", "trainer.accelerator")
# Options that follow from another one, by the beginning of its name.
DERIVED = {
    "data": ("model.init_args.num_classes", "model.init_args.input_shape"),
    "trainer.gradient_clip_val": ("model.init_args.optimizer.init_args.fused",),
    "objective": ("metrics",),
    "objective.metric": ("metrics",),
}
NUMBERS: list[Any] = [-1, 0, 1, 2, 3, 7, 1000, 10**9, 10**20, 0.0, 0.5, 1.0, 1.5, -0.5, 1e-9, 1e308]
OTHERS: list[Any] = [
    None,
    True,
    False,
    "",
    "x",
    "none",
    "3",
    "auto",
    float("nan"),
    float("inf"),
    [],
    [1],
    [0.5, "a"],
    {},
]
OTHERS += [
    {"a": 1},
    {"class_path": "x"},
    {"class_path": "MLP"},
    "[1,2",
    "../x",
    "ä€",
    "1e-3",
    "a b",
    "-5",
    [[1]],
    [None],
]
CLASSES = ["MLP", "CNN", "PatchMLP", "FrozenResNet", "Digits", "Table", "ImageFolder", "Adam", "SGD", "LBFGS", "StepLR"]
CLASSES += ["ReduceLROnPlateau", "OneCycleLR", "Classifier", "VisionDataModule", "Trainer", "os.system", "json.loads"]
CLASSES += ["visionbench.models.MLP", "torch.optim.SGD", "torch.nn.Linear", "builtins.dict", "no.such.module", "Mlp"]
# What is put into the text of a file; the last but two is no UTF-8.
PIECES = [*"\t\n:-{}[]#&*!|>'\"%@`\x00\x07é€", "\udcff", "<<: ", "? "]

KINDS = ["value in the file", "number in the file", "name in the file", "class in the file", "text of the file"]
KINDS += ["removed", "moved", "value of an option", "number of an option", "name of an option", "class of an option"]


@dataclass
class Base:
    """A configuration that is sound.

    Attributes:
        name: Name.
        config: Content of its file.
        resolved: Resolved configuration, by dotted names.
    """

    name: str
    config: dict[str, Any]
    resolved: dict[str, Any] = field(default_factory=dict)


@dataclass
class Case:
    """A mutation of a base.

    Attributes:
        kind: What was done.
        base: Base.
        text: Text of the file.
        words: Options after the file.
        changed: Dotted name of the option that was changed; `None` where the text was damaged, so that any may be.
    """

    kind: str
    base: Base
    text: str
    words: list[str]
    changed: str | None


class TooLong(BaseException):
    """A case takes too long."""


def main() -> int:
    """Runs the cases and prints the summary; 1 if one fails, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="number of cases")
    parser.add_argument("--seed", type=int, default=0, help="seed of the cases")
    parser.add_argument("--only", type=int, help="number of the one case to run")
    parser.add_argument("--summary", type=Path, help="file to write the summary to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        failures, outcomes = fuzz(arguments.count, arguments.seed, arguments.only)
    lines = [f"{sum(outcomes.values())} cases of seed {arguments.seed}, {len(failures)} failures", ""]
    lines += [f"{'what was changed':<24} {'refused':>8} {'found':>8} {'taken':>8}"]
    for kind in sorted({kind for kind, _ in outcomes}):
        counts = [outcomes[kind, status] for status in (2, 1, 0)]
        lines.append(f"{kind:<24} {counts[0]:>8,} {counts[1]:>8,} {counts[2]:>8,}")
    print("\n".join(lines))
    if arguments.summary is not None:
        arguments.summary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(bool(failures))


def fuzz(count: int, seed: int, only: int | None = None) -> tuple[list[str], collections.Counter[tuple[str, int]]]:
    """Runs cases in the working directory, which is filled with small data.

    Args:
        count: Number of cases.
        seed: Seed of the cases.
        only: Number of the one case to run.

    Returns:
        What failed, and the number of cases by kind and exit status.
    """
    found = list(bases(Path.cwd()))
    for base in found:
        status, said, base.resolved = run("check", base, yaml.safe_dump(base.config), [])
        if status:
            raise RuntimeError(f"The base {base.name} ends with {status}: {said}")
    failures: list[str] = []
    outcomes: collections.Counter[tuple[str, int]] = collections.Counter()
    for number in range(count):
        case = mutate(random.Random(f"{seed} {number}"), found)
        if only is not None and number != only:
            continue
        status, failure = judge(case, "fit" if number % 20 == 19 else "check")
        outcomes[case.kind, status] += 1
        if failure:
            failures.append(failure)
            print(f"case {number}, {case.kind} of {case.base.name}, {case.changed} {case.words}: {failure}", flush=True)
            if only is not None:
                print(case.text)
    return failures, outcomes


def judge(case: Case, command: str) -> tuple[int, str]:
    """Runs a case; gives its exit status, and what is wrong with it, or an empty text."""
    before = set(Path.cwd().rglob("version_*"))
    try:
        status, said, resolved = run(command, case.base, case.text, case.words)
    except TooLong:
        return 2, f"took longer than {LIMIT} s"
    except SystemExit as error:
        return 2, f"left by SystemExit({error.code})"
    except BaseException:  # all of them are reported: none may leave main
        return 2, traceback.format_exc()
    if status not in (0, 1, 2):
        return status, f"exit status {status}: {said}"
    if status and not said.strip():
        return status, f"exit status {status}, but nothing is said"
    if status == 2 and (left := set(Path.cwd().rglob("version_*")) - before):
        return status, f"refused, but left {left}"
    if status == 0 and case.changed is not None:
        wrong = unexplained(case.base.resolved, resolved, case.changed)
        if wrong:
            return status, f"exit status 0, but other options changed: {wrong}"
    return status, ""


def run(command: str, base: Base, text: str, words: list[str]) -> tuple[int, str, dict[str, Any]]:
    """Runs a command on a configuration; gives exit status, what was said, and the resolved configuration."""
    path = Path(f"{base.name}.yaml")
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    resolved: dict[str, Any] = {}
    original = cli._SettingsCLI.settings

    def settings(self: Any) -> Any:
        made = original(self)
        resolved.update(flat(made.config))
        return made

    def too_long(*_: object) -> None:
        raise TooLong

    cli._SettingsCLI.settings = settings  # type: ignore[method-assign]
    previous = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(LIMIT)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            status = visionbench([command, "--config", str(path), *words])
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
        cli._SettingsCLI.settings = original  # type: ignore[method-assign]
    return status, said.getvalue(), resolved


def unexplained(before: dict[str, Any], after: dict[str, Any], changed: str) -> list[str]:
    """The options that differ although they neither are the changed one nor follow from it."""
    roots = [changed, *DERIVED.get(changed, ()), "config"]
    names = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    names = [name for name in names if repr(before.get(name)) != repr(after.get(name))]  # nan is unlike itself
    return sorted(name for name in names if not any(name == root or name.startswith(f"{root}.") for root in roots))


def bases(folder: Path) -> Iterator[Base]:
    """Gives the bases, each on data that is written here."""
    root = str(folder / "data")
    trainer = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 1}
    common: dict[str, Any] = {"trainer": trainer | {"accelerator": "cpu", "devices": 1}, "seed_everything": 0}
    common |= {"figures": "none", "log_dir": "logs"}
    digits = {"class_path": "Digits", "init_args": {"root": root, "batch_size": 16, "val_size": 0.1}}
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.001, "weight_decay": 0.0}}
    plateau = {"class_path": "ReduceLROnPlateau", "init_args": {"patience": 2, "factor": 0.5}}
    mlp = {"widths": [8], "activation": "tanh", "dropout": 0.1, "optimizer": adam, "lr_scheduler": plateau}
    yield Base("mlp", copy.deepcopy(common | {"model": {"class_path": "MLP", "init_args": mlp}, "data": digits}))
    cnn = {"widths": [4], "convs": [1], "dropouts": [0.1], "dense": 8, "loss": "nll"}
    augmented = copy.deepcopy(digits)
    augmented["init_args"] |= {"augment": ["HorizontalFlip", {"class_path": "RandomCrop", "init_args": {"padding": 1}}]}
    yield Base("cnn", copy.deepcopy(common | {"model": {"class_path": "CNN", "init_args": cnn}, "data": augmented}))
    patches = {"patch_size": 4, "width": 8, "blocks": 1, "patch_hidden": 8, "feature_hidden": 8}
    yield Base(
        "patches",
        copy.deepcopy(
            common
            | {"model": {"class_path": "PatchMLP", "init_args": patches}, "data": digits}
            | {"objective": {"metric": "val/acc", "mode": "max"}, "early_stopping": {"patience": 2}}
            | {"metrics": ["macro_f1"], "checkpoint": {"every_n_steps": 1}}
        ),
    )
    rows = ["a,b,kind", *(f"{number % 13},{'xyz'[number % 3]},{['no', 'yes'][number % 2]}" for number in range(80))]
    (folder / "table.csv").write_text("\n".join(rows))
    table = {"source": str(folder / "table.csv"), "target": "kind", "root": root, "batch_size": 8}
    one = {"class_path": "MLP", "init_args": {"widths": [4], "loss": "binary_cross_entropy"}}
    yield Base("table", copy.deepcopy(common | {"model": one, "data": {"class_path": "Table", "init_args": table}}))
    from PIL import Image

    for number in range(24):
        path = folder / "images" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(path)
    files = {"source": str(folder / "images"), "size": 8, "root": root, "batch_size": 4, "folds": 3, "fold": 1}
    yield Base(
        "folder", copy.deepcopy(common | {"model": "MLP", "data": {"class_path": "ImageFolder", "init_args": files}})
    )


def mutate(draw: random.Random, found: list[Base]) -> Case:
    """Draws a case."""
    base = draw.choice(found)
    config = copy.deepcopy(base.config)
    kind = draw.choice(KINDS)
    words: list[str] = []
    changed: str | None
    given = sorted(place for place in paths(config) if ".".join(place) not in NOT_CHANGED)
    place = draw.choice(given)
    known = draw.choice(sorted(set(base.resolved) - set(NOT_CHANGED)))
    if kind in ("value in the file", "number in the file"):
        # One that the file has, or any other that there is.
        place = place if draw.random() < 0.5 else tuple(known.split("."))
        put(config, place, draw.choice(OTHERS if kind.startswith("value") else NUMBERS))
        changed = ".".join(place)
    elif kind == "name in the file":
        parent, value = take(config, place)
        parent[misspelled(str(place[-1]), draw)] = value
        changed = ".".join(place)
    elif kind == "class in the file":
        place = draw.choice([("model",), ("data",), ("model", "init_args", "optimizer"), ("trainer", "callbacks")])
        put(config, place, draw.choice([name := draw.choice(CLASSES), {"class_path": name}, {"class_path": [name]}]))
        changed = ".".join(place)
    elif kind == "removed":
        take(config, place)
        changed = None
    elif kind == "moved":
        parent, value = take(config, place)
        put(config, (*draw.choice(given)[:-1], place[-1]), value)
        changed = None
    elif kind == "text of the file":
        return Case(kind, base, damaged(yaml.safe_dump(config), draw), [], None)
    else:
        option = known.replace("init_args.", "")
        if kind == "name of an option":
            words, changed = [f"--{misspelled(option, draw)}={base.resolved[known]}"], known
        elif kind == "class of an option":
            key = draw.choice(["model", "data", "model.optimizer", "model.lr_scheduler", "data.augment"])
            words, changed = [f"--{key}={draw.choice(CLASSES)}"], key.replace(".", ".init_args.")
        else:
            value = draw.choice(OTHERS if kind.startswith("value") else NUMBERS)
            word = value if isinstance(value, str) else json.dumps(value)
            words = draw.choice([[f"--{option}={word}"], [f"--{option}", word]])
            changed = known
    return Case(kind, base, yaml.safe_dump(config), words, changed)


def paths(tree: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The places of a tree of mappings, as the keys that lead there."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        yield (*prefix, key)
        yield from paths(value, (*prefix, key))


def take(tree: dict[str, Any], place: tuple[str, ...]) -> tuple[dict[str, Any], Any]:
    """Removes what is at a place; gives the mapping that held it, and what it was."""
    for key in place[:-1]:
        tree = tree[key]
    return tree, tree.pop(place[-1])


def put(tree: dict[str, Any], place: tuple[str, ...], value: Any) -> None:
    """Puts a value at a place, for which mappings are made where there are none."""
    for key in place[:-1]:
        if isinstance(tree.get(key), str) and key in ("model", "data", "optimizer", "lr_scheduler"):
            tree[key] = {"class_path": tree[key]}  # the short form of a class without arguments
        if not isinstance(tree.get(key), dict):
            tree[key] = {}
        tree = tree[key]
    tree[place[-1]] = value


def misspelled(name: str, draw: random.Random) -> str:
    """A name with a letter left out, doubled, changed or exchanged for its neighbor."""
    place = draw.randrange(len(name))
    letter = draw.choice(string.ascii_lowercase)
    return draw.choice(
        [
            name[:place] + name[place + 1 :],
            name[:place] + name[place] + name[place:],
            name[:place] + letter + name[place + 1 :],
            name[:place] + name[place + 1 : place + 2] + name[place] + name[place + 2 :],
        ]
    )


def damaged(text: str, draw: random.Random) -> str:
    """The text of a file with some characters left out, put in, or cut off."""
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(len(text))
        end = place + draw.choice([0, 1, 1, 5])
        text = draw.choice(
            [
                text[:place] + text[end:],
                text[:place] + draw.choice(PIECES) + text[place:],
                text[: place + 1],
            ]
        )
    return text


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    sys.exit(main())
