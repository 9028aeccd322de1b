"""Convolutional network."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from visionbench.errors import UserError
from visionbench.models.activations import Activation, make_activation
from visionbench.models.base import Classifier
from visionbench.models.ranges import check_counts, check_probabilities
from visionbench.text import counted

Padding = Literal["same", "none"]


class CNNNetwork(nn.Sequential):
    """`blocks` of batch norm, convolutions with activations, max pool and dropout; a `dense` layer; and the `head`.

    Args:
        input_shape: Shape of one image, (C, H, W).
        num_outputs: Number of outputs of the head.
        widths: Numbers of filters, one per block.
        convs: Numbers of convolutions, one per block.
        filter_size: Side of every filter, in pixels.
        padding: Padding of the convolutions: same (the image keeps its size) or none (the image loses its border).
        pool: Side of the max pool that ends each block, in pixels.
        dropouts: Dropout probability after each block, one for each block; 0 for no dropout.
        channel_dropout: Whether the blocks' dropouts drop whole channels (Dropout2d) instead of single values.
        dense: Number of nodes of the dense layer before the head; 0 for no dense layer.
        dense_dropout: Dropout probability after the dense layer; 0 for no dropout.
        activation: Activation function after each convolution and the dense layer.
        batch_norm: Whether batch norms normalize the input of each block and of the dense layer.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        widths: Sequence[int],
        convs: Sequence[int],
        filter_size: int,
        padding: Padding,
        pool: int,
        dropouts: Sequence[float],
        channel_dropout: bool,
        dense: int,
        dense_dropout: float,
        activation: Activation,
        batch_norm: bool,
    ) -> None:
        channels, height, width = input_shape
        blocks = nn.Sequential()
        for filters, count, dropout in zip(widths, convs, dropouts, strict=True):
            block = nn.Sequential()
            if batch_norm:
                block.append(nn.BatchNorm2d(channels))
            for _ in range(count):
                block.append(nn.Conv2d(channels, filters, filter_size, padding="same" if padding == "same" else 0))
                block.append(make_activation(activation))
                channels = filters
                if padding == "none":
                    height, width = height - filter_size + 1, width - filter_size + 1
            block.append(nn.MaxPool2d(pool))
            height, width = height // pool, width // pool
            if dropout != 0:
                block.append(nn.Dropout2d(dropout) if channel_dropout else nn.Dropout(dropout))
            blocks.append(block)
        if min(height, width) < 1:
            raise UserError(
                f"An image of {input_shape[1]} x {input_shape[2]} pixels is too small for "
                f"{counted(len(widths), 'block')}; use fewer blocks, model.padding same or a smaller model.pool."
            )
        before_head = nn.Sequential()
        if batch_norm:
            before_head.append(nn.BatchNorm2d(channels))
        before_head.append(nn.Flatten())
        nodes = channels * height * width
        if dense > 0:
            before_head.append(nn.Linear(nodes, dense))
            before_head.append(make_activation(activation))
            if dense_dropout != 0:
                before_head.append(nn.Dropout(dense_dropout))
            nodes = dense
        super().__init__(OrderedDict(blocks=blocks, dense=before_head, head=nn.Linear(nodes, num_outputs)))


class CNN(Classifier):
    """Convolutional network of blocks that end in a max pool.

    The defaults are the network of a Fashion-MNIST CNN coursework, December 2023, with 64 dense nodes: 315,148
    parameters on 28 x 28 gray images. The best legible cell of its grid has dropout 0.3 after the third block; the
    report does not state the probability of the last dropout.

    Other arguments, without batch norm and padding, give two networks of CS 6140, Project 4: the MNIST network of task
    1 (widths [10, 20], convs [1, 1], filter_size 5, dropouts [0, 0.5], channel_dropout, dense 50, dense_dropout 0.5,
    loss nll; 21,840 parameters) and the base network of task 2 (widths [16, 16], convs [1, 1], dropouts [0, 0], dense
    128, dense_dropout 0.1; 55,098 parameters). The network of task 1 applies max pool and dropout before ReLU, which
    gives the same numbers.

    Args:
        widths: Numbers of filters, one per block.
        convs: Numbers of convolutions, one per block.
        filter_size: Side of every filter, in pixels.
        padding: Padding of the convolutions: same (the image keeps its size) or none (the image loses its border).
        pool: Side of the max pool that ends each block, in pixels.
        dropouts: Dropout probability after each block, one for each block; 0 for no dropout.
        channel_dropout: Whether the blocks' dropouts drop whole channels (Dropout2d) instead of single values.
        dense: Number of nodes of the dense layer before the head; 0 for no dense layer.
        dense_dropout: Dropout probability after the dense layer; 0 for no dropout.
        activation: Activation function after each convolution and the dense layer.
        batch_norm: Whether batch norms normalize the input of each block and of the dense layer.
    """

    def __init__(
        self,
        num_classes: int,
        input_shape: tuple[int, int, int],
        widths: list[int] = [32, 64, 128],  # noqa: B006 - never modified, and shown by --help
        convs: list[int] = [1, 1, 2],  # noqa: B006
        filter_size: int = 3,
        padding: Padding = "same",
        pool: int = 2,
        dropouts: list[float] = [0.0, 0.0, 0.3],  # noqa: B006
        channel_dropout: bool = False,
        dense: int = 64,
        dense_dropout: float = 0.0,
        activation: Activation = "relu",
        batch_norm: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, input_shape, **kwargs)
        check_counts(widths=widths, convs=convs, filter_size=filter_size, pool=pool)
        check_counts(0, dense=dense)
        check_probabilities(dropouts=dropouts, dense_dropout=dense_dropout)
        if not len(widths) == len(convs) == len(dropouts):
            raise UserError(
                f"model.widths, model.convs and model.dropouts have {len(widths)}, {len(convs)} and {len(dropouts)} "
                "entries, expected one for each block in all three lists."
            )
        self.network = CNNNetwork(
            input_shape,
            self.num_outputs,
            widths,
            convs,
            filter_size,
            padding,
            pool,
            dropouts,
            channel_dropout,
            dense,
            dense_dropout,
            activation,
            batch_norm,
        )
        # The same network in less time (benchmarks/epoch_parts.py layouts).
        self.network = self.network.to(memory_format=torch.channels_last)
