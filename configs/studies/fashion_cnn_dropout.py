"""The network of a Fashion-MNIST CNN coursework, December 2023, with one argument for each dropout of its grid."""

from typing import Any

from visionbench.models import CNN


class DropoutCNN(CNN):
    """A CNN of three blocks, each of which ends in a dropout.

    Args:
        p1: Dropout probability after the first block.
        p2: Dropout probability after the second block.
        p3: Dropout probability after the third block.
    """

    def __init__(
        self,
        num_classes: int,
        input_shape: tuple[int, int, int],
        p1: float = 0.0,
        p2: float = 0.0,
        p3: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, input_shape, dropouts=[p1, p2, p3], **kwargs)
