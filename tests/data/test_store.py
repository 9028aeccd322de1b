import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from visionbench.data import store
from visionbench.data.store import open_or_prepare, open_or_write, store_key
from visionbench.errors import UserError

pytestmark = pytest.mark.fast

RANDOM = np.random.RandomState(0)
CONTENT = {
    "train-images": RANDOM.randint(0, 256, (6, 5, 4, 3)).astype(np.uint8),
    "train-labels": np.arange(6),
    "test-images": RANDOM.randint(0, 256, (2, 5, 4, 3)).astype(np.uint8),
    "test-labels": np.arange(2),
}
ARRAYS = tuple(CONTENT)


def prepare():
    return CONTENT, {"source": "noise"}


def never():
    pytest.fail("prepared although there is a store")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "root" / "Set" / "0123456789abcdef"


@pytest.fixture
def prepared(folder):
    open_or_prepare(folder, prepare)
    return folder


def change_meta(folder, change):
    path = folder / "meta.json"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))


def folders_beside(folder):
    return [path.name for path in folder.parent.iterdir() if path.is_dir()]


def test_arrays_come_back_byte_for_byte_and_memory_mapped(folder):
    opened = open_or_prepare(folder, prepare)
    assert set(opened.arrays) == set(ARRAYS)
    for name, array in CONTENT.items():
        assert isinstance(opened.arrays[name], np.memmap)
        assert not opened.arrays[name].flags.writeable
        assert opened.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(opened.arrays[name], array)
    assert opened.meta["source"] == "noise"


def test_digests_tell_samples_apart_and_lie_beside_their_array(folder, monkeypatch):
    images = np.concatenate([CONTENT["train-images"], CONTENT["train-images"][:2]])
    opened = open_or_prepare(folder, lambda: (CONTENT | {"train-images": images, "train-labels": np.arange(8)}, {}))
    digests = np.load(folder / "train-digests.npy")
    assert digests[:2].tolist() == digests[6:].tolist()
    assert len(set(digests.tolist())) == 6
    with monkeypatch.context() as patch:
        patch.setattr(store, "digests_of_rows", lambda array: never())
        assert np.array_equal(store.sample_digests(opened, "train"), digests)
    (folder / "train-digests.npy").unlink()  # as in the store of an earlier version
    assert np.array_equal(store.sample_digests(opened, "train"), digests)
    assert np.array_equal(np.load(folder / "train-digests.npy"), digests)
    (folder / "train-digests.npy").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"train-digests.npy cannot be read \(.*\); delete this file"):
        store.sample_digests(opened, "train")


def test_arrays_that_are_not_contiguous_come_back_too(folder):
    turned = {name: np.asfortranarray(array)[::-1] for name, array in CONTENT.items()}
    opened = open_or_prepare(folder, lambda: (turned, {}))
    for name in ARRAYS:
        np.testing.assert_array_equal(opened.arrays[name], CONTENT[name][::-1])


@pytest.mark.parametrize("pieces", [(), (0,), (6,), (1, 2, 3), (2, 0, 4)])
def test_an_array_written_in_pieces_is_the_same_file(folder, tmp_path, pieces):
    images = CONTENT["train-images"][: sum(pieces)]

    def write(writer):
        with writer.stream_array("train-images", (5, 4, 3), np.uint8) as append:
            for start, stop in itertools.pairwise(np.cumsum((0, *pieces))):
                append(images[start:stop])
        writer.save("train-labels", np.arange(len(images)))
        return {"source": "noise"}

    opened = open_or_write(folder, write)
    np.testing.assert_array_equal(opened.arrays["train-images"], images)
    whole = open_or_prepare(
        tmp_path / "whole", lambda: ({"train-images": images, "train-labels": np.arange(len(images))}, {})
    )
    assert opened.meta["arrays"] == whole.meta["arrays"]


