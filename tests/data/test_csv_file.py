"""Tables as spreadsheets, databases and people write them."""

import contextlib
import gzip
import io
import re
import shlex
import zipfile

import numpy as np
import pytest

from visionbench.data import Table
from visionbench.errors import UserError

COUNT = 40


@pytest.fixture
def read(tmp_path):
    """Reads a table of one file; gives the data module and what was printed."""

    def make(content, name="t.csv", **arguments):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        arguments = {"target": "y", "val_size": 0, "test_size": 0} | arguments
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            data = Table(source=str(path), root=str(tmp_path / "root"), **arguments)
            data.setup()
        return data, printed.getvalue()

    return make


def text(header, row, count=COUNT):
    """A table: `row` gives the line of each number, in which the class is a or b in turn."""
    return "\n".join([header, *(row(number, "ab"[number % 2]) for number in range(count))]) + "\n"


def raw(data, name):
    """The stored cells of a column: numbers, or categories as text."""
    place = [column.name for column in data.schema.columns].index(name)
    column, values = data.schema.columns[place], data.store.arrays["train-images"][:, place]
    return values.tolist() if column.kind == "numeric" else [column.categories[int(value)] for value in values]


NUMBERS = list(map(float, range(COUNT)))
PLAIN = text("x,y", lambda n, y: f"{n},{y}")


@pytest.mark.parametrize(
    ("content", "columns"),
    {
        "commas in names, semicolons between": (
            text("Length (cm, mean);Width (cm, mean);y", lambda n, y: f"{n};{n};{y}"),
            {"Length (cm, mean)": NUMBERS, "Width (cm, mean)": NUMBERS},
        ),
        "commas in names and as decimals": (
            text("Length (cm, mean);y", lambda n, y: f"{n},5;{y}"),
            {"Length (cm, mean)": [n + 0.5 for n in NUMBERS]},
        ),
        "more commas than semicolons": (
            text("Size (l, w, h);x;y", lambda n, y: f"{n % 2}, 1, 2;{n};{y}"),
            {"Size (l, w, h)": [f"{n % 2}, 1, 2" for n in range(COUNT)], "x": NUMBERS},
        ),
        "semicolons in a column, commas between": (
            text("a;b,x,y", lambda n, y: f"{n % 3};q,{n},{y}"),
            {"a;b": [f"{n % 3};q" for n in range(COUNT)], "x": NUMBERS},
        ),
        "commas in names, tabs between": (text("x, m\ty", lambda n, y: f"{n}\t{y}"), {"x, m": NUMBERS}),
        "commas in names, bars between": (text("x, m|z|y", lambda n, y: f"{n}|{n},5|{y}"), {"x, m": NUMBERS}),
        "line of Excel": ("sep=;\n" + text("x;z;y", lambda n, y: f"{n};1,5;{y}"), {"x": NUMBERS, "z": [1.5] * COUNT}),
        "line of Excel in quotes": ('"sep=;"\r\n' + text("x;y", lambda n, y: f"{n};{y}"), {"x": NUMBERS}),
        "line of Excel with a tab": ("sep=\t\n" + text("x\ty", lambda n, y: f"{n}\t{y}"), {"x": NUMBERS}),
        "line with another separator": ("SEP=^\n" + text("x^y", lambda n, y: f"{n}^{y}"), {"x": NUMBERS}),
        "blanks around quotes": (
            text('x , "n, m" , y', lambda n, y: f'{n} , "red, or ""blue"" " , {y}'),
            {"x": NUMBERS, "n, m": ['red, or "blue"'] * COUNT},
        ),
        "blanks before quotes, and semicolons": (
            text("x; n; y", lambda n, y: f'{n}; "a; b"; {y}'),
            {"x": NUMBERS, "n": ["a; b"] * COUNT},
        ),
        "inches": (text("x,n,y", lambda n, y: f'{n},5" pipe,{y}'), {"x": NUMBERS, "n": ['5" pipe'] * COUNT}),
        "separators at the ends of all lines": (text("x,z,y,", lambda n, y: f"{n},{n},{y},"), {"x": NUMBERS}),
        "separators at the ends of rows": (text("x;y", lambda n, y: f"{n};{y};;"), {"x": NUMBERS}),
        "comments at the top": (
            "# from, of\n\n# and, with, commas\n" + text("x,z,y", lambda n, y: f"{n},1,{y}"),
            {"x": NUMBERS},
        ),
        "names with a number sign": (text("#x,z,y", lambda n, y: f"{n},1,{y}"), {"#x": NUMBERS}),
        "names in a comment": (text("# x,z,y", lambda n, y: f"{n},1,{n % 2}"), {"# x": NUMBERS}),
        "UTF-16": (text("x\té\ty", lambda n, y: f"{n}\tö\t{y}").encode("utf-16"), {"x": NUMBERS, "é": ["ö"] * COUNT}),
        "UTF-16, big end first": (
            b"\xfe\xff" + text("x;y", lambda n, y: f"{n};{y}").encode("utf-16-be"),
            {"x": NUMBERS},
        ),
        "UTF-32": (PLAIN.encode("utf-32"), {"x": NUMBERS}),
        "lines of an old Mac": (PLAIN.replace("\n", "\r"), {"x": NUMBERS}),
        "gzip, without its ending": (gzip.compress(PLAIN.encode(), mtime=0), {"x": NUMBERS}),
        "numbers as names": (text("1,2,y", lambda n, y: f"{n},{n % 5},{y}"), {"1": NUMBERS}),
        "years as names": (text("2019,2020,2021,y", lambda n, y: f"{n + 2000},{n + 2000},{n},{y}"), {"2021": NUMBERS}),
        "a scale as names": (
            text("0.5,1.5,2,7,9,y", lambda n, y: ",".join([*[f"{n}"] * 5, y])),
            {"0.5": NUMBERS, "9": NUMBERS},
        ),
        "a class with the name of its column": (text("x,a", lambda n, y: f"{n},{y}"), {"x": NUMBERS}),
        "the letters of a Parquet file": (text("PAR1,y", lambda n, y: f"{n},{y}"), {"PAR1": NUMBERS}),
    }.values(),
)
def test_a_table_is_read_however_its_text_is_written(read, content, columns):
    names = content if isinstance(content, str) else ""
    data, _ = read(content, target="a" if names.startswith("x,a\n") else "y")
    for name, cells in columns.items():
        assert raw(data, name) == cells
    expected = ["0", "1"] if names.startswith("# x,") else ["a", "b"]
    assert list(data.class_names) == expected
    assert data.store.arrays["train-labels"].tolist() == [n % 2 for n in range(COUNT)]


