"""Augmentations of whole batches, with separate random parameters for each image.

An augmentation draws its random parameters for all positions of an epoch at once, from the generator of its caller. The
change of an image is therefore a function of (seed, epoch, position) only, or of (seed, epoch, image); batch size,
device and model do not matter. All augmentations work on images in [0, 1], before normalization.

Names, arguments and distributions are those of torchvision, whose transforms draw one set of parameters per batch.
Sines and exponentials are computed in `draw`, on the CPU and for the whole epoch, since the last digit of such a
function may depend on the device and on the number of values computed together.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from visionbench.errors import UserError

# Number of times that torchvision tries to draw a rectangle that fits the image.
TRIES = 10


class Augmentation(ABC):
    """A random change of training images."""

    moves_pixels: ClassVar[bool] = False
    """Whether `apply` only moves pixels, so that it takes uint8 images, which is faster, as well as floats."""

    made_with: tuple[tuple[Any, ...], dict[str, Any]] = (), {}
    """Arguments that it was made with, by position and by name; its attributes may hold them in another form."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:  # noqa: D102
        made = super().__new__(cls)
        made.made_with = args, kwargs
        return made

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws the parameters of an epoch: shape (n, ...), one row per position, on the CPU."""

    def of_epoch(self, order: Tensor, epoch: int, generator_of: Callable[[int], torch.Generator]) -> Tensor:
        """Gives the parameters of an epoch: shape (n, ...), one row per position, on the CPU.

        Args:
            order: Index of the image at each position, shape (n,), int64.
            epoch: Number of the epoch, from 0.
            generator_of: Function that gives the generator of an epoch.
        """
        return self.draw(len(order), generator_of(epoch))

    @abstractmethod
    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Augments a batch.

        Args:
            images: Images, shape (B, C, H, W), float32 in [0, 1]; with `moves_pixels` also uint8.
            parameters: Rows of the result of `draw` for these images, shape (B, ...), on the images' device.

        Returns:
            New images of the same shape and type.
        """


