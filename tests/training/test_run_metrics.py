"""The metrics that a run computes besides loss and accuracy: their values, as the objective, over processes."""

import csv
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
import yaml

import visionbench
from tests.exactness.same import differences, first_event_file, next_second
from tests.exactness.test_resume import stop
from visionbench.evaluation.predictions import read_predictions
from visionbench.runs.folder import RunFolder

SMALL = "fit --model MLP --model.widths [16] --data Digits --trainer.precision 32-true"
RUN = Path("lightning_logs", "mlp", "version_0")
NAMES = ("balanced_accuracy", "macro_f1", "log_loss", "calibration_error")
ASKED = f"--metrics [{','.join(NAMES)}]"
CLASSES = tuple("0123456789")
OWN = """
import torch
from torchmetrics import Metric

class Wrong(Metric):
    higher_is_better = False

    def __init__(self):
        super().__init__()
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, probabilities, labels):
        if len(labels) > {largest}:
            raise RuntimeError("too many samples")
        self.count += (probabilities.argmax(1) != labels).sum()

    def compute(self):
        return self.count
"""


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def report(run: Path) -> dict:
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


def own_metric(folder: Path, monkeypatch: pytest.MonkeyPatch, module: str, largest: int = 1000) -> None:
    (folder / f"{module}.py").write_text(OWN.replace("{largest}", str(largest)))
    monkeypatch.syspath_prepend(str(folder))


def expected(run: Path, stage: str) -> dict[str, float]:
    """The metrics, computed by scikit-learn and NumPy from the predictions that the run kept."""
    kept = read_predictions(run / "predictions", stage, CLASSES)
    assert kept is not None
    confidence, correct = kept.confidence.astype(float), kept.predicted == kept.labels
    edges, error = np.linspace(0, 1, 16), 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            error += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    of_truth = kept.probabilities.astype(float)[np.arange(len(kept)), kept.labels]
    return {
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(kept.labels, kept.predicted),
        "macro_f1": sklearn.metrics.f1_score(kept.labels, kept.predicted, average="macro"),
        "log_loss": -np.log(of_truth).mean(),
        "calibration_error": error,
    }


def test_the_values_are_those_of_the_kept_predictions(cli, tmp_path):
    assert cli(f"{SMALL} {ASKED} --trainer.max_epochs 2").status == 0
    run = tmp_path / RUN
    metrics = report(run)["metrics"]
    for stage in ("val", "test"):
        for name, value in expected(run, stage).items():
            assert metrics[f"{stage}/{name}"] == pytest.approx(value, rel=1e-9), f"{stage}/{name}"
    row = rows(run)[report(run)["best_epoch"]]
    assert {name: float(row[f"val/{name}"]) for name in NAMES} == {name: metrics[f"val/{name}"] for name in NAMES}
    for command, stage in (("validate", "val"), ("test", "test")):
        printed = cli(f"{command} {RUN} --metrics [macro_f1,cohen_kappa]")
        assert printed.status == 0, printed
        assert f"macro_f1  {metrics[f'{stage}/macro_f1']:.4f}" in printed.out
        assert "cohen_kappa  " in printed.out
        assert "log_loss" not in printed.out
    assert cli(f"report {RUN}").status == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert f"{metrics['test/macro_f1']:.4f}" in page
    assert "Validation calibration_error" in page


def test_metrics_change_neither_training_nor_identity(cli, tmp_path):
    for options in ("", f"{ASKED} --predictions false", "--objective.metric val/macro_f1", "--metrics [acc]"):
        assert cli(f"{SMALL} --model.dropout 0.3 --trainer.max_epochs 2 {options}").status == 0
    plain, asked, watched, acc = (report(tmp_path / RUN.with_name(f"version_{number}")) for number in range(4))
    assert asked["weights_digest"] == plain["weights_digest"]
    assert asked["identity"] == plain["identity"] == acc["identity"] != watched["identity"]
    assert set(asked["metrics"]) - set(plain["metrics"]) == {f"{part}/{n}" for part in ("val", "test") for n in NAMES}
    assert acc["metrics"] == plain["metrics"]
    assert not (tmp_path / RUN.with_name("version_1") / "predictions").exists()


