"""Further evaluations: their values, and that they leave no trace in the training."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from tests.exactness.same import SMALL, differences, equal, first_event_file, next_second, report
from tests.exactness.test_resume import stop
from visionbench.api import fit
from visionbench.data import Digits
from visionbench.evaluation.predictions import read_predictions
from visionbench.figures.curves import draw_learning_curves
from visionbench.models import CNN
from visionbench.random_state import random_state
from visionbench.runs.folder import RunFolder
from visionbench.training.evaluations import FurtherEvaluations

RUN = Path("lightning_logs", "mlp", "version_0")
CLASSES = tuple("0123456789")
ALL = "--evaluate [train_eval,before,augmented_val]"
EACH = f"{ALL} --evaluate_every epoch"
MLP = "fit --model MLP --model.widths [16] --data Digits --trainer.precision 32-true"
# What could be disturbed: dropout, batch norm, augmentation, and a scheduler that follows the validation.
LINE = (
    f"{SMALL} --model.dropout 0.3 --model.batch_norm true --data.augment [RandomCrop] --checkpoint.every_n_steps 1 "
    "--model.lr_scheduler ReduceLROnPlateau --model.lr_scheduler.patience 0 --trainer.max_epochs 3"
)


class Augmented(Digits):
    augmented_validation = True


class Drawing(CNN):
    """Draws random numbers while it is evaluated."""

    def forward(self, images):
        torch.rand(3)
        np.random.rand(3)
        return super().forward(images)


def rows(run):
    with (run / "metrics.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def three(cli_in, tmp_path_factory):
    """A run without further evaluations, one with all at its end, and one with all after each epoch."""
    folder = tmp_path_factory.mktemp("three")
    cli, runs = cli_in(folder), []
    for name, options in (("without", ""), ("end", ALL), ("epoch", EACH)):
        assert cli(f"{LINE} {options} --name {name}").status == 0
        runs.append(folder / "lightning_logs" / name / "version_0")
    return runs


def test_training_is_the_same_with_and_without_them(three):
    without, *others = three
    for run in others:
        for name in ("weights_digest", "identity", "config_digest"):
            assert report(run)[name] == report(without)[name]
        assert (run / "step-losses.bin").read_bytes() == (without / "step-losses.bin").read_bytes()
        assert (run / "predictions" / "test.csv").read_bytes() == (without / "predictions" / "test.csv").read_bytes()
        for row, plain in zip(rows(run), rows(without), strict=True):
            assert plain.items() <= row.items()


@pytest.mark.parametrize(("place", "count"), [("step", 8), ("row", 2), ("checkpoint", 7), ("end", 1), ("test", 1)])
def test_a_killed_run_with_them_is_the_same_run(three, cli, tmp_path, place, count):
    assert stop(cli, f"{LINE} {EACH} --name mlp", place, count)
    next_second()
    first_event_file()
    assert cli(f"fit --resume {RUN}").status == 0
    without, _, whole = three
    assert differences(whole, tmp_path / RUN) == []
    assert report(tmp_path / RUN)["weights_digest"] == report(without)["weights_digest"]


def test_their_values_are_in_metrics_and_counts_but_before_is_in_no_row(three):
    names = {f"{name}/{metric}" for name in ("train_eval", "before", "augmented_val") for metric in ("loss", "acc")}
    without, end, epoch = three
    assert not names & set(report(without)["metrics"])
    assert set(report(without)["counts"]) == {"train", "val", "test"}
    for run in (end, epoch):
        said = report(run)
        assert names < set(said["metrics"])
        # As many batches as a validation has, and the whole training split, whatever limit_train_batches is.
        assert {name: said["counts"][name] for name in ("before", "augmented_val", "val", "train_eval")} == {
            **dict.fromkeys(("before", "augmented_val", "val"), 64),
            "train_eval": 1293,
        }
    assert not any(name.startswith(("before/", "train_eval/", "augmented_val/")) for row in rows(end) for name in row)
    lines = rows(epoch)
    assert [row["epoch"] for row in lines] == [0, 1, 2]
    assert all(name in row for row in lines for name in names if not name.startswith("before"))
    assert not any(name.startswith("before") for row in lines for name in row)
    # Those at the end are of the epoch that is the result.
    best = lines[report(end)["best_epoch"]]
    for name in names - {"before/loss", "before/acc"}:
        assert report(end)["metrics"][name] == best[name] == report(epoch)["metrics"][name]


def test_train_eval_is_what_the_result_gives_for_the_training_samples(cli, tmp_path):
    line = f"{MLP} --model.dropout 0.5 --data.augment [RandomCrop] --trainer.max_epochs 2 --metrics [macro_f1]"
    assert cli(f"{line} --evaluate [train_eval]").status == 0
    said = report(tmp_path / RUN)["metrics"]
    assert f"{100 * said['train_eval/acc']:.2f} %" in cli(f"predict {RUN} train").err
    kept = read_predictions(tmp_path / RUN / "predictions", "train_eval", CLASSES)
    assert (kept.predicted == kept.labels).mean() == said["train_eval/acc"]
    of_truth = kept.probabilities.astype(float)[np.arange(len(kept)), kept.labels]
    assert said["train_eval/loss"] == pytest.approx(-np.log(of_truth).mean(), rel=1e-5)
    assert said["train_eval/macro_f1"] == pytest.approx(f1_score(kept.labels, kept.predicted, average="macro"))
    assert said["train_eval/acc"] > said["train/acc"] + 0.1  # without dropout and augmentation
    data = Digits(root=str(RunFolder(tmp_path / RUN).config["data"]["init_args"]["root"]))
    data.setup()
    assert list(kept.names) == [data.sample_name("train", int(place)) for place in data.train_index]
    assert RunFolder(tmp_path / RUN).predictions("train_eval").names == kept.names


def test_without_predictions_nothing_is_kept_but_the_metrics(cli, tmp_path):
    assert cli(f"{MLP} --trainer.max_epochs 1 {ALL} --predictions false").status == 0
    assert not (tmp_path / RUN / "predictions").exists()
    assert "train_eval/acc" in report(tmp_path / RUN)["metrics"]


def test_before_is_the_model_that_training_starts_from(cli, tmp_path):
    # With a rate of 0 the weights of the first epoch are those before it.
    assert cli(f"{MLP} --model.optimizer SGD --model.optimizer.lr 0 --trainer.max_epochs 1 {ALL}").status == 0
    said = report(tmp_path / RUN)["metrics"]
    assert (said["before/loss"], said["before/acc"]) == (said["val/loss"], said["val/acc"])
    assert said["before/acc"] < 0.3
    assert RunFolder(tmp_path / RUN).untrained_metrics == {"val/loss": said["val/loss"], "val/acc": said["val/acc"]}
    # Nothing is augmented here.
    assert said["augmented_val/loss"] == said["val/loss"]


@pytest.mark.parametrize("budget", [None, 0])
def test_augmented_val_is_the_validation_of_a_study_that_augmented_it(digits_root, tmp_path, budget):
    options = {
        **{"data.root": str(digits_root), "data.augment": ["RandomCrop", "MixUp"], "data.memory_budget": budget},
        **{"trainer.max_epochs": 2, "trainer.precision": "32-true", "trainer.accelerator": "cpu"},
    }
    ours = fit(
        "MLP", "Digits", run_dir=tmp_path / "ours", evaluate=["augmented_val"], evaluate_every="epoch", **options
    )
    theirs = fit("MLP", Augmented, run_dir=tmp_path / "theirs", allow=["augmented_validation"], **options)
    for row, other in zip(rows(ours.folder), rows(theirs.folder), strict=True):
        for metric in ("loss", "acc"):
            assert row[f"augmented_val/{metric}"] == other[f"val/{metric}"]
        assert row["augmented_val/loss"] != row["val/loss"]
    assert ours.counts["augmented_val"] == 144


def test_random_numbers_of_an_evaluation_are_given_back(digits_root, tmp_path, monkeypatch):
    original, changed = FurtherEvaluations.evaluate, []

    def watched(*args, **kwargs):
        before = random_state()
        evaluation = original(*args, **kwargs)
        changed.append(not equal(before, random_state()))
        return evaluation

    monkeypatch.setattr(FurtherEvaluations, "evaluate", watched)
    options = {
        **{"data.root": str(digits_root), "data.augment": ["RandomCrop"], "trainer.max_epochs": 2},
        **{"model.widths": [4], "model.convs": [1], "model.dropouts": [0.5], "trainer.precision": "32-true"},
        **{"evaluate": ["before", "train_eval", "augmented_val"], "evaluate_every": "epoch"},
    }
    fit(Drawing, "Digits", run_dir=tmp_path / "run", **options)
    assert changed == [False] * 6  # before, two after each epoch, and the predictions of the result


def test_the_last_lines_and_the_page_name_them(cli, tmp_path):
    fitted = cli(f"{MLP} --trainer.max_epochs 1 {EACH}")
    said = report(tmp_path / RUN)["metrics"]
    assert f"train_eval  {100 * said['train_eval/acc']:.2f} % of 1,293 images of training, in evaluation mode" in (
        fitted.out
    )
    assert f"before      {100 * said['before/acc']:.2f} % of 144 images of validation, before training" in fitted.out
    assert cli(f"report {RUN}").status == 0
    page = (tmp_path / RUN / "report.html").read_text(encoding="utf-8")
    assert f"{100 * said['train_eval/acc']:.2f} %" in page
    assert "how well the model fits them, no estimate for others" in page
    figure = draw_learning_curves(rows(tmp_path / RUN), None)
    assert {"training, in evaluation mode", "validation, augmented"} <= set(
        figure.canvas.axes[0].get_legend_handles_labels()[1]
    )
    assert figure.columns[-4:] == ["train_eval/loss", "train_eval/acc", "augmented_val/loss", "augmented_val/acc"]


def test_nothing_is_chosen_by_them(cli):
    sentence = cli(f"{MLP} {EACH} --objective.metric train_eval/acc").refusal()
    assert sentence.startswith("objective.metric is train_eval/acc, which is of a further evaluation")
    sentence = cli(f"{MLP} --objective.metric before/loss").refusal()
    assert sentence.startswith("objective.metric is before/loss, which is of a further evaluation")


@pytest.mark.parametrize("name", ["before", "augmented_val"])
@pytest.mark.parametrize("none", ["--data.val_size 0", "--trainer.limit_val_batches 0"])
def test_without_validation_what_needs_it_is_refused(cli, tmp_path, name, none):
    sentence = cli(f"{MLP} {none} --evaluate [train_eval,{name}]").refusal()
    assert sentence == (
        f"evaluate names {name}, which is measured on validation images, but there is no validation; remove it, or "
        "set data.val_size above 0."
    )
    assert not (tmp_path / RUN).exists()


def test_without_validation_the_training_samples_are_evaluated(cli, tmp_path):
    assert cli(f"{MLP} --data.val_size 0 --trainer.max_epochs 1 --evaluate [train_eval]").status == 0
    assert "train_eval/acc" in report(tmp_path / RUN)["metrics"]


def test_an_unknown_evaluation_is_refused(cli):
    assert "evaluate" in cli(f"{MLP} --evaluate [test]").refusal()


def test_a_resumed_run_may_ask_for_other_evaluations(cli, tmp_path):
    assert stop(cli, f"{MLP} --trainer.max_epochs 3 --evaluate [augmented_val] --evaluate_every epoch", "row", 2)
    asked = "--evaluate [train_eval,before] --evaluate_every epoch"
    resumed = cli(f"fit --resume {RUN} {asked}")
    assert resumed.status == 0
    lines = rows(tmp_path / RUN)
    assert ["augmented_val/acc" in row for row in lines] == [True, False, False]
    assert ["train_eval/acc" in row for row in lines] == [False, True, True]
    assert "The run was started without evaluate before" in resumed.out
    assert "before/acc" not in report(tmp_path / RUN)["metrics"]


def test_a_run_without_checkpoints_evaluates_its_last_epoch(cli, tmp_path):
    line = f"{MLP} --trainer.max_epochs 2 --trainer.enable_checkpointing false"
    assert cli(f"{line} --evaluate [train_eval]").status == 0
    of_end = report(tmp_path / RUN)["metrics"]["train_eval/loss"]
    assert cli(f"{line} --evaluate [train_eval] --evaluate_every epoch --name each").status == 0
    assert rows(tmp_path / "lightning_logs" / "each" / "version_0")[-1]["train_eval/loss"] == of_end


def test_a_table_is_evaluated_too(cli, tmp_path):
    values = np.random.default_rng(0).normal(size=(120, 3)).round(3)
    lines = [f"{a},{b},{c},{'yes' if a + b > 0 else 'no'}" for a, b, c in values]
    (tmp_path / "table.csv").write_text("\n".join(["a,b,c,kind", *lines]) + "\n")
    line = "fit --model MLP --model.widths [4] --data Table --data.source table.csv --data.target kind --data.root data"
    assert cli(f"{line} --trainer.max_epochs 2 {EACH}").status == 0
    said = report(tmp_path / RUN)
    assert said["metrics"]["augmented_val/loss"] == said["metrics"]["val/loss"]
    assert said["counts"]["train_eval"] == said["counts"]["train"]
    kept = read_predictions(tmp_path / RUN / "predictions", "train_eval", ("no", "yes"))
    assert len(kept) == said["counts"]["train"]


@pytest.mark.slow
def test_two_processes_evaluate_every_sample_once(tmp_path, digits_root, monkeypatch):
    monkeypatch.setenv("VISIONBENCH_DATA", str(digits_root))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # Neither split is the same number for both.
    line = f"{MLP} --data.val_size 143 --trainer.max_epochs 2 --trainer.accelerator cpu --figures none {EACH}"
    words = [*line.split(), "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    done = subprocess.run(
        [sys.executable, "-m", "visionbench", *words], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    said = report(tmp_path / RUN)
    assert said["counts"]["train_eval"] == 1294
    assert said["counts"]["before"] == 143
    kept = read_predictions(tmp_path / RUN / "predictions", "train_eval", CLASSES)
    assert (kept.predicted == kept.labels).mean() == said["metrics"]["train_eval/acc"]
    evaluated = fit_alone(tmp_path)
    assert f"{100 * said['metrics']['train_eval/acc']:.2f} %" in evaluated


def fit_alone(folder):
    predict = [sys.executable, "-m", "visionbench", "predict", str(RUN), "train"]
    done = subprocess.run(predict, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stderr + done.stdout


def test_the_file_of_the_untrained_model_is_read_where_earlier_versions_wrote_it(tmp_path):
    run = RunFolder(tmp_path)
    run.figures.mkdir()
    (run.figures / "before-training.json").write_text(json.dumps({"before/val/loss": 2.3, "before/val/acc": 0.1}))
    assert run.untrained_metrics == {"val/loss": 2.3, "val/acc": 0.1}
    shutil.rmtree(run.figures)
    assert run.untrained_metrics == {}
