"""What a run leaves behind: that it is whole, right, and the same when it is run again."""

import csv
import errno
import gc
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from tests.fakes import write_images, write_table
from visionbench.data import Digits
from visionbench.errors import RunFailed, UserError
from visionbench.evaluation.intervals import wilson_interval
from visionbench.evaluation.predictions import read_predictions
from visionbench.inference.trained import open_run
from visionbench.models import CNN, MLP
from visionbench.runs.checkpoints import AtomicCheckpointIO
from visionbench.runs.folder import RunFolder
from visionbench.runs.identity import weights_digest

SMALL = "fit --model MLP --model.widths [16] --data Digits --trainer.precision 32-true"
HEADER = ["epoch", "step", "lr", "train/loss", "train/acc", "val/loss", "val/acc"]


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def report(run: Path) -> dict:
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(folder.rglob("*"))}


class Fitted:
    """A finished run and the command line in the folder it lies in."""

    def __init__(self, cli, folder, line):
        self.cli = cli
        self.result = cli(line)
        assert self.result.status == 0, self.result
        self.run = folder / "lightning_logs" / "mlp" / "version_0"
        self.path = self.run.relative_to(folder)


@pytest.fixture(scope="module")
def fitted(cli_in, tmp_path_factory):
    """Two epochs of a small MLP with dropout."""
    folder = tmp_path_factory.mktemp("fitted")
    return Fitted(cli_in(folder, draws=True), folder, f"{SMALL} --model.dropout 0.2 --trainer.max_epochs 2")


def evaluate(model, data, part="test"):
    """Loss and accuracy, computed by other means than the run's."""
    loader = getattr(data, f"{part}_dataloader")()
    model.eval()
    with torch.no_grad():
        logits, labels = zip(*[(model(images), labels) for images, labels in loader], strict=True)
    logits, labels = torch.cat(logits), torch.cat(labels)
    return torch.nn.functional.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item()


def digits(root, **arguments):
    data = Digits(root=str(root), **arguments)
    data.setup()
    return data


def test_the_run_folder_holds_what_is_promised_and_no_more(fitted):
    files = {path.relative_to(fitted.run).as_posix() for path in fitted.run.rglob("*") if path.is_file()}
    assert {name for name in files if not name.startswith("figures/") and "tfevents" not in name} == {
        "predictions/test.csv",
        "predictions/test-probabilities.npy",
        "predictions/val.csv",
        "predictions/val-probabilities.npy",
        "config.yaml",
        "input.json",
        "metrics.csv",
        "run.json",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "checkpoints/previous.ckpt",
        ".lock",
        "step-losses.bin",
    }
    assert files > {"run.json"}


def test_the_metrics_file_has_a_row_an_epoch_and_no_times(fitted):
    lines = rows(fitted.run)
    assert list(lines[0]) == HEADER
    assert [(row["epoch"], row["step"]) for row in lines] == [("0", "21"), ("1", "42")]
    assert all(float(row[name]) > 0 for row in lines for name in HEADER[2:])
    assert float(lines[0]["lr"]) == 0.001


def test_the_report_has_the_documented_keys_and_no_nan(fitted):
    text = (fitted.run / "run.json").read_text(encoding="utf-8")
    content = json.loads(text, parse_constant=pytest.fail)
    assert set(content) == {
        *("schema", "command", "config_digest", "code", "git", "versions", "device", "precision", "threads", "seed"),
        *("data_digest", "parameters", "trainable", "epochs", "best_epoch", "seconds", "metrics", "weights_digest"),
        *("nondeterministic", "resumed", "start", "status", "world_size", "item", "objective", "cpu_seconds"),
        *("counts", "findings", "identity", "test_openings", "opening", "split_digests"),
        *("copies_of_training", "result", "processor", "ended"),
    }
    assert content["status"] == "finished"
    assert content["objective"] == {"metric": "val/loss", "mode": "min"}
    assert content["counts"] == {"train": 1293, "val": 144, "test": 360}
    assert content["parameters"] == content["trainable"] == 784 * 16 + 16 + 16 * 10 + 10
    assert (content["epochs"], content["seed"], content["precision"]) == (2, 0, "32-true")
    assert content["command"][:2] == ["visionbench", "fit"]


def test_the_reports_metrics_are_those_of_the_best_epoch(fitted):
    content, lines = report(fitted.run), rows(fitted.run)
    best = min(lines, key=lambda row: float(row["val/loss"]))
    assert content["best_epoch"] == int(best["epoch"])
    for name in ("train/loss", "train/acc", "val/loss", "val/acc"):
        assert content["metrics"][name] == float(best[name])
    assert set(content["metrics"]) == {*HEADER[3:], "test/loss", "test/acc"}


