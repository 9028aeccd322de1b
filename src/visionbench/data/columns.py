"""Columns of CSV files: their kinds, their values and their features.

The csv module of the standard library reads each file in two passes, without keeping its text in memory. Imputation,
scaling and one-hot encoding are a few lines of NumPy each; scikit-learn would add seconds of import time to each run,
so it serves only as the reference in tests.
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
from visionbench.text import counted, shown

DELIMITERS = ",;\t|"
MISSING = frozenset({"", "?", "na", "n/a", "#n/a", "nan", "null"})  # in upper or lower case
MAX_ABSOLUTE = float(np.finfo(np.float32).max)  # features are float32
CHUNK_ROWS = 4096  # rows that are read before they are written
# Limits of the number of categories: of a column that is not listed as categorical, and of any column.
MAX_INFERRED_CATEGORIES, MAX_CATEGORIES = 100, 10_000
# A target with more distinct numbers than the first, and fewer rows per number than the second, is a quantity.
MAX_NUMERIC_CLASSES, MIN_ROWS_PER_CLASS = 20, 20

MISSING_CODE, UNSEEN_CODE = -1, -2  # codes of cells without a known category; a known one has its index, from 0


@dataclass(frozen=True)
class Column:
    """A column that becomes features of the model.

    Attributes:
        name: Name of the column in the first line of the file.
        kind: Kind of the cells.
        categories: Sorted categories of a categorical column.
        has_missing: Whether cells of the training file are missing in this column.
    """

    name: str
    kind: Literal["numeric", "categorical"]
    categories: tuple[str, ...] = ()
    has_missing: bool = False


@dataclass(frozen=True)
class Schema:
    """Columns and classes of a table, inferred from its training file.

    Attributes:
        columns: Columns that become features, in the order of the file.
        class_names: Sorted values of the target.
    """

    columns: tuple[Column, ...]
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class TableOptions:
    """Options for reading a table; the fields are arguments of `Table`."""

    target: str
    numeric: Sequence[str]
    categorical: Sequence[str]
    ignore: Sequence[str]
    missing: Mapping[str, Sequence[str]]
    unseen: Literal["error", "zeros"]


class CsvFile:
    """A CSV file, opened by reading its first line, which names the columns.

    Fields are separated by commas, semicolons, tabs or bars (the separator that gives the most names is used) and may
    be quoted. The text is UTF-8, with or without a byte order mark. If commas do not separate fields, they may be
    decimal commas. Empty lines are ignored.

    Args:
        path: Path of the file.
        allow_unnamed: Whether columns without a name are allowed.

    Raises:
        UserError: The file cannot be read or is empty, or a column name is missing or repeated.
    """

    def __init__(self, path: Path, allow_unnamed: bool = False) -> None:
        self.path = path
        headers = {}
        refusal = None
        for delimiter in DELIMITERS:
            self.delimiter = delimiter
            try:
                headers[delimiter] = next(self._records(), None)
            except UserError as error:  # with a wrong delimiter, quotes may seem to be in a wrong position
                refusal = refusal or error
        readable = {delimiter: header for delimiter, header in headers.items() if header is not None}
        if not readable:
            raise refusal or UserError(
                f"{self.name} is empty, expected a line with the names of the columns, followed by one row per line."
            )
        self.delimiter, (_, self.names) = max(readable.items(), key=lambda item: len(item[1][1]))
        if len(self.names) == 1:
            raise UserError(
                f"{self.name} has one column, {quoted(self.names[0])}, expected two or more (the target and others), "
                "separated by commas, semicolons, tabs or bars."
            )
        for name, count in Counter(self.names).items():
            if count > 1 and (name or not allow_unnamed):
                raise UserError(f"{self.name} has {count} columns named {quoted(name)}; give each a different name.")
        if "" in self.names and not allow_unnamed:
            raise UserError(
                f"Column {self.names.index('') + 1} of {self.name} has no name (pandas writes row numbers like this); "
                "give it a name, or ignore it with --data.ignore \"['']\"."
            )

    @property
    def name(self) -> str:
        """Path of the file, for messages."""
        return shown(str(self.path))

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Line number (of the row's last line) and cells of each row.

        Raises:
            UserError: The file cannot be read, or the number of cells of a row is not that of the columns.
        """
        records = self._records()
        next(records, None)
        for line, cells in records:
            if len(cells) != len(self.names):
                raise UserError(
                    f"{self.name}, line {line}, has {len(cells)} cells, expected {len(self.names)}, one for each "
                    "column; put a cell that contains the separator in double quotes."
                )
            yield line, cells

    def number(self, cell: str) -> float | None:
        """Number in a cell; `None` if the cell is not a number."""
        if self.delimiter != "," and cell.count(",") == 1 and "." not in cell:
            cell = cell.replace(",", ".")
        try:
            value = float(cell) if "_" not in cell else math.nan  # only Python reads 1_000 as a number
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
                f"{self.name} cannot be read as CSV after line {line} ({error}); correct the quotes there."
            ) from error
        except OSError as error:
            raise UserError(f"{self.name} cannot be read ({error.strerror}); make it readable.") from error


