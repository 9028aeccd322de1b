"""Folders, stores and disks that are not as they should be, met from the command line as a user would."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unicodedata
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.fakes import write_images
from visionbench.data import ImageFolder, image_folder

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs links, pipes and permissions")


@pytest.fixture
def source(tmp_path):
    return write_images(tmp_path / "photos", {"cat": 6, "dog": 6})


@pytest.fixture
def prepare(cli):
    def call(options="", source="photos", size="[8, 9]"):
        return cli(f"data prepare ImageFolder --data.source '{source}' --data.size '{size}' --data.root root {options}")

    return call


@pytest.fixture
def small_disk(tmp_path):
    """Makes `root` a file system of its own, of 1 MB; gives what mounts it again with other options."""
    place = tmp_path / "root"
    place.mkdir()

    def mount(options):
        return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True)

    if shutil.which("mount") is None or mount("size=1m").returncode:
        pytest.skip("a small file system can be mounted by root alone")
    yield lambda options: subprocess.run(["mount", "-o", options, str(place)], check=True)
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextlib.contextmanager
def unprivileged():
    """As somebody whom permissions bind."""
    user, group = os.geteuid(), os.getegid()
    if ROOT:
        os.setegid(65534)
        os.seteuid(65534)
    try:
        yield
    finally:
        if ROOT:
            os.seteuid(user)
            os.setegid(group)


def contents(folder):
    """Every file that is one, by its path: its bytes."""
    return {path: path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def stores(folder):
    return sorted(path.parent for path in Path(folder).glob("root/ImageFolder/*/meta.json"))


def left_over(folder):
    """What a preparation that failed has left beside stores and their locks."""
    return list(Path(folder).glob("root/ImageFolder/.*"))


# Files


def cut_jpeg(path):
    Image.open(path.with_name("00.png")).resize((60, 60)).save(path, "JPEG")
    os.truncate(path, path.stat().st_size // 2)


def bomb(path):
    """A PNG of 20,000 x 20,000 black pixels, in 49 kB."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(20_000 * 2501))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def link_out(path):
    path.symlink_to("/etc/passwd")


def link_to_itself(path):
    path.symlink_to(path.name)


def open_socket(path):
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket may not be long
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)
    os.chdir(here)


def device(path):
    try:
        os.mknod(path, 0o20644, os.makedev(1, 5))  # /dev/zero, which has no end
    except PermissionError:
        pytest.skip("a device can be made by root alone")


SPOILERS = {
    "cut short": (cut_jpeg, "damaged ("),
    "text": (lambda path: path.write_text("hello"), "text, not an image"),
    "bomb": (bomb, "more than 89,478,485 pixels"),
    "zero bytes": (Path.touch, "empty"),
    "link out": (link_out, "a link that leads out of the folder"),
    "link to itself": (link_to_itself, "cannot be read (Too many levels of symbolic links)"),
    "link to nothing": (lambda path: path.symlink_to("gone"), "cannot be read (No such file or directory)"),
    "pipe": (os.mkfifo, "not a file"),
    "socket": (open_socket, "not a file"),
    "device": (device, "not a file"),
    "copy of another class": (lambda path: shutil.copy(path.parents[1] / "cat" / "00.png", path), "the same bytes as"),
    "strip": (lambda path: Image.new("RGB", (1, 10_000)).save(path, "PNG"), "1 x 10000 pixels, too narrow"),
}


@pytest.mark.parametrize(("spoil", "reason"), SPOILERS.values(), ids=SPOILERS)
def test_a_file_that_cannot_be_used_is_said_and_is_left_out_if_asked(source, tmp_path, prepare, spoil, reason):
    size = 120 if "narrow" in reason else "[8, 9]"
    spoil(source / "dog" / "a name.png")
    before = contents(source)
    sentence = prepare(size=size).refusal()
    assert sentence.startswith("1 of the 13 files of photos cannot be used, such as dog/a name.png (")
    assert f"({reason}" in sentence
    assert "--data.max_skipped 1" in sentence
    assert (stores(tmp_path), left_over(tmp_path)) == ([], [])
    done = prepare("--data.max_skipped 1", size=size)
    assert done.status == 0, done
    assert f"skipped: dog/a name.png: {reason}" in done.out
    assert "prepared 12 images" in done.out
    assert contents(source) == before


