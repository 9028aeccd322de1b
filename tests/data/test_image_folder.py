import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.fakes import write_images
from visionbench.data import ImageFolder, image_folder
from visionbench.errors import UserError


@pytest.fixture
def source(tmp_path):
    return write_images(tmp_path / "source", {f"{s}/{c}": n for s, n in [("train", 6), ("test", 2)] for c in "ab"})


@pytest.fixture
def folder(tmp_path):
    """Makes an ImageFolder of a source, at the images' own size."""

    def make(source, **arguments):
        return ImageFolder(**{"source": str(source), "size": [8, 9], "root": str(tmp_path / "root")} | arguments)

    return make


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def stores(tmp_path):
    return sorted(path.parent for path in (tmp_path / "root" / "ImageFolder").glob("*/meta.json"))


def assert_holds(store, split, files):
    """Whether a split of the store is these files, in this order, labeled by their folders."""
    np.testing.assert_array_equal(store.arrays[f"{split}-images"], [pixels(path) for path in files])
    names = store.meta["class_names"]
    labels = [next(names.index(part) for part in reversed(path.parts) if part in names) for path in files]
    np.testing.assert_array_equal(store.arrays[f"{split}-labels"], labels)


def test_images_that_were_decoded_by_earlier_rules_are_prepared_again(tmp_path, source, folder, monkeypatch, capsys):
    with monkeypatch.context() as earlier:
        earlier.setattr(image_folder, "DECODING", image_folder.DECODING - 1)
        folder(source).setup()
    first = stores(tmp_path)
    capsys.readouterr()
    folder(source).setup()
    assert "prepared 16 images" in capsys.readouterr().out
    assert set(first) < set(stores(tmp_path))
    folder(source).setup()
    assert "prepared" not in capsys.readouterr().out


# Layouts


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING"])
@pytest.mark.parametrize(("val", "test"), [("val", "test"), ("valid", "Test"), ("Validation", "testing")])
def test_splits_above_classes(tmp_path, folder, train, val, test):
    splits = {"train": (train, 5), "val": (val, 2), "test": (test, 3)}
    source = write_images(tmp_path / "s", {f"{name}/{c}": n for name, n in splits.values() for c in ("dog", "cat")})
    data = folder(source)
    assert data.class_names == ("cat", "dog")
    data.setup()
    for split, (name, _) in splits.items():
        assert_holds(data.store, split, sorted((source / name).glob("*/*")))
    assert data.sizes() == {"train": 10, "val": 4, "test": 6}


def test_splits_within_classes(tmp_path, folder):
    counts = {f"{c}/{name}": n for name, n in [("Train", 5), ("Test", 3)] for c in ("dog", "cat")}
    source = write_images(tmp_path / "s", counts)
    data = folder(source, val_size=2)
    data.setup()
    assert data.class_names == ("cat", "dog")
    for split, name in [("train", "Train"), ("test", "Test")]:
        assert_holds(data.store, split, sorted(source.glob(f"*/{name}/*")))
    assert data.sizes() == {"train": 8, "val": 2, "test": 6}


def test_classes_alone_are_cut_into_all_three(tmp_path, folder):
    source = write_images(tmp_path / "s", {"dog": 10, "cat": 20, "ox": 10})
    data = folder(source)
    data.setup()
    assert set(data.store.arrays) == {"train-images", "train-labels", "train-names"}
    assert_holds(data.store, "train", sorted(source.glob("*/*")))
    assert data.sizes() == {"train": 29, "val": 3, "test": 8}
    test = data.store.arrays["train-labels"][data.splits["test"].index]
    assert np.bincount(test).tolist() == [4, 2, 2]


def test_a_class_may_be_called_train(tmp_path, folder):
    alone = folder(write_images(tmp_path / "alone", {"train": 5, "bus": 5}))
    assert alone.class_names == ("bus", "train")
    split = folder(
        write_images(tmp_path / "split", {f"{s}/{c}": 3 for s in ("train", "test") for c in ("bus", "train")})
    )
    assert split.class_names == ("bus", "train")
    split.setup()
    assert "test-images" in split.store.arrays


