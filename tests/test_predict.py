"""visionbench predict: what it says is what `visionbench test` counts, and a run's folder is all it needs."""

import csv
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import resnet18

from tests.fakes import write_images
from tests.test_cli import write_own_net
from visionbench.data import Digits, ImageFolder, image_folder
from visionbench.decoding import Recipe
from visionbench.errors import UserError
from visionbench.inference import inputs, predict
from visionbench.inference.trained import open_run
from visionbench.models import MLP

SMALL = "fit --model MLP --model.widths [16] --trainer.max_epochs 1"
RUN = "lightning_logs/mlp/version_0"


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def wrote(result) -> list[dict[str, str]]:
    assert result.status == 0, result
    return rows(result.out)


def accuracy(table) -> float:
    return sum(row["predicted"] == row["true"] for row in table) / len(table)


def read_report(run: Path) -> dict:
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def digits(cli_in, tmp_path_factory):
    """A folder with a run on Digits, and the command line in it."""
    folder = tmp_path_factory.mktemp("digits")
    cli = cli_in(folder)
    assert cli(f"{SMALL} --data Digits --trainer.precision 32-true").status == 0
    return folder, cli


@pytest.fixture(scope="module")
def digits_with_predictions(cli_in, tmp_path_factory):
    """A run on Digits that records its predictions, and the table of its test images."""
    folder = tmp_path_factory.mktemp("recorded")
    cli = cli_in(folder)
    assert cli(f"{SMALL} --data Digits --trainer.precision 32-true --figures final").status == 0
    return folder / RUN, wrote(cli(f"predict {RUN} test"))


@pytest.fixture(scope="module")
def photos(cli_in, tmp_path_factory):
    """A folder with a run on a folder of images, and the command line in it."""
    folder = tmp_path_factory.mktemp("photos")
    write_images(folder / "source", {f"{s}/{c}": n for s, n in [("train", 20), ("test", 9)] for c in ("cat", "dog")})
    cli = cli_in(folder)
    line = f"{SMALL} --data ImageFolder --data.source source --data.size [6,7] --data.root root --data.batch_size 4"
    assert cli(line).status == 0
    return folder, cli


# The same as `visionbench test`


@pytest.mark.parametrize(
    "options",
    [
        "--data Digits --trainer.precision bf16-mixed",
        "--data Digits --data.batch_size 7 --data.test_size 101",
        "--data tests.fakes.Pairs --model.loss binary_cross_entropy",
        "--data tests.fakes.Letters --model.loss nll",
    ],
)
def test_the_accuracy_is_that_of_visionbench_test(cli, tmp_path, options):
    fitted = cli(f"{SMALL} {options} --data.root root")
    assert fitted.status == 0, fitted
    result = cli(f"predict {RUN} test")
    table = wrote(result)
    expected = read_report(tmp_path / RUN)["metrics"]["test/acc"]
    assert accuracy(table) == expected
    tested = cli(f"test {RUN}").out
    correct, count = round(expected * len(table)), len(table)
    said = f"{100 * expected:.2f} %  (95 % interval" if count >= 10 else f"{correct} of {count} correct"
    assert said in tested
    assert f"accuracy   {said}" in result.err
    assert f"predicted  {len(table)} images" in result.err


def test_a_split_s_rows_are_its_images_in_their_order_with_their_classes(digits, digits_root):
    _, cli = digits
    data = Digits(root=str(digits_root))
    data.setup()
    for stage in ("val", "test"):
        split = data.splits[stage]
        table = wrote(cli(f"predict {RUN} {stage}"))
        assert [row["path"] for row in table] == [f"{split.part}/{place}" for place in split.index]
        assert [int(row["true"]) for row in table] == data.store.arrays[f"{split.part}-labels"][split.index].tolist()


