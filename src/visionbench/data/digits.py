"""scikit-learn's handwritten digits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from visionbench.data.base import VisionDataModule
from visionbench.data.splits import stratified_holdout


class Digits(VisionDataModule):
    """1,797 handwritten digits that come with scikit-learn: real images that need no network.

    - Images: 8 x 8 grey levels from 0 to 16, brought to 28 x 28 by linear interpolation, so that every model for MNIST
      takes them.
    - Classes: the ten digits, 174 to 183 images each.
    - Split: none is official; 360 images, stratified, chosen once and for all, are the test set, 1,437 are left.
    - Source: UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998), its test part, written by
      13 people. Licence: CC BY 4.0.
    """

    title = "Digits"
    class_names = tuple("0123456789")
    input_shape = (1, 28, 28)

    def prepare_arrays(self, downloads: Path) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:  # noqa: D102
        from sklearn.datasets import load_digits  # here, because it takes two seconds to import

        digits = load_digits()
        images = _enlarge(digits.images.astype(np.int64), 28)[..., np.newaxis]
        labels = digits.target.astype(np.int64)
        train, test = stratified_holdout(labels, 360, seed=0)
        arrays = {
            "train-images": images[train],
            "train-labels": labels[train],
            "test-images": images[test],
            "test-labels": labels[test],
        }
        return arrays, {
            "source": "scikit-learn's load_digits",
            "licence": "CC BY 4.0",
            "split": "test: 360 images, stratified, seed 0",
        }


def _enlarge(images: np.ndarray, size: int) -> np.ndarray:
    """Linear interpolation between pixel centres, from (N, h, h) with levels 0 to 16 to (N, size, size) uint8.

    In integers up to the last division, for the same bytes on every machine: thousands of pixels are exact halves,
    which a floating-point product rounds up or down by the order of its sums.
    """
    old = images.shape[-1]
    # Places and weights in units of 1 / (2 * size) of an old pixel.
    place = np.clip((2 * np.arange(size) + 1) * old - size, 0, 2 * size * (old - 1))  # of each new pixel
    weights = np.maximum(0, 2 * size - abs(place[:, None] - 2 * size * np.arange(old)))  # (size, old)
    enlarged = weights @ images @ weights.T * 255
    whole = 16 * (2 * size) ** 2
    pixels: np.ndarray = ((2 * enlarged + whole) // (2 * whole)).astype(np.uint8)  # halves go up
    return pixels