def test_the_checkpoints_load_without_trusting_them(fitted):
    for name, epoch in (("best", report(fitted.run)["best_epoch"]), ("last", 1)):
        checkpoint = torch.load(fitted.run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert checkpoint["epoch"] == epoch
    best = torch.load(fitted.run / "checkpoints" / "best.ckpt", weights_only=True)
    assert weights_digest(best["state_dict"]) == report(fitted.run)["weights_digest"]


def test_a_checkpoint_gives_the_model_that_was_reported(fitted, digits_root):
    path = fitted.run / "checkpoints" / "best.ckpt"
    model = MLP.load_from_checkpoint(path, weights_only=True, map_location="cpu")
    loss, accuracy = evaluate(model, digits(digits_root))
    metrics = report(fitted.run)["metrics"]
    assert accuracy == pytest.approx(metrics["test/acc"], abs=1e-12)
    assert loss == pytest.approx(metrics["test/loss"], rel=1e-5)


def test_tensorboard_has_the_curves_and_the_final_metrics(fitted):
    scalars, hparams = {}, {}
    (file,) = fitted.run.glob("events.out.tfevents.*")  # of fit, test and what follows
    events = EventAccumulator(str(file)).Reload()
    for tag in events.Tags()["scalars"]:
        scalars.setdefault(tag, []).extend(events.Scalars(tag))
    for metadata in events.summary_metadata.values():
        if metadata.plugin_data.plugin_name == "hparams":
            data = plugin_data_pb2.HParamsPluginData.FromString(metadata.plugin_data.content)
            hparams |= dict(data.session_start_info.hparams)
    assert {"train/loss", "train/acc", "val/loss", "val/acc", "lr"} <= set(scalars)
    assert "hp_metric" not in scalars
    assert scalars["test/acc"][-1].value == pytest.approx(report(fitted.run)["metrics"]["test/acc"])
    logged = [event.value for event in scalars["val/acc"]]
    assert logged == [pytest.approx(float(row["val/acc"])) for row in rows(fitted.run)]  # the epochs', nothing more
    for name, value in report(fitted.run)["metrics"].items():
        assert [event.value for event in scalars[f"final/{name}"]] == [pytest.approx(value)]
    assert hparams["model.widths"].string_value == "[16]"
    assert hparams["model.optimizer.lr"].number_value == 0.001
    assert hparams["model.dropout"].number_value == 0.2
    empty = {name for name, value in hparams.items() if str(value) in ("", 'string_value: ""')}
    assert not {name for name, value in hparams.items() if value.string_value in ("None", "[]", "{}")} | empty
    assert "model.optimizer.betas" not in hparams  # Adam's own
    assert "trainer.max_steps" not in hparams  # no limit
    assert "data.fold_is" not in hparams  # there are no folds


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def data_modules():
    return sum(type(thing) is Digits for thing in gc.get_objects())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux lists a process's open files there")
@pytest.mark.usefixtures("fitted")  # the first run of a process also loads libraries
def test_a_run_leaves_no_thread_and_no_open_file(cli, tmp_path):
    line = f"{SMALL} --trainer.max_epochs 1 --figures final"
    threads, descriptors, modules = threading.enumerate(), open_descriptors(), data_modules()
    assert cli(line).status == 0
    assert (threading.enumerate(), open_descriptors(), data_modules()) == (threads, descriptors, modules)
    assert len(list((tmp_path / "lightning_logs/mlp/version_0").glob("events.out.tfevents.*"))) == 1


def test_a_run_that_breaks_closes_its_event_file(cli, breaking):
    threads = threading.enumerate()
    with pytest.raises(RuntimeError, match="a bug"):
        cli(breaking("breaks_by_itself", 'RuntimeError("a bug")'))
    assert threading.enumerate() == threads


def test_the_closing_block_has_the_result(fitted):
    metrics = report(fitted.run)["metrics"]
    low, high = wilson_interval(round(metrics["test/acc"] * 360), 360)
    out = fitted.result.out
    assert f"Digits test accuracy {100 * metrics['test/acc']:.2f} %" in out
    assert f"(95 % interval {100 * low:.2f} to {100 * high:.2f}, 360 images)" in out
    assert f"test loss   {metrics['test/loss']:.4f}" in out
    assert "baseline    10.28 % of 360 images, by always predicting 1\n" in out  # 37 of 360
    predictions = RunFolder(fitted.run).predictions("test")
    wrong = Counter(
        (label, predicted)
        for label, predicted in zip(predictions.labels.tolist(), predictions.predicted.tolist(), strict=True)
        if label != predicted
    )
    sizes = Counter(predictions.labels.tolist())
    first = max(wrong, key=lambda pair: (wrong[pair], -pair[0], -pair[1]))
    assert f"confused    {first[0]} as {first[1]} ({wrong[first]} of {sizes[first[0]]});" in out
    assert "parameters  12,730" in out
    assert " of training" in out
    assert f"run         {fitted.path}" in out
    assert "tensorboard --logdir lightning_logs" in out
    assert fitted.result.err == ""


@pytest.mark.parametrize("command", ["test", "validate"])
def test_evaluating_a_run_gives_its_metrics_and_writes_nothing_but_the_count_of_tests(fitted, command):
    before = listing(fitted.run.parents[2])
    result = fitted.cli(f"{command} {fitted.path}")
    stage = {"test": "test", "validate": "val"}[command]
    assert (result.status, result.err) == (0, "")
    assert f" accuracy {100 * report(fitted.run)['metrics'][f'{stage}/acc']:.2f} %" in result.out
    assert f" loss   {report(fitted.run)['metrics'][f'{stage}/loss']:.4f}" in result.out
    after = listing(fitted.run.parents[2])
    ledger = fitted.run.parents[1] / "test-ledger.jsonl"
    counted = {str(fitted.run), str(fitted.run / "run.json"), str(ledger)} if command == "test" else set()
    changed = {path for path in before | after if before.get(path) != after.get(path)}
    assert {path for path in changed if not path.endswith(".lock")} == counted  # old versions of filelock truncate it


def test_evaluating_a_run_as_another_model_is_refused(fitted):
    sentence = fitted.cli(f"test {fitted.path} --model.widths [3]").refusal()
    assert "The checkpoint does not fit the model" in sentence
    assert "network.hidden.0.0.weight" in sentence


def test_a_run_can_be_repeated_from_its_own_config(fitted, cli, tmp_path):
    shutil.copy(fitted.run / "config.yaml", tmp_path / "again.yaml")
    assert cli("fit --config again.yaml").status == 0
    again = tmp_path / "lightning_logs" / fitted.run.parent.name / "version_0"
    assert (again / "metrics.csv").read_bytes() == (fitted.run / "metrics.csv").read_bytes()
    for key in ("weights_digest", "config_digest", "data_digest"):
        assert report(again)[key] == report(fitted.run)[key]


def test_the_plateau_scheduler_waits_for_epochs_that_are_validated(cli, tmp_path):
    line = "fit --model MLP --data Digits --model.widths [8] --trainer.max_epochs 4 --trainer.check_val_every_n_epoch 2"
    plateau = "--model.lr_scheduler ReduceLROnPlateau --model.lr_scheduler.patience 0 --model.optimizer.lr 0"
    assert cli(f"{line} {plateau}").status == 0
    assert len((tmp_path / "lightning_logs/mlp/version_0/metrics.csv").read_text().splitlines()) == 5


@pytest.mark.parametrize("config", ["cnn", "mlp"])
def test_gradients_can_be_clipped_in_mixed_precision(cli, config):
    path = Path(__file__).parent.parent / "configs" / f"{config}.yaml"
    line = f"fit --config {path} --data Digits --trainer.max_epochs 1 --trainer.limit_train_batches 2"
    result = cli(f"{line} --trainer.precision bf16-mixed --trainer.gradient_clip_val 1.0")
    assert result.status == 0
    assert "model.optimizer.fused is turned off" in result.out


def test_a_run_is_evaluated_from_any_folder_without_preparing_its_data_there(fitted, cli_in, tmp_path):
    result = cli_in(tmp_path)(f"test {fitted.run.resolve()}")
    assert result.status == 0
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_on_other_data_says_so(fitted, cli_in, tmp_path):
    command = f"validate {fitted.run.resolve()}"
    assert "note:" not in cli_in(tmp_path)(command).out
    assert "not those of the run" in cli_in(tmp_path)(f"{command} --data.train_size 100").out


def test_a_model_that_takes_nothing_but_the_shapes_trains(cli, tmp_path):
    (tmp_path / "bare_net.py").write_text(
        "from torch import nn\n"
        "from visionbench.models import Classifier\n\n\n"
        "class Bare(Classifier):\n"
        "    def __init__(self, num_classes: int, input_shape: tuple[int, int, int]):\n"
        "        super().__init__(num_classes, input_shape)\n"
        "        self.network = nn.Sequential(nn.Flatten(), nn.Linear(784, num_classes))\n"
    )
    result = cli("fit --model bare_net.Bare --data Digits --trainer.max_epochs 1")
    assert result.status == 0
    assert "training   Adam" in result.out


def test_the_config_of_a_run_holds_every_value(fitted):
    config = yaml.safe_load((fitted.run / "config.yaml").read_text())
    assert config["model"]["init_args"]["widths"] == [16]
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.001
    assert config["trainer"]["precision"] == "32-true"
    assert config["seed_everything"] == 0


@pytest.mark.parametrize(
    "line",
    [
        "--model MLP --model.widths [16] --model.dropout 0.5",
        "--model CNN --model.widths [4] --model.convs [1] --model.dropouts [0.5] --model.dense 8",
    ],
    ids=["MLP", "CNN"],
)
def test_the_same_command_gives_the_same_run_and_another_seed_another(cli, tmp_path, line):
    line = f"fit {line} --data Digits --trainer.max_epochs 2 --name x --data.augment+=RandomCrop"
    assert cli(line).status == 0
    first = listing(tmp_path / "lightning_logs" / "x" / "version_0")
    assert [cli(line).status, cli(f"{line} --seed_everything 1").status] == [0, 0]
    a, b, c = (tmp_path / "lightning_logs" / "x" / f"version_{n}" for n in range(3))
    assert listing(a) == first  # a later run changes nothing of an earlier one
    assert (a / "metrics.csv").read_bytes() == (b / "metrics.csv").read_bytes()
    assert report(a)["weights_digest"] == report(b)["weights_digest"] != report(c)["weights_digest"]
    assert (c / "metrics.csv").read_bytes() != (a / "metrics.csv").read_bytes()
    assert report(a)["data_digest"] == report(c)["data_digest"]


def test_the_seed_of_the_run_chooses_the_order_of_the_images(cli, tmp_path):
    line = f"{SMALL} --seed_everything 1 --trainer.max_epochs 1"
    assert [cli(f"{line} {more}").status for more in ("", "--data.seed 1", "--data.seed 0")] == [0, 0, 0]
    a, b, c = (report(tmp_path / "lightning_logs" / "mlp" / f"version_{n}")["weights_digest"] for n in range(3))
    assert a == b != c


def test_without_validation_the_last_epoch_is_the_result(cli, tmp_path):
    result = cli(f"{SMALL} --data.val_size 0 --trainer.max_epochs 2")
    run = tmp_path / "lightning_logs" / "mlp" / "version_0"
    assert result.status == 0
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt"}
    assert all(row["val/loss"] == row["val/acc"] == "" for row in rows(run))
    assert report(run)["best_epoch"] == 1
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert weights_digest(last["state_dict"]) == report(run)["weights_digest"]
    assert f"Digits test accuracy {100 * report(run)['metrics']['test/acc']:.2f} %" in result.out
    assert "nan" not in result.out.lower()


def test_a_trial_run_writes_nothing(cli, tmp_path):
    result = cli(f"{SMALL} --trainer.fast_dev_run true")
    assert (result.status, result.err) == (0, "")
    assert list(tmp_path.iterdir()) == []


class PutsInAnyOrder(MLP):
    """Calls what torch has no deterministic form of, on any device."""

    def forward(self, images):
        torch.zeros(2).put_(torch.tensor([0]), torch.tensor([1.0]))
        return super().forward(images)


def test_kernels_without_a_deterministic_form_are_named(cli, tmp_path):
    line = "fit --model tests.test_fit.PutsInAnyOrder --data Digits --trainer.max_epochs 1 --trainer.deterministic"
    try:
        result = cli(f"{line} warn --name warned")
    finally:
        torch.use_deterministic_algorithms(False)
    assert (result.status, result.err) == (0, "")
    assert report(tmp_path / "lightning_logs/warned/version_0")["nondeterministic"] == ["put_"]
    assert cli(f"{line} false --name plain").status == 0
    assert report(tmp_path / "lightning_logs/plain/version_0")["nondeterministic"] == []  # a processor repeats itself


def test_a_run_without_checkpoints_still_reports(cli, tmp_path):
    assert cli(f"{SMALL} --trainer.enable_checkpointing false --trainer.max_epochs 1").status == 0
    run = tmp_path / "lightning_logs" / "mlp" / "version_0"
    assert not list(run.rglob("*.ckpt"))
    assert "test/acc" in report(run)["metrics"]


@pytest.mark.parametrize("dropout", [0, 0.3])
def test_a_run_has_the_same_weights_with_and_without_checkpoints(cli, tmp_path, dropout):
    line = f"{SMALL} --model.dropout {dropout} --data.val_size 0 --trainer.max_epochs 2"
    assert [cli(f"{line} --trainer.enable_checkpointing {on}").status for on in ("true", "false")] == [0, 0]
    a, b = (tmp_path / "lightning_logs" / "mlp" / f"version_{n}" for n in range(2))
    assert report(a)["weights_digest"] == report(b)["weights_digest"]
    assert (a / "step-losses.bin").read_bytes() == (b / "step-losses.bin").read_bytes()
    assert not (b / "checkpoints").exists()


def test_training_ends_early_when_nothing_improves(cli, tmp_path):
    standstill = "--model.optimizer SGD --model.optimizer.lr 0 --trainer.max_epochs 5 --early_stopping.patience 1"
    assert cli(f"{SMALL} {standstill}").status == 0
    run = tmp_path / "lightning_logs" / "mlp" / "version_0"
    assert len(rows(run)) == report(run)["epochs"] == 2


def test_the_learning_rate_falls_on_a_plateau_and_is_noted_as_it_was_used(cli, tmp_path):
    """A learning rate so small that all epochs are equal, and falls on a plateau of accuracy as it does of loss."""
    assert (
        cli(
            f"{SMALL} --objective.metric val/acc --trainer.max_epochs 4 --model.optimizer SGD "
            "--model.optimizer.lr 1e-12 --model.lr_scheduler ReduceLROnPlateau --model.lr_scheduler.patience 0"
        ).status
        == 0
    )
    run = tmp_path / "lightning_logs" / "mlp" / "version_0"
    rates = [float(row["lr"]) for row in rows(run)]
    assert rates[:2] == [1e-12, 1e-12]  # the rate of an epoch is the one it was trained with
    assert rates[2] == pytest.approx(1e-13)


SCRIPTED_NET = """
import torch
from visionbench.models import MLP

class Scripted(MLP):
    def __init__(self, *args, losses: list[float] = [3.0, 2.0, 1.0, 4.0], **kwargs):
        super().__init__(*args, **kwargs)
        self.losses = losses

    def on_validation_epoch_end(self):
        script = {"val/loss": self.losses, "val/acc": [0.1, 0.5, 0.5, 0.2]}
        self.log_dict({name: torch.tensor(values[self.current_epoch]) for name, values in script.items()})
"""


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_the_learning_rate_of_an_epoch_is_the_last_it_was_trained_with(cli, tmp_path, interval):
    scheduler = f"--model.lr_scheduler StepLR --model.lr_scheduler.step_size 1 --model.lr_interval {interval}"
    limits = "--trainer.max_epochs 3 --trainer.limit_train_batches 2"
    assert cli(f"{SMALL} {scheduler} --model.lr_scheduler.gamma 0.5 {limits}").status == 0
    rates = [float(row["lr"]) for row in rows(tmp_path / "lightning_logs" / "mlp" / "version_0")]
    assert rates == pytest.approx({"epoch": [1e-3, 5e-4, 2.5e-4], "step": [5e-4, 1.25e-4, 3.125e-5]}[interval])


@pytest.mark.parametrize(
    ("objective", "best"),
    [
        ("", 2),
        ("--objective.metric val/loss", 2),
        ("--objective.metric val/acc", 1),
        ("--model.losses [.nan,2,3,4]", 1),
        ("--model.losses [.inf,2,3,4]", 1),
    ],
)
def test_the_objective_picks_the_epoch_and_the_first_of_equals(cli, tmp_path, objective, best):
    (tmp_path / "scripted_net.py").write_text(SCRIPTED_NET)
    line = f"{SMALL.replace('MLP', 'scripted_net.Scripted')} --trainer.max_epochs 4 --name x"
    assert cli(f"{line} {objective}").status == 0
    run = tmp_path / "lightning_logs" / "x" / "version_0"
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert report(run)["best_epoch"] == checkpoint["epoch"] == best
    assert report(run)["weights_digest"] == weights_digest(checkpoint["state_dict"])
    assert report(run)["metrics"]["train/loss"] == float(rows(run)[best]["train/loss"])
    assert f"test loss   {report(run)['metrics']['test/loss']:.4f}" in cli(f"test {run}").out  # of those weights


def test_an_epoch_whose_validation_loss_is_not_finite_is_never_the_best(cli, tmp_path):
    (tmp_path / "scripted_net.py").write_text(SCRIPTED_NET)
    line = f"{SMALL.replace('MLP', 'scripted_net.Scripted')} --trainer.max_epochs 4 --name x --figures final"
    result = cli(f"{line} --model.losses [.nan,.nan,.nan,.nan]")
    assert result.status == 1
    assert "diverged   not a number: the validation loss first in epoch 1; the run is not tested" in result.out
    run = tmp_path / "lightning_logs" / "x" / "version_0"
    assert (report(run)["status"], report(run)["metrics"], report(run)["best_epoch"]) == ("diverged", {}, None)
    assert not (run / "checkpoints" / "best.ckpt").exists()
    assert (run / "figures" / "learning-curves.svg").is_file()


def test_a_plateau_scheduler_follows_the_objectives_direction(cli, tmp_path):
    line = f"{SMALL} --trainer.max_epochs 1 --model.lr_scheduler ReduceLROnPlateau"
    assert cli(f"{line} --objective.metric val/acc").status == 0
    assert cli(line).status == 0
    modes = []
    for version in (0, 1):
        path = tmp_path / "lightning_logs" / "mlp" / f"version_{version}" / "checkpoints" / "best.ckpt"
        modes.append(torch.load(path, weights_only=True)["lr_schedulers"][0]["mode"])
    assert modes == ["max", "min"]


def test_an_epoch_without_validation_has_empty_cells(cli, tmp_path):
    result = cli(f"{SMALL} --trainer.check_val_every_n_epoch 2 --trainer.max_epochs 3")
    assert result.status == 0
    lines = rows(tmp_path / "lightning_logs" / "mlp" / "version_0")
    assert [bool(row["val/loss"]) for row in lines] == [False, True, False]
    assert [bool(row["val/acc"]) for row in lines] == [False, True, False]
    assert report(tmp_path / "lightning_logs" / "mlp" / "version_0")["best_epoch"] == 1
    shown = [line for line in result.out.splitlines() if line.startswith("epoch ")]
    assert ["val loss" in line for line in shown] == [False, True, False]


def test_without_the_final_test_the_test_set_is_not_looked_at(cli, tmp_path):
    result = cli(f"{SMALL} --test_after_fit false --trainer.max_epochs 1")
    assert result.status == 0
    assert not [name for name in report(tmp_path / "lightning_logs/mlp/version_0")["metrics"] if "test" in name]
    assert "test accuracy" not in result.out


def test_a_shortened_test_counts_the_images_it_saw(cli):
    result = cli(f"{SMALL} --trainer.max_epochs 1 --trainer.limit_test_batches 2")
    assert result.status == 0
    assert ", 128 images)" in result.out


BREAKING_NET = """
from visionbench.models import MLP

class Breaks(MLP):
    def training_step(self, batch, batch_idx):
        if self.current_epoch == 1:
            raise {exception}
        return super().training_step(batch, batch_idx)
"""


@pytest.fixture
def breaking(tmp_path):
    """Writes a model that raises in its second epoch; gives the command that trains it."""

    def write(module, exception):
        (tmp_path / f"{module}.py").write_text(BREAKING_NET.format(exception=exception))
        return f"{SMALL.replace('MLP', f'{module}.Breaks')} --trainer.max_epochs 3 --name broken"

    yield write
    for name in ("breaks_by_itself", "breaks_by_hand"):
        sys.modules.pop(name, None)


def test_a_run_that_breaks_keeps_what_it_has_and_says_that_it_failed(cli, tmp_path, breaking):
    with pytest.raises(RuntimeError, match="a bug"):
        cli(breaking("breaks_by_itself", 'RuntimeError("a bug")'))
    run = tmp_path / "lightning_logs" / "broken" / "version_0"
    assert len(rows(run)) == 1
    assert (run / "checkpoints" / "best.ckpt").is_file()
    ended_as(run, "failed")
    assert report(run)["error"] == "RuntimeError: a bug."
    assert f"{run} is failed" in cli(f"compare {run} {run}").out
    assert "epochs" not in cli(f"repeat {run}").refusal()


def test_an_interrupted_run_ends_with_130_and_says_so(cli, tmp_path, breaking):
    result = cli(breaking("breaks_by_hand", "KeyboardInterrupt"))
    assert result.status == 130
    assert "Interrupted in epoch 2" in result.out
    run = tmp_path / "lightning_logs" / "broken" / "version_0"
    assert len(rows(run)) == 1
    ended_as(run, "interrupted")
    assert "error" not in report(run)


def ended_as(run, status):
    """A run that ended in its second epoch has recorded what is known of its first, and no score."""
    metadata = report(run)
    assert metadata["schema"] == 2
    assert metadata["status"] == RunFolder(run).status == status
    assert (metadata["epochs"], metadata["best_epoch"], metadata["weights_digest"]) == (1, 0, None)
    assert metadata["metrics"] == {n: float(v) for n, v in rows(run)[0].items() if n.startswith(("train/", "val/"))}
    assert metadata["counts"]["val"] > 0
    assert metadata["test_openings"] == 0
    with pytest.raises(UserError, match=f"is {status}, and only a finished run has metrics"):
        open_run(run).metrics  # noqa: B018 - a property that raises


def test_a_run_that_breaks_before_its_first_step_has_failed_without_metrics(cli, tmp_path):
    (tmp_path / "breaks_at_once.py").write_text(
        "from visionbench.models import MLP\n\n\nclass Breaks(MLP):\n"
        "    def on_fit_start(self):\n        raise ZeroDivisionError\n"
    )
    with pytest.raises(ZeroDivisionError):
        cli(f"{SMALL.replace('MLP', 'breaks_at_once.Breaks')} --name broken")
    metadata = report(tmp_path / "lightning_logs" / "broken" / "version_0")
    assert (metadata["status"], metadata["error"]) == ("failed", "ZeroDivisionError")
    assert (metadata["metrics"], metadata["epochs"], metadata["best_epoch"]) == ({}, 0, None)


DIVERGING = """
import torch
from visionbench.models import MLP


class Diverges(MLP):
    '''Its third loss of the second epoch is not a number.'''

    bad = (1, 2)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * float("nan") if (self.current_epoch, batch_idx) == self.bad else loss


class DivergesAtOnce(Diverges):
    bad = (0, 1)


class BadWeights(MLP):
    '''Its last step of the second epoch leaves weights that are not finite, and no loss shows it.'''

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.current_epoch == 1 and batch_idx == self.trainer.num_training_batches - 1:
            with torch.no_grad():
                next(self.parameters()).fill_(float("inf"))


class Skips(MLP):
    '''Gives no loss for some batches, which is no divergence.'''

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx == 1 else loss
"""


@pytest.fixture
def diverging(cli, tmp_path):
    """Runs a model of the file above for three epochs; gives the command's result and the run folder."""
    (tmp_path / "diverging_net.py").write_text(DIVERGING)

    def run(kind, options=""):
        line = SMALL.replace("--model MLP", f"--model diverging_net.{kind}")
        assert line != SMALL
        return cli(f"{line} --trainer.max_epochs 3 --name x {options}"), tmp_path / "lightning_logs" / "x" / "version_0"

    return run


def test_a_run_ends_in_the_epoch_of_the_first_loss_that_is_not_finite(cli, tmp_path, diverging):
    result, run = diverging("Diverges")
    assert result.status == 1, result
    metadata = report(run)
    place = metadata["divergence"]
    batches = len(RunFolder(run).step_losses) // 2
    assert (place["epoch"], place["batch"], place["step"]) == (1, 2, batches + 3)
    assert len(place["samples"]) == 64
    assert len(set(place["samples"])) == 64
    line = f"diverged   loss nan in epoch 2, batch 3 (step {place['step']}), on {', '.join(place['samples'][:3])}"
    assert f"{line} and 61 more; the run is not tested; the checkpoints are those of the 1 epoch before." in result.out
    assert "accuracy" not in result.out
    assert metadata["status"] == RunFolder(run).status == "diverged"
    assert (metadata["metrics"], metadata["best_epoch"], metadata["test_openings"]) == ({}, None, 0)
    assert len(RunFolder(run).rows) == 1
    for name in ("best", "last"):
        checkpoint = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert checkpoint["epoch"] == 0
        assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


def test_the_samples_of_the_batch_that_diverged_are_those_it_had(cli, tmp_path, diverging):
    (tmp_path / "diverging_net.py").write_text(DIVERGING)
    _, run = diverging("Diverges")
    data = Digits(root=RunFolder(run).config["data"]["init_args"]["root"], seed=0)
    data.setup()
    loader = data.train_dataloader()
    loader.sampler.set_epoch(1)
    labels = [batch[1] for batch in loader][2].tolist()
    names = report(run)["divergence"]["samples"]
    places = [int(name.removeprefix("train/")) for name in names]
    assert [int(data.store.arrays["train-labels"][place]) for place in places] == labels


def test_a_diverged_run_has_no_score_anywhere(cli, tmp_path, diverging):
    _, run = diverging("Diverges")
    assert f"{run} is diverged" in cli(f"compare {run} {run}").out
    for command in ("test", "validate"):
        assert f"{run} has diverged (loss nan in epoch 2, batch 3" in cli(f"{command} {run}").refusal()
    predicted = cli(f"predict {run} val")
    assert f"note: {run} has diverged (loss nan in epoch 2" in predicted.err
    assert "would do so again with the same settings" in cli(f"fit --resume {run}").refusal()
    assert cli(f"report {run}").status == 0
    assert "The run has diverged; loss nan in epoch 2, batch 3" in (run / "report.html").read_text()


def test_weights_that_are_not_finite_replace_no_checkpoint(diverging):
    result, run = diverging("BadWeights")
    assert result.status == 1
    assert "diverged   weights not finite in epoch 2" in result.out
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


def test_no_checkpoint_within_the_epoch_follows_a_loss_that_is_not_finite(diverging):
    result, run = diverging("Diverges", "--checkpoint.every_n_steps 1")
    assert result.status == 1
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(value.isfinite().all() for value in state["state_dict"].values())
    assert state["global_step"] == report(run)["divergence"]["step"] - 1


def test_a_run_that_diverges_in_its_first_epoch_keeps_no_checkpoint(diverging):
    result, run = diverging("DivergesAtOnce")
    assert result.status == 1
    assert "the run is not tested." in result.out
    assert not (run / "checkpoints").exists()


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_skipped_batch_is_no_divergence(diverging):
    result, run = diverging("Skips")
    assert result.status == 0, result
    assert report(run)["status"] == "finished"


def test_each_opening_of_the_test_images_is_counted(cli, tmp_path):
    assert cli(f"{SMALL} --trainer.max_epochs 1 --name x").status == 0
    run = tmp_path / "lightning_logs" / "x" / "version_0"
    before = report(run)
    assert (before["test_openings"], before["opening"]) == (1, 1)
    said = "the test images were opened {0} times in this log folder, {0} times by this run"
    assert said.format(2) in cli(f"test {run}").out
    assert "openings " not in cli(f"validate {run}").out
    assert said.format(3) in cli(f"test {run}").out
    assert report(run) == before | {"test_openings": 3, "opening": 3}
    assert cli(f"report {run}").status == 0
    assert said.format(3) in (run / "report.html").read_text(encoding="utf-8")
    assert cli(f"fit --resume {run} --trainer.max_epochs 2").status == 0
    assert report(run)["test_openings"] == 4


def test_an_opening_is_kept_by_a_run_that_was_killed(cli, tmp_path):
    assert cli(f"{SMALL} --trainer.max_epochs 1 --test_after_fit false --name x").status == 0
    run = RunFolder(tmp_path / "lightning_logs" / "x" / "version_0")
    assert report(run.path)["test_openings"] == 0
    run.metadata_path.unlink()
    assert "the test images were opened 1 time in this log folder, 1 time by this run" in cli(f"test {run}").out
    assert (run.status, run.test_openings) == ("interrupted", 1)
    assert cli(f"fit --resume {run} --test_after_fit true").status == 0
    assert (run.status, run.test_openings) == ("finished", 2)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)

    def write_half(_, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("visionbench.runs.checkpoints.torch.save", write_half)
    with pytest.raises(RunFailed, match="disk full"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("writes", ["lock", "write_input", "write_config"])
def test_a_disk_that_is_full_before_the_run_has_started_leaves_no_folder(cli, tmp_path, monkeypatch, writes):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RunFolder, writes, full)
    result = cli(f"{SMALL} --trainer.max_epochs 1")
    assert result.status == 1
    assert result.err.endswith("No space left on device); make room and start it again.\n")
    assert not (tmp_path / "lightning_logs").exists()


def test_a_run_whose_first_images_cannot_be_read_leaves_no_folder(cli, tmp_path, monkeypatch):
    def full(*_):
        raise RunFailed("The memory is full, so that the next images cannot be read.")

    monkeypatch.setattr(Digits, "train_dataloader", full)
    result = cli(f"{SMALL} --trainer.max_epochs 1")
    assert result.status == 1
    assert result.err.endswith("the next images cannot be read; make room and start it again.\n")
    assert not (tmp_path / "lightning_logs").exists()


@pytest.mark.parametrize("kind", [MLP, CNN])
def test_a_model_built_in_python_from_functions_has_a_loadable_checkpoint(tmp_path, digits_root, kind):
    model = kind(
        num_classes=10,
        input_shape=(1, 28, 28),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5),
    )
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=2,
        limit_val_batches=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    data = Digits(root=str(digits_root))
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    checkpoint = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["optimizer"]["init_args"]["lr"] == 0.05
    loaded = kind.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True, map_location="cpu")
    images, _ = next(iter(data.test_dataloader()))
    with torch.no_grad():
        assert torch.equal(loaded.eval()(images), model.eval()(images))
    made = loaded.configure_optimizers()
    assert (made["optimizer"].defaults["lr"], made["optimizer"].defaults["momentum"]) == (0.05, 0.9)
    assert (made["lr_scheduler"]["scheduler"].step_size, made["lr_scheduler"]["scheduler"].gamma) == (2, 0.5)


