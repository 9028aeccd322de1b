"""A CSV file's columns: which they are, what they hold, and the features that a model is given of them.

Read by the standard library's csv module, in two passes without holding the text. Filling in, scaling and one-hot
vectors are a few lines of NumPy each; scikit-learn's, which take seconds to import at the start of each run, are what
the tests compare them with.
"""

import csv
import difflib
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from visionbench.errors import UserError
from visionbench.text import shown

DELIMITERS = ",;\t|"
MISSING = frozenset({"", "?", "na", "n/a", "#n/a", "nan", "null"})  # in upper or lower case
LARGEST = float(np.finfo(np.float32).max)  # features are float32
ROWS = 4096  # that are read before they are written
# Categories that a column may have without being named as categorical; and those that it may have at all.
RECOGNISED, AT_MOST = 100, 10_000
# A target of more numbers than this, with fewer rows to each, is a quantity and not a class.
NUMBERS, ROWS_EACH = 20, 20

MISSING_CODE, UNSEEN_CODE = -1, -2  # where the others are the category's place


@dataclass(frozen=True)
class Column:
    """A column that a model is given.

    Attributes:
        name: As in the file's first line.
        kind: What its cells are.
        categories: Of a categorical one, sorted.
        has_missing: Whether a cell of the training file is missing.
    """

    name: str
    kind: Literal["numeric", "categorical"]
    categories: tuple[str, ...] = ()
    has_missing: bool = False


@dataclass(frozen=True)
class Schema:
    """What a training file says that every file of the table has.

    Attributes:
        columns: Those that a model is given, in the file's order.
        class_names: The values of the target, sorted.
    """

    columns: tuple[Column, ...]
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """How a table is read; the fields are arguments of `Table`."""

    target: str
    numeric: Sequence[str]
    categorical: Sequence[str]
    ignore: Sequence[str]
    missing: Mapping[str, Sequence[str]]
    unseen: Literal["error", "zeros"]


class CsvFile:
    """A CSV file whose first line, which names the columns, has been read.

    Fields are separated by commas, semicolons, tabs or bars - whichever gives the most names - and may be quoted; the
    text is UTF-8, with or without a byte order mark. Where commas do not separate fields, they may be decimal commas.
    Lines without a word are passed over.

    Args:
        path: The file.
        nameless: Whether a column may have no name.

    Raises:
        UserError: It cannot be read, is empty, or a name is there twice or not there.
    """

    def __init__(self, path: Path, nameless: bool = False) -> None:
        self.path = path
        headers = {}
        refusal = None
        for delimiter in DELIMITERS:
            self.delimiter = delimiter
            try:
                headers[delimiter] = next(self._records(), None)
            except UserError as error:  # quotes, seen with another delimiter, may be in the wrong place
                refusal = refusal or error
        found = {delimiter: header for delimiter, header in headers.items() if header is not None}
        if not found:
            raise refusal or UserError(
                f"{self.name} is empty, expected a line with the names of the columns and a row in each line after it."
            )
        self.delimiter, (_, self.names) = max(found.items(), key=lambda item: len(item[1][1]))
        if len(self.names) == 1:
            raise UserError(
                f"{self.name} has one column, {quoted(self.names[0])}, expected the target and one more or several, "
                "separated by commas, semicolons, tabs or bars."
            )
        for name, count in Counter(self.names).items():
            if count > 1 and (name or not nameless):
                raise UserError(f"{self.name} has {count} columns called {quoted(name)}; give each a name of its own.")
        if "" in self.names and not nameless:
            raise UserError(
                f"Column {self.names.index('') + 1} of {self.name} has no name, as the row numbers that a data frame "
                "writes; give it one, or leave it out by --data.ignore \"['']\"."
            )

    @property
    def name(self) -> str:
        """How it is called in messages."""
        return shown(str(self.path))

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """The number of the line that each row ends in, and its cells.

        Raises:
            UserError: The file cannot be read, or a row has more or fewer cells than there are columns.
        """
        records = self._records()
        next(records, None)
        for line, cells in records:
            if len(cells) != len(self.names):
                raise UserError(
                    f"{self.name}, line {line}, has {len(cells)} cells, expected {len(self.names)}, one for each "
                    "column; a cell that holds the separator belongs in double quotes."
                )
            yield line, cells

    def number(self, cell: str) -> float | None:
        """The number that a cell holds; `None` where it holds none."""
        if self.delimiter != "," and cell.count(",") == 1 and "." not in cell:
            cell = cell.replace(",", ".")
        try:
            value = float(cell) if "_" not in cell else math.nan  # Python's 1_000 is nobody else's
        except ValueError:
            return None
        return None if math.isnan(value) else value

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        line = 0
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file, delimiter=self.delimiter, strict=True)
                for cells in reader:
                    line = reader.line_num
                    stripped = [cell.strip() for cell in cells]
                    if any(stripped):
                        yield line, stripped
        except UnicodeDecodeError as error:
            raise UserError(f"{_where_not_utf8(self.path)}; save it as UTF-8.") from error
        except csv.Error as error:
            raise UserError(
                f"{self.name} cannot be read as CSV after line {line} ({error}); mend the quotes there."
            ) from error
        except OSError as error:
            raise UserError(f"{self.name} cannot be read ({error.strerror}); make it readable.") from error


