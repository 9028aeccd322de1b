"""visionbench export: files that say what the checkpoint says, of the raw pixels, and what they are made of."""

import errno
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.test_cli import OWN_NET
from tests.test_predict import rows
from visionbench.data import Digits
from visionbench.inference import export
from visionbench.models import Classifier
from visionbench.runs.identity import weights_digest

SMALL = {
    "MLP": "--model MLP --model.widths [8] --model.batch_norm true",
    "CNN": "--model CNN --model.widths [4,8] --model.convs [1,1] --model.dropouts [0.2,0.2]",
    "PatchMLP": "--model PatchMLP --model.patch_size 7 --model.width 8 --model.loss nll",
    "FrozenResNet": "--model FrozenResNet --model.weights none --model.min_size 32 --data.train_size 40",
    "WhitenedCNN": "--model WhitenedCNN --model.widths [4,8] --model.views flip_shift",
}


class Exported:
    """A run and the command line in the folder it lies in."""

    def __init__(self, cli_in, folder, options):
        self.folder, self.cli = folder, cli_in(folder)
        first, _, rest = options.partition(" --data")
        line = f"fit {first} --data Digits --trainer.max_epochs 1 --name run" + (f" --data{rest}" if rest else "")
        result = self.cli(line)
        assert result.status == 0, result
        self.run = folder / "lightning_logs" / "run" / "version_0"

    def export(self, options):
        return self.cli(f"export {self.run} {options}")


@pytest.fixture(scope="module")
def exported(cli_in, tmp_path_factory):
    """An MLP."""
    return Exported(cli_in, tmp_path_factory.mktemp("export"), SMALL["MLP"])


@pytest.fixture(scope="module")
def test_images(digits_root):
    data = Digits(root=str(digits_root))
    data.setup()
    return np.array(data.store.arrays["test-images"])


def predicted(exported, count):
    """What predict says of the first test images, in 32 bits: classes and their probabilities."""
    table = rows(exported.cli(f"predict {exported.run} test --precision 32-true --top_k 1").out)[:count]
    return [int(row["predicted"]) for row in table], [float(row["confidence"]) for row in table]


def answers(file: Path, images):
    """What a file gives in its own runtime, which knows nothing of visionbench."""
    if file.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(file)
        return session.run(["probabilities", "classes"], {"images": images})
    with torch.no_grad():
        return [tensor.numpy() for tensor in torch.export.load(file).module()(torch.from_numpy(images))]


@pytest.mark.parametrize("format", ["onnx", "torch_export"])
def test_the_file_takes_raw_pixels_and_says_what_predict_says(exported, test_images, format):
    result = exported.export(f"--format {format} --samples 50")
    assert (result.status, result.err) == (0, "")
    assert "checked    on 50 samples of test: the same classes as " in result.out
    (file,) = (exported.run / "exports").glob(f"model{export.SUFFIXES[format]}")
    assert f"file       {file}" in result.out
    classes, confidences = predicted(exported, 360)
    for count in (1, 3, 360):  # any number at once
        probabilities, given = answers(file, test_images[:count])
        assert probabilities.shape == (count, 10)
        assert given.tolist() == probabilities.argmax(axis=1).tolist() == classes[:count]
        np.testing.assert_allclose(probabilities.max(axis=1), confidences[:count], atol=1e-6)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_the_guide_s_example_says_what_predict_says(exported, test_images, tmp_path, monkeypatch, capsys):
    guide = (Path(__file__).parents[1] / "docs/predict.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(import json.*?)^```$", guide, flags=re.MULTILINE | re.DOTALL)
    assert exported.export(f"--format onnx --samples 2 --output {tmp_path}/model.onnx").status == 0
    Image.fromarray(test_images[7, ..., 0]).resize((50, 50)).save(tmp_path / "boot.png")
    (row,) = rows(exported.cli(f"predict {exported.run} {tmp_path}/boot.png --precision 32-true").out)
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    name, probability = capsys.readouterr().out.split()
    assert name == row["predicted"]
    assert float(probability) == pytest.approx(float(row["confidence"]), abs=1e-6)


