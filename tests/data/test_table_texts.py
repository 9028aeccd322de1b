"""Names of columns and texts of cells in options and files: each can be given as it is written."""

import csv
import json
import re
import shlex

import pytest
import yaml

from visionbench.data.store import read_meta

COUNT = 40
# Names of columns, and texts of cells, that YAML or a shell would take for something else.
HOSTILE = [
    *("0", "010", "1_000", "1e3", "0x1F", "12:30", "2024-01-05", "+5", "-", "-1", ".5", "~", "null", "no", "Yes", "on"),
    *("a: b", "a:b", "#DIV/0!", "a #b", "k [m]", "[m]", "{m}", "{a: b}", "a, b", "?", "!x", "&x", "*x", "%x", "@x"),
    *("'", "it's", '"', 'say "no"', "''", "\\n", "\\", "$HOME", "$(date)", "`x`", "!!", "|", ">", "=", "<<", "--x"),
    *("name with blanks", "日本", "a\nb", "a\tb", "😀", "\x7f", "a\u2028b", "x" * 60, "true", "NaN.", "...", "---"),
    *("data", "é", "\u200bx", "\\ud83d", "\\\\😀"),
]  # fmt: skip


@pytest.fixture
def table(tmp_path):
    """Writes a table of one file, with the names and the cells of two columns besides x and y."""

    def make(name="k", cell="bad", other="z", target="y", among_numbers=True):
        with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([name, other, "x", target])
            for number in range(COUNT):
                value = cell if number % 4 == 0 else number + 0.5 if among_numbers else "word"
                writer.writerow([value, number % 3, number, "ab"[number % 2]])
        return f"Table --data.source t.csv --data.root root --data.target={shlex.quote(target)}"

    return make


def prepared(tmp_path, result):
    """Entries of the store that a command has prepared."""
    assert result.status == 0, result
    (path,) = (tmp_path / "root" / "Table").glob("*/meta.json")
    return read_meta(path.parent)


def columns(meta):
    return [column["name"] for column in meta["columns"]]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_can_be_a_name_and_a_missing_value_in_quotes(cli, table, tmp_path, text):
    line = table(name=text, cell=f"{text}!", among_numbers=False)
    missing, ignore = (shlex.quote(json.dumps(value)) for value in ({text: f"{text}!"}, ["z"]))
    meta = prepared(tmp_path, cli(f"data prepare {line} --data.missing {missing} --data.ignore {ignore}"))
    assert columns(meta) == [text.strip(), "x"]
    assert meta["missing"]["train"] == {text.strip(): COUNT // 4}


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_can_be_a_target_and_be_ignored(cli, table, tmp_path, text):
    line = table(other=f"{text}#", target=text, among_numbers=True, cell="1.5")
    meta = prepared(tmp_path, cli(f"data prepare {line} --data.ignore {shlex.quote(json.dumps([f'{text}#', 'x']))}"))
    assert (meta["settings"]["target"], columns(meta)) == (text, ["k"])


@pytest.mark.parametrize("text", [text for text in HOSTILE if text != "<<"])
def test_the_advice_works_when_it_is_followed(cli, table, tmp_path, text):
    line = f"{table(name=text, cell=f'{text} ', other='z')} --data.missing '{{x: 7}}'"
    first = cli(f"data prepare {line}")
    if first.status == 0:  # the text is a number, or a word for missing
        assert text.casefold() in ("0", "010", "1e3", "+5", "-1", ".5", "?", "null")
        return
    advice = re.search(r"with (--data\.missing .*), or name the column as categorical with (.*)\.", first.refusal())
    assert advice is not None, first
    meta = prepared(tmp_path, cli(f"data prepare {line} {advice[1]}"))
    assert meta["missing"]["train"] == {text.strip(): COUNT // 4, "x": 1}
    assert cli(f"data prepare {line} {advice[2]} --data.root other").status == 0


@pytest.mark.parametrize("text", HOSTILE)
def test_the_advice_about_classes_and_names_works_when_it_is_followed(cli, table, tmp_path, text):
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["", f"{text}=", "x", text], *([n, f"{text} {n}", n, f"c{n % 25}"] for n in range(COUNT))])
    line = f"data prepare Table --data.source t.csv --data.root root --data.target={shlex.quote(text)}"
    for _ in range(4):
        result = cli(line)
        if result.status == 0:
            break
        advice = re.search(
            r"(?:with|or ignore it with) (--data\.(?:ignore|categorical) .*?)(?:, or|\.$)", result.refusal()
        )
        assert advice is not None, result
        option = advice[1].split()[0]
        line = re.sub(rf" {re.escape(option)} .*?(?= --data|$)", "", line) + f" {advice[1]}"
    assert columns(prepared(tmp_path, result)) == ["x"]