@dataclass
class Tally:
    """What has been seen of a column."""

    words: set[str] = field(default_factory=set)  # up to one more than a column may have
    present: int = 0
    numbers: int = 0
    missing: int = 0
    first_word: tuple[int, str] | None = None  # the line and the cell


def find_schema(file: CsvFile, reading: Reading) -> Schema:
    """Reads a training file and says what its columns are.

    A column is numeric if more than half of its cells are numbers; then all of them have to be.

    Raises:
        UserError: A name is of no column, a column is neither numbers nor categories, or the target is not classes.
    """
    _check_names(file, reading)
    target = file.names.index(reading.target)
    left = {reading.target, *reading.ignore}
    features = [(place, name) for place, name in enumerate(file.names) if name not in left]
    if not features:
        raise UserError(f"{file.name} has no column besides the target and what data.ignore names; name fewer there.")
    gaps = _Gaps(file, reading)
    tallies = {name: Tally() for _, name in features}
    labels: Counter[str] = Counter()
    for line, cells in file.rows():
        labels[_label(file, line, cells[target], reading.target)] += 1
        for place, name in features:
            cell, tally = cells[place], tallies[name]
            if gaps.has(name, cell):
                tally.missing += 1
                continue
            tally.present += 1
            if len(tally.words) <= AT_MOST:
                tally.words.add(cell)
            if file.number(cell) is not None:
                tally.numbers += 1
            elif tally.first_word is None:
                tally.first_word = (line, cell)
    if not labels:
        raise UserError(f"{file.name} has the names of columns but no row below them; fill it.")
    columns = tuple(_column(file, name, tally, reading) for name, tally in tallies.items())
    return Schema(columns, _class_names(file, labels, reading.target))


