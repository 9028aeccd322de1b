import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from tests.fakes import write_images
from visionbench.data import GreekLetters, ImageFolder
from visionbench.errors import UserError

NAMES = ("alpha", "beta", "gamma")


@pytest.fixture
def source(tmp_path):
    return write_images(tmp_path / "letters", dict.fromkeys(NAMES, 9), (133, 133))


@pytest.fixture
def ready(source, tmp_path):
    def make(**arguments):
        data = GreekLetters(**{"source": str(source), "root": str(tmp_path / "root")} | arguments)
        data.prepare_data()
        data.setup()
        return data

    return make


def test_the_letters_have_the_form_of_digits(source, ready):
    data = ready(val_size=0, test_size=0)
    assert (data.class_names, data.input_shape) == (NAMES, (1, 28, 28))
    gray = torch.from_numpy(np.asarray(Image.open(source / "alpha" / "00.png").convert("L")).copy())[None]
    scaled = functional.affine(gray, angle=0, translate=[0, 0], scale=36 / 128, shear=[0.0])
    expected = 255 - functional.center_crop(scaled, [28, 28])
    np.testing.assert_array_equal(data.store.arrays["train-images"][0, ..., 0], expected[0])


def test_all_are_trained_on_or_each_is_left_out_once(ready):
    assert ready(val_size=0, test_size=0).sizes() == {"train": 27, "val": 0, "test": 0}
    left_out = [ready(val_size=0, folds=27, fold=fold).splits["test"].index for fold in range(27)]
    assert {len(index) for index in left_out} == {1}
    assert sorted(np.concatenate(left_out)) == [*range(27)]


def test_a_class_that_changes_how_it_is_measured_alone_is_found_without_a_source_too(ready):
    class AsTrained(GreekLetters):
        train_as_test = True

    first = ready(val_size=0, test_size=0)
    again = AsTrained(root=str(first.root), val_size=0, test_size=0)
    again.setup()
    assert again.store.folder == first.store.folder


def test_without_a_store_it_is_said_what_the_folder_holds(tmp_path):
    with pytest.raises(UserError, match=r"^Greek letters is not prepared .* FOLDER holds the folders alpha, beta and"):
        GreekLetters(root=str(tmp_path))


@pytest.mark.parametrize("kind", [GreekLetters, ImageFolder])
def test_an_empty_source_is_none_and_a_folder_of_one_s_own_needs_one(kind, tmp_path):
    said = "is not prepared" if kind is GreekLetters else "data.source is empty, expected the folder"
    with pytest.raises(UserError, match=said):
        kind(source="", size=28, root=str(tmp_path))


def test_the_form_of_the_letters_does_not_outlive_them(cli):
    line = "fit --model MLP --data GreekLetters --data.size 32 --data.scale 0.5 --data.invert true --data.batch_size 5"
    shown = cli(f"{line} --data BoneBreak --print_config")
    assert shown.status == 0, shown
    assert shown.err == "GreekLetters was replaced by BoneBreak: kept batch_size=5; dropped size=32, scale=0.5\n"
    for word in ("size: 224", "channels: 3", "resize: crop", "scale: 1.0", "invert: false"):
        assert f"    {word}\n" in shown.out