@dataclass
class ColumnStatistics:
    """Counts of the cells of one column."""

    values: set[str] = field(default_factory=set)  # distinct cells; at most MAX_CATEGORIES + 1 of them
    present: int = 0
    numbers: int = 0
    missing: int = 0
    first_non_number: tuple[int, str] | None = None  # line number and cell


def infer_schema(file: CsvFile, options: TableOptions) -> Schema:
    """Infers the columns and classes of a table from its training file.

    A column is numeric if more than half of its cells are numbers; all of its cells must then be numbers.

    Raises:
        UserError: An option names a column that does not exist, a column is neither numeric nor categorical, or the
            target has too many values to be classes.
    """
    _check_names(file, options)
    target = file.names.index(options.target)
    excluded = {options.target, *options.ignore}
    features = [(position, name) for position, name in enumerate(file.names) if name not in excluded]
    if not features:
        raise UserError(
            f"{file.name} has no column besides the target and those in data.ignore; remove names from data.ignore."
        )
    missing = _MissingCells(file, options)
    statistics_by_column = {name: ColumnStatistics() for _, name in features}
    labels: Counter[str] = Counter()
    for line, cells in file.rows():
        labels[_label(file, line, cells[target], options.target)] += 1
        for position, name in features:
            cell, statistics = cells[position], statistics_by_column[name]
            if missing.has(name, cell):
                statistics.missing += 1
                continue
            statistics.present += 1
            if len(statistics.values) <= MAX_CATEGORIES:
                statistics.values.add(cell)
            if file.number(cell) is not None:
                statistics.numbers += 1
            elif statistics.first_non_number is None:
                statistics.first_non_number = (line, cell)
    if not labels:
        raise UserError(f"{file.name} has a line of column names but no rows; add rows.")
    columns = tuple(_column(file, name, statistics, options) for name, statistics in statistics_by_column.items())
    return Schema(columns, _class_names(file, labels, options.target))


def read_rows(
    file: CsvFile, schema: Schema, options: TableOptions, train: str
) -> Iterator[tuple[np.ndarray, np.ndarray, dict[str, int]]]:
    """Reads the rows of a file in chunks.

    Args:
        file: Training file, or another file of the same table.
        schema: Schema of the training file.
        options: Options for reading the table.
        train: Name of the training file, for messages.

    Yields:
        Raw columns, shape (n, number of columns), float64: numbers (NaN if missing) and indices of categories (-1 if
        missing, -2 if the training file does not have the category); labels, shape (n,), int64; and the number of
        missing cells by column.

    Raises:
        UserError: A column is missing, or a cell does not fit the kind of its column.
    """
    for name in (options.target, *(column.name for column in schema.columns)):
        if name not in file.names:
            role = "the target" if name == options.target else f"a column of {train}"
            raise UserError(
                f"{file.name} has no column {quoted(name)}, which is {role}{_suggestion(name, file.names)}; it has "
                f"{_listed(file.names)}."
            )
    missing_cells = _MissingCells(file, options)
    target = file.names.index(options.target)
    labels = {name: label for label, name in enumerate(schema.class_names)}
    are_numbers = _all_numbers(file, schema.class_names)
    positions = [file.names.index(column.name) for column in schema.columns]
    codes = [{value: float(code) for code, value in enumerate(column.categories)} for column in schema.columns]
    unseen: Counter[tuple[str, str]] = Counter()
    rows: list[list[float]] = []
    row_labels: list[int] = []
    missing: Counter[str] = Counter()
    for line, cells in file.rows():
        label = _label(file, line, cells[target], options.target)
        label = _canonical_number(file, label) if are_numbers else label
        if label not in labels:
            raise UserError(
                f"{file.name}, line {line}: {quoted(options.target)} is {quoted(label)}, a class that {train} does not "
                f"have (it has {_listed(schema.class_names)}); correct the cell, or remove the row."
            )
        row = []
        for position, column, code in zip(positions, schema.columns, codes, strict=True):
            cell = cells[position]
            if is_missing := missing_cells.has(column.name, cell):
                missing[column.name] += 1
            if column.kind == "numeric":
                row.append(math.nan if is_missing else _number(file, line, column.name, cell, train))
            elif is_missing and column.has_missing:
                row.append(MISSING_CODE)
            else:
                row.append(UNSEEN_CODE if is_missing else code.get(cell, UNSEEN_CODE))
                if row[-1] == UNSEEN_CODE:
                    unseen[column.name, cell] += 1
        rows.append(row)
        row_labels.append(labels[label])
        if len(rows) == CHUNK_ROWS:
            yield np.array(rows), np.array(row_labels, dtype=np.int64), dict(missing)
            rows, row_labels, missing = [], [], Counter()
    if unseen and options.unseen == "error":
        (name, value), count = unseen.most_common(1)[0]
        others = f" (nor {counted(len(unseen) - 1, 'other value')})" if len(unseen) > 1 else ""
        raise UserError(
            f"{file.name} has {quoted(value)} in column {quoted(name)} {_times(count)}, a category that {train} does "
            f"not have{others}; correct it, or encode unknown categories as zeros with --data.unseen zeros."
        )
    yield np.array(rows).reshape(-1, len(positions)), np.array(row_labels, dtype=np.int64), dict(missing)