@pytest.mark.parametrize(
    ("separator", "cells", "values"),
    {
        "thousands in quotes": (",", '"1,{n:03}"', 1000),
        "thousands with decimals": (",", '"1,{n:03}.5"', 1000.5),
        "thousands of thousands": (";", "1,000,{n:03}", 1_000_000),
        "thousands with decimals, semicolons": (";", "1,{n:03}.5", 1000.5),
        "points of thousands": (";", "1.{n:03},5", 1000.5),
        "points of thousands of thousands": (";", "1.000.{n:03}", 1_000_000),
        "points of thousands in quotes": (",", '"1.{n:03},5"', 1000.5),
        "blanks": (",", "1 {n:03}", 1000),
        "narrow blanks with a comma": (";", "1\u202f{n:03},5", 1000.5),
        "apostrophes": (",", "1'{n:03}.5", 1000.5),
        "decimal commas": (";", "{n},5", 0.5),
        "decimal commas in quotes": (",", '"{n},5"', 0.5),
        "decimal commas with zeros": (";", "0,{n:03}", None),
        "percent": (",", "{n}%", 0),
        "percent after a blank and a comma": (";", "{n},5 %", 0.5),
        "dollars": (",", '"$1,{n:03}.25"', 1000.25),
        "euros": (";", "{n},25 €", 0.25),
        "signs before the currency": (",", "-$0{n}", None),
        "typographic minus": (",", "\u2212{n}", None),
        "exponents": (",", "{n}e0", 0),
    }.values(),
)
def test_numbers_are_read_however_they_are_written(read, separator, cells, values):
    rows = text(f"x{separator}y", lambda n, y: cells.format(n=n) + separator + y)
    data, _ = read(rows)
    expected = {
        "0,{n:03}": [n / 1000 for n in NUMBERS],
        "-$0{n}": [-n for n in NUMBERS],
        "\u2212{n}": [-n for n in NUMBERS],
    }.get(cells, [n + (values or 0) for n in NUMBERS])
    assert data.schema.columns[0].kind == "numeric"
    np.testing.assert_allclose(raw(data, "x"), expected, rtol=1e-15)


