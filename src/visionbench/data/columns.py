"""Columns of CSV files: their kinds, their values and their features.

Imputation, scaling and one-hot encoding are a few lines of NumPy each; scikit-learn would add seconds of import time to
each run, so it serves only as the reference in tests.
"""

import difflib
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from visionbench.data.csv_file import CsvFile
from visionbench.data.numbers import MISSING, Mark, NumberStyle, is_number_like, plain_number
from visionbench.errors import UserError
from visionbench.text import counted, option, quoted, shown

MAX_ABSOLUTE = float(np.finfo(np.float32).max)  # features are float32
MAX_EXACT = 1e15  # of numbers with 15 digits, each is a float of its own
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
        decimal: Decimal mark of the numbers in the training file; the other mark separates their thousands.
        sign: Percent or currency sign of all numbers; empty for none.
    """

    name: str
    kind: Literal["numeric", "categorical"]
    categories: tuple[str, ...] = ()
    has_missing: bool = False
    decimal: Mark = "."
    sign: str = ""


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


@dataclass
class ColumnStatistics:
    """Counts of the cells of one column."""

    style: NumberStyle
    values: set[str] = field(default_factory=set)  # distinct cells; at most MAX_CATEGORIES + 1 of them
    present: int = 0
    numbers: int = 0
    number_like: int = 0  # cells that are no numbers of this style, but look like some
    missing: int = 0
    first_non_number: tuple[int, str] | None = None  # line number and cell
    first_number_like: tuple[int, str] | None = None

    def add(self, line: int, cell: str) -> None:
        """Counts a cell that is not missing."""
        self.present += 1
        if len(self.values) <= MAX_CATEGORIES:
            self.values.add(cell)
        if self.style.number(cell) is not None:
            self.numbers += 1
            return
        self.first_non_number = self.first_non_number or (line, cell)
        if is_number_like(cell):
            self.number_like += 1
            self.first_number_like = self.first_number_like or (line, cell)


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
    styles = {name: NumberStyle(file.mark(name) or ".", file.evidence[name].sign()) for _, name in features}
    missing = _MissingCells(styles, options)
    statistics_by_column = {name: ColumnStatistics(styles[name]) for _, name in features}
    labels: Counter[str] = Counter()
    for line, cells in file.rows():
        labels[_label(file, line, cells[target], options)] += 1
        for position, name in features:
            cell, statistics = cells[position], statistics_by_column[name]
            if missing.has(name, cell):
                statistics.missing += 1
            else:
                statistics.add(line, cell)
    if not labels:
        raise UserError(f"{file.name} has a line of column names but no rows; add rows.")
    columns = tuple(_column(file, name, statistics, options) for name, statistics in statistics_by_column.items())
    return Schema(columns, _class_names(file, labels, options))


def read_rows(
    file: CsvFile, schema: Schema, options: TableOptions, train: str, met: set[tuple[str, str]] | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray, dict[str, int]]]:
    """Reads the rows of a file in chunks.

    Args:
        file: Training file, or another file of the same table.
        schema: Schema of the training file.
        options: Options for reading the table.
        train: Name of the training file, for messages.
        met: Set that receives the columns and values of `missing` that some cell has.

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
            unlabeled = ", or remove the file, if its rows have no classes" if name == options.target else ""
            raise UserError(
                f"{file.name} has no column {quoted(name)}, which is {role}{_suggestion(name, file.names)}; it has "
                f"{_listed(file.names)}; add or rename the column{unlabeled}."
            )
    styles = {column.name: _style(file, column) for column in schema.columns if column.kind == "numeric"}
    missing_cells = _MissingCells(styles, options, met)
    target = file.names.index(options.target)
    labels = {name: label for label, name in enumerate(schema.class_names)}
    are_numbers = _are_numbers(file, schema.class_names, options)
    positions = [file.names.index(column.name) for column in schema.columns]
    codes = [{value: float(code) for code, value in enumerate(column.categories)} for column in schema.columns]
    unseen: Counter[tuple[str, str]] = Counter()
    rows: list[list[float]] = []
    row_labels: list[int] = []
    missing: Counter[str] = Counter()
    for line, cells in file.rows():
        label = _label(file, line, cells[target], options)
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
                number = math.nan if is_missing else styles[column.name].number(cell)
                if number is None or abs(number) > MAX_ABSOLUTE:
                    raise _not_a_number(file, line, column.name, cell, number, styles[column.name], options, train)
                row.append(number)
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
    fitted: dict[str, Any]
    """Values that were fitted on the training split, in plain types."""

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
        self.fitted = {"fill": self.fill, "mean": self.mean, "std": self.std}

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
        self.fitted = {"in_training": self.in_training.tolist()}

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