@pytest.mark.slow
def test_two_processes_share_a_run_and_its_metrics_are_of_the_whole_set(tmp_path, digits_root, monkeypatch):
    monkeypatch.setenv("VISIONBENCH_DATA", str(digits_root))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    line = (  # 143 images are not the same number for both
        f"{SMALL} --data.val_size 143 --trainer.max_epochs 2 "
        "--trainer.accelerator cpu --trainer.devices 2 --trainer.strategy ddp"
    )
    done = subprocess.run(
        [sys.executable, "-m", "visionbench", *line.split()], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "lightning_logs" / "mlp").iterdir()] == ["version_0"]
    run = tmp_path / "lightning_logs" / "mlp" / "version_0"
    assert len(rows(run)) == 2
    assert done.stdout.count("Digits test accuracy") == done.stdout.count("epoch 1/2") == 1
    model = MLP.load_from_checkpoint(run / "checkpoints" / "best.ckpt", weights_only=True, map_location="cpu")
    row = rows(run)[report(run)["best_epoch"]]
    for part, loss, accuracy in (
        ("val", float(row["val/loss"]), float(row["val/acc"])),
        ("test", report(run)["metrics"]["test/loss"], report(run)["metrics"]["test/acc"]),
    ):
        assert evaluate(model, digits(digits_root, val_size=143), part) == pytest.approx((loss, accuracy), rel=1e-5)
        predictions = read_predictions(run / "predictions", part, tuple("0123456789"))
        data = digits(digits_root, val_size=143)
        split = data.splits[part]
        assert predictions.labels.tolist() == data.store.arrays[f"{split.part}-labels"][split.index].tolist()
        assert (predictions.predicted == predictions.labels).mean() == accuracy