def test_groups_of_three_digits_are_told_by_the_other_columns(read):
    both = text("a;b;y", lambda n, y: f"{n},5;1.{100 + n};{y}")
    assert raw(read(both)[0], "b") == [1100 + n for n in NUMBERS]
    assert raw(read(text("a;b;y", lambda n, y: f"{n}.5;1,{100 + n};{y}"))[0], "b") == [1100 + n for n in NUMBERS]
    alone = raw(read(text("b;y", lambda n, y: f"1.{100 + n};{y}"))[0], "b")
    np.testing.assert_allclose(alone, [1.1 + n / 1000 for n in NUMBERS], rtol=1e-12)
    with pytest.raises(UserError, match=r"'b' of .* holds '1,100', which is one number with a decimal comma and an"):
        read(text("b;y", lambda n, y: f"1,{100 + n};{y}"))
    with pytest.raises(UserError, match=r"'b' of .* which is one number with a decimal comma and another"):
        read(text("b;y", lambda n, y: f"1{',.'[n % 2]}{100 + n};{y}"))


def test_decimal_marks_and_signs_are_those_of_each_file_and_said(tmp_path, read, capsys):
    (tmp_path / "train.csv").write_text(text("a;p;y", lambda n, y: f"{n},5;{n}%;{y}"))
    (tmp_path / "test.csv").write_text("a,p,y\n0.5,3%,a\n1.234,4%,b\n")
    data = Table(source=str(tmp_path), target="y", root=str(tmp_path / "root"), val_size=0)
    data.setup()
    assert data.store.arrays["test-images"].tolist() == [[0.5, 3], [1.234, 4]]
    printed = capsys.readouterr().out
    assert "read with decimal commas: a, p\n" in printed
    assert "signs left out: p (%)\n" in printed
    (tmp_path / "test.csv").write_text("a,p,y\n0.5,0.03,a\n")
    with pytest.raises(UserError, match=r"test\.csv, line 2: column 'p' holds '0.03', expected a number with % as in"):
        Table(source=str(tmp_path), target="y", root=str(tmp_path / "other"), val_size=0).setup()


def test_ambiguous_numbers_of_another_file_are_written_as_those_of_the_training_file(tmp_path):
    (tmp_path / "train.csv").write_text(text("a;y", lambda n, y: f"{n},5;{y}"))
    (tmp_path / "test.csv").write_text("a;y\n1,234;a\n")
    data = Table(source=str(tmp_path), target="y", root=str(tmp_path / "root"), val_size=0)
    data.setup()
    assert data.store.arrays["test-images"].tolist() == [[1.234]]


def test_missing_values_are_found_in_numbers_however_they_are_written(read):
    data, _ = read(
        text("a;p;y", lambda n, y: f"{'-999,00' if n % 4 == 0 else f'{n},5'};{n} %;{y}"), missing={"a": -999, "p": 0}
    )
    assert data.store.meta["missing"]["train"] == {"a": 10, "p": 1}


