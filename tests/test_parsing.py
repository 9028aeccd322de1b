"""What is said when arguments outlive their class, and short names that are ambiguous."""

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


ADAM = (
    "{data: Digits, model: {class_path: MLP, init_args: {dropout: 0.3, "
    "optimizer: {class_path: Adam, init_args: {lr: 0.02, weight_decay: 0.1, amsgrad: true}}}}}"
)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            "--model.optimizer SGD",
            "model.optimizer is changed from Adam to SGD, but run.yaml sets lr=0.02, weight_decay=0.1 before that; "
            "write --model.optimizer.lr 0.02 --model.optimizer.weight_decay 0.1 after the change to keep them, or "
            "other values.",
        ),
        (
            "--model.optimizer SGD --model.optimizer.lr 0.1",
            "model.optimizer is changed from Adam to SGD, but run.yaml sets weight_decay=0.1 before that; write "
            "--model.optimizer.weight_decay 0.1 after the change to keep it, or other values.",
        ),
        (
            "--model CNN",
            "model is changed from MLP to CNN, but run.yaml sets optimizer.lr=0.02, "  # Adam is CNN's default too
            "optimizer.weight_decay=0.1, optimizer.amsgrad=true before that; write "
            "--model.optimizer.lr 0.02 --model.optimizer.weight_decay 0.1 --model.optimizer.amsgrad true after the "
            "change to keep them, or other values.",
        ),
        (
            "--model.lr_scheduler StepLR --model.lr_scheduler.step_size 3 --model.lr_scheduler MultiplicativeLR",
            None,
        ),
        (
            "--model.lr_scheduler ExponentialLR --model.lr_scheduler.gamma 0.5 --model.lr_scheduler StepLR "
            "--model.lr_scheduler.step_size 3",
            "model.lr_scheduler is changed from ExponentialLR to StepLR, but the command sets gamma=0.5 before that; "
            "write --model.lr_scheduler.gamma 0.5 after the change to keep it, or other values.",
        ),
        ("--config later.yaml", "model.optimizer is changed from Adam to RMSprop, but run.yaml sets weight_decay=0.1"),
    ],
)
def test_what_was_set_for_a_class_is_neither_carried_over_nor_lost(cli, tmp_path, options, sentence):
    (tmp_path / "run.yaml").write_text(ADAM)
    (tmp_path / "later.yaml").write_text("model: {init_args: {optimizer: {class_path: RMSprop, init_args: {lr: 0.5}}}}")
    for printing in ("", "--print_config"):
        result = cli(f"fit --config run.yaml {options} {printing or TRIAL}")
        if sentence is not None:
            assert result.refusal().startswith(sentence)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("options", "kind", "expected"),
    [
        ("--model.optimizer AdamW", "AdamW", {"weight_decay": 0.01}),  # Adam's default is 0
        ("--model.optimizer SGD --model.optimizer.lr 0.1", "SGD", {"lr": 0.1, "fused": None}),
        ("--model.optimizer RMSprop", "RMSprop", {"lr": 0.01}),  # 0.001 is the default of the model's Adam
        ("--model.optimizer.lr 0.1 --model.optimizer Adam", "Adam", {"lr": 0.1, "fused": True}),  # the same class
        ("--model.optimizer.lr 0.1 --model.optimizer SGD --model.optimizer.lr 0.1", "SGD", {"lr": 0.1}),
    ],
)
def test_a_new_class_begins_with_its_own_defaults(cli, options, kind, expected):
    shown = cli(f"fit --model MLP --data Digits {options} --print_config")
    assert (shown.status, shown.err) == (0, "")
    optimizer = yaml.safe_load(shown.out)["model"]["init_args"]["optimizer"]
    assert optimizer["class_path"].endswith(f".{kind}")
    assert {name: optimizer["init_args"].get(name) for name in expected} == expected