def test_probabilities_are_those_of_the_model(digits, digits_root):
    folder, cli = digits
    table = wrote(cli(f"predict {RUN} test --top_k 10"))
    data = Digits(root=str(digits_root))
    data.setup()
    model = MLP.load_from_checkpoint(folder / RUN / "checkpoints" / "best.ckpt", weights_only=True).eval()
    images = torch.tensor(data.store.arrays["test-images"]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        expected = model.network((images - data.mean[0]) / data.std[0]).softmax(dim=1)
    assert len(table) == len(expected) == 360
    for row, probabilities in zip(table, expected, strict=True):
        names = [row["predicted"], *(row[f"predicted_{place}"] for place in range(2, 11))]
        given = [float(row["confidence"]), *(float(row[f"confidence_{place}"]) for place in range(2, 11))]
        assert sorted(names) == [str(label) for label in range(10)]
        assert given == sorted(given, reverse=True)
        np.testing.assert_allclose(given, probabilities[[int(name) for name in names]], atol=1e-6)
        assert row["predicted"] == str(int(probabilities.argmax()))


@pytest.mark.parametrize(("top_k", "more"), [(1, []), (2, ["predicted_2", "confidence_2"])])
def test_top_k_says_how_many_classes_a_row_names(photos, top_k, more):
    _, cli = photos
    result = cli(f"predict {RUN} test --top_k {top_k}")
    assert result.out.splitlines()[0].split(",") == ["path", "predicted", "confidence", *more, "true", "error"]
    assert cli(f"predict {RUN} test --top_k 9").out == cli(f"predict {RUN} test --top_k 2").out  # two classes in all


# Files


def test_files_are_told_what_the_split_that_was_made_of_them_is_told(photos):
    _, cli = photos
    split, files = (wrote(cli(f"predict {RUN} {word}")) for word in ("test", "source/test"))
    assert [row["path"] for row in files] == [
        f"source/test/{name}/{number:02d}.png" for name in ("cat", "dog") for number in range(9)
    ]
    for one, other in zip(split, files, strict=True):
        assert {**one, "path": ""} == {**other, "path": ""}


def test_nothing_but_the_run_s_folder_is_needed(photos, tmp_path, cli_in):
    folder, cli = photos
    expected = cli(f"predict {RUN} source/test").out
    shutil.copytree(folder / RUN, tmp_path / "copy")
    shutil.copytree(folder / "source" / "test", tmp_path / "source" / "test")
    (folder / "root").rename(folder / "away")
    (folder / "source").rename(folder / "gone")
    try:
        result = cli_in(tmp_path)("predict copy source/test")
    finally:
        (folder / "away").rename(folder / "root")
        (folder / "gone").rename(folder / "source")
    assert result.status == 0, result
    assert result.out == expected


def test_a_file_that_is_broken_gets_a_row_with_the_error(photos, tmp_path):
    _, cli = photos
    names = ["a, b.png", 'say "so".png', "two\nlines.png", "кот.png", "猫.png"]
    write_images(tmp_path / "in", {"x": 1})
    for name in names:
        shutil.copy(tmp_path / "in" / "x" / "00.png", tmp_path / "in" / name)
    (tmp_path / "in" / "b.txt").write_text("no image")
    (tmp_path / "in" / "c.png").write_bytes((tmp_path / "in" / "x" / "00.png").read_bytes()[:90])
    (tmp_path / "in" / "d.png").touch()
    (tmp_path / "in" / ".hidden").touch()
    os.mkfifo(tmp_path / "in" / "pipe")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    result = cli(f"predict {RUN} '{tmp_path}/in' {tmp_path}/in/x/00.png")
    table = wrote(result)
    assert [row["path"] for row in table] == [
        *(f"{tmp_path}/in/{name}" for name in sorted([*names, "b.txt", "c.png", "d.png", "loop", "pipe", "x/00.png"])),
        f"{tmp_path}/in/x/00.png",
    ]
    errors = {Path(row["path"]).name: row["error"] for row in table if row["error"]}
    assert errors.pop("c.png").startswith("damaged (")
    assert errors == {
        "b.txt": "text, not an image; remove it",
        "d.png": "empty",
        "loop": "a link to a folder, which is not followed",
        "pipe": "not a file",
    }
    assert all((row["predicted"] == "") == (row["confidence"] == "") == (row["error"] != "") for row in table)
    assert len({(row["predicted"], row["confidence"]) for row in table if not row["error"]}) == 1  # one image, copied
    assert "predicted  7 images" in result.err
    assert "broken     5 files could not be read" in result.err


def test_a_name_that_is_not_utf_8_does_not_spoil_the_table(photos, tmp_path):
    _, cli = photos
    write_images(tmp_path, {"x": 1})
    shutil.copy(tmp_path / "x" / "00.png", os.fsencode(tmp_path / "x") + b"/\xff.png")
    assert cli(f"predict {RUN} {tmp_path}/x --output {tmp_path}/out.csv").status == 0
    table = rows((tmp_path / "out.csv").read_text(encoding="utf-8"))
    assert [row["path"] for row in table] == [f"{tmp_path}/x/00.png", f"{tmp_path}/x/\\udcff.png"]
    assert not any(row["error"] for row in table)


def test_a_list_is_read_from_standard_input(photos, monkeypatch):
    _, cli = photos
    listed = "source/test/dog/01.png\n\nnosuch.png\r\nsource\nsource/test/cat/00.png"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listed.encode())))
    table = wrote(cli(f"predict {RUN} source/test/cat/08.png -"))
    assert [(row["path"], row["true"], row["error"]) for row in table] == [
        ("source/test/cat/08.png", "cat", ""),
        ("source/test/dog/01.png", "dog", ""),
        ("nosuch.png", "", "cannot be read (No such file or directory)"),
        ("source", "", "not a file"),
        ("source/test/cat/00.png", "cat", ""),
    ]


