"""What every data set promises; a new one is added to `DATASETS` and nothing else."""

import importlib
import inspect
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import ResNet18_Weights
from torchvision.transforms import functional

import visionbench.data
from tests.fakes import Letters, Tiny, write_cifar10, write_heart, write_idx, write_images, write_table
from visionbench.classes import sheet_entry
from visionbench.data import (
    CIFAR10,
    MNIST,
    Arrays,
    BoneBreak,
    Digits,
    FashionMNIST,
    GreekLetters,
    HeartFailure,
    HorizontalFlip,
    ImageFolder,
    MixUp,
    RandomCrop,
    Rows,
    Table,
    VisionDataModule,
    cifar10,
    fashion_mnist,
    mapped,
    mnist,
)
from visionbench.data.arrays import InMemory
from visionbench.data.mapped import MappedImages
from visionbench.data.statistics import channel_statistics
from visionbench.errors import UserError

pytestmark = pytest.mark.fast

NOISE = np.random.RandomState(0).randint(0, 256, (90, 8, 8, 3), dtype=np.uint8)
# What writes a data set's fake files into a folder, and gives the arguments that the class then needs.
DATASETS = {
    Digits: lambda folder, patch: {},
    FashionMNIST: lambda folder, patch: patch.setattr(fashion_mnist, "ORIGIN", write_idx(folder)) or {},
    MNIST: lambda folder, patch: patch.setattr(mnist, "ORIGIN", write_idx(folder)) or {},
    CIFAR10: lambda folder, patch: patch.setattr(cifar10, "ORIGIN", write_cifar10(folder)) or {},
    BoneBreak: lambda folder, patch: {
        "source": str(write_images(folder, {f"{s}/{c}": n for s, n in [("train", 30), ("test", 4)] for c in "abc"})),
        "size": 8,
    },
    GreekLetters: lambda folder, patch: {
        "source": str(write_images(folder, dict.fromkeys(("alpha", "beta", "gamma"), 34), (30, 29)))
    },
    HeartFailure: lambda folder, patch: {"source": str(write_heart(folder, {"train": 90, "test": 12}))},
    ImageFolder: lambda folder, patch: {
        "source": str(write_images(folder, {f"{s}/{c}": n for s, n in [("train", 30), ("test", 4)] for c in "abc"})),
        "size": 8,
    },
    Table: lambda folder, patch: {"source": str(write_table(folder, {"train": 90, "test": 12})), "target": "kind"},
    Arrays: lambda folder, patch: {"images": NOISE, "labels": np.arange(90) % 3},
    Rows: lambda folder, patch: {"rows": NOISE[:, 0, :, 0], "labels": np.arange(90) % 3},
}
# What speaks of pixels holds for those of images.
of_images = pytest.mark.parametrize(
    "kind", [kind for kind in DATASETS if kind.item == "image"], indirect=True, ids=lambda kind: kind.__name__
)
# What speaks of the store's files, or of reading them through a memory map, holds for those that write a store.
with_store = pytest.mark.parametrize(
    "kind", [kind for kind in DATASETS if not issubclass(kind, InMemory)], indirect=True, ids=lambda kind: kind.__name__
)
images_with_store = pytest.mark.parametrize(
    "kind",
    [kind for kind in DATASETS if kind.item == "image" and not issubclass(kind, InMemory)],
    indirect=True,
    ids=lambda kind: kind.__name__,
)


