"""Every mistake is one sentence with exit status 2, and leaves nothing behind."""

import dataclasses
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import visionbench
from visionbench.cli import COMMANDS
from visionbench.config import short_help
from visionbench.data import fashion_mnist

DIGITS = "fit --model MLP --data Digits"

MISTAKES = {
    "devices that are no number": (
        "fit --model MLP --data Digits --trainer.devices a",
        "trainer.devices is a, expected auto, a number of devices",
    ),
    "unknown model": (
        "fit --model CNM --data Digits",
        "model.class_path: there is no class CNM; known: ",
        "FrozenResNet",
        "PatchMLP",
        "did you mean CNN?",
    ),
    "unknown data set": (
        "fit --model MLP --data Digit",
        "data.class_path: there is no class Digit; known: ",  # and those of other tests in this process
        "BoneBreak, CIFAR10, Digits, FashionMNIST",
        "did you mean Digits?",
    ),
    "unknown module": (
        "fit --model nosuch.Net --data Digits",
        "model.class_path: there is no module nosuch, neither in ",
    ),
    "Python file": ("fit --model nets.py --data Digits", "the name of a class in it: --model nets.NAME, started in"),
    "class that is no model": (
        "fit --model torch.nn.Linear --data Digits",
        "model.class_path: torch.nn.Linear is not a subclass of visionbench.models.Classifier; known: ",
    ),
    "unknown class in a module": (
        "fit --model visionbench.models.Nett --data Digits",
        "model.class_path: there is no class Nett in visionbench.models;",
    ),
    "class in small letters": ("fit --model cnn --data Digits", "there is no class cnn; known: ", "did you mean CNN?"),
    "model for a file": ("fit MLP --data Digits", "MLP is a model, not a file of settings; write --model MLP."),
    "option without a value": (f"{DIGITS} --resume", "--resume has no value; give one after it, or --resume=VALUE"),
    "part's option without a value": (
        f"{DIGITS} --model.optimizer.lr --threads 1",
        "--model.optimizer.lr has no value",
    ),
    "file without a name": ("fit --config", "--config has no value"),
    "unknown optimizer": (
        f"{DIGITS} --model.optimizer Adamm",
        "model.optimizer.class_path: there is no class Adamm; known: ",
        "did you mean Adam?",
    ),
    "unknown option": (f"{DIGITS} --trainer.max_epoch 3", "--trainer.max_epoch;", "did you mean --trainer.max_epochs?"),
    "abbreviated option": (f"{DIGITS} --trainer.max_epo 1", "--trainer.max_epo;", "did you mean --trainer.max_epochs?"),
    "unknown model option": (f"{DIGITS} --model.widhts [3]", "--model.widhts;", "did you mean --model.widths?"),
    "option of the optimizer": (f"{DIGITS} --model.lr 0.1", "--model.lr;", "did you mean --model.optimizer.lr?"),
    "option of the scheduler": (f"{DIGITS} --model.patience 3", "did you mean --model.lr_scheduler.patience?"),
    "option of another group": (f"{DIGITS} --data.max_epochs 3", "did you mean --trainer.max_epochs?"),
    "option by another name": (
        f"{DIGITS} --epochs 3",
        "There is no option --epochs; did you mean --trainer.max_epochs?",
    ),
    "option of another model": (
        f"{DIGITS} --model.filter_size 3",
        "MLP has no option --model.filter_size, which CNN",  # and models of other tests in this process
    ),
    "option without its group": (f"{DIGITS} --max_epochs 3", "--max_epochs;", "did you mean --trainer.max_epochs?"),
    "checkpoint path": (f"{DIGITS} --ckpt_path x", "There is no option --ckpt_path"),
    "text as a number": (
        f"{DIGITS} --trainer.max_epochs many",
        "trainer.max_epochs: found many, expected an integer or null.",
    ),
    "comma in a number": (f"{DIGITS} --model.optimizer.lr 0,01", "expected a number; write it with a point, 0.01."),
    "text as a seed": (f"{DIGITS} --seed_everything x", "seed_everything: found x, expected an integer."),
    "unknown precision": (f"{DIGITS} --trainer.precision 8", "expected one of 64, 32, 16, transformer-engine, "),
    "number for a mapping": (
        "fit --model MLP --data Table --data.source x --data.target y --data.missing 0",
        "data.missing: found 0, expected a mapping or null; write it in braces and quotes, '{NAME: VALUE}'.",
    ),
    "text as a model's number": (
        "fit --model CNN --data Digits --model.dense x",
        "model.dense: found x, expected an integer.",
    ),
    "text as an optimizer's number": (f"{DIGITS} --model.optimizer.lr fast", "model.optimizer.lr: found fast"),
    "unknown choice": (f"{DIGITS} --model.activation rleu", "model.activation: found rleu, expected one of relu, "),
    "missing config": ("fit --config nofile.yaml", "config: the file nofile.yaml does not exist"),
    "base of the models": (
        "fit --model Classifier --data Digits",
        "Classifier is only the base of the classes; known: CNN",
    ),
    "scheduler of another kind": (
        f"{DIGITS} --model.lr_scheduler torch.nn.Linear",
        "model.lr_scheduler.class_path: torch.nn.Linear is not a subclass of LRScheduler; known: ",
    ),
    "unknown augmentation": (
        f"{DIGITS} --data.augment [MixUpp]",
        "data.augment: there is no class MixUpp",
        "did you mean MixUp?",
    ),
    "augmentation that is no list": (
        f"{DIGITS} --data.augment MixUp",
        "data.augment: found MixUp, expected a list; write it in brackets and quotes, '[MixUp]', or '[MixUp, ...]'",
    ),
    "callback that is no list": (
        f"{DIGITS} --trainer.callbacks EarlyStopping",
        "trainer.callbacks: found EarlyStopping, expected a list or null; write it in brackets and quotes,",
    ),
    "option of two other data sets": (
        f"{DIGITS} --data.missing 0",
        "--data.missing, which HeartFailure and Table have",
    ),
    "option of another optimizer": (
        f"{DIGITS} --model.optimizer.momentum 1",
        "Adam has no option --model.optimizer.momentum, which ConvMuon, Muon, RMSprop and others have; remove it.",
    ),
    "slip that another class would take": (
        "fit --model MLP --data Digits --model.width [8]",
        "There is no option --model.width; did you mean --model.widths?",
    ),
    "no data": ("fit --model MLP", "No data is given", "--data NAME"),
    "no model": ("fit --data Digits", "No model is given", "--model NAME"),
    "option of no model": ("fit --data Digits --model.dropout 0.5", "No model is given; name it with --model NAME"),
    "option of no data": ("fit --model MLP --data.batch_size 3", "No data is given; name it with --data NAME"),
    "no source": ("fit --model MLP --data ImageFolder", "--data.source and --data.size must be given", "--data.help"),
    "no step size": (f"{DIGITS} --model.lr_scheduler StepLR", "--model.lr_scheduler.step_size must be given"),
    "handwritten classes": (f"{DIGITS} --model.num_classes 7", "model.num_classes is set to 7", "remove it"),
    "handwritten shape": (f"{DIGITS} --model.input_shape [1,28,28]", "model.input_shape is set to", "remove it"),
    "unlogged objective": (f"{DIGITS} --objective.metric train/f1", "train/f1, which is logged by nothing", "val/acc"),
    "unknown objective": (f"{DIGITS} --objective.metric val/f1", "There is no metric 'f1'; did you mean macro_f1?"),
    "objective of many values": (f"{DIGITS} --objective.metric val/per_class_f1", "one metric for each class"),
    "unknown metric": (f"{DIGITS} --metrics [balanced_acuracy]", "did you mean balanced_accuracy?"),
    "class without a metric": (f"{DIGITS} --metrics [f1_10]", "There is no metric 'f1_10'"),
    "two-class metric for ten classes": (f"{DIGITS} --metrics [auc]", "auc is defined for 2 classes", "has 10 classes"),
    "no metric class": (f"{DIGITS} --metrics [collections.Counter]", "collections.Counter is no torchmetrics.Metric"),
    "additional metric of the test set as objective": (
        f"{DIGITS} --metrics [macro_f1] --objective.metric test/macro_f1",
        "nothing may be chosen on",
    ),
    "additional objective the wrong way round": (
        f"{DIGITS} --objective.metric val/macro_f1 --objective.mode min",
        "val/macro_f1 is better when it is large",
    ),
    "test set as objective": (f"{DIGITS} --objective.metric test/acc", "test/acc", "nothing may be chosen on"),
    "objective the wrong way round": (
        f"{DIGITS} --objective.metric val/acc --objective.mode min",
        "objective.mode is min, but val/acc is better when it is large",
    ),
    "plateau without validation": (
        f"{DIGITS} --data.val_size 0 --model.lr_scheduler ReduceLROnPlateau",
        "ReduceLROnPlateau watches val/loss, but there is no validation",
    ),
    "early stopping without validation": (
        f"{DIGITS} --data.val_size 0 --early_stopping.patience 1",
        "early_stopping watches val/loss, but there is no validation",
    ),
    "early stopping without validation batches": (
        f"{DIGITS} --trainer.limit_val_batches 0 --early_stopping.patience 1",
        "early_stopping watches val/loss, but there is no validation",
    ),
    "true as a seed": (f"{DIGITS} --seed_everything true", "seed_everything", "expected an integer"),
    "unknown accelerator": (
        f"{DIGITS} --trainer.accelerator warp",
        "trainer.accelerator is warp, which is unknown",
        "cpu",
    ),
    "plateau stepped at each step": (
        f"{DIGITS} --model.lr_scheduler ReduceLROnPlateau --model.lr_interval step",
        "model.lr_interval is step",
    ),
    "no epochs": (f"{DIGITS} --trainer.max_epochs 0", "trainer.max_epochs is 0, expected 1 or more"),
    "no batches": (f"{DIGITS} --trainer.limit_train_batches 0", "trainer.limit_train_batches is 0, expected"),
    "validation of everything": (f"{DIGITS} --data.val_size 1437", "val_size asks for 1437 of the 1437"),
    "validation of nothing": (f"{DIGITS} --data.val_size 0.0001", "not one image"),
    "unknown optimizer option": (f"{DIGITS} --model.optimizer SGD --model.optimizer.momentun 1", "optimizer.momentum?"),
    "help of a class in no module": ("fit --model.help nosuch.Net", "there is no module nosuch", "MLP"),
    "help of no class": ("fit --data.help Digit", "there is no class Digit", "Digits"),
    "help of no optimizer": (
        "fit --model MLP --model.optimizer.help SDG",
        "no class SDG; known: ",
        "did you mean SGD?",
    ),
    "model of another kind": (
        "fit --model torch.nn.Linear --data Digits",
        "model.class_path: torch.nn.Linear is not a subclass",
    ),
    "seed below zero": (f"{DIGITS} --seed_everything=-1", "seed_everything is -1", "0 to 4294967295"),
    "seed too large": (f"{DIGITS} --seed_everything 5000000000", "seed_everything is 5000000000"),
    "order's seed below zero": (f"{DIGITS} --data.seed=-3", "data.seed is -3"),
    "validation too rare": (
        f"{DIGITS} --trainer.max_epochs 3 --trainer.check_val_every_n_epoch 4",
        "check_val_every_n_epoch is 4, but max_epochs is 3",
    ),
    "processes that hide their metrics": (f"{DIGITS} --trainer.strategy ddp_fork", "ddp_fork", "use ddp"),
    "a part of the weights in each process": (f"{DIGITS} --trainer.strategy fsdp", "strategy is fsdp,", "use ddp"),
    "a part of the weights, by a class": (
        f"{DIGITS} --trainer.strategy lightning.pytorch.strategies.DeepSpeedStrategy",
        "strategy is DeepSpeedStrategy,",
    ),
    "impossible dropout": (f"{DIGITS} --model.dropout 1.5", "dropout", "1.5"),
    "impossible learning rate": (f"{DIGITS} --model.optimizer.lr=-1", "learning rate: -1"),
    "impossible smoothing": (f"{DIGITS} --model.label_smoothing 2", "model.label_smoothing is 2.0"),
    "path as a name": (f"{DIGITS} --name a/b", "'a/b'", "--log_dir"),
    "upwards as a name": (f"{DIGITS} --name ..", "'..'", "--log_dir"),
    "impossible batch size": (f"{DIGITS} --data.batch_size 0", "data.batch_size is 0, expected 1 or more"),
    "impossible log folder": (f"{DIGITS} --log_dir file.txt", "file.txt", "--log_dir"),
    "command in capitals": ("FIT --config x", "There is no command FIT; did you mean fit?"),
    "misspelled command": ("fti --config x", "There is no command fti; did you mean fit?"),
    "unknown command": (
        "zzz --config x",
        "There is no command zzz; the commands are fit, check, schema, validate, test",
    ),
    "test of nothing": ("test", "test needs a run folder first"),
    "test with only options": ("test --model MLP", "test needs a run folder first"),
    "check of a run": ("check --resume nowhere", "check tries the start of a new run; leave --resume out."),
    "test of no folder": ("test nowhere", "nowhere is not a run folder (there is no such folder); give one like"),
    "one argument too many": ("study new a b", "b is one argument too many; remove it, or see visionbench study new -"),
    "no name": ("new", "NAME must be given; see visionbench new --help."),
    "text as a number of runs": ("study run x --workers two", "--workers is two, expected an integer."),
    "unknown executor": ("study run x --executor y", "--executor is y, expected one of local, ray."),
    "two kinds of a study": ("study new a --grid --compare", "--compare and --grid exclude each other; give only one"),
    "study's free option without a value": ("study run x --data.root --dry_run", "--data.root has no value"),
    "test of another folder": ("test empty", "empty is not a run folder", "config.yaml"),
}