class Feature(ABC):
    """Features of one column, fitted on the training split."""

    names: list[str]
    """Names of the features."""

    @abstractmethod
    def encode(self, values: np.ndarray) -> np.ndarray:
        """Encodes raw values, shape (N,), float64, as features, shape (N, len(names)), float64."""


class NumericFeature(Feature):
    """A standardized number; a missing number is replaced by the median.

    If numbers are missing in the training file, a second feature is 1 for a missing number and 0 otherwise, since the
    absence of a measurement may be informative.

    Args:
        column: Column of the table.
        values: Raw values of the training split, shape (N,).
        standard: Whether the number is standardized.

    Raises:
        UserError: All values are missing.
    """

    def __init__(self, column: Column, values: np.ndarray, standard: bool) -> None:
        self.has_missing = column.has_missing
        self.names = [column.name, *([f"{column.name} missing"] if column.has_missing else [])]
        present = values[~np.isnan(values)]
        if not len(present):
            raise UserError(
                f"None of the {len(values)} training rows has a number in column {quoted(column.name)}; use more "
                "training rows, or add the column to data.ignore."
            )
        self.fill = float(np.median(present))
        self.mean, self.std = 0.0, 1.0
        if standard:
            filled = np.where(np.isnan(values), self.fill, values)
            # Exact sums give the same digits on every machine.
            self.mean = math.fsum(filled) / len(filled)
            self.std = math.sqrt(math.fsum((filled - self.mean) ** 2) / len(filled))
            if self.std == 0 or filled.min() == filled.max():
                self.std = 1.0  # a constant column is not divided by 0

    def encode(self, values: np.ndarray) -> np.ndarray:  # noqa: D102
        is_missing = np.isnan(values)
        scaled = (np.where(is_missing, self.fill, values) - self.mean) / self.std
        return np.stack([scaled, is_missing] if self.has_missing else [scaled], axis=1)


class CategoricalFeature(Feature):
    """A category as a one-hot vector or as its index among the sorted categories; a missing cell is its own category.

    A category that the training split does not contain is encoded as zeros in a one-hot vector, or as the index -1.

    Args:
        column: Column of the table.
        values: Raw values of the training split, shape (N,).
        one_hot: Whether the category becomes a one-hot vector.
    """

    def __init__(self, column: Column, values: np.ndarray, one_hot: bool) -> None:
        self.one_hot = one_hot
        self.has_missing = column.has_missing
        self.count = len(column.categories) + column.has_missing
        names = [f"{column.name}={value}" for value in column.categories]
        names += [f"{column.name} missing"] * column.has_missing
        self.names = names if one_hot else [column.name]
        self.in_training = np.isin(np.arange(self.count), self._codes(values))

    def encode(self, values: np.ndarray) -> np.ndarray:  # noqa: D102
        codes = self._codes(values)
        known = (codes >= 0) & self.in_training[np.maximum(codes, 0)]
        encoded: np.ndarray
        if self.one_hot:
            encoded = (codes[:, None] == np.arange(self.count)) & known[:, None]
        else:
            encoded = np.where(known, codes, -1)[:, None]
        return encoded.astype(np.float64)

    def _codes(self, values: np.ndarray) -> np.ndarray:
        """Indices of the categories; the last index is for missing cells."""
        codes = values.astype(np.int64)
        codes[codes == MISSING_CODE] = self.count - 1  # occurs only if cells of the training file are missing
        return codes


