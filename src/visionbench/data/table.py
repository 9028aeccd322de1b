"""Tables in CSV files."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from visionbench.data.columns import (
    Column,
    Feature,
    Schema,
    TableOptions,
    encode_rows,
    feature_names,
    fit_features,
    infer_schema,
    read_rows,
)
from visionbench.data.csv_file import CsvFile
from visionbench.data.folder_names import ignored_as
from visionbench.data.from_source import FromSource
from visionbench.data.image_folder import MAX_LISTED, SPLIT_NAMES
from visionbench.data.numbers import MISSING
from visionbench.data.rows import EncodedRows
from visionbench.data.store import SPLITS, Store, StoreWriter, digests_file, read_meta
from visionbench.errors import UserError
from visionbench.text import counted, option, quoted, shown

SUFFIXES = (".csv", ".tsv")
# Endings of files that are read where no CSV file has the name of the split, and of files that then say what they are.
TEXT_ENDINGS = ("txt", "tab", "dat", "data")
OTHER_ENDINGS = ("xlsx", "xls", "xlsm", "xlsb", "ods", "parquet", "pq", "feather", "arrow", "orc", "dta", "sav", "arff")
ENDINGS = {
    **{f"{ending}{packed}": 0 for ending in ("csv", "tsv") for packed in ("", ".gz")},
    **{f"{ending}{packed}": 1 for ending in TEXT_ENDINGS for packed in ("", ".gz")},
    **{f"{ending}{packed}": 2 for ending in ("csv", "tsv") for packed in (".zip", ".bz2", ".xz", ".zst")},
    **dict.fromkeys((*OTHER_ENDINGS, "zip"), 2),
}
# What reads and encodes rows.
OF_DESCRIPTION = ("write_store", "fit_statistics")

CellValue = int | float | str


class Table(EncodedRows, FromSource):
    """Your own table: CSV files of numbers and categories, one column of which is the class.

    `source` is a folder with `train.csv` and optionally `val.csv` (or `valid`, `validation`) and `test.csv`, or one
    file, from which the other splits are cut. Fields are separated by commas, semicolons, tabs or bars, which is
    detected, and may be quoted; the text is UTF-8, and may be compressed by gzip. Cells that are empty, `?`, `NA`,
    `N/A`, `NaN` or `null` are missing, as are the values listed in `missing`. Numbers have a decimal point or comma;
    they may have separators of thousands (1,234.5), and one percent or currency sign in all cells of a column, which is
    left out. Models that take rows, such as MLP, take a table; models for images refuse it.

    - Rows: standardized numbers, and categories as one-hot vectors. A missing number is replaced by the median and
      marked in a feature of its own; a missing category is its own category. Median, mean, deviation and categories
      are fitted on the training split only; a category that it does not contain is encoded as zeros. A column is
      numeric if more than half of its cells are numbers; all of its cells must then be numbers.
    - Classes: the values of the target in the training file, sorted.
    - Split: that of the files; without a file for a split, or with a size for it, cut by `split_seed`.
    - Source: `source`, which is only read; it is prepared again when the name, size or time of a file has changed.
      License: that of your table.
    - Files: your own, in the folder `source`, or the file `source`.

    Args:
        source: Folder or file that holds the table. If it no longer exists, the store prepared from a source of the
            same spelling is used.
        target: Name of the column that holds the class.
        numeric: Names of numeric columns that are not detected as such.
        categorical: Names of categorical columns that are not detected as such, for example numbers that are codes.
            If the target is among them, each of its values is a class, such as NA, or one of many numbers.
        ignore: Names of columns that are not used, for example row numbers and names.
        missing: Values that mark a missing cell, by column, for example {Cholesterol: 0}; one value or a list, of
            which one must be in some cell.
        encoding: Encoding of a category: one_hot, a vector; or label, its index among the sorted categories (-1 for a
            category that the training split does not contain), which is not standardized.
        scaling: Scaling of numbers: standard, to mean 0 and deviation 1; or none.
        unseen: Treatment of a category that the training file does not contain: error; or zeros, the encoding of a
            category that the training split does not contain.
        pool: Whether the rows of `train`, `val` and `test` are combined and split again; the columns are still those of
            the training file.
    """

    title = "Table"
    specific_arguments: ClassVar[frozenset[str]] = FromSource.specific_arguments | {
        *("target", "numeric", "categorical", "ignore", "missing", "encoding", "scaling", "unseen", "pool")
    }
    usual_missing: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """Values of `missing` that need not be in any cell, by column."""

    def __init__(
        self,
        source: str,
        target: str,
        numeric: list[str] | None = None,
        categorical: list[str] | None = None,
        ignore: list[str] | None = None,
        missing: dict[str, CellValue | list[CellValue]] | None = None,
        encoding: Literal["one_hot", "label"] = "one_hot",
        scaling: Literal["standard", "none"] = "standard",
        unseen: Literal["error", "zeros"] = "error",
        pool: bool = False,
        **kwargs: Any,
    ) -> None:
        for name, value, known in (
            ("encoding", encoding, ("one_hot", "label")),
            ("scaling", scaling, ("standard", "none")),
            ("unseen", unseen, ("error", "zeros")),
        ):
            if value not in known:
                raise UserError(f"data.{name} is {value}, expected {' or '.join(known)}.")
        if not self.named:
            path = Path(source).expanduser()
            self.title = shown(_stem(path.resolve().name)[0] if path.is_file() else path.resolve().name)
        # Arguments for pixels, and for images that do not fit in memory, are not arguments of a table.
        super().__init__(
            augment=None,
            statistics="train",
            mean=None,
            std=None,
            memory_budget=None,
            workers=None,
            **kwargs,
        )
        self.encoding = encoding
        self.scaling = scaling
        # Cells are compared without the blanks around them.
        self.options = TableOptions(
            target=target.strip(),
            numeric=[name.strip() for name in numeric or ()],
            categorical=[name.strip() for name in categorical or ()],
            ignore=[name.strip() for name in ignore or ()],
            missing={name.strip(): _markers(name, values) for name, values in (missing or {}).items()},
            unseen=unseen,
        )
        self.pool = pool
        fingerprint = self.set_source(source)
        is_read = self.prepared is None and self.source_problem() is None
        self.files = find_files(self.source) if is_read else None
        self.fingerprint = _fingerprint(self.files) if self.files is not None else None
        self.check_unchanged(fingerprint, self.fingerprint)
        self._opened: dict[Path, CsvFile] = {}
        self.schema = self._find_schema()
        self.features: list[Feature] = []
        """Features of each column; filled by `setup`."""
        self.encoded = {}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Sorted values of the target."""
        return self.schema.class_names

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Number of features of a row: (F,)."""
        return (len(self.feature_names),)

    @property
    def feature_names(self) -> list[str]:
        """Names of the F features of a row."""
        return feature_names(self.schema.columns, self.encoding)

    @property
    def stored_shape(self) -> tuple[int, ...]:  # noqa: D102
        return (len(self.schema.columns),)

    def column_name(self, number: int) -> str:  # noqa: D102
        return self.schema.columns[number].name

    def prepare_settings(self) -> dict[str, Any]:  # noqa: D102
        settings = {"source": str(self.source.resolve()), **asdict(self.options)}
        # Stores that were written before there was one of these keep their key.
        settings |= {"pool": True} if self.pool else {}
        return settings | ({"labels": "texts"} if self.options.target in self.options.categorical else {})

    def _find_schema(self) -> Schema:
        """Schema in the prepared store if the source has not changed; otherwise inferred from the training file."""
        folder = self.store_folder()
        if folder.exists():
            meta = read_meta(folder)
            if self.fingerprint in (None, meta.get("fingerprint")):
                return Schema(_columns(meta), tuple(meta["class_names"]))
        if self.files is None:
            raise UserError(
                f"data.source {shown(self.as_written)} does not exist, and {self.root} has no store that was prepared "
                "from it with these settings; give the folder or the file that holds the table."
            )
        train = self.files["train"]
        file = self._csv_file(train)
        schema = infer_schema(file, self.options)
        self._opened[train] = file
        return schema

    def _csv_file(self, path: Path) -> CsvFile:
        if path in self._opened:  # to find the columns, a moment ago
            return self._opened.pop(path)
        options = self.options
        expected = {options.target, *options.numeric, *options.categorical, *options.ignore, *options.missing}
        return CsvFile(path, "" in options.ignore, expected=expected, ignored=options.ignore)

    def _read(self, path: Path) -> CsvFile:
        """Opens a file to read its rows; prints the columns, and the lines at its top, that are not read."""
        file = self._csv_file(path)
        if file.comments:
            print(f"  not read: {counted(file.comments, 'line')} with # at the top of {shown(path.name)}")
        used = {self.options.target, *self.options.ignore, *(column.name for column in self.schema.columns)}
        if unread := [name for name in file.names if name not in used]:
            train = shown(self.files["train"].name) if self.files is not None else "train"
            print(f"  columns of {path.name} that {train} does not have, not read: {', '.join(map(shown, unread))}")
        return file

    def is_stale(self, meta: Mapping[str, Any]) -> bool:  # noqa: D102
        if self.fingerprint in (None, meta.get("fingerprint")):
            return False
        if self.offline:
            raise UserError(
                f"{shown(str(self.source))} has changed since it was prepared (the name, size or time of a "
                "file), and data.offline is on; remove data.offline to prepare the table again, or restore the files."
            )
        return True

    def write_store(self, writer: StoreWriter, downloads: Path) -> dict[str, Any]:  # noqa: D102
        start = time.monotonic()
        if self.files is None:
            raise UserError(f"There is no table {shown(str(self.source))} to prepare; give an existing file or folder.")
        source = shown(str(self.source))
        if self.store_folder().exists():
            print(f"{source} has changed since it was prepared")
        if unread := _unread_files(self.source, self.files):
            listed = ", ".join(unread[:MAX_LISTED]) + " ..." * (len(unread) > MAX_LISTED)
            print(f"  not read: {listed}; the files of the splits are called train, val and test")
        train = shown(self.files["train"].name)
        columns = self.schema.columns
        missing: dict[str, Counter[str]] = {}
        rows = 0
        met: set[tuple[str, str]] = set()
        parts = {"train": [*self.files.values()]} if self.pool else {split: [p] for split, p in self.files.items()}
        for split, paths in parts.items():
            labels, missing[split] = [], Counter()
            with writer.stream_array(f"{split}-images", (len(columns),), np.float64) as append:
                for path in paths:
                    count = 0
                    for values, chunk_labels, missing_cells in read_rows(
                        self._read(path), self.schema, self.options, train, met
                    ):
                        append(values)
                        labels.append(chunk_labels)
                        missing[split].update(missing_cells)
                        count += len(chunk_labels)
                    if not count:
                        raise UserError(
                            f"{shown(str(path))} has a line of column names but no rows; add rows, or remove the file."
                        )
                    rows += count
            writer.save(f"{split}-labels", np.concatenate(labels))
        self._check_met(met)
        print(f"prepared {rows:,} rows of {source} in {time.monotonic() - start:.1f} s")
        for line in _column_lines(columns, sum(missing.values(), Counter())):
            print(f"  {line}")
        repeated = {split: _repeated(writer, split) for split in parts if split != "train"}
        for split, count in repeated.items():
            if count:
                rows_of = f"{counted(count, 'row')} of {shown(self.files[split].name)}"
                print(f"  {rows_of} {'equals' if count == 1 else 'equal'} rows of {train}; data verify lists them")
        return {
            "source": f"the {'folder' if self.source.is_dir() else 'file'} {self.source.resolve()}",
            "source_as_written": self.as_written,
            "licence": "that of the table",
            "split": f"files{', combined' * self.pool}: {', '.join(path.name for path in self.files.values())}",
            "fingerprint": self.fingerprint,
            "not_read": unread,
            "columns": [asdict(column) for column in columns],
            "missing": missing,
            "equal_to_train": repeated,
        }

    def _check_met(self, met: set[tuple[str, str]]) -> None:
        """Refuses a column of `missing` of whose values no cell is one; prints the values that no cell has."""
        for name, markers in self.options.missing.items():
            usual = {str(value) for value in self.usual_missing.get(name, ())}
            unmet = [
                marker
                for marker in markers
                if (name, marker) not in met and marker not in usual and marker.casefold() not in MISSING
            ]
            if not unmet or name in self.options.ignore:
                continue
            listed = " or ".join(map(quoted, unmet))
            if len(unmet) == len(markers):
                raise UserError(
                    f"data.missing marks {listed} in column {quoted(name)} as missing, but no cell of the column is "
                    f"{listed}; correct the value, as it is written in the file, or remove it."
                )
            print(f"  no cell of {shown(name)} is {listed}, although data.missing has it")

    def open_store(self, check_source: bool = True) -> Store:
        """Opens the prepared store, preparing it first if there is none or if the source has changed.

        Args:
            check_source: Whether the store is prepared again if its source has changed.

        Raises:
            UserError: The table cannot be read, or the store is damaged.
        """
        store = super().open_store(check_source)
        if _columns(store.meta) != self.schema.columns:
            raise UserError(
                f"The columns of the prepared store {store.folder} are not those of {shown(self.as_written)}, which "
                "changed during this command; run the same command again."
            )
        return store

    def fit_statistics(self, store: Store) -> None:
        """Fits the features on the training split and encodes all splits."""
        train = self.splits["train"]
        rows = store.arrays[f"{train.part}-images"][train.index]
        self.features = fit_features(self.schema.columns, rows, self.encoding, self.scaling == "standard")
        for stage, split in self.splits.items():
            self.encoded[stage] = encode_rows(self.features, store.arrays[f"{split.part}-images"][split.index])
        width = len(self.feature_names)
        self.mean, self.std = [0.0] * width, [1.0] * width  # the features are already standardized

    def describe_input(self) -> dict[str, Any]:
        """Description of a model's inputs and outputs; `table` says how its rows are read and encoded."""
        # A subclass that reads or encodes its rows itself cannot be described by columns.
        is_described = all(getattr(type(self), name) is getattr(Table, name) for name in OF_DESCRIPTION)
        table = {
            "options": asdict(self.options),
            "encoding": self.encoding,
            "columns": [asdict(column) for column in self.schema.columns],
            "fitted": [feature.fitted for feature in self.features],
        }
        return super().describe_input() | {"table": table if is_described else None}

    def data_digest(self) -> str:
        """Sha256 of everything that reaches the model: encoded rows, labels and names of the features.

        Valid after `setup`.
        """
        digest = hashlib.sha256(super().data_digest().encode())
        digest.update(json.dumps(self.feature_names).encode())
        for stage in sorted(self.encoded):
            digest.update(f"{stage} {self.encoded[stage].shape};".encode() + self.encoded[stage].tobytes())
        return digest.hexdigest()