LISTED = ["source/test/dog/01.png", "source/test/cat/00.png"]
LISTS = {
    "print0": ("\0".join(LISTED) + "\0").encode(),
    "print0 without an end": "\0".join(LISTED).encode(),
    "byte order mark": b"\xef\xbb\xbf" + "\r\n".join(LISTED).encode(),
    "UTF-16": "\r\n".join(LISTED).encode("utf-16"),
    "UTF-16, big-endian": b"\xfe\xff" + "\r\n".join(LISTED).encode("utf-16-be"),
}


@pytest.mark.parametrize("content", LISTS.values(), ids=LISTS)
def test_a_list_may_be_separated_by_nul_or_written_by_windows(photos, monkeypatch, content):
    _, cli = photos
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    table = wrote(cli(f"predict {RUN} -"))
    assert [(row["path"], row["true"], row["error"]) for row in table] == [
        (LISTED[0], "dog", ""),
        (LISTED[1], "cat", ""),
    ]


def test_a_line_feed_is_part_of_a_path_in_a_list_that_nul_separates(photos, tmp_path, monkeypatch):
    _, cli = photos
    write_images(tmp_path, {"x": 2})
    odd = tmp_path / "x" / "a\nb.png"
    (tmp_path / "x" / "00.png").rename(odd)
    listed = f"{tmp_path}/x/01.png\0{odd}\0".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listed)))
    table = wrote(cli(f"predict {RUN} -"))
    assert [(row["path"], row["error"]) for row in table] == [(f"{tmp_path}/x/01.png", ""), (str(odd), "")]


def test_a_carriage_return_in_a_name_does_not_split_the_row(photos, tmp_path):
    _, cli = photos
    images = write_images(tmp_path / "new", {"cat": 2})
    (images / "cat" / "00.png").rename(images / "cat" / "0\r0.png")
    assert cli(f"predict {RUN} {images} --output {tmp_path}/out.csv").status == 0
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [(Path(row["path"]).name, row["true"]) for row in table] == [("0\r0.png", "cat"), ("01.png", "cat")]


def test_a_folder_without_files_is_refused(photos, tmp_path):
    _, cli = photos
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    (tmp_path / "empty" / "Thumbs.db").touch()
    (tmp_path / "empty" / ".DS_Store").touch()
    said = cli(f"predict {RUN} source/test {tmp_path}/empty --output {tmp_path}/out.csv").refusal()
    assert said.startswith(f"The folder {tmp_path}/empty and its subfolders hold no files, apart from hidden ones")
    assert not (tmp_path / "out.csv").exists()


def test_what_systems_leave_in_folders_is_not_predicted(photos, tmp_path):
    _, cli = photos
    write_images(tmp_path, {"cat": 1, "cat/@eaDir/00.png": 1, "__MACOSX/cat": 1, "cat/lost+found": 1})
    (tmp_path / "cat" / "Icon\r").touch()
    table = wrote(cli(f"predict {RUN} {tmp_path}"))
    assert [row["path"] for row in table] == [f"{tmp_path}/cat/00.png"]


def test_the_class_of_a_folder_is_known_in_each_form_of_unicode(tmp_path):
    name = "caf\u00e9"
    write_images(tmp_path, {unicodedata.normalize("NFD", name): 1, "tea ": 1})
    recipe = Recipe((8, 8), 3, "crop", 1.0, False)
    for names in ([name, r"tea\x20"], [unicodedata.normalize("NFD", name), r"tea\x20"]):
        assert [sample.label for sample in inputs.samples([str(tmp_path)], recipe, names, None)] == [0, 1]


