import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

from visionbench.data import Digits
from visionbench.data.splits import stratified_holdout

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def digits(digits_root):
    data = Digits(root=str(digits_root))
    data.setup()
    return data


@pytest.fixture(scope="module")
def originals():
    """The 8 x 8 digits and their labels, in the store's order: (training, test)."""
    images, labels = load_digits(return_X_y=True)
    parts = stratified_holdout(labels, 360, seed=0)
    return [(images[part].reshape(-1, 8, 8).astype(int), labels[part]) for part in parts]


def enlarged(images):
    """Linear interpolation in whole numbers; only the last division rounds, halves to even."""
    place = np.clip((2 * np.arange(28) + 1) * 8 - 28, 0, 7 * 56)
    weights = np.maximum(0, 56 - abs(place[:, None] - 56 * np.arange(8)))
    return np.rint(weights @ images @ weights.T * 255 / (56 * 56 * 16)).astype(int)


def test_there_are_1437_training_and_360_test_images_of_all_classes(digits):
    arrays = digits.store.arrays
    assert arrays["train-images"].shape == (1437, 28, 28, 1)
    assert arrays["test-images"].shape == (360, 28, 28, 1)
    train, test = (np.bincount(arrays[f"{split}-labels"]) for split in ("train", "test"))
    assert (train + test).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert abs(test - (train + test) * 360 / 1797).max() < 1
    assert digits.sizes() == {"train": 1293, "val": 144, "test": 360}


def test_the_labels_are_those_of_the_originals(digits, originals):
    for split, (_, labels) in zip(("train", "test"), originals, strict=True):
        np.testing.assert_array_equal(digits.store.arrays[f"{split}-labels"], labels)


def test_pixels_use_the_whole_range(digits):
    images = digits.store.arrays["train-images"]
    assert (images.min(), images.max()) == (0, 255)


def test_images_are_the_originals_enlarged(digits, originals):
    for split, (images, _) in zip(("train", "test"), originals, strict=True):
        difference = digits.store.arrays[f"{split}-images"][..., 0].astype(int) - enlarged(images)
        assert abs(difference).max() <= 1
        assert (difference != 0).mean() < 1e-3


def test_the_fixed_test_set_never_changes(digits):
    labels = np.ascontiguousarray(digits.store.arrays["test-labels"], "<i8")
    assert hashlib.sha256(labels).hexdigest() == "06e99a9a9bc21a29e8172f633c3e7f17b2bb144e96f085849665e1e36e13a9ee"


def test_the_pixels_of_the_test_set_never_change(digits):
    images = np.ascontiguousarray(digits.store.arrays["test-images"])
    assert hashlib.sha256(images).hexdigest() == "834512a29cb58db4a29fed071bac8676d774562c904258541126e0e037624cc4"


def test_averaged_over_its_place_an_image_is_like_its_original(digits, originals):
    images = digits.store.arrays["test-images"][..., 0].astype(float)
    original = originals[1][0].repeat(7, axis=1).repeat(7, axis=2).reshape(-1, 28, 2, 28, 2).mean((2, 4)) / 16 * 255
    for one, other in zip(images, original, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9