def find_files(source: Path) -> dict[str, Path]:
    """Finds the file of each split: `train` first, then `val` and `test` if they exist.

    Args:
        source: CSV file, which becomes `train`, or a folder with `train.csv` and so on.

    Raises:
        UserError: There is no training file, or a split has two files.
    """
    if source.is_file():
        return {"train": source}
    name = shown(str(source))
    try:
        paths = sorted(path for path in source.iterdir() if _stem(path.name)[1] is not None and path.is_file())
    except OSError as error:
        raise UserError(f"The folder {name} cannot be read ({error.strerror}); make it readable.") from error
    files: dict[str, Path] = {}
    for preference in sorted(set(ENDINGS.values())):
        present = dict(files)
        for path in paths:
            stem, ending = _stem(path.name)
            split = SPLIT_NAMES.get(stem.casefold())
            if split is None or split in present or ending is None or ENDINGS[ending] != preference:
                continue
            if split in files:
                raise UserError(f"{name} holds two files for {split}, {files[split].name} and {path.name}; keep one.")
            files[split] = path
    if "train" not in files:
        listed = ", ".join(shown(path.name) for path in paths[:10]) if paths else "no CSV file"
        raise UserError(
            f"The folder {name} holds {listed}, expected train.csv and optionally val.csv and test.csv; rename the "
            "files, or give one CSV file as data.source."
        )
    return {split: files[split] for split in SPLITS if split in files}


