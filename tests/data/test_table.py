import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from tests.exactness.same import differences, first_event_file, report
from tests.exactness.test_resume import go_on, stop
from tests.fakes import image_size, write_table
from visionbench.commands import data as data_commands
from visionbench.data import Table
from visionbench.errors import UserError
from visionbench.models import CNN, MLP

FIT = "--data Table --data.target kind --model MLP --model.widths [8] --data.batch_size 16"
FIT += " --trainer.precision 32-true --name mlp"


@pytest.fixture
def source(tmp_path):
    return write_table(tmp_path / "things", {"train": 90, "test": 30})


@pytest.fixture
def table(tmp_path):
    """Makes a Table of a source."""

    def make(source, **arguments):
        return Table(**{"source": str(source), "target": "kind", "root": str(tmp_path / "root")} | arguments)

    return make


@pytest.fixture
def ready(table):
    def make(source, **arguments):
        data = table(source, **arguments)
        data.setup()
        return data

    return make


@pytest.fixture
def of(tmp_path, ready):
    """Makes a Table, set up, of the text of its training file and others."""

    def make(train, val_size=0, test_size=None, /, **arguments):
        files = {name: arguments.pop(name) for name in ("test", "val") if name in arguments}
        folder = tmp_path / "texts"
        folder.mkdir(exist_ok=True)
        for name, text in {"train": train, **files}.items():
            content = text if isinstance(text, bytes) else text.encode()
            (folder / f"{name}.csv").write_bytes(content)
        return ready(folder, **{"val_size": val_size, "test_size": 0 if not files else test_size} | arguments)

    return make


def stores(tmp_path):
    return sorted(path.parent for path in (tmp_path / "root" / "Table").glob("*/meta.json"))


def raw(path):
    """The cells of a file as scikit-learn takes them: columns of numbers, and of words."""
    lines = [line.split(",") for line in path.read_text().splitlines()[1:]]
    numbers = [[float(row[0]), float(row[2] or "nan")] for row in lines]
    return np.array(numbers), np.array([[row[1]] for row in lines])


# What a model is given


def test_one_hot_vectors_and_scaled_numbers_are_those_of_scikit_learn(ready, source):
    data = ready(source)
    numbers, words = raw(source / "train.csv")
    scaler = make_pipeline(SimpleImputer(strategy="median"), StandardScaler()).fit(numbers[data.train_index])
    encoder = OneHotEncoder(categories=[["blue", "green", "red", "NA"]], sparse_output=False)
    encoder.fit(words[data.train_index])
    assert data.feature_names == [
        "size",
        "color=blue",
        "color=green",
        "color=red",
        "color missing",
        "weight",
        "weight missing",
    ]
    for stage, split in data.splits.items():
        numbers, words = raw(source / f"{split.part}.csv")
        size, weight = scaler.transform(numbers[split.index]).T
        missing = np.isnan(numbers[split.index, 1])
        expected = np.column_stack([size, encoder.transform(words[split.index]), weight, missing])
        np.testing.assert_allclose(data.encoded[stage], expected, rtol=1e-6, atol=1e-7)
        assert data.encoded[stage].dtype == np.float32
    assert data.encoded["train"][:, 6].sum() > 0


def test_places_of_categories_and_unscaled_numbers_are_those_of_scikit_learn(ready, source):
    data = ready(source, encoding="label", scaling="none")
    assert data.feature_names == ["size", "color", "weight", "weight missing"]
    train = raw(source / "train.csv")
    fitted = ColumnTransformer([("numbers", SimpleImputer(strategy="median"), [0, 1])]).fit(train[0][data.train_index])
    encoder = OrdinalEncoder(categories=[["blue", "green", "red", "NA"]]).fit(train[1])
    numbers, words = raw(source / "test.csv")
    size, weight = fitted.transform(numbers).T
    expected = np.column_stack([size, encoder.transform(words), weight, np.isnan(numbers[:, 1])])
    np.testing.assert_allclose(data.encoded["test"], expected.astype(np.float32))


