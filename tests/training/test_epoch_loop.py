"""A round of several steps gives what single steps give, ends where something is due, and is left out where asked."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LambdaCallback

from visionbench import api
from visionbench.data import Digits
from visionbench.models import MLP
from visionbench.runs.folder import RunFolder
from visionbench.training import epoch_loop
from visionbench.training.callbacks import RunTensorBoardLogger
from visionbench.training.session import Session
from visionbench.training.steps import StepwiseCallback

SMALL = {"model.widths": [8], "trainer.limit_train_batches": 20, "max_epochs": 2}


def run(folder, steps, digits_root, callbacks=(), lines=None, model="MLP", **options):
    """Trains, and gives what the run has left: rows, losses, digests and the checkpoint."""
    settings = {**SMALL, "data.root": str(digits_root), **options}
    with pytest.MonkeyPatch.context() as patch:
        of_the_run = Session._run_callbacks
        patch.setattr(Session, "_run_callbacks", lambda *arguments: [*of_the_run(*arguments), *callbacks])
        result = api.fit(
            model,
            "Digits",
            run_dir=folder,
            say=(lines if lines is not None else []).append,
            steps_per_execution=steps,
            **settings,
        )
    checkpoint = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    return SimpleNamespace(
        result=result,
        rows=(folder / "metrics.csv").read_text(),
        losses=(folder / "step-losses.bin").read_bytes(),
        digest=result.weights_digest,
        loops=checkpoint["loops"]["fit_loop"],
        step=checkpoint["global_step"],
        optimizer=checkpoint["optimizer_states"],
        schedulers=checkpoint["lr_schedulers"],
    )


ONE_CYCLE = {"model.lr_scheduler": "OneCycleLR", "model.lr_scheduler.max_lr": 0.01, "model.lr_interval": "step"}
WAYS = {
    "plain": {},
    "a last batch that is smaller": {"trainer.limit_train_batches": 1.0},
    "dropout, L1": {"model.dropout": 0.3, "model.l1": 0.001},
    "rounds longer than an epoch": {"trainer.limit_train_batches": 3},
    "accumulation": {"trainer.accumulate_grad_batches": 3},
    "clipping the norm": {"trainer.gradient_clip_val": 0.05},
    "clipping values": {"trainer.gradient_clip_val": 0.01, "trainer.gradient_clip_algorithm": "value"},
    "validation within epochs": {"trainer.val_check_interval": 0.3},
    "validation every 7 batches": {"trainer.val_check_interval": 7, "trainer.check_val_every_n_epoch": None},
    "max_steps within an epoch": {"trainer.max_steps": 27},
    "max_steps and accumulation": {"trainer.max_steps": 9, "trainer.accumulate_grad_batches": 3},
    "a rate for each step": ONE_CYCLE,
    "a rate for each step and accumulation": {**ONE_CYCLE, "trainer.accumulate_grad_batches": 2},
    "plateau": {"model.lr_scheduler": "ReduceLROnPlateau", "model.lr_scheduler.patience": 0},
    "LBFGS": {"model.optimizer": "torch.optim.LBFGS", "model.optimizer.lr": 0.1, "max_epochs": 1},
    "augmentation": {"data.augment": ["RandomCrop", "MixUp"]},
    "bfloat16": {"trainer.precision": "bf16-mixed"},
    "checkpoints within epochs": {"checkpoint.every_n_steps": 6},
}


@pytest.mark.parametrize("way", WAYS)
def test_rounds_give_what_single_steps_give(tmp_path, digits_root, way):
    single, *rounds = (run(tmp_path / str(steps), steps, digits_root, **WAYS[way]) for steps in (1, 4, 32))
    for other in rounds:
        assert other.rows == single.rows
        assert other.losses == single.losses
        assert other.digest == single.digest
        assert other.step == single.step
        assert other.loops == single.loops  # every counter of the Trainer
        assert str(other.optimizer) == str(single.optimizer)
        assert other.schedulers == single.schedulers


class Rounds(StepwiseCallback):
    """Counts the steps of each round."""

    def __init__(self, due=None):
        self.lengths = []
        self.due = due

    def on_steps(self, trainer, model, steps):
        self.lengths.append(steps.batches)

    def steps_until_due(self, trainer):
        return self.due


@pytest.fixture(autouse=True)
def no_clock(monkeypatch):
    """A slow machine would end rounds earlier."""
    monkeypatch.setattr(epoch_loop, "SECONDS_OF_A_ROUND", 1e9)


@pytest.mark.parametrize(
    ("options", "lengths"),
    [
        ({}, [1, 8, 8, 3, 8, 8, 4]),  # the guards see the first step alone
        ({"trainer.val_check_interval": 5}, [1, 4, 5, 5, 5, 5, 5, 5, 5]),
        ({"trainer.max_steps": 13}, [1, 8, 4]),
        ({"trainer.accumulate_grad_batches": 4, "max_epochs": 1}, [1, 19]),
        ({"checkpoint.every_n_steps": 6, "max_epochs": 1}, [1, 5, 6, 6, 2]),
        ({"trainer.check_val_every_n_epoch": 2, "trainer.val_check_interval": 0.5}, [1, 8, 8, 3, 8, 2, 8, 2]),
    ],
    ids=str,
)
def test_rounds_end_where_something_is_due(tmp_path, digits_root, options, lengths):
    rounds = Rounds()
    run(tmp_path / "run", 8, digits_root, [rounds], **options)
    assert rounds.lengths == lengths


def test_a_callback_says_when_it_is_due(tmp_path, digits_root):
    rounds = Rounds(due=3)
    run(tmp_path / "run", 8, digits_root, [rounds], max_epochs=1)
    assert rounds.lengths == [1, 3, 3, 3, 3, 3, 3, 1]


def test_a_long_round_ends_early(tmp_path, digits_root, monkeypatch):
    """So that a bar moves, and Ctrl+C is heeded, where a step takes long."""
    monkeypatch.setattr(epoch_loop, "SECONDS_OF_A_ROUND", 0.0)
    rounds = Rounds()
    run(tmp_path / "run", 8, digits_root, [rounds], max_epochs=1)
    assert rounds.lengths == [1, *[2] * 9, 1]


class EachBatch(Callback):
    def __init__(self):
        self.batches = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append((batch_idx, trainer.global_step, float(outputs["loss"])))


class EachGradient(Callback):
    def on_after_backward(self, trainer, pl_module):
        self.seen = True


class Logs(MLP):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train/each", loss, on_step=True)
        return loss


class Steps(MLP):
    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)


class Moves(Digits):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch[0] * 2, batch[1]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"callbacks": [EachBatch()]}, "the callback EachBatch overrides on_train_batch_end"),
        ({"callbacks": [EachGradient()]}, "the callback EachGradient overrides on_after_backward"),
        (
            {"callbacks": [LambdaCallback(on_train_batch_start=lambda *arguments: None)]},
            "the callback LambdaCallback overrides on_train_batch_start",
        ),
        ({"model": Logs}, "Logs overrides training_step"),
        ({"model": Steps}, "Steps overrides optimizer_step"),
        ({"trainer.profiler": "simple"}, "a profiler is on"),
        ({"trainer.precision": "64-true"}, "the precision is 64-true"),
        ({"trainer.val_check_interval": "00:01:00:00"}, "trainer.val_check_interval is a time"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hooks_for_single_batches_are_called_for_each(tmp_path, digits_root, given, sentence):
    lines, rounds = [], Rounds()
    given = {"callbacks": [], **given}
    given["callbacks"] = [*given["callbacks"], rounds]
    run(tmp_path / "run", 8, digits_root, lines=lines, max_epochs=1, **given)
    assert rounds.lengths == [1] * 20
    assert lines.count(f"steps_per_execution is 1: {sentence}.") == 1


class LogsItsLoss(MLP):
    """Logs in a part of the step that it may extend."""

    def loss(self, outputs, labels):
        loss = super().loss(outputs, labels)
        if self.training:
            self.log("train/each", loss, on_step=True, on_epoch=True)
            self.log("train/samples", float(len(labels)), reduce_fx="sum", on_step=False, on_epoch=True)
        return loss


@pytest.mark.parametrize("options", [{}, {"trainer.accumulate_grad_batches": 3}], ids=str)
def test_what_a_part_of_the_step_logs_is_logged(tmp_path, digits_root, monkeypatch, options):
    logged = []
    monkeypatch.setattr(
        RunTensorBoardLogger, "log_metrics", lambda logger, metrics, step=None: logged[-1].append((step, str(metrics)))
    )
    for steps in (1, 8):
        logged.append([])
        options = {"trainer.log_every_n_steps": 4, "trainer.limit_train_batches": 1.0, **options}
        run(tmp_path / str(steps), steps, digits_root, model=LogsItsLoss, **options)
    assert logged[0] == logged[1]
    assert len([entry for entry in logged[0] if "train/each_step" in entry[1]]) > 2
    assert "train/samples" in logged[0][-1][1] or "train/samples" in str(logged[0])


def test_hooks_of_the_data_are_called_for_each_batch(tmp_path, digits_root):
    lines = []
    data = Moves(root=str(digits_root))
    api.fit("MLP", data, run_dir=tmp_path / "run", max_epochs=1, say=lines.append, **{"model.widths": [8]})
    assert "steps_per_execution is 1: Moves overrides on_after_batch_transfer." in lines


def test_a_callback_of_the_user_sees_what_it_sees_without_rounds(tmp_path, digits_root):
    seen = []
    for steps in (1, 8):
        callback = EachBatch()
        run(tmp_path / str(steps), steps, digits_root, [callback], max_epochs=1)
        seen.append(callback.batches)
    assert seen[0] == seen[1]
    assert len(seen[0]) == 20


def test_nothing_is_said_where_single_steps_are_asked_for(tmp_path, digits_root):
    lines = []
    run(tmp_path / "run", 1, digits_root, [EachBatch()], lines=lines, max_epochs=1)
    assert not [line for line in lines if "steps_per_execution" in line]


def test_a_loss_that_is_not_finite_within_a_round_is_found_in_its_batch(tmp_path, digits_root):
    named = []
    for steps in (1, 8):
        lines = []
        options = {**SMALL, "data.root": str(digits_root), "model.optimizer": "SGD", "model.optimizer.lr": 1e38}
        result = api.fit(
            "MLP", "Digits", run_dir=tmp_path / str(steps), say=lines.append, steps_per_execution=steps, **options
        )
        assert result.status == "diverged"
        named.append([line for line in lines if line.startswith("diverged")])
    assert named[0] == named[1]
    assert "batch 2 (step 2)" in named[0][0]


def test_fewer_than_one_step_is_refused(cli):
    refused = cli("fit --model MLP --data Digits --steps_per_execution 0")
    assert refused.refusal() == "steps_per_execution is 0, expected 1 or more."


def test_the_number_of_steps_is_no_part_of_a_runs_identity(tmp_path, digits_root):
    for steps in (1, 8):
        run(tmp_path / str(steps), steps, digits_root, max_epochs=1)
    assert RunFolder(tmp_path / "1").metadata["identity"] == RunFolder(tmp_path / "8").metadata["identity"]
