"""Convolutional network."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from visionbench.errors import UserError
from visionbench.models.activations import Activation, make_activation
from visionbench.models.base import Classifier

Padding = Literal["same", "none"]


class CNNNetwork(nn.Sequential):
    """`blocks` of (batch norm, convolutions with activations, max pool, dropout), a `dense` layer, and the `head`.

    Args:
        input_shape: Of one image, (C, H, W).
        num_outputs: Of the head.
        widths: Filters of each block.
        convs: Convolutions of each block.
        filter_size: Side of every filter, in pixels.
        padding: Whether a convolution keeps the image's size.
        pool: Side of the max pool that ends each block, in pixels.
        dropouts: Probability of dropping a value, or a channel, after each block.
        channel_dropout: Drop whole channels there.
        dense: Nodes of the dense layer; 0 for none.
        dense_dropout: Probability of dropping one of those.
        activation: After each convolution and the dense layer.
        batch_norm: Normalise the input of each block and that of the dense layer.
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
            if dropout > 0:
                block.append(nn.Dropout2d(dropout) if channel_dropout else nn.Dropout(dropout))
            blocks.append(block)
        if min(height, width) < 1:
            raise UserError(
                f"An image of {input_shape[1]} x {input_shape[2]} pixels is used up before the last of the "
                f"{len(widths)} blocks; use fewer blocks, model.padding same or a smaller model.pool."
            )
        before_head = nn.Sequential()
        if batch_norm:
            before_head.append(nn.BatchNorm2d(channels))
        before_head.append(nn.Flatten())
        nodes = channels * height * width
        if dense > 0:
            before_head.append(nn.Linear(nodes, dense))
            before_head.append(make_activation(activation))
            if dense_dropout > 0:
                before_head.append(nn.Dropout(dense_dropout))
            nodes = dense
        super().__init__(OrderedDict(blocks=blocks, dense=before_head, head=nn.Linear(nodes, num_outputs)))


class CNN(Classifier):
    """Convolutional network of blocks that end in a max pool.

    The defaults are the network of a Fashion-MNIST CNN coursework, December 2023, with 64 dense nodes: 315,148
    parameters on 28 x 28 grey images. Its best legible cell drops 0.3 after the third block; the probability of its
    last dropout is not given.

    Two networks of CS 6140, Project 4, are this one with other arguments, both without batch norm and padding: the
    MNIST network of its task 1 (widths [10, 20], convs [1, 1], filter_size 5, dropouts [0, 0.5], channel_dropout, dense
    50, dense_dropout 0.5, loss nll; 21,840 parameters) and the base of its task 2 (widths [16, 16], convs [1, 1],
    dropouts [0, 0], dense 128, dense_dropout 0.1; 55,098 parameters). The first pools, and drops channels, before it
    takes ReLU, which gives the same numbers.

    Args:
        widths: Filters of each block.
        convs: Convolutions of each block.
        filter_size: Side of every filter, in pixels.
        padding: `same` keeps the image's size in a convolution, `none` loses the border.
        pool: Side of the max pool that ends each block, in pixels.
        dropouts: Probability of dropping a value after each block; 0 for no dropout.
        channel_dropout: Whether that dropout drops whole channels (Dropout2d) instead of single values.
        dense: Nodes of the dense layer before the logits; 0 for no such layer.
        dense_dropout: Probability of dropping one of those nodes.
        activation: After each convolution and the dense layer.
        batch_norm: Normalise the input of each block and that of the dense layer.
    """

    def __init__(
        self,
        num_classes: int,
        input_shape: tuple[int, int, int],
        widths: list[int] = [32, 64, 128],  # noqa: B006 - never changed, and shown by --help
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
        if not len(widths) == len(convs) == len(dropouts):
            raise UserError(
                f"model.widths, model.convs and model.dropouts have {len(widths)}, {len(convs)} and {len(dropouts)} "
                "entries, expected one for each block in all three."
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
