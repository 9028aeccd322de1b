import numpy as np
import pytest
from PIL import Image

from tests.fakes import write_images
from visionbench.data import BoneBreak
from visionbench.errors import UserError

CLASSES = ("Greenstick fracture", "Hairline Fracture", "Spiral Fracture")


@pytest.fixture
def source(tmp_path):
    return write_images(tmp_path / "xrays", {f"{s}/{c}": n for s, n in [("train", 6), ("test", 2)] for c in CLASSES})


@pytest.fixture
def ready(tmp_path):
    """Makes the set-up data set; its images are small unless a test gives a size."""

    def make(**arguments):
        data = BoneBreak(**{"root": str(tmp_path / "root"), "size": 8, "val_size": 0} | arguments)
        data.prepare_data()
        data.setup()
        return data

    return make


def test_the_images_are_in_color_and_as_large_as_networks_with_imagenet_weights_take_them(source, ready):
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (230, 460, 3)).astype(np.uint8))
    image.save(source / "test" / CLASSES[0] / "00.png")
    data = ready(source=str(source), size=BoneBreak(source=str(source)).input_shape[1])
    assert data.input_shape == (3, 224, 224)
    scaled = np.asarray(image.resize((448, 224), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(data.store.arrays["test-images"][0], scaled[:, 112:336])


def test_the_folders_are_the_split_and_all_images_can_be_split_anew(source, ready):
    data = ready(source=str(source))
    assert (data.title, data.class_names) == ("Bone Break", CLASSES)
    assert data.sizes() == {"train": 18, "val": 0, "test": 6}
    folds = [ready(source=str(source), pool=True, folds=4, fold=fold) for fold in range(4)]
    assert [fold.sizes()["test"] for fold in folds] == [6] * 4
    held_out = np.concatenate([fold.splits["test"].index for fold in folds])
    assert sorted(held_out) == [*range(24)]


# Without a source


def test_what_was_prepared_once_needs_no_source_and_does_not_look_at_it(source, ready):
    first = ready(source=str(source))
    write_images(source / "train", {CLASSES[0]: 9}, seed=1)
    assert ready().data_digest() == first.data_digest()
    source.rename(source.with_name("moved"))
    assert ready().data_digest() == first.data_digest()
    assert ready().store.folder == first.store.folder


def test_other_settings_are_prepared_from_the_source_of_the_first_ones(source, ready):
    ready(source=str(source))
    pooled = ready(pool=True, test_size=0)
    assert pooled.sizes()["train"] == 24
    source.rename(source.with_name("moved"))
    assert ready(pool=True, test_size=0).store.folder == pooled.store.folder
    with pytest.raises(
        UserError, match=r"with other settings \(pool, size\), and its source .*xrays does not exist, .*give"
    ):
        ready(size=9)


def test_other_settings_never_use_other_content(source, ready, tmp_path):
    first = ready(source=str(source))
    write_images(source / "train", {CLASSES[0]: 9}, seed=1)
    with pytest.raises(UserError, match=r"changed since Bone Break was prepared .*; prepare it again with .*xrays\."):
        ready(pool=True)
    again = ready(source=str(source))
    assert again.data_digest() != first.data_digest()
    assert ready(pool=True, test_size=0).sizes()["train"] == 27


def test_of_two_sources_the_last_one_prepared_is_used_and_that_is_said(source, ready, tmp_path, capsys):
    ready(source=str(source))
    moved = source.rename(tmp_path / "moved")
    ready(source=str(moved))
    capsys.readouterr()
    ready()
    assert capsys.readouterr().out == ""  # the same images in another place
    other = write_images(tmp_path / "other", {f"train/{c}": 5 for c in CLASSES}, seed=1)
    last = ready(source=str(other), test_size=3)
    assert ready(test_size=3).data_digest() == last.data_digest()
    said = capsys.readouterr().out
    assert f"those of {other} are used, which were prepared last" in said
    assert f"not those of {moved}, {source}; --data.source chooses" in said


def test_files_that_changed_between_two_preparations_are_not_called_those_of_another_source(source, ready, capsys):
    ready(source=str(source))
    write_images(source / "train", {CLASSES[0]: 9}, seed=1)
    ready(source=str(source), size=9)
    capsys.readouterr()
    ready(size=9)
    said = capsys.readouterr().out
    assert f"files of {source} changed (their name, size or time) between two preparations of Bone Break" in said
    assert "different files" not in said


def test_a_run_needs_no_source_and_can_be_repeated_and_tested(cli, source, tmp_path):
    line = "--data BoneBreak --data.size 8 --model MLP --model.widths [4] --trainer.max_epochs 1 --run_dir run"
    refused = cli(f"fit {line} --data.root new").refusal()
    assert refused.startswith(
        "Bone Break is not prepared in new; run visionbench data prepare BoneBreak --data.root new --data.source "
        'FOLDER once; FOLDER is Kaggle\'s data set "Bone Break Classification Image Dataset"'
    )
    assert (
        "18 train, 0 validation, 6 test images of 3 x 8 x 8, 3 classes"
        in cli(f"data prepare BoneBreak --data.source {source} --data.size 8 --data.val_size 0 --data.root new").out
    )
    source.rename(source.with_name("moved"))
    fitted = cli(f"fit {line} --data.root new --data.val_size 0")
    assert "Bone Break test accuracy" in fitted.out, fitted
    assert "Bone Break" in cli("test run").out
    listed = cli("data list --root new").out
    assert "18 train, 6 test of 8 x 8 x 3" in listed
    assert "prepare once: visionbench data prepare BoneBreak --data.source FOLDER" in listed