def read_rows(
    file: CsvFile, schema: Schema, reading: Reading, train: str
) -> Iterator[tuple[np.ndarray, np.ndarray, dict[str, int]]]:
    """Reads the rows of a file, some at a time.

    Args:
        file: The training file or another one of the same table.
        schema: Of the training file.
        reading: How the table is read.
        train: The training file's name, for messages.

    Yields:
        Raw columns, shape (n, number of columns), float64: numbers, with NaN for what is missing, and the places of
        categories, with -1 for what is missing and -2 for what the training file does not have; labels, shape (n,),
        int64; and how many cells of each column were missing.

    Raises:
        UserError: A column is not there, or a cell is not of its column's kind.
    """
    for name in (reading.target, *(column.name for column in schema.columns)):
        if name not in file.names:
            what = "the target" if name == reading.target else f"a column of {train}"
            raise UserError(
                f"{file.name} has no column {quoted(name)}, which is {what}{_close(name, file.names)}; it has "
                f"{_some(file.names)}."
            )
    gaps = _Gaps(file, reading)
    target = file.names.index(reading.target)
    labels = {name: label for label, name in enumerate(schema.class_names)}
    are_numbers = _all_numbers(file, schema.class_names)
    places = [file.names.index(column.name) for column in schema.columns]
    codes = [{word: float(code) for code, word in enumerate(column.categories)} for column in schema.columns]
    unseen: Counter[tuple[str, str]] = Counter()
    rows: list[list[float]] = []
    found: list[int] = []
    missing: Counter[str] = Counter()
    for line, cells in file.rows():
        label = _label(file, line, cells[target], reading.target)
        label = _canonical(file, label) if are_numbers else label
        if label not in labels:
            raise UserError(
                f"{file.name}, line {line}: {quoted(reading.target)} is {quoted(label)}, a class that {train} does not "
                f"have (it has {_some(schema.class_names)}); mend it, or take the row out."
            )
        row = []
        for place, column, code in zip(places, schema.columns, codes, strict=True):
            cell = cells[place]
            if gap := gaps.has(column.name, cell):
                missing[column.name] += 1
            if column.kind == "numeric":
                row.append(math.nan if gap else _number(file, line, column.name, cell, train))
            elif gap and column.has_missing:
                row.append(MISSING_CODE)
            else:
                row.append(UNSEEN_CODE if gap else code.get(cell, UNSEEN_CODE))
                if row[-1] == UNSEEN_CODE:
                    unseen[column.name, cell] += 1
        rows.append(row)
        found.append(labels[label])
        if len(rows) == ROWS:
            yield np.array(rows), np.array(found, dtype=np.int64), dict(missing)
            rows, found, missing = [], [], Counter()
    if unseen and reading.unseen == "error":
        (name, word), count = unseen.most_common(1)[0]
        others = f" (and so for {len(unseen) - 1} more values)" if len(unseen) > 1 else ""
        raise UserError(
            f"{file.name} has {quoted(word)} in column {quoted(name)} {_times(count)}, which {train} never has"
            f"{others}; mend it, or encode what was never seen as zeros by --data.unseen zeros."
        )
    yield np.array(rows).reshape(-1, len(places)), np.array(found, dtype=np.int64), dict(missing)


class Feature(ABC):
    """What a model is given of a column, fitted on the rows that are trained on."""

    names: list[str]
    """Of the features, one a value."""

    @abstractmethod
    def encode(self, values: np.ndarray) -> np.ndarray:
        """Raw values, shape (N,), float64, as features, shape (N, len(names)), float64."""


class NumericFeature(Feature):
    """A number: the median for what is missing, then less the mean and by the standard deviation.

    Where the training file lacks some of them, a second feature says which: 1 for missing, 0 otherwise. That a value
    was not measured may say as much as the value.

    Args:
        column: The column.
        values: Of the rows that are trained on, shape (N,).
        standard: Whether it is scaled.

    Raises:
        UserError: None of these values is there.
    """

    def __init__(self, column: Column, values: np.ndarray, standard: bool) -> None:
        self.has_missing = column.has_missing
        self.names = [column.name, *([f"{column.name} missing"] if column.has_missing else [])]
        present = values[~np.isnan(values)]
        if not len(present):
            raise UserError(
                f"None of the {len(values)} rows trained on has a number in column {quoted(column.name)}; train on "
                "more of them, or name it in data.ignore."
            )
        self.fill = float(np.median(present))
        self.mean, self.std = 0.0, 1.0
        if standard:
            filled = np.where(np.isnan(values), self.fill, values)
            # Exact sums, for the same digits on every machine.
            self.mean = math.fsum(filled) / len(filled)
            self.std = math.sqrt(math.fsum((filled - self.mean) ** 2) / len(filled))
            if self.std == 0 or filled.min() == filled.max():
                self.std = 1.0  # a constant column is not divided by 0

    def encode(self, values: np.ndarray) -> np.ndarray:  # noqa: D102
        gaps = np.isnan(values)
        scaled = (np.where(gaps, self.fill, values) - self.mean) / self.std
        return np.stack([scaled, gaps] if self.has_missing else [scaled], axis=1)


