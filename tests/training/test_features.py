"""Features of a frozen backbone are computed once, and give what the images give."""

import csv
import importlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import ResNet

from visionbench import api
from visionbench.data import Arrays
from visionbench.errors import UserError
from visionbench.models import FrozenResNet
from visionbench.training import features

SMALL = {
    **{"model.weights": "none", "model.min_size": 32, "model.hidden": 8, "model.architecture": "resnet18"},
    **{"data.train_size": 80, "data.val_size": 30, "data.test_size": 20, "data.batch_size": 32},
    **{"trainer.precision": "32-true", "max_epochs": 2},
}


def run(folder, root, **options):
    lines = []
    settings = {**SMALL, "data.root": str(root), **options}
    result = api.fit("FrozenResNet", "Digits", run_dir=folder, say=lines.append, **settings)
    said = [line for line in lines if line.startswith("features")]
    with (folder / "metrics.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return SimpleNamespace(result=result, rows=rows, said=said)


@pytest.fixture
def root(tmp_path, digits_root):
    """A root of its own, since features are kept in it."""
    own = tmp_path / "root"
    own.mkdir()
    (own / "Digits").symlink_to(digits_root / "Digits")
    return own


def test_cached_features_give_the_numbers_of_the_images(tmp_path, root):
    cached, images = (run(tmp_path / str(on), root, **{"model.cache_features": on}) for on in (True, False))
    assert len(cached.said) == 3  # of train, val and test
    assert images.said == []
    for one, other in zip(cached.rows, images.rows, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    assert cached.result.metrics["test/acc"] == images.result.metrics["test/acc"]
    weights = [torch.load(tmp_path / str(on) / "checkpoints/last.ckpt")["state_dict"] for on in (True, False)]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-3, atol=1e-5)


def test_the_backbone_is_asked_once_for_each_image(tmp_path, root, monkeypatch):
    seen = []
    extractor = FrozenResNet.feature_extractor

    class Counted(nn.Sequential):
        def forward(self, images):
            seen.append(len(images))
            return super().forward(images)

    monkeypatch.setattr(FrozenResNet, "feature_extractor", lambda model: Counted(*extractor(model)))
    run(tmp_path / "first", root, max_epochs=3)
    assert sum(seen) == 80 + 30 + 20
    seen.clear()
    forward = ResNet.forward
    through = []
    monkeypatch.setattr(
        ResNet, "forward", lambda network, images: through.append(len(images)) or forward(network, images)
    )
    again = run(tmp_path / "again", root, max_epochs=3)
    assert sum(seen) == 0
    assert again.said == []
    assert sum(through) < 80  # of the trial step: what is looked at after an epoch needs the head only


def test_a_second_run_reads_the_features_and_gives_the_same_weights(tmp_path, root):
    first, second = (run(tmp_path / name, root).result for name in ("first", "second"))
    assert first.weights_digest == second.weights_digest


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"seed": 1},  # other weights of the backbone
        {"model.min_size": 40},
        {"data.split_seed": 1},
        {"data.mean": [0.5], "data.std": [0.5]},
        {"trainer.precision": "bf16-mixed"},
        {"data.batch_size": 16},
        {"threads": 2},
    ],
    ids=str,
)
def test_whatever_moves_the_features_has_files_of_its_own(tmp_path, root, options):
    run(tmp_path / "first", root, max_epochs=1)
    assert len(run(tmp_path / "other", root, **{"max_epochs": 1, **options}).said) == 3


def test_features_of_other_code_are_computed_again(tmp_path, root, monkeypatch):
    run(tmp_path / "first", root, max_epochs=1)
    monkeypatch.setattr(features, "code_digest", lambda kinds: "other")
    assert len(run(tmp_path / "other", root, max_epochs=1).said) == 3


def test_a_resumed_run_has_the_features_of_its_checkpoint(tmp_path, root):
    """It does not load the weights of its start again, and has random ones until the checkpoint is restored."""
    run(tmp_path / "start", root, max_epochs=1, seed=1)
    start = {"model.start_from": str(tmp_path / "start")}
    whole = run(tmp_path / "whole", root, max_epochs=2, **start).result
    run(tmp_path / "part", root, max_epochs=1, **start)
    resumed = api.fit(resume=str(tmp_path / "part"), config=tmp_path / "part/config.yaml", max_epochs=2)
    assert resumed.weights_digest == whole.weights_digest