def _unread_files(source: Path, files: Mapping[str, Path]) -> list[str]:
    """Printable names of further tables in the folder that holds the files of the splits."""
    if source.is_file():
        return []
    paths = (path for path in source.iterdir() if _stem(path.name)[1] is not None and path.is_file())
    return sorted(shown(path.name) for path in paths if path not in files.values() and ignored_as(path.name) is None)


def _stem(name: str) -> tuple[str, str | None]:
    """Name of a file without the ending of a table, and that ending; `None` for a file that is no table."""
    for ending in sorted(ENDINGS, key=len, reverse=True):
        if name.casefold().endswith(f".{ending}"):
            return name[: -len(ending) - 1], ending
    return Path(name).stem, None


def _markers(name: str, values: Any) -> list[str]:
    """Texts of the values that mark missing cells of a column."""
    listed = values if isinstance(values, list) else [values]
    for value in listed:
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise UserError(
                f"data.missing gives {value!r} for column {quoted(name)}, expected the text of a cell; put the text in "
                f"quotes, as in {option('data.missing', {name: 'no'})}."
            )
    return [str(value).strip() for value in listed]


def _columns(meta: Mapping[str, Any]) -> tuple[Column, ...]:
    """Columns of a prepared store."""
    return tuple(Column(**column | {"categories": tuple(column["categories"])}) for column in meta["columns"])


