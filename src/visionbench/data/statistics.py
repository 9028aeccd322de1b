"""Mean and standard deviation that images are normalized by."""

import math
from collections.abc import Sequence

import numpy as np

from visionbench.data.mapped import chunks
from visionbench.errors import UserError

# ImageNet's statistics of RGB pixels in [0, 1], with which torchvision's weights were trained; its documentation
# (`ImageClassification`: "mean=[0.485, 0.456, 0.406] and std=[0.229, 0.224, 0.225]").
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# ImageNet's mean and deviation averaged over the channels, for gray images, which such a network gets as three equal
# channels. For pixels in [0, 1] the difference to each channel's own statistics is at most 0.21 deviations.
IMAGENET_GRAY = (0.449, 0.226)


def channel_statistics(images: np.ndarray, index: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of pixels in [0, 1], computed exactly from counts of the 256 values.

    Args:
        images: Images of the store, shape (N, H, W, C), uint8.
        index: Indices of the images to use.
    """
    counts = np.zeros((images.shape[-1], 256), dtype=np.int64)
    for part in chunks(images, index):
        for channel, count in enumerate(counts):
            count += np.bincount(part[..., channel].ravel(), minlength=256)
    means, stds = [], []
    for count in counts:
        # Integer arithmetic up to the last division gives the same digits on every machine.
        number = int(count.sum())
        total = sum(value * int(n) for value, n in enumerate(count))
        squares = sum(value * value * int(n) for value, n in enumerate(count))
        means.append(total / (255 * number))
        std = math.sqrt(number * squares - total * total) / (255 * number)
        stds.append(std if std > 0 else 1.0)  # a constant channel is not divided by 0
    return means, stds


def imagenet_statistics(input_shape: Sequence[int], title: str) -> tuple[list[float], list[float]]:
    """ImageNet's mean and standard deviation per channel of pixels in [0, 1]; for gray images, their average.

    Args:
        input_shape: Shape of one image, (C, H, W).
        title: Name of the data set, for messages.

    Raises:
        UserError: The images have neither 1 nor 3 channels.
    """
    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise UserError(
            f"data.statistics is imagenet, which is for images of 3 channels or 1, but {title} has the shape "
            f"{' x '.join(map(str, input_shape))}; remove data.statistics to use those of the training split."
        )
    if input_shape[0] == 1:
        return [IMAGENET_GRAY[0]], [IMAGENET_GRAY[1]]
    return list(IMAGENET_MEAN), list(IMAGENET_STD)