@pytest.mark.parametrize("damage", [b"", b"no array", None])
def test_damaged_features_are_computed_again(tmp_path, root, damage):
    first = run(tmp_path / "first", root, max_epochs=1).result
    for file in (root / "features").iterdir():
        if damage is None:
            np.save(file, np.zeros((3, 512), np.float32))
        else:
            file.write_bytes(damage)
    second = run(tmp_path / "second", root, max_epochs=1)
    assert len(second.said) == 3
    assert second.result.weights_digest == first.weights_digest


def test_augmented_images_have_their_features_computed_in_each_epoch(tmp_path, root):
    said = run(tmp_path / "run", root, **{"data.augment": ["RandomCrop"]}).said
    assert [line.split()[3] for line in said] == ["val", "test"]


def test_views_are_augmented_images_that_the_epochs_take_in_turn(tmp_path, root, monkeypatch):
    taken = []
    iterate = features.FeatureLoader.__iter__

    def noted(loader):
        batches = iterate(loader)
        if len(loader.views) == 2:
            first = next(batches)
            taken.append([view is loader.images for view in loader.views].index(True))
            yield first
        yield from batches

    monkeypatch.setattr(features.FeatureLoader, "__iter__", noted)
    options = {"data.augment": ["RandomCrop"], "model.views": 2, "max_epochs": 3}
    said = run(tmp_path / "run", root, **options).said
    assert [line.split(" computed")[0].split("of ", 1)[1] for line in said] == [
        "80 train images (view 1 of 2)",
        "80 train images (view 2 of 2)",
        "30 val images",
        "20 test images",
    ]
    assert taken == [0, 1, 0]


def test_views_of_mixed_images_are_refused(tmp_path, cli, root):
    refused = cli(
        f"fit --model FrozenResNet --model.weights none --model.views 2 --data Digits --data.root {root} "
        f"--data.augment [MixUp] --run_dir {tmp_path / 'run'}"
    )
    assert refused.refusal() == (
        "model.views is 2, but data.augment mixes images with each other, so that their features cannot be computed "
        "once; set model.views to 0, or leave out the mixing."
    )
    assert not (tmp_path / "run").exists()


def test_a_backbone_that_is_not_frozen_has_no_features():
    for options in ({"freeze": []}, {"freeze": ["backbone.layer1"]}, {"cache_features": False}):
        model = FrozenResNet(10, (1, 28, 28), weights="none", **options)
        model.prepare_start()
        assert model.feature_extractor() is None

    class InTrainingMode(FrozenResNet):
        frozen_in_train_mode = True

    model = InTrainingMode(10, (1, 28, 28), weights="none")
    model.prepare_start()
    assert model.feature_extractor() is None


def test_features_of_arrays_are_not_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (60, 28, 28), dtype=np.uint8)
    data = Arrays(images, np.arange(60) % 3)
    written = []
    monkeypatch.setattr(features, "_write", lambda *arguments: written.append(arguments))
    options = {"model.weights": "none", "model.min_size": 32, "model.hidden": 8}
    api.fit("FrozenResNet", data, run_dir=tmp_path / "run", max_epochs=1, **options)
    assert written == []
    assert data.frozen_features is None  # the next run has features of its own


def test_a_full_disk_leaves_the_features_in_memory(tmp_path, root, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features, "replacing", full)
    said = run(tmp_path / "run", root, max_epochs=1).said
    assert len(said) == 3
    assert all(line.endswith(f"; they could not be kept in {root / 'features'}") for line in said)
    assert not list((root / "features").iterdir())


@pytest.mark.slow
def test_further_evaluations_see_the_training_images_as_they_are(tmp_path, root):
    options = {"evaluate": ["train_eval"], "evaluate_every": "epoch", "max_epochs": 1}
    plain = run(tmp_path / "plain", root, **options, **{"model.cache_features": False})
    cached = run(tmp_path / "cached", root, **options)
    assert cached.rows[0]["train_eval/loss"] == pytest.approx(plain.rows[0]["train_eval/loss"], rel=1e-4)
    # With a rate of almost nothing, the weights stay those of the start, however the images are augmented.
    augmented = {"data.augment": ["RandomCrop"], "model.optimizer.lr": 1e-12}
    viewed = run(tmp_path / "viewed", root, **options, **augmented, **{"model.views": 1})
    anew = run(tmp_path / "anew", root, **options, **augmented, **{"model.cache_features": False})
    assert viewed.rows[0]["train_eval/loss"] == pytest.approx(anew.rows[0]["train_eval/loss"], rel=1e-4)


# What a user writes