def test_an_official_split_gives_way_to_a_size(tmp_path, folder):
    source = write_images(tmp_path / "s", {f"{s}/{c}": n for s, n in [("train", 9), ("val", 2)] for c in "ab"})
    sizes = {"train": 18, "val": 4, "test": 0}
    for arguments, expected in [
        ({"test_size": 0}, sizes),
        ({"test_size": 0, "val_size": 0}, {**sizes, "val": 0}),
        ({"test_size": 2, "val_size": 6}, {"train": 10, "val": 6, "test": 2}),
    ]:
        data = folder(source, **arguments)
        data.setup()
        assert data.sizes() == expected


def test_official_splits_put_together_are_cut_anew(source, tmp_path, folder):
    folder(source).setup()
    data = folder(source, pool=True, folds=4, fold=0, val_size=0)
    data.setup()
    assert set(data.store.arrays) == {"train-images", "train-labels", "train-names"}
    assert_holds(data.store, "train", sorted(source.glob("train/*/*")) + sorted(source.glob("test/*/*")))
    assert data.sizes() == {"train": 12, "val": 0, "test": 4}
    assert len(stores(tmp_path)) == 2  # the other one keeps its own


def test_names_of_every_kind_are_read(tmp_path, folder):
    source = write_images(tmp_path / "s", {"a b.c": 2, "クラス": 2, "ünï": 2})
    (source / "a b.c" / "00.png").rename(source / "a b.c" / "new\nline.png")
    (source / "ünï" / "00.png").rename(os.fsdecode(os.fsencode(source / "ünï") + b"/\xff\xfe.png"))
    data = folder(source)
    data.prepare_data()
    assert data.class_names == ("a b.c", "ünï", "クラス")
    assert len(data.open_store().arrays["train-labels"]) == 6


def test_what_lies_beside_the_classes_is_not_read_and_said(source, folder, capsys):
    write_images(source, {"single_prediction": 1})
    (source / "README.txt").touch()
    (source / ".DS_Store").touch()
    (source / "train" / "a" / ".hidden.png").touch()
    (source / "train" / "a" / "Thumbs.db").touch()
    store = folder(source).open_store()
    assert "outside of the class folders, not read: README.txt, single_prediction\n" in capsys.readouterr().out
    assert store.meta["not_read"] == ["README.txt", "single_prediction"]
    assert len(store.arrays["train-labels"]) == 12


@pytest.mark.parametrize(
    ("counts", "unread"),
    [
        ({"train/a": 2, "train/b": 2, "train": 1}, ["train/00.png"]),
        ({"a/train": 2, "b/train": 2, "b/extra": 2, "a": 1}, ["a/00.png", "b/extra"]),
        ({"a/train": 2, "b/train": 2, "c/trained": 2}, ["c"]),
    ],
)
def test_what_lies_beside_the_classes_within_a_split_is_said_too(tmp_path, folder, capsys, counts, unread):
    data = folder(write_images(tmp_path / "s", counts))
    assert data.open_store().meta["not_read"] == unread
    assert f"outside of the class folders, not read: {', '.join(unread)}\n" in capsys.readouterr().out


def test_prepared_images_are_no_class_of_the_folder_that_is_worked_in(tmp_path, folder, monkeypatch):
    source = write_images(tmp_path / "s", {"cat": 6, "dog": 6})
    monkeypatch.chdir(source)
    for root in ("data", ".", "cat/data"):
        with pytest.raises(UserError, match=r"data.root .* lies among the class folders of .*; give another folder"):
            folder(".", root=root)
    assert sorted(path.name for path in source.iterdir()) == ["cat", "dog"]
    folder(".", root=".data").prepare_data()  # is ignored, as all names with a dot
    write_images(source, {f"train/{name}": 6 for name in ("cat", "dog")})
    folder(".", root="data").prepare_data()  # beside the splits
    folder(".", root="data").prepare_data()


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "holds no folders; expected train/CLASS/"),
        ({"a": 1}, r"holds 1 class folder for training \(a\), expected two or more"),
        ({"train/a": 1, "test/a": 1}, r"holds 1 class folder for training \(a\)"),
        (
            {"train/a": 1, "train/b": 1, "test/B": 1},
            r"test/B is of a class that train does not .* has a, b\)",
        ),
        ({"train/a": 1, "train/b": 1, "val/a": 1, "valid/a": 1}, "two folders for val, val and valid"),
        ({"train/a": 1, "train/b": 1, "test": 1}, "folder test of .* holds no class folders"),
        ({"test/a": 1, "test/b": 1, "val/a": 1}, "class folder .*test holds the folder a, expected only images"),
        ({"a/Train": 1, "b/Train": 1, "b/Test": 1, "c/Test": 1}, "c/Test is of a class that train does not have"),
        (
            {"train": 4, "test": 2},
            "folders test, train of .* hold no class folders, so that their images have no labels",
        ),
        ({"train": 4, "val": 2, "more": 2}, "folders train, val of .* hold no class folders"),
        ({"a/train": 2, "b": 2, "c/train": 2}, "/b holds images, but no folder of a split, expected one as in .*/a;"),
        ({"a/x": 1, "b": 1}, "class folder .*a holds the folder x, expected only images"),
        ({"a": 1, "b": 0}, "class folder .*b is empty"),
        ({"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 0}, "class folder .*test/b is empty"),
    ],
)
def test_a_folder_laid_out_otherwise_is_refused(tmp_path, folder, counts, message):
    source = write_images(tmp_path / "s", counts)
    source.mkdir(exist_ok=True)
    with pytest.raises(UserError, match=message) as refusal:
        folder(source).prepare_data()
    assert "\n" not in str(refusal.value)
    assert stores(tmp_path) == []


