"""visionbench predict of tables: what it says of a file's rows is what `visionbench test` says of the same rows."""

import csv
import io
import json
import os
import shutil
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

import visionbench
from tests.fakes import write_heart, write_images
from tests.test_predict import accuracy, rows, wrote
from visionbench.data import HeartFailure, Table
from visionbench.errors import UserError
from visionbench.inference.tables import EncodeRows, open_table, table_recipe
from visionbench.inference.trained import open_run

RUN = "lightning_logs/ward/version_0"
FIT = "fit --model MLP --model.widths [8] --trainer.max_epochs 3 --data.batch_size 16 --trainer.precision 32-true"
OPTIONS = '--data Table --data.source ward --data.target état --data.ignore [id] --data.missing "{pulse: 0}"'
NAMES = ["id", "age", "sex", "café", "weight", "pulse", "smoker", "état"]
CLASSES = ["gesund", "krank", "très malade"]


def patients(count: int, seed: int) -> list[list[str]]:
    """Rows of a table: an id, numbers with and without missing cells, two binary columns and categories."""
    random = np.random.RandomState(seed)
    table = []
    for number in range(count):
        state = number % 3
        table.append(
            [
                f"p-{seed}-{number:03d}",
                f"{1e6 + 10 * state + random.rand():.4f}",  # large with a small deviation: 32 bits would not do
                "FM"[random.randint(2)],
                ("thé", "noir, fort", "crème", "NA")[state if number % 5 else random.randint(4)],
                "" if number % 7 == 3 else f"{60 + 5 * state + random.rand():.3f}",
                "0" if number % 11 == 5 else f"{random.randint(50, 120)}",
                str(random.randint(2)),
                CLASSES[state],
            ]
        )
    return table


def as_text(table: list[list[str]], names: list[str] = NAMES, separator: str = ",") -> str:
    file = io.StringIO()
    csv.writer(file, delimiter=separator, lineterminator="\n").writerows([names, *table])
    return file.getvalue()


TRAIN, TEST = patients(120, 0), patients(40, 1)


def write_ward(folder: Path) -> None:
    (folder / "ward").mkdir()
    (folder / "ward/train.csv").write_text(as_text(TRAIN), encoding="utf-8")
    (folder / "ward/test.csv").write_text(as_text(TEST), encoding="utf-8")


@pytest.fixture(scope="module")
def ward(cli_in, tmp_path_factory):
    """A folder with a run on a table, and the command line in it."""
    folder = tmp_path_factory.mktemp("ward")
    write_ward(folder)
    cli = cli_in(folder)
    result = cli(f"{FIT} {OPTIONS} --data.root root --name ward --figures final")
    assert result.status == 0, result
    return folder, cli


@pytest.fixture(scope="module")
def opened(ward):
    """The run, opened from Python."""
    return open_run(ward[0] / RUN)


@pytest.fixture
def new(ward):
    """Writes a table beside the run and gives what predict writes of it."""
    folder, cli = ward

    def predict(text: str, options: str = "", name: str = "new.csv"):
        (folder / name).write_text(text, encoding="utf-8")
        return cli(f"predict {RUN} {name} {options}")

    return predict


def confidences(table) -> list[tuple[str, float]]:
    return [(row["predicted"], float(row["confidence"])) for row in table]


def expected(ward) -> list[tuple[str, float]]:
    """Predicted class and confidence of each test row, as the run recorded them."""
    predictions = open_run(ward[0] / RUN).predictions("test")
    pairs = zip(predictions.predicted, predictions.confidence, strict=True)
    return [(CLASSES[label], float(str(confidence))) for label, confidence in pairs]


# The same as `visionbench test`


def test_the_accuracy_of_a_split_and_of_its_file_is_that_of_visionbench_test(ward):
    folder, cli = ward
    metrics = json.loads((folder / RUN / "run.json").read_text())["metrics"]
    split, file = cli(f"predict {RUN} test"), cli(f"predict {RUN} ward/test.csv")
    for result in (split, file):
        assert accuracy(wrote(result)) == metrics["test/acc"]
        assert f"accuracy   {100 * metrics['test/acc']:.2f} %" in result.err
        assert "40 rows with a known class" in result.err
    assert confidences(rows(split.out)) == confidences(rows(file.out)) == expected(ward)
    assert [row["path"] for row in rows(split.out)] == [f"test/{number}" for number in range(40)]
    assert [(row["path"], row["line"], row["id"]) for row in rows(file.out)] == [
        ("ward/test.csv", str(number + 2), row[0]) for number, row in enumerate(TEST)
    ]
    assert f"{100 * metrics['test/acc']:.2f} %" in cli(f"test {RUN}").out


