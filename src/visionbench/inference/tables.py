"""Tables as inputs of a model that was trained on a table: their rows, read and encoded as in training."""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from visionbench.data.base import VisionDataModule
from visionbench.data.columns import (
    MAX_ABSOLUTE,
    MISSING_CODE,
    UNSEEN_CODE,
    Column,
    Schema,
    TableOptions,
    read_rows,
)
from visionbench.data.csv_file import CsvFile
from visionbench.data.numbers import MISSING, plain_number
from visionbench.data.store import SPLITS
from visionbench.data.table import SUFFIXES
from visionbench.decoding import FORMATS
from visionbench.errors import UserError
from visionbench.inference.inputs import LIST, Sample, list_files, split_samples
from visionbench.text import one_line, quoted, shown

Keep = Literal["unused", "all"]
CHUNK_ROWS = 1024  # rows that are read at once
LABELS_CACHED = 4096  # different cells of the target whose labels are kept


@dataclass(frozen=True)
class TableRecipe:
    """Recipe that turns a row of a table into an input of a model.

    Attributes:
        schema: Columns and classes of the training table.
        options: Options for reading the table.
        encoding: Encoding of categories.
        fitted: Values that were fitted on the training split, for each column: `fill`, `mean` and `std` of a number,
            `in_training` of a category.
    """

    schema: Schema
    options: TableOptions
    encoding: Literal["one_hot", "label"]
    fitted: tuple[Mapping[str, Any], ...]

    def with_unseen(self, unseen: Literal["error", "zeros"]) -> "TableRecipe":
        """Gives the recipe with another treatment of categories that the training table does not have.

        Args:
            unseen: Treatment: `error` or `zeros`.

        Raises:
            UserError: There is no such treatment.
        """
        if unseen not in ("error", "zeros"):
            raise UserError(f"unseen is {unseen}, expected error or zeros.")
        return replace(self, options=replace(self.options, unseen=unseen))

    def described(self) -> dict[str, Any]:
        """Description for programs that predict without visionbench, in plain types.

        A raw row has one number per column: the number itself, or NaN where it is missing, or the code of a category.
        """
        columns: list[dict[str, Any]] = []
        for column, fitted in zip(self.schema.columns, self.fitted, strict=True):
            markers = list(self.options.missing.get(column.name, ()))
            numbers = [number for marker in markers if (number := plain_number(marker)) is not None]
            entry = {**asdict(column), "missing": markers, "missing_numbers": numbers}
            categories = entry.pop("categories")
            if column.kind == "categorical":
                codes = {category: code for code, category in enumerate(categories)}
                entry |= {"codes": codes, "missing_code": MISSING_CODE, "unseen_code": UNSEEN_CODE}
            columns.append({**entry, **fitted})
        return {
            "rows": {"dtype": "float64", "shape": [None, len(columns)]},
            "columns": columns,
            "missing": sorted(MISSING),
            "target": self.options.target,
            "encoding": self.encoding,
        }


def table_recipe(described: Mapping[str, Any]) -> TableRecipe:
    """Makes the recipe of a run on a table.

    Args:
        described: Content of the run's input.json.
    """
    table = described["table"]
    columns = tuple(Column(**column | {"categories": tuple(column["categories"])}) for column in table["columns"])
    return TableRecipe(
        Schema(columns, tuple(described["class_names"])),
        TableOptions(**table["options"]),
        table["encoding"],
        tuple(table["fitted"]),
    )


