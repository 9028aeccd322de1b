"""Optimizers beside torch's own."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from visionbench.errors import UserError

# Coefficients of the quintic Newton-Schulz iteration of Muon. Three iterations bring all singular values from 0.02 to 1
# to between 0.68 and 1.21.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class ConvMuon(Optimizer):
    """Orthogonalized momentum for the filters of convolutions, and SGD with Nesterov momentum for all others.

    From Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), in the form for convolutions:
    before each step a filter bank is scaled to a norm of the square root of its number of filters, and the step is the
    momentum with all singular values set near 1. torch.optim.Muon is for matrices only. A scheduler that sets the
    learning rate itself, such as OneCycleLR, needs one for each of the three groups: filters, matrices, vectors.

    Args:
        lr: Learning rate of filters, parameters of three axes or more.
        momentum: Momentum of filters.
        matrix_lr: Learning rate of matrices, such as the weights of a linear layer.
        vector_lr: Learning rate of vectors, such as biases.
        sgd_momentum: Momentum of matrices and vectors.
        decay: Share of its value that a matrix or a vector loses in each step at the full learning rate.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.24,
        momentum: float = 0.6,
        matrix_lr: float = 0.1,
        vector_lr: float = 0.1,
        sgd_momentum: float = 0.85,
        decay: float = 0.0,
    ) -> None:
        for name, value in (("lr", lr), ("matrix_lr", matrix_lr), ("vector_lr", vector_lr)):
            if not value > 0:
                raise UserError(f"ConvMuon: {name} is {value}, expected a number above 0.")
        for name, value in (("momentum", momentum), ("sgd_momentum", sgd_momentum), ("decay", decay)):
            if not 0 <= value < 1:
                raise UserError(f"ConvMuon: {name} is {value}, expected at least 0 and less than 1.")
        parameters = list(params)
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim > 2], "lr": lr, "momentum": momentum, "weight_decay": 0.0},
            *(
                {
                    "params": [p for p in parameters if (p.ndim == 2) == is_matrix and p.ndim <= 2],
                    "lr": rate,
                    "momentum": sgd_momentum,
                    "weight_decay": decay / rate,
                }
                for is_matrix, rate in ((True, matrix_lr), (False, vector_lr))
            ),
        ]
        defaults = {"lr": lr, "momentum": momentum, "matrix_lr": matrix_lr, "vector_lr": vector_lr}
        super().__init__(
            [group for group in groups if group["params"]], defaults | {"sgd_momentum": sgd_momentum, "decay": decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Makes one optimizer step.

        Args:
            closure: Function that computes the loss and the gradients.

        Returns:
            What the function returns; None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, parameter.grad, group)
        return loss

    def _step(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if group["weight_decay"] != 0:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        step = gradient.add(momentum, alpha=group["momentum"])
        if parameter.ndim > 2:
            parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
            step = orthogonalized(step.flatten(1)).view_as(parameter)
        parameter.add_(step, alpha=-group["lr"])


def orthogonalized(matrix: Tensor, iterations: int = 3) -> Tensor:
    """A matrix with the same singular vectors, and singular values near 1 where they are not tiny.

    Args:
        matrix: Matrix, shape (rows, columns).
        iterations: Number of Newton-Schulz iterations.

    Returns:
        Matrix of the same shape; in bfloat16 on a GPU, where that suffices and is faster.
    """
    a, b, c = COEFFICIENTS
    x: Tensor = matrix.bfloat16() if matrix.is_cuda else matrix
    x = x / (x.norm() + 1e-7)
    is_tall = x.shape[0] > x.shape[1]
    if is_tall:
        x = x.T
    for _ in range(iterations):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if is_tall else x