@pytest.mark.parametrize(("line", "parts"), [(line, parts) for line, *parts in MISTAKES.values()], ids=list(MISTAKES))
def test_a_mistake_in_the_command_is_one_sentence(cli, tmp_path, line, parts):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    sentence = cli(line).refusal()
    for part in parts:
        assert part in sentence
    assert {path.name for path in tmp_path.rglob("*")} == {"empty", "file.txt"}  # nothing of a run is left behind


FILES = {
    "unknown option of the trainer": (
        "{model: MLP, data: Digits, trainer: {max_epoch: 3}}",
        "--trainer.max_epoch;",
        "did you mean --trainer.max_epochs?",
    ),
    "unknown option of the model": (
        "{model: {class_path: MLP, init_args: {widhts: [3]}}, data: Digits}",
        "--model.widhts;",
        "did you mean --model.widths?",
    ),
    "unknown key at the top": (
        "{model: MLP, data: Digits, sed_everything: 3}",
        "There is no option --sed_everything; did you mean --seed_everything?",
    ),
    "wrong type": ("{model: MLP, data: Digits, trainer: {max_epochs: many}}", "trainer.max_epochs: found many"),
    "wrong nested type": (
        "{model: {class_path: CNN, init_args: {dense: x}}, data: Digits}",
        "model.dense: found x, expected an integer.",
    ),
    "handwritten classes": (
        "{model: {class_path: MLP, init_args: {num_classes: 10}}, data: Digits}",
        "model.num_classes is set to 10",
    ),
    "handwritten shape": (
        "{model: {class_path: MLP, init_args: {input_shape: [1, 28, 28]}}, data: Digits}",
        "model.input_shape is set to",
    ),
    "options beside the name of a class": (
        "{model: {class_path: MLP, dropout: 0.5}, data: Digits}",
        "model: found {'class_path': 'MLP', 'dropout': 0.5}, expected the name of a class with its options, as in ",
        "model: {class_path: NAME, init_args: {OPTION: VALUE}}.",
    ),
    "options with points beside the name of a class": (
        "{model: MLP, model.dropout: 0.5, data: Digits}",
        "model: found (dropout=0.5), expected the name of a class with its options",
    ),
    "base of the models": (
        "{model: {class_path: Classifier, init_args: {l1: 0.1}}, data: Digits}",
        "Classifier is only the base of the classes; known: CNN",
    ),
    "broken": ("model: [unclosed\nx: {", "run.yaml, line 2: this is no YAML"),
}