class EncodeRows(nn.Module):
    """Turns raw rows, (B, columns) float64, into inputs of a model, (B, F) float32, as `encode_rows` does in training.

    It computes in 64 bits, as in training: in 32 bits, a large number with a small deviation would lose its digits. A
    missing category is -1 or NaN. A category that the training split did not contain, and any other number that is no
    code, is encoded as zeros, or as the index -1.

    Args:
        recipe: Recipe of the run.
    """

    numeric: Tensor
    marked: Tensor
    fill: Tensor
    mean: Tensor
    std: Tensor
    category_columns: Tensor
    codes: Tensor
    indices: Tensor
    order: Tensor

    def __init__(self, recipe: TableRecipe) -> None:
        super().__init__()
        columns = recipe.schema.columns
        numeric = [place for place, column in enumerate(columns) if column.kind == "numeric"]
        marked = [place for place in numeric if columns[place].has_missing]
        categorical = [place for place, column in enumerate(columns) if column.kind == "categorical"]
        # All categories: the place of the column, the index of the category, and its code; NaN equals no code.
        categories: list[tuple[int, int, float]] = []
        for place in categorical:
            codes = [*range(len(columns[place].categories)), *[MISSING_CODE] * columns[place].has_missing]
            for index, (code, is_known) in enumerate(zip(codes, recipe.fitted[place]["in_training"], strict=True)):
                categories.append((place, index, code if is_known else math.nan))
        self.is_one_hot = recipe.encoding == "one_hot"
        # `forward` computes numbers, marks and categories, and then puts them in the order of the columns.
        computed = [*numeric, *marked, *([place for place, _, _ in categories] if self.is_one_hot else categorical)]
        self._integers("order", sorted(range(len(computed)), key=lambda feature: (computed[feature], feature)))
        self._integers("numeric", numeric)
        self._integers("marked", [numeric.index(place) for place in marked])
        for name in ("fill", "mean", "std"):
            self._numbers(name, [recipe.fitted[place][name] for place in numeric])
        self._integers("category_columns", [place for place, _, _ in categories])
        self._numbers("codes", [code for _, _, code in categories])
        self._numbers("indices", [])
        if not self.is_one_hot:
            self.indices = torch.zeros(len(categories), len(categorical), dtype=torch.float64)
            for row, (place, index, _) in enumerate(categories):
                self.indices[row, categorical.index(place)] = index + 1

    def forward(self, rows: Tensor) -> Tensor:  # noqa: D102
        parts = []
        if len(self.numeric):
            numbers = rows.index_select(1, self.numeric)
            is_missing = numbers.isnan()
            parts.append((torch.where(is_missing, self.fill, numbers) - self.mean) / self.std)
            if len(self.marked):
                parts.append(is_missing.index_select(1, self.marked).double())
        if len(self.codes):
            codes = rows.index_select(1, self.category_columns)
            is_category = (torch.where(codes.isnan(), MISSING_CODE, codes) == self.codes).double()
            # Each index is 1 too large in the sum, so that 0 stands for a category that is not known.
            parts.append(is_category if self.is_one_hot else is_category @ self.indices - 1)
        return torch.cat(parts, dim=1).index_select(1, self.order).float()

    def _integers(self, name: str, values: Sequence[int]) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=torch.int64))

    def _numbers(self, name: str, values: Sequence[float]) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=torch.float64))


class _Rows(CsvFile):
    """Rows in memory, which `read_rows` reads as those of a file.

    Args:
        file: File that the rows are from, whose way of writing numbers they have; `None` for a table of Python.
        names: Names of the columns.
        rows: Number and cells of each row.
    """

    def __init__(self, file: CsvFile | None, names: Sequence[str], rows: Sequence[tuple[int, list[str]]]) -> None:
        self.path, self.delimiter = Path("The table"), ","
        if file is not None:
            vars(self).update(vars(file))
        self.names = list(names)
        self._rows = rows

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        return iter(self._rows)


