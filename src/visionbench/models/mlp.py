"""Multilayer perceptron."""

from collections import OrderedDict
from collections.abc import Sequence
from math import prod
from typing import Any

from torch import nn

from visionbench.errors import UserError
from visionbench.models.activations import Activation, make_activation
from visionbench.models.base import Classifier
from visionbench.models.ranges import check_counts, check_probabilities


class MLPNetwork(nn.Sequential):
    """Flatten, `hidden` layers of Linear, batch norm, activation and dropout, and a linear `head`.

    Args:
        input_shape: Shape of one image, (C, H, W), or of one row of a table, (F,).
        num_outputs: Number of outputs of the head.
        widths: Number of nodes of each hidden layer.
        activation: Activation function of the hidden layers.
        batch_norm: Whether a batch norm precedes the activation of each hidden layer.
        dropout: Dropout probability after the hidden layers; 0 for no dropout.
        dropout_after: Numbers of the hidden layers with dropout, counted from 1.
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
            if dropout != 0 and number in dropout_after:
                layers.append(nn.Dropout(dropout))
            hidden.append(nn.Sequential(*layers))
            nodes = width
        head = nn.Linear(nodes, num_outputs)
        super().__init__(OrderedDict(flatten=nn.Flatten(), hidden=hidden, head=head))  # (B, C, H, W) -> (B, C * H * W)


class MLP(Classifier):
    """Multilayer perceptron on the flattened image, or on a row of a table.

    The defaults are the network without regularization of CSCI 5922 (Neural Nets and Deep Learning), Lab 1, February
    2024: 784-256-128-64-10 nodes, tanh, 242,762 parameters on 28 x 28 images; 243,658 with batch norm.

    Args:
        widths: Number of nodes of each hidden layer.
        activation: Activation function of the hidden layers.
        batch_norm: Whether a batch norm precedes the activation of each hidden layer.
        dropout: Dropout probability after the hidden layers; 0 for no dropout.
        dropout_after: Numbers of the hidden layers with dropout, counted from 1; by default all hidden layers.
    """

    def __init__(
        self,
        num_classes: int,
        input_shape: tuple[int, ...],
        widths: list[int] = [256, 128, 64],  # noqa: B006 - never modified, and shown by --help
        activation: Activation = "tanh",
        batch_norm: bool = False,
        dropout: float = 0.0,
        dropout_after: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, input_shape, **kwargs)
        check_counts(widths=widths)
        check_probabilities(dropout=dropout)
        after = dropout_after if dropout_after is not None else list(range(1, len(widths) + 1))
        if not all(1 <= number <= len(widths) for number in after):
            raise UserError(f"model.dropout_after is {after}, expected numbers of hidden layers, 1 to {len(widths)}.")
        self.network = MLPNetwork(input_shape, self.num_outputs, widths, activation, batch_norm, dropout, after)