def _repeated(writer: StoreWriter, split: str) -> int:
    """Number of rows of a split that equal a row of the training file, whatever their classes."""
    digests = [np.load(writer.folder / digests_file(f"{part}-images")) for part in (split, "train")]
    return int(np.isin(*digests).sum())


def _fingerprint(files: Mapping[str, Path]) -> dict[str, list[Any]]:
    """Name, size and time of each file."""
    states = {split: path.stat() for split, path in files.items()}
    return {split: [files[split].name, state.st_size, state.st_mtime_ns] for split, state in states.items()}


def _column_lines(columns: Sequence[Column], missing: Mapping[str, int]) -> list[str]:
    """Lines that list the detected kind of each column, so that the user sees a wrong one."""
    numbers = [shown(column.name) for column in columns if column.kind == "numeric"]
    categories = [f"{shown(c.name)} ({len(c.categories)})" for c in columns if c.kind == "categorical"]
    missing_cells = [f"{shown(name)} ({count:,})" for name, count in missing.items()]
    commas = [shown(column.name) for column in columns if column.decimal == ","]
    signs = [f"{shown(column.name)} ({column.sign})" for column in columns if column.sign]
    lines = (
        *(("numeric", numbers), ("read with decimal commas", commas), ("signs left out", signs)),
        *(("categorical", categories), ("missing cells", missing_cells)),
    )
    return [f"{title}: {', '.join(names)}" for title, names in lines if names]
