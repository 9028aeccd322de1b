"""CONTRIBUTING's lists of what a new model, data set, metric, guard, callback and command touch are enough."""

import importlib
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import visionbench.data
import visionbench.models
from visionbench.data import VisionDataModule
from visionbench.models import Classifier

ROOT = Path(__file__).parents[1]
NUMBERS = {"Two": 2, "Three": 3, "Four": 4, "Five": 5}


def steps(title: str) -> list[tuple[str, list[str]]]:
    """The numbered steps of a section, each with the files that it names."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition(f"\n## Add a {title}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\d+\. (.*?)(?=^\d+\. |\Z)", section, flags=re.MULTILINE | re.DOTALL)
    return [(step, re.findall(r"`([\w/]+\.(?:py|yaml|md))`", step)) for step in found]


def files(title: str) -> list[str]:
    return [file for _, named in steps(title) for file in named]


def stated_number(title: str) -> int:
    """The number of files that a section says it touches."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return NUMBERS[re.findall(rf"\n## Add a {title}\n\n(\w+) files:\n", text)[0]]


def concrete(package, base) -> dict[str, type]:
    """Every class of the package's modules that can be chosen, by its name."""
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        for name, value in vars(importlib.import_module(f"{package.__name__}.{module.name}")).items():
            if inspect.isclass(value) and issubclass(value, base) and not inspect.isabstract(value):
                found[name] = value
    return found


MODELS = concrete(visionbench.models, Classifier)
DATA_SETS = concrete(visionbench.data, VisionDataModule)


def test_the_lists_are_there():
    assert {title: len(set(files(title))) for title in KINDS} == {title: stated_number(title) for title in KINDS}
    assert {"src/visionbench/models/foo.py", "configs/foo.yaml"} <= set(files("model"))
    assert {"src/visionbench/data/foo.py", "tests/data/test_contract.py"} <= set(files("data set"))


@pytest.mark.parametrize(
    ("title", "package", "kind"),
    [("model", visionbench.models, kind) for kind in MODELS.values()]
    + [("data set", visionbench.data, kind) for kind in DATA_SETS.values()],
)
def test_what_is_there_has_the_files_that_the_list_names(title, package, kind):
    stem = Path(inspect.getfile(kind)).stem
    for file in files(title):
        assert (ROOT / file.replace("foo", stem)).is_file(), file.replace("foo", stem)
    assert kind.__name__ in package.__all__
    assert f"import {kind.__name__}" in inspect.getsource(package)
    assert getattr(package, kind.__name__) is kind


@pytest.mark.parametrize("kind", MODELS.values())
def test_a_model_s_run_file_is_of_that_model(kind):
    content = yaml.safe_load((ROOT / "configs" / f"{Path(inspect.getfile(kind)).stem}.yaml").read_text())
    named = content["model"] if isinstance(content["model"], str) else content["model"]["class_path"]
    assert named == kind.__name__


def test_every_model_and_every_data_set_has_a_docstring_for_its_help():
    for kind in (*MODELS.values(), *DATA_SETS.values()):
        assert (kind.__doc__ or "").strip()
        assert kind.__doc__ != kind.__mro__[1].__doc__


@pytest.mark.parametrize("path", sorted((ROOT / "src/visionbench/commands").glob("*.py")), ids=lambda path: path.stem)
def test_no_command_imports_another(path):
    assert "visionbench.commands" not in path.read_text(encoding="utf-8")


