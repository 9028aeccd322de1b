import numpy as np
import pytest
import torch

from visionbench.data import Arrays, Digits, HorizontalFlip
from visionbench.errors import UserError

IMAGES = np.random.RandomState(0).randint(0, 256, (60, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(60) % 3


@pytest.fixture(scope="module")
def digits(digits_root):
    data = Digits(root=str(digits_root), seed=3, augment=[HorizontalFlip()])
    data.setup()
    return data


def official(digits):
    return [digits.store.arrays[name] for name in ("train-images", "train-labels", "test-images", "test-labels")]


def set_up(*args, **kwargs):
    data = Arrays(*args, **kwargs)
    data.prepare_data()
    data.setup()
    return data


def stored(images):
    return set_up(images, LABELS).store.arrays["train-images"]


@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader", "test_dataloader"])
def test_the_arrays_of_digits_give_the_batches_of_digits(digits, tmp_path, loader):
    data = set_up(*official(digits), seed=3, augment=[HorizontalFlip()], root=str(tmp_path))
    batches, expected = list(getattr(data, loader)()), list(getattr(digits, loader)())
    for (images, labels), (other_images, other_labels) in zip(batches, expected, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)
    assert data.class_names == digits.class_names
    assert data.data_digest() == digits.data_digest()
    assert data.sample_name("test", 17) == "test/17"
    assert list(tmp_path.iterdir()) == []


def test_without_test_images_a_fifth_is_cut():
    assert set_up(IMAGES, LABELS).sizes() == {"train": 43, "val": 5, "test": 12}


def test_one_pixel_changes_the_digest():
    changed = IMAGES.copy()
    changed[7, 1, 2, 0] ^= 1
    digest = set_up(IMAGES, LABELS, statistics="imagenet").data_digest()
    assert set_up(IMAGES.copy(), LABELS, statistics="imagenet").data_digest() == digest
    assert set_up(changed, LABELS, statistics="imagenet").data_digest() != digest


def test_nothing_on_the_disk_is_taken_for_a_part_of_arrays(digits, tmp_path):
    """A folder of this name may be there: of a version that kept the digests of the arrays before, for instance."""
    folder = tmp_path / "Arrays"
    folder.mkdir()
    np.save(folder / "train-digests.npy", np.zeros(100, np.uint64))
    images, labels = official(digits)[:2]
    for count in (100, 90):
        data = set_up(images[:count], labels[:count], root=str(tmp_path))
        assert data.copies_of_training() == {"val": 0, "test": 0}
    assert np.array_equal(np.load(folder / "train-digests.npy"), np.zeros(100, np.uint64))


def test_a_later_change_of_the_caller_s_arrays_changes_nothing():
    images, labels = IMAGES.copy(), torch.tensor(LABELS)
    data = Arrays(images, labels)
    images[:], labels[:] = 0, 0
    data.setup()
    np.testing.assert_array_equal(data.store.arrays["train-images"], IMAGES)
    np.testing.assert_array_equal(data.store.arrays["train-labels"], LABELS)


def test_the_axes_of_tensors_and_arrays():
    np.testing.assert_array_equal(stored(torch.tensor(IMAGES)), IMAGES)
    np.testing.assert_array_equal(stored(torch.tensor(IMAGES).permute(0, 3, 1, 2)), IMAGES)
    np.testing.assert_array_equal(stored(IMAGES[..., 0]), IMAGES[..., :1])
    np.testing.assert_array_equal(stored(torch.tensor(IMAGES[..., 0])), IMAGES[..., :1])
    assert Arrays(IMAGES, LABELS).input_shape == (3, 6, 5)


@pytest.mark.parametrize("labels", [LABELS.tolist(), LABELS.astype(np.uint8), torch.tensor(LABELS, dtype=torch.int32)])
def test_labels_of_any_integer_kind_are_the_same(labels):
    assert set_up(IMAGES, labels).data_digest() == set_up(IMAGES, LABELS).data_digest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "images of Arrays are missing.*only Python"),
        ({"images": "photos"}, "images of Arrays are str"),
        ({"images": IMAGES / 255}, "are float64, expected uint8"),
        ({"images": IMAGES[0, 0]}, r"the shape \(5, 3\)"),
        ({"images": IMAGES[:0]}, "without an empty axis"),
        ({"images": IMAGES.transpose(0, 3, 1, 2)}, "move the channels to the last axis"),
        ({"images": IMAGES[..., :2]}, "expected 1 channel"),
        ({"images": torch.tensor(IMAGES[:, :3])}, r"does not tell \(N, H, W, C\) from \(N, C, H, W\)"),
        ({"labels": LABELS[:-1]}, r"the shape \(59,\), expected \(60,\)"),
        ({"labels": LABELS / 1}, "labels of Arrays are float64, expected integers"),
        ({"labels": LABELS > 1}, "labels of Arrays are bool, expected integers"),
        ({"labels": None}, "labels of Arrays are NoneType"),
        ({"labels": LABELS + 1}, "go up to 3, but no image has the label 0"),
        ({"labels": LABELS - 1}, "go from -1 to 1, expected 0 to 1"),
        ({"labels": LABELS * 0}, "has 1 class, expected 2 or more"),
        ({"class_names": ["a", "b"]}, "go from 0 to 2, expected 0 to 1"),
        ({"class_names": ["a", "b", "b"]}, "contain a name twice"),
        ({"class_names": "abc"}, "one string per class"),
        ({"test_images": IMAGES}, "has test_images but no test_labels"),
        ({"test_labels": LABELS}, "has test_labels but no test_images"),
        ({"test_images": IMAGES[:, :4], "test_labels": LABELS}, r"\(4, 5, 3\), but the images have \(6, 5, 3\)"),
        ({"test_images": IMAGES, "test_labels": LABELS + 1}, "test_labels of Arrays go from 1 to 3, expected 0 to 2"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        Arrays(**{"images": IMAGES, "labels": LABELS} | changes)


def test_the_command_line_refuses_it_and_does_not_list_it(cli):
    assert "only Python can pass" in cli("fit --model MLP --data Arrays").refusal()
    assert "only Python can pass" in cli("data prepare Arrays").refusal()
    assert "Arrays" not in cli("data list").out