def test_only_the_rows_trained_on_are_learned_from(ready, tmp_path):
    first = write_table(tmp_path / "first", {"train": 90, "test": 30})
    data = ready(first)
    text = (first / "train.csv").read_text().splitlines()
    for row in data.val_index:
        cells = text[row + 1].split(",")
        text[row + 1] = ",".join(["1e6", *cells[1:]])
    other = write_table(tmp_path / "other", {"train": 90, "test": 30}, seed=1)
    (other / "train.csv").write_text("\n".join(text))
    changed = ready(other)
    np.testing.assert_array_equal(changed.encoded["train"], data.encoded["train"])
    assert changed.encoded["val"][:, 0].min() > 1e4
    assert changed.data_digest() != data.data_digest()


def test_batches_are_the_encoded_rows_in_the_order_of_the_epoch(ready, source):
    data = ready(source, seed=3, batch_size=7)
    loader = data.train_dataloader()
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)
        order = loader.sampler.positions()
        rows, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
        np.testing.assert_array_equal(rows, data.encoded["train"][order])
        np.testing.assert_array_equal(labels, data.store.arrays["train-labels"][data.train_index][order])
        loader.begin_at(4)
        np.testing.assert_array_equal(torch.cat([batch for batch, _ in loader]), rows[28:])


def test_a_category_that_was_not_trained_on_is_all_zeros_and_the_width_stays(of):
    lines = [f"{n},{'xy'[n % 2]},{'ab'[n // 2 % 2]}" for n in range(40)]
    lines[7] = "7,rare,b"
    text = "\n".join(["n,word,kind", *lines])
    widths, held_out = set(), 0
    for seed in range(30):
        data = of(text, 0.5, split_seed=seed)
        widths.add(data.input_shape)
        if 7 in data.val_index:
            held_out += 1
            row = data.encoded["val"][data.val_index.tolist().index(7)]
            np.testing.assert_array_equal(row[1:], [0, 0, 0])
            labels = of(text, 0.5, split_seed=seed, encoding="label").encoded["val"]
            assert labels[data.val_index.tolist().index(7), 1] == -1
        else:
            row = data.encoded["train"][data.train_index.tolist().index(7)]
            np.testing.assert_array_equal(row[1:], [1, 0, 0])
    assert widths == {(4,)}
    assert 0 < held_out < 30


def test_values_that_stand_for_missing_are_missing_by_number_and_by_word(of):
    rows = ["0,red", "0.0,unknown", "200,red", "400,blue", "300,?"]
    text = "\n".join(["fat,color,kind", *(f"{row},{'ab'[n % 2]}" for n, row in enumerate(rows))])
    data = of(text, missing={"fat": 0, "color": ["unknown", "none"]}, scaling="none")
    assert data.feature_names == ["fat", "fat missing", "color=blue", "color=red", "color missing"]
    np.testing.assert_array_equal(data.encoded["train"][:, 0], [300, 300, 200, 400, 300])
    np.testing.assert_array_equal(data.encoded["train"][:, 1], [1, 1, 0, 0, 0])
    np.testing.assert_array_equal(data.encoded["train"][:, 4], [0, 1, 0, 0, 1])
    assert data.store.meta["missing"]["train"] == {"fat": 2, "color": 2}


@pytest.mark.parametrize("word", ["", "?", "NA", "n/a", "NaN", "nan", "null", " "])
def test_what_is_written_for_missing_by_most_is_missing(of, word):
    data = of(f"n,kind,m\n1,a,2\n{word},b,2\n3,a,2\n7,b,2\n", scaling="none")
    np.testing.assert_array_equal(data.encoded["train"][:, :2], [[1, 0], [3, 1], [3, 0], [7, 0]])


def test_a_number_missing_in_test_alone_is_the_median_without_a_feature(of):
    data = of("n,kind\n1,a\n2,b\n9,a\n", test="n,kind\n,a\n", scaling="none")
    assert data.feature_names == ["n"]
    assert data.encoded["test"].tolist() == [[2.0]]


