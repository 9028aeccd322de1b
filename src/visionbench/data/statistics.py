"""Mean and standard deviation that images are normalized by."""

import math
from collections.abc import Sequence

import numpy as np

from visionbench.data.mapped import portions
from visionbench.errors import UserError

# ImageNet's, of pixels in [0, 1], RGB: what torchvision's weights were trained with, as their documentation says
# (`ImageClassification`: "mean=[0.485, 0.456, 0.406] and std=[0.229, 0.224, 0.225]").
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# For grey images, which a network for photographs sees as three equal channels, of which one mean and one deviation
# serve all: the mean over the channels. For pixels in [0, 1] no channel is then off by more than 0.21 deviations.
IMAGENET_GREY = (0.449, 0.226)


def channel_statistics(images: np.ndarray, index: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of pixels in [0, 1], one a channel, exact: from counts of the 256 values.

    Args:
        images: Shape (N, H, W, C), uint8.
        index: Which images.
    """
    counts = np.zeros((images.shape[-1], 256), dtype=np.int64)
    for part in portions(images, index):
        for channel, count in enumerate(counts):
            count += np.bincount(part[..., channel].ravel(), minlength=256)
    means, stds = [], []
    for count in counts:
        # In whole numbers up to the last division, for the same digits on every machine.
        number = int(count.sum())
        total = sum(value * int(n) for value, n in enumerate(count))
        squares = sum(value * value * int(n) for value, n in enumerate(count))
        means.append(total / (255 * number))
        std = math.sqrt(number * squares - total * total) / (255 * number)
        stds.append(std if std > 0 else 1.0)  # a constant channel is left as it is, not divided by 0
    return means, stds


def imagenet_statistics(input_shape: Sequence[int], title: str) -> tuple[list[float], list[float]]:
    """ImageNet's mean and standard deviation of pixels in [0, 1], one a channel; for grey images the channels' mean.

    Args:
        input_shape: Of one image, (C, H, W).
        title: What the data set is called in messages.

    Raises:
        UserError: The images have neither 1 nor 3 channels.
    """
    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise UserError(
            f"data.statistics is imagenet, which is for images of 3 channels or 1, but {title} has the shape "
            f"{' x '.join(map(str, input_shape))}; leave it out to take those of the data trained on."
        )
    if input_shape[0] == 1:
        return [IMAGENET_GREY[0]], [IMAGENET_GREY[1]]
    return list(IMAGENET_MEAN), list(IMAGENET_STD)