@pytest.mark.parametrize(
    ("content", "said"),
    {
        "irregular thousands": (
            text("p,y", lambda n, y: f'"1,1{n:03}.5",{y}'),
            r"line 2: column 'p' holds '1,1000.5', which looks like a number .*--data\.ignore '\[\"p\"\]'",
        ),
        "lakhs": (text("p,y", lambda n, y: f'"1,{n + 10},456",{y}'), r"holds '1,10,456', which looks like a number"),
        "accounts": (text("p,y", lambda n, y: f'"({n},100)",{y}'), r"holds '\(0,100\)', which looks like a number"),
        "currencies": (text("p,y", lambda n, y: f"{'$€'[n % 2]}{n},{y}"), r"'\$0', which .* same percent or"),
        "percent or not": (text("p,y", lambda n, y: f"{n}{'%' * (n % 5 > 0)},{y}"), r"'0', expected a number with %"),
        "decimal commas and points": (
            text("p;y", lambda n, y: f"{n}{'.,'[n == 7]}5;{y}"),
            r"line 9: column 'p' holds '7,5', expected a number as in 39 of its 40 cells",
        ),
        "decimal commas between commas": (
            text("x,z,y", lambda n, y: f"{n},5,1,{y}"),
            r"line 1, has 3 cells, 'x, z, y', but the lines below it have 4, .*decimal points",
        ),
        "row names of R": (text('"x","y"', lambda n, y: f'"{n}",{n},"{y}"'), r"has 2 cells, .*\(R leaves out"),
        "title": ("Report\n\n" + text("x;z;y", lambda n, y: f"{n};{n};{y}"), r"line 1, has 1 cell, 'Report', "),
        "title with a comma": ("R, 1\n" + text("x;z;y", lambda n, y: f"{n};{n};{y}"), r"'R, 1', .* have 3, "),
        "another separator": (text("x^y", lambda n, y: f"{n}^{y}"), r"one column, 'x\^y', .*write the line sep=\^"),
        "a wrong separator named": ("sep=;\n" + PLAIN, r"by ';', which its first line names"),
        "short row": (PLAIN + "5\n", r"line 42, has 1 cell, expected 2.*; add what is miss"),
        "long row": (PLAIN + "5,a,b\n", r"line 42, has 3 cells, expected 2"),
        "joined": (PLAIN * 2, r"line 42, repeats the names .*; remove the line"),
        "open quote": (text("x,w,y", lambda n, y: f"{n},{chr(34) * (n == 30)}p,{y}"), r"after line 31 \(unexp"),
        "stray quotes": (text("x,w,y", lambda n, y: f'{n},"p" and "q",{y}'), r"after line 1 .*correct the quotes"),
        "same names": ("a,b,a,y\n1,2,3,x\n", r"2 columns named 'a' \(columns 1, 3\)"),
        "no names": (",,a,y\n1,1,3,x\n", r"2 columns without a name \(columns 1, 2\)"),
        "blank": ("\n \n\n", r"is empty, expected a line with the names"),
        "mark alone": (b"\xef\xbb\xbf", r"is empty, expected a line with the names"),
        "comments alone": ("# a\n# b\n", r"has one column, '# a'"),
        "NUL": (PLAIN + "1\0,a\n", r"line 42, holds a NUL byte"),
        "Latin": (PLAIN.encode() + b"\xe9,a\n", r"line 42\); .* iconv -f WINDOWS-1252"),
        "cut UTF-16": ("x,y\n1,a\n".encode("utf-16") + b"x", r"begins as UTF-16, but is not \(truncated data\)"),
        "cut gzip": (gzip.compress(PLAIN.encode(), mtime=0)[:-9], r"is damaged \(gzip: .*fetch it"),
        "web page": ("\n<!DOCTYPE html>\n<html>", r"is a page of the web \(HTML\), .*download the file itself"),
        "Git LFS": (
            "version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
            r"is a pointer of Git LFS, .*git lfs",
        ),
        "JSON": ('[{"x": 1, "y": "a"}]', r"is a JSON file, .*pandas\.read_json"),
        "XML": ("<?xml version='1.0'?><x/>", r"is an XML file"),
        "ARFF": ("% c\n@relation x\n@attribute a numeric\n@data\n1\n", r"is an ARFF file"),
        "Parquet": (b"PAR1\x15\x04\0\0", r"is a Parquet file, .*pandas\.read_parquet.* pip install pyarrow"),
        "Feather": (b"ARROW1\0\0", r"is a Feather file, .*pandas\.read_feather"),
        "old Excel": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(9), r"Excel workbook of the old form.*install xlrd"),
        "SQLite": (b"SQLite format 3\0", r"is an SQLite database"),
        "PDF": (b"%PDF-1.7\n", r"is a PDF document"),
        "bzip2": (b"BZh91AY&SY", r"is compressed by bzip2, .*bunzip2 --keep"),
        "xz": (b"\xfd7zXZ\0", r"is compressed by xz, .*unxz --keep"),
        "picture": (b"\x89PNG\r\n\x1a\n", r"is an image"),
    }.values(),
)
def test_what_is_no_table_is_named_for_what_it_is(read, tmp_path, content, said):
    with pytest.raises(UserError, match=said) as refusal:
        read(content)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).endswith(".")
    assert not (tmp_path / "root").exists() or not [*(tmp_path / "root").rglob("*.npy")]


