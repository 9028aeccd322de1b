"""Augmentations of whole batches, with parameters of their own for each image.

An augmentation draws its random parameters for all positions of an epoch at once, from a generator given to it; what
happens to an image is so a function of (seed, epoch, position) alone, whatever the batch size, the device or the
model do. Both work on images in [0, 1], before normalisation.
"""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from visionbench.errors import UserError


class Augmentation(ABC):
    """A random change of training images."""

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws the parameters of an epoch: shape (n, ...), one row a position, on the CPU."""

    @abstractmethod
    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Changes a batch.

        Args:
            images: Shape (B, C, H, W), float32 in [0, 1].
            parameters: Their rows of what `draw` gave, shape (B, ...), on the images' device.

        Returns:
            New images of the same shape and type.
        """


class HorizontalFlip(Augmentation):
    """Mirrors an image left to right.

    Args:
        p: The probability, from 0 to 1.
    """

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise UserError(f"HorizontalFlip: p is {p}, expected a probability from 0 to 1.")
        self.p = p

    def draw(self, n: int, generator: torch.Generator) -> Tensor:  # noqa: D102
        return torch.rand(n, generator=generator) < self.p

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:  # noqa: D102
        return torch.where(parameters[:, None, None, None], images.flip(-1), images)


class RandomCrop(Augmentation):
    """Shifts an image by cutting its own size out of a padded copy.

    Args:
        padding: The border on each side, and so the largest shift, in pixels.
        mode: What the border holds: black (`zeros`) or the image mirrored at its edge (`reflect`).
    """

    def __init__(self, padding: int = 2, mode: Literal["zeros", "reflect"] = "reflect") -> None:
        if padding < 1:
            raise UserError(f"RandomCrop: padding is {padding}, expected at least 1 pixel.")
        self.padding = padding
        self.mode = mode

    def draw(self, n: int, generator: torch.Generator) -> Tensor:  # noqa: D102
        return torch.randint(2 * self.padding + 1, (n, 2), generator=generator)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:  # noqa: D102
        height, width = images.shape[2:]
        if self.mode == "reflect" and self.padding >= min(height, width):
            raise UserError(
                f"RandomCrop: padding is {self.padding}, expected less than the image's {min(height, width)} pixels, "
                "since a reflection cannot be wider than the image."
            )
        padded = F.pad(images, [self.padding] * 4, mode="constant" if self.mode == "zeros" else "reflect")
        # A view with every window of the image's size, (B, C, shifts, shifts, H, W), of which one each is copied out.
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        which = torch.arange(len(images), device=images.device)
        return windows[which, :, parameters[:, 0], parameters[:, 1]]
