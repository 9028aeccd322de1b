"""What a training step costs, in counts that no load of the machine moves: operators, waits for the device and calls.

A step may not dispatch an operator more than a plain loop that does the same work, may never read a number from the
device, and may call few functions of Lightning's and ours.
"""

import sys
from collections import Counter
from pathlib import Path

import lightning
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import visionbench
from visionbench import api
from visionbench.models import MLP, Classifier
from visionbench.training.epoch_loop import EpochLoop

PACKAGES = tuple(str(Path(package.__file__).parent) for package in (visionbench, lightning))
STEPS = 7  # steps that a round of eight runs by itself
# Functions of Lightning's and ours that a step of the MLP calls: the loader, the loop and the model. One call of
# `self.log` makes over a hundred more.
CALLS = 55


class Operators(TorchDispatchMode):
    """Counts the operators that are dispatched."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture
def measured(monkeypatch, tmp_path, digits_root):
    """Trains two epochs and gives what one round of the second ran: operators, and calls by file and function."""

    def measure():
        rounds = []
        run_ahead = EpochLoop._run_ahead

        def counted(loop, fetcher, batches):
            if batches != STEPS or loop.trainer.current_epoch == 0:
                run_ahead(loop, fetcher, batches)
                return
            calls = Counter()

            def note(frame, event, argument):
                if event == "call" and frame.f_code.co_filename.startswith(PACKAGES):
                    calls[f"{Path(frame.f_code.co_filename).name} {frame.f_code.co_name}"] += 1

            before = sys.getprofile()
            with Operators() as operators:
                sys.setprofile(note)
                try:
                    run_ahead(loop, fetcher, batches)
                finally:
                    sys.setprofile(before)
            rounds.append((operators.names, calls))

        monkeypatch.setattr(EpochLoop, "_run_ahead", counted)
        options = {"model.widths": [8, 8], "data.root": str(digits_root), "trainer.precision": "32-true"}
        api.fit("MLP", "Digits", run_dir=tmp_path / "run", max_epochs=2, steps_per_execution=STEPS + 1, **options)
        return rounds[1]  # the first one reads a new block of images

    return measure


def plain_loop():
    """The operators of a loop that does the same work, without any library."""
    network = MLP(10, (1, 28, 28), widths=[8, 8]).network
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001, fused=True)
    loss_sum, correct = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
    images, labels = torch.randn(64, 1, 28, 28), torch.zeros(64, dtype=torch.int64)

    def step():
        outputs = network(images)
        loss = F.cross_entropy(outputs, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum.add_(loss.detach() * len(labels))
        correct.add_((outputs.detach().argmax(1) == labels).sum())

    step()  # makes the state of the optimizer
    with Operators() as operators:
        for _ in range(STEPS):
            step()
    return operators.names


def test_a_step_runs_the_operators_of_a_plain_loop_and_no_others(measured):
    operators, _ = measured()
    more = operators - plain_loop()
    # `detach` of the loss that the round hands on: a view, which computes nothing.
    assert set(more) <= {"detach"}
    assert more["detach"] <= 2 * STEPS


def test_a_step_never_waits_for_the_device(measured):
    operators, _ = measured()
    assert not [name for name in operators if name in ("_local_scalar_dense", "item", "_to_copy", "nonzero")]


def test_a_step_calls_few_functions(measured):
    _, calls = measured()
    assert sum(calls.values()) <= CALLS * STEPS, calls.most_common()


def test_one_item_in_the_step_is_noticed(measured, monkeypatch):
    step = Classifier.training_step

    def reads(model, batch, batch_idx):
        loss = step(model, batch, batch_idx)
        loss.item()
        return loss

    monkeypatch.setattr(Classifier, "training_step", reads)
    operators, _ = measured()
    assert operators["_local_scalar_dense"] == STEPS


def test_one_log_in_the_step_is_noticed(measured, monkeypatch):
    step = Classifier.training_step

    def logs(model, batch, batch_idx):
        loss = step(model, batch, batch_idx)
        model.log("train/each", loss)
        return loss

    monkeypatch.setattr(Classifier, "training_step", logs)
    _, calls = measured()
    assert sum(calls.values()) > CALLS * STEPS
