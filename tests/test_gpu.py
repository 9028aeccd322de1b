"""Runs on a GPU of NVIDIA: mixed precision, resuming, data in its memory. `pytest -m gpu`, where there is one."""

from pathlib import Path

import pytest
import torch

from tests.exactness.same import differences, first_event_file, next_second
from tests.exactness.test_resume import stop
from visionbench.runs.folder import RunFolder

ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
PRECISIONS = ["bf16-mixed", "16-mixed"]
OVERLAY = f"--trainer {ROOT / 'configs' / 'trainer' / 'gpu.yaml'}"
LINE = (
    f"fit --model CNN --model.widths [8,16] --model.convs [1,1] --model.dropouts [0.2,0.2] --data Digits {OVERLAY} "
    "--data.augment [RandomCrop] --data.batch_size 64 --checkpoint.every_n_steps 5 --objective.metric val/acc "
    "--trainer.max_epochs 4 --figures none"
)
PLATEAU = (
    "--model.optimizer.lr 0.02 --model.lr_scheduler ReduceLROnPlateau --model.lr_scheduler.patience 0 "
    "--model.lr_scheduler.threshold 0.5 --model.lr_scheduler.factor 0.5"
)


def fit(cli, line):
    first_event_file()
    result = cli(line)
    assert result.status == 0, result
    return result


@pytest.fixture(scope="module")
def whole(cli_in, tmp_path_factory):
    """Runs that nobody stopped, by precision; each is trained when it is first asked for."""
    made = {}

    def of(precision):
        if precision not in made:
            folder = tmp_path_factory.mktemp("whole")
            fit(cli_in(folder), f"{LINE} {PLATEAU} --trainer.precision {precision} --run_dir whole")
            made[precision] = RunFolder(folder / "whole")
        return made[precision]

    return of


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_run_is_trained_on_the_gpu_in_the_precision(whole, precision):
    run = whole(precision)
    assert torch.cuda.get_device_name() in run.metadata["device"]
    assert run.config["trainer"]["precision"] == precision
    assert run.metadata["metrics"]["test/acc"] > 0.5  # ten classes


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_command_gives_the_same_run(whole, cli, tmp_path, precision):
    fit(cli, f"{LINE} {PLATEAU} --trainer.precision {precision} --run_dir again")
    assert differences(whole(precision).path, tmp_path / "again") == []


@pytest.mark.parametrize("place", [("step", 9), ("step", 40), ("validation", 3), ("checkpoint", 7)], ids=str)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_stopped_run_that_is_resumed_is_the_same_run(whole, cli, tmp_path, precision, place):
    first_event_file()
    assert stop(cli, f"{LINE} {PLATEAU} --trainer.precision {precision} --run_dir stopped", *place)
    next_second()
    assert cli("fit --resume stopped").status == 0
    assert differences(whole(precision).path, tmp_path / "stopped") == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_is_resumed_through_the_memory_map_is_the_same_run(whole, cli, tmp_path, workers):
    line = f"{LINE} {PLATEAU} --data.memory_budget 0 --data.workers {workers} --trainer.precision bf16-mixed"
    first_event_file()
    assert stop(cli, f"{line} --run_dir stopped", "step", 30)
    next_second()
    result = cli("fit --resume stopped")
    assert result.status == 0, result
    assert "through the memory map" in result.out + result.err
    assert differences(whole("bf16-mixed").path, tmp_path / "stopped") == []


def test_the_plateau_lowers_the_learning_rate(whole):
    rates = [float(row["lr"]) for row in whole("bf16-mixed").rows]
    assert rates[0] == 0.02
    assert rates[-1] < rates[0]


def test_the_best_checkpoint_is_of_the_best_epoch(whole):
    run = whole("bf16-mixed")
    scores = [float(row["val/acc"]) for row in run.rows]
    best = torch.load(run.path / "checkpoints" / "best.ckpt", weights_only=True)
    assert scores[best["epoch"]] == max(scores)
    assert run.metadata["best_epoch"] == best["epoch"]


def test_the_overlay_is_all_that_a_config_needs(cli, tmp_path):
    line = f"fit --config {ROOT / 'configs' / 'mlp.yaml'} {OVERLAY} --data Digits"
    fit(cli, f"{line} --trainer.max_epochs 1 --run_dir overlay")
    run = RunFolder(tmp_path / "overlay")
    assert torch.cuda.get_device_name() in run.metadata["device"]
    assert run.metadata["precision"] == "bf16-mixed"