def test_a_constant_column_does_not_divide_by_zero(of):
    data = of("n,m,kind\n" + "".join(f"0.1,{n},{'ab'[n % 2]}\n" for n in range(10)))
    assert np.abs(data.encoded["train"][:, 0]).max() < 1e-6
    assert np.isfinite(data.encoded["train"]).all()


def test_columns_can_be_named_as_what_they_are(of):
    text = "id,code,words,kind\n" + "".join(f"{n},{n % 3},{n}a,{'ab'[n % 2]}\n" for n in range(60))
    data = of(text, ignore=["id"], categorical=["code", "words"])
    assert len(data.feature_names) == 3 + 60
    assert of(text, ignore=["words"], categorical=["code"]).feature_names == ["id", "code=0", "code=1", "code=2"]


def test_categories_that_are_numbers_are_sorted_by_their_size(of):
    text = "code,n,kind\n" + "".join(f"{(10, 9, 100)[n % 3]},{n},{'ab'[n % 2]}\n" for n in range(12))
    assert of(text, categorical=["code"]).feature_names[:3] == ["code=9", "code=10", "code=100"]


# Files


def test_one_file_is_cut_into_all_three(tmp_path, ready):
    folder = write_table(tmp_path / "one", {"all": 100})
    data = ready(folder / "all.csv")
    assert data.title == "all"
    assert data.sizes() == {"train": 72, "val": 8, "test": 20}


def test_a_table_that_is_no_split_is_said(tmp_path, ready, capsys):
    source = write_table(tmp_path / "more", {"train": 30, "test_set": 9, "._train": 1})
    (source / "notes.md").touch()
    data = ready(source)
    assert data.sizes()["test"] == 6
    assert "  not read: test_set.csv; the files of the splits are called train, " in capsys.readouterr().out
    assert data.store.meta["not_read"] == ["test_set.csv"]


def test_validation_of_its_own(tmp_path, ready):
    folder = write_table(tmp_path / "three", {"Train": 30, "valid": 9, "TEST": 6, "other": 5})
    data = ready(folder)
    assert data.sizes() == {"train": 30, "val": 9, "test": 6}
    assert {stage: split.part for stage, split in data.splits.items()} == {
        "train": "train",
        "val": "val",
        "test": "test",
    }
    assert ready(folder, val_size=0.2).sizes() == {"train": 24, "val": 6, "test": 6}


@pytest.mark.parametrize(
    "text",
    {
        "byte order mark": b"\xef\xbb\xbfn,word,kind\n1.5,x,a\n2.5,y,b\n",
        "semicolons": b"n;word;kind\n1.5;x;a\n2.5;y;b\n",
        "semicolons and decimal commas": b"n;word;kind\n1,5;x;a\n2,5;y;b\n",
        "tabs": b"n\tword\tkind\n1.5\tx\ta\n2.5\ty\tb\n",
        "quotes": b'"n","word","kind"\n"1.5","x","a"\n"2.5","y","b"\n',
        "quoted semicolons": b'"n";"word";"kind"\n"1.5";"x";"a"\n"2.5";"y";"b"\n',
        "blank lines and spaces": b"\n n , word,kind \n\n1.5, x ,a\n  \n,,\n2.5,y,b\n\n",
        "lines of Windows, none at the end": b"n,word,kind\r\n1.5,x,a\r\n2.5,y,b",
        "another order": b"word,kind,n\nx,a,1.5\ny,b,2.5\n",
    }.values(),
)
def test_the_same_table_however_it_is_written(of, text):
    data = of(text, scaling="none")
    values = dict(zip(data.feature_names, data.encoded["train"].T.tolist(), strict=True))
    assert values == {"n": [1.5, 2.5], "word=x": [1, 0], "word=y": [0, 1]}
    assert data.store.arrays["train-labels"].tolist() == [0, 1]


def test_quoted_cells_hold_separators_and_line_ends(of):
    data = of('n,word,kind\n1,"x, ""or"" y\nz",a\n2,y,b\n')
    assert data.feature_names == ["n", 'word=x, "or" y\nz', "word=y"]


