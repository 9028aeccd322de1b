"""Steps that are captured as a graph give what other steps give; where they would not, no graph is used.

There is no GPU here: what CUDA does is played by `Graphs`, whose capture leaves no trace on the device and whose
replay runs no Python of the model that would be seen outside.
"""

import weakref

import pytest
import torch

from tests.training.test_epoch_loop import ONE_CYCLE, run
from visionbench.errors import UserError
from visionbench.models import MLP
from visionbench.models.base import Classifier
from visionbench.runs.folder import RunFolder
from visionbench.training import epoch_loop
from visionbench.training.graphs import GraphedSteps
from visionbench.training.steps import StepwiseCallback

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

    def in_other_stream(self, function):
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
    assert not [line for line in lines if "CUDA graph" in line]
    assert (other.rows, other.losses, other.digest) == (single.rows, single.losses, single.digest)
    assert other.loops == single.loops
    assert str(other.optimizer) == str(single.optimizer)
    assert other.schedulers == single.schedulers


@pytest.mark.parametrize("optimizer", ["Adam", "LBFGS"])
def test_no_autograd_graph_of_an_earlier_step_is_alive_in_a_capture(tmp_path, digits_root, monkeypatch, optimizer):
    """Its nodes would bring the stream of that step into the capture, which torch refuses."""
    losses, alive = [], []
    plain = Classifier.training_step

    def training_step(model, batch, index):
        loss = plain(model, batch, index)
        losses.append(weakref.ref(loss))
        return loss

    class Looks(Graphs):
        def capture(self, function):
            alive.append(sum(loss() is not None for loss in losses))
            return super().capture(function)

    monkeypatch.setattr(Classifier, "training_step", training_step)
    monkeypatch.setattr(epoch_loop, "CudaGraphs", Looks)
    options = {"model.optimizer": f"torch.optim.{optimizer}", "model.optimizer.lr": 0.01}
    run(tmp_path / "run", 8, digits_root, cuda_graph="auto", **options)
    assert alive == [0, 0]  # two epochs


class MovesWeights(StepwiseCallback):
    """Gives the weights other memory after each round, which a graph does not read."""

    def on_steps(self, trainer, model, steps):
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()


def test_a_step_whose_weights_have_moved_is_captured_anew(tmp_path, digits_root):
    run(tmp_path / "run", 8, digits_root, [MovesWeights()], cuda_graph="auto", max_epochs=1)
    assert USED[0].captures == 3  # one in each round of several steps


class OtherGradients(Graphs):
    def replayed(self, loss, gradients):
        gradients[0].view(-1)[0] += 1e-6


class OtherLoss(Graphs):
    def replayed(self, loss, gradients):
        loss += 1e-6


class OtherRandomNumbers(Graphs):
    def replayed(self, loss, gradients):
        torch.rand(1)


@pytest.mark.parametrize("graphs", [OtherGradients, OtherLoss, OtherRandomNumbers])
def test_a_graph_that_gives_other_numbers_is_not_used(tmp_path, digits_root, monkeypatch, graphs):
    monkeypatch.setattr(epoch_loop, "CudaGraphs", graphs)
    options = {"model": "CNN", "model.widths": [4, 8], "model.convs": [1, 1], "model.dropouts": [0.2, 0.2]}
    single = run(tmp_path / "single", 8, digits_root, **options)
    lines = []
    other = run(tmp_path / "graphs", 8, digits_root, lines=lines, cuda_graph="auto", **options)
    reason = "a captured step gave other numbers than the same step without a graph"
    assert [line for line in lines if "CUDA graph" in line] == [f"CUDA graphs are not used: {reason}."]
    assert USED[0].replays == 1
    assert (other.rows, other.losses, other.digest) == (single.rows, single.losses, single.digest)


class Fails(Graphs):
    def capture(self, function):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCompile with ...")


def test_a_step_that_cannot_be_captured_ends_the_run(tmp_path, digits_root, monkeypatch):
    """What torch can still do after a failed capture is not known."""
    monkeypatch.setattr(epoch_loop, "CudaGraphs", Fails)
    with pytest.raises(UserError, match=r"not permitted when stream is capturing .*; give --cuda_graph never\."):
        run(tmp_path / "run", 8, digits_root, cuda_graph="auto", max_epochs=1)
    assert RunFolder(tmp_path / "run").status == "failed"


class CountsItsSteps(MLP):
    """Does in Python what a graph would do in the first step alone."""

    calls = 0

    def penalty(self):
        self.calls += 1
        return super().penalty()


class KeepsGradients(torch.optim.Adagrad):
    """May compare the gradients of two steps."""


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"model.optimizer": f"{__name__}.KeepsGradients", "model.optimizer.lr": 0.1},
            "KeepsGradients may keep gradients, whose memory a graph overwrites",
        ),
        ({"model": CountsItsSteps}, "CountsItsSteps may do in Python what a graph does not repeat"),
        ({"trainer.accumulate_grad_batches": 2}, "gradients are accumulated"),
        ({"trainer.precision": "64-true"}, "steps_per_execution is 1"),
    ],
    ids=str,
)
def test_no_graph_is_tried_where_it_cannot_repeat_a_step(tmp_path, digits_root, options, reason):
    lines = []
    run(tmp_path / "run", 8, digits_root, lines=lines, cuda_graph="auto", max_epochs=1, **options)
    assert lines.count(f"CUDA graphs are not used: {reason}.") == 1
    assert USED == []


def test_no_graph_is_tried_without_a_gpu_or_without_being_asked_for(tmp_path, digits_root, monkeypatch):
    run(tmp_path / "never", 8, digits_root, max_epochs=1)
    monkeypatch.undo()
    lines = []
    run(tmp_path / "run", 8, digits_root, lines=lines, cuda_graph="auto", max_epochs=1)
    assert lines.count("CUDA graphs are not used: the device is cpu.") == 1
    assert USED == []