class Mixing(Augmentation):
    """A random mixture of two images, and of their labels in the same shares.

    The partner of an image is the previous image in the epoch's order, with all earlier augmentations applied; the
    partner of the first image is the last one. Since each epoch has another random order, the partner is a random
    image, which depends neither on the batch size nor on the number of processes. The labels become shares of the
    classes, shape (B, num_classes), float32.
    """

    @abstractmethod
    def mix(self, images: Tensor, partners: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Mixes a batch with its partners.

        Args:
            images: Images, shape (B, C, H, W), as for `apply`.
            partners: Partners of the images, same shape and type.
            parameters: Rows of the result of `draw` for these images, shape (B, ...), on the images' device.

        Returns:
            New images, and the share of each that comes from the image and not from its partner, shape (B,), float32
            in [0, 1].
        """

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Mixes each image with the previous one of the batch, without the labels; only for displaying images."""
        return self.mix(images, images.roll(1, 0), parameters)[0]


class HorizontalFlip(Augmentation):
    """Mirrors an image left to right.

    Args:
        p: Probability of a flip, from 0 to 1.
    """

    moves_pixels = True
    dimension: ClassVar[int] = -1

    def __init__(self, p: float = 0.5) -> None:
        self.p = _probability(self, p)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:  # noqa: D102
        return torch.rand(n, generator=generator) < self.p

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:  # noqa: D102
        # Copying whole images out of both versions is faster than a choice per pixel.
        both = torch.cat([images, images.flip(self.dimension)])
        return both.index_select(0, torch.arange(len(images), device=images.device) + parameters * len(images))


class AlternatingFlip(HorizontalFlip):
    """Mirrors a random half of the images left to right in the first epoch, the other half in the second, and so on.

    From Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv 2404.00498, 2024): any two epochs in a row
    show both versions of every image.
    """

    def __init__(self) -> None:
        super().__init__()

    def of_epoch(self, order: Tensor, epoch: int, generator_of: Callable[[int], torch.Generator]) -> Tensor:
        """Gives shape (n,), bool: whether the image at each position is mirrored."""
        return self.draw(len(order), generator_of(0))[order] ^ bool(epoch % 2)


class VerticalFlip(HorizontalFlip):
    """Mirrors an image top to bottom.

    Args:
        p: Probability of a flip, from 0 to 1.
    """

    dimension = -2


class RandomCrop(Augmentation):
    """Shifts an image by cropping a padded copy to the original size.

    Args:
        padding: Width of the border on each side, which is the largest shift, in pixels.
        mode: Content of the border: black (`zeros`), or the image mirrored at its edge (`reflect`).
    """

    moves_pixels = True

    def __init__(self, padding: int = 2, mode: Literal["zeros", "reflect"] = "reflect") -> None:
        if padding < 1:
            raise UserError(f"RandomCrop: padding is {padding}, expected at least 1 pixel.")
        self.padding = padding
        self.mode = mode

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws shape (n, 2), int64: number of rows above and of columns left of the crop in the padded copy."""
        return torch.randint(2 * self.padding + 1, (n, 2), generator=generator)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:  # noqa: D102
        batch, channels, height, width = images.shape
        if self.mode == "reflect" and self.padding >= min(height, width):
            raise UserError(
                f"RandomCrop: padding is {self.padding}, expected less than the image's {min(height, width)} pixels, "
                "since a reflection cannot be wider than the image."
            )
        padded = F.pad(images, [self.padding] * 4, mode="constant" if self.mode == "zeros" else "reflect")
        rows, columns = padded.shape[2:]
        # Start of each row of each crop in memory. Whole rows are copied, from a view in which each run of `width`
        # values is a row, which is many times faster than an index per pixel.
        planes = torch.arange(batch * channels, device=images.device).view(batch, channels, 1) * (rows * columns)
        first = (parameters[:, 0] * columns + parameters[:, 1])[:, None, None]
        begin = planes + first + torch.arange(height, device=images.device) * columns  # (B, C, H)
        return padded.view(-1).unfold(0, width, 1).index_select(0, begin.view(-1)).view(images.shape)


class RandomResizedCrop(Augmentation):
    """Crops a part of random size, position and aspect ratio and resizes it to the image's size, bilinearly.

    As in torchvision, up to ten parts are drawn until one fits the image; if none fits, the part is the largest central
    one with an allowed aspect ratio.

    Args:
        scale: Smallest and largest area of the part, as shares of the image's area.
        ratio: Smallest and largest aspect ratio of the part, width by height.
    """

    def __init__(self, scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> None:
        self.scale = _share_of_area(self, scale)
        self.ratio = _positive_range(self, "ratio", ratio)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws shape (n, 22): ten areas, ten aspect ratios, and the vertical and the horizontal position."""
        return _draw_rectangles(n, self.scale, self.ratio, generator)

    def rectangles(self, parameters: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Top, left, height and width of each part, for images of this height and width, each (B,), int64."""
        area = parameters[:, :TRIES] * (height * width)
        aspect = parameters[:, TRIES : 2 * TRIES]
        tall, wide = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()
        fits = (tall > 0) & (tall <= height) & (wide > 0) & (wide <= width)
        lowest, highest = self.ratio
        middle_height, middle_width = height, width
        if width / height < lowest:
            middle_height = round(width / lowest)
        elif width / height > highest:
            middle_width = round(height * highest)
        any_fits, tall, wide = _first(fits, tall, wide)
        tall, wide = tall.where(any_fits, middle_height), wide.where(any_fits, middle_width)
        top, left = _position(parameters[:, 2 * TRIES :], tall, wide, height, width)
        top = top.where(any_fits, (height - middle_height) // 2)
        left = left.where(any_fits, (width - middle_width) // 2)
        return top, left, tall, wide

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:  # noqa: D102
        height, width = images.shape[2:]
        top, left, tall, wide = (t[:, None] for t in self.rectangles(parameters, height, width))
        # Position of each pixel of the result in the image, clamped to the part, so that no pixel outside is used.
        y = top + (torch.arange(height, device=images.device) + 0.5) * (tall / height) - 0.5  # (B, H)
        x = left + (torch.arange(width, device=images.device) + 0.5) * (wide / width) - 0.5  # (B, W)
        y, x = y.clamp(top, top + tall - 1), x.clamp(left, left + wide - 1)
        y, x = (2 * y + 1) / height - 1, (2 * x + 1) / width - 1
        size = (len(images), height, width)
        grid = torch.stack([x[:, None, :].expand(size), y[:, :, None].expand(size)], dim=-1)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


class RandomAffine(Augmentation):
    """Rotates, shifts, scales and shears an image about its center; the area outside of the image is black.

    Args:
        degrees: Range of the angle in degrees, clockwise; one number v stands for -v to v.
        translate: Largest horizontal and vertical shift, as shares of the width and the height; the shift is rounded to
            whole pixels.
        scale: Range of the scale factor.
        shear: Range of the shear along x in degrees; one number v stands for -v to v, and four numbers are the ranges
            along x and along y.
        interpolation: Interpolation between pixels: the nearest pixel, or bilinear from four pixels.
    """

    def __init__(
        self,
        degrees: float | list[float],
        translate: tuple[float, float] = (0.0, 0.0),
        scale: tuple[float, float] = (1.0, 1.0),
        shear: float | list[float] = 0.0,
        interpolation: Literal["nearest", "bilinear"] = "nearest",
    ) -> None:
        self.degrees = _angles(self, "degrees", degrees, (2,))
        if len(translate) != 2 or not all(0 <= share <= 1 for share in translate):
            raise UserError(f"{_name(self)}: translate is {list(translate)}, expected two shares from 0 to 1.")
        self.translate = translate
        self.scale = _positive_range(self, "scale", scale)
        self.shear = _angles(self, "shear", shear, (2, 4))
        if not all(abs(angle) < 90 for angle in self.shear):
            raise UserError(f"{_name(self)}: shear is {shear}, expected angles between -90 and 90 degrees.")
        self.interpolation = interpolation

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws shape (n, 10): angle, shift to the right and down as shares, scale, shear along x and y; then a matrix.

        The matrix (four numbers, row by row) maps a position in the result to the position in the image that it shows,
        both as (x, y) from the center, before the shift.
        """
        right, down = self.translate
        along_y = self.shear[2:] or (0.0, 0.0)
        ranges = [self.degrees, (-right, right), (-down, down), self.scale, self.shear[:2], along_y]
        drawn = torch.stack([_uniform(n, low, high, generator) for low, high in ranges], dim=1)
        return torch.cat([drawn, _inverse_matrices(drawn)], dim=1)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:  # noqa: D102
        height, width = images.shape[2:]
        _, right, down, _, _, _, xx, xy, yx, yy = parameters.T[:, :, None]
        right, down = (right * width).round(), (down * height).round()
        x = torch.arange(width, device=images.device) - (width - 1) / 2 - right  # (B, W)
        y = torch.arange(height, device=images.device) - (height - 1) / 2 - down  # (B, H)
        from_x = (xx * x)[:, None, :] + (xy * y)[:, :, None]  # (B, H, W)
        from_y = (yx * x)[:, None, :] + (yy * y)[:, :, None]
        grid = torch.stack([from_x / (width / 2), from_y / (height / 2)], dim=-1)
        return F.grid_sample(images, grid, mode=self.interpolation, padding_mode="zeros", align_corners=False)


class RandomRotation(RandomAffine):
    """Rotates an image about its center; the area outside of the image is black.

    Args:
        degrees: Range of the angle in degrees, counterclockwise; one number v stands for -v to v.
        interpolation: Interpolation between pixels: the nearest pixel, or bilinear from four pixels.
    """

    def __init__(self, degrees: float | list[float], interpolation: Literal["nearest", "bilinear"] = "nearest") -> None:
        low, high = _angles(self, "degrees", degrees, (2,))
        super().__init__([-high, -low], interpolation=interpolation)


class ColorJitter(Augmentation):
    """Changes brightness, contrast, saturation and hue, in a random order per image.

    One number v stands for a factor from max(0, 1 - v) to 1 + v. Saturation and hue do not change images with one
    channel.

    Args:
        brightness: Range of the factor that multiplies all pixels.
        contrast: Range of the factor that multiplies each pixel's difference from the image's mean gray.
        saturation: Range of the factor that multiplies each pixel's difference from its gray value; 0 gives a gray
            image, 1 changes nothing.
        hue: Range of the hue shift, as a share of the color circle from -0.5 to 0.5; one number v stands for -v to v.
    """

    def __init__(
        self,
        brightness: float | tuple[float, float] = 0.0,
        contrast: float | tuple[float, float] = 0.0,
        saturation: float | tuple[float, float] = 0.0,
        hue: float | tuple[float, float] = 0.0,
    ) -> None:
        self.ranges = [
            _factors("brightness", brightness),
            _factors("contrast", contrast),
            _factors("saturation", saturation),
            _hues(hue),
        ]
        neutral = [(1.0, 1.0)] * 3 + [(0.0, 0.0)]
        self.active = [i for i, (value, same) in enumerate(zip(self.ranges, neutral, strict=True)) if value != same]

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws shape (n, 4 + K): three factors and the hue shift; then the order of the K changes that are active."""
        drawn = torch.stack([_uniform(n, low, high, generator) for low, high in self.ranges], dim=1)
        order = torch.rand(n, len(self.active), generator=generator).argsort(dim=1)
        return torch.cat([drawn, torch.tensor(self.active, dtype=torch.float32)[order]], dim=1)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:  # noqa: D102
        channels = images.shape[1]
        if channels not in (1, 3):
            raise UserError(f"ColorJitter: the images have {channels} channels, expected 1 (gray) or 3 (RGB).")
        for step in parameters[:, 4:].long().unbind(dim=1):
            factor = parameters.gather(1, step[:, None])[:, :, None, None]  # (B, 1, 1, 1)
            contrast, saturation, hue = (step[:, None, None, None] == kind for kind in (1, 2, 3))
            # All changes but hue multiply the difference from an anchor: black, the mean gray, or the pixel's own gray.
            anchor = torch.zeros_like(factor)
            gray = _gray(images) if {1, 2} & set(self.active) else anchor
            if 1 in self.active:
                # The mean of each row comes first, since it does not depend on the number of images or threads.
                anchor = gray.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True).where(contrast, anchor)
            if 2 in self.active and channels == 3:
                anchor = gray.where(saturation, anchor)
            unstretched = hue if channels == 3 else hue | saturation
            stretch = factor.masked_fill(unstretched, 1)
            stretched = (images * stretch).add_(anchor * (1 - stretch)).clamp_(0, 1)
            if 3 in self.active and channels == 3:
                turned = hue.flatten().nonzero().squeeze(1)  # only these images need the conversion
                stretched.index_copy_(0, turned, _shift_hue(images[turned], factor[turned]))
            images = stretched
        return images if self.active else images.clone()


class RandomErasing(Augmentation):
    """Fills a random rectangle, smaller than the image, with one color.

    From Zhong et al., "Random Erasing Data Augmentation" (AAAI 2020). As in torchvision, up to ten rectangles are drawn
    until one fits the image; if none fits, nothing is erased.

    Args:
        p: Probability of erasing, from 0 to 1.
        scale: Smallest and largest area of the rectangle, as shares of the image's area.
        ratio: Smallest and largest aspect ratio of the rectangle, height by width.
        value: Fill value before normalization, from 0 (black) to 1: one number, or one per channel.
    """

    def __init__(
        self,
        p: float = 0.5,
        scale: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3),
        value: float | list[float] = 0.0,
    ) -> None:
        self.p = _probability(self, p)
        self.scale = _share_of_area(self, scale)
        self.ratio = _positive_range(self, "ratio", ratio)
        self.value = value if isinstance(value, list) else [value]
        if not self.value or not all(0 <= v <= 1 for v in self.value):
            raise UserError(
                f"RandomErasing: value is {value}, expected numbers from 0 (black) to 1, as before normalization."
            )

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws shape (n, 23): erase (1) or not (0); ten areas; ten aspect ratios; vertical and horizontal position."""
        chosen = (torch.rand(n, 1, generator=generator) < self.p).float()
        return torch.cat([chosen, _draw_rectangles(n, self.scale, self.ratio, generator)], dim=1)

    def rectangles(self, parameters: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Top, left, height and width of each erased rectangle, each (B,), int64; all 0 if nothing is erased."""
        area = parameters[:, 1 : 1 + TRIES] * (height * width)
        aspect = parameters[:, 1 + TRIES : 1 + 2 * TRIES]
        tall, wide = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
        any_fits, tall, wide = _first((tall < height) & (wide < width), tall, wide)
        top, left = _position(parameters[:, 1 + 2 * TRIES :], tall, wide, height, width)
        erased = any_fits & (parameters[:, 0] > 0)
        return top * erased, left * erased, tall * erased, wide * erased

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:  # noqa: D102
        channels, height, width = images.shape[1:]
        if len(self.value) not in (1, channels):
            raise UserError(
                f"RandomErasing: value has {len(self.value)} numbers, expected one, or one for each of the image's "
                f"{channels} channels."
            )
        top, left, tall, wide = self.rectangles(parameters, height, width)
        value = torch.tensor(self.value, device=images.device, dtype=images.dtype)[:, None, None]
        return torch.where(_inside(top, left, top + tall, left + wide, height, width), value, images)


class MixUp(Mixing):
    """Adds an image and its partner with random shares that sum to 1.

    From Zhang et al., "mixup: Beyond Empirical Risk Minimization" (ICLR 2018); the share is drawn per image, while the
    paper draws one per batch.

    Args:
        alpha: Parameter of Beta(alpha, alpha), the distribution of the image's own share: uniform for 1; smaller values
            give shares near 0 or 1.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = _alpha(self, alpha)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:  # noqa: D102
        return _beta_shares(n, self.alpha, generator)

    def mix(self, images: Tensor, partners: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        share = parameters[:, None, None, None]
        return (images * share).add_(partners * (1 - share)), parameters


class CutMix(Mixing):
    """Replaces a rectangle of an image by the same rectangle of its partner.

    From Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features" (ICCV
    2019). The rectangle has the image's aspect ratio and a random center; the part of it that lies outside of the image
    counts for the image's own share. Area and position are drawn per image, while the paper draws them per batch.

    Args:
        alpha: Parameter of Beta(alpha, alpha), the distribution of the image's own share before the rectangle is cut
            off at the edge.
    """

    moves_pixels = True

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = _alpha(self, alpha)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws shape (n, 3): the image's own share before the cut at the edge; vertical and horizontal center."""
        return torch.cat(
            [_beta_shares(n, self.alpha, generator)[:, None], torch.rand(n, 2, generator=generator)], dim=1
        )

    def rectangles(self, parameters: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Top, left, bottom and right (both excluded) of each partner's rectangle, each (B,), int64."""
        half = (1 - parameters[:, 0]).sqrt() / 2
        y, x = _floor_of_share(parameters[:, 1], height), _floor_of_share(parameters[:, 2], width)
        half_height, half_width = (half * height).long(), (half * width).long()
        top, left = (y - half_height).clamp(min=0), (x - half_width).clamp(min=0)
        return top, left, (y + half_height).clamp(max=height), (x + half_width).clamp(max=width)

    def mix(self, images: Tensor, partners: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        height, width = images.shape[2:]
        top, left, bottom, right = self.rectangles(parameters, height, width)
        own = 1 - (bottom - top) * (right - left) / (height * width)
        return torch.where(_inside(top, left, bottom, right, height, width), partners, images), own


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator) * (high - low) + low


def _beta_shares(n: int, alpha: float, generator: torch.Generator) -> Tensor:
    # torch's Beta distribution uses the global generator only; the stream of RandomState is frozen (NEP 19).
    seed = torch.randint(2**32, (4,), generator=generator).numpy().astype(np.uint32)
    return torch.from_numpy(np.random.RandomState(seed).beta(alpha, alpha, n)).float()


def _floor_of_share(share: Tensor, size: int | Tensor) -> Tensor:
    """The integer below `size` at a share in [0, 1) of it."""
    # A share just below 1 is rounded up to the size itself.
    return (share * size).long().clamp(max=size - 1)


def _draw_rectangles(
    n: int, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Draws shape (n, 22): ten shares of the area, ten aspect ratios (uniform in the logarithm), two positions."""
    shares = _uniform(n * TRIES, *scale, generator).view(n, TRIES)
    aspects = _uniform(n * TRIES, math.log(ratio[0]), math.log(ratio[1]), generator).exp().view(n, TRIES)
    return torch.cat([shares, aspects, torch.rand(n, 2, generator=generator)], dim=1)


def _first(fits: Tensor, tall: Tensor, wide: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whether a try fits, and the height and the width of the first that does: (B, tries) -> (B,)."""
    first = fits.int().argmax(dim=1, keepdim=True)
    tall, wide = (sizes.gather(1, first).squeeze(1).long() for sizes in (tall, wide))
    return fits.any(dim=1), tall, wide


def _position(shares: Tensor, tall: Tensor, wide: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Top and left of rectangles of this size, uniform over all positions within the image."""
    return _floor_of_share(shares[:, 0], height - tall + 1), _floor_of_share(shares[:, 1], width - wide + 1)


def _inside(top: Tensor, left: Tensor, bottom: Tensor, right: Tensor, height: int, width: int) -> Tensor:
    """Which pixels lie in each rectangle: shape (B, 1, height, width)."""
    y = torch.arange(height, device=top.device)[:, None]
    x = torch.arange(width, device=top.device)
    top, left, bottom, right = (edge[:, None, None, None] for edge in (top, left, bottom, right))
    return (top <= y) & (y < bottom) & (left <= x) & (x < right)


def _inverse_matrices(drawn: Tensor) -> Tensor:
    """Inverse matrices of rotation (clockwise), scale and shear, in this order from the left: (n, 6) -> (n, 4)."""
    angle, _, _, scale, shear_x, shear_y = drawn.double().unbind(dim=1)
    angle, shear_x, shear_y = angle.deg2rad(), shear_x.deg2rad(), shear_y.deg2rad()
    # The matrix without the scale has determinant 1, so that its inverse needs no division.
    xx = (angle - shear_y).cos() / shear_y.cos()
    yx = (angle - shear_y).sin() / shear_y.cos()
    xy = -xx * shear_x.tan() - angle.sin()
    yy = -yx * shear_x.tan() + angle.cos()
    return (torch.stack([yy, -xy, -yx, xx], dim=1) / scale[:, None]).float()


def _gray(images: Tensor) -> Tensor:
    """Luma of images (ITU-R BT.601): (B, 3 or 1, H, W) -> (B, 1, H, W)."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unsqueeze(2).unbind(dim=1)
    return red * 0.2989 + green * 0.587 + blue * 0.114


def _shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Shifts the hue by a share of the color circle; saturation and value (HSV) stay; shape (B, 3, H, W)."""
    red, green, blue = images.unbind(dim=1)
    darkest, brightest = images.aminmax(dim=1)
    chroma = brightest - darkest
    safe = chroma.where(chroma > 0, 1)
    # Hue in sixths of the color circle, from red over green.
    hue = ((red - green) / safe + 4).where(brightest != green, (blue - red) / safe + 2)
    hue = hue.where(brightest != red, (green - blue) / safe)
    hue = (hue + 6 * turns.squeeze(1)).remainder(6)
    shares = ((hue - 3).abs() - 1, 2 - (hue - 2).abs(), 2 - (hue - 4).abs())
    return torch.stack([darkest + chroma * share.clamp(0, 1) for share in shares], dim=1)


def _name(augmentation: Augmentation) -> str:
    return type(augmentation).__name__


def _probability(augmentation: Augmentation, p: float) -> float:
    if not 0 <= p <= 1:
        raise UserError(f"{_name(augmentation)}: p is {p}, expected a probability from 0 to 1.")
    return p


def _alpha(augmentation: Augmentation, alpha: float) -> float:
    if not 0 < alpha < math.inf:
        raise UserError(f"{_name(augmentation)}: alpha is {alpha}, expected a number above 0.")
    return alpha


def _share_of_area(augmentation: Augmentation, scale: tuple[float, float]) -> tuple[float, float]:
    if len(scale) != 2 or not 0 <= scale[0] <= scale[1] <= 1:
        raise UserError(
            f"{_name(augmentation)}: scale is {list(scale)}, expected the smallest and the largest share of the area, "
            "from 0 to 1."
        )
    return scale[0], scale[1]


def _positive_range(augmentation: Augmentation, name: str, value: tuple[float, float]) -> tuple[float, float]:
    if len(value) != 2 or not 0 < value[0] <= value[1] < math.inf:
        raise UserError(
            f"{_name(augmentation)}: {name} is {list(value)}, expected the smallest and the largest value, above 0."
        )
    return value[0], value[1]


def _angles(
    augmentation: Augmentation, name: str, value: float | list[float] | tuple[float, ...], lengths: tuple[int, ...]
) -> tuple[float, ...]:
    """Ranges of angles, each a pair; one number stands for the range from its negative."""
    angles = (-value, value) if isinstance(value, int | float) else tuple(value)
    pairs = list(zip(angles[::2], angles[1::2], strict=False))
    if len(angles) not in lengths or not all(-math.inf < low <= high < math.inf for low, high in pairs):
        what = " or ".join(str(length) for length in lengths)
        raise UserError(
            f"{_name(augmentation)}: {name} is {value}, expected one number from 0, or {what} numbers in pairs of the "
            "smallest and the largest angle, in degrees."
        )
    return angles


def _factors(name: str, value: float | tuple[float, float]) -> tuple[float, float]:
    if isinstance(value, int | float) and 0 <= value < math.inf:
        return max(0.0, 1.0 - value), 1.0 + value
    if isinstance(value, tuple | list) and len(value) == 2 and 0 <= value[0] <= value[1] < math.inf:
        return float(value[0]), float(value[1])
    raise UserError(
        f"ColorJitter: {name} is {value}, expected a number v of 0 or more, for factors from 1 - v to 1 + v, or "
        "the smallest and the largest factor."
    )


def _hues(value: float | tuple[float, float]) -> tuple[float, float]:
    pair = (-value, value) if isinstance(value, int | float) else value
    if len(pair) != 2 or not -0.5 <= pair[0] <= pair[1] <= 0.5:
        raise UserError(
            f"ColorJitter: hue is {value}, expected a number v from 0 to 0.5, for shifts from -v to v, or the smallest "
            "and the largest shift, from -0.5 to 0.5."
        )
    return float(pair[0]), float(pair[1])