def test_the_true_class_is_that_of_the_folder(photos, tmp_path):
    _, cli = photos
    write_images(tmp_path, {"dog": 1, "cat/Train": 1, "horse": 1, "dog/other": 1})
    table = wrote(cli(f"predict {RUN} {tmp_path}/dog {tmp_path}/cat {tmp_path}/horse"))
    assert [(row["path"].removeprefix(f"{tmp_path}/"), row["true"]) for row in table] == [
        ("dog/00.png", "dog"),
        ("dog/other/00.png", ""),
        ("cat/Train/00.png", "cat"),
        ("horse/00.png", ""),
    ]


def test_the_accuracy_is_of_the_images_whose_class_is_known(photos, tmp_path):
    _, cli = photos
    write_images(tmp_path, {"horse": 3})
    result = cli(f"predict {RUN} source/test {tmp_path}/horse")
    known = [row for row in wrote(result) if row["true"]]
    assert len(known) == 18
    assert f"accuracy   {100 * accuracy(known):.2f} %  (95 % interval" in result.err
    assert "18 images with a known class" in result.err
    assert "accuracy" not in cli(f"predict {RUN} {tmp_path}/horse").err


def test_images_that_the_run_was_trained_on_are_counted(photos, tmp_path):
    place, cli = photos
    sizes = read_report(place / RUN)["counts"]
    said = cli(f"predict {RUN} source/test source/train").err
    expected = f"has {sizes['train']} training images, {sizes['val']} validation images, {sizes['test']} test images"
    assert f"note: of these 58 images, the run itself {expected}; the accuracy of the test images is the" in said
    assert "the run itself has 18 test images\n" in cli(f"predict {RUN} source/test").err
    write_images(tmp_path, {"dog": 2}, seed=77)
    assert "the run itself has" not in cli(f"predict {RUN} {tmp_path}/dog").err
    write_images(place / "source", {"train/cat/new": 1}, seed=78)  # the splits would be other ones now
    assert "the run itself has" not in cli(f"predict {RUN} source/test").err
    shutil.rmtree(place / "source/train/cat/new")


def test_files_become_what_digits_are_and_options_change_how(digits, tmp_path):
    """A digit's own pixels, black on white and twice as large, are told what the digit is told."""
    _, cli = digits
    data = Digits(root=os.environ.get("VISIONBENCH_DATA", str(tmp_path / "root")))
    data.prepare_data()
    data.setup()
    image = data.store.arrays["test-images"][5, ..., 0]
    Image.fromarray(image).save(tmp_path / "as_it_is.png")
    Image.fromarray(255 - image).convert("RGB").save(tmp_path / "inverted.png")
    Image.fromarray(np.pad(255 - image, 9, constant_values=255)).save(tmp_path / "with_border.png")
    # Of the same number of images a batch, so that the last digits are the same too.
    (split,) = (row for row in wrote(cli(f"predict {RUN} test --batch_size 1")) if row["path"] == "test/5")
    for name, options in [
        ("as_it_is", ""),
        ("inverted", "--invert true"),
        ("with_border", "--invert true --resize none"),
    ]:
        (row,) = wrote(cli(f"predict {RUN} {tmp_path}/{name}.png {options}"))
        assert {**row, "path": "", "true": ""} == {**split, "path": "", "true": ""}, name
    (row,) = wrote(cli(f"predict {RUN} {tmp_path}/inverted.png"))
    assert row["confidence"] != split["confidence"]


def test_many_files_are_decoded_by_processes_to_the_same_rows(photos, monkeypatch):
    _, cli = photos
    alone = cli(f"predict {RUN} source").out
    monkeypatch.setattr(inputs, "FEW_FILES", 5)
    monkeypatch.setattr(image_folder, "FEW_FILES", 5)
    monkeypatch.setattr(image_folder, "TASK_FILES", 7)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    started = []
    pool = image_folder.ProcessPoolExecutor
    monkeypatch.setattr(image_folder, "ProcessPoolExecutor", lambda *a, **k: started.append(a) or pool(*a, **k))
    assert cli(f"predict {RUN} source").out == alone
    assert started


def test_few_images_are_in_memory_and_a_list_is_read_as_it_is_needed(tmp_path, monkeypatch):
    write_images(tmp_path, {"x": 1}, size=(64, 64))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    recipe = Recipe((64, 64), 3, "crop", 1.0, False)
    line = f"{tmp_path}/x/00.png\n".encode()

    def peak(count):
        asked = itertools.count()
        lines = (line for _ in itertools.takewhile(lambda n: n < count, asked))
        monkeypatch.setattr(sys, "stdin", type("Lines", (), {"buffer": lines}))
        tracemalloc.start()
        seen = sum(len(batch) for batch in inputs.batches(inputs.samples(["-"], recipe, ["x"], None), 32))
        assert seen == count
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high

    peak(300)
    assert peak(2400) < peak(600) + 2**20  # an image is 12 kB: all would be 29 MB
    endless = itertools.repeat(line)
    monkeypatch.setattr(sys, "stdin", type("Lines", (), {"buffer": endless}))
    assert next(inputs.samples(["-"], recipe, ["x"], None)).label == 0