def test_a_class_whose_images_are_all_left_out_is_refused(source, tmp_path, folder):
    for path in (source / "test" / "b").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"class folder .*test/b holds no image that can be used"):
        folder(source, max_skipped=5).prepare_data()
    assert stores(tmp_path) == []


# Files that cannot be used


@pytest.fixture
def spoiled(source):
    """A source with three files that cannot be used, of 19."""
    (source / "train" / "a" / "zero.png").touch()
    (source / "train" / "b" / "text.png").write_text("text")
    path = source / "test" / "b" / "01.png"
    path.write_bytes(path.read_bytes()[:100])
    return source


def test_a_file_that_cannot_be_used_is_refused_by_name_and_reason(spoiled, tmp_path, folder):
    with pytest.raises(UserError, match=r"3 of the 18 files .* test/b/01\.png \(damaged .* --data\.max_skipped 3"):
        folder(spoiled).prepare_data()
    assert stores(tmp_path) == []


@pytest.mark.parametrize("limit", [3, 4, 0.17])
def test_up_to_the_limit_files_are_left_out_and_named(spoiled, folder, capsys, limit):
    data = folder(spoiled, max_skipped=limit)
    data.setup()
    reasons = {entry["file"]: entry["reason"].split(" (")[0] for entry in data.store.meta["skipped"]}
    assert reasons == {
        "test/b/01.png": "damaged",
        "train/a/zero.png": "empty",
        "train/b/text.png": "text, not an image; remove it",
    }
    assert "skipped: train/b/text.png: text, not an image" in capsys.readouterr().out
    assert_holds(data.store, "train", sorted(spoiled.glob("train/*/0*")))
    assert_holds(data.store, "test", [*sorted(spoiled.glob("test/a/*")), spoiled / "test" / "b" / "00.png"])


@pytest.mark.parametrize("limit", [2, 0.1])
def test_a_lower_limit_refuses_the_store_that_a_higher_one_made(spoiled, folder, limit):
    folder(spoiled, max_skipped=3).prepare_data()
    with pytest.raises(UserError, match=r"skips 3 of the files .*, but data\.max_skipped is"):
        folder(spoiled, max_skipped=limit).prepare_data()


def test_where_nothing_can_be_used_no_limit_is_offered(tmp_path, folder):
    source = write_images(tmp_path / "s", {"a": 1, "b": 1})
    with pytest.raises(UserError, match=r"None of the 2 files .*\(9 x 8 pixels, smaller than 10 x 10"):
        folder(source, size=10, resize="none").prepare_data()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_pipes_and_links_out_of_the_folder_are_not_followed(source, tmp_path, folder):
    outside = write_images(tmp_path / "outside", {"x": 1})
    (source / "train" / "a" / "out.png").symlink_to(outside / "x" / "00.png")
    (source / "train" / "a" / "dead.png").symlink_to("nowhere.png")
    os.mkfifo(source / "train" / "a" / "pipe.png")
    (source / "train" / "a" / "06.png").symlink_to("../../aside.png")
    Image.new("RGB", (9, 8)).save(source / "aside.png")
    data = folder(source, max_skipped=3)
    data.setup()
    assert data.store.meta["skipped"] == [
        {"file": "train/a/dead.png", "reason": "cannot be read (No such file or directory)"},
        {"file": "train/a/out.png", "reason": "a link that leads out of the folder"},
        {"file": "train/a/pipe.png", "reason": "not a file"},
    ]
    assert len(data.store.arrays["train-labels"]) == 13
    (source / "train" / "c").symlink_to(outside / "x")
    with pytest.raises(UserError, match="train/c is a link that leads out of"):
        folder(source)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="everything can be read by root")
