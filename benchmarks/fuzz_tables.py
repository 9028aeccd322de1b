"""Tables written in many ways, and damaged ones: each is read as pandas reads it, or refused in one sentence.

    python benchmarks/fuzz_tables.py [--count 500] [--seed 0] [--summary FILE]

Each case draws a table (numbers, words, missing cells, odd names), a way to write it (separator, quotes, decimal mark,
thousands, signs, encoding, line ends, what stands above the names) and, for half of the cases, a mutation that damages
the text. The table is prepared in this process. A case fails where

- an exception leaves `Table` that is not of the project, or a refusal is not one sentence,
- a table that is not damaged is refused,
- a cell of the store is not the number, the word or the missing cell that pandas reads there, when it is told how the
  table is written, or a row or a class differs,
- it takes longer than `LIMIT` seconds.

Of a damaged table pandas is told nothing but the separator and the encoding, and what it reads is compared where it
reads as many rows. The summary counts the cases by mutation and outcome; failures are printed with their number. Exit
status 1 if there is one.
"""

import argparse
import collections
import contextlib
import gzip
import io
import math
import random
import signal
import sys
import tempfile
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas

from visionbench.data import Table
from visionbench.data.numbers import MISSING
from visionbench.errors import UserError

LIMIT = 20
NAMES = [
    "x",
    "0",
    "no",
    "null",
    "a: b",
    "k [m]",
    "Länge (cm, Mittel)",
    "a;b",
    "x, y",
    "it's",
    'say "no"',
    "日本",
    "2019",
]
NAMES += ["1e3", "~", "a|b", "n\nm", "Größe", "#1", "x" * 50, "{m}", "12:30", "%", "$"]
WORDS = [
    "red",
    "blue, or green",
    'the "one"',
    "é",
    "a;b",
    "x|y",
    "Na",
    "None",
    "10-20",
    "12:30",
    "no",
    "e5",
    "日本",
    "it's",
]
WORDS += ["a\nb", "1.2.3", "01/02/2024", "x y", "#REF!", "inf.", "-", "5 kg"]
ENCODINGS = ["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16"]
MUTATIONS = [
    "removed piece",
    "added piece",
    "doubled line",
    "removed line",
    "other byte",
    "cut off",
    "joined",
    "no names",
]
PIECES = [*',;\t|"\n\r #=%', '""', ",,", "NA", "\0", "é", "1.5", "1,5", '"\n', "sep=;\n", "\ufeff"]
NUMBER_FORMS = [
    "integers",
    "decimals",
    "three decimals",
    "thousands",
    "large thousands",
    "percent",
    "dollars",
    "exponents",
]


@dataclass
class Column:
    """A column of a case: its name, the form of its numbers (words for none), and its cells as they are written."""

    name: str
    form: str
    cells: list[str] = field(default_factory=list)


@dataclass
class Case:
    """A table that is written.

    Attributes:
        content: Content of the file.
        columns: Columns, the last of which is the target.
        separator: Separator of the cells.
        decimal: Decimal mark.
        encoding: Encoding.
        above: Number of lines above the names.
        mutation: How the text was damaged; empty for a table that is whole.
        is_gzip: Whether the file is compressed.
    """

    content: bytes
    columns: list[Column]
    separator: str
    decimal: str
    encoding: str
    above: int
    mutation: str
    is_gzip: bool


class TooLong(BaseException):
    """A case takes too long."""