class _MissingCells:
    """Decides which cells count as missing.

    Args:
        styles: Styles of the numbers, by column.
        options: Options for reading the table.
        met: Set that receives the columns and values of `missing` that some cell has.
    """

    def __init__(
        self, styles: Mapping[str, NumberStyle], options: TableOptions, met: set[tuple[str, str]] | None = None
    ) -> None:
        self.met: set[tuple[str, str]] = set() if met is None else met
        self.markers = {name: frozenset(markers) for name, markers in options.missing.items()}
        self.numbers: dict[str, dict[float, str]] = {}
        self.styles = {name: styles.get(name, NumberStyle()) for name in self.markers}
        for name, style in self.styles.items():
            numbers = ((self._number(style, marker), marker) for marker in options.missing[name])
            self.numbers[name] = {number: marker for number, marker in numbers if number is not None}

    def has(self, name: str, cell: str) -> bool:
        if name in self.markers:
            marker: str | None = cell
            if cell not in self.markers[name]:
                numbers = self.numbers[name]
                number = self._number(self.styles[name], cell) if numbers else None
                marker = numbers.get(number) if number is not None else None
            if marker is not None:
                self.met.add((name, marker))
                return True
        return cell.casefold() in MISSING

    @staticmethod
    def _number(style: NumberStyle, cell: str) -> float | None:
        """Number in a cell, which may be written without the sign of the others."""
        number = style.number(cell)
        return number if number is not None else plain_number(cell)


def _check_names(file: CsvFile, options: TableOptions) -> None:
    if options.target not in file.names:
        raise UserError(
            f"data.target is {quoted(options.target)}, but {file.name} has no such column"
            f"{_suggestion(options.target, file.names)}; it has {_listed(file.names)}."
        )
    lists = {"numeric": options.numeric, "categorical": options.categorical, "ignore": options.ignore}
    named: dict[str, str] = {}
    for option_name, names in (*lists.items(), ("missing", options.missing)):
        for name in names:
            if name not in file.names:
                raise UserError(
                    f"data.{option_name} names {quoted(name)}, but {file.name} has no such column"
                    f"{_suggestion(name, file.names)}; it has {_listed(file.names)}."
                )
            if name == options.target and option_name != "categorical":
                raise UserError(f"data.{option_name} names {quoted(name)}, which is the target; remove it there.")
            if option_name != "missing" and named.setdefault(name, option_name) != option_name:
                raise UserError(
                    f"Column {quoted(name)} is named in data.{named[name]} and data.{option_name}; name it in only one."
                )


def _column(file: CsvFile, name: str, statistics: ColumnStatistics, options: TableOptions) -> Column:
    has_missing = statistics.missing > 0
    ignored = option("data.ignore", [*options.ignore, name])
    categorical = option("data.categorical", [*options.categorical, name])
    if not statistics.present:
        raise UserError(f"Column {quoted(name)} of {file.name} has no value in any row; ignore it with {ignored}.")
    is_told = name in options.categorical
    if not is_told and (name in options.numeric or 2 * statistics.numbers > statistics.present):
        if file.mark(name) is None:
            cell = next(iter(file.evidence[name].ambiguous.values()))
            raise UserError(
                f"Column {quoted(name)} of {file.name} holds {quoted(cell)}, which is one number with a decimal comma "
                "and another with a decimal point, and no cell tells which is meant; write the numbers without "
                "separators of thousands, and with decimal points."
            )
        if statistics.first_non_number is not None:
            line, cell = statistics.first_non_number
            alternative = "" if name in options.numeric else f", or name the column as categorical with {categorical}"
            raise UserError(
                f"{file.name}, line {line}: column {quoted(name)} holds {quoted(cell)}, expected a number"
                f"{_in_style(statistics.style)} as in {statistics.numbers:,} of its {statistics.present:,} cells; "
                f"correct the cell, or mark this value as missing with {_as_missing(options, name, cell)}{alternative}."
            )
        return Column(
            name, "numeric", has_missing=has_missing, decimal=statistics.style.decimal, sign=statistics.style.sign
        )
    if not is_told and 2 * (statistics.numbers + statistics.number_like) > statistics.present:
        line, cell = statistics.first_number_like or (0, "")
        raise UserError(
            f"{file.name}, line {line}: column {quoted(name)} holds {quoted(cell)}, which looks like a number but is "
            "not written as one, expected digits, in groups of three if thousands are separated, and the same decimal "
            "mark and the same percent or currency sign in all cells of the column; write it as 1234.5, ignore the "
            f"column with {ignored}, or declare categories with {categorical}."
        )
    count = len(statistics.values)
    is_ambiguous = count > MAX_INFERRED_CATEGORIES or (count > MAX_NUMERIC_CLASSES and 2 * count > statistics.present)
    if count > MAX_CATEGORIES or (is_ambiguous and not is_told):
        more = "more than " if count > MAX_CATEGORIES else ""
        alternative = (
            "" if count > MAX_CATEGORIES else f", or, if these are categories, declare them with {categorical}"
        )
        raise UserError(
            f"Column {quoted(name)} of {file.name} has {more}{min(count, MAX_CATEGORIES):,} different values in "
            f"{statistics.present:,} rows, too many to be categories; ignore it with {ignored}{alternative}."
        )
    return Column(name, "categorical", _sorted(file, statistics.values), has_missing)