def test_files_and_folders_that_may_not_be_read_are_said(cli_in, monkeypatch):
    with tempfile.TemporaryDirectory() as name:  # tmp_path lies in a folder that is closed to others
        place = Path(name)
        place.chmod(0o755)
        monkeypatch.chdir(place)  # the checkout may be closed to others too, so that nobody could go back to it
        cli = cli_in(place)
        (place / "root").mkdir()
        (place / "root").chmod(0o777)
        source = write_images(place / "photos", {"cat": 6, "dog": 6})
        line = f"data prepare ImageFolder --data.size '[8, 9]' --data.root {place}/root --data.source "
        (source / "cat" / "03.png").chmod(0)
        with unprivileged():
            said = cli(line + str(source)).refusal()
        assert "such as cat/03.png (cannot be read (Permission denied)), but data.max_skipped is 0" in said
        (source / "dog").chmod(0)
        with unprivileged():
            assert "dog cannot be read (Permission denied); make it readable." in cli(line + str(source)).refusal()
        source.chmod(0)
        with unprivileged():
            assert "photos cannot be read (Permission denied)" in cli(line + str(source)).refusal()
            assert "photos/in cannot be read (Permission denied), and" in cli(f"{line}{source}/in").refusal()
        source.chmod(0o755)
        (source / "dog").chmod(0o755)
        (source / "cat" / "03.png").chmod(0o644)
        (place / "root").chmod(0o755)
        shutil.rmtree(place / "root" / "ImageFolder")
        with unprivileged():
            said = cli(line + str(source)).refusal()
        assert "(Permission denied); make it writable, or give another folder with --data.root." in said


def test_names_of_every_kind_are_prepared_and_trained(tmp_path, cli):
    names = ["a b", "new\nline", "\u30af\u30e9\u30b9", "-dash", "100%", "a'b", "[x]", "null", "1.0"]
    folder = write_images(tmp_path / "all \n\u30af", dict.fromkeys(names, 6))
    for name in names:
        (folder / name / "00.png").rename(folder / name / f"{name}.png")
    config = {"class_path": "ImageFolder", "init_args": {"source": folder.name, "size": [8, 9], "root": "root"}}
    (tmp_path / "run.json").write_text(json.dumps({"data": config, "model": "MLP", "trainer": {"max_epochs": 1}}))
    done = cli("fit --config run.json")
    assert done.status == 0, done
    assert "all \\n\u30af: 39 train, 4 validation, 11 test images of 3 x 8 x 9, 9 classes" in done.out
    (run,) = (tmp_path / "lightning_logs" / "run").iterdir()
    assert cli(f"test {run}").status == 0
    meta = json.loads((stores(tmp_path)[0] / "meta.json").read_text(encoding="utf-8"))
    assert meta["class_names"] == sorted(name.replace("\n", r"\n") for name in names)


# Classes


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda source: (source / "ox").mkdir(), "The class folder photos/ox is empty; add images, or remove it."),
        (lambda source: (source / "ox" / "more").mkdir(parents=True), "holds the folder more, expected only images"),
        (lambda source: shutil.rmtree(source / "dog"), "photos holds 1 class folder for training (cat)"),
        (
            lambda source: write_images(source, {"train/a": 1, "train/b": 1, "test/c": 1}),
            "photos/test/c is of a class that train does not have (train has a, b)",
        ),
        (lambda source: shutil.rmtree(source) or source.touch(), "data.source photos is not a folder"),
        (lambda source: shutil.rmtree(source) or os.mkfifo(source), "data.source photos is not a folder"),
        (lambda source: shutil.rmtree(source) or source.symlink_to(source), "cannot be read (Too many levels"),
        (shutil.rmtree, "data.source photos does not exist"),
    ],
)
@pytest.mark.parametrize("command", ["data prepare", "fit --model MLP --data"])
def test_classes_that_cannot_be_told_are_refused(source, tmp_path, cli, command, change, sentence):
    change(source)
    said = cli(f"{command} ImageFolder --data.source photos --data.size 8 --data.root root").refusal()
    assert sentence in said
    assert stores(tmp_path) == []