def test_what_may_not_be_read_is_said(source, folder):
    (source / "train" / "a" / "00.png").chmod(0)
    with pytest.raises(UserError, match="Permission denied"):
        folder(source).prepare_data()


# Copies


@pytest.fixture
def copied(source):
    """A source with three copies: within a class, across classes, and of a test image among the training images."""
    shutil.copy(source / "train" / "a" / "00.png", source / "train" / "a" / "same.png")
    shutil.copy(source / "train" / "a" / "01.png", source / "train" / "b" / "other.png")
    shutil.copy(source / "test" / "a" / "00.png", source / "train" / "a" / "leak.png")
    return source


WITHIN = {"train/a/same.png"}
ACROSS = {"train/b/other.png", "train/a/leak.png"}


@pytest.mark.parametrize(
    ("duplicates", "kept"),
    [(None, WITHIN), ("keep", WITHIN | ACROSS), ("skip", set())],
)
def test_copies_are_named_and_kept_or_left_out(copied, folder, duplicates, kept):
    data = folder(copied, duplicates=duplicates, max_skipped=3)
    data.setup()
    assert {entry["file"] for entry in data.store.meta["copies"]} == kept
    assert {entry["file"] for entry in data.store.meta["skipped"]} == (WITHIN | ACROSS) - kept
    gone = {copied / name for name in (WITHIN | ACROSS) - kept}
    assert_holds(data.store, "train", [path for path in sorted(copied.glob("train/*/*")) if path not in gone])
    assert_holds(data.store, "test", sorted(copied.glob("test/*/*")))


def test_a_training_image_that_is_in_test_is_refused_unless_one_says_otherwise(copied, folder):
    with pytest.raises(UserError, match=r"2 of the 19 files .*\(the same bytes as .* or keep copies with --data\.dup"):
        folder(copied).prepare_data()


# The store


def test_other_settings_never_meet_an_old_store(source, tmp_path, folder):
    changes = [
        {},
        {"size": 8},
        {"size": [9, 8]},
        {"channels": 1},
        {"resize": "squash"},
        {"resize": "none"},
        {"resize": "none", "scale": 0.5},
        {"invert": True},
        {"duplicates": "keep"},
    ]
    for number, change in enumerate(changes, start=1):
        folder(source, **change).prepare_data()
        assert len(stores(tmp_path)) == number
    folder(source, max_skipped=3, batch_size=5, val_size=2).prepare_data()
    assert len(stores(tmp_path)) == number


def change_time(source):
    os.utime(source / "train" / "a" / "00.png", (1, 1))


def change_name(source):
    (source / "train" / "a" / "00.png").rename(source / "train" / "a" / "x.png")


def change_content(source):
    Image.new("RGB", (9, 8)).save(source / "train" / "a" / "00.png")


def add_a_file(source):
    Image.new("RGB", (9, 8)).save(source / "train" / "a" / "y.png")


def take_a_file(source):
    (source / "test" / "b" / "00.png").unlink()


def add_a_class(source):
    write_images(source, {"train/c": 1}, seed=1)


CHANGES = [change_time, change_name, change_content, add_a_file, take_a_file, add_a_class]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_source_is_prepared_again_and_said(source, tmp_path, folder, capsys, change):
    folder(source).prepare_data()
    change(source)
    capsys.readouterr()
    data = folder(source)
    data.setup()
    assert capsys.readouterr().out.count("has changed since it was prepared\n") == 1
    for split in ("train", "test"):
        assert_holds(data.store, split, sorted((source / split).glob("*/*")))
    assert len(stores(tmp_path)) == 1
    capsys.readouterr()
    folder(source).prepare_data()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("change", CHANGES[:-1], ids=lambda change: change.__name__)