def test_a_failure_between_two_pieces_leaves_nothing_behind(folder):
    def write(writer):
        with writer.stream_array("train-images", (5, 4, 3), np.uint8) as append:
            append(CONTENT["train-images"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_or_write(folder, write)
    assert folders_beside(folder) == []


@pytest.mark.parametrize("splits", [("train",), ("train", "val"), ("train", "val", "test")])
def test_a_store_has_the_splits_that_are_official(folder, splits):
    arrays = {f"{split}-{kind}": CONTENT[f"test-{kind}"] for split in splits for kind in ("images", "labels")}
    assert set(open_or_prepare(folder, lambda: (arrays, {})).arrays) == set(arrays)


def test_an_old_store_is_replaced_and_whoever_has_opened_it_keeps_it(prepared):
    opened = open_or_prepare(prepared, never)
    new = {**CONTENT, "test-labels": CONTENT["test-labels"] + 5}

    def write(writer):
        assert prepared.exists()  # until the new one is whole
        for name, array in new.items():
            writer.save(name, array)
        return {"source": "new"}

    replaced = open_or_write(prepared, write, lambda meta: meta["source"] == "noise")
    assert replaced.meta["source"] == "new"
    np.testing.assert_array_equal(replaced.arrays["test-labels"], new["test-labels"])
    np.testing.assert_array_equal(opened.arrays["test-labels"], CONTENT["test-labels"])
    assert folders_beside(prepared) == [prepared.name]


def test_an_old_store_stays_where_the_new_one_cannot_be_made(prepared):
    def fail(writer):
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        open_or_write(prepared, fail, lambda meta: True)
    assert open_or_prepare(prepared, never).meta["source"] == "noise"
    assert folders_beside(prepared) == [prepared.name]


def test_a_store_that_is_replaced_while_it_is_opened_is_not_mixed_of_two(prepared, monkeypatch):
    load = np.load

    def replace_first(path, **kwargs):
        monkeypatch.setattr(np, "load", load)
        new = {name: array + 1 for name, array in CONTENT.items()}
        open_or_write(
            prepared, lambda writer: [writer.save(*item) for item in new.items()] and {}, lambda meta: "source" in meta
        )
        return load(path, **kwargs)

    before = open_or_prepare(prepared, never)
    monkeypatch.setattr(np, "load", replace_first)
    opened = open_or_prepare(prepared, never)
    assert opened.meta != before.meta
    for name in ARRAYS:
        np.testing.assert_array_equal(opened.arrays[name], CONTENT[name] + 1)


def test_what_is_prepared_is_opened_without_preparing_again(prepared):
    np.testing.assert_array_equal(open_or_prepare(prepared, never).arrays["train-images"], CONTENT["train-images"])


def test_the_sums_in_the_meta_depend_on_the_content_alone(tmp_path):
    other = {**CONTENT, "test-labels": CONTENT["test-labels"] + 1}
    first, again, changed = (
        open_or_prepare(tmp_path / name, lambda arrays=arrays: (arrays, {})).meta["arrays"]
        for name, arrays in [("a", CONTENT), ("b", CONTENT), ("c", other)]
    )
    assert first == again
    assert first["test-labels"] != changed["test-labels"]


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("length", [-1, 100, 3, 0])
def test_an_array_cut_short_is_refused_by_name(prepared, name, length):
    path = prepared / f"{name}.npy"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=rf"{name}\.npy .*delete {prepared} "):
        open_or_prepare(prepared, never)


@pytest.mark.parametrize("name", ARRAYS)
def test_a_missing_array_is_refused_by_name(prepared, name):
    (prepared / f"{name}.npy").unlink()
    with pytest.raises(UserError, match=rf"{name}\.npy .*delete {prepared} "):
        open_or_prepare(prepared, never)


@pytest.mark.parametrize("other", [np.zeros((7, 5, 4, 3), np.uint8), np.zeros((6, 5, 4, 3), np.int8)])
def test_an_array_unlike_what_the_meta_says_is_refused_by_name(prepared, other):
    np.save(prepared / "train-images.npy", other)
    with pytest.raises(UserError, match=rf"train-images\.npy .*delete {prepared} "):
        open_or_prepare(prepared, never)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"schema": 1}', b"\xff\xfe"])
def test_a_meta_that_is_not_ours_is_refused_by_name(prepared, text):
    (prepared / "meta.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=rf"meta\.json .*delete {prepared} "):
        open_or_prepare(prepared, never)


def test_a_missing_meta_is_refused_by_name(prepared):
    (prepared / "meta.json").unlink()
    with pytest.raises(UserError, match=rf"meta\.json .*delete {prepared} "):
        open_or_prepare(prepared, never)


@pytest.mark.parametrize(
    "change",
    [
        lambda meta: meta.update(schema=store.SCHEMA + 1),
        lambda meta: meta["arrays"].pop("test-labels"),
        lambda meta: meta["arrays"].update({"../extra": meta["arrays"]["test-labels"]}),
        lambda meta: meta.update(arrays=list(ARRAYS)),
        lambda meta: meta.update(arrays=None),
        lambda meta: meta["arrays"]["train-images"].pop("shape"),
        lambda meta: meta["arrays"].update({"train-images": None}),
    ],
    ids=["schema", "fewer", "more", "list", "null", "no-shape", "null-entry"],
)
def test_an_edited_meta_is_refused_by_name(prepared, change):
    change_meta(prepared, change)
    with pytest.raises(UserError, match=rf"meta\.json .*delete {prepared} "):
        open_or_prepare(prepared, never)


def test_another_shape_in_the_meta_is_refused(prepared):
    change_meta(prepared, lambda meta: meta["arrays"]["train-labels"].update(shape=[5]))
    with pytest.raises(UserError, match=rf"train-labels\.npy .*delete {prepared} "):
        open_or_prepare(prepared, never)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, UserError])