def test_columns_of_other_files_are_found_by_their_names(of, capsys):
    data = of("n,m,kind\n1,10,a\n2,20,b\n", test="extra,kind,m,n\nq,b,20,1\n", scaling="none")
    assert data.encoded["test"].tolist() == [[1, 20]]
    assert "columns of test.csv that train.csv does not have, not read: extra" in capsys.readouterr().out


def test_classes_that_are_numbers_are_the_same_however_they_are_written(of):
    data = of("n,kind\n1,10\n2,9\n3,10.0\n", test="n,kind\n1,9.0\n2,1e1\n")
    assert data.class_names == ("9", "10")
    assert data.store.arrays["train-labels"].tolist() == [1, 0, 1]
    assert data.store.arrays["test-labels"].tolist() == [0, 1]


def test_classes_that_are_told_to_be_codes_are_their_texts(of):
    text = "n,kind\n" + "".join(f"{n},{('01', '1')[n % 2]}\n" for n in range(12))
    assert of(text, categorical=["kind"]).class_names == ("01", "1")
    with pytest.raises(UserError, match="The target 'kind' is '1' in all 12 rows"):
        of(text)
    long = "n,kind\n" + "".join(f"{n},123456789012345{6 + n % 2}\n" for n in range(12))
    assert of(long).class_names == ("1234567890123456", "1234567890123457")


def test_it_is_said_what_the_columns_were_taken_for(ready, source, capsys):
    ready(source)
    shown = capsys.readouterr().out
    assert "prepared 120 rows of " in shown
    assert "numeric: size, weight\n" in shown
    assert "categorical: color (3)\n" in shown
    assert "missing cells: weight (17), color (" in shown


# What a table must not be

TRAIN = "n,word,kind\n1,x,a\n2,y,b\n3,x,a\n4,y,b\n"