OWN_LAYER = """
from torch import nn

class Scaled(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, ::49] * {factor}
"""
OWN_MODEL = """
from torch import nn
from visionbench.models import Classifier
from own_layer import Scaled

class Head(nn.Sequential):
    def forward(self, inputs):
        return self[1](self[0](inputs) if inputs.ndim == 4 else inputs)

class Own(Classifier):
    def __init__(self, num_classes: int, input_shape: tuple[int, int, int], **kwargs):
        super().__init__(num_classes, input_shape, **kwargs)
        self.network = Head(Scaled(), nn.Linear(16, self.num_outputs))

    def feature_extractor(self):
        return self.network[0]
"""
OWN_AUGMENTATION = """
import torch
from visionbench.data import Augmentation

class Darker(Augmentation):
    def draw(self, n, generator):
        return torch.rand(n, generator=generator)

    def apply(self, images, parameters):
        return images * {factor}
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Writes modules of the user's own, and imports them anew."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(**sources):
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
        for name in ("own_layer", "own_model", "own_augmentation"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()

    return write


def test_features_of_a_layer_that_was_edited_are_computed_again(tmp_path, root, modules):
    options = {name: value for name, value in SMALL.items() if not name.startswith("model.")}
    options |= {"data.root": str(root), "max_epochs": 1}
    losses = []
    for number, factor in enumerate((1, -5, -5)):
        modules(own_layer=OWN_LAYER.format(factor=factor), own_model=OWN_MODEL)
        lines = []
        fitted = api.fit("own_model.Own", "Digits", run_dir=tmp_path / str(number), say=lines.append, **options)
        losses.append((fitted.metrics["train/loss"], sum(line.startswith("features") for line in lines)))
    (first, _), (edited, computed), (again, read) = losses
    assert (computed, read) == (3, 0)
    assert first != edited == again


def test_views_of_an_augmentation_that_was_edited_are_computed_again(tmp_path, root, modules):
    options = {"model.views": 1, "data.augment": [{"class_path": "own_augmentation.Darker"}], "max_epochs": 1}
    said = []
    for number, factor in enumerate((1, 0, 0)):
        modules(own_augmentation=OWN_AUGMENTATION.format(factor=factor))
        said.append(run(tmp_path / str(number), root, **options).said)
    assert ["view 1 of 1" in line for line in said[1]] == [True]  # the images that are not augmented are the same
    assert said[2] == []


def test_features_of_a_class_that_was_typed_into_a_notebook_are_not_written(tmp_path, root, monkeypatch):
    class Typed(FrozenResNet):
        """As `__main__` of a notebook, its module has no file, so that nothing tells whether its code has changed."""

    notebook = ModuleType("a_notebook")
    notebook.Typed = Typed
    Typed.__module__, Typed.__qualname__ = notebook.__name__, "Typed"
    monkeypatch.setitem(sys.modules, notebook.__name__, notebook)
    options = {name: value for name, value in SMALL.items() if name.startswith(("data.", "trainer."))}
    model = {name.removeprefix("model."): value for name, value in SMALL.items() if name.startswith("model.")}
    lines = []
    api.fit(
        Typed(10, (1, 28, 28), **model),
        "Digits",
        run_dir=tmp_path / "run",
        say=lines.append,
        **{**options, "data.root": str(root), "max_epochs": 1},
    )
    assert sum(line.startswith("features") for line in lines) == 3
    assert not (root / "features").exists()


def test_a_subclass_with_something_of_its_own_before_the_backbone_gets_the_images():
    class OwnForward(FrozenResNet):
        def forward(self, images):
            return super().forward((images > 0).float())

    class OwnStep(FrozenResNet):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch[0].flip(-1), batch[1]), batch_idx)

    class OwnLoss(FrozenResNet):
        def loss(self, outputs, labels):
            return 2 * super().loss(outputs, labels)

    for kind, has_features in ((OwnForward, False), (OwnStep, False), (OwnLoss, True)):
        model = kind(10, (1, 28, 28), weights="none", min_size=32)
        model.prepare_start()
        assert (model.feature_extractor() is not None) == has_features


@pytest.mark.parametrize(
    ("options", "why"),
    [({"cache_features": False}, "model.cache_features is false"), ({"freeze": []}, "the backbone is not frozen")],
)
def test_views_without_features_are_refused(options, why):
    model = FrozenResNet(10, (1, 28, 28), weights="none", min_size=32, views=2, **options)
    with pytest.raises(UserError, match=f"model.views is 2, but no features are computed once, since {why}"):
        model.prepare_start()