@pytest.mark.parametrize(("text", "parts"), [(text, parts) for text, *parts in FILES.values()], ids=list(FILES))
def test_a_mistake_in_a_file_is_one_sentence(cli, tmp_path, text, parts):
    (tmp_path / "run.yaml").write_text(text)
    sentence = cli("fit --config run.yaml").refusal()
    for part in parts:
        assert part in sentence
    assert not (tmp_path / "lightning_logs").exists()


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("x = 1\ndef f(:\n", "line 2: invalid syntax"),
        ("import nosuchpackage\n", "line 1: ModuleNotFoundError: No module named 'nosuchpackage'"),
        ("def f():\n    return undefined\n\nf()\n", "line 4: NameError: name 'undefined' is not defined"),
        ("int('x')\n", "line 1: ValueError: invalid literal for int() with base 10: 'x'"),
    ],
)
@pytest.mark.parametrize("option", ["--model", "--model MLP --model.optimizer"])
def test_a_mistake_in_a_module_is_named_with_its_line(cli, tmp_path, text, mistake, option):
    name = f"broken_{len(text)}_{len(option)}"  # of this module alone, since Python keeps what it has imported
    (tmp_path / f"{name}.py").write_text(text)
    sentence = cli(f"fit {option} {name}.Net --data Digits").refusal()
    assert f": the module of the class cannot be imported ({name}.py, {mistake}); correct the module." in sentence