@pytest.mark.fast
def test_what_is_given_again_for_the_new_class_is_taken(cli, tmp_path):
    (tmp_path / "run.yaml").write_text(ADAM)
    given = "--model.optimizer.lr 0.02 --model.optimizer.weight_decay 0"
    shown = cli(f"fit --config run.yaml --model.optimizer SGD {given} --print_config")
    assert shown.status == 0
    assert shown.err == "Adam was replaced by SGD: dropped amsgrad=true\n"
    optimizer = yaml.safe_load(shown.out)["model"]["init_args"]["optimizer"]["init_args"]
    assert (optimizer["lr"], optimizer["weight_decay"]) == (0.02, 0)


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
    def functions():
        method = typehints.ActionTypeHint.discard_init_args_on_class_path_change
        return typehints.resolve_class_path_by_name, typehints.discard_init_args_on_class_path_change, method

    before = functions()
    cli(line)
    assert functions() == before


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


@pytest.mark.parametrize(
    ("options", "key", "expected"),
    [
        ("--model.widths [8] --model MLP --data Digits", "model", {"widths": [8]}),
        ("--model.widths=[8] --model.dropout 0.1 --model=MLP --data Digits", "model", {"widths": [8], "dropout": 0.1}),
        ("--model MLP --data.batch_size 8 --data Digits", "data", {"batch_size": 8}),
    ],
)
def test_a_class_may_be_named_after_its_options(cli, options, key, expected):
    settings = yaml.safe_load(cli(f"fit {options} --print_config").out)[key]["init_args"]
    assert {name: settings[name] for name in expected} == expected


def test_an_optimizer_may_be_named_after_its_options(cli):
    words = "--model.optimizer.lr 0.3 --model.optimizer.momentum 0.9 --model.optimizer SGD --model MLP --data Digits"
    optimizer = yaml.safe_load(cli(f"fit {words} --print_config").out)["model"]["init_args"]["optimizer"]
    assert optimizer["class_path"] == "torch.optim.SGD"
    assert (optimizer["init_args"]["lr"], optimizer["init_args"]["momentum"]) == (0.3, 0.9)


def test_an_option_of_a_class_that_was_named_before_stays_with_it(cli):
    sentence = cli("fit --data Digits --model MLP --model.widths [8] --model CNN").refusal()
    assert "model is changed from MLP to CNN, but the command sets widths" in sentence


@pytest.mark.parametrize("group", ["trainer", "objective", "early_stopping", "checkpoint"])
def test_a_group_that_is_a_single_value_is_refused(cli, tmp_path, group):
    (tmp_path / "run.yaml").write_text(f"{{model: MLP, data: Digits, {group}: 0.5}}")
    sentence = cli("fit --config run.yaml").refusal()
    assert sentence.startswith(f"{group}: found 0.5, expected a group of options, such as {group}.")


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("model.widths", "model.widths: found null, expected a list"),
        ("model.freeze", "model.freeze: found null, expected a list"),
        ("data.batch_size", "data.batch_size: found null, expected an integer"),
    ],
)
def test_null_is_refused_where_a_class_takes_none(cli, option, expected):
    assert expected in cli(f"fit --model MLP --data Digits --{option}=null").refusal()


def test_a_file_that_is_no_text_is_refused_by_name(cli, tmp_path):
    (tmp_path / "run.yaml").write_bytes(b"model: MLP\ndata: Digits # \xff\n")
    assert cli("fit --config run.yaml").refusal().startswith("run.yaml is not UTF-8 text (")


def test_a_batch_may_be_larger_than_any_integer_of_the_machine(cli):
    assert cli(f"fit --model MLP --data Digits --data.batch_size {10**20} {TRIAL}").status == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--model MLP --model.dropout -0.1", "model.dropout is -0.1, expected 0 to 1"),
        ("--model CNN --model.dense_dropout -1", "model.dense_dropout is -1.0, expected 0 to 1"),
        ("--model CNN --model.dropouts [0,0,-1]", "model.dropouts is [0.0, 0.0, -1.0], expected 0 to 1"),
        ("--model MLP --checkpoint.every_n_steps 0", "checkpoint.every_n_steps is 0, expected 1 or more, or null."),
        ("--model MLP --early_stopping.patience -1", "early_stopping.patience is -1, expected 0 or more, or null."),
        ("--model MLP --threads 5000", "threads is 5000, expected 1 to 1024, or 0 to choose by the model."),
    ],
)
def test_a_number_that_means_nothing_is_refused(cli, options, sentence):
    assert sentence in cli(f"fit --data Digits {options}").refusal()
