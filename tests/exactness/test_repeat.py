"""The same command twice, `visionbench repeat` and `visionbench compare`."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.exactness.same import DIGITS, SMALL, differences, first_event_file, report
from visionbench.data import loader
from visionbench.runs.folder import RunFolder

FIRST, SECOND = (Path("lightning_logs", "mlp", f"version_{n}") for n in (0, 1))
MODELS = {
    "MLP": "--model MLP --model.widths [16] --model.dropout 0.3",
    "CNN": "--model CNN --model.widths [4,8] --model.convs [1,1] --model.dropouts [0.2,0.2]",
    "PatchMLP": "--model PatchMLP --model.width 16 --model.patch_hidden 16 --model.feature_hidden 16",
    "WhitenedCNN": "--model WhitenedCNN --model.widths [8,16] --model.optimizer ConvMuon",
    "FrozenResNet": "--model FrozenResNet --model.weights none --model.min_size 32",
}
SCHEDULES = {
    "plateau": "--model.lr_scheduler ReduceLROnPlateau --model.lr_scheduler.patience 0",
    "one cycle": "--model.lr_scheduler OneCycleLR --model.lr_scheduler.max_lr 0.1 --model.lr_interval step",
}


def fit(cli, line):
    result = cli(line)
    assert result.status == 0, result
    return result


@pytest.fixture(autouse=True)
def first_event_file_first():
    first_event_file()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("model", list(MODELS))
def test_the_same_command_gives_the_same_run(cli, tmp_path, model, schedule, precision):
    line = f"{DIGITS} {MODELS[model]} {SCHEDULES[schedule]} --trainer.precision {precision} --data.batch_size 32"
    line += " --data.augment [RandomCrop] --trainer.limit_train_batches 4 --trainer.max_epochs 2 --name same"
    for _ in range(2):
        fit(cli, line)
    first, second = (tmp_path / "lightning_logs" / "same" / f"version_{n}" for n in (0, 1))
    assert differences(first, second) == []
    fit(cli, f"{line} --seed_everything 1")
    assert {"last state_dict", "step-losses.bin", "metrics.csv"} <= set(
        differences(first, first.with_name("version_2"))
    )


MAPPED = "--data.memory_budget 0 --data.workers"


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of one batch, so that there are many of them."""
    monkeypatch.setattr(loader, "BLOCK_BYTES", 1)


@pytest.mark.usefixtures("small_blocks")
def test_a_run_through_the_memory_map_is_the_same_as_one_in_memory(cli, tmp_path):
    line = f"{SMALL} --model.dropout 0.3 --data.augment [RandomCrop,MixUp] --trainer.max_epochs 2"
    assert "memory " not in fit(cli, line).out
    said = fit(cli, f"{line} {MAPPED} 2").out
    assert (
        "memory     images are read through the memory map, since 1.3 MiB are more than data.memory_budget, 0 GiB; "
        in (said)
    )
    assert differences(tmp_path / FIRST, tmp_path / SECOND) == []


@pytest.mark.slow
@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("model", list(MODELS))
def test_the_same_command_gives_the_same_run_through_the_memory_map(cli, tmp_path, model, workers):
    line = f"{DIGITS} {MODELS[model]} {SCHEDULES['plateau']} --data.batch_size 32 --trainer.limit_train_batches 6"
    line += " --data.augment [RandomCrop,CutMix] --trainer.max_epochs 2 --name same"
    fit(cli, line)
    for _ in range(2):
        fit(cli, f"{line} {MAPPED} {workers}")
    held, first, second = (tmp_path / "lightning_logs" / "same" / f"version_{n}" for n in range(3))
    assert differences(first, second) == []
    assert differences(held, first) == []


def test_repeat_says_that_it_is_the_same(cli, tmp_path):
    fit(cli, f"{SMALL} --model.dropout 0.3 --trainer.max_epochs 2")
    result = fit(cli, f"repeat {FIRST}")
    assert f"same        every loss, metric and weight is that of {FIRST}, bit for bit" in result.out
    assert differences(tmp_path / FIRST, tmp_path / SECOND) == []


def test_repeat_names_the_first_step_that_differs(cli, tmp_path):
    fit(cli, f"{SMALL} --trainer.max_epochs 2")
    values = RunFolder(tmp_path / FIRST).step_losses
    ours = values[6]
    values[6] = np.nextafter(ours, np.float32(9))  # the last bit
    values.tofile(tmp_path / FIRST / "step-losses.bin")
    result = cli(f"repeat {FIRST}")
    assert result.status == 1
    assert f"different   the loss of step 7 is {values[6]:.9g} in {FIRST} and {ours:.9g} in {SECOND}" in result.out