@pytest.fixture(scope="module", params=DATASETS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def required(kind, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield DATASETS[kind](tmp_path_factory.mktemp("files"), patch)


@pytest.fixture
def make(kind, required):
    return lambda **arguments: kind(**required | arguments)


@pytest.fixture
def ready(make, digits_root):
    def build(watch_test=False, **arguments):
        data = make(root=str(digits_root), **arguments)
        if watch_test:
            data.watch_test()
        data.prepare_data()
        data.setup()
        return data

    return build


def values(data, value):
    """A value for each channel."""
    return [value] * data.input_shape[0]


@pytest.fixture
def tiny(tmp_path):
    return Tiny(root=str(tmp_path))


def joined(loader):
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def test_every_data_set_of_the_package_is_under_this_contract():
    exported = [getattr(visionbench.data, name) for name in visionbench.data.__all__]
    concrete = {
        value
        for value in exported
        if isinstance(value, type) and issubclass(value, VisionDataModule) and not inspect.isabstract(value)
    }
    assert set(DATASETS) == concrete


def test_classes_and_shape_are_known_before_anything_is_prepared(make, tmp_path):
    data = make(root=str(tmp_path))
    assert data.num_classes == len(data.class_names) == len(set(data.class_names)) > 1
    assert all(isinstance(name, str) and name for name in data.class_names)
    assert len(data.input_shape) == (3 if data.item == "image" else 1)
    assert all(isinstance(length, int) and length > 0 for length in data.input_shape)
    assert data.title
    assert list(tmp_path.iterdir()) == []


def test_the_docstring_is_a_data_sheet(kind):
    for word in (f"{kind.item.capitalize()}s", "Classes", "Split", "Source", "License"):
        assert f"{word}: " in kind.__doc__
    # What `data list` shows of it.
    assert sheet_entry(kind.__doc__, "Files") or not kind.from_command_line


def test_the_store_says_where_the_data_are_from(ready, kind):
    data = ready()
    meta = data.store.meta
    assert meta["dataset"] == kind.__name__
    assert meta["class_names"] == list(data.class_names)
    assert all(meta[name] for name in ("source", "licence", "split"))


@pytest.mark.parametrize("test_size", [None, 0, 0.25])
@pytest.mark.parametrize("val_size", [0, 0.2, 20])
@pytest.mark.parametrize("train_size", [None, 1.0, 0.5, 20])
def test_the_splits_are_disjoint_and_whole(ready, test_size, val_size, train_size):
    data = ready(test_size=test_size, val_size=val_size, train_size=train_size)
    official = "test-labels" in data.store.arrays
    train = len(data.store.arrays["train-labels"])
    if test_size is None:
        test = len(data.store.arrays["test-labels"]) if official else round(0.2 * train)
    else:
        test = round(test_size * train)
    left = train if test_size is None and official else train - test
    val = round(val_size * left) if isinstance(val_size, float) else val_size
    left -= val
    trained = left if train_size is None else round(train_size * left) if isinstance(train_size, float) else train_size
    sizes = {"train": trained, "val": val, "test": test}
    assert data.sizes() == sizes
    taken = [split.index for split in data.splits.values() if split.part == "train"]
    places = np.concatenate(taken)
    assert len(np.unique(places)) == len(places)
    if train_size in (None, 1.0):
        np.testing.assert_array_equal(np.sort(places), np.arange(train))
    loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    assert [len(joined(loader)[1]) if loader else 0 for loader in loaders] == list(sizes.values())


@pytest.mark.parametrize("fold_is", ["val", "test"])
@pytest.mark.parametrize("folds", [2, 5])
def test_every_training_image_is_held_out_by_one_fold(ready, fold_is, folds):
    held_out = []
    for fold in range(folds):
        data = ready(folds=folds, fold=fold, fold_is=fold_is, test_size=0 if fold_is == "val" else None)
        assert data.splits[fold_is].part == "train"
        held_out.append(data.splits[fold_is].index)
        own = [split.index for split in data.splits.values() if split.part == "train"]
        np.testing.assert_array_equal(np.sort(np.concatenate(own)), np.arange(len(data.store.arrays["train-labels"])))
        labels = data.store.arrays["train-labels"]
        counts = np.bincount(labels[held_out[-1]], minlength=data.num_classes)
        assert (abs(counts - np.bincount(labels) / folds) < 1).all()
    np.testing.assert_array_equal(np.sort(np.concatenate(held_out)), np.arange(len(data.store.arrays["train-labels"])))


def test_the_last_fold_may_be_a_single_image(ready):
    count = len(ready().store.arrays["train-labels"])
    data = ready(folds=count, fold=count - 1, val_size=0)
    assert data.sizes() == {"train": count - 1, "val": 0, "test": 1}
    assert len(joined(data.test_dataloader())[1]) == 1


def test_official_test_images_are_watched_only_where_that_is_allowed(ready):
    data = ready()
    if "test-labels" not in data.store.arrays:
        with pytest.raises(UserError, match=r"has no official test (image|row)s"):
            ready(watch_test=True)
        return
    watching = ready(watch_test=True)
    np.testing.assert_array_equal(watching.splits["val"].index, data.splits["test"].index)
    assert watching.splits["val"].part == "test"
    assert watching.sizes()["test"] == 0
    assert watching.test_dataloader() == []
    assert watching.sizes()["train"] == data.sizes()["train"] + data.sizes()["val"]
    torch.testing.assert_close(joined(watching.val_dataloader())[1], joined(data.test_dataloader())[1], rtol=0, atol=0)


@of_images
@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("test_size", [None, 0.25])
def test_images_and_labels_are_those_of_the_store(ready, make, split, test_size):
    data = ready(mean=values(make(), 0.0), std=values(make(), 1.0), test_size=test_size)
    part, index = data.splits[split].part, data.splits[split].index
    images, labels = joined(getattr(data, f"{split}_dataloader")())
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(pixels, data.store.arrays[f"{part}-images"][index])
    np.testing.assert_array_equal(labels, data.store.arrays[f"{part}-labels"][index])


def test_fewer_training_images_are_a_part_of_more_and_leave_the_other_splits_alone(ready):
    small, large, all_of_them = (ready(train_size=size) for size in (20, 0.7, None))
    assert set(small.train_index) < set(large.train_index) < set(all_of_them.train_index)
    for stage in ("val", "test"):
        for data in (small, large):
            np.testing.assert_array_equal(data.splits[stage].index, all_of_them.splits[stage].index)


def test_another_split_seed_chooses_other_images_for_every_split(ready):
    first, second = (ready(train_size=0.5, test_size=0.2, split_seed=seed) for seed in (0, 1))
    for stage in ("train", "val", "test"):
        assert first.splits[stage].index.tolist() != second.splits[stage].index.tolist()


def test_no_image_is_in_both_training_and_test(ready):
    data = ready()
    train, test = (
        {image.tobytes() for image in data.store.arrays[f"{split.part}-images"][split.index]}
        for split in (data.splits["train"], data.splits["test"])
    )
    assert train.isdisjoint(test)


def test_batches_have_the_promised_shapes_types_and_labels(ready):
    data = ready(batch_size=6)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        images, labels = next(iter(loader))
        assert images.shape == (6, *data.input_shape)
        assert labels.shape == (6,)
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    for split in (data.splits["train"], data.splits["test"]):
        labels = data.store.arrays[f"{split.part}-labels"][split.index]
        assert set(labels.tolist()) == set(range(data.num_classes))


@of_images
def test_the_images_trained_on_have_mean_0_and_deviation_1(ready):
    images = joined(ready(batch_size=10_000).train_dataloader())[0].double()
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(images.shape[1]).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        images.std((0, 2, 3), correction=0), torch.ones(images.shape[1]).double(), atol=1e-4, rtol=0
    )


@images_with_store
@pytest.mark.parametrize("workers", [0, 2])
def test_above_the_memory_budget_the_batches_are_the_same(ready, workers):
    augment = [HorizontalFlip(), RandomCrop(2), MixUp()]
    held, read = (ready(augment=augment, memory_budget=budget, workers=workers) for budget in (1, 0))
    for stage in ("train", "val", "test"):
        ours, theirs = (getattr(data, f"{stage}_dataloader")() for data in (held, read))
        assert isinstance(theirs.images, MappedImages)
        for (images, labels), (same, same_labels) in zip(ours, theirs, strict=True):
            assert torch.equal(images, same)
            assert torch.equal(labels, same_labels)


def test_without_validation_and_test_all_images_are_trained_on(ready):
    data = ready(val_size=0, test_size=0)
    assert data.val_dataloader() == data.test_dataloader() == []
    np.testing.assert_array_equal(data.train_index, np.arange(len(data.store.arrays["train-labels"])))
    assert len(joined(data.train_dataloader())[1]) == len(data.train_index)


@of_images
def test_given_statistics_are_used(ready, make):
    plain, own = (ready(mean=values(make(), mean), std=values(make(), std)) for mean, std in [(0.0, 1.0), (0.25, 0.5)])
    expected = (joined(plain.test_dataloader())[0] - 0.25) / 0.5
    torch.testing.assert_close(joined(own.test_dataloader())[0], expected)


def test_the_digest_is_the_same_for_the_same_data_and_no_other(ready, make, kind):
    if kind.item == "image":
        given = {"mean": values(make(), 0.5), "std": values(make(), 0.5)}
        normalized = [{**given, "mean": values(make(), 0.4)}, {**given, "std": values(make(), 0.4)}]
    else:
        given = {"scaling": "none"}
        normalized = [{**given, "encoding": "label"}, {"encoding": "label"}] if kind is Table else []
    same = [ready(**given, batch_size=size, seed=size).data_digest() for size in (3, 4)]
    assert same[0] == same[1]
    others = [
        {},
        {**given, "split_seed": 1},
        {**given, "val_size": 0.2},
        {**given, "val_size": 0},
        {**given, "test_size": 0.3},
        {**given, "test_size": 0},
        {**given, "train_size": 0.5},
        {**given, "train_size": 0.6},
        {**given, "folds": 5, "fold": 0},
        {**given, "folds": 5, "fold": 1},
        {**given, "folds": 5, "fold": 1, "fold_is": "val"},
        *normalized,
    ]
    assert len({same[0], *(ready(**arguments).data_digest() for arguments in others)}) == 1 + len(others)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, r"data\.batch_size is 0"),
        ({"val_size": -1}, r"data\.val_size is -1"),
        ({"val_size": -0.1}, r"data\.val_size is -0\.1"),
        ({"val_size": 1.0}, r"data\.val_size is 1\.0"),
        ({"test_size": -1}, r"data\.test_size is -1"),
        ({"test_size": 1.0}, r"data\.test_size is 1\.0"),
        ({"train_size": 0}, r"data\.train_size is 0"),
        ({"train_size": -0.5}, r"data\.train_size is -0\.5"),
        ({"train_size": 1.5}, r"data\.train_size is 1\.5"),
        ({"folds": 5}, r"data\.folds is 5, but data\.fold is not given"),
        ({"fold": 0}, r"data\.fold is 0, but data\.folds is not given"),
        ({"folds": 1, "fold": 0}, r"data\.folds is 1, expected 2 or more"),
        ({"folds": 5, "fold": 5}, r"data\.fold is 5, expected 0 to 4"),
        ({"folds": 5, "fold": -1}, r"data\.fold is -1, expected 0 to 4"),
        (
            {"folds": 5, "fold": 0, "test_size": 0},
            r"data\.test_size is 0, but the test (image|row)s are those of data\.fold 0",
        ),
        (
            {"folds": 5, "fold": 0, "fold_is": "val", "val_size": 0.1},
            r"data\.val_size is 0\.1, but the val (image|row)s",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make, arguments, message):
    with pytest.raises(UserError, match=message):
        make(**arguments)


