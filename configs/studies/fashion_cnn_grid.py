"""The networks of CS 6140, Project 4, task 2, with one argument for each hyperparameter of the grid."""

from typing import Any

from visionbench.models import CNN


class GridCNN(CNN):
    """Blocks of one convolution of equal width, without batch norm and without dropout in the blocks.

    The defaults are the base network of the report: 55,098 parameters on 28 x 28 gray images.

    Args:
        n_conv_layers: Number of blocks.
        n_conv_filters: Number of filters of each block.
        dense: Number of nodes of the dense layer before the head.
    """

    def __init__(
        self,
        num_classes: int,
        input_shape: tuple[int, int, int],
        n_conv_layers: int = 2,
        n_conv_filters: int = 16,
        dense: int = 128,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_classes,
            input_shape,
            widths=[n_conv_filters] * n_conv_layers,
            convs=[1] * n_conv_layers,
            dropouts=[0.0] * n_conv_layers,
            dense=dense,
            batch_norm=False,
            **kwargs,
        )
