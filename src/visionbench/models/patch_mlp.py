"""MLP over patches: mixes the patches of an image, then the features of each patch.

Values have the shape (patches, B, width). With the patches as the first axis, a layer across patches is one matrix
product with the weights on the left, and the batch norm reads all values of a patch from contiguous memory; with the
images first, both would read memory in strides.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from visionbench.errors import UserError
from visionbench.models.activations import Activation, make_activation
from visionbench.models.base import Classifier
from visionbench.models.ranges import check_counts


class Patches(nn.Module):
    """Cuts images into square patches, row by row: (B, C, H, W) -> (patches, B, C * size * size).

    Args:
        size: Side of a patch, in pixels; a divisor of the height and the width of the image.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        batch, channels, height, width = images.shape
        rows, columns = height // self.size, width // self.size
        patches = images.reshape(batch, channels, rows, self.size, columns, self.size)
        return patches.permute(2, 4, 0, 1, 3, 5).reshape(rows * columns, batch, -1)


class PatchNorm(nn.BatchNorm1d):
    """Batch norm with one mean and one variance for each patch: (patches, B, width) -> the same shape."""

    def forward(self, values: Tensor) -> Tensor:  # noqa: D102
        return super().forward(values.flatten(1).unsqueeze(0)).view_as(values)


class FirstAxisLinear(nn.Linear):
    """A linear layer on the first axis: (in_features, N) -> (out_features, N)."""

    def forward(self, values: Tensor) -> Tensor:  # noqa: D102
        return torch.addmm(self.bias.unsqueeze(1), self.weight, values)


class PatchBlock(nn.Module):
    """An MLP across the patches, then an MLP across the features: (patches, B, width) -> the same shape.

    Args:
        patches: Number of patches of an image.
        width: Number of features of a patch.
        patch_hidden: Number of hidden nodes of the MLP across the patches.
        feature_hidden: Number of hidden nodes of the MLP across the features.
        activation: Activation function between the two layers of each MLP.
        skip: Whether the input of each MLP is added to its output.
    """

    def __init__(
        self, patches: int, width: int, patch_hidden: int, feature_hidden: int, activation: Activation, skip: bool
    ) -> None:
        super().__init__()
        self.skip = skip
        self.across_patches = nn.Sequential(
            FirstAxisLinear(patches, patch_hidden), make_activation(activation), FirstAxisLinear(patch_hidden, patches)
        )
        self.across_features = nn.Sequential(
            nn.Linear(width, feature_hidden), make_activation(activation), nn.Linear(feature_hidden, width)
        )

    def forward(self, values: Tensor) -> Tensor:  # noqa: D102
        mixed: Tensor = self.across_patches(values.flatten(1)).view_as(values)
        values = values + mixed if self.skip else mixed
        mixed = self.across_features(values)
        return values + mixed if self.skip else mixed


class PatchMLPNetwork(nn.Module):
    """Patches, a linear stem with batch norm, blocks, the mean over the patches, and a linear head.

    Args:
        input_shape: Shape of one image, (C, H, W).
        num_outputs: Number of outputs of the head.
        patch_size: Side of a patch, in pixels.
        width: Number of features of a patch after the stem.
        blocks: Number of blocks.
        patch_hidden: Number of hidden nodes of each MLP across the patches.
        feature_hidden: Number of hidden nodes of each MLP across the features.
        activation: Activation function between the two layers of each MLP.
        skip: Whether the input of each MLP is added to its output.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        *,
        patch_size: int,
        width: int,
        blocks: int,
        patch_hidden: int,
        feature_hidden: int,
        activation: Activation,
        skip: bool,
    ) -> None:
        super().__init__()
        channels, image_height, image_width = input_shape
        if patch_size < 1 or image_height % patch_size or image_width % patch_size:
            raise UserError(
                f"model.patch_size is {patch_size}, expected a divisor of the height and the width of the image, "
                f"{image_height} x {image_width} pixels."
            )
        patches = (image_height // patch_size) * (image_width // patch_size)
        self.stem = nn.Sequential(
            Patches(patch_size),
            nn.Linear(channels * patch_size**2, width),
            PatchNorm(patches),
        )
        self.blocks = nn.Sequential(
            *(PatchBlock(patches, width, patch_hidden, feature_hidden, activation, skip) for _ in range(blocks))
        )
        self.head = nn.Linear(width, num_outputs)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        logits: Tensor = self.head(self.blocks(self.stem(images)).mean(dim=0))
        return logits


class PatchMLP(Classifier):
    """MLP over patches, without attention or convolution.

    The defaults are the network of ECS659P (Neural Networks and Deep Learning), coursework: 49 patches of 4 x 4, a stem
    of 256 features, two blocks of an MLP across the patches and an MLP across the features, no skip connections,
    Kaiming initialization. The hidden widths in the report are partly illegible: 128 and 64 occur. The report does not
    state the activation; Kaiming initialization is made for ReLU.

    Args:
        patch_size: Side of a patch, in pixels; a divisor of the height and the width of the image.
        width: Number of features of a patch after the stem.
        blocks: Number of blocks.
        patch_hidden: Number of hidden nodes of each MLP across the patches.
        feature_hidden: Number of hidden nodes of each MLP across the features.
        activation: Activation function between the two layers of each MLP.
        skip: Whether the input of each MLP is added to its output.
    """

    def __init__(
        self,
        num_classes: int,
        input_shape: tuple[int, int, int],
        patch_size: int = 4,
        width: int = 256,
        blocks: int = 2,
        patch_hidden: int = 128,
        feature_hidden: int = 128,
        activation: Activation = "relu",
        skip: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, input_shape, **kwargs)
        check_counts(width=width, patch_hidden=patch_hidden, feature_hidden=feature_hidden)
        check_counts(0, blocks=blocks)
        self.network = PatchMLPNetwork(
            input_shape,
            self.num_outputs,
            patch_size=patch_size,
            width=width,
            blocks=blocks,
            patch_hidden=patch_hidden,
            feature_hidden=feature_hidden,
            activation=activation,
            skip=skip,
        )

    @property
    def multiplications(self) -> int:
        """Number of multiplications of one image: a layer is used for each patch, or for each feature."""
        network: Any = self.network
        patches = network.stem[-1].num_features
        once = sum(layer.weight.numel() for layer in network.modules() if isinstance(layer, nn.Linear))
        across = sum(layer.weight.numel() for layer in network.modules() if isinstance(layer, FirstAxisLinear))
        head = network.head.weight.numel()
        return int(head + (once - across - head) * patches + across * network.head.in_features)