@pytest.mark.parametrize(
    ("files", "arguments", "said"),
    {
        "empty": ({"train": ""}, {}, r"train\.csv is empty, expected a line with the names"),
        "header alone": ({"train": "n,kind\n"}, {}, r"train\.csv has a line of column names but no rows"),
        "test header alone": (
            {"train": TRAIN, "test": "n,word,kind\n"},
            {},
            r"test\.csv has a line of column names but no",
        ),
        "one column": ({"train": "kind\na\nb\n"}, {}, r"has one column, 'kind', expected two or more"),
        "target alone": ({"train": "n,kind\n1,a\n2,b\n"}, {"ignore": ["n"]}, r"has no column besides the target"),
        "wrong target": (
            {"train": TRAIN},
            {"target": "Kidn"},
            r"'Kidn', but .* \(did you mean 'kind'\?\); it has n, w",
        ),
        "wrong name": ({"train": TRAIN}, {"ignore": ["wrod"]}, r"data\.ignore names 'wrod', .* mean 'word'"),
        "wrong missing": ({"train": TRAIN}, {"missing": {"N": 0}}, r"data\.missing names 'N', .*\(did you mean 'n'\?"),
        "target named": ({"train": TRAIN}, {"numeric": ["kind"]}, r"data\.numeric names 'kind', which is the target"),
        "named twice": ({"train": TRAIN}, {"numeric": ["n"], "ignore": ["n"]}, r"'n' is named in data\.numeric and"),
        "same names": ({"train": "n,n,kind\n1,2,a\n"}, {}, r"train\.csv has 2 columns named 'n'"),
        "no name": ({"train": ",n,kind\n0,1,a\n1,2,b\n"}, {}, r"Column 1 of .* has no name .* with --data\.ignore"),
        "short row": ({"train": TRAIN + "5,x\n"}, {}, r"train\.csv, line 6, has 2 cells, expected 3"),
        "long row": ({"train": TRAIN, "test": "n,word,kind\n1,x,a,b\n"}, {}, r"test\.csv, line 2, has 4 cells"),
        "open quote": ({"train": TRAIN + '5,"x,a\n'}, {}, r"train\.csv cannot be read as CSV after line 5"),
        "not UTF-8": ({"train": TRAIN.encode() + b"5,\xe9,a\n"}, {}, r"is not UTF-8 \(byte 0xe9 in line 6\)"),
        "UTF-16 without a mark": ({"train": TRAIN.encode("utf-16-le")}, {}, r"holds many NUL bytes, as UTF-16"),
        "word among numbers": (
            {"train": "n,kind\n1,a\n2,b\nabc,a\n4,b\n"},
            {},
            r"line 4: column 'n' holds 'abc', expected a number as in 3 of its 4 cells; correct the cell, or mark this "
            r"""value as missing with --data\.missing '\{"n": "abc"\}', or name the column as""",
        ),
        "word in a numeric column": (
            {"train": "n,m,kind\nx,1,a\n2,1,b\ny,2,a\n"},
            {"numeric": ["n"]},
            r"line 2: column 'n' holds 'x', expected a number",
        ),
        "word in test": (
            {"train": TRAIN, "test": "n,word,kind\n1,x,a\nabc,x,a\n"},
            {},
            r"test\.csv, line 3: column 'n' holds 'abc', expected a number as in train\.csv",
        ),
        "infinite": (
            {"train": TRAIN + "inf,x,a\n"},
            {},
            r"line 6: column 'n' holds 'inf', expected an absolute value of at m",
        ),
        "too large": (
            {"train": TRAIN + "1e39,x,a\n"},
            {},
            r"holds '1e39', expected an absolute value of at most 3\.4e\+38",
        ),
        "underscores": ({"train": TRAIN + "1_000,x,a\n"}, {}, r"column 'n' holds '1_000'"),
        "no value": ({"train": "n,m,kind\n,1,a\n?,2,b\n"}, {}, r"Column 'n' of .* has no value in any row"),
        "names": (
            {"train": "name,n,kind\n" + "".join(f"Mr {n},1,{'ab'[n % 2]}\n" for n in range(50))},
            {},
            r"Column 'name' of .* has 50 different values in 50 rows",
        ),
        "missing column": (
            {"train": TRAIN, "test": "m,word,kind\n1,x,a\n"},
            {},
            r"test\.csv has no column 'n', which is a column of train\.csv",
        ),
        "misspelt column": ({"train": TRAIN, "test": "n,Wort,kind\n1,x,a\n"}, {}, r"no column 'word'.*mean 'Wort'"),
        "no target in test": ({"train": TRAIN, "test": "n,word\n1,x\n"}, {}, r"no column 'kind', which is the target"),
        "unseen": (
            {"train": TRAIN, "test": "n,word,kind\n1,z,a\n1,z,a\n1,q,a\n"},
            {},
            r"test\.csv has 'z' in column 'word' 2 times, a category that train\.csv does not have "
            r"\(nor 1 other value\); .*--data\.unseen zeros",
        ),
        "unseen gap": (
            {"train": TRAIN, "test": "n,word,kind\n1,,a\n"},
            {},
            r"has '' in column 'word' once, a category",
        ),
        "unseen class": ({"train": TRAIN, "test": "n,word,kind\n1,x,c\n"}, {}, r"line 2: 'kind' is 'c', a class that"),
        "no class": ({"train": TRAIN + "5,x,\n"}, {}, r"train\.csv, line 6, has no class \(the target 'kind' is ''\)"),
        "no class in test": ({"train": TRAIN, "test": "n,word,kind\n1,x,NA\n"}, {}, r"test\.csv, line 2, has no class"),
        "one class": ({"train": "n,kind\n1,a\n2,a\n"}, {}, r"The target 'kind' is 'a' in all 2 rows"),
        "a quantity": (
            {"train": "n,kind\n" + "".join(f"1,{n / 10}\n" for n in range(40))},
            {},
            r"has 40 different numbers in the 40 rows .* makes it a quantity, expected classes",
        ),
        "a name as the class": (
            {"train": "n,kind\n" + "".join(f"1,Mr {n}\n" for n in range(40))},
            {},
            r"has 40 different values in the 40 rows",
        ),
        "encoding": ({"train": TRAIN}, {"encoding": "onehot"}, r"data\.encoding is onehot, expected one_hot or label"),
    }.values(),
)
def test_a_table_that_cannot_be_trained_on_is_refused_and_leaves_nothing(of, tmp_path, files, arguments, said):
    train, others = files["train"], {name: text for name, text in files.items() if name != "train"}
    with pytest.raises(UserError, match=said) as refusal:
        of(train, **others, **arguments)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).endswith(".")
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".npy" or path.name == "meta.json"]