class CategoricalFeature(Feature):
    """A category: as one-hot vector, or as its place among the sorted ones; what is missing is a category of its own.

    What none of the rows trained on has was never learned: all zeros in a one-hot vector, -1 as a place.

    Args:
        column: The column.
        values: Of the rows that are trained on, shape (N,).
        one_hot: Whether it becomes a vector.
    """

    def __init__(self, column: Column, values: np.ndarray, one_hot: bool) -> None:
        self.one_hot = one_hot
        self.has_missing = column.has_missing
        self.count = len(column.categories) + column.has_missing
        words = [f"{column.name}={word}" for word in column.categories]
        words += [f"{column.name} missing"] * column.has_missing
        self.names = words if one_hot else [column.name]
        self.learned = np.isin(np.arange(self.count), self._codes(values))

    def encode(self, values: np.ndarray) -> np.ndarray:  # noqa: D102
        codes = self._codes(values)
        known = (codes >= 0) & self.learned[np.maximum(codes, 0)]
        encoded: np.ndarray
        if self.one_hot:
            encoded = (codes[:, None] == np.arange(self.count)) & known[:, None]
        else:
            encoded = np.where(known, codes, -1)[:, None]
        return encoded.astype(np.float64)

    def _codes(self, values: np.ndarray) -> np.ndarray:
        """Places of the categories, the one of what is missing last."""
        codes = values.astype(np.int64)
        codes[codes == MISSING_CODE] = self.count - 1  # written only where the training file has some
        return codes


def fit_features(
    columns: Sequence[Column], rows: np.ndarray, encoding: Literal["one_hot", "label"], standard: bool
) -> list[Feature]:
    """Fits what a model is given of each column.

    Args:
        columns: The table's.
        rows: Raw columns of the rows that are trained on, shape (N, len(columns)).
        encoding: What categories become.
        standard: Whether numbers are scaled.

    Raises:
        UserError: A column of numbers has none in these rows.
    """
    return [
        NumericFeature(column, values, standard)
        if column.kind == "numeric"
        else CategoricalFeature(column, values, encoding == "one_hot")
        for column, values in zip(columns, rows.T, strict=True)
    ]


def feature_names(columns: Sequence[Column], encoding: Literal["one_hot", "label"]) -> list[str]:
    """The names of the features, which do not depend on what they are fitted on."""
    rows = np.zeros((1, len(columns)))
    return [name for feature in fit_features(columns, rows, encoding, standard=False) for name in feature.names]


def encode_rows(features: Sequence[Feature], rows: np.ndarray) -> np.ndarray:
    """Raw columns, shape (N, number of columns), as what the model sees: (N, number of features), float32."""
    encoded = [feature.encode(values) for feature, values in zip(features, rows.T, strict=True)]
    return np.concatenate(encoded, axis=1).astype(np.float32)


def quoted(text: str) -> str:
    """A cell or a name in a message, cut where it is long."""
    text = shown(text)
    return f"'{text if len(text) <= 40 else text[:37] + '...'}'"


class _Gaps:
    """Which cells are missing."""

    def __init__(self, file: CsvFile, reading: Reading) -> None:
        self.file = file
        self.words = {name: frozenset(words) for name, words in reading.missing.items()}
        numbers = {name: {file.number(word) for word in words} for name, words in self.words.items()}
        self.numbers = {name: values - {None} for name, values in numbers.items()}

    def has(self, name: str, cell: str) -> bool:
        if cell.casefold() in MISSING:
            return True
        if name not in self.words:
            return False
        return cell in self.words[name] or (bool(self.numbers[name]) and self.file.number(cell) in self.numbers[name])


def _check_names(file: CsvFile, reading: Reading) -> None:
    if reading.target not in file.names:
        raise UserError(
            f"data.target is {quoted(reading.target)}, but {file.name} has no such column"
            f"{_close(reading.target, file.names)}; it has {_some(file.names)}."
        )
    lists = {"numeric": reading.numeric, "categorical": reading.categorical, "ignore": reading.ignore}
    named: dict[str, str] = {}
    for option, names in (*lists.items(), ("missing", reading.missing)):
        for name in names:
            if name not in file.names:
                raise UserError(
                    f"data.{option} names {quoted(name)}, but {file.name} has no such column"
                    f"{_close(name, file.names)}; it has {_some(file.names)}."
                )
            if name == reading.target:
                raise UserError(f"data.{option} names {quoted(name)}, which is the target; take it out there.")
            if option != "missing" and named.setdefault(name, option) != option:
                raise UserError(f"Column {quoted(name)} is named in data.{named[name]} and data.{option}; keep one.")


