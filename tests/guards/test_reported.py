"""What is printed of a run: each number says how it was measured, and none is another than its name says."""

import csv
import json

import pytest
from torch.nn import functional as F

from visionbench.models import MLP

LINE = "fit --data Digits --trainer.precision 32-true --figures none"
RUN = "lightning_logs/x/version_0"


class SoftmaxInForward(MLP):
    from_command_line = False

    def forward(self, images):
        return F.softmax(super().forward(images), dim=1)


def test_every_number_of_a_run_with_an_allowed_defect_says_so(cli, tmp_path):
    model = "--model tests.guards.test_reported.SoftmaxInForward --model.widths [8] --allow [double_softmax]"
    fitted = cli(f"{LINE} {model} --trainer.max_epochs 1 --name x")
    cli(f"{LINE} --model MLP --model.widths [8] --trainer.max_epochs 1 --name sound")
    sound = "lightning_logs/sound/version_0"
    for printed in (fitted.out, cli(f"test {RUN}").out, cli(f"validate {RUN}").out, cli(f"predict {RUN} val").err):
        assert "allowed    double_softmax" in printed.replace("allowed     ", "allowed    ")
    assert "allowed" not in cli(f"test {sound}").out
    assert f"note: {RUN} allows double_softmax" in cli(f"compare {RUN} {sound}").out
    cli(f"report {RUN}")
    assert "Allowed: double_softmax." in (tmp_path / RUN / "report.html").read_text(encoding="utf-8")
    cli(f"report {RUN} {sound} --output both.html")
    page = (tmp_path / "both.html").read_text(encoding="utf-8")
    assert "x/version_0 (double_softmax)" in page
    assert "sound/version_0 (" not in page


def test_an_allowed_word_marks_nothing_where_the_defect_is_not(cli):
    fitted = cli(f"{LINE} --model MLP --model.widths [8] --trainer.max_epochs 1 --name x --allow [double_softmax]")
    assert fitted.status == 0
    assert "allowed" not in fitted.out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--data.test_size 100", "the test accuracies were measured on different test samples"),
        ("--data.val_size 100", "the validation accuracies were measured on different validation samples"),
        ("--model.loss mse", "the losses are different functions"),
        ("--seed_everything 1 --data.train_size 500", ""),
    ],
)
def test_numbers_of_different_sets_or_losses_are_not_put_side_by_side_without_a_word(cli, tmp_path, options, sentence):
    line = f"{LINE} --model MLP --model.widths [8] --trainer.max_epochs 1"
    cli(f"{line} --name x")
    assert cli(f"{line} --name y {options}").status == 0
    other = "lightning_logs/y/version_0"
    compared = cli(f"compare {RUN} {other}").out
    cli(f"report {RUN} {other} --output both.html")
    page = (tmp_path / "both.html").read_text(encoding="utf-8")
    if sentence:
        assert f"note: {sentence}" in compared
        assert f"{sentence[0].upper()}{sentence[1:]} (" in page
    else:
        assert "note" not in compared
        assert "different" not in page.partition("Learning curves")[0].partition("Side by side")[2]


def test_the_test_accuracy_is_that_of_the_epoch_chosen_and_of_no_other(cli, tmp_path):
    """Few training images and a large learning rate: the loss falls, rises and jumps, so that no epoch is like another.

    On every kind of processor the best epoch is another one, but hardly the last.
    """
    network = "--model MLP --model.widths [64] --model.optimizer.lr 0.03"
    fitted = cli(f"{LINE} --data.val_size 0.9 --data.batch_size 10 {network} --trainer.max_epochs 20 --name x")
    report = json.loads((tmp_path / RUN / "run.json").read_text())
    with (tmp_path / RUN / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["val/loss"]) for row in rows]
    assert not any(name.startswith("test/") for name in rows[0])
    assert report["best_epoch"] == losses.index(min(losses)) < 19
    assert f"chosen      on val/loss, epoch {report['best_epoch'] + 1} of 20" in fitted.out
    said = f"test accuracy {100 * report['metrics']['test/acc']:.2f} %"
    assert said in fitted.out
    assert said in cli(f"test {RUN}").out


def test_the_loss_of_an_epoch_is_that_of_all_its_samples(cli):
    """144 images: nine batches of 16, and 20 batches of 7 with one of 4."""
    found = []
    for name, size in (("x", 16), ("y", 7)):
        assert cli(f"{LINE} --model MLP --model.widths [8] --trainer.max_epochs 1 --name {name}").status == 0
        printed = cli(f"validate lightning_logs/{name}/version_0 --data.batch_size {size}").out
        found.append(next(line for line in printed.splitlines() if line.startswith("validation loss")))
    assert found[0] == found[1]