def main() -> int:
    """Runs the cases and prints the summary; 1 if one fails, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="number of cases")
    parser.add_argument("--seed", type=int, default=0, help="seed of the cases")
    parser.add_argument("--only", type=int, help="number of the one case to run")
    parser.add_argument("--summary", type=Path, help="file to write the summary to")
    arguments = parser.parse_args()
    failures, outcomes = fuzz(arguments.count, arguments.seed, arguments.only)
    lines = [f"{sum(outcomes.values())} tables of seed {arguments.seed}, {failures} failures", ""]
    lines += [f"{'mutation':<16} {'refused':>8} {'read':>8} {'compared':>9}"]
    for mutation in sorted({mutation for mutation, _ in outcomes}):
        counts = [outcomes[mutation, outcome] for outcome in ("refused", "read", "compared")]
        lines.append(f"{mutation or 'none':<16} {counts[0]:>8} {counts[1] + counts[2]:>8} {counts[2]:>9}")
    print("\n".join(lines))
    if arguments.summary is not None:
        arguments.summary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(failures > 0)


def fuzz(count: int, seed: int, only: int | None = None) -> tuple[int, collections.Counter[tuple[str, str]]]:
    """Runs cases; gives the number of failures, and the number of cases by mutation and outcome."""
    failures, outcomes = 0, collections.Counter()
    warnings.simplefilter("ignore", pandas.errors.ParserWarning)
    signal.signal(signal.SIGALRM, _too_long)
    for number in range(count) if only is None else [only]:
        case = draw(random.Random(f"{seed} {number}"))
        signal.alarm(LIMIT)
        try:
            outcome, failure = judge(case)
        except (Exception, TooLong):  # all of them are reported
            outcome, failure = "read", traceback.format_exc()
        finally:
            signal.alarm(0)
        outcomes[case.mutation, outcome] += 1
        if failure:
            failures += 1
            print(f"table {number} ({case.mutation or 'whole'}): {failure}", flush=True)
        if only is not None:
            print(outcome, case.columns, case.content)
    return failures, outcomes


def _too_long(*_: object) -> None:
    raise TooLong(f"took longer than {LIMIT} s")


def draw(random: random.Random) -> Case:
    """Draws a case."""
    count = random.randint(24, 60)
    separator = random.choice(",,;\t|")
    decimal = "," if random.random() < (0.15 if separator == "," else 0.5) else "."
    names = random.sample(NAMES, random.randint(2, 6))
    columns = [_column(random, name, count, decimal) for name in names]
    # The decimal mark can be told from one column at least, as in most tables.
    columns[0] = Column(
        names[0], "decimals", [f"{random.uniform(-9, 9):.2f}".replace(".", decimal) for _ in range(count)]
    )
    classes = random.choice([["a", "b"], ["0", "1"], ["yes", "no", "maybe"], ["Ärger", "x y"]])
    columns.append(Column("class", "target", [classes[number % len(classes)] for number in range(count)]))
    text, above = _written(random, columns, separator)
    mutation = random.choice(MUTATIONS) if random.random() < 0.5 else ""
    if mutation:
        text = _damaged(random, text, mutation)
    encoding = random.choice(ENCODINGS)
    content = text.encode(encoding)
    if mutation == "other byte":
        place = random.randrange(len(content))
        content = content[:place] + bytes([random.randrange(256)]) + content[place + 1 :]
    is_gzip = random.random() < 0.2
    return Case(content, columns, separator, decimal, encoding, above, mutation, is_gzip)


def _column(random: random.Random, name: str, count: int, decimal: str) -> Column:
    form = random.choice([*NUMBER_FORMS, "words", "words"])
    share = random.choice([0, 0, 0.1, 0.3])
    absent = random.choice(["", "NA", "n/a", "NaN", "null", "?", "#N/A"])
    words = random.sample(WORDS, random.randint(2, 6))
    cells = [_cell(random, form, words) for _ in range(count)]
    if form != "words" and decimal == ",":
        cells = [cell.translate({ord("."): ",", ord(","): "."}) for cell in cells]
    return Column(name, form, [absent if random.random() < share else cell for cell in cells])


def _cell(random: random.Random, form: str, words: list[str]) -> str:
    number = random.uniform(-2000, 2000)
    return {
        "integers": f"{number:.0f}",
        "decimals": f"{number:.{random.choice([1, 2, 5])}f}",
        "three decimals": f"{number:.3f}",
        "thousands": f"{number * 7:,.0f}",
        "large thousands": f"{number * 1e6:,.2f}",
        "percent": f"{number / 20:.1f}%",
        "dollars": f"${abs(number):,.2f}",
        "exponents": f"{number:.3e}",
        "words": random.choice(words),
    }[form]


def _written(random: random.Random, columns: list[Column], separator: str) -> tuple[str, int]:
    """Text of a table, and the number of lines above its names."""
    quotes_all, blanks = random.random() < 0.2, random.choice(["", "", "", " "]) if separator != "\t" else ""
    blanks_after = blanks and random.choice(["", " "])
    end = random.choice(["\n", "\n", "\r\n", "\r"])
    trailing = separator if random.random() < 0.1 else ""

    def cell(text: str) -> str:
        if quotes_all or any(mark in text for mark in (separator, '"', "\n", "\r")):
            text = '"' + text.replace('"', '""') + '"'
        return text

    rows = [[column.name for column in columns], *zip(*(column.cells for column in columns), strict=True)]
    lines = [(blanks_after + separator + blanks).join(map(cell, row)) + trailing for row in rows]
    above = random.choice([[], [], [], [], [f"sep={separator}"], ["# exported, today", "# by hand"]])
    if random.random() < 0.1:
        lines.insert(random.randint(1, len(lines)), "")
    return end.join([*above, *lines]) + end * random.randint(0, 2), len(above)


def _damaged(random: random.Random, text: str, mutation: str) -> str:
    place, lines = random.randrange(1, len(text)), text.splitlines(keepends=True)
    line = random.randrange(len(lines))
    return {
        "removed piece": text[:place] + text[place + random.choice([1, 1, 2, 9]) :],
        "added piece": text[:place] + random.choice(PIECES) + text[place:],
        "doubled line": "".join([*lines[: line + 1], lines[line], *lines[line + 1 :]]),
        "removed line": "".join([*lines[:line], *lines[line + 1 :]]),
        "other byte": text,
        "cut off": text[:place],
        "joined": text + text,
        "no names": "".join(lines[1:]),
    }[mutation]


def judge(case: Case) -> tuple[str, str]:
    """Outcome of a case, and what is wrong with it, or an empty text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        path.write_bytes(gzip.compress(case.content) if case.is_gzip else case.content)
        arguments = {"target": "class", "root": f"{folder}/root", "val_size": 0, "test_size": 0}
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                data = Table(source=str(path), **arguments)
                store = data.open_store()
        except UserError as error:
            said = str(error)
            if "\n" in said or not said.endswith((".", "?")):
                return "refused", f"no sentence: {said}"
            return "refused", "" if case.mutation else f"refused: {said}"
        rows, labels = np.array(store.arrays["train-images"]), np.array(store.arrays["train-labels"])
    try:
        table = read_by_pandas(case)
    except Exception as error:  # pandas reads less than it is given here
        return "read", "" if case.mutation else f"pandas: {error}"
    if len(table) != len(rows) or "class" not in table.columns:
        return "read", "" if case.mutation else f"{len(rows)} rows, pandas {len(table)}"
    classes = [data.class_names[label] for label in labels]
    wrong = [
        f"class {mine!r}, pandas {other!r}"
        for mine, other in zip(classes, table["class"], strict=True)
        if mine != other
    ]
    for place, column in enumerate(data.schema.columns):
        if column.name not in table.columns:
            return "read", "" if case.mutation else f"column {column.name!r}, pandas {list(table.columns)}"
        for line, (value, cell) in enumerate(zip(rows[:, place], table[column.name], strict=True)):
            mine = column.categories[int(value)] if column.kind == "categorical" and value >= 0 else value
            if not _equal(mine, cell, column.kind, case):
                wrong.append(f"column {column.name!r}, row {line}: {mine!r}, pandas {cell!r}")
    return "compared", "; ".join(wrong[:3])