class InputTable:
    """Rows whose classes are predicted, in a file or in memory.

    Args:
        file: Rows of a file, or in memory.
        recipe: Recipe of the run.
        keep: Columns that predictions repeat: `unused`, those that are neither features nor the target; or `all`.

    Raises:
        UserError: A column is missing, or the rows of the file cannot be read.
    """

    def __init__(self, file: CsvFile, recipe: TableRecipe, keep: Keep = "unused") -> None:
        self.file, self.recipe = file, recipe
        self.unit = "row" if isinstance(file, _Rows) else "line"
        target, columns = recipe.options.target, recipe.schema.columns
        self.target = file.names.index(target) if target in file.names else None
        self._names = [*file.names, *[target] * (self.target is None)]
        self._read([], recipe.schema)  # refuses a table without one of the columns
        self.places = [file.names.index(column.name) for column in columns]
        self._is_categorical = np.array([column.kind == "categorical" for column in columns])
        used = {target, *(column.name for column in columns)}
        self.kept = {
            name or f"column {place + 1}": place
            for place, name in enumerate(file.names)
            if keep == "all" or name not in used
        }
        """Columns that predictions repeat: the place of each in the table, by name."""
        self.count = sum(1 for _ in file.rows())  # refuses a file that is damaged further down, before any prediction
        self.notes = TableNotes()
        self._label_of = functools.lru_cache(LABELS_CACHED)(self._label)

    def samples(self, kept: Sequence[str] = ()) -> Iterator[Sample]:
        """Gives a sample for each row, in the order of the table; few rows are in memory at a time.

        Args:
            kept: Names of the columns that predictions repeat; for a name that the table does not have, an empty cell.
        """
        rows = self.file.rows()
        while chunk := list(islice(rows, CHUNK_ROWS)):
            for (line, cells), values in zip(chunk, self._values(chunk), strict=True):
                label = self._true_label(line, cells)
                repeated = (str(line), *(cells[self.kept[name]] if name in self.kept else "" for name in kept))
                if isinstance(values, str):
                    yield Sample(self.file.name, label, None, f"{self.unit} {line}: {values}", repeated)
                else:
                    yield Sample(self.file.name, label, values, None, repeated)

    def _values(self, chunk: Sequence[tuple[int, list[str]]]) -> list[np.ndarray | str]:
        """Raw values of each row, or the reason why it cannot be used."""
        try:
            rows = self._read(chunk, self.recipe.schema)
        except UserError as error:
            if len(chunk) == 1:
                return [self._problem(*chunk[0]) or one_line(error)]
            half = len(chunk) // 2
            return [*self._values(chunk[:half]), *self._values(chunk[half:])]
        values: list[np.ndarray | str] = list(rows)
        if self.recipe.options.unseen == "error":
            is_unseen = (rows == UNSEEN_CODE) & self._is_categorical
            for place in np.flatnonzero(is_unseen.any(axis=1)).tolist():
                values[place] = self._unseen(chunk[place][1], is_unseen[place])
        return values

    def _read(self, chunk: Sequence[tuple[int, list[str]]], schema: Schema) -> np.ndarray:
        """Raw values of some rows; a class in their target is not looked at, since it may be unknown."""
        known = self.recipe.schema.class_names[0]
        target = self.target if self.target is not None else len(self.file.names)
        rows = [(line, [*cells[:target], known, *cells[target + 1 :]]) for line, cells in chunk]
        return self._read_as_in_training(_Rows(self.file, self._names, rows), schema)[0]

    def _read_as_in_training(self, rows: CsvFile, schema: Schema) -> tuple[np.ndarray, np.ndarray]:
        """Raw values and labels; a category that the training table does not have is `UNSEEN_CODE`."""
        parts = list(read_rows(rows, schema, replace(self.recipe.options, unseen="zeros"), "the training table"))
        return np.concatenate([values for values, _, _ in parts]), np.concatenate([labels for _, labels, _ in parts])

    def _problem(self, line: int, cells: list[str]) -> str:
        """The cells of a row that are no numbers, where numbers are expected."""
        problems = []
        for column, place in zip(self.recipe.schema.columns, self.places, strict=True):
            try:
                self._read([(line, cells)], Schema((column,), self.recipe.schema.class_names))
            except UserError:
                sign = f" with {column.sign}" if column.sign else ""
                number = self.file.number(cells[place])
                limit = f" of at most {MAX_ABSOLUTE:.1e}" if number is not None and abs(number) > MAX_ABSOLUTE else ""
                problems.append(
                    f"column {quoted(column.name)} holds {quoted(cells[place])}, expected a number{limit}{sign}"
                )
        return "; ".join(problems)

    def _unseen(self, cells: list[str], is_unseen: np.ndarray) -> str:
        """The categories of a row that the training table does not have."""
        self.notes.unseen += 1
        problems = []
        for number in np.flatnonzero(is_unseen):
            name, cell = self.recipe.schema.columns[number].name, cells[self.places[number]]
            problems.append(f"column {quoted(name)} holds {quoted(cell)}, which is no category of the training table")
        return "; ".join(problems)

    def _true_label(self, line: int, cells: list[str]) -> int | None:
        if self.target is None:
            return None
        cell = cells[self.target]
        label = self._label_of(cell)
        if label is None and cell.casefold() not in MISSING:
            self.notes.unknown_classes += 1
            self.notes.first_unknown = self.notes.first_unknown or f"{self.file.name}, line {line}: {quoted(cell)}"
        return label

    def _label(self, cell: str) -> int | None:
        """Label of a class; `None` where there is no class, or one that the run does not have."""
        column = self.recipe.schema.columns[0]
        rows = _Rows(self.file, [column.name, self.recipe.options.target], [(0, ["", cell])])
        try:
            labels = self._read_as_in_training(rows, Schema((column,), self.recipe.schema.class_names))[1]
        except UserError:
            return None
        return int(labels[0])