def rename_class(source, old, new):
    for folder in sorted(source.glob(f"**/{old}")):
        folder.rename(folder.with_name(new))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda source: rename_class(source, "apple", "cherry"), "cherry added; apple missing"),
        (lambda source: write_images(source, {"aardvark": 12}, seed=1), "aardvark added"),
    ],
)
def test_the_classes_of_a_run_are_not_mistaken_for_others(cli, tmp_path, change, what):
    write_images(tmp_path / "photos", {"apple": 12, "berry": 12})
    line = "fit --model MLP --model.widths [4] --data ImageFolder --data.source photos --data.size 8 --name x"
    assert cli(f"{line} --trainer.max_epochs 1 --data.test_size 4 --data.val_size 4").status == 0
    assert "accuracy" in cli("test lightning_logs/x/version_0").out
    change(tmp_path / "photos")
    for command in ("test", "validate"):
        result = cli(f"{command} lightning_logs/x/version_0")
        assert f"The classes of photos are no longer those that lightning_logs/x/version_0 was trained on ({what})" in (
            result.refusal()
        )
        assert "accuracy" not in result.out


def test_the_classes_of_a_table_are_not_mistaken_for_others(cli, tmp_path):
    write_table(tmp_path / "table", {"train": 60, "test": 20})
    line = "fit --model MLP --model.widths [4] --data Table --data.source table --data.target kind --name x"
    assert cli(f"{line} --trainer.max_epochs 1").status == 0
    for file in (tmp_path / "table").glob("*.csv"):
        file.write_text("".join(f"{row[:-1]}z\n" if row[-1] == "a" else f"{row}\n" for row in file.read_text().split()))
    assert "(z added; a missing)" in cli("test lightning_logs/x/version_0").refusal()


@pytest.mark.parametrize(
    ("model", "left_out"),
    [
        ("MLP --model.widths [4]", 0),
        ("MLP --model.widths [4] --model.batch_norm true", 1),
        ("CNN --model.widths [4,4,4]", 1),
        ("CNN --model.widths [4,4,4] --model.freeze [blocks,dense]", 0),
    ],
)
def test_only_a_batch_norm_that_trains_leaves_out_a_last_batch_of_one_image(cli, tmp_path, model, left_out):
    assert cli(f"fit --model {model} --data Digits --data.train_size 65 --trainer.max_epochs 1 --name x").status == 0
    run = tmp_path / "lightning_logs" / "x" / "version_0"
    assert len(RunFolder(run).step_losses) == 2 - left_out
    result = cli(f"fit --model {model} --data Digits --data.train_size 65 --trainer.max_epochs 1 --name y")
    assert ("left out   the last 1 image of each epoch, since batch norm needs two" in result.out) == bool(left_out)
