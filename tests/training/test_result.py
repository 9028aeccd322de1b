"""Which epoch is the result of a run: the best one, or the last one although a validation is watched."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.exactness.same import checkpoint, differences, first_event_file, next_second, report
from tests.exactness.test_resume import stop
from visionbench.evaluation.predictions import read_predictions
from visionbench.runs.folder import RunFolder
from visionbench.runs.identity import weights_digest

# With this rate the best epoch is not the last one.
LINE = "fit --model MLP --model.widths [16] --data Digits --trainer.precision 32-true --model.optimizer.lr 0.03"
LAST = f"{LINE} --checkpoint.result last"
RUN = Path("lightning_logs", "mlp", "version_0")
CLASSES = tuple("0123456789")


def rows(run):
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def kept(run, stage):
    return read_predictions(run / "predictions", stage, CLASSES)


@pytest.fixture(scope="module")
def both(cli_in, tmp_path_factory):
    """A folder with one training whose result is the best epoch, and one whose result is the last, with its output."""
    folder = tmp_path_factory.mktemp("both")
    cli = cli_in(folder)
    best = cli(f"{LINE} --trainer.max_epochs 5 --name best")
    last = cli(f"{LAST} --trainer.max_epochs 5 --name last")
    assert (best.status, last.status) == (0, 0)
    return folder / "lightning_logs" / "best" / "version_0", folder / "lightning_logs" / "last" / "version_0", last


def test_the_last_epoch_is_the_result_in_every_place(both):
    best, last, _ = both
    assert report(best)["best_epoch"] < 4  # otherwise the rest would say nothing
    assert (best / "metrics.csv").read_bytes() == (last / "metrics.csv").read_bytes()
    said = report(last)
    assert (said["result"], said["best_epoch"], said["epochs"]) == ("last", 4, 5)
    assert said["weights_digest"] == weights_digest(checkpoint(best, "last")["state_dict"])
    final = rows(last)[-1]
    for name in ("train/loss", "val/loss", "val/acc"):
        assert said["metrics"][name] == float(final[name])
    assert said["metrics"]["test/loss"] != report(best)["metrics"]["test/loss"]
    for stage in ("val", "test"):
        predictions = kept(last, stage)
        assert (predictions.predicted == predictions.labels).mean() == said["metrics"][f"{stage}/acc"]
    assert RunFolder(last).result_checkpoint() == last / "checkpoints" / "last.ckpt"
    assert RunFolder(best).result_checkpoint() == best / "checkpoints" / "best.ckpt"
    assert [opening["checkpoint"] for opening in openings(last)] == ["best.ckpt", "last.ckpt"]


def openings(run):
    ledger = RunFolder(run).log_folder / "test-ledger.jsonl"
    return [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines()]


def test_every_command_says_that_nothing_was_chosen(both, cli_in, tmp_path):
    _, last, fitted = both
    said, cli = report(last)["metrics"], cli_in(last.parents[2])
    sentence = "result      the last epoch, 5 of 5; nothing was chosen"
    assert sentence in fitted.out
    assert "objective  min val/loss, which chooses nothing: the last epoch is the result" in fitted.out
    assert "chosen" not in fitted.out.replace(sentence, "")
    printed = cli(f"validate {last}").out
    assert sentence in printed
    assert f"{100 * said['val/acc']:.2f} %" in printed
    assert f"{100 * said['test/acc']:.2f} %" in cli(f"test {last}").out
    predicted = cli(f"predict {last} val")
    assert "result     the last epoch, 5 of 5; nothing was chosen" in predicted.err + predicted.out
    assert "the epoch was chosen on" not in predicted.err + predicted.out
    assert cli(f"report {last} --output {tmp_path / 'page.html'}").status == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "The result is the last epoch, 5 of 5; nothing was chosen." in page
    assert "was selected on" not in page.replace("No epoch was selected on validation.", "")
    assert "dashed: the epoch" not in page


def test_only_the_last_epoch_as_the_result_is_in_the_identity(both, cli_in):
    best, last, _ = both
    assert report(best)["config_digest"] != report(last)["config_digest"]
    compared = cli_in(best.parents[2])(f"compare {best} {last}").out
    assert "checkpoint.result" in compared


@pytest.mark.parametrize(
    ("place", "count", "after"),
    [("checkpoint", 3, False), ("checkpoint", 3, True), ("end", 1, False), ("end", 1, True), ("test", 1, False)],
)
def test_a_killed_run_ends_with_the_same_result_and_predictions(cli, tmp_path, place, count, after):
    assert cli(f"{LAST} --trainer.max_epochs 3").status == 0
    whole = tmp_path / "whole"
    shutil.move(tmp_path / RUN, whole)
    assert stop(cli, f"{LAST} --trainer.max_epochs 3", place, count, after)
    next_second()
    first_event_file()
    assert cli(f"fit --resume {RUN}").status == 0
    assert differences(whole, tmp_path / RUN) == []
    assert kept(tmp_path / RUN, "val") is not None


def test_a_longer_run_has_the_predictions_of_its_new_end(cli, tmp_path):
    assert cli(f"{LAST} --trainer.max_epochs 2").status == 0
    assert stop(cli, f"fit --resume {RUN} --trainer.max_epochs 4", "row", 2)
    assert kept(tmp_path / RUN, "val") is None  # those of epoch 2 are not those of the weights any more
    assert cli(f"fit --resume {RUN} --trainer.max_epochs 4").status == 0
    predictions = kept(tmp_path / RUN, "val")
    assert (predictions.predicted == predictions.labels).mean() == float(rows(tmp_path / RUN)[-1]["val/acc"])


def test_a_last_epoch_without_validation_has_no_validation_predictions(cli, tmp_path):
    assert cli(f"{LAST} --trainer.max_epochs 3 --trainer.check_val_every_n_epoch 2").status == 0
    assert kept(tmp_path / RUN, "val") is None
    said = report(tmp_path / RUN)
    assert said["best_epoch"] == 2
    assert not [name for name in said["metrics"] if name.startswith("val/")]


def test_a_run_without_checkpoints_keeps_the_predictions_of_its_last_epoch(cli, tmp_path):
    assert cli(f"{LINE} --trainer.max_epochs 2 --trainer.enable_checkpointing false").status == 0
    said, predictions = report(tmp_path / RUN), kept(tmp_path / RUN, "val")
    assert said["result"] == "last"
    assert (predictions.predicted == predictions.labels).mean() == said["metrics"]["val/acc"]


def test_the_metrics_have_the_order_of_the_epochs(both):
    # A run that was killed between its last epoch and its end reads them from the file; its record is the same.
    for run in both[:2]:
        metrics = report(run)["metrics"]
        epochs = [name for name in metrics if not name.startswith("test/")]
        assert epochs == [name for name in rows(run)[0] if name in metrics]


def test_another_model_starts_from_the_result(both, cli, tmp_path):
    _, last, _ = both
    assert cli(f"{LINE} --trainer.max_epochs 1 --model.start_from {last}").status == 0
    weights = torch.load(last / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert report(tmp_path / RUN)["start"]["weights_digest"] == weights_digest(weights)


def test_a_resumed_run_keeps_its_result(cli, tmp_path):
    assert stop(cli, f"{LINE} --trainer.max_epochs 3", "row", 2)
    sentence = cli(f"fit --resume {RUN} --checkpoint.result last --resume_changed true").refusal()
    assert "checkpoint.result was best, is last, but a resumed run keeps its" in sentence


def test_another_epoch_is_refused(cli):
    assert "checkpoint.result" in cli(f"{LINE} --checkpoint.result first").refusal()
