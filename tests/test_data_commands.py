"""visionbench data list, prepare, verify and show."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.fakes import image_size, write_images
from visionbench.data import Digits


@pytest.fixture
def root(digits_root, tmp_path, monkeypatch):
    """A copy of the prepared Digits that a test may break."""
    shutil.copytree(digits_root, tmp_path / "root")
    return tmp_path / "root"


def write_photo(path, seed):
    """Smooth noise of 80 x 80 pixels: its perceptual hash does not hang on single pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.RandomState(seed).randint(0, 256, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(coarse).resize((80, 80), Image.Resampling.BICUBIC).save(path)


def test_list_names_every_data_set_and_what_is_prepared(cli, root):
    shown = cli(f"data list --root {root}")
    assert shown.status == 0
    assert [line.split()[0] for line in shown.out.splitlines() if not line.startswith(" ")] == [
        *("CIFAR10", "MNIST", "Digits", "FashionMNIST", "BoneBreak", "GreekLetters", "HeartFailure"),
        *("ImageFolder", "Table"),
    ]
    assert "  files: none are needed; scikit-learn includes the images.\n" in shown.out
    assert f"{Digits(root=str(root)).store_folder()}: 1,437 train, 360 test of 28 x 28 x 1" in shown.out


def test_prepare_makes_the_store(cli, tmp_path):
    shown = cli(f"data prepare Digits --data.root {tmp_path / 'new'} --data.val_size 0.2")
    assert "Digits: 1,150 train, 287 validation, 360 test images of 1 x 28 x 28, 10 classes" in shown.out
    assert list((tmp_path / "new" / "Digits").glob("*/meta.json"))


def test_a_whole_store_is_said_to_be_whole(cli, root):
    shown = cli(f"data verify Digits --data.root {root}")
    assert (shown.status, shown.err) == (0, "")
    assert "intact " in shown.out
    assert "no two images are equal" in shown.out


def test_a_flipped_bit_is_found(cli, root):
    (array,) = (root / "Digits").glob("*/test-images.npy")
    content = bytearray(array.read_bytes())
    content[-1] ^= 1
    array.write_bytes(content)
    shown = cli(f"data verify Digits --data.root {root}")
    assert shown.status == 1
    assert f"DAMAGED    {array}" in shown.out


def test_duplicates_that_are_kept_are_reported_once(cli, tmp_path):
    folder = write_images(tmp_path / "images", {"cat": 6, "dog": 6})
    first, second = sorted((folder / "cat").iterdir())[:2]
    second.write_bytes(first.read_bytes())
    options = f"--data.source {folder} --data.size 8"
    for command in (f"data prepare ImageFolder {options}", f"check --model MLP --data ImageFolder {options}"):
        shown = cli(command)
        assert shown.out.count("1 image has the same bytes as another") == 1, shown


def test_duplicates_within_and_across_splits_are_counted(cli, tmp_path):
    folder = tmp_path / "photos"
    for seed, name in enumerate(["train/a/1", "train/a/2", "train/b/1", "test/a/1", "test/b/1"]):
        write_photo(folder / f"{name}.png", seed)
    shutil.copy(folder / "train/a/1.png", folder / "test/a/same.png")
    brighter = np.minimum(np.asarray(Image.open(folder / "train/b/1.png")).astype(int) + 3, 255).astype(np.uint8)
    Image.fromarray(brighter).save(folder / "test/b/near.png")
    shown = cli(
        f"data verify ImageFolder --data.source {folder} --data.size 80 --data.val_size 0 --data.duplicates keep "
        f"--data.root {tmp_path / 'root'}"
    )
    assert shown.status == 0, shown
    exact = (
        "exact      2 images in 1 group of exact duplicates; across splits 1 (1 test-train), with different labels 0"
    )
    near = "near       4 images in 2 groups of near duplicates; across splits 2 (2 test-train), with different labels 0"
    assert exact in shown.out
    assert near in shown.out
    assert "train/a/1.png (train, a) = test/a/same.png (test, a)" in shown.out


def test_show_draws_samples_counts_and_augmented_images(cli, root, tmp_path):
    plain = cli(f"data show Digits --data.root {root} --output plain.png")
    assert plain.status == 0, plain
    assert cli(f"data show Digits --data.root {root} --data.augment+ RandomCrop --output pictures/a.png").status == 0
    sizes = [image_size(tmp_path / name) for name in ("plain.png", "pictures/a.png")]
    assert sizes == [(1200, 800), (1200, 1100)]


def test_show_replaces_its_own_pictures_alone(cli, root, tmp_path):
    show = f"data show Digits --data.root {root} --output"
    for _ in range(2):
        assert cli(f"{show} picture").out == "picture    picture.png\n"
    (tmp_path / "photo.png").write_bytes(b"a photo")
    assert "photo.png exists and is no picture of visionbench" in cli(f"{show} photo.png").refusal()
    assert (tmp_path / "photo.png").read_bytes() == b"a photo"
    (tmp_path / "folder").mkdir()
    assert "folder is a folder; give the name of a file" in cli(f"{show} folder").refusal()


@pytest.mark.parametrize("channels", [1, 3])
def test_show_draws_the_levels_that_the_images_have(cli, tmp_path, channels):
    for number, name in enumerate(["a/1", "a/2", "b/1", "b/2"]):
        path = tmp_path / "dark" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (20, 20), 60 + 10 * number).save(path)
    line = f"data show ImageFolder --data.source dark --data.size 20 --data.channels {channels} --data.root new"
    shown = cli(f"{line} --data.val_size 0 --data.test_size 0 --data.augment+ HorizontalFlip --output dark.png")
    assert shown.status == 0, shown
    pixels = np.asarray(Image.open(tmp_path / "dark.png").convert("RGB"))
    for level in (60, 70, 80, 90):
        assert (abs(pixels.astype(int) - level) <= 1).all(axis=-1).sum() > 2000  # in both grids


@pytest.mark.parametrize(
    ("line", "expected"),
    {
        "no such command": ("data lst", "list, prepare, verify and show"),
        "no name": ("data verify", "needs the name of a data set"),
        "unknown name": ("data prepare Digit", "did you mean Digits?"),
        "unknown option": ("data prepare Digits --data.val 3", "--data.val"),
        "no such format": ("data show Digits --output x.xyz", "give another --output"),
    }.values(),
)
def test_a_mistake_is_one_sentence(cli, line, expected):
    assert expected in cli(line).refusal()


def test_list_of_a_damaged_store_says_so(cli, root):
    (meta,) = (root / "Digits").glob("*/meta.json")
    meta.write_text(json.dumps({"schema": 1}))
    assert f"delete {os.fspath(meta.parent)}" in cli(f"data list --root {root}").out