def test_probabilities_are_those_of_the_model(ward):
    folder, cli = ward
    data = Table(
        *(str(folder / "ward"), "état"), ignore=["id"], missing={"pulse": 0}, root=str(folder / "other"), batch_size=16
    )
    data.setup()
    run = open_run(folder / RUN)
    with torch.no_grad():
        probabilities = run.model.network(torch.tensor(data.encoded["test"])).softmax(dim=1)
    table = wrote(cli(f"predict {RUN} ward/test.csv --top_k 9"))
    for row, of_row in zip(table, probabilities.tolist(), strict=True):
        given = {row[f"predicted{rank}"]: float(row[f"confidence{rank}"]) for rank in ("", "_2", "_3")}
        assert given == pytest.approx(dict(zip(CLASSES, of_row, strict=True)), abs=1e-6)


@pytest.mark.parametrize("encoding", ["one_hot", "label"])
@pytest.mark.parametrize("scaling", ["standard", "none"])
def test_rows_are_encoded_as_in_training_bit_by_bit(tmp_path, encoding, scaling):
    write_ward(tmp_path)
    test = [[*row[:3], "lait", *row[4:]] if number % 9 == 2 else row for number, row in enumerate(TEST)]
    (tmp_path / "ward/test.csv").write_text(as_text(test), encoding="utf-8")
    train = [*TRAIN, [*TRAIN[0][:3], "maté", *TRAIN[0][4:]]]  # a category that the training split is without
    (tmp_path / "ward/train.csv").write_text(as_text(train), encoding="utf-8")
    data = Table(
        *(str(tmp_path / "ward"), "état"),
        **{"ignore": ["id"], "missing": {"pulse": "0"}, "unseen": "zeros", "categorical": ["smoker"]},
        **{"encoding": encoding, "scaling": scaling, "train_size": 7, "root": str(tmp_path / "root")},
    )
    data.setup()
    assert not all(all(feature.fitted.get("in_training", [True])) for feature in data.features)
    recipe = table_recipe(json.loads(json.dumps(data.describe_input())))
    table = open_table(tmp_path / "ward/test.csv", recipe)
    raw = torch.tensor(np.stack([sample.values for sample in table.samples()]))
    np.testing.assert_array_equal(EncodeRows(recipe)(raw), data.encoded["test"])
    # A missing category may be NaN, too.
    places = [place for place, column in enumerate(recipe.schema.columns) if column.kind == "categorical"]
    raw[:, places] = torch.where(raw[:, places] == -1, torch.nan, raw[:, places])
    assert raw[:, places].isnan().any()
    np.testing.assert_array_equal(EncodeRows(recipe)(raw), data.encoded["test"])


def test_the_heart_table_gives_the_accuracy_of_visionbench_test(cli, tmp_path):
    write_heart(tmp_path / "heart", {"train": 90, "test": 30})
    fitted = cli(f"{FIT} --data HeartFailure --data.source heart --data.root root --name ward")
    assert fitted.status == 0, fitted
    metrics = json.loads((tmp_path / RUN / "run.json").read_text())["metrics"]
    table = wrote(cli(f"predict {RUN} heart/test.csv"))
    assert accuracy(table) == metrics["test/acc"]
    data = HeartFailure(str(tmp_path / "heart"), root=str(tmp_path / "root"))
    data.setup()
    assert [int(row["true"]) for row in table] == data.store.arrays["test-labels"].tolist()


# What a table may look like


