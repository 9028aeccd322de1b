"""Files of settings that cannot be read as they are meant: each mistake is named with its file and line."""

import pytest
import yaml

from visionbench.config.run_files import check_files, check_text
from visionbench.errors import UserError

pytestmark = pytest.mark.fast

MISTAKES = {
    "a group twice": ("trainer:\n  max_epochs: 3\nmodel: MLP\ntrainer:\n  min_epochs: 1\n", "trainer", "lines 1 and 4"),
    "an option twice": ("trainer:\n  max_epochs: 3\n  max_epochs: 4\n", "trainer.max_epochs", "lines 2 and 3"),
    "an option twice in a line": ("trainer: {max_epochs: 3, max_epochs: 4}\n", "trainer.max_epochs", "(line 1)"),
    "an argument twice": (
        "model:\n  class_path: MLP\n  init_args:\n    widths: [3]\n    dropout: 0.1\n    widths: [4]\n",
        "model.init_args.widths is given twice (lines 4 and 6)",
    ),
    "a class twice": (
        "model:\n  class_path: MLP\n  class_path: CNN\n",
        "model.class_path is given twice (lines 2 and 3)",
    ),
    "an argument twice in a list": (
        "data:\n  init_args:\n    augment:\n    - class_path: MixUp\n      class_path: CutMix\n",
        "data.init_args.augment.class_path is given twice (lines 4 and 5)",
    ),
    "a key of JSON twice": ('{"seed_everything": 1,\n "seed_everything": 2}', "seed_everything", "lines 1 and 2"),
    "empty": ("", "is empty, or all of its lines are comments"),
    "comments alone": ("# trainer:\n#   max_epochs: 3\n\n", "is empty, or all of its lines are comments"),
    "only a beginning of a document": ("---\n", "is empty"),
    "a group without an option": (
        "seed_everything: 3\ntrainer:\n#  max_epochs: 3\n",
        "line 2: trainer has nothing under it",
    ),
    "a group that is null": ("early_stopping: null\n", "line 1: early_stopping has nothing under it", "patience"),
    "a group that is a tilde": ("checkpoint: ~\n", "line 1: checkpoint has nothing under it"),
    "a model without a name": (
        "model:\ndata: Digits\n",
        "line 1: model has nothing under it; write the name of a class",
    ),
    "a tab": ("trainer:\n\tmax_epochs: 3\n", "line 2: a tab, where YAML takes blanks only"),
    "an open bracket": ("model:\n  init_args: {widths: [3\n", "line 3: this is no YAML"),
    "a colon too much": ("seed_everything: 1\nname: a: b\n", "line 2: this is no YAML"),
    "an open quote": ('name: "a\n', "this is no YAML"),
    "an unknown alias": ("name: *a\n", "line 1: this is no YAML (found undefined alias"),
    "a sign that begins nothing": ("name: @a\n", "line 1: a value that begins with @ has to be quoted"),
    "a tag": ("name: !env HOME\n", "line 1: this is no YAML", "!env"),
    "a list as a key": ("? [a, b]\n: 3\n", "line 1", "key"),
    "two documents": ("name: a\n---\nname: b\n", "line 2: this is no YAML (found another document"),
    "a zero byte": ("name: a\nlog_dir: \0\0\0\n", "line 2: a character that no text has"),
    "a list": ("- model: MLP\n", "line 1: found a list, expected options with their values"),
    "a text": ("max_epochs 3\n", "line 1: found the text 'max_epochs 3'"),
    "a number as a key": ("name: a\n3: 4\n", "line 2: found 3 as a key, expected the name of an option"),
    "a truth value as a key": ("on: 3\n", "line 1: found on as a key"),
}


