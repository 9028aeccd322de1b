"""scikit-learn's handwritten digits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from visionbench.data.base import VisionDataModule
from visionbench.data.splits import stratified_holdout


class Digits(VisionDataModule):
    """1,797 handwritten digits that come with scikit-learn and need no network.

    - Images: 8 x 8 gray levels from 0 to 16, enlarged to 28 x 28 by linear interpolation, the size of MNIST's images.
    - Classes: the ten digits, 174 to 183 images each.
    - Split: none is official; a fixed, stratified choice of 360 images is the test set, and 1,437 images remain.
    - Source: UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998), its test part, written by
      13 people. License: CC BY 4.0.
    - Files: none are needed; scikit-learn includes the images.
    """

    title = "Digits"
    class_names = tuple("0123456789")
    input_shape = (1, 28, 28)

    def prepare_arrays(self, downloads: Path) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:  # noqa: D102
        from sklearn.datasets import load_digits  # here, since the import takes two seconds

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
    """Enlarges images, (N, h, h), levels 0 to 16, to (N, size, size), uint8, linearly between pixel centers.

    Integer arithmetic up to the last division gives the same bytes on every machine: thousands of pixels are exact
    halves, which floating-point arithmetic rounds up or down depending on the order of its sums.
    """
    old = images.shape[-1]
    # Positions of the new pixels, and weights, in units of 1 / (2 * size) of an old pixel.
    position = np.clip((2 * np.arange(size) + 1) * old - size, 0, 2 * size * (old - 1))
    weights = np.maximum(0, 2 * size - abs(position[:, None] - 2 * size * np.arange(old)))  # (size, old)
    enlarged = weights @ images @ weights.T * 255
    whole = 16 * (2 * size) ** 2
    pixels: np.ndarray = ((2 * enlarged + whole) // (2 * whole)).astype(np.uint8)  # halves go up
    return pixels
