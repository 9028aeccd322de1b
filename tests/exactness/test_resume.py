"""Runs that were stopped in this process and gone on with: the same runs, whatever the Trainer's loops do in them."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from tests.exactness.same import SMALL, checkpoint, differences, first_event_file, next_second, report
from visionbench.api import RunFigures
from visionbench.data import Digits, loader
from visionbench.models.base import Classifier
from visionbench.runs import checkpoints as files
from visionbench.runs import identity
from visionbench.runs.checkpoints import AtomicCheckpointIO
from visionbench.runs.folder import RunFolder
from visionbench.runs.identity import versions
from visionbench.training.callbacks import MetricsFile, RunCheckpoints, start
from visionbench.training.session import Session

LINE = f"{SMALL} --model.dropout 0.3 --data.augment [RandomCrop] --checkpoint.every_n_steps 1"
PLATEAU = "--model.lr_scheduler ReduceLROnPlateau --model.lr_scheduler.patience 0 --model.lr_scheduler.factor 0.5"
RUN = Path("lightning_logs", "mlp", "version_0")


class Killed(BaseException):
    """Nothing in the package catches it."""


PLACES = {
    "step": (Classifier, "training_step"),
    "validation": (Classifier, "validation_step"),
    "row": (MetricsFile, "on_train_epoch_end"),
    "checkpoint": (AtomicCheckpointIO, "save_checkpoint"),
    "best": (files, "_copy_at_once"),
    "named": (files, "_flush_folder"),
    "end": (RunCheckpoints, "on_train_end"),
    "test": (Classifier, "test_step"),
    "report": (Session, "_write_metadata"),
    "figures": (RunFigures, "at_end"),
}


def stop(cli, line, place, count=1, after=False):
    """Runs a line and ends it at a call, counted from 1, of one of the `PLACES`: before it is made, or after.

    Returns whether it came to that.
    """
    owner, name = PLACES[place]
    original, calls = getattr(owner, name), [0]

    def counted(*args, **kwargs):
        if in_trial[0]:
            return original(*args, **kwargs)
        calls[0] += 1
        if calls[0] == count and not after:
            raise Killed
        result = original(*args, **kwargs)
        if calls[0] == count:
            raise Killed
        return result

    with pytest.MonkeyPatch.context() as patch:
        in_trial = noted_trial(patch)
        patch.setattr(owner, name, counted)
        try:
            cli(line)
        except Killed:
            return True
    return False


def noted_trial(patch):
    """A list whose only entry says whether the steps that are called now are those of the trial before training."""
    original, in_trial = start.try_step, [False]

    def noted(*args):
        in_trial[0] = True
        try:
            return original(*args)
        finally:
            in_trial[0] = False

    patch.setattr(start, "try_step", noted)
    return in_trial


def calls_of(patch, place):
    """Counts the calls of one of the `PLACES`."""
    owner, name = PLACES[place]
    original, calls, in_trial = getattr(owner, name), [], noted_trial(patch)

    def counted(*args, **kwargs):
        if not in_trial[0]:
            calls.append(1)
        return original(*args, **kwargs)

    patch.setattr(owner, name, counted)
    return calls


def fit(cli, line):
    result = cli(line)
    assert result.status == 0, result
    return result


def go_on(cli, options=""):
    next_second()
    return fit(cli, f"fit --resume {RUN} {options}")


@pytest.fixture(autouse=True)
def first_event_file_first():
    first_event_file()


@pytest.fixture(scope="module")
def whole(cli_in, tmp_path_factory):
    """Three epochs that nobody stopped."""
    first_event_file()
    folder = tmp_path_factory.mktemp("whole")
    fit(cli_in(folder), f"{LINE} {PLATEAU} --trainer.max_epochs 3")
    return folder / RUN


@pytest.fixture
def started(cli, tmp_path):
    """The same, stopped in the third epoch, after two of its steps."""
    assert stop(cli, f"{LINE} {PLATEAU} --trainer.max_epochs 3", "step", 13)
    return tmp_path / RUN


MOMENTS = [
    *(("step", count, False) for count in (1, 3, 6, 8, 10, 12, 13, 15)),
    *(("validation", count, False) for count in (1, 3, 5, 6)),
    *(("row", 1, False), ("row", 2, False), ("row", 2, True)),
    *(("checkpoint", count, after) for count in (1, 2, 6) for after in (False, True)),
    *(("best", count, after) for count in (1, 2) for after in (False, True)),
    *(("named", count, False) for count in (1, 2, 5)),
    *(("end", 1, False), ("end", 1, True), ("test", 1, False), ("test", 2, True), ("report", 1, False)),
    ("figures", 1, True),
]


def test_nothing_is_left_of_predictions_that_were_being_written(whole, started, cli):
    for name in (".val.csv.77", ".val-probabilities.npy.77"):
        (started / "predictions" / name).write_bytes(b"half")
    go_on(cli)
    assert differences(whole, started) == []


def test_the_processor_seconds_before_a_stop_are_counted(started, cli):
    before = checkpoint(started)["visionbench"]["cpu_seconds"]
    assert before > 0
    go_on(cli)
    assert report(started)["cpu_seconds"] > before


@pytest.mark.parametrize(
    ("place", "count", "after"), [("step", 8, False), ("validation", 4, False), ("checkpoint", 6, True)]
)
def test_a_stopped_run_is_gone_on_with_as_if_it_never_was(whole, cli, tmp_path, place, count, after):
    assert stop(cli, f"{LINE} {PLATEAU} --trainer.max_epochs 3", place, count, after)
    go_on(cli)
    assert differences(whole, tmp_path / RUN) == []


MAPPED = "--data.memory_budget 0 --data.workers"


@pytest.mark.parametrize(
    ("workers", "going_on"), [(0, ""), (2, ""), (2, "--data.memory_budget 1"), (2, "--data.workers 0")]
)
def test_a_run_through_the_memory_map_is_gone_on_with_either_way(whole, cli, tmp_path, workers, going_on, monkeypatch):
    monkeypatch.setattr(loader, "BLOCK_BYTES", 1)  # a block is a batch
    assert stop(cli, f"{LINE} {PLATEAU} --trainer.max_epochs 3 {MAPPED} {workers}", "step", 8)
    said = go_on(cli, going_on).out
    assert "resumed    after 1 epoch and 2 batches" in said
    assert ("through the memory map" in said) is ("budget" not in going_on)
    assert differences(whole, tmp_path / RUN) == []
    assert report(tmp_path / RUN)["resumed"][0]["changed"] == []


WAYS = {
    "plateau": f"{PLATEAU} --trainer.max_epochs 3",
    "one cycle": "--model.lr_scheduler OneCycleLR --model.lr_scheduler.max_lr 0.1 --model.lr_interval step "
    "--trainer.max_epochs 3",
    "cosine, summed gradients": "--model.lr_scheduler WarmupCosineLR --model.lr_scheduler.warmup 3 "
    "--model.lr_interval step --trainer.accumulate_grad_batches 2 --trainer.max_epochs 3",
    "momentum, clipped, L1": "--model.optimizer SGD --model.optimizer.lr 0.1 --model.optimizer.momentum 0.9 "
    "--trainer.gradient_clip_val 0.1 --model.l1 0.001 --trainer.max_epochs 3",
    "memory map": f"{PLATEAU} {MAPPED} 0 --trainer.max_epochs 3",
    "memory map, two workers": f"{PLATEAU} {MAPPED} 2 --trainer.max_epochs 3",
    "bfloat16": f"{PLATEAU} --trainer.max_epochs 3 --trainer.precision bf16-mixed",
    "summed gradients": f"{PLATEAU} --trainer.accumulate_grad_batches 2 --trainer.max_epochs 3",
    "validation in an epoch": f"{PLATEAU} --trainer.val_check_interval 0.4 --trainer.max_epochs 3",
    "validation across epochs": f"{PLATEAU} --trainer.val_check_interval 3 --trainer.check_val_every_n_epoch null "
    "--trainer.max_epochs 3",
    "every second epoch": f"{PLATEAU} --trainer.check_val_every_n_epoch 2 --trainer.max_epochs 4",
    "every second epoch, train/loss": "--objective.metric train/loss --early_stopping.patience 2 "
    "--trainer.check_val_every_n_epoch 2 --trainer.max_epochs 4",
    "steps that end in an epoch": f"{PLATEAU} --trainer.max_epochs -1 --trainer.max_steps 13",
    "steps that end with an epoch": f"{PLATEAU} --trainer.max_steps 10",
    "stopped early": "--early_stopping.patience 1 --early_stopping.min_delta 100 --trainer.max_epochs 6",
    "stopped early in an epoch": "--early_stopping.patience 2 --early_stopping.min_delta 100 "
    "--trainer.val_check_interval 0.4 --trainer.max_epochs 4",
    "told to stop before the least epochs": "--early_stopping.patience 1 --trainer.min_epochs 5 "
    "--trainer.max_epochs 8 --model.optimizer.lr 0.1",
    "epochs of a batch": f"{PLATEAU} --trainer.limit_train_batches 1 --trainer.max_epochs 4",
    "a part of the epoch": f"{PLATEAU} --trainer.limit_train_batches 0.1 --trainer.max_epochs 3",
    "no validation": "--data.val_size 0 --trainer.max_epochs 3",
    "between epochs alone": f"{PLATEAU} --checkpoint.every_n_steps null --trainer.max_epochs 3",
    "within rounds of steps": f"{PLATEAU} --checkpoint.every_n_steps 3 --trainer.max_epochs 3",
}
# These are stopped at every moment, each of the others at every fifth one, so that each kind of moment is seen by many.
EVERYWHERE = ("plateau", "within rounds of steps")


@pytest.mark.slow
@pytest.mark.parametrize("way", list(WAYS))
def test_wherever_a_run_is_stopped_it_is_the_same(cli, tmp_path, way, monkeypatch):
    if "memory map" in way:
        monkeypatch.setattr(loader, "BLOCK_BYTES", 1)  # a block is a batch
    line = f"{LINE} {WAYS[way]}"
    fit(cli, f"{line} --name whole")
    whole = tmp_path / "lightning_logs" / "whole" / "version_0"
    seen = 0
    moments = MOMENTS if way in EVERYWHERE else MOMENTS[list(WAYS).index(way) % 5 :: 5]
    for moment in moments:
        first_event_file()
        if stop(cli, line, *moment):
            seen += 1
            go_on(cli)
            assert differences(whole, tmp_path / RUN) == [], moment
        shutil.rmtree(tmp_path / RUN)
    assert seen


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment", [("validation", 3, False), ("row", 2, False), ("test", 1, False), ("figures", 1, True)]
)
def test_a_run_that_draws_its_figures_is_the_same(cli, tmp_path, moment):
    line = f"{LINE} {PLATEAU} --trainer.max_epochs 2 --figures all"
    fit(cli, f"{line} --name whole")
    assert stop(cli, line, *moment)
    go_on(cli)
    whole = tmp_path / "lightning_logs" / "whole" / "version_0"
    assert differences(whole, tmp_path / RUN) == []
    assert (tmp_path / RUN / "predictions" / "test.csv").is_file()
    for name in ("test-confusion.png", "learning-curves.svg"):
        assert (tmp_path / RUN / "figures" / name).read_bytes() == (whole / "figures" / name).read_bytes()


@pytest.mark.slow
def test_a_run_in_64_bits_is_gone_on_with_in_64_bits(cli, tmp_path):
    line = f"{SMALL} --trainer.precision 64-true --trainer.max_epochs 2"
    assert stop(cli, line, "step", 8)
    go_on(cli)
    fit(cli, line)
    assert differences(tmp_path / RUN, (tmp_path / RUN).with_name("version_1")) == []


def test_a_run_that_is_stopped_again_and_again_is_the_same(whole, cli, tmp_path):
    assert stop(cli, f"{LINE} {PLATEAU} --trainer.max_epochs 3", "step", 2)
    while stop(cli, f"fit --resume {RUN}", "step", 3):
        next_second()
    assert differences(whole, tmp_path / RUN) == []
    assert len(report(tmp_path / RUN)["resumed"]) > 5


def test_a_run_that_was_trained_but_not_tested_is_tested_alone(whole, cli, tmp_path):
    assert stop(cli, f"{LINE} {PLATEAU} --trainer.max_epochs 3", "test")
    with pytest.MonkeyPatch.context() as patch:
        steps = calls_of(patch, "step")
        go_on(cli)
    assert steps == []
    # An opening counts from its start: what an interrupted test read cannot be known.
    assert differences(whole, tmp_path / RUN) == []
    assert report(tmp_path / RUN)["test_openings"] == 2


def test_a_run_without_a_checkpoint_begins_again_in_its_folder(whole, cli, tmp_path):
    assert stop(cli, f"{LINE} {PLATEAU} --trainer.max_epochs 3", "step", 1)
    (tmp_path / RUN / "metrics.csv").write_text("epo")  # a power cut may leave anything
    assert "has no checkpoint yet, so it starts from the beginning" in go_on(cli).out
    assert differences(whole, tmp_path / RUN) == []
    assert not (tmp_path / RUN).with_name("version_1").exists()


# Torn and foreign checkpoints


def tear(run, tenths, linked):
    """Leaves so many tenths of the newest checkpoint; `linked`: also of the best, where that is the same file."""
    file = run / "checkpoints" / "last.ckpt"
    content = file.read_bytes()
    best = file.with_name("best.ckpt")
    if not linked and best.samefile(file):
        best.unlink()
        best.write_bytes(content)
    with file.open("r+b") as opened:
        opened.truncate(len(content) * tenths // 10)


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("tenths", [pytest.param(n, marks=pytest.mark.slow if n != 5 else ()) for n in range(10)])
def test_a_torn_checkpoint_is_named_and_the_one_before_is_used(whole, cli, tmp_path, tenths, linked):
    # Right after the second epoch, which is the best so far.
    assert stop(cli, f"{LINE} {PLATEAU} --trainer.max_epochs 3", "step", 11)
    tear(tmp_path / RUN, tenths, linked)
    said = go_on(cli).out
    assert f"{RUN}/checkpoints/last.ckpt is torn or not a checkpoint of a run (" in said
    assert f"resuming from {'previous' if linked else 'best'}.ckpt" in said
    assert differences(whole, tmp_path / RUN) == []


@pytest.mark.parametrize("content", ["pickle", "weights", "text"])
def test_a_foreign_file_is_named_and_the_one_before_is_used(whole, started, cli, content):
    file = started / "checkpoints" / "last.ckpt"
    file.unlink()
    if content == "pickle":
        file.write_bytes(pickle.dumps({"visionbench": Path("x")}))
    elif content == "weights":
        torch.save({"state_dict": {"a": torch.zeros(3)}}, file)
    else:
        file.write_text("This is no checkpoint.\n")
    assert "last.ckpt is torn or not a checkpoint of a run (" in go_on(cli).out
    assert differences(whole, started) == []


def test_where_all_checkpoints_are_torn_it_is_said(started, cli):
    for file in (started / "checkpoints").iterdir():
        os.truncate(file, 1000)
    metrics = (started / "metrics.csv").read_bytes()
    refusal = cli(f"fit --resume {RUN}").refusal()
    assert refusal.startswith("None of the checkpoints in ")
    assert "can be read; restore one from a copy, or train the run again with visionbench fit" in refusal
    assert (started / "metrics.csv").read_bytes() == metrics


@pytest.mark.parametrize("lost", ["torn", "missing"])
def test_where_the_best_epoch_is_lost_it_is_said(started, cli, lost):
    best = started / "checkpoints" / "best.ckpt"
    content = best.read_bytes()
    best.unlink()
    if lost == "torn":
        best.write_bytes(content[:1000])
    assert f"best.ckpt, the result of epoch 2, is {lost}" in cli(f"fit --resume {RUN}").refusal()


@pytest.mark.parametrize("name", ["metrics.csv", "step-losses.bin"])
def test_where_a_runs_numbers_are_lost_it_is_said(started, cli, name):
    (started / name).unlink()
    assert f"{name} has 0 " in cli(f"fit --resume {RUN}").refusal()


# Another run


CHANGES = {
    "--model.dropout 0.4": "model.init_args.dropout was 0.3, is 0.4",
    "--data.batch_size 16": "data.init_args.batch_size was 32, is 16",
    "--seed_everything 1": "seed_everything was 0, is 1",
    "--data.split_seed 7": "data.init_args.split_seed was 0, is 7; the data (images, split or normalization) changed",
    "--trainer.max_epochs 2": "trainer.max_epochs was 3, is 2",
}


@pytest.mark.parametrize("options", list(CHANGES))
def test_another_configuration_is_refused_with_what_changed(started, cli, options):
    refusal = cli(f"fit --resume {RUN} {options}").refusal()
    assert CHANGES[options] in refusal
    assert "--resume_changed true" in refusal


def changed(patch, what):
    if what == "code":
        patch.setattr(identity, "code_digest", lambda kinds: "another")
        return "the source code changed"
    if what == "data":
        patch.setattr(Digits, "data_digest", lambda self: "another")
        return "the data (images, split or normalization) changed"
    before = versions()
    patch.setattr(identity, "versions", lambda: before | {"numpy": "0.1"})
    return f"numpy was {before['numpy']}, is 0.1"


@pytest.mark.parametrize("what", ["code", "data", "versions"])
def test_other_code_data_or_versions_are_refused_or_recorded(started, cli, monkeypatch, what):
    phrase = changed(monkeypatch, what)
    assert phrase in cli(f"fit --resume {RUN}").refusal()
    assert RunFolder(started).status == "failed"
    go_on(cli, options="--resume_changed true")
    assert report(started)["resumed"] == [{"epochs": 2, "batches": 2, "step": 12, "changed": [phrase]}]


def test_what_a_checkpoint_keeps_cannot_be_changed(started, cli):
    for option, name in (
        ("--model.optimizer.lr 0.5", "model.init_args.optimizer.init_args.lr was 0.001, is 0.5"),
        ("--model.lr_scheduler.factor 0.1", "model.init_args.lr_scheduler.init_args.factor was 0.5, is 0.1"),
        ("--early_stopping.patience 3", "early_stopping.patience was None, is 3"),
        ("--objective.metric val/acc", "objective.metric was val/loss, is val/acc"),
    ):
        assert name in cli(f"fit --resume {RUN} {option} --resume_changed true").refusal()


@pytest.mark.parametrize("options", ["--trainer.logger false", "--log_dir elsewhere", "--trainer.devices 1"])
def test_what_does_not_change_the_numbers_is_no_other_configuration(started, cli, options):
    go_on(cli, options=options)
    assert report(started)["resumed"][0]["changed"] == []


# More epochs


def test_more_epochs_are_trained_on_as_in_a_longer_run(whole, cli, tmp_path):
    fit(cli, f"{LINE} {PLATEAU} --trainer.max_epochs 2")
    go_on(cli, options="--trainer.max_epochs 3")
    assert differences(whole, tmp_path / RUN) == []
    assert report(tmp_path / RUN)["test_openings"] == 2


@pytest.mark.parametrize("scheduler", ["OneCycleLR --model.lr_scheduler.max_lr 0.1", "WarmupCosineLR"])
def test_a_schedule_that_was_made_for_the_length_is_not_trained_on(cli, scheduler):
    warmup = "--model.lr_scheduler.warmup 1" if scheduler == "WarmupCosineLR" else ""
    fit(cli, f"{LINE} --model.lr_scheduler {scheduler} {warmup} --trainer.max_epochs 2")
    assert "made for the run's length" in cli(f"fit --resume {RUN} --trainer.max_epochs 3").refusal()


def test_a_run_that_was_stopped_early_is_not_trained_on(cli):
    fit(cli, f"{LINE} --early_stopping.patience 1 --early_stopping.min_delta 100 --trainer.max_epochs 4")
    assert "stopped after 2 epochs" in cli(f"fit --resume {RUN} --trainer.max_epochs 9").refusal()


def test_a_finished_run_is_refused_and_stays_as_it_is(cli, tmp_path):
    fit(cli, f"{LINE} --trainer.max_epochs 1")
    before = {path: path.read_bytes() for path in sorted((tmp_path / RUN).rglob("*")) if path.is_file()}
    assert "is finished, after 1 epoch; to train longer, raise" in cli(f"fit --resume {RUN}").refusal()
    cli(f"fit --resume {RUN} --trainer.max_epochs 2 --trainer.devices 0").refusal()
    assert {path: path.read_bytes() for path in sorted((tmp_path / RUN).rglob("*")) if path.is_file()} == before


# Which run


def test_auto_takes_the_newest_unfinished_run_of_this_configuration(whole, cli, tmp_path):
    line = f"{LINE} {PLATEAU} --trainer.max_epochs 3"
    runs_of_mlp = (tmp_path / RUN).parent
    assert stop(cli, line, "step", 13)
    assert stop(cli, line, "step", 13)
    assert stop(cli, f"{line} --seed_everything 1", "step", 13)
    fit(cli, line)
    next_second()
    assert "run        lightning_logs/mlp/version_1" in fit(cli, f"{line} --resume auto").out
    assert differences(whole, runs_of_mlp / "version_1") == []
    held = RunFolder(runs_of_mlp / "version_0").lock()
    try:
        assert "run        lightning_logs/mlp/version_4" in fit(cli, f"{line} --resume auto").out
        assert "is being trained by another process" in cli(f"fit --resume {RUN}").refusal()
    finally:
        held.release()
    assert json.loads((runs_of_mlp / "version_4" / "run.json").read_text())["resumed"] == []


def test_auto_without_a_run_begins_one(cli, tmp_path):
    fit(cli, f"{LINE} --trainer.max_epochs 1 --resume auto")
    assert checkpoint(tmp_path / RUN)["global_step"] == 5


def test_what_is_no_run_is_refused(cli, tmp_path):
    for words in (f"--resume {tmp_path}", f"--resume={tmp_path}", "--resume nowhere --model MLP"):
        reason = "there is no such folder" if "nowhere" in words else "it has no config.yaml"
        assert f"is not a run folder ({reason})" in cli(f"fit {words}").refusal()
