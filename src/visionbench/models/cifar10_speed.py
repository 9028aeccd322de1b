"""Convolutional network behind whitening filters, made for the fastest training on CIFAR-10."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionbench.errors import UserError
from visionbench.models.base import Classifier
from visionbench.models.ranges import check_counts

Views = Literal["none", "flip", "flip_shift"]

# Side of a whitening filter, in pixels.
SIDE = 2
# Number of training images whose patches are whitened, and what is added to the variances before the division.
IMAGES, EPSILON = 5000, 5e-4


class FilterBank(nn.Conv2d):
    """3 x 3 filters without biases, of which the first hand their input on: each has a single one, in its middle."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__(channels, filters, 3, padding="same", bias=False)
        nn.init.dirac_(self.weight.data[:channels])


class ShiftNorm(nn.BatchNorm2d):
    """Batch norm that learns only a shift, and whose running statistics follow the last batches closely."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-12, momentum=0.4)
        self.weight.requires_grad_(False)


class WhitenedCNNNetwork(nn.Sequential):
    """`whiten`ing filters, `blocks` of two convolutions, a max pool over what is left, and the `head`.

    The outputs are divided by the number of features, so that they are small at first.

    Args:
        channels: Number of channels of an image.
        num_outputs: Number of outputs of the head.
        widths: Numbers of filters, one per block.
    """

    def __init__(self, channels: int, num_outputs: int, widths: list[int]) -> None:
        whiten = nn.Conv2d(channels, 2 * channels * SIDE**2, SIDE)
        whiten.weight.requires_grad_(False)
        blocks, before = nn.Sequential(nn.GELU()), whiten.out_channels
        for width in widths:
            blocks.append(
                nn.Sequential(
                    *(FilterBank(before, width), nn.MaxPool2d(2), ShiftNorm(width), nn.GELU()),
                    *(FilterBank(width, width), ShiftNorm(width), nn.GELU()),
                )
            )
            before = width
        head = nn.Linear(before, num_outputs, bias=False)
        head.weight.data /= head.weight.data.std()
        super().__init__(OrderedDict(whiten=whiten, blocks=blocks, pool=nn.AdaptiveMaxPool2d(1), head=head))
        self.features = before

    def forward(self, images: Tensor) -> Tensor:
        """Computes the outputs of images, shape (B, C, H, W)."""
        whiten, blocks, pool, head = self
        outputs: Tensor = head(pool(blocks(whiten(images))).flatten(1)) / self.features
        return outputs


class WhitenedCNN(Classifier):
    """Convolutional network whose first filters whiten patches of the training images.

    The defaults are the network of Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv 2404.00498, 2024),
    as its later version with Muon has it: filters of 2 x 2 pixels, which are not trained; three blocks of 64, 256 and
    256 filters; convolutions that begin as identities; GELU; 1,972,792 parameters on 32 x 32 color images, of which
    1,971,352 are trained. The whitening filters are computed from the first 5,000 training images when training starts.
    Differing from that version, the biases of the whitening filters are trained in all epochs, not in the first three.

    Args:
        widths: Numbers of filters, one per block.
        views: Views of an image whose outputs are averaged in validation and test: none (the image alone), flip (also
            mirrored), or flip_shift (both also shifted by one pixel, up and left, and down and right; the four shifted
            ones have half the weight together).
    """

    def __init__(
        self,
        num_classes: int,
        input_shape: tuple[int, int, int],
        widths: list[int] = [64, 256, 256],  # noqa: B006 - never modified, and shown by --help
        views: Views = "none",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, input_shape, **kwargs)
        check_counts(widths=widths)
        smallest = 2 ** len(widths) + SIDE - 1
        if min(input_shape[1:]) < smallest:
            raise UserError(
                f"An image of {input_shape[1]} x {input_shape[2]} pixels is too small for {len(widths)} blocks, each "
                f"of which halves the image; use at least {smallest} x {smallest} pixels, or fewer model.widths."
            )
        self.views = views
        network = WhitenedCNNNetwork(input_shape[0], self.num_outputs, widths)
        self.network = network.to(memory_format=torch.channels_last)
        self.is_whitened = False

    def setup(self, stage: str) -> None:
        """Computes the whitening filters from training images, where training starts from random weights.

        Raises:
            UserError: A Trainer of the caller's own has no data module with these images.
        """
        super().setup(stage)
        if stage != "fit" or self.is_whitened or self.start.loaded or self.start_from is not None:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if data is None:
            raise UserError(
                "WhitenedCNN has no images to compute its whitening filters from, since the Trainer has no data "
                "module; call the model's whiten() with batches of training images before fit()."
            )
        self.whiten(images for images, _ in data.train_dataloader().again())

    def whiten(self, batches: Iterable[Tensor]) -> None:
        """Sets the whitening filters.

        They are the eigenvectors of the second moments of the images' patches, each divided by the square root of its
        eigenvalue, and the same with the opposite sign.

        Args:
            batches: Normalized images, each of shape (B, C, H, W); no more than the first 5,000 are used.
        """
        filters: Tensor = self.network.get_submodule("whiten").weight  # type: ignore[assignment]
        size = filters[0].numel()
        moments, left = torch.zeros(size, size, dtype=torch.float64), IMAGES
        patches = 0
        for batch in batches:
            columns = F.unfold(batch[:left].double().cpu(), SIDE)  # (B, values of a patch, patches)
            moments += torch.einsum("bip,bjp->ij", columns, columns)
            patches += columns.shape[0] * columns.shape[2]
            left -= len(batch)
            if left <= 0:
                break
        values, vectors = torch.linalg.eigh(moments / patches)
        half = (vectors / (values + EPSILON).sqrt()).T.reshape(size, *filters.shape[1:])
        with torch.no_grad():
            filters.copy_(torch.cat([half, -half]))
        self.is_whitened = True

    def forward(self, images: Tensor) -> Tensor:
        """Computes the outputs that the loss takes, outside of training as the mean over `views` of each image.

        Args:
            images: Normalized images, shape (B, C, H, W), float32.

        Returns:
            Outputs, shape (B, num_outputs).
        """
        if self.training or self.views == "none":
            return super().forward(images)

        def both(views: Tensor) -> Tensor:
            outputs: Tensor = (self.network(views) + self.network(views.flip(-1))) / 2
            return outputs

        outputs = both(images)
        if self.views == "flip_shift":
            height, width = images.shape[2:]
            padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
            shifted = both(padded[:, :, :height, :width]) + both(padded[:, :, 2:, 2:])
            outputs = (outputs + shifted / 2) / 2
        return self.loss_function.activate(outputs)
