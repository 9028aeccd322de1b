"""Multilayer perceptron."""

from collections import OrderedDict
from collections.abc import Sequence
from math import prod
from typing import Any

from torch import nn

from visionbench.errors import UserError
from visionbench.models.activations import Activation, make_activation
from visionbench.models.base import Classifier


class MLPNetwork(nn.Sequential):
    """Flatten, `hidden` layers (Linear, batch norm, activation, dropout), and the `head`, Linear.

    Args:
        input_shape: Of one image, (C, H, W), or of a table's row, (F,).
        num_outputs: Of the head.
        widths: Nodes of each hidden layer.
        activation: After each hidden layer.
        batch_norm: Normalise each hidden layer's output before its activation.
        dropout: Probability of a node's being dropped.
        dropout_after: The hidden layers, from 1, whose activations are dropped.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        widths: Sequence[int],
        activation: Activation,
        batch_norm: bool,
        dropout: float,
        dropout_after: Sequence[int],
    ) -> None:
        hidden = nn.Sequential()
        nodes = prod(input_shape)
        for number, width in enumerate(widths, start=1):
            layers: list[nn.Module] = [nn.Linear(nodes, width)]
            if batch_norm:
                layers.append(nn.BatchNorm1d(width))
            layers.append(make_activation(activation))
            if dropout > 0 and number in dropout_after:
                layers.append(nn.Dropout(dropout))
            hidden.append(nn.Sequential(*layers))
            nodes = width
        head = nn.Linear(nodes, num_outputs)
        super().__init__(OrderedDict(flatten=nn.Flatten(), hidden=hidden, head=head))  # (B, C, H, W) -> (B, C * H * W)


class MLP(Classifier):
    """Multilayer perceptron on the flattened image, or on a row of a table.

    The defaults are the network without regularisation of CSCI 5922 (Neural Nets and Deep Learning), Lab 1, February
    2024: 784-256-128-64-10, tanh, 242,762 parameters on 28 x 28 images; 243,658 with batch norm.

    Args:
        widths: Nodes of each hidden layer.
        activation: After each hidden layer.
        batch_norm: Normalise each hidden layer's output before its activation.
        dropout: Probability of a node's being dropped; 0 for no dropout.
        dropout_after: The hidden layers, counted from 1, whose activations are dropped; by default all of them.
    """

    def __init__(
        self,
        num_classes: int,
        input_shape: tuple[int, ...],
        widths: list[int] = [256, 128, 64],  # noqa: B006 - never changed, and shown by --help
        activation: Activation = "tanh",
        batch_norm: bool = False,
        dropout: float = 0.0,
        dropout_after: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, input_shape, **kwargs)
        after = dropout_after if dropout_after is not None else list(range(1, len(widths) + 1))
        if not all(1 <= number <= len(widths) for number in after):
            raise UserError(f"model.dropout_after is {after}, expected numbers of hidden layers, 1 to {len(widths)}.")
        self.network = MLPNetwork(input_shape, self.num_outputs, widths, activation, batch_norm, dropout, after)