def test_order_and_other_columns_do_not_matter_and_the_target_may_be_absent(ward, new):
    order = [4, 0, 6, 3, 5, 1, 2]
    other = [[*(row[place] for place in order), f"note {number}, long"] for number, row in enumerate(TEST)]
    result = new(as_text(other, [*(NAMES[place] for place in order), "note"]))
    table = wrote(result)
    assert confidences(table) == expected(ward)
    assert result.out.splitlines()[0] == (
        "path,line,id,note,predicted,confidence,predicted_2,confidence_2,predicted_3,confidence_3,true,error"
    )
    assert [(row["id"], row["note"]) for row in table] == [(row[1], row[-1]) for row in other]
    assert {row["true"] for row in table} == {""}
    assert "accuracy" not in result.err
    assert "predicted  40 rows" in result.err


@pytest.mark.parametrize("separator", [";", "\t", "|"])
@pytest.mark.parametrize("decimal", [".", ","])
def test_another_separator_and_decimal_commas(opened, tmp_path, separator, decimal):
    def number(cell):
        return cell.replace(".", decimal)

    table = [[row[0], number(row[1]), *row[2:4], number(row[4]), *row[5:]] for row in TEST]
    (tmp_path / "new.csv").write_text(as_text(table, separator=separator), encoding="utf-8")
    np.testing.assert_array_equal(opened.predict(tmp_path / "new.csv")[0], opened.predictions("test").probabilities)


@pytest.mark.parametrize("text", ["", "NA", "?", "nan", "n/a", "NULL"])
def test_missing_cells_are_those_of_training(opened, tmp_path, text):
    row = TEST[0]
    blank = [*row[:3], "", "", "0", *row[6:]]
    other = [*row[:3], text, text, "0.0" if text == "?" else text, *row[6:]]
    (tmp_path / "new.csv").write_text(as_text([blank, other, row]), encoding="utf-8")
    probabilities, _ = opened.predict(tmp_path / "new.csv")
    assert probabilities[0].tolist() == probabilities[1].tolist() != probabilities[2].tolist()


def test_one_row_and_a_byte_order_mark_and_line_ends_of_windows(ward, new):
    text = "\ufeff" + as_text([TEST[4]]).replace("\n", "\r\n")
    (row,) = wrote(new(text))
    assert confidences([row]) == [pytest.approx(expected(ward)[4])]
    assert (row["id"], row["true"]) == (TEST[4][0], TEST[4][-1])


def test_a_table_of_one_column(cli, tmp_path):
    (tmp_path / "one.csv").write_text(
        "x,y\n" + "".join(f"{number % 2 * 5 + number / 99},{'ab'[number % 2]}\n" for number in range(60))
    )
    assert cli(f"{FIT} --data Table --data.source one.csv --data.target y --data.root root --name ward").status == 0
    (tmp_path / "new.csv").write_text("x\n0.5\n\n5.5\n")
    table = wrote(cli(f"predict {RUN} new.csv"))
    assert [row["line"] for row in table] == ["2", "4"]
    probabilities, names = open_run(tmp_path / RUN).predict({"x": [0.5, 5.5]})
    assert [row["predicted"] for row in table] == names
    assert [float(row["confidence"]) for row in table] == pytest.approx(probabilities.max(axis=1).tolist())


def test_all_columns_are_kept_and_none_has_the_name_of_another(ward, new):
    names = ["path", *NAMES[1:], "error", "input.error", "", "predicted"]
    result = new(as_text([[f"x{k}", *row[1:], "e", "i", "u", "p"] for k, row in enumerate(TEST)], names), "--keep all")
    assert result.status == 0, result
    header = next(csv.reader(io.StringIO(result.out)))
    assert header[:14] == [
        *("path", "line", "input.path", *NAMES[1:]),
        *("input.input.error", "input.error", "column 11", "input.predicted"),
    ]
    assert len(set(header)) == len(header)
    assert [list(row.values())[2:14] for row in rows(result.out)] == [
        [f"x{number}", *row[1:], "e", "i", "u", "p"] for number, row in enumerate(TEST)
    ]


def test_predictions_are_predicted_a_second_time(ward, new):
    first = wrote(new(as_text(TEST), "--keep all"))
    again = wrote(new(as_text([list(row.values()) for row in first], list(first[0]))))
    assert confidences(again) == confidences(first)
    assert [row["input.path"] for row in again] == ["new.csv"] * 40