@dataclass
class TableNotes:
    """What a user has to know about rows that were predicted, or not.

    Attributes:
        unseen: Number of rows that were not used for a category that the training table does not have.
        unknown_classes: Number of rows whose class in the target the run does not have.
        first_unknown: Place and name of the first such class.
    """

    unseen: int = 0
    unknown_classes: int = 0
    first_unknown: str = ""


class InputTables:
    """The tables among the inputs of a run on a table, checked before the first row is predicted.

    Args:
        inputs: Splits, folders, files, or - for a list of files on standard input.
        recipe: Recipe of the run.
        keep: Columns that predictions repeat: `unused`, those that are neither features nor the target; or `all`.

    Raises:
        UserError: A file is no table, lacks a column, or has no rows.
    """

    def __init__(self, inputs: Sequence[str], recipe: TableRecipe, keep: Keep = "unused") -> None:
        self.notes = TableNotes()
        self._inputs = [
            source if source in SPLITS else [open_table(path, recipe, keep) for path in _paths(source, recipe)]
            for source in inputs
        ]
        for table in self._tables:
            table.notes = self.notes
        self.kept = list(dict.fromkeys(name for table in self._tables for name in table.kept))
        """Names of the columns that predictions repeat."""

    @property
    def _tables(self) -> list[InputTable]:
        return [table for source in self._inputs if isinstance(source, list) for table in source]

    def samples(self, data: VisionDataModule | None) -> Iterator[Sample]:
        """The rows of all inputs, in their order.

        Args:
            data: Data set of the splits, after `setup`; `None` where no input is a split.
        """
        for source in self._inputs:
            if isinstance(source, str):
                yield from split_samples(source, data)
            else:
                for table in source:
                    yield from table.samples(self.kept)

    def count(self, data: VisionDataModule | None) -> int:
        """The number of rows of all inputs.

        Args:
            data: Data set of the splits, after `setup`; `None` where no input is a split.
        """
        splits = [source for source in self._inputs if isinstance(source, str)]
        in_splits = sum(len(data.splits[stage].index) for stage in splits) if data is not None else 0
        return in_splits + sum(table.count for table in self._tables)


