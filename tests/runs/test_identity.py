"""The identity of a run: what is in it, what is not, and that it is of the code that was imported."""

import importlib
import platform
import sys
from pathlib import Path

import pytest

import visionbench
from visionbench.data import Digits
from visionbench.models import MLP
from visionbench.runs.identity import (
    code_digest,
    comparable,
    config_digest,
    identity,
    package_digest,
    package_sources,
    process_count,
    processor,
    remember_source,
    starting_paths,
)

pytestmark = pytest.mark.fast

PACKAGE = Path(visionbench.__file__).parent


def config(top=None, trainer=None, model=None, data=None):
    return {
        "seed_everything": 0,
        "name": None,
        "log_dir": "lightning_logs",
        "objective": {"metric": "val/loss", "mode": None},
        "trainer": {"max_epochs": 3, "enable_checkpointing": None, **(trainer or {})},
        "model": {"class_path": "MLP", "init_args": {"widths": [8], "start_from": None, **(model or {})}},
        "data": {"class_path": "Digits", "init_args": {"root": None, "val_size": 1, **(data or {})}},
        **(top or {}),
    }


@pytest.mark.parametrize(
    "change",
    [
        {"top": {"name": "x"}},
        {"top": {"run_dir": "/x"}},
        {"top": {"threads": 4, "predictions": False, "figures": "all"}},
        {"top": {"metrics": ["f1"]}},
        {"top": {"allow": ["double_softmax"]}},
        {"top": {"checkpoint": {"every_n_steps": 5, "result": "best"}}},
        {"trainer": {"devices": 2, "strategy": "ddp", "num_nodes": 1, "enable_checkpointing": True}},
        {"model": {"start_from": "/runs/cnn/version_0"}},
        {"model": {"weights": "/files/resnet18.pth"}},
        {"model": {"weights": "resnet18.pth"}},
        {"data": {"root": "/data", "source": "/images", "offline": True, "workers": 3}},
    ],
)
def test_what_moves_no_number_is_not_in_the_identity(change):
    assert config_digest(config(**change)) == config_digest(config())


@pytest.mark.parametrize(
    "change",
    [
        {"top": {"seed_everything": 1}},
        {"top": {"metrics": ["f1"], "objective": {"metric": "val/f1", "mode": None}}},
        {"top": {"checkpoint": {"every_n_steps": None, "result": "last"}}},
        {"trainer": {"max_epochs": 4}},
        {"trainer": {"precision": "bf16-mixed"}},
        {"trainer": {"enable_checkpointing": False}},
        {"model": {"widths": [16]}},
        {"model": {"weights": "imagenet"}},
        {"data": {"val_size": 2}},
    ],
)
def test_what_moves_a_number_is_in_the_identity(change):
    assert config_digest(config(**change)) != config_digest(config())


def test_processes_and_starting_weights_are_in_the_digest():
    plain = config()
    digests = [
        config_digest(plain),
        config_digest(plain, 2),
        config_digest(plain, 1, "a"),
        config_digest(plain, 1, "b"),
    ]
    assert len(set(digests)) == 4


def test_a_file_counts_by_its_content_and_not_by_its_place(tmp_path):
    digests = []
    for folder, content in (("a", "cat dog"), ("b", "cat dog"), ("c", "cat cow")):
        path = tmp_path / folder / "words.txt"
        path.parent.mkdir()
        path.write_text(content)
        settings = config(model={"vocabulary": str(path), "folders": [str(tmp_path / "gone")]})
        assert str(tmp_path) not in str(comparable(settings))
        digests.append(config_digest(settings))
    assert digests[0] == digests[1] != digests[2]


def test_only_paths_of_weights_are_starting_paths():
    assert starting_paths(config(model={"weights": "imagenet"})) == {}
    assert starting_paths(config(model={"weights": "a/b.pth", "start_from": "run"})) == {
        "weights": "a/b.pth",
        "start_from": "run",
    }


def test_the_identity_has_a_digest_of_all_its_parts():
    first = identity(config(), data_digest="d", kinds=[MLP, Digits], processes=1, start="s")
    assert set(first) == {"config", "data", "start", "processes", "code", "digest"}
    assert first == identity(config(), data_digest="d", kinds=[Digits, MLP], start="s")
    others = [
        identity(config(), data_digest="e", kinds=[MLP, Digits], start="s"),
        identity(config(), data_digest="d", kinds=[MLP, Digits], start="t"),
        identity(config(), data_digest="d", kinds=[MLP, Digits], start="s", processes=2),
        identity(config(data={"val_size": 2}), data_digest="d", kinds=[MLP, Digits], start="s"),
    ]
    assert len({first["digest"], *(other["digest"] for other in others)}) == 5


@pytest.mark.parametrize(
    ("trainer", "count"),
    [
        ({"accelerator": "cpu"}, 1),
        ({"accelerator": "cpu", "devices": "auto"}, 1),
        ({"accelerator": "cpu", "devices": 2}, 2),
        ({"accelerator": "cpu", "devices": "2", "num_nodes": 3}, 6),
        ({"devices": [0, 3]}, 2),
        ({"devices": "0,3,"}, 2),
    ],
)
def test_processes_are_counted_by_the_trainers_arguments(trainer, count):
    assert process_count(trainer) == count


# Code