def test_several_inputs_keep_their_order_and_all_their_columns(ward, monkeypatch):
    folder, cli = ward
    (folder / "several").mkdir(exist_ok=True)
    (folder / "several/b.csv").write_text(as_text([TEST[1]]), encoding="utf-8")
    (folder / "several/a.tsv").write_text(as_text([[*TEST[0], "x"]], [*NAMES, "more"], "\t"), encoding="utf-8")
    (folder / "several/read.me").write_text("no table")
    result = cli(f"predict {RUN} several test ward/test.csv")
    table = wrote(result)
    assert [(row["path"], row["line"], row["id"], row["more"]) for row in table] == [
        ("several/a.tsv", "2", TEST[0][0], "x"),
        ("several/b.csv", "2", TEST[1][0], ""),
        *((f"test/{number}", "", "", "") for number in range(40)),
        *(("ward/test.csv", f"{number + 2}", row[0], "") for number, row in enumerate(TEST)),
    ]
    assert confidences(table)[2:42] == confidences(table)[42:]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"several/a.tsv\nseveral/b.csv\n")))
    assert cli(f"predict {RUN} -").out == cli(f"predict {RUN} several").out


# What a table may not look like


def changed(row: int, column: str, cell: str) -> list[list[str]]:
    table = [list(cells) for cells in TEST]
    table[row][NAMES.index(column)] = cell
    return table


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ("heavy", "column 'weight' holds 'heavy', expected a number"),
        ("1_000", "column 'weight' holds '1_000', expected a number"),
        ("12:30", "column 'weight' holds '12:30', expected a number"),
        ("1e300", "column 'weight' holds '1e300', expected a number of at most 3.4e+38"),
        ("-inf", "column 'weight' holds '-inf', expected a number of at most 3.4e+38"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_and_the_others_are_predicted(ward, new, cell, problem):
    result = new(as_text(changed(17, "weight", cell)))
    table = wrote(result)
    assert table[17]["error"] == f"line 19: {problem}"
    assert (table[17]["id"], table[17]["predicted"], table[17]["true"]) == (TEST[17][0], "", TEST[17][-1])
    rest = [*table[:17], *table[18:]]
    assert [row["predicted"] for row in rest] == [name for k, (name, _) in enumerate(expected(ward)) if k != 17]
    assert {row["error"] for row in rest} == {""}
    assert (
        f"broken     1 row could not be used, such as new.csv, line 19: {problem}; the row has the reason" in result.err
    )
    assert "39 rows with a known class" in result.err


def test_each_cell_of_a_row_that_cannot_be_used_is_named(new):
    table = changed(3, "weight", "heavy")
    table[3][1] = "old"
    table[5][5] = "fast"
    result = new(as_text(table))
    assert [row["error"] for row in wrote(result) if row["error"]] == [
        "line 5: column 'age' holds 'old', expected a number; column 'weight' holds 'heavy', expected a number",
        "line 7: column 'pulse' holds 'fast', expected a number",
    ]
    assert "broken     2 rows could not be used, such as new.csv, line 5" in result.err


@pytest.mark.parametrize(("column", "cell"), [("café", "lait"), ("sex", "X"), ("sex", ""), ("café", "Thé")])
def test_a_category_that_training_never_saw(ward, opened, new, column, cell):
    text = as_text(changed(8, column, cell))
    result = new(text)
    row = wrote(result)[8]
    assert row["error"] == f"line 10: column '{column}' holds '{cell}', which is no category of the training table"
    assert (
        "unseen     1 row of these has a category that the training table does not have; --unseen zeros" in result.err
    )
    zeros, names = opened.predict(ward[0] / "new.csv", unseen="zeros")
    data = Table(str(ward[0] / "ward"), "état", ignore=["id"], missing={"pulse": 0}, root=str(ward[0] / "other"))
    data.setup()
    encoded = torch.tensor(data.encoded["test"][8])
    encoded[
        [place for place, name in enumerate(data.feature_names) if name.startswith((f"{column}=", f"{column} "))]
    ] = 0
    with torch.no_grad():
        probabilities = opened.model.network(encoded[None]).softmax(dim=1)[0]
    assert zeros[8].tolist() == pytest.approx(probabilities.tolist(), abs=1e-6)
    assert names[8] == CLASSES[int(probabilities.argmax())]


def test_a_class_that_the_run_does_not_have_is_no_part_of_the_accuracy(new):
    table = changed(6, "état", "tot")
    table[7][-1], table[8][-1] = "?", ""
    result = new(as_text(table))
    assert [row["true"] for row in wrote(result)][5:10] == [TEST[5][-1], "", "", "", TEST[9][-1]]
    assert "37 rows with a known class" in result.err
    assert "note: 1 row has a class that the run does not have, such as new.csv, line 8: 'tot'; " in result.err


def test_classes_that_are_numbers_may_be_spelled_in_any_way(cli, tmp_path):
    (tmp_path / "one.csv").write_text(
        "x,y\n" + "".join(f"{number % 2 * 5 + number / 99},{number % 2}\n" for number in range(60))
    )
    assert cli(f"{FIT} --data Table --data.source one.csv --data.target y --data.root root --name ward").status == 0
    (tmp_path / "new.csv").write_text("y,x\n1,5\n1.0,5\n1e0,5\n+1,5\n0,5\n-1,5\n")
    result = cli(f"predict {RUN} new.csv")
    assert [row["true"] for row in wrote(result)] == ["1", "1", "1", "1", "0", ""]
    assert "a class that the run does not have, such as new.csv, line 7: '-1'" in result.err


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["new.csv is empty, expected a line with the names of the columns"]),
        ("\n \n", ["new.csv is empty"]),
        (as_text([]), ["new.csv has a line of column names but no rows; add rows"]),
        (as_text([row[:4] for row in TEST], NAMES[:4]), ["new.csv has no column 'weight', which is a column of the"]),
        (as_text(TEST, ["id", "Age", *NAMES[2:]]), ["no column 'age'", "did you mean 'Age'?"]),
        (as_text([TEST[0], TEST[1][:5]]), ["new.csv, line 3, has 5 cells, expected 8"]),
        (as_text(TEST, [*NAMES[:-1], "age"]), ["new.csv has 2 columns named 'age'"]),
        (as_text([]) + '"a', ["new.csv cannot be read as CSV"]),
        (as_text(TEST[:1]) + "a\0b,,,,,,,\n", []),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence_and_nothing_is_written(ward, new, text, parts):
    folder, _ = ward
    before = "path,predicted,confidence,true,error\n"
    (folder / "kept.csv").write_text(before)
    result = new(text, "--output kept.csv")
    if parts:
        sentence = result.refusal()
        assert all(part in sentence for part in parts), sentence
        assert result.out == ""
        assert (folder / "kept.csv").read_text() == before
    assert result.status in (0, 2)