def test_a_class_that_a_split_has_no_image_of_is_said(source, tmp_path, prepare, cli):
    write_images(source, {"ox": 1}, seed=1)
    shown = prepare().out
    assert "\nnote: no test image is of the class ox\n" in shown
    assert re.search("\nnote: no validation image is of the classes (cat|dog), ox\n", shown)
    fit = "fit --model MLP --data ImageFolder --data.source photos --data.size '[8, 9]' --data.root root"
    assert "note: no test image is of the class ox\n" in cli(f"{fit} --trainer.max_epochs 1").out
    write_images(tmp_path / "split", {"train/a": 9, "train/b": 9, "test/b": 2})
    assert "\nnote: no test image is of the class a\n" in prepare("--data.val_size 4", "split").out
    assert "note" not in prepare("--data.val_size 4 --data.test_size 4", "split").out
    assert "note" not in prepare("--data.val_size 0 --data.test_size 0", "split").out


# Changes and other processes


def test_a_source_that_changes_while_it_is_prepared_is_not_kept(source, tmp_path, prepare, monkeypatch):
    decode_files = image_folder.decode_files

    def decode_and_change(paths, recipe):
        Image.new("RGB", (9, 8)).save(source / "cat" / "99.png")
        return decode_files(paths, recipe)

    with monkeypatch.context() as patch:
        patch.setattr(image_folder, "decode_files", decode_and_change)
        sentence = prepare().refusal()
    assert sentence.startswith("photos has changed while it was prepared (the name, size or time of a file); run ")
    assert (stores(tmp_path), left_over(tmp_path)) == ([], [])
    assert "prepared 13 images" in prepare().out