def test_what_was_never_seen_can_be_taken_as_zeros(of):
    data = of(TRAIN, test="n,word,kind\n1,z,a\n1,,a\n1,x,b\n", unseen="zeros")
    np.testing.assert_array_equal(data.encoded["test"][:, 1:], [[0, 0], [0, 0], [1, 0]])


def test_row_numbers_without_a_name_can_be_left_out(of):
    assert of(",n,kind\n0,1,a\n1,2,b\n", ignore=[""]).feature_names == ["n"]


def test_no_number_in_the_rows_trained_on_is_said(of):
    text = "n,m,kind\n" + "".join(f"{n if n == 3 else ''},1,{'ab'[n % 2]}\n" for n in range(8))
    seed = next(seed for seed in range(20) if 3 in of(text, split_seed=99).train_index and _held_out(of, text, seed))
    with pytest.raises(UserError, match=r"None of the 6 training rows has a number in column 'n'"):
        of(text, 2, split_seed=seed)


def _held_out(of, text, seed):
    try:
        of(text, 2, split_seed=seed)
    except UserError:
        return True
    return False


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), r"holds no CSV file, expected train\.csv"),
        (("heart",), r"holds heart\.csv, expected train\.csv"),
        (("train", "Training"), r"holds two files for train, Training\.csv and train\.csv; keep one"),
    ],
)
def test_a_folder_without_one_training_file_is_refused(tmp_path, table, names, said):
    folder = write_table(tmp_path / "s", dict.fromkeys(names, 9))
    with pytest.raises(UserError, match=said):
        table(folder)


def test_a_source_that_is_not_there_is_said(tmp_path, table):
    with pytest.raises(UserError, match=r"data\.source .*nowhere does not exist, and .* has no store"):
        table(tmp_path / "nowhere")


# The store


def test_the_store_holds_raw_columns(ready, source):
    data = ready(source)
    numbers, words = raw(source / "train.csv")
    stored = data.store.arrays["train-images"]
    assert stored.dtype == np.float64
    np.testing.assert_array_equal(stored[:, [0, 2]], numbers)
    np.testing.assert_array_equal(
        stored[:, 1], [["blue", "green", "red", "NA"].index(w) if w != "NA" else -1 for (w,) in words]
    )
    assert [column["name"] for column in data.store.meta["columns"]] == ["size", "color", "weight"]


def test_how_it_is_encoded_needs_no_other_store_and_how_it_is_read_does(tmp_path, ready, source):
    for arguments in ({}, {"encoding": "label"}, {"scaling": "none"}, {"val_size": 0}):
        ready(source, **arguments)
    assert len(stores(tmp_path)) == 1
    ready(source, missing={"color": "red"})
    ready(source, ignore=["weight"])
    assert len(stores(tmp_path)) == 3


def test_the_digest_is_of_what_the_model_sees(ready, source):
    seen = [ready(source, **given) for given in ({}, {"scaling": "none"}, {"encoding": "label"}, {"unseen": "zeros"})]
    digests = [data.data_digest() for data in seen]
    assert len(set(digests[:3])) == 3
    assert digests[3] == digests[0]


def test_a_prepared_table_is_not_read_again(ready, source, monkeypatch):
    before = ready(source)
    monkeypatch.setattr("visionbench.data.columns.CsvFile.rows", None)
    after = ready(source)
    assert after.data_digest() == before.data_digest()


def test_a_changed_table_is_prepared_again_and_said(tmp_path, ready, source, capsys):
    before = ready(source).data_digest()
    text = (source / "test.csv").read_text()
    (source / "test.csv").write_text(text + "1.5,violet-free red,0.25,a\n".replace("violet-free ", ""))
    capsys.readouterr()
    changed = ready(source)
    assert "has changed since it was prepared" in capsys.readouterr().out
    assert changed.sizes()["test"] == 31
    assert changed.data_digest() != before
    assert len(stores(tmp_path)) == 1


