"""MLP over patches: mixes across the patches of an image, then across the features of each."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from visionbench.errors import UserError
from visionbench.models.activations import Activation, make_activation
from visionbench.models.base import Classifier


class Patches(nn.Module):
    """Cuts images into square patches, row by row: (B, C, H, W) -> (B, patches, C * size * size).

    Args:
        size: Side of a patch, in pixels; divides the image's height and width.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        batch, channels, height, width = images.shape
        rows, columns = height // self.size, width // self.size
        patches = images.reshape(batch, channels, rows, self.size, columns, self.size)
        return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, -1)


class PatchBlock(nn.Module):
    """An MLP across the patches, then one across the features: (B, patches, width) -> the same shape.

    Args:
        patches: Patches of an image.
        width: Features of a patch.
        patch_hidden: Hidden nodes of the MLP across the patches.
        feature_hidden: Hidden nodes of the MLP across the features.
        activation: Between the two layers of each MLP.
        skip: Whether each MLP's input is added to its output.
    """

    def __init__(
        self, patches: int, width: int, patch_hidden: int, feature_hidden: int, activation: Activation, skip: bool
    ) -> None:
        super().__init__()
        self.skip = skip
        self.across_patches = nn.Sequential(
            nn.Linear(patches, patch_hidden), make_activation(activation), nn.Linear(patch_hidden, patches)
        )
        self.across_features = nn.Sequential(
            nn.Linear(width, feature_hidden), make_activation(activation), nn.Linear(feature_hidden, width)
        )

    def forward(self, values: Tensor) -> Tensor:  # noqa: D102
        mixed: Tensor = self.across_patches(values.transpose(1, 2)).transpose(1, 2)
        values = values + mixed if self.skip else mixed
        mixed = self.across_features(values)
        return values + mixed if self.skip else mixed


class PatchMLPNetwork(nn.Module):
    """Patches, a linear stem with batch norm, blocks, the mean over the patches, a linear layer to the logits.

    Args:
        input_shape: Of one image, (C, H, W).
        num_classes: Logits given.
        patch_size: Side of a patch, in pixels.
        width: Features of a patch after the stem.
        blocks: How many blocks.
        patch_hidden: Hidden nodes of each MLP across the patches.
        feature_hidden: Hidden nodes of each MLP across the features.
        activation: Between the two layers of each MLP.
        skip: Whether each MLP's input is added to its output.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
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
                f"model.patch_size is {patch_size}, expected a number that divides the image's {image_height} x "
                f"{image_width} pixels."
            )
        patches = (image_height // patch_size) * (image_width // patch_size)
        self.stem = nn.Sequential(
            Patches(patch_size),
            nn.Linear(channels * patch_size**2, width),
            nn.BatchNorm1d(patches),  # a mean and a variance for each patch
        )
        self.blocks = nn.Sequential(
            *(PatchBlock(patches, width, patch_hidden, feature_hidden, activation, skip) for _ in range(blocks))
        )
        self.head = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        logits: Tensor = self.head(self.blocks(self.stem(images)).mean(dim=1))
        return logits


class PatchMLP(Classifier):
    """MLP over patches, without attention or convolution.

    The defaults are the network of ECS659P (Neural Networks and Deep Learning), coursework: 49 patches of 4 x 4, a stem
    of 256 features, two blocks of an MLP across the patches and one across the features, no skip connections, Kaiming
    initialisation. Its hidden widths are partly illegible: 128 and 64 occur. The activation is not given; ReLU is what
    Kaiming initialisation is made for.

    Args:
        patch_size: Side of a patch, in pixels; divides the image's height and width.
        width: Features of a patch after the stem.
        blocks: How many blocks.
        patch_hidden: Hidden nodes of each MLP across the patches.
        feature_hidden: Hidden nodes of each MLP across the features.
        activation: Between the two layers of each MLP.
        skip: Whether each MLP's input is added to its output.
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
        self.network = PatchMLPNetwork(
            input_shape,
            num_classes,
            patch_size=patch_size,
            width=width,
            blocks=blocks,
            patch_hidden=patch_hidden,
            feature_hidden=feature_hidden,
            activation=activation,
            skip=skip,
        )