def test_offline_a_changed_source_is_refused_and_the_store_stays(source, tmp_path, folder, change):
    folder(source).prepare_data()
    before = stores(tmp_path)[0].stat()
    change(source)
    with pytest.raises(UserError, match=r"has changed since it was prepared .*, and data\.offline is on"):
        folder(source, offline=True).prepare_data()
    assert stores(tmp_path)[0].stat() == before


def test_only_a_process_that_prepares_looks_at_the_files(source, folder, monkeypatch):
    folder(source).prepare_data()
    monkeypatch.setattr(image_folder, "list_files", lambda *args: pytest.fail("looked"))
    monkeypatch.setattr(image_folder.FromSource.setup.__globals__["rank_zero_only"], "rank", 1)
    data = folder(source)
    data.setup()
    assert data.sizes()["test"] == 4


def test_the_files_are_looked_at_before_and_after_they_are_prepared_and_once_to_open(source, folder, monkeypatch):
    looks = []
    list_files = image_folder.list_files
    monkeypatch.setattr(image_folder, "list_files", lambda *args: looks.append(1) or list_files(*args))
    data = folder(source)
    for _ in range(2):
        data.prepare_data()
        data.setup()
    assert len(looks) == 2
    data = folder(source)
    for _ in range(2):
        data.prepare_data()
        data.setup()
    assert len(looks) == 3


def test_a_store_copied_to_another_machine_needs_no_source(source, tmp_path, folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder("source").prepare_data()
    expected = folder("source")
    expected.setup()
    (tmp_path / "machine").mkdir()
    (tmp_path / "root").rename(tmp_path / "machine" / "root")
    shutil.rmtree(source)
    monkeypatch.chdir(tmp_path / "machine")
    data = ImageFolder(source="source", size=[8, 9], root="root")
    assert (data.class_names, data.input_shape) == (("a", "b"), (3, 8, 9))
    data.prepare_data()
    data.setup()
    assert data.data_digest() == expected.data_digest()
    with pytest.raises(UserError, match=r"data\.source source does not exist, and root has no store"):
        ImageFolder(source="source", size=[8, 8], root="root")
    with pytest.raises(UserError, match=r"data\.source other does not exist, and root has no store"):
        ImageFolder(source="other", size=[8, 9], root="root")


def test_a_source_of_the_same_text_elsewhere_is_said(tmp_path, folder, monkeypatch, capsys):
    write_images(tmp_path / "first" / "images", {"cat": 6, "dog": 6})
    (tmp_path / "second").mkdir()
    monkeypatch.chdir(tmp_path / "first")
    folder("images").prepare_data()
    shutil.move(tmp_path / "first", tmp_path / "moved")
    assert "note" not in capsys.readouterr().out
    monkeypatch.chdir(tmp_path / "second")
    folder("images").prepare_data()
    assert capsys.readouterr().out == (
        f"note: data.source images does not exist; what was prepared from {tmp_path / 'first' / 'images'}, which was "
        "given by the same text, is used\n"
    )


def test_of_two_stores_that_could_be_meant_none_is_chosen(tmp_path, folder, monkeypatch):
    for name in ("one", "two"):
        write_images(tmp_path / name / "source", {"a": 3, "b": 3})
        monkeypatch.chdir(tmp_path / name)
        folder("source").prepare_data()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="2 prepared stores come from a source of this name"):
        folder("source")


