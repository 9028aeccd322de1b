"""What is reported after an epoch."""

from types import SimpleNamespace

import pytest
import torch

from visionbench import api
from visionbench.guards.epoch import ConstantPrediction, EpochContext, NoBetterThanMajority
from visionbench.models import MLP, FrozenResNet

SMALL = {"data.train_size": 80, "data.val_size": 30, "data.test_size": 20, "trainer.precision": "32-true"}
FROZEN = {"model.weights": "none", "model.min_size": 32, "model.hidden": 8, "model.cache_features": False}


def notes(folder, root, model, **options):
    lines = []
    settings = SMALL | {"data.root": str(root), "max_epochs": 1} | options
    api.fit(model, "Digits", run_dir=folder, say=lines.append, **settings)
    return [line for line in lines if "learn nothing" in line]


def silenced(layer_of):
    """A start of training whose biases keep a ReLU at zero."""

    def load_start(model):
        with torch.no_grad():
            layer_of(model.network).bias.fill_(-100)

    return load_start


def test_a_layer_whose_relus_are_zero_for_all_samples_is_named(tmp_path, digits_root, monkeypatch):
    monkeypatch.setattr(MLP, "load_start", silenced(lambda network: network.hidden[0][0]))
    options = {"model.widths": [12, 9], "model.activation": "relu"}
    (note,) = notes(tmp_path / "run", digits_root, "MLP", **options)
    assert "12 of 12 units of the ReLU network.hidden.0.1 are zero for all of 80 training images" in note


@pytest.mark.parametrize("freeze", [["backbone"], []])
def test_the_relus_of_a_frozen_part_are_not_expected_to_learn(tmp_path, digits_root, monkeypatch, freeze):
    monkeypatch.setattr(FrozenResNet, "load_start", silenced(lambda network: network.backbone.bn1))
    found = notes(tmp_path / "run", digits_root, "FrozenResNet", **FROZEN, **{"model.freeze": freeze})
    assert any("network.backbone.relu" in note for note in found) == (not freeze)


# Predicted and true numbers of samples of three classes, and the number of correct ones.
CONSTANT, MIXED, TOO_FEW = ((7, 0, 0), (2, 2, 3), 2), ((5, 1, 1), (2, 2, 3), 3), ((4, 0, 0), (1, 1, 2), 1)


@pytest.mark.parametrize(
    ("guard", "epoch", "counts", "sentence"),
    [
        (
            ConstantPrediction,
            2,
            CONSTANT,
            "After epoch 2, the model predicts cat for every one of the 7 validation images",
        ),
        (ConstantPrediction, 1, CONSTANT, None),
        (ConstantPrediction, 2, MIXED, None),
        (ConstantPrediction, 2, TOO_FEW, None),
        (NoBetterThanMajority, 3, MIXED, "After 3 epochs, the validation accuracy is 42.86 %, no better than"),
        (NoBetterThanMajority, 2, MIXED, None),
        (NoBetterThanMajority, 3, TOO_FEW, None),
    ],
)
def test_a_model_that_has_learned_nothing_is_reported_on_few_images_too(guard, epoch, counts, sentence):
    predicted, labels, correct = counts
    data = SimpleNamespace(class_names=["cat", "dog", "cow"], item="image")
    found = list(guard().check(EpochContext(data, epoch, predicted, labels, correct, ())))
    assert [finding.sentence.startswith(sentence) for finding in found] == [True] * (sentence is not None)