@pytest.mark.parametrize(
    ("rows", "target"),
    {
        "decimals and a word": (lambda n, y: f"{n * 37 % 101 / 10:.1f},{n % 7},{('setosa', 'x')[n % 2]}", "setosa"),
        "decimal commas": (lambda n, y: f"{n},5;{n % 7};{y}", "a"),
        "integers": (lambda n, y: f"{n * 7 % 13},{n * 5 % 11},{n % 2}", "0"),
        "words": (lambda n, y: f"{('high', 'low')[n % 2]},{'234'[n % 3]},more,{y}", "a"),
        "names of people": (lambda n, y: f"{n % 3},Mr {n},{('m', 'f')[n % 2]},{n % 30 + 3.5},{y}", "a"),
    }.values(),
)
def test_a_file_without_names_is_noticed(read, rows, target):
    lines = "\n".join(rows(n + 1, "ba"[n % 2]) for n in range(COUNT))
    with pytest.raises(
        UserError, match=r"line 1, holds '.*', which looks like a row, expected the names .*; write a line"
    ):
        read(lines, target=target)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (["xl/workbook.xml", "[Content_Types].xml"], r"is an Excel workbook, .*in its program, or .*install openpyxl"),
        (["xl/workbook.bin"], r"is a binary Excel workbook"),
        (["mimetype", "content.xml"], r"is an OpenDocument spreadsheet, .*pip install odfpy"),
        (["t.csv"], r"is a zip archive, expected a CSV file; unpack it, with unzip "),
    ],
)
def test_workbooks_and_archives_are_named_with_a_command_that_converts_them(read, tmp_path, parts, said):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for part in parts:
            archive.writestr(part, "<x/>")
    with pytest.raises(UserError, match=said) as refusal:
        read(content.getvalue(), name="it's a book.xlsx")
    if match := re.search(r"(python -c .*) \(its first", str(refusal.value)):
        words = shlex.split(match[1])
        assert words[:2] == ["python", "-c"]
        compile(words[2], "advice", "exec")
        assert str(tmp_path / "it's a book.csv") in words[2]
    with pytest.raises(UserError, match="damaged zip"):
        read(content.getvalue()[:20])


@pytest.mark.parametrize("word", ["Na", "NA", "null", "nan", "?", "n/a", "#N/A"])
def test_words_for_missing_are_classes_when_told(read, word):
    rows = text("x,y", lambda n, y: f"{n},{word if n % 2 else 'K'}")
    with pytest.raises(UserError, match=r"has no class .*say so with --data\.categorical '\[\"y\"\]'"):
        read(rows)
    assert set(read(rows, categorical=["y"])[0].class_names) == {word, "K"}
    with pytest.raises(UserError, match=r"has no class \(the target 'y' is ''\); fill it in, or remove the row\."):
        read(rows + "1,\n", categorical=["y"])


def test_none_is_a_class_and_so_are_forty_numbers_when_told(read):
    assert read(text("x,y", lambda n, y: f"{n},{('None', 'None of it')[n % 2]}"))[0].class_names == (
        "None",
        "None of it",
    )
    rows = text("x,y", lambda n, _: f"{n},{n % 40}", 400)
    with pytest.raises(UserError, match=r"a quantity, .*say so with --data\.categorical '\[\"y\"\]'"):
        read(rows)
    assert read(rows, categorical=["y"])[0].class_names == tuple(map(str, range(40)))
    rows = text("x,y", lambda n, _: f"{n},c{n // 2}", 80)
    with pytest.raises(UserError, match=r"40 different values in the 80 rows|too many to be classes"):
        read(text("x,y", lambda n, _: f"{n},c{n}", 80))
    assert len(read(rows, categorical=["y"])[0].class_names) == 40