# What a contributor writes, for each kind: the text of a new file, and in others the places with what replaces
# them; a list that names another file needs a word here.
MODEL = {
    "src/visionbench/models/foo.py": '''
"""A linear classifier."""

from math import prod
from typing import Any

from torch import nn

from visionbench.models.base import Classifier


class Foo(Classifier):
    """One linear layer.

    Args:
        bias: Whether it has a bias.
    """

    def __init__(
        self, num_classes: int, input_shape: tuple[int, int, int], bias: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, input_shape, **kwargs)
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(prod(input_shape), self.num_outputs, bias))
''',
    "configs/foo.yaml": """
# python -m visionbench fit --config configs/foo.yaml
seed_everything: 0
data: FashionMNIST
model: Foo
trainer:
  max_epochs: 2
""",
    "tests/models/test_foo.py": """
import torch

from visionbench.models import Foo


def test_foo_is_linear():
    model = Foo(10, (1, 28, 28))
    assert sum(p.numel() for p in model.parameters()) == 7850
    weight, bias = model.parameters()
    images = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(model(images), images.flatten(1) @ weight.T + bias)
""",
    "src/visionbench/models/__init__.py": [
        ("\nMODELS = {\n", '\nMODELS = {\n    "Foo": "foo",\n'),
        ("if TYPE_CHECKING:\n", "if TYPE_CHECKING:\n    from visionbench.models.foo import Foo as Foo\n"),
    ],
}
DATA_SET = {
    "src/visionbench/data/foo.py": '''
"""Bars."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from visionbench.data.base import VisionDataModule


class Bar(VisionDataModule):
    """Gray noise, with a bar across the images of the second class.

    - Images: 80 of 28 x 28 pixels.
    - Classes: without and with a bar.
    - Split: 60 to train on, 20 to test.
    - Source: a random generator.
    - License: none.
    - Files: none are needed.
    """

    title: ClassVar[str] = "Bars"
    class_names = ("none", "bar")
    input_shape = (1, 28, 28)

    def prepare_arrays(self, downloads: Path) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:  # noqa: D102
        random = np.random.RandomState(0)
        arrays = {}
        for split, size in (("train", 60), ("test", 20)):
            labels = np.arange(size) % 2
            images = random.randint(0, 128, (size, 28, 28, 1))
            images[labels == 1, 12:16] += 127
            arrays[f"{split}-images"], arrays[f"{split}-labels"] = images.astype(np.uint8), labels.astype(np.int64)
        return arrays, {"source": "noise", "licence": "none", "split": "none"}
''',
    "tests/data/test_foo.py": """
from visionbench.data import Bar


def test_bars_are_brighter(tmp_path):
    data = Bar(root=str(tmp_path))
    data.setup()
    images, labels = next(iter(data.test_dataloader()))
    assert images[labels == 1].mean() > images[labels == 0].mean()
""",
    "src/visionbench/data/__init__.py": [
        ("\nDATA_SETS = {\n", '\nDATA_SETS = {\n    "Bar": "foo",\n'),
        ("if TYPE_CHECKING:\n", "if TYPE_CHECKING:\n    from visionbench.data.foo import Bar as Bar\n"),
    ],
    "tests/data/test_contract.py": [
        ("\nDATASETS = {", "\nDATASETS = {\n    visionbench.data.Bar: lambda folder, patch: {},")
    ],
}
METRIC = {
    "src/visionbench/evaluation/metrics.py": [
        (
            "\ndef balanced_accuracy(",
            '''
def error_rate(outcome: Outcome) -> float:
    """The number of wrong predictions divided by the number of samples."""
    return 1 - accuracy(outcome)


def balanced_accuracy(''',
        ),
        (
            "    for spec in (\n",
            """    for spec in (
        MetricSpec("error_rate", "min", "confusion matrix", error_rate, "share of wrong predictions"),
""",
        ),
    ],
    "docs/metrics.md": [
        (
            "\n| `acc` |",
            "\n| `error_rate` | min | confusion matrix | share of wrong predictions |\n| `acc` |",
        ),
    ],
    "tests/evaluation/test_metrics.py": [
        ("expected = {\n", 'expected = {\n"error_rate": sklearn_metrics.zero_one_loss(labels, predicted),\n'),
        ('"min"} == {', '"min"} == {"error_rate", '),
    ],
}
GUARD = {
    "docs/guards.md": [
        (
            "## Refused always\n",
            "### `few_samples`\n\nTrains on fewer than 100 samples.\n\n## Refused always\n",
        )
    ],
    "src/visionbench/guards/foo.py": '''
"""A guard of the number of training samples."""

from collections.abc import Iterator

from visionbench.guards.base import Finding, Guard
from visionbench.guards.data import DataContext


class FewSamples(Guard):
    """Trains on fewer than 100 samples."""

    name = "few_samples"
    stage = "data"

    def check(self, context: DataContext) -> Iterator[Finding]:
        """Refuses a small training set."""
        if (count := context.data.sizes()["train"]) < 100:
            yield Finding("refusal", f"There are {count} samples to train on, expected 100 or more; add some.")
''',
    "src/visionbench/guards/__init__.py": [
        ("GUARDS: list[", "from visionbench.guards.foo import FewSamples\n\nGUARDS: list["),
        ("] = [\n", "] = [\n    FewSamples(),\n"),
    ],
    "src/visionbench/studies/spec.py": [('*("augmented_validation", ', '*("few_samples", "augmented_validation", ')],
    "tests/guards/test_foo.py": """
from types import SimpleNamespace

import pytest

from visionbench.guards import DataContext, Refused, inspect
from visionbench.guards.foo import FewSamples


def test_few_samples_are_refused():
    few, many = (DataContext(SimpleNamespace(sizes=lambda count=count: {"train": count})) for count in (99, 100))
    assert inspect([FewSamples()], "data", many) == []
    with pytest.raises(Refused, match="There are 99 samples to train on"):
        inspect([FewSamples()], "data", few)
""",
}
CALLBACK = {
    "src/visionbench/training/callbacks/foo.py": '''
"""A line at the end of training."""

from lightning.pytorch import Callback, LightningModule, Trainer


class LastLine(Callback):
    """Prints how many steps a run has made."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the line."""
        print(f"made {trainer.global_step} steps")
''',
    "src/visionbench/training/session.py": [
        ("\nNOT_BEFORE", "\nfrom visionbench.training.callbacks.foo import LastLine\n\nNOT_BEFORE"),
        ("        callbacks: list[Callback] = [", "        callbacks: list[Callback] = [LastLine(), "),
    ],
    "tests/training/test_foo.py": """
from types import SimpleNamespace

from visionbench.training.callbacks.foo import LastLine


def test_the_last_line_names_the_steps(capsys):
    LastLine().on_train_end(SimpleNamespace(global_step=3), None)
    assert capsys.readouterr().out == "made 3 steps\\n"
""",
}
COMMAND = {
    "src/visionbench/commands/foo.py": '''
"""`visionbench foo`: counts its arguments."""

from collections.abc import Sequence

from visionbench.errors import UserError


def run(args: Sequence[str]) -> int:
    """Prints the number of arguments."""
    if not args:
        raise UserError("foo counts arguments, but there are none; give some.")
    print(f"{len(args)} arguments")
    return 0
''',
    "src/visionbench/cli.py": [
        (
            "COMMANDS = (\n",
            'COMMANDS = (\n    Command("foo", [("WORD...", "count the words")], "visionbench.commands.foo"),\n',
        ),
    ],
    "tests/test_foo.py": """
def test_words_are_counted(cli):
    assert cli("foo a b").out == "2 arguments\\n"
    assert cli("foo").refusal() == "foo counts arguments, but there are none; give some."
""",
}
KINDS = {
    "model": MODEL,
    "data set": DATA_SET,
    "metric": METRIC,
    "guard": GUARD,
    "callback": CALLBACK,
    "command": COMMAND,
}