def _column(file: CsvFile, name: str, tally: Tally, reading: Reading) -> Column:
    has_missing = tally.missing > 0
    if not tally.present:
        raise UserError(f"Column {quoted(name)} of {file.name} has no value in any row; leave it out by --data.ignore.")
    if name not in reading.categorical and (name in reading.numeric or 2 * tally.numbers > tally.present):
        if tally.first_word is not None:
            line, word = tally.first_word
            also = "" if name in reading.numeric else ", or name the column in data.categorical"
            raise UserError(
                f"{file.name}, line {line}: column {quoted(name)} holds {quoted(word)}, expected a number as in "
                f"{tally.numbers:,} of its {tally.present:,} cells; mend it, or call it missing by --data.missing "
                f'"{{{shown(name)}: {shown(word)}}}"{also}.'
            )
        return Column(name, "numeric", has_missing=has_missing)
    count = len(tally.words)
    if count > AT_MOST or (
        name not in reading.categorical and (count > RECOGNISED or (count > NUMBERS and 2 * count > tally.present))
    ):
        more = "more than " if count > AT_MOST else ""
        also = "" if count > AT_MOST else ", or name it in data.categorical to take it as it is"
        raise UserError(
            f"Column {quoted(name)} of {file.name} has {more}{min(count, AT_MOST):,} different words in "
            f"{tally.present:,} rows, too many to be categories; leave it out by --data.ignore{also}."
        )
    return Column(name, "categorical", _in_order(file, tally.words), has_missing)


def _class_names(file: CsvFile, labels: Mapping[str, int], target: str) -> tuple[str, ...]:
    are_numbers = _all_numbers(file, labels)
    names = _in_order(file, {_canonical(file, word) for word in labels} if are_numbers else labels)
    rows = sum(labels.values())
    if len(names) < 2:
        raise UserError(
            f"The target {quoted(target)} is {quoted(names[0])} in all {rows:,} rows of {file.name}, expected two "
            "classes or more; give another column as data.target."
        )
    if are_numbers and len(names) > NUMBERS and rows < ROWS_EACH * len(names):
        raise UserError(
            f"The target {quoted(target)} has {len(names):,} different numbers in the {rows:,} rows of {file.name}, "
            "which makes it a quantity, expected classes; put it into ranges, or give another column as data.target."
        )
    if len(names) > NUMBERS and 2 * len(names) > rows:
        raise UserError(
            f"The target {quoted(target)} has {len(names):,} different words in the {rows:,} rows of {file.name}, "
            "too many to be classes; give another column as data.target."
        )
    return names


def _label(file: CsvFile, line: int, cell: str, target: str) -> str:
    if cell.casefold() in MISSING:
        raise UserError(
            f"{file.name}, line {line}, has no class (the target {quoted(target)} is {quoted(cell)}); fill it in, or "
            "take the row out."
        )
    return cell


def _number(file: CsvFile, line: int, name: str, cell: str, train: str) -> float:
    value = file.number(cell)
    if value is None:
        raise UserError(
            f"{file.name}, line {line}: column {quoted(name)} holds {quoted(cell)}, expected a number as in {train}; "
            f'mend it, or call it missing by --data.missing "{{{shown(name)}: {shown(cell)}}}".'
        )
    if abs(value) > LARGEST:
        raise UserError(
            f"{file.name}, line {line}: column {quoted(name)} holds {quoted(cell)}, expected a number of at most "
            f'{LARGEST:.1e} in size; mend it, or call it missing by --data.missing "{{{shown(name)}: {shown(cell)}}}".'
        )
    return value


def _all_numbers(file: CsvFile, words: Sequence[str] | Mapping[str, int]) -> bool:
    return all(file.number(word) is not None for word in words)


def _canonical(file: CsvFile, word: str) -> str:
    """A number as one text, however it was written: 1, 1.0 and 1e0 are one class."""
    value = file.number(word)
    return word if value is None else f"{value:.15g}"


def _in_order(file: CsvFile, words: Any) -> tuple[str, ...]:
    """By size where all are numbers, else by their letters."""
    if _all_numbers(file, words):
        return tuple(sorted(words, key=lambda word: (file.number(word), word)))
    return tuple(sorted(words))


def _close(name: str, names: Sequence[str]) -> str:
    folded = {other.casefold(): other for other in reversed(names)}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f" (did you mean {quoted(folded[close[0]])}?)" if close else ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(shown(name) for name in names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _where_not_utf8(path: Path) -> str:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return f"{shown(str(path))} is not UTF-8 (byte 0x{line[error.start]:02x} in line {number})"
    return f"{shown(str(path))} is not UTF-8"
