"""Any table in CSV files."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from visionbench.data.augment import Augmentation
from visionbench.data.base import Residency, VisionDataModule
from visionbench.data.columns import (
    Column,
    CsvFile,
    Feature,
    Reading,
    Schema,
    encode_rows,
    feature_names,
    find_schema,
    fit_features,
    read_rows,
)
from visionbench.data.image_folder import SPLIT_NAMES
from visionbench.data.loader import EpochOrder, ResidentLoader, RowLoader
from visionbench.data.store import SPLITS, Store, Writer, find_store, read_meta
from visionbench.errors import UserError
from visionbench.text import shown

SUFFIXES = (".csv", ".tsv")

Word = int | float | str


class Table(VisionDataModule):
    """Your own table: CSV files of numbers and categories, one column of which is the class.

    `source` is a folder with `train.csv` and, where there are official ones, `val.csv` (or `valid`, `validation`) and
    `test.csv`, or one file, of which test is cut. Fields are separated by commas, semicolons, tabs or bars, which is
    found out, and may be quoted; the text is UTF-8. Cells that are empty, `?`, `NA`, `N/A`, `NaN` or `null` are
    missing, and so is what `missing` names. Models for rows take it, such as MLP; those for images refuse it.

    - Rows: numbers, less their mean and by their standard deviation; categories, as one-hot vectors. A missing number
      is the median and has a feature that says so; a missing category is a category of its own. Median, mean,
      deviation and categories are learned from the rows that are trained on alone: a category that none of them has is
      all zeros. A column is numeric where more than half of its cells are numbers, and then all have to be.
    - Classes: the values of the target in the training file, sorted.
    - Split: that of the files; else, or where a size says so, cut by `split_seed`.
    - Source: `source`, which is only read; it is prepared again when a name, size or time of its files has changed.
      Licence: your table's.

    Args:
        source: The folder, or the file. Where it is gone, a prepared store is found that was made of one written in
            the same way.
        target: The column that holds the class.
        numeric: Columns that are numbers, where it is not found out rightly.
        categorical: Columns that are categories, such as numbers that are codes.
        ignore: Columns that are left out, such as row numbers and names.
        missing: What else stands for a missing cell, by column, such as {Cholesterol: 0}; a value or several.
        encoding: What a category becomes: one_hot, a vector; or label, its place among the sorted ones, from 0 (-1
            where it was not learned), which is not scaled.
        scaling: standard, numbers have mean 0 and deviation 1; or none, they stay as they are.
        unseen: What happens to a category that the training file does not have: error; or zeros, it is taken as one
            that was not learned.
    """

    title = "Table"
    item = "row"
    specific_arguments: ClassVar[frozenset[str]] = VisionDataModule.specific_arguments | {
        *("target", "numeric", "categorical", "ignore", "missing", "encoding", "scaling", "unseen")
    }

    def __init__(
        self,
        source: str,
        target: str,
        numeric: list[str] | None = None,
        categorical: list[str] | None = None,
        ignore: list[str] | None = None,
        missing: dict[str, Word | list[Word]] | None = None,
        encoding: Literal["one_hot", "label"] = "one_hot",
        scaling: Literal["standard", "none"] = "standard",
        unseen: Literal["error", "zeros"] = "error",
        **kwargs: Any,
    ) -> None:
        for name, value, known in (
            ("encoding", encoding, ("one_hot", "label")),
            ("scaling", scaling, ("standard", "none")),
            ("unseen", unseen, ("error", "zeros")),
        ):
            if value not in known:
                raise UserError(f"data.{name} is {value}, expected {' or '.join(known)}.")
        self.source = Path(source).expanduser()
        self.title = shown(self.source.resolve().stem if self.source.is_file() else self.source.resolve().name)
        # What speaks of pixels, or of images that do not fit in memory, is no argument of a table.
        super().__init__(
            augment=None,
            statistics="train",
            mean=None,
            std=None,
            memory_budget=None,
            workers=None,
            **kwargs,
        )
        self.as_written = source
        self.encoding = encoding
        self.scaling = scaling
        gaps = {name: values if isinstance(values, list) else [values] for name, values in (missing or {}).items()}
        self.reading = Reading(
            target=target.strip(),
            numeric=numeric or (),
            categorical=categorical or (),
            ignore=ignore or (),
            missing={name: [str(value) for value in values] for name, values in gaps.items()},
            unseen=unseen,
        )
        self.files = find_files(self.source) if self.source.exists() else None
        self.fingerprint = _fingerprint(self.files) if self.files is not None else None
        self.schema = self._find_schema()
        self.features: list[Feature] = []
        """What the model is given of each column; filled by `setup`."""
        self.encoded: dict[str, np.ndarray] = {}
        """What the model is given of each split, shape (N, F), float32; filled by `setup`."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The values of the target, sorted."""
        return self.schema.class_names

    @property
    def input_shape(self) -> tuple[int, ...]:
        """How many features a row has: (F,)."""
        return (len(self.feature_names),)

    @property
    def feature_names(self) -> list[str]:
        """What a row's features are called, shape (F,)."""
        return feature_names(self.schema.columns, self.encoding)

    @property
    def stored_shape(self) -> tuple[int, ...]:  # noqa: D102
        return (len(self.schema.columns),)

    @property
    def shape_in_words(self) -> str:  # noqa: D102
        return f"{self.input_shape[0]} features"

    def prepare_settings(self) -> dict[str, Any]:  # noqa: D102
        return {"source": str(self.source.resolve()), **asdict(self.reading)}

    def store_folder(self) -> Path:
        """Where the prepared store lies, or is going to; without the source, that of one that was written like it."""
        folder = super().store_folder()
        if folder.exists() or self.source.exists():
            return folder
        return find_store(folder.parent, self.settings(), self.as_written) or folder

    def _find_schema(self) -> Schema:
        """Of the prepared store, where it is still of what the source holds; else of the training file."""
        folder = self.store_folder()
        if folder.exists():
            meta = read_meta(folder)
            if self.fingerprint in (None, meta.get("fingerprint")):
                columns = [Column(**column | {"categories": tuple(column["categories"])}) for column in meta["columns"]]
                return Schema(tuple(columns), tuple(meta["class_names"]))
        if self.files is None:
            raise UserError(
                f"data.source {shown(self.as_written)} does not exist, and {self.root} has no store that was prepared "
                "from it with these settings; give the folder or the file that holds the table."
            )
        return find_schema(self._opened(self.files["train"]), self.reading)

    def _opened(self, path: Path) -> CsvFile:
        return CsvFile(path, nameless="" in self.reading.ignore)

    def is_stale(self, meta: Mapping[str, Any]) -> bool:  # noqa: D102
        if self.fingerprint in (None, meta.get("fingerprint")):
            return False
        if self.offline:
            raise UserError(
                f"{shown(str(self.source))} has changed since it was prepared (a name, a size or a time of its "
                "files), and data.offline is on; leave it out to prepare the table again, or give it back as it was."
            )
        return True

    def write_store(self, writer: Writer, downloads: Path) -> dict[str, Any]:  # noqa: D102
        began = time.monotonic()
        if self.files is None:
            raise UserError(f"There is no table {shown(self.as_written)} to prepare; give one that is.")
        source = shown(str(self.source))
        if self.store_folder().exists():
            print(f"{source} has changed since it was prepared")
        train = shown(self.files["train"].name)
        columns = self.schema.columns
        missing: dict[str, Counter[str]] = {}
        rows = 0
        for split, path in self.files.items():
            file = self._opened(path)
            used = {self.reading.target, *self.reading.ignore, *(column.name for column in columns)}
            if aside := [name for name in file.names if name not in used]:
                print(f"  not read, since {train} has no such column: {', '.join(map(shown, aside))} of {path.name}")
            labels, missing[split] = [], Counter()
            with writer.growing(f"{split}-images", (len(columns),), np.float64) as append:
                for values, some_labels, gaps in read_rows(file, self.schema, self.reading, train):
                    append(values)
                    labels.append(some_labels)
                    missing[split].update(gaps)
            writer.save(f"{split}-labels", np.concatenate(labels))
            count = sum(map(len, labels))
            if not count:
                raise UserError(f"{file.name} has the names of columns but no row below them; fill it, or remove it.")
            rows += count
        print(f"prepared {rows:,} rows of {source} in {time.monotonic() - began:.1f} s")
        for line in _described(columns, sum(missing.values(), Counter())):
            print(f"  {line}")
        return {
            "source": f"the {'folder' if self.source.is_dir() else 'file'} {self.source.resolve()}",
            "source_as_written": self.as_written,
            "licence": "that of the table",
            "split": f"files: {', '.join(path.name for path in self.files.values())}",
            "fingerprint": self.fingerprint,
            "columns": [asdict(column) for column in columns],
            "missing": missing,
        }

    def open_store(self, look: bool = True) -> Store:
        """Opens the prepared store, preparing it where there is none or the source has changed.

        Args:
            look: Whether to look at the source.

        Raises:
            UserError: The table cannot be read, or the store is damaged.
        """
        store = super().open_store(look)
        columns = json.loads(json.dumps([asdict(column) for column in self.schema.columns]))
        if store.meta.get("columns") != columns:
            raise UserError(
                f"The prepared store {store.folder} has other columns than {shown(self.as_written)} had a moment ago; "
                "run the same command again."
            )
        return store

    def fit_statistics(self, store: Store) -> None:
        """Fits what is filled in, scales and categories on the rows that are trained on, and encodes all splits."""
        train = self.splits["train"]
        rows = store.arrays[f"{train.part}-images"][train.index]
        self.features = fit_features(self.schema.columns, rows, self.encoding, self.scaling == "standard")
        for stage, split in self.splits.items():
            self.encoded[stage] = encode_rows(self.features, store.arrays[f"{split.part}-images"][split.index])
        width = len(self.feature_names)
        self.mean, self.std = [0.0] * width, [1.0] * width  # the features are scaled already

    def data_digest(self) -> str:
        """The sha256 of all that the model can see: the encoded rows of each split, their labels and what they are.

        Valid after `setup`.
        """
        digest = hashlib.sha256(super().data_digest().encode())
        digest.update(json.dumps(self.feature_names).encode())
        for stage in sorted(self.encoded):
            digest.update(f"{stage} {self.encoded[stage].shape};".encode() + self.encoded[stage].tobytes())
        return digest.hexdigest()

    def residency(self, device: torch.device, processes: int = 1) -> Residency:
        """The encoded rows are always held; valid after `setup`."""
        return Residency(True, 0, "")

    def _loader(
        self, stage: str, order: EpochOrder | None = None, augmentations: Sequence[Augmentation] = ()
    ) -> ResidentLoader:
        store, _, _ = self._ready()
        device, shard = torch.device("cpu"), (0, 1)
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            shard = (self.trainer.global_rank, self.trainer.world_size)
        split = self.splits[stage]
        return RowLoader(
            torch.tensor(self.encoded[stage], device=device),
            torch.tensor(store.arrays[f"{split.part}-labels"][split.index], device=device),
            batch_size=self.batch_size,
            order=order,
            shard=shard,
        )