# The table as a file


def test_the_file_is_there_when_it_is_whole(photos, monkeypatch):
    folder, cli = photos
    expected = cli(f"predict {RUN} test").out
    result = cli(f"predict {RUN} test --output out.csv")
    assert (result.status, result.out) == (0, "")
    assert "in out.csv" in result.err
    assert (folder / "out.csv").read_text(encoding="utf-8") == expected
    before = "path,predicted,confidence,true,error\n"
    (folder / "out.csv").write_text(before)
    calls = itertools.count()
    batch = predict.predict_batch

    def interrupted(*args):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return batch(*args)

    with monkeypatch.context() as patch:
        patch.setattr(predict, "predict_batch", interrupted)
        assert cli(f"predict {RUN} test --output out.csv").status == 130
    assert (folder / "out.csv").read_text() == before
    assert not list(folder.glob(".out.csv*"))
    assert cli(f"predict {RUN} test --output out.csv").status == 0
    assert (folder / "out.csv").read_text(encoding="utf-8") == expected


def test_a_file_that_a_killed_process_left_is_in_nobody_s_way(photos):
    folder, cli = photos
    (folder / ".left.csv.part").write_text("path,predicted\n" * 1000)
    assert cli(f"predict {RUN} test --output left.csv").status == 0
    assert (folder / "left.csv").read_text(encoding="utf-8") == cli(f"predict {RUN} test").out
    assert not (folder / ".left.csv.part").exists()


# Refusals


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("predict", ["needs a run folder first"]),
        (f"predict {RUN}", ["needs an input"]),
        (f"predict {RUN} nosuch", ["There is no file or folder nosuch", "train, val, test"]),
        ("predict nosuch test", ["nosuch is not a run folder"]),
        (f"predict {RUN} source/test --top_k 0", ["top_k is 0"]),
        (f"predict {RUN} source/test --batch_size 0", ["batch_size is 0"]),
        (f"predict {RUN} source/test --topk 3", ["There is no option --topk; did you mean --top_k?"]),
        (f"predict {RUN} source/test --resize zoom", ["resize: found zoom", "crop, squash, none"]),
        (f"predict {RUN} source/test --precision 7", ["precision", "--precision"]),
        (f"predict {RUN} source/test --accelerator warp", ["accelerator is warp", "auto"]),
        (f"predict {RUN} source/test --output {RUN}/run.json/out.csv", ["out.csv cannot be written", "--output"]),
        (f"predict {RUN} source/test --output source", ["source cannot be written", "directory"]),
        (f"export {RUN} --format safetensors --output source", ["source cannot be written", "directory"]),
        (f"predict {RUN} source/test --output ''", ["--output is empty", "name of a file"]),
        (f"export {RUN} --format safetensors --output ''", ["--output is empty", "name of a file"]),
        (f"predict {RUN} source/test --output {RUN}/run.json", [f"{RUN}/run.json belongs to the run", "--output"]),
        (f"predict {RUN} test --output {RUN}/predictions/test.csv", ["test.csv belongs to the run", "--output"]),
        (f"predict {RUN} train --output {RUN}/predictions/train.csv", ["train.csv belongs to the run", "--output"]),
        (f"export {RUN} --format safetensors --output {RUN}/checkpoints/best.ckpt", ["best.ckpt belongs to the run"]),
        (f"predict {RUN} test --data.root elsewhere --data.source nowhere", ["nowhere", "does not exist"]),
    ],
)
def test_a_mistake_is_one_sentence(photos, line, parts):
    folder, cli = photos
    before = sorted(folder.rglob("*"))
    sentence = cli(line).refusal()
    for part in parts:
        assert part in sentence
    assert sorted(folder.rglob("*")) == before


def test_a_pipe_is_not_replaced_by_a_file(photos, tmp_path):
    _, cli = photos
    os.mkfifo(tmp_path / "pipe")
    for line in (f"predict {RUN} test", f"export {RUN} --format safetensors"):
        assert "pipe is no file, but a pipe or a device" in cli(f"{line} --output {tmp_path}/pipe").refusal()
    assert (tmp_path / "pipe").is_fifo()


