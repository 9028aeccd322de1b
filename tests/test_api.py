"""Runs from Python: the same runs as those of the command line, in a process that stays as it was."""

import copy
import os
import signal
import sys
import warnings

import numpy as np
import pytest
import torch
import yaml

import visionbench
from tests.fakes import write_images
from visionbench.data import Digits
from visionbench.data.augment import HorizontalFlip, RandomCrop, RandomRotation
from visionbench.errors import UserError
from visionbench.models import MLP
from visionbench.runs.folder import RunFolder

OPTIONS = {"model.widths": [8], "model.dropout": 0.3, "trainer.precision": "32-true"}
AUGMENT = [
    {"class_path": "RandomRotation", "init_args": {"degrees": 10}},
    {"class_path": "HorizontalFlip", "init_args": {"p": 0.3}},
]


@pytest.fixture
def place(tmp_path, monkeypatch, digits_root):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISIONBENCH_DATA", str(digits_root))
    return tmp_path


def of_command_line(cli):
    line = "fit --model MLP --data Digits --model.widths [8] --model.dropout 0.3 --trainer.precision 32-true"
    assert cli(f"{line} --trainer.max_epochs 2 --name line").status == 0


def test_a_notebook_cell_gives_the_digest_of_the_command_line(cli, place):
    of_command_line(cli)
    line = RunFolder(place / "lightning_logs/line/version_0")
    result = visionbench.fit("MLP", "Digits", max_epochs=2, **OPTIONS)
    assert result.status == "finished"
    assert result.folder.resolve() == place / "lightning_logs/mlp/version_0"
    assert result.weights_digest == line.metadata["weights_digest"]
    assert result.metrics == line.metadata["metrics"]
    assert RunFolder(result.folder).metadata["identity"] == line.metadata["identity"]
    assert visionbench.fit(MLP, Digits, max_epochs=2, **OPTIONS).weights_digest == result.weights_digest


def test_a_run_of_python_is_repeated_by_its_config(cli, place):
    result = visionbench.fit("MLP", "Digits", max_epochs=1, run_dir="exactly/here", **OPTIONS)
    assert str(result.folder) == "exactly/here"
    again = cli("fit --config exactly/here/config.yaml --run_dir null --name again")
    assert again.status == 0, again
    digest = RunFolder(place / "lightning_logs/again/version_0").metadata["weights_digest"]
    assert digest == result.weights_digest


def test_a_data_module_that_is_made_already_gives_the_same_run(place):
    named = visionbench.fit("MLP", "Digits", max_epochs=1, **OPTIONS)
    made = visionbench.fit("MLP", Digits(), max_epochs=1, **OPTIONS)
    assert made.weights_digest == named.weights_digest
    config = yaml.safe_load((made.folder / "config.yaml").read_text())
    assert config["data"]["class_path"].endswith("Digits")


def test_each_run_on_one_data_module_has_its_own_seed(place):
    data = Digits(augment=[RandomCrop()])
    runs = [visionbench.fit("MLP", data, seed=seed, max_epochs=1, **OPTIONS) for seed in (0, 1)]
    alone = visionbench.fit("MLP", Digits(augment=[RandomCrop()]), seed=1, max_epochs=1, **OPTIONS)
    assert runs[1].weights_digest == alone.weights_digest != runs[0].weights_digest
    assert RunFolder(runs[1].folder).metadata["identity"] == RunFolder(alone.folder).metadata["identity"]


def test_augmentations_of_a_data_module_that_is_made_already_are_in_its_configuration(cli, place):
    """By the arguments that they were made with: a RandomRotation keeps none of them as it was given."""
    made, plain = (
        visionbench.fit("MLP", Digits(augment=augment), max_epochs=1, **OPTIONS)
        for augment in ([RandomRotation(10), HorizontalFlip(0.3)], [])
    )
    named = visionbench.fit("MLP", "Digits", max_epochs=1, **OPTIONS, **{"data.augment": AUGMENT})
    assert made.weights_digest == named.weights_digest
    config, other = (RunFolder(run.folder).config["data"]["init_args"]["augment"] for run in (made, named))
    assert [entry["init_args"] for entry in config] == [entry["init_args"] for entry in other]
    digests = [RunFolder(run.folder).metadata["config_digest"] for run in (made, plain)]
    assert digests[0] != digests[1]
    assert RunFolder(made.folder).metadata["identity"] != RunFolder(plain.folder).metadata["identity"]
    assert cli(f"test {made.folder}").status == 0


def test_arrays_and_a_model_that_is_made_already_train(place):
    data = visionbench.load_data("Digits")
    arrays = data.open_store().arrays
    own = visionbench.Arrays(
        arrays["train-images"], arrays["train-labels"], arrays["test-images"], arrays["test-labels"]
    )
    model = MLP(10, (1, 28, 28), widths=[8])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = visionbench.fit(model, own, max_epochs=2, **{"trainer.precision": "32-true"})
    assert result.counts["test"] == 360
    assert result.metrics["test/acc"] > 0.5
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    probabilities, names = visionbench.open_run(result.folder).predict(arrays["test-images"][:5])
    assert probabilities.shape == (5, 10)
    assert len(names) == 5


