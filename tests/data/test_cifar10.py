import pickle
import shutil

import numpy as np
import pytest

from tests.fakes import cifar10_contents, python2_pickle, write_cifar10
from visionbench.data import CIFAR10, cifar10, sources
from visionbench.errors import UserError

pytestmark = pytest.mark.fast


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "ORIGIN", write_cifar10(tmp_path / "files"))
    return tmp_path / "files"


def test_pixels_and_labels_arrive_exactly(files, tmp_path):
    store = CIFAR10(root=str(tmp_path / "root"), source=str(files)).open_store()
    contents = cifar10_contents()
    for split, names in (("train", [f"data_batch_{n}" for n in range(1, 6)]), ("test", ["test_batch"])):
        rows = np.concatenate([contents[name][0] for name in names])
        images = store.arrays[f"{split}-images"]
        assert images.shape == (len(rows), 32, 32, 3)
        for channel in range(3):  # a row is its image's red pixels from left to right and top to bottom, then the green
            plane = rows[:, 1024 * channel : 1024 * (channel + 1)].reshape(-1, 32, 32)
            np.testing.assert_array_equal(images[..., channel], plane)
        np.testing.assert_array_equal(
            store.arrays[f"{split}-labels"], np.concatenate([contents[name][1] for name in names])
        )


def test_a_store_copied_to_another_root_needs_neither_source_nor_network(files, tmp_path):
    CIFAR10(root=str(tmp_path / "root"), source=str(files)).prepare_data()
    shutil.move(tmp_path / "root", tmp_path / "elsewhere")
    shutil.rmtree(files)
    data = CIFAR10(root=str(tmp_path / "elsewhere"), offline=True)
    data.setup()
    assert data.sizes() == {"train": 90, "val": 10, "test": 20}


@pytest.mark.parametrize("cut", [slice(0, -1), slice(0, 100), slice(0, 0)])
def test_an_archive_cut_short_is_refused(files, tmp_path, cut):
    path = files / cifar10.ARCHIVE
    path.write_bytes(path.read_bytes()[cut])
    with pytest.raises(UserError, match=rf"CIFAR-10 .*{files}: cifar-10-python\.tar\.gz is damaged"):
        CIFAR10(root=str(tmp_path / "root"), source=str(files)).prepare_data()
    assert not list((tmp_path / "root" / "CIFAR10").glob("*/"))


@pytest.mark.parametrize("small", [0, 2**20])
def test_another_archive_is_not_taken_for_what_is_prepared(files, tmp_path, monkeypatch, small):
    monkeypatch.setattr(sources, "SMALL_FILE", small)  # the official archive is larger, so that its size tells
    root = str(tmp_path / "root")
    CIFAR10(root=root, source=str(files)).prepare_data()
    CIFAR10(root=root, source=str(files)).prepare_data()
    (files / cifar10.ARCHIVE).write_bytes(b"another archive")
    with pytest.raises(UserError, match=r"does not hold CIFAR-10: cifar-10-python\.tar\.gz (has 15 bytes|is damaged)"):
        CIFAR10(root=root, source=str(files)).prepare_data()


def test_a_source_without_the_archive_is_refused_by_its_name(tmp_path):
    with pytest.raises(UserError, match=r"it has no cifar-10-python\.tar\.gz; correct it"):
        CIFAR10(root=str(tmp_path / "root"), source=str(tmp_path)).prepare_data()


def test_without_source_and_network_it_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"run once without offline.* holds cifar-10-python\.tar\.gz with --data\.sou"):
        CIFAR10(root=str(tmp_path / "root"), offline=True).prepare_data()


@pytest.mark.parametrize("maker", ["posix\nsystem", "builtins\neval", "numpy\nload", "numpy.core.multiarray\nfromfile"])
def test_a_pickle_that_calls_anything_else_is_refused(tmp_path, monkeypatch, maker):
    contents = {f"data_batch_{n}": python2_pickle(np.zeros((1, 3072), np.uint8), [0], maker) for n in range(1, 6)}
    monkeypatch.setattr(cifar10, "ORIGIN", write_cifar10(tmp_path / "files", contents))
    with pytest.raises(pickle.UnpicklingError, match="has no place in"):
        CIFAR10(root=str(tmp_path / "root"), offline=True).prepare_data()


def test_the_fake_is_a_pickle_as_python_reads_it():
    rows, labels = cifar10_contents()["test_batch"]
    content = pickle.loads(python2_pickle(rows, labels), encoding="bytes")
    assert set(content) == {b"batch_label", b"labels", b"data"}
    np.testing.assert_array_equal(content[b"data"], rows)
    assert content[b"labels"] == labels


def test_the_official_archive_is_asked_for_by_its_size():
    (file,) = cifar10.ORIGIN.files
    assert (file.name, file.size, file.is_archive) == (cifar10.ARCHIVE, 170_498_071, True)