def find_files(source: Path) -> dict[str, Path]:
    """The files of each split: `train` first, and the others where they are there.

    Args:
        source: A CSV file, which is `train`, or a folder with `train.csv` and so on.

    Raises:
        UserError: There is no such file, or there are two for one split.
    """
    if source.is_file():
        return {"train": source}
    name = shown(str(source))
    try:
        paths = sorted(path for path in source.iterdir() if path.suffix.casefold() in SUFFIXES and path.is_file())
    except OSError as error:
        raise UserError(f"The folder {name} cannot be read ({error.strerror}); make it readable.") from error
    found: dict[str, Path] = {}
    for path in paths:
        split = SPLIT_NAMES.get(path.stem.casefold())
        if split in found:
            raise UserError(f"{name} holds two files for {split}, {found[split].name} and {path.name}; keep one.")
        if split is not None:
            found[split] = path
    if "train" not in found:
        there = f"; it holds {', '.join(shown(path.name) for path in paths[:10])}" if paths else ""
        raise UserError(
            f"{name} holds no train.csv, expected it with test.csv and val.csv beside it where there are such, or the "
            f"name of one CSV file as data.source{there}."
        )
    return {split: found[split] for split in SPLITS if split in found}


def _fingerprint(files: Mapping[str, Path]) -> dict[str, list[Any]]:
    """Name, size and time of each file."""
    states = {split: path.stat() for split, path in files.items()}
    return {split: [files[split].name, state.st_size, state.st_mtime_ns] for split, state in states.items()}


def _described(columns: Sequence[Column], missing: Mapping[str, int]) -> list[str]:
    """Lines that say what the columns were taken for, so that what was not found out rightly is seen."""
    numbers = [shown(column.name) for column in columns if column.kind == "numeric"]
    words = [f"{shown(c.name)} ({len(c.categories)})" for c in columns if c.kind == "categorical"]
    gaps = [f"{shown(name)} ({count:,})" for name, count in missing.items()]
    named = (("numeric", numbers), ("categorical", words), ("missing cells", gaps))
    return [f"{title}: {', '.join(names)}" for title, names in named if names]
