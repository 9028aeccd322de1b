"""visionbench export of runs on tables: files that take raw rows, and a JSON file that says how a row is made."""

import csv
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fakes import write_heart
from tests.test_predict import rows
from tests.test_predict_tables import FIT, OPTIONS, RUN, TEST, TRAIN, as_text, patients, write_ward
from visionbench.inference import export
from visionbench.inference.trained import open_run

VARIANTS = {
    "one-hot": "--model.batch_norm true --model.dropout 0.2",
    "labels": "--data.encoding label --data.scaling none --model.loss nll",
    "no-categories": "--data.ignore [id,sex,café]",
    "no-numbers": "--data.ignore [id,age,weight,pulse,smoker] --data.encoding label --data.train_size 9",
}
TWO_CLASSES = {"binary": "binary_cross_entropy", "squares": "mse"}


def trained(cli, folder: Path, options: str) -> None:
    write_ward(folder)
    result = cli(f"{FIT} {OPTIONS} --data.root root --name ward {options}")
    assert result.status == 0, result


@pytest.fixture(scope="module")
def ward(cli_in, tmp_path_factory):
    """A folder with a run on a table and its ONNX file, and the command line in it."""
    folder = tmp_path_factory.mktemp("export")
    cli = cli_in(folder)
    trained(cli, folder, "")
    result = cli(f"export {RUN} --format onnx")
    assert (result.status, result.err) == (0, "")
    assert "checked    on 40 samples of test: the same classes as " in result.out
    assert "inputs     rows: float64, any number x 6 columns (numbers, and codes of categories)" in result.out
    assert f"columns    {RUN}/exports/model.onnx.json" in result.out
    return folder, cli


def code(cell: str, column: dict, missing: list[str]) -> float:
    """The number that stands for a cell, by the JSON file alone."""
    is_missing = cell.casefold() in missing or cell in column["missing"]
    if column["kind"] == "numeric":
        return math.nan if is_missing else float(cell)
    return column["missing_code"] if is_missing else column["codes"].get(cell, column["unseen_code"])


def raw_rows(description: dict, table: Path) -> np.ndarray:
    columns, missing = (description["preprocessing"][name] for name in ("columns", "missing"))
    with table.open(encoding="utf-8", newline="") as file:
        return np.array(
            [[code(row[c["name"]], c, missing) for c in columns] for row in csv.DictReader(file)], dtype=float
        )