def test_a_file_that_is_no_older_output_is_kept(photos, tmp_path):
    _, cli = photos
    for name in ("mine.csv", "mine.onnx"):
        (tmp_path / name).write_text("mine")
    sentence = cli(f"predict {RUN} source/test --output {tmp_path}/mine.csv").refusal()
    assert "mine.csv exists and holds no predictions; remove it, or give another --output." in sentence
    sentence = cli(f"export {RUN} --format safetensors --output {tmp_path}/mine.onnx").refusal()
    assert "mine.onnx exists and holds no model (its name lacks .safetensors); remove it" in sentence
    assert {path.read_text() for path in tmp_path.glob("mine.*")} == {"mine"}


def test_an_export_goes_into_the_run_folder(photos):
    folder, cli = photos
    for name in ("exports/again.safetensors", "mine.safetensors"):
        assert cli(f"export {RUN} --format safetensors --samples 2 --output {RUN}/{name}").status == 0
        (folder / RUN / name).unlink()
    shutil.rmtree(folder / RUN / "exports")


def test_a_split_of_another_data_set_is_refused(photos):
    _, cli = photos
    result = cli(f"predict {RUN} test --data Digits")
    assert (result.status, result.out) == (2, "")
    assert "was trained on images of (3, 6, 7) and cat, dog" in result.err


def test_a_split_without_images_is_refused(cli, tmp_path):
    assert cli(f"{SMALL} --data Digits --data.val_size 0").status == 0
    assert "has no val images" in cli(f"predict {RUN} val").refusal()


def test_a_run_that_says_nothing_of_its_inputs_is_refused(photos, tmp_path, cli):
    folder, _ = photos
    shutil.copytree(folder / RUN, tmp_path / "old")
    described = json.loads((tmp_path / "old" / "input.json").read_text())
    described |= {"file": None, "input_shape": [13], "title": "Hearts"}
    (tmp_path / "old" / "input.json").write_text(json.dumps(described))
    assert "trained on Hearts, with inputs of 13" in cli("predict old old/config.yaml").refusal()
    (tmp_path / "old" / "input.json").unlink()
    assert "has no input.json" in cli("predict old old/config.yaml").refusal()


def test_weights_that_do_not_fit_are_refused(photos, tmp_path, cli):
    folder, _ = photos
    shutil.copytree(folder / RUN, tmp_path / "torn")
    checkpoint = tmp_path / "torn" / "checkpoints" / "best.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert "torn/checkpoints/best.ckpt cannot be read" in cli("predict torn torn").refusal()


# Models


def test_a_model_of_the_user_s_own_is_found_in_its_folder(cli, tmp_path):
    assert cli(write_own_net(tmp_path, "own_predicting")).status == 0
    run = tmp_path / "lightning_logs" / "mynet" / "version_0"
    assert accuracy(wrote(cli(f"predict {run} test"))) == read_report(run)["metrics"]["test/acc"]
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("own_predicting", "own_elsewhere"))
    sentence = cli(f"predict {run} {run}").refusal()
    assert "own_elsewhere.nets.MyNet cannot be imported" in sentence
    assert "in the folder where it was trained" in sentence


def test_the_weights_that_training_started_from_are_not_needed(cli, tmp_path):
    torch.save(resnet18().state_dict(), tmp_path / "resnet18.pth")
    line = (
        "fit --model FrozenResNet --model.weights resnet18.pth --model.min_size 28 --data Digits --data.train_size 50"
    )
    assert cli(f"{line} --trainer.max_epochs 1 --data.test_size 40").status == 0
    (tmp_path / "resnet18.pth").unlink()
    run = "lightning_logs/frozenresnet/version_0"
    assert accuracy(wrote(cli(f"predict {run} test"))) == read_report(tmp_path / run)["metrics"]["test/acc"]


def test_what_a_run_says_of_its_inputs_is_enough_for_a_recipe():
    data = ImageFolder.__new__(ImageFolder)
    data.recipe = Recipe((5, 4), 1, "none", 0.5, True)
    assert data.file_recipe() == data.recipe
    assert Digits().file_recipe() == Recipe((28, 28), 1, "crop", 1.0, False)


# A run in a notebook