@pytest.fixture
def copy(tmp_path):
    """A copy of the package, and a function that gives the digest of its code after a change of one file."""
    for name in ("models/mlp.py", "report/page.py", "decoding.py", "data/loader.py", "training/callbacks/losses.py"):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((PACKAGE / name).read_bytes())

    def digest_with(name, before, after):
        path = tmp_path / name
        content = path.read_text()
        assert before in content
        path.write_text(content.replace(before, after, 1))
        digest = code_digest([], package_sources(tmp_path))
        path.write_text(content)
        return digest

    return digest_with


def test_comments_docstrings_and_layout_are_not_code_and_reports_make_no_numbers(copy):
    same = copy("decoding.py", "import", "import")
    assert copy("report/page.py", "import html", "import html  # a comment") == same
    assert copy("report/page.py", "import html", "import html\n\nSIZE = 3") == same
    assert copy("models/mlp.py", '"""', '# a comment\n"""Another text. ') == same
    assert copy("models/mlp.py", "\n\n\n", "\n\n\n\n# A comment of several\n# lines.\n\n\n") == same
    assert copy("data/loader.py", "    def ", "    # a comment\n    def ") == same


@pytest.mark.parametrize("name", ["models/mlp.py", "data/loader.py", "training/callbacks/losses.py", "decoding.py"])
def test_a_changed_constant_is_another_code(copy, name):
    first = copy(name, "\n\n\n", "\n\n\nSIZE = 3\n\n\n")
    assert first != copy(name, "import", "import")
    assert first != copy(name, "\n\n\n", "\n\n\nSIZE = 4\n\n\n")


def test_the_package_as_imported_is_what_counts_by_default():
    assert code_digest([Digits]) == code_digest([MLP]) == code_digest([], package_sources(PACKAGE))


def test_a_users_file_counts_as_it_was_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "remembered_net.py"
    file.write_text("class Net:\n    width = 1\n")
    import remembered_net

    remember_source(remembered_net.Net)
    file.write_text("class Net:\n    width = 22\n")
    edited = code_digest([remembered_net.Net])
    assert edited != code_digest([Digits])
    importlib.reload(remembered_net)
    assert remembered_net.Net.width == 22
    assert code_digest([remembered_net.Net]) != edited
    file.write_text("class Net:\n    width = 1  # as before\n")
    importlib.reload(remembered_net)
    assert code_digest([remembered_net.Net]) == edited


@pytest.mark.parametrize("line", ["import rates", "from rates import RATE", "from parts.rates import RATE"])
def test_modules_that_a_users_module_imports_from_its_folder_count_too(line, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "net_of_parts.py"
    module.write_text(f"import numpy\n{line}\n\n\nclass Net:\n    pass\n")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/__init__.py").write_text("")
    (tmp_path / "parts/rates.py").write_text("from . import deeper\nRATE = 1\n")
    (tmp_path / "parts/deeper.py").write_text("DEPTH = 1\n")
    (tmp_path / "rates.py").write_text("from parts import deeper\nRATE = 1\n")
    first = package_digest(["net_of_parts"], tmp_path)
    (tmp_path / "unrelated.py").write_text("RATE = 1\n")
    assert package_digest(["net_of_parts"], tmp_path) == first
    deeper = tmp_path / "parts/deeper.py"
    deeper.write_text("DEPTH = 2\n")
    assert package_digest(["net_of_parts"], tmp_path) != first

    import net_of_parts

    assert code_digest([net_of_parts.Net]) == package_digest(["net_of_parts"], tmp_path)
    imported = code_digest([net_of_parts.Net])
    deeper.write_text("DEPTH = 3\n")
    assert code_digest([net_of_parts.Net]) == imported  # it was imported as it was
    for name in ("net_of_parts", "rates", "parts", "parts.rates", "parts.deeper"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("class_path", ["my_nets.deep.Net", "my_nets.Net", "study_net.Net"])
def test_the_code_of_a_class_is_found_by_its_path_without_importing_it(class_path, tmp_path, monkeypatch):
    package, study = tmp_path / "src" / "my_nets", tmp_path / "studies"
    package.mkdir(parents=True)
    study.mkdir()
    (package / "__init__.py").write_text("from my_nets.deep import Net\n")
    (package / "deep.py").write_text("from my_nets import sizes\n\n\nclass Net:\n    width = sizes.WIDTH\n")
    (package / "sizes.py").write_text("WIDTH = 1\n")
    (study / "study_net.py").write_text("import my_nets\n\n\nclass Net(my_nets.Net):\n    pass\n")
    monkeypatch.syspath_prepend(package.parent)
    module, _, name = class_path.rpartition(".")
    found = package_digest([module, "torch.optim", "json", "no_such_module"], study)
    assert found != package_digest([], study)

    monkeypatch.syspath_prepend(study)
    kind = getattr(importlib.import_module(module), name)
    assert code_digest([kind]) == found
    (package / "sizes.py").write_text("WIDTH = 2\n")
    assert package_digest([module], study) != found
    for name in ("my_nets", "my_nets.deep", "my_nets.sizes", "study_net"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("model name\t: EPYC\nflags\t\t: avx2 avx512f avx512_bf16\n\nmodel name\t: other\n", "EPYC with avx512_bf16"),
        ("model name\t: EPYC\nflags\t\t: fma avx2\n", "EPYC with avx2"),
        ("model name\t: Old\nflags\t\t: sse\n", "Old"),
    ],
)
def test_processors_of_one_name_are_told_apart_by_what_they_compute_with(tmp_path, monkeypatch, text, name):
    described = tmp_path / "cpuinfo"
    monkeypatch.setattr("visionbench.runs.identity.PROCESSORS", described)
    assert processor() == (platform.processor() or platform.machine())
    described.write_text(text)
    assert processor() == name