@pytest.mark.parametrize(("metric", "best"), [("macro_f1", max), ("calibration_error", min), ("f1_8", max)])
def test_a_metric_as_the_objective_picks_its_best_epoch(cli, tmp_path, metric, best):
    line = f"{SMALL} --model.optimizer.lr 0.02 --trainer.max_epochs 6 --objective.metric val/{metric}"
    result = cli(line)
    assert result.status == 0, result
    run = tmp_path / RUN
    values = [float(row[f"val/{metric}"]) for row in rows(run)]
    assert len(values) == 6
    assert report(run)["best_epoch"] == values.index(best(values)) != 0
    assert report(run)["objective"] == {"metric": f"val/{metric}", "mode": best.__name__}
    assert yaml.safe_load((run / "config.yaml").read_text())["metrics"] == [metric]
    assert f"val/{metric} {values[-1]:.4f}" in result.out


def test_plateau_and_early_stopping_follow_the_objective(cli, tmp_path):
    line = (
        f"{SMALL} --model.optimizer.lr 0.05 --trainer.max_epochs 12 --objective.metric val/macro_f1 "
        "--model.lr_scheduler ReduceLROnPlateau --model.lr_scheduler.patience 0 --early_stopping.patience 3"
    )
    assert cli(line).status == 0
    written = rows(tmp_path / RUN)
    values, rates = ([float(row[name]) for row in written] for name in ("val/macro_f1", "lr"))
    best, stale, rate, expected_rates = -1.0, 0, 0.05, []
    for value in values:
        expected_rates.append(rate)
        if value > best * (1 + 1e-4) if best > 0 else True:
            best = value
        else:
            rate *= 0.1
    assert rates == pytest.approx(expected_rates)
    assert len(set(rates)) > 1
    highest = -1.0
    for number, value in enumerate(values):
        highest, stale = (value, 0) if value > highest else (highest, stale + 1)
        assert (stale == 3) == (number == len(values) - 1)


def test_a_metric_of_the_user_is_computed_and_its_code_counts_where_it_is_the_objective(cli, tmp_path, monkeypatch):
    own_metric(tmp_path, monkeypatch, "own_metric")
    for options in ("", "--metrics [own_metric.Wrong]", "--objective.metric val/own_metric.Wrong"):
        assert cli(f"{SMALL} --trainer.max_epochs 2 {options}").status == 0
    plain, asked, watched = (report(tmp_path / RUN.with_name(f"version_{number}")) for number in range(3))
    kept = read_predictions(tmp_path / RUN.with_name("version_1") / "predictions", "test", CLASSES)
    assert asked["metrics"]["test/own_metric.Wrong"] == (kept.predicted != kept.labels).sum() > 0
    assert plain["code"] == asked["code"] != watched["code"]
    assert watched["objective"]["mode"] == "min"


def test_a_metric_of_the_user_that_fails_ends_the_run_with_a_sentence(cli, tmp_path, monkeypatch):
    own_metric(tmp_path, monkeypatch, "failing_metric", largest=200)  # validation passes, the test fails
    result = cli(f"{SMALL} --trainer.max_epochs 1 --metrics [failing_metric.Wrong]")
    assert result.status == 1
    assert (
        "failing_metric.Wrong failed on 360 samples: RuntimeError: too many samples; correct the metric" in result.err
    )
    assert result.err.count("\n") == 1
    assert cli(f"fit --resume {RUN} --metrics [macro_f1]").status == 0
    assert "test/macro_f1" in report(tmp_path / RUN)["metrics"]


def test_a_resumed_run_may_ask_for_other_metrics(cli, tmp_path):
    assert cli(f"{SMALL} --trainer.max_epochs 1 --metrics [macro_f1]").status == 0
    assert cli(f"fit --resume {RUN} --trainer.max_epochs 3 --metrics [cohen_kappa]").status == 0
    written = rows(tmp_path / RUN)
    assert [bool(row["val/macro_f1"]) for row in written] == [True, False, False]
    assert [bool(row["val/cohen_kappa"]) for row in written] == [False, True, True]


@pytest.mark.parametrize("place", [("step", 30), ("validation", 4)], ids=str)
def test_a_run_that_was_stopped_within_an_epoch_is_the_same_with_such_an_objective(cli_in, tmp_path, place):
    line = f"{SMALL} --model.dropout 0.3 --metrics [log_loss] --objective.metric val/macro_f1 --trainer.max_epochs 3"
    line += " --checkpoint.every_n_steps 4 --run_dir run"
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
        first_event_file()
        cli = cli_in(tmp_path / name)
        if name == "whole":
            assert cli(line).status == 0
            continue
        assert stop(cli, line, *place)
        next_second()
        result = cli("fit --resume run")
        assert result.status == 0, result
    assert differences(tmp_path / "whole/run", tmp_path / "stopped/run") == []