@pytest.mark.parametrize("arguments", [{"val_size": 0}, {"test_size": 3}, {"folds": 5, "fold": 0}])
def test_the_official_test_set_is_no_validation_set_beside_another_one(make, arguments):
    name, value = next(iter(arguments.items()))
    with pytest.raises(UserError, match=rf"data\.{name} is {value}; remove one of the two"):
        make(**arguments).watch_test()


def test_splits_that_are_made_stay(ready):
    with pytest.raises(UserError, match="is split already"):
        ready().watch_test()


@of_images
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": [0.1, 0.2]}, r"data\.mean has 2 values, expected [13]"),
        ({"std": []}, r"data\.std has 0 values, expected [13]"),
        ({"statistics": "coco"}, r"data\.statistics is coco, expected train or imagenet"),
    ],
)
def test_statistics_of_other_channels_are_refused(make, arguments, message):
    with pytest.raises(UserError, match=message):
        make(**arguments)


@of_images
@pytest.mark.parametrize("stage", ["val", "test"])
def test_the_statistics_of_imagenet_are_torchvisions(ready, make, stage):
    data = ready(statistics="imagenet")
    preset = ResNet18_Weights.IMAGENET1K_V1.transforms()
    if data.input_shape[0] == 3:
        assert (data.mean, data.std) == (preset.mean, preset.std)
        return
    # A network for photographs sees a gray image as three equal channels.
    plain = joined(getattr(ready(mean=[0.0], std=[1.0]), f"{stage}_dataloader")())[0].expand(-1, 3, -1, -1)
    expected = functional.normalize(plain, preset.mean, preset.std)
    ours = joined(getattr(data, f"{stage}_dataloader")())[0].expand(-1, 3, -1, -1)
    assert abs(ours - expected).max() < 0.21
    torch.testing.assert_close(ours.mean(), expected.mean(), atol=0.005, rtol=0)