def metadata(file: Path) -> dict:
    if file.suffix == ".onnx":
        import onnxruntime

        text = onnxruntime.InferenceSession(file).get_modelmeta().custom_metadata_map
    elif file.suffix == ".pt2":
        text = {"class_names": "", "preprocessing": "", "weights_digest": "", "model": ""}
        torch.export.load(file, extra_files=text)
    else:
        from safetensors import safe_open

        with safe_open(file, "pt") as opened:
            text = opened.metadata()
    return {name: json.loads(value) for name, value in text.items()}


@pytest.mark.parametrize("format", ["onnx", "torch_export", "safetensors"])
def test_class_names_and_preprocessing_are_inside(exported, format):
    assert exported.export(f"--format {format} --samples 2 --output some/file.{format}").status == 0
    said_of = json.loads((exported.run / "input.json").read_text())
    output = exported.folder / "some" / f"file.{format}"
    file = output.rename(output.with_suffix(export.SUFFIXES[format]))
    said = metadata(file)
    assert said["class_names"] == list("0123456789")
    assert said["preprocessing"]["normalise"]["mean"] == said_of["mean"]
    assert said["preprocessing"]["normalise"]["std"] == said_of["std"]
    assert said["preprocessing"]["normalise_is_inside"] == (format != "safetensors")
    assert said["preprocessing"]["from_file"] == said_of["file"]
    assert said["preprocessing"]["images"]["shape"] == [None, 28, 28, 1]
    assert said["weights_digest"] == json.loads((exported.run / "run.json").read_text())["weights_digest"]
    assert said["model"]["init_args"]["widths"] == [8]
    assert file.stat().st_mode & 0o777 == (exported.run / "input.json").stat().st_mode & 0o777


def test_safetensors_holds_the_weights_and_another_run_starts_from_them(exported):
    from safetensors.torch import load_file

    result = exported.export("--format safetensors --samples 100")
    assert "difference 0 at most" in result.out
    file = exported.run / "exports" / "model.safetensors"
    report = json.loads((exported.run / "run.json").read_text())
    assert weights_digest(load_file(file)) == report["weights_digest"]
    line = f"fit {SMALL['MLP']} --data Digits --trainer.max_epochs 1 --model.start_from {file} --name started"
    assert exported.cli(line).status == 0
    started = exported.folder / "lightning_logs" / "started" / "version_0" / "run.json"
    assert json.loads(started.read_text())["start"]["weights_digest"] == report["weights_digest"]


def test_it_is_checked_on_files_where_the_data_are_not_there(exported, tmp_path, test_images):
    for number in range(3):
        Image.fromarray(test_images[number, ..., 0]).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").touch()
    result = exported.export(f"--format torch_export --check {tmp_path} --data.root {tmp_path}/nothing")
    assert result.status == 0, result
    assert f"on 3 samples of {tmp_path}: the same classes" in result.out
    assert not (tmp_path / "nothing").exists()


def test_a_precision_that_is_not_32_bits_is_said(cli_in, tmp_path):
    run = Exported(cli_in, tmp_path, f"{SMALL['MLP']} --trainer.precision bf16-mixed")
    assert (
        "precision  32 bits; in bf16-mixed, the precision of the run, the class differs for "
        in run.export("--format onnx").out
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda probabilities, classes: (probabilities + 0.01, classes), "is 0.01 "),
        (lambda probabilities, classes: (probabilities, (classes + 1) % 10), "differs in 21 of 21 predictions"),
        (lambda probabilities, classes: (probabilities * np.nan, classes), "is nan "),
    ],
)
def test_a_file_with_other_predictions_is_not_kept(exported, monkeypatch, wrong, said):
    file = exported.run / "exports" / "kept.pt2"
    file.parent.mkdir(exist_ok=True)
    file.write_text("before")
    reopened = export._reopened_program

    def answers_otherwise(path, metadata):
        right = reopened(path, metadata)
        return lambda pixels: wrong(*right(pixels))

    monkeypatch.setattr(export, "_reopened_program", answers_otherwise)
    result = exported.export(f"--format torch_export --samples 20 --output {file}")
    assert result.status == 1
    assert "The predictions of the torch_export file differ from those of the checkpoint" in result.err
    assert said in result.err
    assert result.err.count("\n") == 1
    assert file.read_text() == "before"
    assert not list(file.parent.glob(".*"))