def test_a_failing_prepare_leaves_nothing_behind(folder, error):
    def fail():
        raise error

    with pytest.raises(error):
        open_or_prepare(folder, fail)
    assert folders_beside(folder) == []
    assert open_or_prepare(folder, prepare).meta["source"] == "noise"


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("saved", range(4))
def test_an_interrupted_write_leaves_nothing_behind(folder, error, saved, monkeypatch):
    names = []

    def save(file, array, **kwargs):
        names.append(file.name)
        if len(names) > saved:
            file.write(b"begun")
            raise error
        np.lib.format.write_array(file, array)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", save)
        with pytest.raises(error):
            open_or_prepare(folder, prepare)
    assert len(names) == saved + 1
    assert folders_beside(folder) == []
    np.testing.assert_array_equal(open_or_prepare(folder, prepare).arrays["test-images"], CONTENT["test-images"])


def test_a_full_disk_is_a_message_and_leaves_nothing_behind(folder, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left .*--data\.root"):
        open_or_prepare(folder, prepare)
    assert folders_beside(folder) == []


def test_a_missing_file_of_the_source_is_named_and_no_space_is_asked_for(folder, tmp_path):
    for missing in (tmp_path / "nothing.csv", tmp_path / "nothing" / "more.csv"):
        with pytest.raises(
            UserError, match=rf"^{missing}, which the data set is prepared from, cannot be read \(No such"
        ):
            open_or_prepare(folder / "Set" / "key", missing.read_bytes)
    assert list((folder / "Set").iterdir()) == [folder / "Set" / "key.lock"]


def test_a_root_that_cannot_be_written_is_a_message(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"could not be written to {tmp_path}/file/.*--data\.root"):
        open_or_prepare(tmp_path / "file" / "Set" / "key", prepare)


def test_a_prepared_store_opens_where_nothing_can_be_written(prepared, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(30, "Read-only file system")

    for place, name in [(store, "FileLock"), (Path, "mkdir"), (store.tempfile, "mkdtemp"), (Path, "chmod")]:
        monkeypatch.setattr(place, name, refuse)
    assert open_or_prepare(prepared, never).meta["source"] == "noise"


def test_a_store_can_be_read_by_other_users(prepared):
    assert prepared.stat().st_mode & 0o777 == 0o755


def test_a_store_copied_elsewhere_is_whole(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "copy")
    shutil.rmtree(prepared)
    np.testing.assert_array_equal(
        open_or_prepare(tmp_path / "copy", never).arrays["test-labels"], CONTENT["test-labels"]
    )


def test_other_settings_are_another_store():
    keys = [store_key(settings) for settings in ({}, {"size": 28}, {"size": 32}, {"size": "28"}, {"other": 28})]
    assert len(set(keys)) == len(keys)
    assert store_key({"a": 1, "b": 2}) == store_key({"b": 2, "a": 1})


def test_the_key_of_given_settings_never_changes():
    assert store_key({}) == "c9dca30088fb51c6"


# A process of its own that imports the store without the package around it, which would import torch.
CHILD = """
import sys, types
package = types.ModuleType("visionbench.data")
package.__path__ = [sys.argv[1]]
sys.modules["visionbench.data"] = package
from pathlib import Path
import numpy as np
from visionbench.data import store

def say(word):
    print(word, flush=True)

arrays = {f"{split}-{kind}": np.arange(3) for split in ("train", "test") for kind in ("images", "labels")}
folder = Path(sys.argv[2])
"""


@pytest.fixture
def child(folder):
    children = []

    def start(code):
        command = [sys.executable, "-c", CHILD + code, str(Path(store.__file__).parent), str(folder)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        children.append(process)
        return process

    yield start
    for process in children:
        process.kill()
        process.communicate()


def test_a_process_killed_while_writing_leaves_no_store(child, folder):
    process = child("""
def save(file, array, **kwargs):
    np.lib.format.write_array(file, array)
    file.flush()
    say(file.name)
    if "test-images" in file.name:
        sys.stdin.read()

np.save = save
store.open_or_prepare(folder, lambda: (arrays, {}))
""")
    written = [Path(process.stdout.readline().strip()) for _ in range(3)]
    process.kill()
    process.wait()
    assert all(path.is_file() and path.is_relative_to(folder.parent) for path in written)
    assert not folder.exists()
    np.testing.assert_array_equal(open_or_prepare(folder, prepare).arrays["test-images"], CONTENT["test-images"])


def test_of_two_processes_one_prepares_and_the_other_waits_for_it(child, folder):
    first = child("""
def prepare():
    say("preparing")
    sys.stdin.readline()
    return arrays, {}

store.open_or_prepare(folder, prepare)
say("opened")
""")
    assert first.stdout.readline() == "preparing\n"
    second = child("""
class Lock(store.FileLock):
    def __enter__(self):
        say("asking for the lock")
        return super().__enter__()

store.FileLock = Lock
store.open_or_prepare(folder, lambda: sys.exit("prepared twice"))
say("opened")
""")
    assert second.stdout.readline() == "asking for the lock\n"
    assert not folder.exists()
    first.stdin.write("go on\n")
    first.stdin.flush()
    assert [process.stdout.readline() for process in (first, second)] == ["opened\n", "opened\n"]
    assert folders_beside(folder) == [folder.name]