def _style(file: CsvFile, column: Column) -> NumberStyle:
    """Way in which a file writes the numbers of a column of the training file."""
    mark = file.mark(column.name, column.decimal)
    return NumberStyle(column.decimal if mark is None else mark, column.sign)


def _in_style(style: NumberStyle) -> str:
    words = [f"with {style.sign}"] * bool(style.sign) + ["with a decimal comma"] * (style.decimal == ",")
    return f" {' and '.join(words)}" if words else ""


def _as_missing(options: TableOptions, name: str, cell: str) -> str:
    """The option that marks a value as missing, beside those that are marked already."""
    values = {column: list(markers) for column, markers in options.missing.items()}
    values.setdefault(name, []).append(cell)
    return option("data.missing", {column: each[0] if len(each) == 1 else each for column, each in values.items()})


def _class_names(file: CsvFile, labels: Mapping[str, int], options: TableOptions) -> tuple[str, ...]:
    target = options.target
    are_numbers = _are_numbers(file, labels, options)
    names = _sorted(file, {_canonical_number(file, cell) for cell in labels} if are_numbers else labels)
    rows = sum(labels.values())
    if len(names) < 2:
        raise UserError(
            f"The target {quoted(target)} is {quoted(names[0])} in all {rows:,} rows of {file.name}, expected two "
            "classes or more; give another column as data.target."
        )
    if target in options.categorical:
        return names
    told = option("data.categorical", [*options.categorical, target])
    if are_numbers and len(names) > MAX_NUMERIC_CLASSES and rows < MIN_ROWS_PER_CLASS * len(names):
        raise UserError(
            f"The target {quoted(target)} has {len(names):,} different numbers in the {rows:,} rows of {file.name}, "
            "which makes it a quantity, expected classes; group it into ranges, give another column as data.target, "
            f"or, if each number is a class, say so with {told}."
        )
    if len(names) > MAX_NUMERIC_CLASSES and 2 * len(names) > rows:
        raise UserError(
            f"The target {quoted(target)} has {len(names):,} different values in the {rows:,} rows of {file.name}, "
            f"too many to be classes; give another column as data.target, or, if each is a class, say so with {told}."
        )
    return names


def _label(file: CsvFile, line: int, cell: str, options: TableOptions) -> str:
    target = options.target
    if cell.casefold() in MISSING and (not cell or target not in options.categorical):
        told = option("data.categorical", [*options.categorical, target])
        raise UserError(
            f"{file.name}, line {line}, has no class (the target {quoted(target)} is {quoted(cell)}); fill it in, or "
            f"remove the row{f', or, if {quoted(cell)} is a class, say so with {told}' if cell else ''}."
        )
    return cell


def _not_a_number(
    file: CsvFile,
    line: int,
    name: str,
    cell: str,
    value: float | None,
    style: NumberStyle,
    options: TableOptions,
    train: str,
) -> UserError:
    if value is None:
        expected = f"a number{_in_style(style)} as in {train}"
    else:
        expected = f"an absolute value of at most {MAX_ABSOLUTE:.1e}"
    return UserError(
        f"{file.name}, line {line}: column {quoted(name)} holds {quoted(cell)}, expected {expected}; correct the cell, "
        f"or mark this value as missing with {_as_missing(options, name, cell)}."
    )


def _all_numbers(file: CsvFile, values: Sequence[str] | Mapping[str, int]) -> bool:
    return all(file.number(value) is not None for value in values)


def _are_numbers(file: CsvFile, labels: Sequence[str] | Mapping[str, int], options: TableOptions) -> bool:
    """Whether classes are numbers, of which all spellings are one class; those that are told to be codes are not."""
    return options.target not in options.categorical and _all_numbers(file, labels)


def _canonical_number(file: CsvFile, cell: str) -> str:
    """The same text for every spelling of a number, 1, 1.0 and 1e0; larger ones than floats tell apart are texts."""
    value = file.number(cell)
    return cell if value is None or abs(value) >= MAX_EXACT else f"{value:.15g}"


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