@of_images
def test_the_statistics_of_imagenet_make_the_digest_of_the_same_numbers(ready, make):
    named = ready(statistics="imagenet")
    assert named.data_digest() == ready(mean=named.mean, std=named.std).data_digest() != ready().data_digest()


@of_images
@pytest.mark.parametrize("name", ["mean", "std"])
def test_statistics_from_two_places_are_refused(make, name):
    with pytest.raises(UserError, match=rf"data\.statistics is imagenet but data\.{name} is given too"):
        make(statistics="imagenet", **{name: values(make(), 0.5)})


@with_store
def test_a_store_copied_to_another_machine_is_all_that_is_needed(kind, tmp_path, monkeypatch):
    arguments = DATASETS[kind](tmp_path / "files", monkeypatch)
    before = kind(**arguments, root=str(tmp_path / "here"))
    before.prepare_data()
    before.setup()
    (tmp_path / "there").mkdir()
    shutil.copytree(tmp_path / "here", tmp_path / "there" / "data")
    for name in ("here", "files"):
        if (tmp_path / name).exists():
            shutil.rmtree(tmp_path / name)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, lambda *args: pytest.fail("asked the network"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: pytest.fail("asked the network"))
    monkeypatch.setattr(kind, "write_store", lambda *args: pytest.fail("prepared again"))
    for offline in (True, False):
        data = kind(**arguments, root=str(tmp_path / "there" / "data"), offline=offline)
        data.prepare_data()
        data.setup()
        assert data.data_digest() == before.data_digest()
        assert data.class_names == before.class_names
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
            assert len(joined(loader)[1])