@pytest.mark.parametrize("format", ["torch_export", "safetensors"])
def test_a_full_disk_is_one_sentence_and_leaves_no_file(exported, monkeypatch, format):
    def write_nothing(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_nothing)
    result = exported.export(f"--format {format} --samples 10 --output full/model")
    assert result.status == 1
    assert "full/model could not be written ([Errno 28] No space left on device); give another --output." in result.err
    assert list((exported.folder / "full").iterdir()) == []


def test_lost_metadata_are_noticed(exported, monkeypatch):
    save = torch.export.save
    monkeypatch.setattr(torch.export, "save", lambda program, file, extra_files: save(program, file))
    result = exported.export("--format torch_export --samples 2")
    assert result.status == 1
    assert "has lost its metadata class_names" in result.err


def test_a_network_that_cannot_be_exported_is_one_sentence(cli_in, tmp_path):
    (tmp_path / "own_branching").mkdir()
    branch = "def forward(self, images):\n        return super().forward(images * (2 if images.sum() > 0 else 1))"
    (tmp_path / "own_branching" / "nets.py").write_text(f"{OWN_NET}\n    {branch}\n")
    run = Exported(cli_in, tmp_path, "--model own_branching.nets.MyNet")
    result = run.export("--format torch_export")
    assert result.status == 1
    assert result.err.startswith("visionbench: error: torch cannot export MyNet (")
    assert result.err.count("\n") == 1
    assert not list((run.run / "exports").iterdir())


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ("", ["No format is given", "onnx|torch_export|safetensors"]),
        ("--format onx", ["format: found onx, expected one of onnx, torch_export, safetensors"]),
        ("--format onnx --samples 0", ["samples is 0"]),
        ("--format onnx --check nosuch", ["There is no file or folder nosuch"]),
        ("--format onnx --fromat x", ["There is no option --fromat; did you mean --format?"]),
    ],
)
def test_a_mistake_is_one_sentence(exported, options, parts):
    sentence = exported.export(options).refusal()
    for part in parts:
        assert part in sentence


def test_nothing_to_check_on_is_refused(exported, tmp_path):
    (tmp_path / "empty").mkdir()
    assert (
        "empty and its subfolders hold no files" in exported.export(f"--format onnx --check {tmp_path}/empty").refusal()
    )
    (tmp_path / "empty" / "notes.txt").write_text("none\n")
    assert "holds no image to check" in exported.export(f"--format onnx --check {tmp_path}/empty").refusal()


def test_a_package_that_is_not_there_is_named(exported, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    sentence = exported.export("--format onnx").refusal()
    assert "needs onnxruntime, which is not installed" in sentence
    assert "pip install 'visionbench[export]'" in sentence


# All models


def skip_where_torch_is_too_old(name):
    if name == "WhitenedCNN" and torch.__version__ < (2, 13):
        pytest.skip("torch 2.11 cannot convert its layers to ONNX, which the program says; 2.13 can")


def agree(cli_in, folder, options, samples, formats=("onnx", "torch_export")):
    run = Exported(cli_in, folder, options)
    for format in formats:
        result = run.export(f"--format {format} --samples {samples}")
        assert result.status == 0, result
        assert f"on {samples:,} samples of test: the same classes" in result.out
        (line,) = [line for line in result.out.splitlines() if line.startswith("difference")]
        assert float(line.split()[1]) <= 1e-5, line


@pytest.mark.parametrize("name", ["PatchMLP", "FrozenResNet", "WhitenedCNN"])  # the others are above
def test_small_models_agree(cli_in, tmp_path, name):
    skip_where_torch_is_too_old(name)
    agree(cli_in, tmp_path, SMALL[name], 40, ["onnx"])  # which comes of a torch.export


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_the_models_agree_on_1000_test_images(cli_in, tmp_path, name):
    skip_where_torch_is_too_old(name)
    weights = " --model.weights none" if name == "FrozenResNet" else ""
    agree(cli_in, tmp_path, f"--model {name}{weights} --data.test_size 1000", 1000)


def test_every_model_is_tried():
    assert set(SMALL) == {
        kind.__name__ for kind in Classifier.__subclasses__() if kind.__module__.startswith("visionb")
    }