def read_by_pandas(case: Case) -> pandas.DataFrame:
    """The cells of a case as text, read by pandas."""
    table = pandas.read_csv(
        io.BytesIO(case.content),
        sep=case.separator,
        encoding=case.encoding,
        dtype=str,
        keep_default_na=False,
        skipinitialspace=True,
        skiprows=case.above if not case.mutation else 0,
        index_col=False,
    )
    table.columns = [str(name).strip() for name in table.columns]
    table = table.apply(lambda column: column.str.strip())
    return table[(table != "").any(axis=1)]


def _equal(mine: float | str, cell: str, kind: str, case: Case) -> bool:
    """Whether a cell of the store is what pandas reads, told the decimal mark and the separator of thousands."""
    if cell.casefold() in MISSING:
        return not isinstance(mine, str) and (math.isnan(mine) or mine == -1)
    if kind == "categorical":
        return mine == cell
    bare = cell.replace("%", "").replace("$", "")
    # A cell of its own, in tabs: pandas then knows no other separator.
    options = {"decimal": case.decimal, "thousands": "." if case.decimal == "," else ","}
    number = pandas.read_csv(io.StringIO(f"n\n{bare}\n"), sep="\t", **options)["n"][0]
    return not isinstance(number, str) and math.isclose(mine, number, rel_tol=1e-15)


if __name__ == "__main__":
    sys.exit(main())
