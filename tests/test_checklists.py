"""CONTRIBUTING's lists of what a new model and a new data set touch are enough, and are kept to."""

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


def steps(title: str) -> list[tuple[str, list[str]]]:
    """The numbered steps of a section, each with the files that it names."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\d+\. (.*?)(?=^\d+\. |\Z)", section, flags=re.MULTILINE | re.DOTALL)
    return [(step, re.findall(r"`([\w/]+\.(?:py|yaml))`", step)) for step in found]


def files(title: str) -> list[str]:
    return [file for _, named in steps(title) for file in named]


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
    assert [len(steps(title)) for title in ("Add a model", "Add a data set")] == [4, 3]
    assert {"src/visionbench/models/foo.py", "configs/foo.yaml"} <= set(files("Add a model"))
    assert {"src/visionbench/data/foo.py", "tests/data/test_contract.py"} <= set(files("Add a data set"))


@pytest.mark.parametrize(
    ("title", "package", "kind"),
    [("Add a model", visionbench.models, kind) for kind in MODELS.values()]
    + [("Add a data set", visionbench.data, kind) for kind in DATA_SETS.values()],
)
def test_what_is_there_has_the_files_that_the_list_names(title, package, kind):
    stem = Path(inspect.getfile(kind)).stem
    for file in files(title):
        assert (ROOT / file.replace("foo", stem)).is_file(), file.replace("foo", stem)
    assert kind.__name__ in package.__all__
    imported = f"    from {kind.__module__} import {kind.__name__} as {kind.__name__}\n"
    assert imported in inspect.getsource(package)
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


# What a contributor writes, by the file that the list names; a list that names another one needs a word here.
NEW_MODEL = {
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
}
NEW_DATA_SET = {
    "src/visionbench/data/foo.py": '''
"""Bars."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from visionbench.data.base import VisionDataModule


class Bar(VisionDataModule):
    """Grey noise, with a bar across the images of the second class.

    - Images: 80 of 28 x 28 pixels.
    - Classes: without and with a bar.
    - Split: 60 to train on, 20 to test.
    - Source: a random generator.
    - Licence: none.
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
}


def add_row(folder: Path, file: str, step: str, module: str, name: str) -> None:
    path = folder / file
    text = path.read_text()
    package = file.removeprefix("src/").removesuffix("/__init__.py").replace("/", ".")
    table = re.search(r"`([A-Z_]+)`", step)[1]
    row, line = f'    "{name}": "{module}",\n', f"    from {package}.{module} import {name} as {name}\n"
    assert text.count(f"\n{table} = {{\n") == text.count("if TYPE_CHECKING:\n") == 1
    text = text.replace(f"\n{table} = {{\n", f"\n{table} = {{\n{row}")
    path.write_text(text.replace("if TYPE_CHECKING:\n", f"if TYPE_CHECKING:\n{line}"))


def add_to_contract(folder: Path, file: str) -> None:
    path = folder / file
    assert "\nDATASETS = {" in path.read_text()
    line = "    visionbench.data.Bar: lambda folder, patch: {},"
    path.write_text(path.read_text().replace("\nDATASETS = {", f"\nDATASETS = {{\n{line}"))


def walk(folder: Path, title: str, stem: str, name: str, contents: dict[str, str]) -> None:
    """Does, in a copy of the repository, what the list says and nothing else."""
    for step, named in steps(title):
        for file in named:
            if "foo" in file:
                place = folder / file.replace("foo", stem)
                assert not place.exists()
                place.write_text(contents[file].lstrip())
            elif file.endswith("/__init__.py"):
                add_row(folder, file, step, stem, name)
            elif file == "tests/data/test_contract.py":
                add_to_contract(folder, file)
            else:
                assert file == "tests/fakes.py", f"the walk does not know what to do in {file}"  # nothing to fake here


@pytest.mark.slow
def test_a_model_and_a_data_set_are_added_by_the_lists_alone(tmp_path):
    for name in ("src", "tests", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("CONTRIBUTING.md", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    walk(tmp_path, "Add a model", "foo", "Foo", NEW_MODEL)
    walk(tmp_path, "Add a data set", "bar", "Bar", NEW_DATA_SET)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "src"), "VISIONBENCH_DATA": str(tmp_path / "data")}

    def python(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    known = "tests/test_cli.py::test_a_mistake_in_the_command_is_one_sentence[unknown model]"
    contracts = ("tests/test_checklists.py", "tests/test_configs.py", known)
    contracts += ("tests/models/test_base.py", "tests/data/test_contract.py")
    python("pytest", "-p", "no:cacheprovider", *contracts, "tests/models/test_foo.py", "tests/data/test_bar.py")
    shown = python("visionbench", "fit", "--config", "configs/foo.yaml", "--data", "Bar", "--trainer.max_epochs", "1")
    assert "Bars: 54 train, 6 validation, 20 test images of 1 x 28 x 28, 2 classes" in shown
    assert "Foo, 1,570 parameters" in shown
    assert "Bars test accuracy" in python("visionbench", "test", "lightning_logs/foo/version_0")
    python("visionbench", "fit", "--model", "MLP", "--data", "Bar", "--trainer.max_epochs", "1")