def fit_features(
    columns: Sequence[Column], rows: np.ndarray, encoding: Literal["one_hot", "label"], standard: bool
) -> list[Feature]:
    """Fits the features of each column on the training split.

    Args:
        columns: Columns of the table.
        rows: Raw columns of the training split, shape (N, len(columns)).
        encoding: Encoding of categories.
        standard: Whether numbers are standardized.

    Raises:
        UserError: All cells of a numeric column are missing in these rows.
    """
    return [
        NumericFeature(column, values, standard)
        if column.kind == "numeric"
        else CategoricalFeature(column, values, encoding == "one_hot")
        for column, values in zip(columns, rows.T, strict=True)
    ]


def feature_names(columns: Sequence[Column], encoding: Literal["one_hot", "label"]) -> list[str]:
    """Names of the features, which do not depend on the rows of the training split."""
    rows = np.zeros((1, len(columns)))
    return [name for feature in fit_features(columns, rows, encoding, standard=False) for name in feature.names]


def encode_rows(features: Sequence[Feature], rows: np.ndarray) -> np.ndarray:
    """Encodes raw columns, shape (N, number of columns), as features, shape (N, number of features), float32."""
    encoded = [feature.encode(values) for feature, values in zip(features, rows.T, strict=True)]
    return np.concatenate(encoded, axis=1).astype(np.float32)


def quoted(text: str) -> str:
    """Text of a cell or a name for a message, shortened if it is long."""
    text = shown(text)
    return f"'{text if len(text) <= 40 else text[:37] + '...'}'"


class _MissingCells:
    """Decides which cells count as missing."""

    def __init__(self, file: CsvFile, options: TableOptions) -> None:
        self.file = file
        self.markers = {name: frozenset(markers) for name, markers in options.missing.items()}
        numbers = {name: {file.number(marker) for marker in markers} for name, markers in self.markers.items()}
        self.numbers = {name: values - {None} for name, values in numbers.items()}

    def has(self, name: str, cell: str) -> bool:
        if cell.casefold() in MISSING:
            return True
        if name not in self.markers:
            return False
        return cell in self.markers[name] or (bool(self.numbers[name]) and self.file.number(cell) in self.numbers[name])


def _check_names(file: CsvFile, options: TableOptions) -> None:
    if options.target not in file.names:
        raise UserError(
            f"data.target is {quoted(options.target)}, but {file.name} has no such column"
            f"{_suggestion(options.target, file.names)}; it has {_listed(file.names)}."
        )
    lists = {"numeric": options.numeric, "categorical": options.categorical, "ignore": options.ignore}
    named: dict[str, str] = {}
    for option, names in (*lists.items(), ("missing", options.missing)):
        for name in names:
            if name not in file.names:
                raise UserError(
                    f"data.{option} names {quoted(name)}, but {file.name} has no such column"
                    f"{_suggestion(name, file.names)}; it has {_listed(file.names)}."
                )
            if name == options.target:
                raise UserError(f"data.{option} names {quoted(name)}, which is the target; remove it there.")
            if option != "missing" and named.setdefault(name, option) != option:
                raise UserError(
                    f"Column {quoted(name)} is named in data.{named[name]} and data.{option}; name it in only one."
                )