@pytest.mark.parametrize(
    ("value", "name", "cell"),
    [
        *(("{k: no}", "k", "no"), ("{k: 010}", "k", "010"), ("{k: 12:30}", "k", "12:30"), ("{k: -x}", "k", "-x")),
        *(("{1: bad}", "1", "bad"), ("{no: bad}", "no", "bad"), ("{~: bad}", "~", "bad"), ("{1.50: b}", "1.50", "b")),
        *(("{k: ~}", "k", "~"), ("{k: 2024-01-05}", "k", "2024-01-05"), ("{k: 1e3}", "k", "1e3")),
        *(("{k: [no, 0x1F]}", "k", "0x1F"), ("{' k ': ' bad '}", "k", "bad"), ("{k: {a: b}}", "k", "{a: b}")),
        *(("k: a b", "k", "a b"), ("k: [-1, bad]", "k", "bad"), ("k: -9_9", "k", "-9_9")),
    ],
)
def test_a_text_without_quotes_is_what_is_written(cli, table, tmp_path, value, name, cell):
    line = table(name=name, cell=cell, among_numbers=False)
    meta = prepared(tmp_path, cli(f"data prepare {line} --data.ignore '[z]' --data.missing {shlex.quote(value)}"))
    markers = meta["settings"]["missing"][name]
    assert cell in markers
    assert meta["missing"]["train"] == {name: COUNT // 4}


@pytest.mark.parametrize("name", ["0", "010", "no", "null", "~", "1.50", "a: b", "[m]", "!x", "12:30", "a b"])
def test_names_without_quotes_are_what_is_written(cli, table, tmp_path, name):
    line = table(name=name, cell="1.5")
    assert columns(prepared(tmp_path, cli(f"data prepare {line} --data.ignore '[{name}, z]'"))) == ["x"]
    appended = shlex.quote(json.dumps([name]) if name == "[m]" else name)
    added = cli(f"data prepare {line} --data.root more --data.ignore '[z]' --data.ignore+ {appended}")
    assert "numeric: x\n" in added.out, added


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("missing", "{k: a: b}", r"'\{k: a: b\}' cannot be read .*in quotes, as in --data\.missing '\{\"column\": "),
        ("missing", "{k: #DIV/0!}", r"cannot be read .*; put each text in quotes"),
        ("missing", "{k: *x}", r"cannot be read \(found undefined alias\)"),
        ("missing", "{k: !x}", r"cannot be read"),
        ("missing", "{k: }", r"data\.missing has an empty entry in line 1, expected a text"),
        ("missing", "{k: 0, k: 1}", r"column 'k' 2 times; .*\"k\": \[\"value\""),
        ("ignore", "[k [m]]", r"cannot be read .*--data\.ignore '\[\"column\"\]'"),
        ("ignore", "[#x]", r"cannot be read"),
        ("ignore", "[k, , x]", r"cannot be read"),
    ],
)
def test_what_yaml_cannot_read_is_refused_with_how_to_write_it(cli, table, option, value, said):
    refusal = cli(f"data prepare {table()} --data.{option} {shlex.quote(value)}").refusal()
    assert re.search(said, refusal), refusal


def test_files_keep_the_texts_too(cli, table, tmp_path):
    table(name="010", cell="no", other="a: b", among_numbers=False)
    (tmp_path / "c.yaml").write_text(
        "model: {class_path: MLP, init_args: {widths: [4]}}\n"
        "data:\n  class_path: Table\n  init_args:\n    source: t.csv\n    target: y\n    root: root\n"
        "    ignore:\n      - a: b\n    missing:\n      010: no # not known\n      x: [0, 07]\n"
        "trainer: {max_epochs: 1, accelerator: cpu, precision: 32-true}\nname: r\n"
    )
    first = cli("fit --config c.yaml")
    assert first.status == 0, first
    assert "test rows of 4 features" in first.out
    written = yaml.safe_load((tmp_path / "lightning_logs/r/version_0/config.yaml").read_text())["data"]["init_args"]
    assert (written["ignore"], written["missing"]) == (["a: b"], {"010": "no", "x": [0, "07"]})
    assert read_meta(*(tmp_path / "root" / "Table").glob("*[0-9a-f]"))["missing"]["train"] == {"010": 10, "x": 2}
    # What the run has written is read again as the same.
    again = cli("fit --config lightning_logs/r/version_0/config.yaml --name r")
    digests = [json.loads((tmp_path / f"lightning_logs/r/version_{n}/run.json").read_text()) for n in (0, 1)]
    assert again.status == 0
    assert digests[0]["identity"] == digests[1]["identity"]
    assert cli("test lightning_logs/r/version_0").status == 0


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            "ignore:\n      - #x\n      - x",
            r"data\.ignore has an empty entry in line 7, expected a text; .*begins with #",
        ),
        ("missing:\n      k: #DIV/0!\n      x: 1", r"data\.missing has an empty entry in line 7"),
        ("missing: {k: 0, k: 1}", r"data\.init_args\.missing\.k is given twice \(line 6\)"),
    ],
)
def test_a_comment_in_the_place_of_a_text_is_refused_in_a_file(cli, table, tmp_path, lines, said):
    table()
    (tmp_path / "c.yaml").write_text(
        f"model: MLP\ndata:\n  class_path: Table\n  init_args:\n    target: y\n    {lines}\n    source: t.csv\n"
    )
    refusal = cli("fit --config c.yaml").refusal()
    assert re.search(said, refusal), refusal


def test_numbers_of_usual_form_stay_numbers(cli, table, tmp_path):
    table(cell="0")
    options = "--data Table --data.source t.csv --data.target y --model MLP --data.missing '{k: [0, 0.5, 010]}'"
    printed = cli(f"fit {options} --print_config")
    assert yaml.safe_load(printed.out)["data"]["init_args"]["missing"] == {"k": [0, 0.5, "010"]}


@pytest.mark.parametrize("name", ["Data: 2024", "[x]", "{x}", "007", "null", "no", "a #b", "'x'", "@x"])
def test_paths_are_texts(cli, table, tmp_path, name):
    table(cell="1.5")
    folder = tmp_path / name
    folder.mkdir()
    (tmp_path / "t.csv").rename(folder / "train.csv")
    word = shlex.quote(name)
    result = cli(f"data prepare Table --data.source {word} --data.target y --data.root {shlex.quote(f'{name}/root')}")
    assert result.status == 0, result
    assert (folder / "root" / "Table").is_dir()