def walk(folder: Path, title: str) -> None:
    """Does, in a copy of the repository, what the list says and nothing else."""
    contents = KINDS[title]
    assert set(files(title)) == set(contents), f"the list of a new {title} names other files than this test knows"
    for file, content in contents.items():
        path = folder / file
        if isinstance(content, str):
            assert not path.exists()
            path.write_text(content.lstrip())
            continue
        for place, replacement in content:
            text = path.read_text()
            assert text.count(place) == 1, f"{file} has {place!r} {text.count(place)} times"
            path.write_text(text.replace(place, replacement))


@pytest.mark.slow
def test_one_of_each_kind_is_added_by_the_lists_alone(tmp_path):
    for name in ("src", "tests", "configs", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "gallery"))
    for name in ("CONTRIBUTING.md", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for title in KINDS:
        walk(tmp_path, title)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "src"), "VISIONBENCH_DATA": str(tmp_path / "data")}

    def python(*words: str, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    new = [file for title in KINDS for file in files(title) if file.startswith("tests/")]
    chosen = ("-n", "0", "-p", "no:cacheprovider", "-k", "not test_contract or Bar")
    python("pytest", *chosen, "tests/test_checklists.py", *new)
    assert "Gray noise, with a bar" in python("visionbench", "data", "list")
    assert "--model.bias" in python("visionbench", "fit", "--model.help", "Foo")
    assert python("visionbench", "foo", "a", "b") == "2 arguments\n"
    fit = ("visionbench", "fit", "--config", "configs/foo.yaml", "--data", "Bar", "--trainer.max_epochs", "1")
    assert "There are 54 samples to train on" in python(*fit, "--data.root", "elsewhere", status=2)
    shown = python(*fit, "--allow", "[few_samples]")
    assert "note: There are 54 samples to train on" in shown
    assert "Bars: 54 train, 6 validation, 20 test images of 1 x 28 x 28, 2 classes" in shown
    assert "Foo, 1,570 parameters" in shown
    assert "made 1 steps" in shown
    code = "from visionbench.evaluation.metrics import resolve; print(resolve('error_rate', ['a', 'b']).mode)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "min\n"
