"""Steps that are captured as a graph give what other steps give; where they would not, no graph is used.

There is no GPU here: what CUDA does is played by `Graphs`, whose capture leaves no trace on the device and whose
replay runs no Python of the model that would be seen outside.
"""

import pytest
import torch

from tests.training.test_epoch_loop import ONE_CYCLE, run
from visionbench.models import MLP
from visionbench.training import epoch_loop
from visionbench.training.graphs import GraphedSteps

USED = []  # the graphs of each run


class Graphs:
    """Captures and replays on the processor."""

    def __init__(self, device):
        self.steps = None  # set by `Seen`
        self.captures = self.replays = 0
        USED.append(self)

    def random_state(self):
        return torch.get_rng_state()

    def set_random_state(self, state):
        torch.set_rng_state(state)

    def aside(self, function):
        return function()

    def capture(self, function):
        self.captures += 1
        model, before = self.steps.model, self.steps._state()
        value = function()
        counts = model.train_totals.count, model.train_totals.minimized_count
        self.steps._restore(before)
        model.train_totals.count, model.train_totals.minimized_count = counts  # Python runs in a capture
        parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
        gradients = [parameter.grad for parameter in parameters]

        def replay():
            self.replays += 1
            counts = model.train_totals.count, model.train_totals.minimized_count
            shown = [parameter.grad for parameter in parameters]
            value.copy_(function())
            for parameter, gradient, other in zip(parameters, gradients, shown, strict=True):
                gradient.copy_(parameter.grad)
                parameter.grad = other
            model.train_totals.count, model.train_totals.minimized_count = counts
            self.replayed(value, gradients)

        return value, replay

    def replayed(self, loss, gradients):
        """What goes wrong in a replay: nothing."""


class Seen(GraphedSteps):
    def __init__(self, model, forward, say, graphs):
        super().__init__(model, forward, say, graphs)
        graphs.steps = self


@pytest.fixture(autouse=True)
def played(monkeypatch):
    USED.clear()
    monkeypatch.setattr(epoch_loop, "CudaGraphs", Graphs)
    monkeypatch.setattr(epoch_loop, "GraphedSteps", Seen)
    monkeypatch.setattr(epoch_loop, "SECONDS_OF_A_ROUND", 1e9)
    monkeypatch.setattr(epoch_loop, "GRAPH_DEVICES", ("cpu",))


WAYS = {
    "plain": {},
    "a last batch that is smaller": {"trainer.limit_train_batches": 1.0},
    "dropout, L1": {"model.dropout": 0.3, "model.l1": 0.001},
    "batch norm": {"model": "CNN", "model.widths": [4, 8], "model.convs": [1, 1], "model.dropouts": [0.2, 0.2]},
    "clipping the norm": {"trainer.gradient_clip_val": 0.05},
    "clipping values": {"trainer.gradient_clip_val": 0.01, "trainer.gradient_clip_algorithm": "value"},
    "validation within epochs": {"trainer.val_check_interval": 0.3},
    "max_steps within an epoch": {"trainer.max_steps": 27},
    "a rate for each step": ONE_CYCLE,
    "LBFGS": {"model.optimizer": "torch.optim.LBFGS", "model.optimizer.lr": 0.1},
    "augmentation": {"data.augment": ["RandomCrop", "MixUp"]},
    "bfloat16": {"trainer.precision": "bf16-mixed"},
    "checkpoints within epochs": {"checkpoint.every_n_steps": 6},
}


@pytest.mark.parametrize("way", WAYS)
def test_captured_steps_give_what_other_steps_give(tmp_path, digits_root, way):
    options = {"max_epochs": 3, **WAYS[way]}
    single = run(tmp_path / "single", 8, digits_root, **options)
    lines = []
    other = run(tmp_path / "graphs", 8, digits_root, lines=lines, cuda_graph="auto", **options)
    (graphs,) = USED
    assert graphs.captures == (2 if "max_steps" in way else 3)  # one an epoch
    assert graphs.replays > 10
    assert not [line for line in lines if "cuda_graph" in line]
    assert (other.rows, other.losses, other.digest) == (single.rows, single.losses, single.digest)
    assert other.loops == single.loops
    assert str(other.optimizer) == str(single.optimizer)
    assert other.schedulers == single.schedulers


class OtherGradients(Graphs):
    def replayed(self, loss, gradients):
        gradients[0].view(-1)[0] += 1e-6


class OtherLoss(Graphs):
    def replayed(self, loss, gradients):
        loss += 1e-6


class OtherRandomNumbers(Graphs):
    def replayed(self, loss, gradients):
        torch.rand(1)


class Fails(Graphs):
    def capture(self, function):
        function()  # what it has changed by then is set back
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCompile with ...")


DIFFERS = "a captured step gave other numbers than the same step without a graph"


@pytest.mark.parametrize(
    ("graphs", "reason"),
    [
        (OtherGradients, DIFFERS),
        (OtherLoss, DIFFERS),
        (OtherRandomNumbers, DIFFERS),
        (Fails, "a step could not be captured (CUDA error: operation not permitted when stream is capturing Compile"),
    ],
)
def test_a_graph_that_gives_other_numbers_is_not_used(tmp_path, digits_root, monkeypatch, graphs, reason):
    monkeypatch.setattr(epoch_loop, "CudaGraphs", graphs)
    options = {"model": "CNN", "model.widths": [4, 8], "model.convs": [1, 1], "model.dropouts": [0.2, 0.2]}
    single = run(tmp_path / "single", 8, digits_root, **options)
    lines = []
    other = run(tmp_path / "graphs", 8, digits_root, lines=lines, cuda_graph="auto", **options)
    (said,) = [line for line in lines if "cuda_graph" in line]
    assert said.startswith(f"cuda_graph is never: {reason}")
    assert USED[0].replays <= 1
    assert (other.rows, other.losses, other.digest) == (single.rows, single.losses, single.digest)


class CountsItsSteps(MLP):
    """Does in Python what a graph would do in the first step alone."""

    calls = 0

    def penalty(self):
        self.calls += 1
        return super().penalty()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model": CountsItsSteps}, "CountsItsSteps may do in Python what a graph does not repeat"),
        ({"trainer.accumulate_grad_batches": 2}, "gradients are accumulated"),
        ({"trainer.precision": "64-true"}, "steps_per_execution is 1"),
    ],
    ids=str,
)
def test_no_graph_is_tried_where_it_cannot_repeat_a_step(tmp_path, digits_root, options, reason):
    lines = []
    run(tmp_path / "run", 8, digits_root, lines=lines, cuda_graph="auto", max_epochs=1, **options)
    assert lines.count(f"cuda_graph is never: {reason}.") == 1
    assert USED == []


def test_no_graph_is_tried_without_a_gpu_or_without_being_asked_for(tmp_path, digits_root, monkeypatch):
    run(tmp_path / "never", 8, digits_root, max_epochs=1)
    monkeypatch.undo()
    lines = []
    run(tmp_path / "run", 8, digits_root, lines=lines, cuda_graph="auto", max_epochs=1)
    assert lines.count("cuda_graph is never: the device is cpu.") == 1
    assert USED == []