def open_table(path: Path, recipe: TableRecipe, keep: Keep = "unused") -> InputTable:
    """Opens a file of rows to predict and checks it.

    Args:
        path: CSV file.
        recipe: Recipe of the run.
        keep: Columns that predictions repeat, as in `InputTable`.

    Raises:
        UserError: The file is no table, lacks a column, or has no rows.
    """
    name = shown(str(path))
    Image.init()
    if Image.EXTENSION.get(path.suffix.casefold()) in FORMATS:
        raise UserError(f"{name} is an image, but the run was trained on a table; give {_expected(recipe)}.")
    if path.exists() and not path.is_file():
        raise UserError(f"{name} is no file that can be read twice; save its rows in a file, and give that one.")
    expected = {recipe.options.target, *(column.name for column in recipe.schema.columns)}
    table = InputTable(CsvFile(path, allow_unnamed=True, fewest=1, expected=expected), recipe, keep)
    if not table.count:
        raise UserError(f"{name} has a line of column names but no rows; add rows.")
    return table


def refuse_tables(inputs: Sequence[str]) -> None:
    """Refuses tables among the inputs of a run on images.

    Args:
        inputs: Splits, folders, files, or - for a list of files.

    Raises:
        UserError: A file is a table.
    """
    for source in inputs:
        if Path(source).suffix.casefold() in SUFFIXES and Path(source).is_file():
            raise UserError(
                f"{shown(source)} is a table, but the run was trained on images; give images, or a run on a table."
            )


def table_of(columns: Any, recipe: TableRecipe) -> InputTable:
    """Makes a table of columns in memory, whose cells are read as those of a file.

    Args:
        columns: DataFrame, or values of each column by its name.
        recipe: Recipe of the run.

    Raises:
        UserError: The columns differ in length, or one that the run needs is missing.
    """
    names = [str(name) for name in columns]
    kinds = {column.name: column for column in recipe.schema.columns}
    if len(set(names)) < len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise UserError(f"The table has {names.count(name)} columns named {quoted(name)}; give each a different name.")
    for name in columns:
        cells = columns[name]
        if isinstance(cells, str) or not isinstance(cells, Iterable) or getattr(cells, "ndim", 1) == 0:
            raise UserError(
                f"The column {quoted(str(name))} of the table is a single {type(cells).__name__}, expected the values "
                "of all rows; give a list, also for one row."
            )
    values = [[_cell(value, kinds.get(str(name))) for value in columns[name]] for name in columns]
    if len({len(cells) for cells in values}) > 1:
        lengths = ", ".join(f"{shown(name)} {len(cells)}" for name, cells in zip(names, values, strict=True))
        raise UserError(f"The columns of the table have different numbers of rows ({lengths}), expected the same.")
    rows = [(number, list(cells)) for number, cells in enumerate(zip(*values, strict=True))]
    return InputTable(_Rows(None, names, rows), recipe)


def _cell(value: Any, column: Column | None) -> str:
    """A value of Python as the text of a cell."""
    text = "" if value is None else str(value).strip()
    if text in ("<NA>", "NaT"):  # pandas' own missing values; nan is one of every table
        return ""
    is_category = column is not None and column.kind == "categorical" and text not in column.categories
    if is_category and isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))  # pandas makes 1.0 of the category 1 where a cell of the column is missing
    is_number = not isinstance(value, str) and text.casefold() not in MISSING
    if column is not None and column.kind == "numeric" and is_number:
        return text.replace(".", column.decimal) + column.sign  # as the training table writes numbers
    return text


def _paths(source: str, recipe: TableRecipe) -> Iterator[Path]:
    """The files of an input that is no split: of a folder, those that are tables."""
    is_folder = source != LIST and Path(source).is_dir()
    count = 0
    for path, problem in list_files(source):
        if is_folder and problem is None and Path(path).suffix.casefold() not in SUFFIXES:
            continue
        if problem is not None:
            raise UserError(f"{shown(path)} {problem}; leave it out.")
        count += 1
        yield Path(path)
    if not count:
        where = "The list on standard input" if source == LIST else shown(source)
        raise UserError(f"{where} holds no table ({' or '.join(SUFFIXES)}); give {_expected(recipe)}.")


def _expected(recipe: TableRecipe) -> str:
    names = [quoted(column.name) for column in recipe.schema.columns]
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f"a CSV file with {'the columns' if len(names) > 1 else 'the column'} {', '.join(names[:6])}{more}"