def test_data_that_cannot_be_had_say_where_they_were_looked_for(cli, tmp_path, monkeypatch):
    nowhere = dataclasses.replace(fashion_mnist.ORIGIN, mirrors=(), system_folder=tmp_path / "system")
    monkeypatch.setattr(fashion_mnist, "ORIGIN", nowhere)
    sentence = cli("fit --model MLP --data FashionMNIST --data.offline true --data.root root").refusal()
    for part in ("Fashion-MNIST", str(tmp_path / "system"), "root/downloads", "offline is on", "--data.source"):
        assert part in sentence
    assert not (tmp_path / "lightning_logs").exists()


def test_a_data_set_that_only_python_can_make_is_not_offered(cli):
    assert "Arrays" not in cli("fit --model MLP --data Arays").refusal().partition("known: ")[2]


def test_without_a_command_the_usage_is_shown(cli):
    bare, asked = cli(""), cli("--help")
    assert (bare.status, asked.status) == (2, 0)
    assert "usage: visionbench COMMAND" in asked.out
    assert bare.out == asked.out
    for command in COMMANDS:
        assert f"\n  {command.name} {command.usage[0][0]} " in asked.out


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_each_command_of_the_table_has_its_function(command):
    module, _, function = command.module.partition(":")
    assert callable(getattr(importlib.import_module(module), function or "run"))