def test_a_file_in_another_encoding(ward):
    folder, cli = ward
    (folder / "latin.csv").write_bytes(as_text(TEST).encode("latin-1"))
    assert "latin.csv is not UTF-8" in cli(f"predict {RUN} latin.csv").refusal()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("nosuch.csv", ["There is no file or folder nosuch.csv"]),
        (
            "empty",
            ["empty holds no table (.csv or .tsv); give a CSV file with the columns 'age', 'sex', 'café', 'weight'"],
        ),
        ("photos", ["photos holds no table"]),
        ("photos/a/00.png", ["photos/a/00.png is an image, but the run was trained on a table; give a CSV file"]),
        ("ward/test.csv --resize squash", ["--resize has no effect, since the run was trained on a table; remove it"]),
        ("ward/test.csv --invert true", ["--invert has no effect"]),
        ("ward/test.csv --keep id", ["keep: found id, expected one of unused, all"]),
        ("ward/test.csv --output ward/test.csv", ["ward/test.csv is an input, which --output would replace"]),
        ("test --data.encoding label", ["has rows of (8,)", "was trained on rows of (12,)"]),
    ],
)
def test_a_mistake_is_one_sentence(ward, words, parts):
    folder, cli = ward
    (folder / "empty").mkdir(exist_ok=True)
    if not (folder / "photos").exists():
        write_images(folder / "photos", {"a": 2})
    sentence = cli(f"predict {RUN} {words}").refusal()
    assert all(part in sentence for part in parts), sentence
    assert (folder / "ward/test.csv").read_text(encoding="utf-8") == as_text(TEST)


def test_a_split_of_another_table_is_refused(ward):
    result = ward[1](f"predict {RUN} test --data.missing null")
    assert result.status == 2
    assert "ward has other columns, categories or classes than the table that " in result.err