def test_a_source_that_is_a_file_is_refused(tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file is not a folder"):
        folder(tmp_path / "file")


@pytest.mark.parametrize("text", ["", "{}", "[]"])
def test_a_store_whose_meta_was_spoiled_is_refused_with_or_without_the_source(source, tmp_path, folder, text):
    folder(source).prepare_data()
    (stores(tmp_path)[0] / "meta.json").write_text(text)
    for _ in range(2):
        with pytest.raises(UserError, match=r"meta\.json .*delete"):
            folder(source).prepare_data()
        shutil.rmtree(source, ignore_errors=True)


def test_what_a_meta_no_longer_says_is_prepared_again(source, tmp_path, folder):
    folder(source).prepare_data()
    path = stores(tmp_path)[0] / "meta.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({name: meta[name] for name in ("schema", "arrays")}))
    assert folder(source).open_store().meta["class_names"] == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, r"data\.size is 0"),
        ({"size": [1, 2, 3]}, r"data\.size is \[1, 2, 3\]"),
        ({"size": [5, -1]}, r"data\.size is \[5, -1\]"),
        ({"channels": 2}, r"data\.channels is 2"),
        ({"scale": 0.0, "resize": "none"}, r"data\.scale is 0\.0"),
        ({"scale": 0.5}, r"data\.scale is 0\.5 but data\.resize is crop"),
        ({"max_skipped": -1}, r"data\.max_skipped is -1"),
        ({"max_skipped": 1.0}, r"data\.max_skipped is 1\.0"),
        ({"channels": 1, "mean": [0.5] * 3}, "data.mean has 3 values, expected 1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(source, folder, arguments, message):
    with pytest.raises(UserError, match=message):
        folder(source, **arguments)


# Several processes


def test_several_processes_decode_what_one_does(tmp_path, folder, monkeypatch):
    source = write_images(tmp_path / "s", {"a": 20, "b": 20})
    (source / "a" / "05.png").write_bytes(b"")
    monkeypatch.setattr(image_folder, "TASK_FILES", 7)
    alone = folder(source, max_skipped=1).open_store()
    monkeypatch.setattr(image_folder, "FEW_FILES", 0)
    monkeypatch.setattr(image_folder.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    together = folder(source, max_skipped=1, root=str(tmp_path / "other")).open_store()
    assert together.meta["arrays"] == alone.meta["arrays"]
    assert together.meta["skipped"] == alone.meta["skipped"]


class Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (1,)


def test_a_process_that_dies_is_a_message_and_leaves_nothing_behind(source, tmp_path, folder, monkeypatch):
    monkeypatch.setattr(image_folder, "FEW_FILES", 0)
    monkeypatch.setattr(image_folder, "decode_files", Deadly())
    monkeypatch.setattr(image_folder.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    with pytest.raises(UserError, match="ended unexpectedly"):
        folder(source).prepare_data()
    assert [path for path in (tmp_path / "root" / "ImageFolder").iterdir() if path.is_dir()] == []


def test_memory_does_not_grow_with_the_number_of_files(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(image_folder, "TASK_BYTES", 2**20)
    peaks = []
    for count in (4, 16):
        source = write_images(tmp_path / str(count), {"a": count, "b": count}, size=(4, 4))
        data = folder(source, size=300)
        tracemalloc.start()
        data.prepare_data()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert 2 * peaks[1] < 32 * 300 * 300 * 3  # all images are 8.6 MB
    assert peaks[1] < 1.5 * peaks[0]


KILLED = """
import sys
from visionbench.data import ImageFolder, image_folder

decode_files = image_folder.decode_files
image_folder.TASK_FILES = 3

def slow(paths, recipe):
    if "train" in paths[0]:
        print("decoding", flush=True)
        sys.stdin.read()
    return decode_files(paths, recipe)

image_folder.decode_files = slow
ImageFolder(source=sys.argv[1], size=[8, 9], root=sys.argv[2]).prepare_data()
"""


@pytest.mark.slow
def test_a_process_killed_while_preparing_leaves_no_store_and_the_next_prepares(source, tmp_path, folder):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(source), str(tmp_path / "root")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().startswith("preparing")
    assert process.stdout.readline() == "decoding\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert stores(tmp_path)[1:] == []
    data = folder(source)
    data.setup()
    assert_holds(data.store, "train", sorted(source.glob("train/*/*")))
    assert [path.name for path in Path(data.store.folder).parent.iterdir() if path.is_dir()] == [data.store.folder.name]


def test_a_folder_trains_from_the_command_line(source, cli):
    line = f"fit --model MLP --data ImageFolder --data.source {source} --trainer.max_epochs 1 --data.val_size 4"
    done = cli(f"{line} --data.size 8")
    assert done.status == 0, done.err
    assert "source: 8 train, 4 validation, 4 test images of 3 x 8 x 8, 2 classes" in done.out
    assert "source" in cli("fit --model MLP --data ImageFolder --data.size 8").refusal()
    assert "size" in cli(line).refusal()
    (source / "test" / "c").mkdir()
    assert "is of a class that train does not have" in cli(f"{line} --data.size 8").refusal()