@of_images
@pytest.mark.parametrize("std", [0.0, -1.0])
def test_a_deviation_that_cannot_divide_is_refused(make, std):
    with pytest.raises(UserError, match=rf"data\.std is \[{std}"):
        make(std=values(make(), std))


def test_a_validation_part_larger_than_the_data_is_refused(ready):
    with pytest.raises(UserError, match=r"data\.val_size asks for 100000 "):
        ready(val_size=100_000)


def test_more_to_train_on_than_is_left_is_refused(ready):
    left = len(ready(val_size=20).train_index)
    with pytest.raises(UserError, match=rf"data\.train_size asks for {left + 1} of the {left} (image|row)s"):
        ready(val_size=20, train_size=left + 1)


def test_the_root_is_the_argument_else_the_variable_else_data(make, monkeypatch):
    monkeypatch.setenv("VISIONBENCH_DATA", "/from/variable")
    assert make(root="/from/argument").root == Path("/from/argument")
    assert make().root == Path("/from/variable")
    monkeypatch.delenv("VISIONBENCH_DATA")
    assert make().root == Path("data")


def test_the_statistics_are_exact(tiny):
    index = np.arange(0, 33, 2)
    mean, std = channel_statistics(tiny.arrays["train-images"], index)
    pixels = tiny.arrays["train-images"][index] / 255
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std((0, 1, 2)), rtol=1e-12)


def test_the_statistics_of_more_images_than_one_portion_are_exact(monkeypatch):
    monkeypatch.setattr(mapped, "CHUNK_BYTES", 5000)
    images = np.random.RandomState(0).randint(0, 256, (9001, 2, 1, 1)).astype(np.uint8)
    mean, std = channel_statistics(images, np.arange(9000))
    assert mean == pytest.approx([images[:9000].mean() / 255], rel=1e-12)
    assert std == pytest.approx([images[:9000].std() / 255], rel=1e-12)


def test_a_channel_without_contrast_does_not_divide_by_zero(tiny):
    tiny.arrays["train-images"][..., 1] = 51
    tiny.setup()
    images, _ = joined(tiny.train_dataloader())
    assert images.isfinite().all()
    assert images[:, 1].abs().max() < 1e-6