def test_repeat_with_other_settings_says_where_they_part_and_what_differs(cli):
    fit(cli, f"{SMALL} --trainer.max_epochs 1")
    result = cli(f"repeat {FIRST} --model.optimizer.lr 0.01")
    assert result.status == 1
    assert "different   the loss of step 2 is" in result.out  # before the first update they are the same
    assert "model.init_args.optimizer.init_args.lr  0.001 | 0.01" in result.out


def test_repeat_of_a_resumed_run_is_the_same(cli):
    fit(cli, f"{SMALL} --trainer.max_epochs 1")
    fit(cli, f"fit --resume {FIRST} --trainer.max_epochs 2")
    assert "same " in fit(cli, f"repeat {FIRST}").out


@pytest.mark.parametrize("path", ["mine", "../{}/mine"])
def test_a_run_that_is_named_from_its_own_folder_is_repeated_beside_it(cli, tmp_path, path):
    fit(cli, f"{SMALL} --trainer.max_epochs 1 --run_dir mine")
    assert "same " in fit(cli, f"repeat {path.format(tmp_path.name)}").out
    assert (tmp_path / "version_0" / "run.json").is_file()


def test_only_finished_runs_are_repeated(cli, tmp_path):
    fit(cli, f"{SMALL} --trainer.max_epochs 1")
    (tmp_path / FIRST / "run.json").unlink()
    assert f"visionbench fit --resume {FIRST}" in cli(f"repeat {FIRST}").refusal()
    assert "needs a run folder first" in cli("repeat").refusal()


def test_compare_says_what_differs_and_what_came_out(cli, tmp_path):
    fit(cli, f"{SMALL} --trainer.max_epochs 1")
    fit(cli, f"{SMALL} --trainer.max_epochs 2 --model.dropout 0.5 --seed_everything 3")
    path = tmp_path / SECOND / "run.json"
    changed = report(tmp_path / SECOND)
    changed["versions"]["torch"] = "0.4"
    path.write_text(json.dumps(changed))
    said = [line.rstrip() for line in fit(cli, f"compare {FIRST} {SECOND}").out.splitlines()]
    assert said[0] == f"runs          {FIRST} | {SECOND}  (the second minus the first)"
    begun = {line.split()[0]: line for line in said}
    assert begun["trainer.max_epochs"].endswith("1 | 2")
    assert begun["model.init_args.dropout"].endswith("0.0 | 0.5")
    assert begun["seed_everything"].endswith("0 | 3")
    assert begun["torch"].endswith("| 0.4")
    assert "model.init_args.widths" not in begun
    first, second = (report(tmp_path / run)["metrics"]["test/acc"] for run in (FIRST, SECOND))
    assert begun["test/acc"].split() == ["test/acc", f"{first:.6g}", "|", f"{second:.6g}", f"({second - first:+.3g})"]
    assert said[-1] == "weights       different"


def test_compare_of_equal_runs_finds_nothing(cli):
    for _ in range(2):
        fit(cli, f"{SMALL} --trainer.max_epochs 1")
    said = fit(cli, f"compare {FIRST} {SECOND}").out
    for part in ("configuration", "circumstances", "versions"):
        assert f"{part:<13} the same\n" in said
    assert said.endswith("weights       the same, bit for bit\n")
    assert "(+0)" in said


def test_compare_takes_two_runs(cli, tmp_path):
    fit(cli, f"{SMALL} --trainer.max_epochs 1")
    assert "found 1; give two" in cli(f"compare {FIRST}").refusal()
    assert "nowhere is not a run folder" in cli(f"compare {FIRST} nowhere").refusal()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.yaml").write_bytes((tmp_path / FIRST / "config.yaml").read_bytes())
    assert "unfinished is interrupted\n" in fit(cli, f"compare {FIRST} unfinished").out


def test_a_runs_configuration_gives_the_same_run(cli, tmp_path):
    fit(cli, f"{SMALL} --trainer.max_epochs 1")
    assert yaml.safe_load((tmp_path / FIRST / "config.yaml").read_text())["resume"] is None
    fit(cli, f"fit --config {FIRST}/config.yaml --name again")
    assert differences(tmp_path / FIRST, tmp_path / "lightning_logs" / "again" / "version_0") == []