def test_a_pipe_is_no_table(ward):
    folder, cli = ward
    os.mkfifo(folder / "pipe")
    assert "pipe is no file that can be read twice" in cli(f"predict {RUN} pipe").refusal()


def test_a_run_on_images_refuses_a_table_and_its_options(cli, tmp_path):
    assert cli("fit --model MLP --model.widths [4] --data Digits --trainer.max_epochs 1 --name ward").status == 0
    (tmp_path / "new.CSV").write_text(as_text(TEST), encoding="utf-8")
    for command in (f"predict {RUN} new.CSV", f"export {RUN} --format torch_export --check new.CSV"):
        assert "new.CSV is a table, but the run was trained on images; give images" in cli(command).refusal()
    for option in ("--keep all", "--unseen zeros"):
        assert "has no effect, since the run was trained on images" in cli(f"predict {RUN} test {option}").refusal()


def test_a_run_that_does_not_record_its_table_says_how_it_can(ward, tmp_path, cli_in):
    shutil.copytree(ward[0] / RUN, tmp_path / "old")
    described = json.loads((tmp_path / "old/input.json").read_text(encoding="utf-8"))
    del described["table"]
    (tmp_path / "old/input.json").write_text(json.dumps(described), encoding="utf-8")
    (tmp_path / "ward.csv").write_text(as_text(TEST), encoding="utf-8")
    sentence = cli_in(tmp_path)("predict old ward.csv").refusal()
    assert "does not record how a file becomes one" in sentence
    assert "visionbench repeat old" in sentence


OWN_TABLE = """
from visionbench.data import Table


class Doubled(Table):
    def fit_statistics(self, store):
        super().fit_statistics(store)
        self.encoded = {stage: 2 * rows for stage, rows in self.encoded.items()}
"""


def test_a_data_set_that_encodes_its_rows_itself_is_refused(cli, tmp_path):
    write_ward(tmp_path)
    (tmp_path / "own_table.py").write_text(OWN_TABLE)
    line = f"{FIT} {OPTIONS} --data.root root --name ward".replace("--data Table", "--data own_table.Doubled")
    fitted = cli(line)
    assert fitted.status == 0, fitted
    assert "does not record how a file becomes one" in cli(f"predict {RUN} ward/test.csv").refusal()


# Many rows


def test_few_rows_are_in_memory(opened, tmp_path):
    recipe = opened.table

    def peak(copies):
        path = tmp_path / f"{copies}.csv"
        path.write_text(as_text(TEST * copies), encoding="utf-8")
        table = open_table(path, recipe)
        tracemalloc.start()
        count = sum(1 for _ in table.samples(["id"]))
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == 40 * copies
        return high

    peak(60)
    assert peak(240) < peak(60) + 2**19  # a row is 1 kB: all more would be 7 MB


def test_bad_rows_among_many_are_found_in_their_places(opened, tmp_path):
    table = [list(row) for row in TEST * 100]
    bad = [0, 1, 1023, 1024, 2500, 3999]
    for number in bad:
        table[number][1] = "old"
    (tmp_path / "many.csv").write_text(as_text(table), encoding="utf-8")
    samples = list(open_table(tmp_path / "many.csv", opened.table).samples())
    assert [number for number, sample in enumerate(samples) if sample.problem is not None] == bad
    assert samples[1024].problem == "line 1026: column 'age' holds 'old', expected a number"


# Python


def columns_of(table: list[list[str]]) -> dict[str, list[str]]:
    return dict(zip(NAMES, map(list, zip(*table, strict=True)), strict=True))