def test_python_takes_names_and_classes(tmp_path, monkeypatch, digits_root):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISIONBENCH_DATA", str(digits_root))
    own_metric(tmp_path, monkeypatch, "python_metric")
    import python_metric

    metrics = ["macro_f1", python_metric.Wrong]
    result = visionbench.fit("MLP", "Digits", max_epochs=1, metrics=metrics, **{"model.widths": [8]})
    assert {"val/macro_f1", "test/macro_f1", "test/python_metric.Wrong"} <= set(result.metrics)
    assert RunFolder(result.folder).metadata["metrics"] == result.metrics


@pytest.mark.slow
def test_two_processes_compute_the_metrics_of_the_whole_split(tmp_path, digits_root, monkeypatch):
    monkeypatch.setenv("VISIONBENCH_DATA", str(digits_root))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    own_metric(tmp_path, monkeypatch, "process_metric")
    line = (  # 143 images are not the same number for both
        f"{SMALL} --data.val_size 143 --trainer.max_epochs 2 --trainer.accelerator cpu --figures none "
        f"--metrics [{','.join(NAMES)},process_metric.Wrong] --objective.metric val/macro_f1"
    )
    words = [*line.split(), "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    command = [sys.executable, "-m", "visionbench", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = tmp_path / RUN
    metrics = report(run)["metrics"]
    for stage in ("val", "test"):
        for name, value in expected(run, stage).items():
            assert metrics[f"{stage}/{name}"] == pytest.approx(value, rel=1e-9), f"{stage}/{name}"
    evaluate = [sys.executable, "-m", "visionbench", "test", str(RUN), "--trainer.devices", "1"]
    alone = subprocess.run(evaluate, cwd=tmp_path, capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr
    for name in (*NAMES, "process_metric.Wrong"):
        assert f"test {name}  {metrics[f'test/{name}']:.4f}" in alone.stdout


# The minimized loss


@pytest.mark.parametrize("batches", ["", "--data.batch_size 50"])  # the last batch is smaller than the others
def test_the_minimized_loss_of_an_epoch_is_the_mean_over_its_samples(cli, tmp_path, batches):
    assert cli(f"{SMALL} --model.l1 0.001 --trainer.max_epochs 2 {batches}").status == 0
    run, size = tmp_path / RUN, 50 if batches else 64
    counts = np.array([min(size, 1293 - start) for start in range(0, 1293, size)])
    of_batches = RunFolder(run).step_losses.astype(float).reshape(2, len(counts))
    lines = rows(run)
    for row, losses in zip(lines, of_batches, strict=True):
        assert float(row["train/minimized"]) == pytest.approx((losses * counts).sum() / 1293, rel=1e-6)
        assert float(row["train/minimized"]) > float(row["train/loss"]) + 0.1
    best = lines[report(run)["best_epoch"]]
    assert report(run)["metrics"]["train/minimized"] == float(best["train/minimized"])


def test_without_a_penalty_there_is_no_second_loss(cli, tmp_path):
    assert cli(f"{SMALL} --trainer.max_epochs 1").status == 0
    assert "train/minimized" not in rows(tmp_path / RUN)[0]
    sentence = cli(f"{SMALL} --objective.metric train/minimized").refusal()
    assert "objective.metric is train/minimized, which is logged by nothing" in sentence


def test_the_minimized_loss_may_be_the_objective(cli, tmp_path):
    line = f"{SMALL} --model.l1 0.001 --trainer.max_epochs 2 --data.val_size 0 --objective.metric train/minimized"
    assert cli(line).status == 0
    assert report(tmp_path / RUN)["objective"] == {"metric": "train/minimized", "mode": "min"}


def test_a_run_killed_within_an_epoch_has_the_same_minimized_loss(cli, tmp_path):
    line = f"{SMALL} --model.l1 0.001 --trainer.max_epochs 2 --checkpoint.every_n_steps 1"
    assert cli(line).status == 0
    whole = tmp_path / "whole"
    (tmp_path / RUN).rename(whole)
    assert stop(cli, line, "step", 30)
    next_second()
    first_event_file()
    assert cli(f"fit --resume {RUN}").status == 0
    assert differences(whole, tmp_path / RUN) == []