def test_an_opened_run_has_its_metrics_and_its_recorded_predictions(digits_with_predictions):
    folder, table = digits_with_predictions
    run = open_run(folder)
    assert run.metrics == read_report(folder)["metrics"]
    predictions = run.predictions("test")
    assert predictions.names == [row["path"] for row in table]
    assert [run.class_names[label] for label in predictions.predicted] == [row["predicted"] for row in table]
    assert run.metrics["test/acc"] == (predictions.predicted == predictions.labels).mean()
    with pytest.raises(UserError, match=r"no recorded predictions for train \(recorded: val, test\)"):
        run.predictions("train")
    with pytest.raises(UserError, match="There is no split tset; expected one of train, val, test"):
        run.predictions("tset")


def test_a_run_that_is_not_finished_has_no_metrics(photos, tmp_path):
    folder, _ = photos
    shutil.copytree(folder / RUN, tmp_path / "open")
    (tmp_path / "open" / "run.json").unlink()
    run = open_run(tmp_path / "open")
    assert run.data_digest is None
    with pytest.raises(UserError, match="is interrupted, and only a finished run has metrics"):
        run.metrics  # noqa: B018 - a property that raises


def test_an_opened_run_predicts_arrays_as_the_command_does(digits, digits_root):
    folder, cli = digits
    table = wrote(cli(f"predict {RUN} test --top_k 1"))
    data = Digits(root=str(digits_root))
    data.setup()
    images = np.array(data.store.arrays["test-images"])
    run = open_run(folder / RUN)
    for array in (images, images[..., 0], images[::-1][::-1]):
        probabilities, names = run.predict(array)
        assert (probabilities.shape, probabilities.dtype) == ((360, 10), np.float32)
        assert names == [row["predicted"] for row in table]
        assert [str(confidence) for confidence in probabilities.max(axis=1)] == [row["confidence"] for row in table]
    probabilities, names = run.predict(images[:0])
    assert (probabilities.shape, names) == ((0, 10), [])


def test_an_opened_run_predicts_files_as_the_command_does(photos):
    folder, cli = photos
    table = wrote(cli(f"predict {RUN} source/test --top_k 1"))
    paths = [folder / row["path"] for row in table]
    run = open_run(str(folder / RUN))
    for listed in (paths, [str(path) for path in paths], tuple(paths)):
        probabilities, names = run.predict(listed)
        assert names == [row["predicted"] for row in table]
        assert [str(confidence) for confidence in probabilities.max(axis=1)] == [row["confidence"] for row in table]
    probabilities, names = run.predict([])
    assert (probabilities.shape, names) == ((0, 2), [])


@pytest.mark.parametrize(
    ("images", "parts"),
    [
        (np.zeros((2, 6, 7), np.uint8), ["shape (2, 6, 7)", "expected type uint8 and shape (N, 6, 7, 3), or"]),
        (np.zeros((2, 7, 6, 3), np.uint8), ["shape (2, 7, 6, 3)", "(N, 6, 7, 3)"]),
        (np.zeros((2, 3, 6, 7), np.uint8), ["shape (2, 3, 6, 7)", "(N, 6, 7, 3)"]),
        (np.zeros((6, 7, 3), np.uint8), ["shape (6, 7, 3)", "(N, 6, 7, 3)"]),
        (np.zeros((2, 6, 7, 3)), ["type float64 and shape (2, 6, 7, 3)", "expected type uint8"]),
        (torch.zeros((2, 6, 7, 3)), ["images is of type Tensor", "or a list of paths"]),
        ("photo.png", ["images is of type str", "or a list of paths"]),
        ([np.zeros((6, 7, 3), np.uint8)], ["images is a list with an element of type ndarray", "list of paths"]),
        (["nosuch.png"], ["nosuch.png cannot be used as an image (cannot be read", "leave it out"]),
    ],
)
def test_other_images_are_refused_in_one_sentence(photos, images, parts):
    folder, _ = photos
    with pytest.raises(UserError) as refusal:
        open_run(folder / RUN).predict(images)
    for part in parts:
        assert part in str(refusal.value)


def test_a_grayscale_run_names_both_shapes(digits):
    folder, _ = digits
    with pytest.raises(UserError, match=r"expected type uint8 and shape \(N, 28, 28, 1\) or \(N, 28, 28\), or"):
        open_run(folder / RUN).predict(np.zeros((2, 8, 8), np.uint8))


# Real processes


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "visionbench", *words]