@pytest.mark.parametrize(("text", "parts"), [(text, parts) for text, *parts in MISTAKES.values()], ids=list(MISTAKES))
def test_a_mistake_is_named_with_its_file_and_line(text, parts):
    with pytest.raises(UserError) as error:
        check_text(text, "mine.yaml", is_run=True)
    assert str(error.value).startswith("mine.yaml")
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "model: MLP\ndata: Digits\n",
        "model:\n  init_args:\n    lr_scheduler:\n    widths: [3]\n",  # null is a value of this one
        "a: &one {b: 1}\nc: *one\nd: {<<: *one, b: 2}\n",
        "data:\n  init_args: {missing: {1: x, '1': y}}\n",  # a number and a text
        "trainer: {callbacks: [{class_path: A}, {class_path: B}]}\n",
        "name: 2024-13-45\n",  # a text, although YAML would take it for a date
        "\ufeffmodel: MLP\n",
        "model: MLP\r\ndata: Digits\r\n",
    ],
)
def test_what_is_right_is_not_refused(text):
    check_text(text, "mine.yaml", is_run=True)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"# gr\xf6\xdfer\nseed_everything: 1\n", ["(line 1)"]),
        (b"seed_everything: 1\nname: gr\xf6\xdfer\n", ["(line 2)"]),
        ("name: größer\n".encode("utf-16"), ["but UTF-16"]),
        ("name: größer\n".encode("utf-16-be"), []),
        ("name: größer\n".encode("cp1252"), ["(line 1)"]),
        ("name: 名前\n".encode("shift-jis"), []),
    ],
)
def test_a_file_in_another_encoding_is_named(tmp_path, content, parts):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    for option in ("config", "trainer", "model", "data", "model.optimizer"):
        with pytest.raises(UserError) as error:
            check_files([f"--{option}", str(path)])
        for part in (f"{path} is not UTF-8 text", "save it as UTF-8", *parts):
            assert part in str(error.value)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--config", "no.yaml"], ["config: the file no.yaml does not exist"]),
        (["--config=no.yaml"], ["config: the file no.yaml does not exist"]),
        (["--trainer", "no.yaml"], ["trainer: the file no.yaml does not exist"]),
        (["--trainer", "gpu"], ["trainer: the file gpu does not exist"]),
        (["--early_stopping", "no.yaml"], ["early_stopping: the file no.yaml does not exist"]),
        (["--model", "no.yaml"], ["model: the file no.yaml does not exist"]),
        (["--model.optimizer=no.yml"], ["model.optimizer: the file no.yml does not exist"]),
        (["--config", "."], ["is a folder"]),
        (["--config", ""], ["--config has no value"]),
        (["--trainer="], ["--trainer has no value"]),
        (["--config", "first.yaml", "--config", "second.yaml"], ["second.yaml, line 2: a tab"]),
        (["--trainer", "{max_epochs: 1, max_epochs: 2}"], ["--trainer: max_epochs is given twice"]),
        (["--config", "{model: MLP, model: CNN}"], ["--config: model is given twice"]),
    ],
)
def test_the_file_that_is_wrong_is_named(tmp_path, monkeypatch, words, parts):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first.yaml").write_text("trainer:\n  max_epochs: 2\n")
    (tmp_path / "second.yaml").write_text("trainer:\n\tmin_epochs: 1\n")
    with pytest.raises(UserError) as error:
        check_files(words)
    for part in parts:
        assert part in str(error.value)


def test_a_name_is_not_taken_for_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MLP").mkdir()
    check_files(["--model", "MLP", "--data", "mine.Data", "--model.optimizer", "SGD", "--model.optimizer.lr", "3"])


@pytest.mark.parametrize("command", ["fit", "check"])
def test_a_command_refuses_such_a_file_before_anything_else(cli, tmp_path, command):
    (tmp_path / "mine.yaml").write_text("trainer:\n  max_epochs: 3\ntrainer:\n  min_epochs: 1\n")
    sentence = cli(f"{command} --config mine.yaml --model MLP --data Digits").refusal()
    assert sentence == "mine.yaml: trainer is given twice (lines 1 and 3); join the two into one."


def test_a_file_with_a_byte_order_mark_is_read(cli, tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xef\xbb\xbftrainer:\n  max_epochs: 7\n")
    printed = cli("fit --config mine.yaml --model MLP --data Digits --print_config").out
    assert yaml.safe_load(printed)["trainer"]["max_epochs"] == 7


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (
            "--model.widths 64 32",
            "model.widths: found 64, expected a list; write it in brackets and quotes, '[64]', or",
        ),
        ("--model.widths 64,32", "'[64, 32]'."),
        ("--model.widths '64 32'", "'[64, 32]'."),
        ("--model.widths (64,32)", "'[64, 32]'."),
        ("--metrics macro_f1", "'[macro_f1]', or '[macro_f1, ...]' for several."),
        ("--allow train_as_test", "'[train_as_test]', or"),
        ("--trainer.max_epochs 1 2", "2 belongs to no option; write several values as a list, '[..., 2]'"),
        ("run.yaml", "run.yaml belongs to no option; write several values as a list"),
        ("--model.optimizer null", "model.optimizer: found null, expected the name of a class"),
        ("--threads null", "threads: found null, expected an integer."),
        ("--metrics null", "metrics: found null, expected a list."),
        ("--log_dir null", "log_dir is null, expected the path of a folder"),
        ("--log_dir ''", "log_dir is empty, expected the path of a folder"),
        ("--trainer.max_epochs null", "trainer.max_epochs is null, and neither trainer.max_steps nor trainer.max_time"),
    ],
)
def test_lists_words_and_null_on_the_command_line(cli, option, expected):
    assert expected in cli(f"fit --model MLP --data Digits {option}").refusal()


def test_a_seed_that_is_null_in_a_file_is_refused(cli, tmp_path):
    (tmp_path / "mine.yaml").write_text("seed_everything: null\n")
    sentence = cli("fit --config mine.yaml --model MLP --data Digits").refusal()
    assert sentence.startswith("seed_everything is null, expected an integer")
