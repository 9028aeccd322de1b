"""What every data set promises; a new one is added to `DATASETS` and nothing else."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch

import visionbench.data
from tests.fakes import Tiny, write_fashion_mnist
from visionbench.data import Digits, FashionMNIST, VisionDataModule, fashion_mnist
from visionbench.data.base import channel_statistics
from visionbench.errors import UserError

DATASETS = [Digits, FashionMNIST]


@pytest.fixture(scope="module")
def root(digits_root, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fashion_mnist, "ORIGIN", write_fashion_mnist(tmp_path_factory.mktemp("files")))
        yield str(digits_root)


@pytest.fixture(params=DATASETS)
def kind(request):
    return request.param


@pytest.fixture
def ready(kind, root):
    def build(**arguments):
        data = kind(root=root, **arguments)
        data.prepare_data()
        data.setup()
        return data

    return build


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


def test_classes_and_shape_are_known_before_anything_is_prepared(kind, tmp_path):
    data = kind(root=str(tmp_path))
    assert data.num_classes == len(kind.class_names) == len(set(kind.class_names)) > 1
    assert all(isinstance(name, str) and name for name in kind.class_names)
    assert len(kind.input_shape) == 3
    assert all(isinstance(length, int) and length > 0 for length in kind.input_shape)
    assert kind.title
    assert list(tmp_path.iterdir()) == []


def test_the_docstring_is_a_data_sheet(kind):
    for word in ("Images", "Classes", "Split", "Source", "Licence"):
        assert f"{word}: " in kind.__doc__


def test_the_store_says_where_the_data_are_from(ready, kind):
    meta = ready().store.meta
    assert meta["dataset"] == kind.__name__
    assert meta["class_names"] == list(kind.class_names)
    assert all(meta[name] for name in ("source", "licence", "split"))


def test_training_and_validation_share_the_training_images(ready):
    data = ready(val_size=0.2)
    total = len(data.store.arrays["train-labels"])
    np.testing.assert_array_equal(np.sort(np.concatenate([data.train_index, data.val_index])), np.arange(total))
    sizes = {
        "train": total - round(0.2 * total),
        "val": round(0.2 * total),
        "test": len(data.store.arrays["test-labels"]),
    }
    assert data.sizes() == sizes
    loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    assert [len(joined(loader)[1]) for loader in loaders] == list(sizes.values())


@pytest.mark.parametrize("split", ["val", "test"])
def test_images_and_labels_are_those_of_the_store(ready, split):
    data = ready(mean=[0.0], std=[1.0])
    part, index = ("train", data.val_index) if split == "val" else ("test", slice(None))
    images, labels = joined(getattr(data, f"{split}_dataloader")())
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(pixels, data.store.arrays[f"{part}-images"][index])
    np.testing.assert_array_equal(labels, data.store.arrays[f"{part}-labels"][index])


def test_no_image_is_in_both_training_and_test(ready):
    arrays = ready().store.arrays
    train, test = ({image.tobytes() for image in arrays[f"{split}-images"]} for split in ("train", "test"))
    assert train.isdisjoint(test)


def test_batches_have_the_promised_shapes_types_and_labels(ready):
    data = ready(batch_size=6)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        images, labels = next(iter(loader))
        assert images.shape == (6, *data.input_shape)
        assert labels.shape == (6,)
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    for split in ("train", "test"):
        assert set(data.store.arrays[f"{split}-labels"].tolist()) == set(range(data.num_classes))


def test_the_images_trained_on_have_mean_0_and_deviation_1(ready):
    images = joined(ready(batch_size=10_000).train_dataloader())[0].double()
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(images.shape[1]).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        images.std((0, 2, 3), correction=0), torch.ones(images.shape[1]).double(), atol=1e-4, rtol=0
    )


def test_without_validation_all_images_are_trained_on(ready):
    data = ready(val_size=0)
    assert data.val_dataloader() == []
    np.testing.assert_array_equal(data.train_index, np.arange(len(data.store.arrays["train-labels"])))
    assert len(joined(data.train_dataloader())[1]) == len(data.train_index)


def test_given_statistics_are_used(ready):
    plain, own = ready(mean=[0.0], std=[1.0]), ready(mean=[0.25], std=[0.5])
    expected = (joined(plain.test_dataloader())[0] - 0.25) / 0.5
    torch.testing.assert_close(joined(own.test_dataloader())[0], expected)


def test_the_digest_is_the_same_for_the_same_data_and_no_other(ready):
    given = {"mean": [0.5], "std": [0.5]}
    same = [ready(**given, batch_size=size, seed=size).data_digest() for size in (3, 4)]
    assert same[0] == same[1]
    others = [
        {},
        {**given, "split_seed": 1},
        {**given, "val_size": 0.2},
        {**given, "mean": [0.4]},
        {**given, "std": [0.4]},
    ]
    assert len({same[0], *(ready(**arguments).data_digest() for arguments in others)}) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, r"data\.batch_size is 0"),
        ({"val_size": -1}, r"data\.val_size is -1"),
        ({"val_size": -0.1}, r"data\.val_size is -0\.1"),
        ({"val_size": 1.0}, r"data\.val_size is 1\.0"),
        ({"mean": [0.1, 0.2]}, r"data\.mean has 2 values, expected 1"),
        ({"std": []}, r"data\.std has 0 values, expected 1"),
        ({"std": [0.0]}, r"data\.std is \[0\.0\]"),
        ({"std": [-1.0]}, r"data\.std is \[-1\.0\]"),
    ],
)
def test_what_makes_no_sense_is_refused(kind, arguments, message):
    with pytest.raises(UserError, match=message):
        kind(**arguments)


def test_a_validation_part_larger_than_the_data_is_refused(ready):
    with pytest.raises(UserError, match=r"data\.val_size asks for 100000 "):
        ready(val_size=100_000)


def test_the_root_is_the_argument_else_the_variable_else_data(kind, monkeypatch):
    monkeypatch.setenv("VISIONBENCH_DATA", "/from/variable")
    assert kind(root="/from/argument").root == Path("/from/argument")
    assert kind().root == Path("/from/variable")
    monkeypatch.delenv("VISIONBENCH_DATA")
    assert kind().root == Path("data")


def test_the_statistics_are_exact(tiny):
    index = np.arange(0, 33, 2)
    mean, std = channel_statistics(tiny.arrays["train-images"], index)
    pixels = tiny.arrays["train-images"][index] / 255
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std((0, 1, 2)), rtol=1e-12)


def test_the_statistics_of_more_images_than_one_portion_are_exact():
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


def test_a_second_setup_changes_nothing(tiny):
    tiny.setup("fit")
    before = tiny.store, tiny.mean, tiny.train_index
    tiny.setup("test")
    assert (tiny.store, tiny.mean, tiny.train_index) == before


def test_loaders_hold_copies_that_can_be_written_to(tiny):
    tiny.setup()
    loader = tiny.test_dataloader()
    for tensor, name in ((loader.images, "test-images"), (loader.labels, "test-labels")):
        assert not np.shares_memory(tensor.numpy(), tiny.store.arrays[name])


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


def test_a_class_that_has_changed_never_opens_the_old_store(tmp_path, monkeypatch):
    Tiny(root=str(tmp_path)).prepare_data()
    monkeypatch.setattr(Tiny, "class_names", ("a", "b", "d"))
    with pytest.raises(UserError, match="delete the store"):
        Tiny(root=str(tmp_path)).prepare_data()


def test_classes_of_the_same_name_have_stores_of_their_own(tmp_path):
    Other = type("Tiny", (Tiny,), {"__module__": "tests.test_runs"})
    stores = {kind(root=str(tmp_path)).open_store().folder for kind in (Tiny, Other)}
    assert len(stores) == 2