@pytest.mark.parametrize(("part", "same"), [("val", True), ("test", True), ("train", False)])
def test_statistics_come_from_the_images_trained_on_alone(tmp_path, part, same):
    data, changed = Tiny(root=str(tmp_path / "data")), Tiny(root=str(tmp_path / "changed"))
    data.setup()
    index = {"val": data.val_index, "train": data.train_index, "test": slice(None)}[part]
    changed.arrays["test-images" if part == "test" else "train-images"][index] //= 2
    changed.setup()
    assert ((changed.mean, changed.std) == (data.mean, data.std)) is same


@pytest.mark.parametrize("name", ["train-images", "train-labels", "test-images", "test-labels"])
def test_the_digest_differs_where_one_value_does(tmp_path, name):
    digests = []
    for change in (0, 1):
        data = Tiny(root=str(tmp_path / str(change)), mean=[0.5] * 3, std=[0.5] * 3)
        array = data.arrays[name].reshape(-1)
        array[0] = (array[0] + change) % 3
        data.setup()
        digests.append(data.data_digest())
    assert digests[0] != digests[1]


def test_one_given_statistic_leaves_the_other_to_the_data(tmp_path):
    data, own = Tiny(root=str(tmp_path)), Tiny(root=str(tmp_path), mean=[0.1, 0.2, 0.3])
    for each in (data, own):
        each.setup()
    assert own.mean == [0.1, 0.2, 0.3]
    assert own.std == data.std


@pytest.mark.parametrize("shape", [(2, 5, 7), (4, 5, 7), (11,)])
def test_the_statistics_of_imagenet_are_refused_for_what_is_neither_color_nor_grey(tmp_path, monkeypatch, shape):
    monkeypatch.setattr(Tiny, "input_shape", shape)
    with pytest.raises(UserError, match=rf"3 channels or 1, but Tiny has the shape {' x '.join(map(str, shape))}; "):
        Tiny(root=str(tmp_path), statistics="imagenet")


def test_a_second_setup_changes_nothing(tiny):
    tiny.setup("fit")
    before = tiny.store, tiny.mean, tiny.train_index
    tiny.setup("test")
    assert (tiny.store, tiny.mean, tiny.train_index) == before


def test_loaders_hold_copies_that_can_be_written_to(tiny, monkeypatch):
    monkeypatch.setattr(mapped, "CHUNK_BYTES", 5 * 3 * 5 * 7)
    tiny.setup()
    loader = tiny.test_dataloader()
    for tensor, name in ((loader.images, "test-images"), (loader.labels, "test-labels")):
        assert not np.shares_memory(tensor.numpy(), tiny.store.arrays[name])
    assert torch.equal(loader.images.permute(0, 2, 3, 1), torch.from_numpy(tiny.arrays["test-images"]))