def read_by_nobody(*words: str, cwd: Path) -> subprocess.CompletedProcess:
    """Runs a command whose standard output has no reader."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(command(*words), stdout=writer, stderr=subprocess.PIPE, text=True, cwd=cwd, check=False)
    finally:
        os.close(writer)


def test_a_reader_that_has_gone_is_no_error(tmp_path):
    done = read_by_nobody("--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.slow
@pytest.mark.parametrize("line", [["data", "list"], ["data"], ["predict", RUN, "source"], ["compare", RUN, RUN]])
def test_a_reader_that_has_gone_is_no_error_to_any_command(photos, line):
    folder, _ = photos
    done = read_by_nobody(*line, cwd=folder)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.fixture(scope="module")
def many(photos, tmp_path_factory):
    """A folder of images, enough to be killed in the midst of them, and their table."""
    _, cli = photos
    folder = write_images(tmp_path_factory.mktemp("many"), {"cat": 400, "dog": 400}, size=(120, 120))
    (folder / "dog" / "200.png").write_bytes(b"broken")
    table = cli(f"predict {RUN} {folder}").out
    assert len(rows(table)) == 800
    return folder, table


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_killed_and_run_again_it_writes_the_same_table(photos, many, tmp_path, number, status):
    folder, _ = photos
    images, expected = many
    words = ["predict", RUN, str(images), "--output", f"{tmp_path}/out.csv"]
    part = tmp_path / ".out.csv.part"
    with subprocess.Popen(command(*words), cwd=folder, stderr=subprocess.PIPE, start_new_session=True) as process:
        while process.poll() is None and not (part.is_file() and part.stat().st_size > 2000):
            time.sleep(0.002)
        process.send_signal(number)
        process.wait(60)
        assert process.returncode == status, process.stderr.read()
    assert not (tmp_path / "out.csv").exists()
    assert part.exists() == (number == signal.SIGKILL)
    again = subprocess.run(command(*words), cwd=folder, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out.csv").read_text(encoding="utf-8") == expected
    assert not part.exists()


def test_the_accuracy_says_what_it_is_worth(digits):
    _, cli = digits
    assert "this accuracy (train_eval/acc) is no estimate for other images" in cli(f"predict {RUN} train").err
    assert "the epoch was chosen on the images of val" in cli(f"predict {RUN} val").err
    assert "openings   the test images were opened " in cli(f"predict {RUN} test").err


def test_a_run_in_64_bits_predicts_what_it_recorded_and_in_32_bits_where_asked(cli, tmp_path):
    assert cli(f"{SMALL} --data Digits --trainer.precision 64-true").status == 0
    run = open_run(tmp_path / RUN)
    recorded = np.load(tmp_path / RUN / "predictions" / "test-probabilities.npy")
    for table in (wrote(cli(f"predict {RUN} test --top_k 1")), wrote(cli(f"predict {RUN} test --precision 64"))):
        assert [row["confidence"] for row in table] == [str(value) for value in recorded.max(axis=1)]
    assert {weight.dtype for weight in run.model.parameters()} == {torch.float64}
    single = wrote(cli(f"predict {RUN} test --precision 32-true"))
    assert abs(accuracy(single) - run.metrics["test/acc"]) < 0.01
    assert cli(f"test {RUN} --trainer.precision 32-true").status == 0


@pytest.mark.parametrize(("threads", "expected"), [(0, 1), (2, 2)])
def test_an_opened_run_predicts_with_the_threads_of_the_run(digits, threads, expected):
    folder, _ = digits
    run, seen, before = open_run(folder / RUN), [], torch.get_num_threads()
    run.config["threads"] = threads
    run.model.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    torch.set_num_threads(3)
    try:
        run.predict(np.zeros((2, 28, 28), np.uint8))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == [expected]


def test_a_file_in_a_folder_of_inputs_is_replaced_only_if_it_holds_predictions(photos, tmp_path):
    _, cli = photos
    new = write_images(tmp_path / "new", {"cat": 2})
    (tmp_path / "new" / "notes.csv").write_text("path,remark\n")
    before = {path: path.read_bytes() for path in new.rglob("*.*")}
    for file in ("cat/00.png", "notes.csv", "cat/../notes.csv"):
        for line in (f"predict {RUN} {new}", f"export {RUN} --format safetensors --check {new}"):
            assert "is an input, which --output would replace" in cli(f"{line} --output {new / file}").refusal()
    assert {path: path.read_bytes() for path in new.rglob("*.*")} == before
    for _ in range(2):
        assert cli(f"predict {RUN} {new} --output {new / 'table.csv'}").status == 0
    names = [Path(row["path"]).name for row in rows((new / "table.csv").read_text())]
    assert names[:2] == ["00.png", "01.png"]
