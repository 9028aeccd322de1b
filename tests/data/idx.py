"""What data sets of IDX files have to pass; their test files give the fixture `data_set`: class and module."""

import shutil

import numpy as np
import pytest

from tests.fakes import idx_contents, write_idx
from visionbench.errors import UserError


@pytest.fixture
def kind(data_set):
    return data_set[0]


@pytest.fixture
def module(data_set):
    return data_set[1]


@pytest.fixture(params=[True, False], ids=["gz", "plain"])
def files(request, module, tmp_path, monkeypatch):
    folder = tmp_path / "files"
    monkeypatch.setattr(module, "ORIGIN", write_idx(folder, compressed=request.param))
    return folder


def assert_is_the_fake(store):
    for name, raw in (("train", "train"), ("test", "t10k")):
        content = idx_contents()
        images, labels = store.arrays[f"{name}-images"], store.arrays[f"{name}-labels"]
        assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
        np.testing.assert_array_equal(images, content[f"{raw}-images-idx3-ubyte"][..., np.newaxis])
        np.testing.assert_array_equal(labels, content[f"{raw}-labels-idx1-ubyte"])


def test_pixels_and_labels_arrive_exactly(files, kind, tmp_path):
    assert_is_the_fake(kind(root=str(tmp_path / "root"), source=str(files)).open_store())


def test_a_source_in_the_home_folder_is_found(files, kind, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert_is_the_fake(kind(root=str(tmp_path / "root"), source=f"~/{files.name}").open_store())


def test_other_files_of_the_same_names_are_not_taken_for_what_is_prepared(files, kind, tmp_path):
    root = str(tmp_path / "root")
    kind(root=root, source=str(files)).prepare_data()
    kind(root=root, source=str(files)).prepare_data()
    kind(root=root, source=str(tmp_path / "nothing")).prepare_data()
    other = tmp_path / "other"
    shutil.copytree(files, other)
    (other / "t10k-labels-idx1-ubyte.gz").unlink(missing_ok=True)
    (other / "t10k-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 20]) + bytes(20))
    with pytest.raises(
        UserError, match=r"other does not hold .*: t10k-labels-idx1-ubyte.* is damaged, expected 28 bytes"
    ):
        kind(root=root, source=str(other)).prepare_data()


def test_the_source_is_only_read(files, kind, tmp_path):
    before = {path.name: path.read_bytes() for path in files.iterdir()}
    kind(root=str(tmp_path / "root"), source=str(files)).prepare_data()
    assert {path.name: path.read_bytes() for path in files.iterdir()} == before


def test_a_store_copied_to_another_root_needs_neither_source_nor_network(files, kind, module, tmp_path, monkeypatch):
    kind(root=str(tmp_path / "root"), source=str(files)).prepare_data()
    shutil.copytree(tmp_path / "root", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "root")
    shutil.rmtree(files)
    monkeypatch.setattr(module, "fetch", lambda *args, **kwargs: pytest.fail("fetched"))
    assert_is_the_fake(kind(root=str(tmp_path / "elsewhere")).open_store())


def test_a_source_with_other_content_is_refused(files, kind, tmp_path):
    for path in files.glob("t10k-images*"):
        path.unlink()
    (files / "t10k-images-idx3-ubyte").write_bytes(bytes(16 + 20 * 784))
    with pytest.raises(UserError, match=rf"{kind.title} .*{files}: t10k-images-idx3-ubyte\.gz is damaged"):
        kind(root=str(tmp_path / "root"), source=str(files)).prepare_data()
    assert list((tmp_path / "root" / kind.__name__).glob("*/")) == []


def test_without_source_and_network_it_says_what_to_do(files, kind, tmp_path):
    shutil.rmtree(files)
    with pytest.raises(UserError, match=r"run once without offline.* with --data\.source"):
        kind(root=str(tmp_path / "root"), offline=True).prepare_data()


def test_the_official_files_hold_60_000_and_10_000_images(module):
    sizes = {file.plain_name: file.size for file in module.ORIGIN.files}
    assert sizes == {
        "train-images-idx3-ubyte": 16 + 60_000 * 28 * 28,
        "train-labels-idx1-ubyte": 8 + 60_000,
        "t10k-images-idx3-ubyte": 16 + 10_000 * 28 * 28,
        "t10k-labels-idx1-ubyte": 8 + 10_000,
    }