def answers(file: Path, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a file gives in its own runtime, which knows nothing of visionbench."""
    if file.suffix == ".onnx":
        import onnxruntime

        return onnxruntime.InferenceSession(file).run(["probabilities", "classes"], {"rows": raw})
    with torch.no_grad():
        return tuple(tensor.numpy() for tensor in torch.export.load(file).module()(torch.from_numpy(raw)))


def agrees(folder: Path, file: Path, tables: list[str]) -> None:
    """Asserts that a file and its JSON give what the run gives, of all rows of some tables."""
    description = json.loads(file.with_name(f"{file.name}.json").read_text(encoding="utf-8"))
    run = open_run(folder / RUN)
    for name in tables:
        raw = raw_rows(description, folder / name)
        probabilities, classes = answers(file, raw)
        expected, names = run.predict(folder / name)
        assert [description["class_names"][label] for label in classes] == names
        np.testing.assert_allclose(probabilities, expected, atol=1e-5, rtol=0)
        assert len(probabilities) == len(raw) > 0
        single, _ = answers(file, raw[:1])
        np.testing.assert_allclose(single, expected[:1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("format", ["onnx", "torch_export"])
def test_the_file_and_its_json_say_what_predict_says(ward, format):
    folder, cli = ward
    file = folder / RUN / f"exports/model{export.SUFFIXES[format]}"
    assert file.is_file() or cli(f"export {RUN} --format {format}").status == 0
    agrees(folder, file, ["ward/train.csv", "ward/test.csv"])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "labels" else pytest.mark.slow) for name in VARIANTS]
)
def test_all_encodings_agree_on_all_rows(cli, tmp_path, name):
    trained(cli, tmp_path, VARIANTS[name])
    # With a category that training never saw, and cells that are missing where none is in training.
    other = [[*row[:2], "X", "lait", *row[4:5], "", *row[6:]] for row in patients(5, 2)]
    (tmp_path / "other.csv").write_text(as_text([*TEST, *other]), encoding="utf-8")
    result = cli(f"export {RUN} --format onnx --check other.csv")
    assert result.status == 0, result
    agrees(tmp_path, tmp_path / RUN / "exports/model.onnx", ["ward/train.csv", "ward/test.csv"])
    run = open_run(tmp_path / RUN)
    file = tmp_path / RUN / "exports/model.onnx"
    description = json.loads(file.with_name("model.onnx.json").read_text(encoding="utf-8"))
    probabilities, _ = answers(file, raw_rows(description, tmp_path / "other.csv"))
    expected, _ = run.predict(tmp_path / "other.csv", unseen="zeros")
    np.testing.assert_allclose(probabilities, expected, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("loss", TWO_CLASSES)
def test_models_of_one_output_agree_on_the_heart_table(cli, tmp_path, loss):
    write_heart(tmp_path / "heart", {"train": 90, "test": 30})
    line = f"{FIT} --data HeartFailure --data.source heart --data.root root --name ward"
    assert cli(f"{line} --model.loss {TWO_CLASSES[loss]}").status == 0
    result = cli(f"export {RUN} --format onnx")
    assert result.status == 0, result
    agrees(tmp_path, tmp_path / RUN / "exports/model.onnx", ["heart/train.csv", "heart/test.csv"])


def test_the_json_describes_each_column(ward):
    folder, _ = ward
    file = folder / RUN / "exports/model.onnx"
    description = json.loads(file.with_name("model.onnx.json").read_text(encoding="utf-8"))
    assert description["class_names"] == ["gesund", "krank", "très malade"]
    preprocessing = description["preprocessing"]
    assert preprocessing["rows"] == {"dtype": "float64", "shape": [None, 6]}
    assert preprocessing["encoding_is_inside"] is True
    assert preprocessing["target"] == "état"
    columns = {column["name"]: column for column in preprocessing["columns"]}
    assert list(columns) == ["age", "sex", "café", "weight", "pulse", "smoker"]
    assert columns["café"]["codes"] == {"crème": 0, "noir, fort": 1, "thé": 2}
    assert (columns["café"]["missing_code"], columns["café"]["unseen_code"]) == (-1, -2)
    assert (columns["pulse"]["missing"], columns["pulse"]["missing_numbers"]) == (["0"], [0.0])
    train = [row for number, row in enumerate(TRAIN) if number in set(_train_index(folder))]
    weights = [float(row[4]) for row in train if row[4]]
    assert columns["weight"]["fill"] == np.median(weights)
    filled = [float(row[4] or np.median(weights)) for row in train]
    assert columns["weight"]["mean"] == pytest.approx(np.mean(filled))
    assert columns["weight"]["std"] == pytest.approx(np.std(filled))
    import onnxruntime

    session = onnxruntime.InferenceSession(file)
    metadata = session.get_modelmeta().custom_metadata_map
    assert {name: json.loads(text) for name, text in metadata.items()} == description
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape) == ("rows", "tensor(double)", ["batch", 6])


def _train_index(folder: Path) -> list[int]:
    from visionbench.data import Table

    data = Table(
        *(str(folder / "ward"), "état"), ignore=["id"], missing={"pulse": 0}, root=str(folder / "root"), batch_size=16
    )
    data.setup()
    return data.train_index.tolist()


def test_safetensors_comes_with_the_columns(ward):
    folder, cli = ward
    result = cli(f"export {RUN} --format safetensors")
    assert "the metadata describe the columns and the outputs" in result.out
    description = json.loads((folder / RUN / "exports/model.safetensors.json").read_text(encoding="utf-8"))
    assert description["preprocessing"]["encoding_is_inside"] is False


def test_the_guide_s_example_says_what_predict_says(ward, monkeypatch, capsys, tmp_path):
    folder, cli = ward
    guide = (Path(__file__).parents[1] / "docs/tables.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(import csv, json.*?)^```$", guide, flags=re.MULTILINE | re.DOTALL)
    for name in ("model.onnx", "model.onnx.json"):
        shutil.copy(folder / RUN / "exports" / name, tmp_path)
    written_otherwise = [*TEST[0][:5], "0.0", *TEST[0][6:]]  # of the number that --data.missing names
    (tmp_path / "new.csv").write_text(as_text([written_otherwise, *TEST]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    expected = rows(cli(f"predict {RUN} {tmp_path}/new.csv").out)
    printed = [line.rsplit(" ", 1) for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in printed] == [row["predicted"] for row in expected]
    assert [float(p) for _, p in printed] == pytest.approx([float(row["confidence"]) for row in expected], abs=1e-5)


def test_it_is_checked_on_a_table_and_rows_that_cannot_be_used_are_left_out(ward, tmp_path):
    _, cli = ward
    table = [*TEST[:5], [TEST[5][0], "old", *TEST[5][2:]]]
    (tmp_path / "new.csv").write_text(as_text(table), encoding="utf-8")
    result = cli(f"export {RUN} --format torch_export --check {tmp_path}/new.csv --data.root {tmp_path}/nothing")
    assert f"on 5 samples of {tmp_path}/new.csv: the same classes" in result.out
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "new.csv").write_text(as_text(table[5:]), encoding="utf-8")
    sentence = cli(f"export {RUN} --format torch_export --check {tmp_path}/new.csv").refusal()
    assert "new.csv holds no row to check the file on" in sentence


def test_a_file_with_other_predictions_is_not_kept_nor_its_json(ward, monkeypatch):
    folder, cli = ward
    (folder / "kept").mkdir()
    for name in ("model.pt2", "model.pt2.json"):
        (folder / "kept" / name).write_text("before")
    reopened = export._reopened_program

    def answers_otherwise(path, metadata):
        right = reopened(path, metadata)
        return lambda raw: (right(raw)[0] + 0.01, right(raw)[1])

    monkeypatch.setattr(export, "_reopened_program", answers_otherwise)
    result = cli(f"export {RUN} --format torch_export --output kept/model.pt2")
    assert result.status == 1
    assert "differ from those of the checkpoint" in result.err
    assert {path.name: path.read_text() for path in (folder / "kept").iterdir()} == {
        "model.pt2": "before",
        "model.pt2.json": "before",
    }