def _column(file: CsvFile, name: str, statistics: ColumnStatistics, options: TableOptions) -> Column:
    has_missing = statistics.missing > 0
    if not statistics.present:
        raise UserError(f"Column {quoted(name)} of {file.name} has no value in any row; add it to data.ignore.")
    if name not in options.categorical and (name in options.numeric or 2 * statistics.numbers > statistics.present):
        if statistics.first_non_number is not None:
            line, cell = statistics.first_non_number
            alternative = "" if name in options.numeric else ", or name the column in data.categorical"
            raise UserError(
                f"{file.name}, line {line}: column {quoted(name)} holds {quoted(cell)}, expected a number as in "
                f"{statistics.numbers:,} of its {statistics.present:,} cells; correct the cell, or mark this value as "
                f'missing with --data.missing "{{{shown(name)}: {shown(cell)}}}"{alternative}.'
            )
        return Column(name, "numeric", has_missing=has_missing)
    count = len(statistics.values)
    is_ambiguous = count > MAX_INFERRED_CATEGORIES or (count > MAX_NUMERIC_CLASSES and 2 * count > statistics.present)
    if count > MAX_CATEGORIES or (is_ambiguous and name not in options.categorical):
        more = "more than " if count > MAX_CATEGORIES else ""
        alternative = "" if count > MAX_CATEGORIES else ", or name it in data.categorical if these are categories"
        raise UserError(
            f"Column {quoted(name)} of {file.name} has {more}{min(count, MAX_CATEGORIES):,} different values in "
            f"{statistics.present:,} rows, too many to be categories; add it to data.ignore{alternative}."
        )
    return Column(name, "categorical", _sorted(file, statistics.values), has_missing)


def _class_names(file: CsvFile, labels: Mapping[str, int], target: str) -> tuple[str, ...]:
    are_numbers = _all_numbers(file, labels)
    names = _sorted(file, {_canonical_number(file, cell) for cell in labels} if are_numbers else labels)
    rows = sum(labels.values())
    if len(names) < 2:
        raise UserError(
            f"The target {quoted(target)} is {quoted(names[0])} in all {rows:,} rows of {file.name}, expected two "
            "classes or more; give another column as data.target."
        )
    if are_numbers and len(names) > MAX_NUMERIC_CLASSES and rows < MIN_ROWS_PER_CLASS * len(names):
        raise UserError(
            f"The target {quoted(target)} has {len(names):,} different numbers in the {rows:,} rows of {file.name}, "
            "which makes it a quantity, expected classes; group it into ranges, or give another column as data.target."
        )
    if len(names) > MAX_NUMERIC_CLASSES and 2 * len(names) > rows:
        raise UserError(
            f"The target {quoted(target)} has {len(names):,} different values in the {rows:,} rows of {file.name}, "
            "too many to be classes; give another column as data.target."
        )
    return names


def _label(file: CsvFile, line: int, cell: str, target: str) -> str:
    if cell.casefold() in MISSING:
        raise UserError(
            f"{file.name}, line {line}, has no class (the target {quoted(target)} is {quoted(cell)}); fill it in, or "
            "remove the row."
        )
    return cell


def _number(file: CsvFile, line: int, name: str, cell: str, train: str) -> float:
    value = file.number(cell)
    if value is None:
        raise UserError(
            f"{file.name}, line {line}: column {quoted(name)} holds {quoted(cell)}, expected a number as in {train}; "
            f'correct the cell, or mark this value as missing with --data.missing "{{{shown(name)}: {shown(cell)}}}".'
        )
    if abs(value) > MAX_ABSOLUTE:
        raise UserError(
            f"{file.name}, line {line}: column {quoted(name)} holds {quoted(cell)}, expected an absolute value of at "
            f"most {MAX_ABSOLUTE:.1e}; correct the cell, or mark this value as missing with --data.missing "
            f'"{{{shown(name)}: {shown(cell)}}}".'
        )
    return value


def _all_numbers(file: CsvFile, values: Sequence[str] | Mapping[str, int]) -> bool:
    return all(file.number(value) is not None for value in values)


def _canonical_number(file: CsvFile, cell: str) -> str:
    """The same text for every spelling of a number: 1, 1.0 and 1e0 are one class."""
    value = file.number(cell)
    return cell if value is None else f"{value:.15g}"


def _sorted(file: CsvFile, values: Any) -> tuple[str, ...]:
    """Sorts by number if all values are numbers, otherwise alphabetically."""
    if _all_numbers(file, values):
        return tuple(sorted(values, key=lambda value: (file.number(value), value)))
    return tuple(sorted(values))


def _suggestion(name: str, names: Sequence[str]) -> str:
    folded = {other.casefold(): other for other in reversed(names)}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f" (did you mean {quoted(folded[close[0]])}?)" if close else ""


def _listed(names: Sequence[str]) -> str:
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