def command(tmp_path, size):
    words = f"data prepare ImageFolder --data.source photos --data.size {size} --data.root root"
    # PYTHONPATH: so that processes decode with the code under test.
    return subprocess.Popen(
        [sys.executable, "-m", "visionbench", *words.split()],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def arrays_of(tmp_path, root, size):
    return (
        ImageFolder(source=str(tmp_path / "photos"), size=size, root=str(tmp_path / root)).open_store().meta["arrays"]
    )


@pytest.mark.slow
def test_two_processes_prepare_one_folder_with_other_settings_at_once(tmp_path):
    write_images(tmp_path / "photos", {"cat": 300, "dog": 300})
    sizes = (20, 30, 20)
    processes = [command(tmp_path, size) for size in sizes]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert sum("prepared 600 images" in text for text in said) == 2
    assert (len(stores(tmp_path)), left_over(tmp_path)) == (2, [])
    for size in set(sizes):
        assert arrays_of(tmp_path, "root", size) == arrays_of(tmp_path, "alone", size)


def running(number):
    """Whether a process is there and has not ended, be it that nobody has asked yet how."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_a_preparation_killed_in_its_midst_leaves_no_store_and_no_process(tmp_path):
    write_images(tmp_path / "photos", {"cat": 300, "dog": 300})
    process = command(tmp_path, 500)  # 450 MB, so that there is time
    while not any(path.stat().st_size > 10**7 for path in tmp_path.glob("root/ImageFolder/.*/train-images.npy")):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    decoding = children.read_text().split() if children.exists() else []
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until = time.monotonic() + 60
    while any(map(running, decoding)):  # a process that ends has closed its output a moment before
        assert time.monotonic() < until
        time.sleep(0.02)
    assert stores(tmp_path) == []
    assert len(left_over(tmp_path)) == 1
    again = command(tmp_path, 500)
    assert "prepared 600 images" in again.communicate()[0]
    assert (len(stores(tmp_path)), left_over(tmp_path)) == (1, [])
    assert arrays_of(tmp_path, "root", 500) == arrays_of(tmp_path, "alone", 500)


# Stores and disks


def cut_array(store):
    os.truncate(store / "train-images.npy", (store / "train-images.npy").stat().st_size - 1)


def edit(name, value):
    def change(store):
        meta = json.loads((store / "meta.json").read_text())
        (store / "meta.json").write_text(json.dumps(meta | {name: value}))

    return change


DAMAGES = {
    "array cut short": (cut_array, "train-images.npy cannot be read"),
    "array of another": (lambda store: np.save(store / "train-labels.npy", np.zeros(3)), "train-labels.npy holds"),
    "no array": (lambda store: (store / "train-labels.npy").unlink(), "train-labels.npy cannot be read"),
    "no meta": (lambda store: (store / "meta.json").unlink(), "meta.json cannot be read"),
    "meta cut short": (lambda store: os.truncate(store / "meta.json", 100), "meta.json cannot be read"),
    "meta of another version": (edit("schema", 99), "meta.json does not have the form that this version writes"),
    "class names edited": (edit("class_names", ["cat", "cow"]), "holds images of"),
    "skipped edited": (edit("skipped", 3), "meta.json does not have the form that this version writes"),
    "settings edited": (edit("settings", None), "meta.json does not have the form that this version writes"),
    "fingerprint edited": (edit("fingerprint", "x"), "meta.json does not have the form that this version writes"),
    "class names no list": (edit("class_names", None), "meta.json does not have the form that this version writes"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_store_is_refused_until_it_is_deleted_as_told(source, tmp_path, prepare, cli, damage, words):
    assert prepare().status == 0
    (store,) = [path.relative_to(tmp_path) for path in stores(tmp_path)]
    damage(tmp_path / store)
    before = contents(tmp_path / store)
    options = "--data.source photos --data.size '[8, 9]' --data.root root"
    for line in ("data prepare", "fit --model MLP --data"):
        sentence = cli(f"{line} ImageFolder {options}").refusal()
        assert words in sentence
        assert "delete" in sentence
        assert str(store) in sentence
    assert cli("data list --root root").status == 0
    assert contents(tmp_path / store) == before
    shutil.rmtree(tmp_path / store)
    assert prepare().status == 0


def test_a_full_disk_is_said_and_nothing_is_lost(source, tmp_path, prepare, small_disk):
    assert prepare().status == 0
    (store,) = stores(tmp_path)
    before = contents(store)
    filler = tmp_path / "root" / "filler"
    sentence = prepare(size=300).refusal()  # 3 MB
    assert "(No space left on device); free some space there, or give another folder with --data.root." in sentence
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1000)):
            pass
    os.utime(source / "cat" / "00.png", (1, 1))  # so that it is to be prepared again, with the old store still there
    assert "No space left on device" in prepare().refusal()
    assert contents(store) == before
    assert left_over(tmp_path) == []
    filler.unlink()
    assert "prepared 12 images" in prepare().out
    assert len(stores(tmp_path)) == 1


def test_a_read_only_root_opens_what_is_prepared_and_says_what_it_cannot_do(source, prepare, small_disk, cli):
    assert prepare().status == 0
    small_disk("remount,ro")
    assert prepare("--data.val_size 2").status == 0
    fit = "fit --model MLP --data ImageFolder --data.source photos --data.size '[8, 9]' --data.root root"
    assert cli(f"{fit} --trainer.max_epochs 1").status == 0
    assert (
        "(Read-only file system); make it writable, or give another folder with --data.root"
        in prepare(size=5).refusal()
    )
    assert "(Read-only file system); make it writable" in cli("data prepare Digits --data.root root").refusal()


# Names

SYSTEM_FOLDERS = [
    *("__MACOSX", "@eaDir", "@tmp", "#recycle", "lost+found", "$RECYCLE.BIN", "System Volume Information", "LOST.DIR"),
    *(".ipynb_checkpoints", ".git", ".AppleDouble", ".Trash-1000", ".fseventsd", "__pycache__", "Temporary Items"),
    *("~snapshot", "@Recycle", "FOUND.000"),
]
SYSTEM_FILES = [
    *("Icon\r", "._00.png", ".DS_Store", "Thumbs.db", "ehthumbs.db", "desktop.ini", "THUMBS.DB", "Desktop.ini"),
    *("00.png:Zone.Identifier", "00.png@SynoEAStream", ".nomedia", ".directory", "ZbThumbnail.info"),
]


@pytest.mark.parametrize("place", ["", "cat", "train", "train/cat"])
def test_what_systems_leave_in_folders_is_ignored_and_counted(tmp_path, prepare, place):
    splits = ("train/", "test/") if place.startswith("train") else ("",)
    source = write_images(tmp_path / "photos", {f"{split}{name}": 6 for split in splits for name in ("cat", "dog")})
    for name in SYSTEM_FOLDERS:
        write_images(source / place / name, {"cat": 1})
        (source / place / name / "._00.png").write_bytes(b"\0\5\26\7")
    for name in SYSTEM_FILES:
        (source / place / name).write_bytes(b"x")
    before = contents(source)
    done = prepare("--data.val_size 2 --data.test_size 2" if splits == ("",) else "--data.val_size 2")
    assert done.status == 0, done
    assert f"prepared {12 * len(splits)} images" in done.out
    assert "2 classes" in done.out
    (line,) = re.findall("^  ignored, as left by systems or hidden: (.*)$", done.out, flags=re.MULTILINE)
    assert line.endswith(" ...")
    meta = json.loads((stores(tmp_path)[0] / "meta.json").read_text(encoding="utf-8"))
    assert sum(meta["ignored"].values()) == len(SYSTEM_FOLDERS) + len(SYSTEM_FILES)
    assert meta["ignored"]["._*"] == 1
    assert meta["ignored"]["*:Zone.Identifier"] == 1
    assert contents(source) == before
    assert "ignored" not in prepare("--data.val_size 2 --data.test_size 2" if splits == ("",) else "").err


def test_a_class_folder_with_nothing_but_files_of_systems_is_empty(source, prepare):
    (source / "ox").mkdir()
    (source / "ox" / "Thumbs.db").write_bytes(b"x")
    (source / "ox" / "._00.png").write_bytes(b"x")
    assert "photos/ox is empty, besides ._* (1), Thumbs.db (1); add images" in prepare().refusal()


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("name", ["café", "Ångström", "한국", "ガ", "ế"])
def test_names_that_unicode_composes_differently_are_one_class(tmp_path, prepare, name, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    composed, alike = (unicodedata.normalize(one, name) for one in (form, other))
    assert composed != alike
    write_images(tmp_path / "photos", {f"train/{composed}": 6, "train/tea": 6, f"test/{alike}": 3, "test/tea": 3})
    done = prepare("--data.val_size 2")
    assert done.status == 0, done
    assert "6 test images of 3 x 8 x 9, 2 classes" in done.out
    write_images(tmp_path / "both", {composed: 6, "tea": 6, alike: 6})
    said = prepare("", "both").refusal()
    assert said.startswith(f"both holds two folders whose names look the same, {unicodedata.normalize('NFC', name)}:")
    assert ascii(composed) in said
    assert ascii(alike) in said


def test_blanks_at_the_ends_of_class_names_are_shown(tmp_path, prepare):
    write_images(tmp_path / "photos", {"cat ": 6, "cat": 6, " dog": 6, "Cat": 6})
    done = prepare()
    assert done.status == 0, done
    meta = json.loads((stores(tmp_path)[0] / "meta.json").read_text(encoding="utf-8"))
    assert meta["class_names"] == [r"\x20dog", "Cat", "cat", r"cat\x20"]
    assert r"note: these classes have names that look alike: cat, cat\x20" + "\n" in done.out
    write_images(tmp_path / "split", {"train/cat": 6, "train/dog": 6, "test/cat ": 3})
    said = prepare("", "split").refusal()
    assert said.startswith(r"split/test/cat\x20 is of a class that train does not have (train has cat, dog)")


def test_a_source_that_is_an_archive_is_called_one(tmp_path, prepare):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("cat/00.png", "x")
    said = prepare("", "photos.zip").refusal()
    assert "photos.zip is not a folder but a ZIP archive, or a document of an office program (unpack it)" in said
    (tmp_path / "list.txt").write_text("cat/00.png\n")
    assert "list.txt is not a folder but text" in prepare("", "list.txt").refusal()


@pytest.mark.parametrize("words", ["--data.source {}", "--data.source={}"])
def test_a_source_that_is_not_utf_8_is_refused_by_name(tmp_path, cli, words):
    name = os.fsdecode(b"caf\xe9")
    write_images(tmp_path / name, {"cat": 6, "dog": 6})
    for command in ("data prepare ImageFolder", "fit --model MLP --data ImageFolder"):
        said = cli(f"{command} {words.format(name)} --data.size 8").refusal()
        assert said.startswith(r"The value of --data.source is caf\udce9, whose bytes are not UTF-8; rename")


def test_a_source_that_is_not_utf_8_is_prepared_from_python(tmp_path):
    source = write_images(tmp_path / os.fsdecode(b"caf\xe9"), {os.fsdecode(b"\xff"): 6, "dog": 6})
    data = ImageFolder(source=str(source), size=[8, 9], root=str(tmp_path / "root"))
    data.prepare_data()
    assert data.class_names == ("dog", r"\udcff")
    again = ImageFolder(source=str(source), size=[8, 9], root=str(tmp_path / "root"))
    assert again.open_store().meta["arrays"] == data.open_store().meta["arrays"]