def test_a_run_on_arrays_is_exported_with_files_and_says_why_it_is_not_tested(place, cli):
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (40, 8, 7), np.uint8)
    own = visionbench.Arrays(images, np.arange(40) % 2, class_names=["cat", "dog"])
    folder = visionbench.fit("MLP", own, max_epochs=1, **{"model.widths": [4]}).folder
    files = write_images(place / "images", {"cat": 2, "dog": 2}, size=(7, 8))
    exported = cli(f"export {folder} --format safetensors --check {files}")
    assert (exported.status, "checked    on 4 samples" in exported.out) == (0, True), exported
    for line in (f"export {folder} --format safetensors", f"predict {folder} test", f"test {folder}"):
        assert "Arrays, whose samples were in the memory of a Python program" in cli(line).refusal()


class Fixed(MLP):
    """Fixes an argument of its base, and has one of its own."""

    from_command_line = False  # other tests list the models there are

    def __init__(self, num_classes, input_shape, width=8, **kwargs):
        super().__init__(num_classes, input_shape, widths=[width, width], **kwargs)


def test_a_model_whose_class_fixes_an_argument_of_its_base_trains_and_opens(place):
    result = visionbench.fit(Fixed(10, (1, 28, 28), width=4), "Digits", max_epochs=1)
    arguments = yaml.safe_load((result.folder / "config.yaml").read_text())["model"]["init_args"]
    assert arguments["width"] == 4
    assert "widths" not in arguments
    assert visionbench.open_run(result.folder).predict(np.zeros((2, 28, 28), np.uint8))[0].shape == (2, 10)


def test_what_is_given_twice_is_refused(place):
    with pytest.raises(UserError, match=r"trainer\.max_epochs is given twice"):
        visionbench.fit("MLP", "Digits", max_epochs=1, **{"trainer.max_epochs": 2})
    with pytest.raises(UserError, match="An option of data is given, but the data is an object that is made already"):
        visionbench.fit("MLP", Digits(), max_epochs=1, **{"data.batch_size": 2})
    with pytest.raises(UserError, match="There is no data set Digit"):
        visionbench.load_data("Digit")


def test_a_run_folder_that_is_there_is_refused(place):
    (place / "full").mkdir()
    (place / "full" / "file").touch()
    with pytest.raises(UserError, match="run_dir is full, which is there already"):
        visionbench.fit("MLP", "Digits", max_epochs=1, run_dir="full", **OPTIONS)
    assert [path.name for path in (place / "full").iterdir()] == ["file"]


def test_the_process_is_as_it_was_before(place):
    def state():
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        kernels = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
        return dict(os.environ), list(sys.path), list(warnings.filters), handlers, kernels

    visionbench.fit("MLP", "Digits", max_epochs=1, **OPTIONS)  # imports have effects of their own
    before = state()
    visionbench.fit("MLP", "Digits", max_epochs=1, threads=1, **OPTIONS, **{"trainer.deterministic": True})
    assert state() == before


def test_the_version_is_the_packages():
    assert visionbench.__version__.count(".") >= 1
    with pytest.raises(AttributeError):
        _ = visionbench.fitt


def test_a_model_that_was_trained_is_not_trained_on_in_silence(place):
    model = MLP(10, (1, 28, 28), widths=[8])
    first = visionbench.fit(model, "Digits", max_epochs=1, **{"trainer.precision": "32-true"})
    with pytest.raises(UserError, match=r"The model has been trained already, for 21 steps, so that this run would"):
        visionbench.fit(model, "Digits", max_epochs=1)
    on = visionbench.fit(copy.deepcopy(model), "Digits", max_epochs=1, **{"trainer.precision": "32-true"})
    assert on.metrics["train/loss"] < first.metrics["train/loss"]


def test_a_class_that_was_defined_anew_is_not_trained_in_the_place_of_the_one_that_is_passed(place, monkeypatch):
    class Fixed(MLP):
        from_command_line = False

    Fixed.__qualname__ = "Fixed"
    with pytest.raises(UserError, match=r"test_api\.Fixed is another class by now than the one that is passed"):
        visionbench.fit(Fixed, "Digits", max_epochs=1)
    Fixed.__qualname__ = "nowhere.<locals>.Fixed"
    with pytest.raises(UserError, match=r"Fixed is not found by this name; define the class at the top of a module"):
        visionbench.fit(Fixed, "Digits", max_epochs=1)


def test_values_of_numpy_and_torch_are_options_and_others_are_refused_in_a_sentence(place):
    options = {**OPTIONS, "model.widths": np.array([8]), "model.dropout": torch.tensor(0.25)}
    result = visionbench.fit("MLP", "Digits", max_epochs=1, **options)
    arguments = RunFolder(result.folder).config["model"]["init_args"]
    assert (arguments["widths"], arguments["dropout"]) == ([8], 0.25)
    with pytest.raises(UserError, match=r"An option is RandomState\(.*expected numbers, texts, lists or mappings"):
        visionbench.fit("MLP", "Digits", **{"model.dropout": np.random.RandomState(0)})
    with pytest.raises(
        UserError, match=r"data is of type ndarray, expected a name.*visionbench\.Arrays\(images, labels"
    ):
        visionbench.fit("MLP", np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(UserError, match=r"model is of type int, expected a name, a class or an object of a subclass"):
        visionbench.fit(3, "Digits")
