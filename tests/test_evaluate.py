"""A run is evaluated on samples that it cannot have been trained on."""

import json
import shutil
from pathlib import Path

import pytest

from tests.fakes import write_images

RUN = Path("lightning_logs", "mlp", "version_0")
SMALL = "fit --model MLP --model.widths [8] --trainer.max_epochs 1 --data ImageFolder --data.source source"
COMMANDS = ("test RUN", "validate RUN", "predict RUN test", "predict RUN val")


def trained_on(folder, cli, counts):
    write_images(folder / "source", counts)
    assert cli(f"{SMALL} --data.size [6,7] --data.root root --data.batch_size 8").status == 0


@pytest.fixture(scope="module")
def cut(cli_in, tmp_path_factory):
    """A folder with a run whose test images are cut from the same images as those it is trained on."""
    folder = tmp_path_factory.mktemp("cut")
    trained_on(folder, cli_in(folder), {"cat": 30, "dog": 30})
    return folder


def openings(folder):
    return json.loads((folder / RUN / "run.json").read_text())["test_openings"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("change", ["images", "split"])
def test_a_split_that_may_have_been_trained_on_is_refused_unopened(cut, tmp_path, cli, command, change):
    shutil.copytree(cut, tmp_path, dirs_exist_ok=True)
    line = f"{command.replace('RUN', str(RUN))} --data.root root --data.source source"
    if change == "images":
        write_images(tmp_path / "source", {"cat": 33, "dog": 33}, seed=1)
    else:
        line += " --data.split_seed 5"
    done = cli(line)
    assert done.status == 2
    assert "acc" not in done.out
    sentence = done.err.splitlines()[-1]  # after what preparing the images says
    assert "The training images of source are not those that lightning_logs/mlp/version_0 was trained on" in sentence
    assert f"trained on {'test' if 'test' in command else 'validation'} images, which are cut from" in sentence
    assert openings(tmp_path) == 1


def test_the_copies_of_a_run_are_said_of_its_own_splits_alone(cut, tmp_path, cli):
    """A test split that is the run's own is evaluated, whatever is trained on of the rest."""
    shutil.copytree(cut, tmp_path, dirs_exist_ok=True)
    place = "--data.root root --data.source source"
    own, other = cli(f"test {RUN} {place}"), cli(f"test {RUN} {place} --data.val_size 0")
    assert (own.status, other.status) == (0, 0)
    assert "copies      no test image has the same bytes as a training image" in own.out
    assert "copies " not in other.out
    assert "note: the images, their split or their normalization are not those of the run" in other.out


def test_official_test_images_are_evaluated_after_images_were_added_to_the_others(tmp_path, cli):
    counts = {"train/cat": 20, "train/dog": 20, "test/cat": 5, "test/dog": 5}
    trained_on(tmp_path, cli, counts)
    write_images(tmp_path / "source", {"train/cat": 21}, seed=1)
    done = cli(f"test {RUN}")
    assert done.status == 0
    assert "note: the images, their split or their normalization are not those of the run" in done.out
    assert "copies " not in done.out
    assert "validation images, which are cut from" in cli(f"validate {RUN}").refusal()