def test_python_predicts_files_and_columns(ward):
    folder, _ = ward
    run = visionbench.open_run(folder / RUN)
    predictions = run.predictions("test")
    path = folder / "ward/test.csv"
    columns = columns_of(TEST)
    typed = {name: columns[name] for name in ("café", "sex")}
    typed |= {name: np.array(columns[name], dtype=float) for name in ("age", "pulse")}
    typed["weight"] = [float(cell) if cell else None for cell in columns["weight"]]
    typed["smoker"] = [int(cell) for cell in columns["smoker"]]
    for inputs in (str(path), path, [path], columns, typed):
        probabilities, names = run.predict(inputs)
        np.testing.assert_array_equal(probabilities, predictions.probabilities)
        assert names == [CLASSES[label] for label in predictions.predicted]
    twice, _ = run.predict([path, path])
    assert len(twice) == 80
    for value in ("1", 1.0, None, np.array(1)):
        with pytest.raises(UserError, match=r"The column 'age' of the table is a single .*; give a list"):
            run.predict(columns | {"age": value})
    nothing, names = run.predict({name: [] for name in NAMES})
    assert (nothing.shape, names) == ((0, 3), [])


def test_numbers_of_python_are_the_categories_that_they_are(cli, tmp_path):
    text = "".join(f"{number % 3},{number % 7},{'ab'[number % 3 == 2]}\n" for number in range(60))
    (tmp_path / "codes.csv").write_text("code,x,y\n" + text)
    line = f"{FIT} --data Table --data.source codes.csv --data.target y --data.categorical [code] --data.root root"
    assert cli(f"{line} --name ward").status == 0
    run = open_run(tmp_path / RUN)
    by_text, _ = run.predict({"code": ["2", "0"], "x": ["1", "2"]})
    for codes in ([2, 0], [2.0, 0.0], np.array([2.0, 0.0], dtype=np.float32)):
        np.testing.assert_array_equal(run.predict({"code": codes, "x": [1, 2.0]})[0], by_text)
    with pytest.raises(UserError, match=r"The table, row 1: column 'code' holds '2.5', which is no category"):
        run.predict({"code": [2, 2.5], "x": [1, 2]})


def test_numbers_of_python_are_numbers_whatever_the_training_table_writes(cli, tmp_path):
    random = np.random.RandomState(0)
    cells = [f"{value:.3f}".replace(".", ",") for value in random.rand(60) * 5]
    text = "".join(f"{cell};{number % 2};{5 * number} %;{'ab'[number % 2]}\n" for number, cell in enumerate(cells))
    (tmp_path / "commas.csv").write_text("x;z;share;y\n" + text)
    line = f"{FIT} --data Table --data.source commas.csv --data.target y --data.root root --name ward"
    assert cli(line).status == 0
    run = open_run(tmp_path / RUN)
    expected, _ = run.predict(tmp_path / "commas.csv")
    columns = {"z": [n % 2 for n in range(60)], "share": [f"{5 * n} %" for n in range(60)]}
    assert len(run.predict({"x": [None, np.nan], "z": [0, 1], "share": [np.nan, None]})[0]) == 2
    for numbers in (cells, [float(cell.replace(",", ".")) for cell in cells]):
        np.testing.assert_array_equal(run.predict({"x": numbers, **columns})[0], expected)
    np.testing.assert_array_equal(
        run.predict({"x": cells, **columns, "share": [5 * n for n in range(60)]})[0], expected
    )


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"age": [1]}, "The table has no column 'sex'"),
        ({"age": [1, 2], "sex": ["M"]}, r"different numbers of rows \(age 2, sex 1\)"),
        (7, "table is of type int; expected the path of a CSV file"),
        ([b"x"], "table is a list with an element of type bytes"),
        ("nosuch.csv", "nosuch.csv cannot be read"),
        (
            columns_of(changed(2, "weight", "heavy")),
            "The table, row 2: column 'weight' holds 'heavy', expected a number;",
        ),
        (columns_of(changed(2, "sex", "X")), "The table, row 2: column 'sex' holds 'X', which is no category"),
    ],
)
def test_python_is_told_what_cannot_be_used(opened, inputs, sentence):
    with pytest.raises(UserError, match=sentence):
        opened.predict(inputs)


def test_categories_that_training_never_saw_are_zeros_if_asked(opened, new):
    table = changed(8, "sex", "X")
    result = new(as_text(table), "--unseen zeros")
    probabilities, _ = opened.predict(columns_of(table), unseen="zeros")
    assert [np.float32(row["confidence"]) for row in wrote(result)] == probabilities.max(axis=1).tolist()
    assert "broken" not in result.err + result.out
    with pytest.raises(UserError, match="unseen is maybe, expected error or zeros"):
        opened.predict(columns_of(table), unseen="maybe")