def test_loaders_need_setup_first(tiny):
    for call in (tiny.test_dataloader, tiny.data_digest, tiny.sizes):
        with pytest.raises(RuntimeError, match=r"Tiny\.setup\(\) has not been called"):
            call()


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("train-labels", np.full(33, 3), "0 to 2"),
        ("train-labels", np.full(33, -1), "0 to 2"),
        ("test-labels", np.zeros(11, dtype=np.int64), r"expected int64 \(12\,\)"),
        ("train-labels", np.zeros(33, dtype=np.uint8), "expected int64"),
        ("train-images", np.zeros((33, 5, 7, 3), dtype=np.float32), "expected uint8"),
        ("train-images", np.zeros((33, 5, 7), dtype=np.uint8), "expected uint8"),
    ],
)
def test_arrays_that_would_mean_something_else_are_refused_and_not_kept(tmp_path, name, wrong, said):
    data = Tiny(root=str(tmp_path))
    data.arrays[name] = wrong
    with pytest.raises(UserError, match=said):
        data.setup()
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (
            lambda arrays, meta: arrays,
            "prepare_arrays returned dict, expected two dictionaries, the arrays by name",
        ),
        (lambda arrays, meta: (arrays, None), "prepare_arrays returned tuple, expected two dictionaries"),
        (lambda arrays, meta: ({}, meta), "gave no array as train-images, expected a NumPy array"),
        (
            lambda arrays, meta: (arrays | {"train-labels": [0] * 33}, meta),
            "gave list as train-labels, expected",
        ),
        (lambda arrays, meta: (arrays | {"val-labels": arrays["train-labels"]}, meta), "gave no array as val-images"),
        (
            lambda arrays, meta: (arrays | {"valid-images": arrays["train-images"]}, meta),
            "gave an array valid-images",
        ),
    ],
)
def test_what_a_class_should_not_return_is_refused_and_not_kept(tmp_path, monkeypatch, returned, said):
    prepared = Tiny.prepare_arrays
    monkeypatch.setattr(Tiny, "prepare_arrays", lambda data, downloads: returned(*prepared(data, downloads)))
    with pytest.raises(UserError, match=said):
        Tiny(root=str(tmp_path)).setup()
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize("augment", [[HorizontalFlip], HorizontalFlip(), ["HorizontalFlip"]])
def test_what_is_no_list_of_augmentations_is_refused(tmp_path, augment):
    with pytest.raises(UserError, match=r"data\.augment holds (HorizontalFlip|str), expected a list of augmentations"):
        Tiny(root=str(tmp_path), augment=augment)


def test_a_class_that_has_changed_never_opens_the_old_store(tmp_path, monkeypatch):
    Tiny(root=str(tmp_path)).prepare_data()
    monkeypatch.setattr(Tiny, "class_names", ("a", "b", "d"))
    with pytest.raises(UserError, match="delete the store"):
        Tiny(root=str(tmp_path)).prepare_data()


def test_classes_of_the_same_name_have_stores_of_their_own(tmp_path, monkeypatch):
    first = Tiny(root=str(tmp_path)).open_store().folder
    monkeypatch.setattr(Tiny, "__module__", "another_module")
    assert Tiny(root=str(tmp_path)).open_store().folder != first


OWN_BASE = """
import numpy as np
from visionbench.data import VisionDataModule

class Base(VisionDataModule):
    title, class_names, input_shape, gray = "Own", ("a", "b"), (1, 8, 8), {gray}
    from_command_line = False

    def prepare_arrays(self, downloads):
        images = np.full((40, 8, 8, 1), self.gray, np.uint8)
        return {{"train-images": images, "train-labels": np.arange(40) % 2}}, {{"source": "", "split": ""}}
"""


def gray_of(data):
    return int(data.open_store().arrays["train-images"][0, 0, 0, 0])


def test_a_base_in_another_file_that_has_changed_never_opens_the_old_store(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "own_data.py").write_text("from own_base import Base\n\nclass Own(Base):\n    more = 1\n")
    grays = []
    for gray in (10, 99):
        (tmp_path / "own_base.py").write_text(OWN_BASE.format(gray=gray))
        for name in ("own_base", "own_data"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        grays.append(gray_of(importlib.import_module("own_data").Own(root=str(tmp_path))))
    assert grays == [10, 99]


@pytest.mark.parametrize("changed", ["gray", "method"])
def test_a_class_in_a_notebook_that_has_changed_never_opens_the_old_store(tmp_path, changed):
    grays, folders = [], []
    for gray in (10, 10, 99):
        source = OWN_BASE.format(gray=gray)
        if changed == "method":
            source = OWN_BASE.format(gray=0).replace("self.gray", str(gray))
        notebook = {"__name__": "a_notebook"}  # a module without a file
        exec(source, notebook)
        data = notebook["Base"](root=str(tmp_path))
        grays.append(gray_of(data))
        folders.append(data.store_folder())
    assert grays == [10, 10, 99]
    assert folders[0] == folders[1]


def test_a_class_with_two_parents_never_opens_the_store_of_another_one(tmp_path):
    class Hook:
        def train_dataloader(self):
            return super().train_dataloader()

    class Gray(Hook, Digits):
        from_command_line = False

    class Noise(Hook, Letters):
        from_command_line = False

    Gray(root=str(tmp_path)).prepare_data()
    data = Noise(root=str(tmp_path))
    data.setup()
    assert data.store.meta["source"] == "noise"