def test_a_missing_value_that_no_cell_has_is_refused_or_said(read):
    rows = text("x,w,y", lambda n, y: f"{n},{('p', 'q')[n % 2]},{y}")
    for missing in ({"x": 999}, {"x": "12:30"}, {"x": [-1, -2]}, {"w": "no"}, {"x": 0, "w": "no"}):
        with pytest.raises(UserError, match=r"data\.missing marks .* as missing, but no cell of the column is"):
            read(rows, missing=missing)
    data, printed = read(rows, missing={"x": [0, -1], "w": "NA"})
    assert "no cell of x is '-1', although data.missing has it\n" in printed
    assert data.store.meta["missing"]["train"] == {"x": 1}


@pytest.mark.parametrize("value", [None, True, False, [1, None], {"a": 1}])
def test_what_yaml_made_of_a_text_is_refused(read, value):
    with pytest.raises(UserError, match=r"data\.missing gives .* for column 'x', .*put the text in quotes"):
        read(PLAIN, missing={"x": value})


def test_rows_of_test_that_equal_rows_of_train_are_counted(tmp_path, capsys):
    (tmp_path / "train.csv").write_text("x,w,y\n1,p,a\n2,,b\n,q,a\n4,p,b\n")
    (tmp_path / "test.csv").write_text("x,w,y\n1.0,p,b\n2,,b\n,q,a\n4,q,b\n")
    (tmp_path / "val.csv").write_text("x,w,y\n4,q,a\n4,p,a\n")
    data = Table(source=str(tmp_path), target="y", root=str(tmp_path / "root"))
    data.setup()
    assert data.store.meta["equal_to_train"] == {"test": 3, "val": 1}
    printed = capsys.readouterr().out
    assert "3 rows of test.csv equal rows of train.csv; data verify lists them" in printed
    assert "1 row of val.csv equals rows of train.csv" in printed
    (tmp_path / "test.csv").write_text("x,w,y\n9,p,b\n")
    other = Table(source=str(tmp_path), target="y", root=str(tmp_path / "other"))
    other.setup()
    assert other.store.meta["equal_to_train"]["test"] == 0
    assert "test.csv equal" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "used"),
    [
        (["train.csv.gz", "test.tsv.gz"], {"train": "train.csv.gz", "test": "test.tsv.gz"}),
        (["Train.TXT", "test.dat"], {"train": "Train.TXT", "test": "test.dat"}),
        (["train.csv", "train.txt", "train.xlsx", "test.py"], {"train": "train.csv"}),
        (["train.csv", "test.parquet"], {"train": "train.csv", "test": "test.parquet"}),
        (["train.csv.zip", "test.csv"], {"train": "train.csv.zip", "test": "test.csv"}),
    ],
)
def test_files_of_splits_have_many_endings(tmp_path, names, used):
    from visionbench.data.table import find_files

    for name in names:
        (tmp_path / name).write_text("x,y\n1,a\n")
    assert {split: path.name for split, path in find_files(tmp_path).items()} == used
    (tmp_path / "train.csv.gz").write_text("")
    (tmp_path / "Training.csv").write_text("")
    with pytest.raises(UserError, match="two files for train"):
        find_files(tmp_path)


def test_the_title_is_the_name_without_the_endings(read):
    assert read(gzip.compress(b"x,y\n1,a\n2,b\n", mtime=0), name="heart.v2.csv.gz")[0].title == "heart.v2"


def test_a_store_without_decimal_marks_is_still_opened(read, tmp_path):
    import json

    rows = PLAIN
    first, _ = read(rows)
    path = first.store.folder / "meta.json"
    meta = json.loads(path.read_text())
    for column in meta["columns"]:
        del column["decimal"], column["sign"]
    del meta["equal_to_train"]
    path.write_text(json.dumps(meta))
    again = Table(source=str(tmp_path / "t.csv"), target="y", root=str(tmp_path / "root"), val_size=0, test_size=0)
    again.setup()
    assert again.data_digest() == first.data_digest()
