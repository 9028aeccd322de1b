"""What is said when arguments outlive their class, and short names that are ambiguous."""

import re
import typing

import jsonargparse._typehints as typehints
import pytest
import yaml

import visionbench.config.patches  # noqa: F401 - replaces a function for good
from visionbench.config.parser import Parser

TRIAL = "--trainer.fast_dev_run true"  # runs one batch and writes nothing


def test_changing_the_data_set_drops_what_speaks_of_the_first_one(cli, tmp_path):
    (tmp_path / "run.yaml").write_text(
        "{model: MLP, data: {class_path: FashionMNIST, "
        "init_args: {source: /x, offline: true, mean: [0.3], std: [0.4]}}}"
    )
    first = cli(f"fit --config run.yaml --data Digits {TRIAL}").out.splitlines()[0]
    assert first.startswith("FashionMNIST was replaced by Digits: kept offline=True; dropped ")
    for part in ("source=/x", "offline=True", "mean=[0.3]", "std=[0.4]"):
        assert part in first
    data = yaml.safe_load(cli("fit --config run.yaml --data Digits --print_config").out)["data"]
    assert data["class_path"] == "visionbench.data.Digits"
    assert (data["init_args"]["mean"], data["init_args"]["std"]) == (None, None)
    assert "source" not in data["init_args"]
    assert data["init_args"]["offline"] is True  # of the machine, not of the data set


def test_changing_the_data_set_keeps_the_rest_and_says_so(cli, tmp_path):
    (tmp_path / "run.yaml").write_text("{model: MLP, data: {class_path: FashionMNIST, init_args: {batch_size: 32}}}")
    lines = cli(f"fit --config run.yaml --data Digits {TRIAL}").out.splitlines()
    assert lines[0] == "FashionMNIST was replaced by Digits: kept batch_size=32"
    config = yaml.safe_load(cli("fit --config run.yaml --data Digits --print_config").out)
    assert config["data"]["init_args"]["batch_size"] == 32


def test_changing_the_optimizer_says_that_the_learning_rate_is_kept(cli, tmp_path):
    (tmp_path / "run.yaml").write_text(
        "{data: Digits, model: {class_path: MLP, init_args: "
        "{optimizer: {class_path: Adam, init_args: {lr: 0.02, amsgrad: true}}}}}"
    )
    lines = cli(f"fit --config run.yaml --model.optimizer SGD {TRIAL}").out.splitlines()
    assert re.match(r"Adam was replaced by SGD: kept .*lr=0\.02.*; dropped .*amsgrad=True", lines[0])
    config = yaml.safe_load(cli("fit --config run.yaml --model.optimizer SGD --print_config").out)
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.02


def test_a_value_given_for_the_new_class_is_not_said_to_be_kept(cli, tmp_path):
    (tmp_path / "run.yaml").write_text("{model: MLP, data: {class_path: FashionMNIST, init_args: {batch_size: 32}}}")
    result = cli(f"fit --config run.yaml --data '{{class_path: Digits, init_args: {{batch_size: 16}}}}' {TRIAL}")
    assert "was replaced" not in result.out


@pytest.mark.fast
@pytest.mark.parametrize("arguments", ["", "{class_path: ReduceLROnPlateau, init_args: {patience: 1}}"])
def test_the_short_name_of_the_plateau_scheduler_is_torchs(cli, tmp_path, arguments):
    (tmp_path / "run.yaml").write_text(
        f"{{data: Digits, model: {{class_path: MLP, init_args: {{lr_scheduler: {arguments or 'ReduceLROnPlateau'}}}}}}}"
    )
    for line in ("fit --config run.yaml", "fit --model MLP --data Digits --model.lr_scheduler ReduceLROnPlateau"):
        shown = cli(f"{line} --print_config")
        assert shown.status == 0, shown.err
        scheduler = yaml.safe_load(shown.out)["model"]["init_args"]["lr_scheduler"]
        assert scheduler["class_path"] == "torch.optim.lr_scheduler.ReduceLROnPlateau"


@pytest.mark.fast
@pytest.mark.parametrize("kind", [float | int | None, typing.Union[float, int]])  # noqa: UP007 - has its own cache
def test_a_count_stays_an_integer_in_whatever_order_a_library_has_named_the_types(kind):
    """Typing gives an annotation in the order of an equal one that was made earlier in the process."""
    parser = Parser()
    parser.add_argument("--size", type=kind)
    sizes = [parser.parse_args(["--size", text]).size for text in ("4", "0.5")]
    assert [(type(size), size) for size in sizes] == [(int, 4), (float, 0.5)]


@pytest.mark.fast
@pytest.mark.parametrize("line", ["fit --model MLP --data Digits --print_config", "fit --model CNM --data Digits"])
def test_jsonargparse_is_as_it_was_after_parsing(cli, line):
    before = (typehints.resolve_class_path_by_name, typehints.discard_init_args_on_class_path_change)
    cli(line)
    assert (typehints.resolve_class_path_by_name, typehints.discard_init_args_on_class_path_change) == before


@pytest.mark.fast
@pytest.mark.parametrize("name", ["resolve_class_path_by_name", "discard_init_args_on_class_path_change"])
def test_jsonargparse_still_calls_its_private_functions(cli, tmp_path, monkeypatch, name):
    """Fails when a new version has moved them, so that replacing them would do nothing."""
    (tmp_path / "run.yaml").write_text("{model: MLP, data: {class_path: FashionMNIST, init_args: {batch_size: 32}}}")
    called, function = [], getattr(typehints, name)
    monkeypatch.setattr(typehints, name, lambda *args: called.append(args) or function(*args))
    assert cli("fit --config run.yaml --data Digits --print_config").status == 0
    assert called


def test_a_class_that_stays_the_same_is_not_spoken_of(cli, tmp_path):
    (tmp_path / "run.yaml").write_text("{model: MLP, data: {class_path: Digits, init_args: {batch_size: 32}}}")
    result = cli(f"fit --config run.yaml --data Digits --data.batch_size 16 {TRIAL}")
    assert result.status == 0
    assert "was replaced" not in result.out