def test_another_column_in_a_changed_table_is_another_width(ready, source):
    assert ready(source).input_shape == (7,)
    for name in ("train", "test"):
        lines = (source / f"{name}.csv").read_text().splitlines()
        (source / f"{name}.csv").write_text("\n".join(f"{n if n else 'more'},{t}" for n, t in enumerate(lines)))
    assert ready(source).input_shape == (8,)


def test_a_changed_table_is_refused_offline_and_the_old_store_stays(tmp_path, ready, source):
    ready(source)
    os.utime(source / "train.csv", (1, 1))
    with pytest.raises(UserError, match=r"has changed since it was prepared .* data\.offline is on"):
        ready(source, offline=True)
    assert len(stores(tmp_path)) == 1


def test_a_changed_table_that_is_broken_leaves_the_old_store(tmp_path, ready, source):
    ready(source)
    kept = (stores(tmp_path)[0] / "meta.json").read_bytes()
    with (source / "test.csv").open("a") as file:
        file.write("x,red,1,a\n")
    with pytest.raises(UserError, match=r"test\.csv, line 32: column 'size' holds 'x'"):
        ready(source)
    assert (stores(tmp_path)[0] / "meta.json").read_bytes() == kept


def test_a_store_copied_to_another_machine_needs_no_source(tmp_path, source, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = {"source": "things", "target": "kind", "missing": {"color": "red"}}
    here = Table(root="root", **arguments)
    here.setup()
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree("root", "elsewhere/root")
    monkeypatch.chdir(tmp_path / "elsewhere")
    there = Table(root="root", **arguments)
    there.setup()
    assert there.data_digest() == here.data_digest()
    with pytest.raises(UserError, match="does not exist"):
        Table(root="root", **arguments | {"target": "color"})


# Models and commands


def test_models_for_images_refuse_rows_and_say_which_take_them():
    assert MLP(2, (5,), widths=[3])(torch.zeros(4, 5)).shape == (4, 2)
    with pytest.raises(UserError, match=r"CNN takes images, but the data set has rows of 5 features; .*such as MLP"):
        CNN(2, (5,))


def test_a_model_whose_types_cannot_be_looked_up_takes_what_it_is_given():
    class Own(MLP):
        def __init__(self, num_classes: int, input_shape: "tuple[int, ...]", other: "Unknown" = None, **kwargs):  # noqa: F821
            super().__init__(num_classes, input_shape, **kwargs)

    assert Own(2, (5,), widths=[3])(torch.zeros(4, 5)).shape == (4, 2)


@pytest.mark.parametrize("model", ["CNN", "PatchMLP", "FrozenResNet"])
def test_a_run_with_a_model_for_images_is_refused_before_it_begins(cli, source, tmp_path, model):
    refusal = cli(f"fit --model {model} --data Table --data.source {source} --data.target kind").refusal()
    assert f"{model} takes images, but the data set has rows of 7 features" in refusal
    assert not (tmp_path / "lightning_logs").exists()


@pytest.mark.parametrize(("option", "value"), [("augment", "[RandomCrop]"), ("mean", "[0.5]"), ("std", "[0.5]")])
def test_what_changes_images_is_no_option_of_a_table(cli, source, option, value):
    refusal = cli(f"fit {FIT} --data.source {source} --data.{option} {value}").refusal()
    assert refusal == f"Table has no option --data.{option}, although other classes have it; remove it."


def test_a_table_without_a_source_or_a_target_is_said(cli):
    assert "--data.source and --data.target must be given" in cli("fit --model MLP --data Table").refusal()


def test_what_a_table_is_does_not_outlive_it(cli, tmp_path):
    (tmp_path / "heart.yaml").write_text(
        "model: MLP\n"
        "data: {class_path: Table, init_args: {source: heart, target: sick, scaling: none, batch_size: 9}}\n"
    )
    shown = cli("fit --config heart.yaml --data Digits --print_config")
    assert (
        shown.err
        == "Table was replaced by Digits: kept batch_size=9; dropped source=heart, target=sick, scaling=none\n"
    )


def test_a_table_trains_is_tested_and_repeated(cli, source, tmp_path):
    line = f"fit {FIT} --data.source {source} --trainer.max_epochs 15 --model.optimizer.lr 0.02"
    result = cli(line)
    assert (result.status, result.err) == (0, "")
    assert "data       things: 81 train, 9 validation, 30 test rows of 7 features, 3 classes" in result.out
    assert "rows/s" in result.out
    assert "images" not in result.out
    run = Path("lightning_logs/mlp/version_0")
    assert report(tmp_path / run)["metrics"]["test/acc"] > 0.9
    tested = cli(f"test {run}")
    assert "things test accuracy" in tested.out
    assert "30 rows)" in tested.out
    assert cli(f"repeat {run}").status == 0


def test_a_run_on_a_table_that_was_killed_and_gone_on_with_is_the_same(cli, source, tmp_path):
    first_event_file()
    line = f"fit {FIT} --data.source {source} --trainer.max_epochs 3 --model.dropout 0.3"
    line += " --checkpoint.every_n_steps 1"
    assert cli(line).status == 0
    shutil.move(tmp_path / "lightning_logs", tmp_path / "whole")
    assert stop(cli, line, "step", 9)
    go_on(cli)
    run = tmp_path / "lightning_logs" / "mlp" / "version_0"
    assert differences(tmp_path / "whole" / "mlp" / "version_0", run) == []
    assert json.loads((run / "run.json").read_text())["resumed"][0]["step"] == 8


def test_the_same_row_in_train_and_test_is_found(cli, source):
    row = (source / "train.csv").read_text().splitlines()[5]
    with (source / "test.csv").open("a") as file:
        file.write(row[:-1] + ("b" if row[-1] == "a" else "a") + "\n")
    shown = cli(f"data verify Table --data.source {source} --data.target kind --data.val_size 0")
    assert shown.status == 0
    assert "2 rows in 1 group of exact duplicates; across splits 1 (1 test-train), with different labels 1" in shown.out
    assert "near" not in shown.out


def test_a_table_is_listed_and_drawn(cli, source, tmp_path):
    root = tmp_path / "root"
    options = f"Table --data.source {source} --data.target kind --data.root {root}"
    assert "81 train, 9 validation, 30 test rows of 7 features" in cli(f"data prepare {options}").out
    assert "90 train, 30 test of 3 columns" in cli(f"data list --root {root}").out
    drawn = cli(f"data show {options} --output drawn.png")
    assert (drawn.status, drawn.err) == (0, "")
    assert image_size(tmp_path / "drawn.png") == (1200, 600)


def test_more_columns_and_classes_than_fit_are_left_out_of_the_picture(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(data_commands, "MAX_COLUMNS", 3)
    names = [f"c{n}" for n in range(5)]
    lines = [",".join([*map(str, np.random.RandomState(n).rand(5)), f"class {n % 40}"]) for n in range(400)]
    (tmp_path / "wide.csv").write_text("\n".join([",".join([*names, "kind"]), *lines]))
    drawn = cli("data show Table --data.source wide.csv --data.target kind --data.root root")
    assert (drawn.status, drawn.err) == (0, "")
    assert image_size(tmp_path / "Table.png") == (1200, 600)


def test_all_rows_can_be_split_anew(tmp_path, table):
    source = write_table(tmp_path / "parts", {"train": 30, "val": 6, "test": 9})
    data = table(source=str(source), pool=True, test_size=15, val_size=0)
    data.setup()
    assert data.sizes() == {"train": 30, "val": 0, "test": 15}
    parts = table(source=str(source))
    parts.setup()
    together = np.concatenate([parts.store.arrays[f"{split}-images"] for split in ("train", "val", "test")])
    np.testing.assert_array_equal(data.store.arrays["train-images"], together)
    assert data.store.folder != parts.store.folder