def test_help_lists_the_options_that_most_runs_need_with_their_defaults(cli):
    shown, every = cli("fit --help"), cli("fit --help all").out
    assert shown.status == 0
    config = yaml.safe_load(cli(f"{DIGITS} --print_config").out)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    options = [entry for _, entries in short_help.GROUPS for entry in entries]
    assert 25 <= len(options) <= 35
    for option, _, meaning, default in options:
        assert option in shown.out
        assert meaning in shown.out
        group, _, name = option.removeprefix("--").partition(".")
        if group in ("model", "data") and name:
            value = data if group == "data" else model
            for part in name.split("."):
                value = value.get("init_args", value)[part]
        else:
            assert re.search(rf"^  .*{re.escape(option)}\b", every, re.MULTILINE), option
            value = config.get(group)
            value = value[name] if name else value
        if option == "--figures":  # which these tests set to none
            assert re.search(r"--figures .*?default: final", every, re.DOTALL)
        elif default:
            value = value["class_path"].rpartition(".")[2] if isinstance(value, dict) else value
            assert default == str(value), option


def test_all_help_lists_every_option(cli):
    every = cli("fit --help all")
    assert every.status == 0
    assert len(every.out.splitlines()) > 300
    assert "--trainer.accumulate_grad_batches" in every.out
    assert cli("check -h").out.startswith("usage: visionbench check")


def test_the_version_is_printed(cli):
    shown = cli("--version")
    assert (shown.status, shown.out) == (0, f"visionbench {visionbench.__version__}\n")


def test_check_does_not_offer_what_it_refuses(cli):
    assert "--resume" in cli("fit --help").out
    assert "--resume" not in cli("check --help").out


