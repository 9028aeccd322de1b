"""Forward and backward pass of a step as one CUDA graph, which is launched at once instead of kernel by kernel.

A graph repeats the kernels of one call on the same memory. The optimizer, its learning rate and the clipping of
gradients stay outside, so that nothing of a checkpoint depends on whether graphs are used. Before a graph is used, its
loss, gradients, buffers and random state are compared with those of the same step without it, bit for bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visionbench.errors import UserError
from visionbench.models.base import Batch, Classifier, Totals
from visionbench.text import one_line

# Steps without a graph at the beginning, in which libraries choose their kernels.
WARM_UP_STEPS = 3


class CudaGraphs:
    """CUDA graphs of torch, on an NVIDIA GPU.

    Args:
        device: Device of the run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def random_state(self) -> Tensor:
        """State of the device's random numbers."""
        return torch.cuda.get_rng_state(self.device)

    def set_random_state(self, state: Tensor) -> None:
        """Sets what `random_state` gave."""
        torch.cuda.set_rng_state(state, self.device)

    def in_other_stream(self, function: Callable[[], Tensor]) -> Tensor:
        """Calls a function in another stream, as torch asks for before a capture."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            value = function()
        current.wait_stream(self.stream)
        return value

    def capture(self, function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """Captures the kernels of a function, without running them.

        Returns:
            What the function returns, whose memory each call of the second value fills anew.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            value = function()
        return value, graph.replay


class GraphedSteps:
    """Computes training steps by a graph, which is captured anew in each epoch, since an epoch has sums of its own.

    Args:
        model: Model in training.
        forward: Computes the loss of a batch in the precision of the run.
        say: Called with a sentence where graphs turn out not to work.
        graphs: Captures them.
    """

    def __init__(
        self,
        model: Classifier,
        forward: Callable[[Batch, int], Tensor],
        say: Callable[[str], object],
        graphs: Any,
    ) -> None:
        self.model, self.forward, self.say, self.graphs = model, forward, say, graphs
        self.works = True
        self.steps_without = 0
        self.totals: Totals | None = None  # of the epoch of the graph
        self.batch: Batch = (torch.empty(0), torch.empty(0))  # memory that the graph reads
        self.loss = torch.empty(0)
        self.gradients: list[tuple[Any, Tensor]] = []
        self.counts = (0, 0)  # of samples, which one step adds to the sums
        self.kept: list[Tensor] = []  # parameters and buffers, which a graph reads where they were when it was captured
        self.addresses: list[int] = []
        self.replay: Callable[[], None] | None = None

    def step(self, batch: Batch, index: int) -> Tensor | None:
        """Computes loss and gradients of a batch.

        Args:
            batch: Images and labels.
            index: Number of the batch in the epoch.

        Returns:
            The loss; `None` where the step is to be made without a graph.
        """
        if not self.works:
            return None
        if self.steps_without < WARM_UP_STEPS:
            self.steps_without += 1
            return None
        is_valid = self.totals is self.model.train_totals and self.addresses == _addresses(self.kept)
        if not is_valid and not self._capture(batch, index):
            return None
        if self.replay is None or any(new.shape != old.shape for new, old in zip(batch, self.batch, strict=True)):
            return None  # a batch that is smaller than the others
        for own, new in zip(self.batch, batch, strict=True):
            own.copy_(new)
        self.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        totals = self.model.train_totals
        totals.count += self.counts[0]
        totals.minimized_count += self.counts[1]
        return self.loss.clone()

    def _capture(self, batch: Batch, index: int) -> bool:
        """Captures a step, and compares it with the same step without the graph."""
        self.batch = own = (batch[0].clone(), batch[1].clone())
        self.totals = self.model.train_totals
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]

        def loss_and_gradients() -> Tensor:
            for parameter in parameters:
                parameter.grad = None
            loss = self.forward(own, index)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()

        self.kept = [*self.model.parameters(), *self.model.buffers()]
        self.addresses = _addresses(self.kept)
        before = self._state()
        loss = self.graphs.in_other_stream(loss_and_gradients)
        expected = [loss.clone(), *_gradients(parameters), *self._state().tensors]
        self._restore(before)
        try:
            self.loss, self.replay = self.graphs.capture(loss_and_gradients)
        except RuntimeError as error:  # of CUDA, after which torch does not promise that training can be continued
            reason = one_line(error).rstrip(".")
            raise UserError(
                f"A step could not be captured as a CUDA graph ({reason}); give --cuda_graph never."
            ) from error
        self.counts = (self.totals.count - before.counts[0], self.totals.minimized_count - before.counts[1])
        self.gradients = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
        self.replay()
        replayed = [self.loss, *_gradients(parameters), *self._state().tensors]
        if len(replayed) != len(expected) or not all(map(torch.equal, replayed, expected)):
            self.works, self.replay = False, None
            self.say("CUDA graphs are not used: a captured step gave other numbers than the same step without a graph.")
        self._restore(before)
        return self.works

    def _changed_by_a_step(self) -> list[Tensor]:
        totals = self.model.train_totals
        return [*self.model.buffers(), totals.loss, totals.minimized, totals.correct]

    def _state(self) -> "_State":
        totals = self.model.train_totals
        tensors = [self.graphs.random_state(), *(tensor.clone() for tensor in self._changed_by_a_step())]
        return _State(tensors, (totals.count, totals.minimized_count))

    def _restore(self, state: "_State") -> None:
        totals = self.model.train_totals
        random_state, *values = state.tensors
        self.graphs.set_random_state(random_state)
        with torch.no_grad():
            for tensor, value in zip(self._changed_by_a_step(), values, strict=True):
                tensor.copy_(value)
        totals.count, totals.minimized_count = state.counts


@dataclass(frozen=True)
class _State:
    """What a step changes besides gradients: random state, buffers, sums, and numbers of samples."""

    tensors: list[Tensor]
    counts: tuple[int, int]


def _addresses(tensors: list[Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def _gradients(parameters: list[Any]) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
