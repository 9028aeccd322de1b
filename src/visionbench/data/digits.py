"""scikit-learn's handwritten digits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from visionbench.data.base import VisionDataModule, stratified_holdout


class Digits(VisionDataModule):
    """1,797 handwritten digits that come with scikit-learn: real images that need no network.

    - Images: 8 x 8 grey levels from 0 to 16, brought to 28 x 28 by linear interpolation, so that every model for MNIST
      takes them.
    - Classes: the ten digits, 174 to 183 images each.
    - Split: none is official; 360 images, stratified, chosen once and for all, are the test set, 1,437 are left.
    - Source: UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998), its test part, written by
      13 people. Licence: CC BY 4.0.
    """

    title: ClassVar[str] = "Digits"
    class_names = tuple("0123456789")
    input_shape = (1, 28, 28)

    def prepare_arrays(self, downloads: Path) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:  # noqa: D102
        from sklearn.datasets import load_digits  # here, because it takes two seconds to import

        digits = load_digits()
        images = _enlarge(digits.images / 16, 28)[..., np.newaxis]
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
    """Linear interpolation between pixel centres, from (N, h, h) in [0, 1] to (N, size, size) uint8.

    In plain NumPy, for the same bytes whatever versions of the image libraries are installed.
    """
    old = images.shape[-1]
    place = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)  # of each new pixel among the old
    weights = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(old)))  # (size, old)
    enlarged: np.ndarray = np.rint(weights @ images @ weights.T * 255).astype(np.uint8)
    return enlarged