@pytest.mark.parametrize(
    "command",
    [
        *("repeat", "compare", "test", "data list", "data verify", "study run", "new"),
        *("repeat one", "compare one two", "test one", "data show Digits"),
    ],
)
def test_help_of_a_command_is_its_usage(cli, command):
    shown = cli(f"{command} --help")
    assert (shown.status, shown.err) == (0, "")
    assert shown.out.startswith(f"usage: visionbench {command.partition(' ')[0]}")


@pytest.mark.parametrize(
    ("option", "first"),
    [
        ("--model.optimizer.help Adam", "--model"),
        ("--model.lr_scheduler.help StepLR", "--model"),
        ("--data.augment.help RandomCrop", "--data"),
    ],
)
def test_help_of_a_part_needs_its_class_first(cli, option, first):
    assert cli(f"fit {option}").refusal() == f"Give {first} NAME or --config FILE before {option.split()[0]}."


def test_help_of_a_model_lists_its_options(cli):
    shown = cli("fit --model.help CNN")
    assert "num_classes" not in shown.out  # which the data set gives
    assert not shown.out.startswith("usage:")
    assert shown.status == 0
    assert "--model.dense" in shown.out


def test_files_and_options_override_in_the_order_given(cli, tmp_path):
    (tmp_path / "first.yaml").write_text("{model: MLP, data: Digits, seed_everything: 1, trainer: {max_epochs: 3}}")
    (tmp_path / "second.yaml").write_text("{seed_everything: 2, trainer: {min_epochs: 1, max_epochs: 4}}")
    line = "fit --config first.yaml --config second.yaml --trainer.max_epochs 5 --print_config"
    shown = cli(line)
    assert (shown.status, shown.err) == (0, "")
    config = yaml.safe_load(shown.out)
    assert config["seed_everything"] == 2
    assert config["trainer"]["min_epochs"] == 1
    assert config["trainer"]["max_epochs"] == 5
    assert not (tmp_path / "lightning_logs").exists()


def test_the_whole_configuration_is_printed_on_request(cli):
    config = yaml.safe_load(cli(f"{DIGITS} --print_config").out)
    assert config["model"]["init_args"]["widths"] == [256, 128, 64]
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.001
    assert config["data"]["init_args"]["batch_size"] == 64
    assert config["trainer"]["max_epochs"] == 10
    assert config["objective"] == {"metric": "val/loss", "mode": None}


OWN_NET = '''
"""A model of the user's own."""

from torch import nn

from visionbench.models import Classifier


class MyNet(Classifier):
    def __init__(self, num_classes, input_shape, nodes: int = 8, **kwargs):
        super().__init__(num_classes, input_shape, **kwargs)
        channels, height, width = input_shape
        self.network = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * height * width, nodes), nn.ReLU(), nn.Linear(nodes, num_classes)
        )
'''


def write_own_net(folder: Path, package: str) -> str:
    (folder / package).mkdir()
    (folder / package / "nets.py").write_text(OWN_NET)
    return f"fit --model {package}.nets.MyNet --model.nodes 4 --data Digits --trainer.max_epochs 1"


def test_a_model_from_the_current_folder_trains(cli, tmp_path):
    result = cli(write_own_net(tmp_path, "own_package"))
    assert (result.status, result.err) == (0, "")
    assert "MyNet, 3,190 parameters" in result.out
    assert (tmp_path / "lightning_logs" / "mynet" / "version_0" / "run.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    "entry", [[sys.executable, "-m", "visionbench"], [str(Path(sys.executable).with_name("visionbench"))]]
)
def test_both_entries_find_a_model_in_the_current_folder(tmp_path, digits_root, monkeypatch, entry):
    monkeypatch.setenv("VISIONBENCH_DATA", str(digits_root))
    line = write_own_net(tmp_path, "own_package")
    done = subprocess.run([*entry, *line.split()], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "MyNet, 3,190 parameters" in done.stdout


def test_a_mistake_gives_the_shell_its_exit_status(tmp_path):
    done = subprocess.run([sys.executable, "-m", "visionbench", "fti"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("visionbench: error: There is no command fti")
