"""Base class of all data sets: prepared store, splits, statistics and loaders."""

import functools
import hashlib
import math
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from visionbench.classes import file_of, is_ours
from visionbench.data.augment import Augmentation, Mixing
from visionbench.data.loader import EpochOrder, FeatureLoader, FixedOrder, ResidentLoader, left_out, scale_and_shift
from visionbench.data.mapped import MappedImages, chunks
from visionbench.data.memory import free_memory, processor_cores
from visionbench.data.splits import (
    Split,
    check_folds,
    groups_of_copies,
    stratified_fold,
    stratified_holdout,
    stratified_part,
)
from visionbench.data.statistics import channel_statistics, imagenet_statistics
from visionbench.data.store import (
    SPLITS,
    Store,
    StoreWriter,
    default_root,
    digests_of_rows,
    open_or_write,
    sample_digests,
    store_key,
)
from visionbench.decoding import Recipe
from visionbench.errors import UserError
from visionbench.evaluation.ledger import SealedSamples
from visionbench.random_state import same_random_numbers
from visionbench.text import counted

# Size of a split for which the data set has no official images and the user sets no size.
DEFAULT_SIZES = {"test": 0.2, "val": 0.1}
# What a subclass may define and still use the store of its parent: all of it is about prepared samples.
HOOKS = frozenset({"train_as_test", "augmented_validation", "train_dataloader", "val_dataloader", "test_dataloader"})
HOOKS |= {"fit_statistics", "title", "from_command_line"}
# Names that Python gives each class, of all versions.
HOOKS |= {"__module__", "__doc__", "__abstractmethods__", "_abc_impl", "__annotations__", "__static_attributes__"}
HOOKS |= {"__firstlineno__", "__annotate__", "__annotate_func__", "__annotations_cache__"}
# Number of validation samples that are looked at where a subclass has a loader of its own.
SEEN_OF_OWN_LOADER = 256
# Share of them that are training samples above which the validation split is the training split.
TRAINING_SHARE = 0.5
# Number of validation samples that such a loader is asked for several times, and of these times: one that is flipped
# half of the time is the same in all draws once in eight times.
DRAWN_SAMPLES, DRAWS = 16, 4
# Share of the free memory that the images of all splits may take by default; the rest is for the model.
FREE_SHARE = 0.5
GIB = 2**30


@dataclass(frozen=True)
class Residency:
    """Place of the images of all splits during a run.

    Attributes:
        resident: Whether all images are held on the device; otherwise they are read through the memory map.
        workers: Number of threads that read ahead through the memory map.
        reason: Text that says why the images are not held on the device.
    """

    resident: bool
    workers: int
    reason: str


class VisionDataModule(LightningDataModule, ABC):
    """Images and labels, prepared once, split, normalized and served in batches.

    A subclass defines its class names, its input shape and, in `prepare_arrays`, how its files are decoded. An official
    test set stays whole. The other splits are cut from the official training images, stratified by class: first test,
    then validation; the rest is the training split. Mean and standard deviation are computed on the training split.

    Args:
        root: Folder that holds all prepared data sets; written to. By default `$VISIONBENCH_DATA`, else `data`.
        batch_size: Number of samples (images or rows) in a batch, for each process.
        val_size: Number of validation samples to cut from the training samples, or their fraction (below 1); 0 for no
            validation; null for the official validation samples or, if there are none, for a tenth.
        test_size: Number of test samples to cut from the training samples, or their fraction (below 1); the official
            test samples are then not used. null for the official test samples or, if there are none, for a fifth.
        folds: Number of stratified folds that the training samples are cut into; as many folds as samples give
            leave-one-out cross-validation.
        fold: Number of the fold that is held out, from 0. Over all folds, every sample is held out exactly once.
        fold_is: Split that the fold held out becomes: `test`, or `val`; with `val`, the test split is the same as
            without folds.
        train_size: Number of samples in the training split, or their fraction (up to 1) of the samples that the other
            splits leave; null for all of them. A smaller training split is a subset of a larger one.
        split_seed: Seed that chooses the samples of each split; use the same one for all runs that are compared.
        augment: Random augmentations of the training images, applied in this order; validation and test images are not
            augmented.
        shuffle: Whether each epoch has its own order of the training samples; otherwise all epochs have that of the
            data, as in some reports.
        statistics: Source of mean and std: `train`, the training split; or `imagenet`, for a network with ImageNet
            weights (for gray images, the average over ImageNet's channels). `imagenet` belongs to the weights, so it
            stays when another data set is chosen; `mean` and `std` do not.
        mean: Mean per channel, subtracted from pixels in [0, 1]; by default given by `statistics`.
        std: Standard deviation per channel, which divides the pixels after the mean is subtracted; by default given by
            `statistics`.
        offline: Whether to work without the internet: nothing is downloaded, and a source that has changed is refused
            instead of being prepared again. Where a prepared store exists, its source is not needed.
        seed: Seed of the order of the training samples and of their augmentation; by default the run's seed_everything
            (0 in Python).
        memory_budget: Memory in GiB that the images of all splits may take on the training device. Images that need
            more are read through the memory map, in the same order and with the same augmentation, so that results
            are the same; 0 always reads through the memory map. By default half of the free memory: of the GPU, or of
            the system within the limit of its container or job.
        workers: Number of threads that read ahead through the memory map; 0 reads each batch when it is needed. By
            default one thread per processor core, at most four.
    """

    title: str
    """Name of the data set, as printed in reports."""
    specific_arguments: ClassVar[frozenset[str]] = frozenset({"source", "mean", "std", "augment"})
    """Arguments that fit one data set only and are never carried over to another: a flipped 6 is not a 6."""
    item: ClassVar[str] = "image"
    """Name of one sample in messages: image or row."""
    from_command_line: ClassVar[bool] = True
    """Whether the command line and YAML files can create the data set; `visionbench data list` leaves out others."""
    train_as_test: ClassVar[bool] = False
    """Whether the validation split is the training split, as in studies that measured on their training images.

    A subclass that repeats such a study sets this, and a run allows it by `--allow [train_as_test]`.
    """
    augmented_validation: ClassVar[bool] = False
    """Whether validation images are augmented as training images are, apart from mixing, as in some studies.

    A subclass that repeats such a study sets this, and a run allows it by `--allow [augmented_validation]`.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Seals the test loader of a subclass that defines its own."""
        super().__init_subclass__(**kwargs)
        if "test_dataloader" in vars(cls):
            cls.test_dataloader = _sealed(cls.test_dataloader)  # type: ignore[method-assign, assignment]

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 64,
        val_size: int | float | None = None,
        test_size: int | float | None = None,
        folds: int | None = None,
        fold: int | None = None,
        fold_is: Literal["test", "val"] = "test",
        train_size: int | float | None = None,
        split_seed: int = 0,
        augment: list[Augmentation] | None = None,
        shuffle: bool = True,
        statistics: Literal["train", "imagenet"] = "train",
        mean: list[float] | None = None,
        std: list[float] | None = None,
        offline: bool = False,
        seed: int | None = None,
        memory_budget: float | None = None,
        workers: int | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"data.batch_size is {batch_size}, expected 1 or more.")
        for name, size in (("val_size", val_size), ("test_size", test_size)):
            if size is not None and (not size >= 0 or (isinstance(size, float) and size >= 1)):
                raise UserError(
                    f"data.{name} is {size}, expected a count of {self.item}s, a fraction below 1, or 0 for none."
                )
        check_folds(folds, fold, fold_is, {"test": test_size, "val": val_size}, self.item)
        if train_size is not None and (not train_size > 0 or (isinstance(train_size, float) and train_size > 1)):
            raise UserError(
                f"data.train_size is {train_size}, expected a count of {self.item}s of 1 or more, or a fraction "
                "up to 1.0."
            )
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != self.input_shape[0]:
                raise UserError(
                    f"data.{name} has {counted(len(values), 'value')}, expected {self.input_shape[0]}, one for each "
                    f"channel of {self.title}."
                )
        if statistics not in ("train", "imagenet"):
            raise UserError(f"data.statistics is {statistics}, expected train or imagenet.")
        if statistics == "imagenet":
            if mean is not None or std is not None:
                raise UserError(
                    f"data.statistics is imagenet but data.{'std' if mean is None else 'mean'} is given too; give only "
                    "one of them."
                )
            mean, std = imagenet_statistics(self.input_shape, self.title)
        if not 0 <= split_seed < 2**32:
            raise UserError(f"data.split_seed is {split_seed}, expected 0 to {2**32 - 1}.")
        if std is not None and not min(std) > 0:
            raise UserError(f"data.std is {std}, expected values above 0.")
        if seed is not None and seed < 0:
            raise UserError(f"data.seed is {seed}, expected 0 or more.")
        if memory_budget is not None and not memory_budget >= 0:
            raise UserError(f"data.memory_budget is {memory_budget}, expected a number of GiB of 0 or more.")
        if workers is not None and workers < 0:
            raise UserError(f"data.workers is {workers}, expected a number of threads of 0 or more.")
        self.root = Path(root).expanduser() if root is not None else default_root()
        self.batch_size = batch_size
        self.val_size = val_size
        self.test_size = test_size
        self.folds = folds
        self.fold = fold
        self.fold_is = fold_is
        self.train_size = train_size
        self.split_seed = split_seed
        self.augment = _augmentations(augment)
        self.shuffle = shuffle
        self.offline = offline
        self.seed = seed
        self.run_seed = 0
        """Seed of the run that uses the data, which holds where `seed` is `None`; a run sets it."""
        self.mean = mean
        self.std = std
        self.given_statistics = {"mean": mean, "std": std}
        """`mean` and `std` as they were given: `None` where `setup` computes them."""
        self.memory_budget = memory_budget
        self.workers = workers
        self.store: Store | None = None
        self.splits: dict[str, Split] = {}
        """Splits `train`, `val` and `test`; filled by `setup`."""
        self.test_is_watched = False
        self.trains_batch_norm = True
        """Whether the model that is trained has a batch norm, which cannot train on one image; a run sets it."""
        self.frozen_features: Callable[[str, ResidentLoader], ResidentLoader] | None = None
        """Gives, for a split and its loader, one of a frozen network's features in place of images; a run sets it."""
        self._source_checked = False
        self._residency: Residency | None = None

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one model input: channels, height and width of an image, or the number of features of a row."""

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of one sample in the store: height, width and channels of an image."""
        channels, height, width = self.input_shape
        return (height, width, channels)

    @property
    def shape_in_words(self) -> str:
        """Text of `input_shape`, as printed in messages."""
        return " x ".join(map(str, self.input_shape))

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def prepare_settings(self) -> dict[str, Any]:
        """Settings that the prepared arrays depend on, besides the data set's name; they choose the store."""
        return {}

    def prepare_arrays(self, downloads: Path) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:
        """Decodes the source; called only if there is no prepared store yet.

        A data set that fits in memory defines this method; a larger one defines `write_store`.

        Args:
            downloads: Folder for downloaded files.

        Returns:
            The arrays by name and entries for `meta.json`. Arrays: `train-images` and, if they are official,
            `val-images` and `test-images`, shape (N, H, W, C), uint8; `train-labels` and so on, shape (N,), int64.
            Entries: `source`, `licence`, `split`.

        Raises:
            UserError: The source is missing and cannot be fetched, or is damaged; or the class defines neither method.
        """
        raise UserError(
            f"{type(self).__name__} defines neither prepare_arrays nor write_store, expected one of them; define "
            "prepare_arrays, or write_store for data that does not fit in memory."
        )

    def write_store(self, writer: StoreWriter, downloads: Path) -> dict[str, Any]:
        """Decodes the source into a new store; called only if there is no store yet, or an outdated one.

        Args:
            writer: Writer for the arrays that `prepare_arrays` describes.
            downloads: Folder for downloaded files.

        Returns:
            Entries for `meta.json`: `source`, `licence`, `split`.

        Raises:
            UserError: The source is missing and cannot be fetched, or is damaged.
        """
        prepared: Any = self.prepare_arrays(downloads)
        if not isinstance(prepared, tuple | list) or [isinstance(part, Mapping) for part in prepared] != [True, True]:
            raise UserError(
                f"{type(self).__name__}.prepare_arrays returned {type(prepared).__name__}, expected two dictionaries, "
                "the arrays by name and the entries for meta.json (source, licence and split); return both."
            )
        arrays, meta = prepared
        _check_arrays(arrays, self.num_classes)
        for name, array in arrays.items():
            writer.save(name, array)
        return dict(meta)

    def is_stale(self, meta: Mapping[str, Any]) -> bool:
        """Whether the source has changed since the store was prepared; by default a source never changes.

        Args:
            meta: Content of the store's `meta.json`.

        Raises:
            UserError: The source has changed, but may not be prepared again.
        """
        return False

    def prepare_data(self) -> None:
        """Prepares the store if it is missing or if its source has changed."""
        if not self._source_checked:
            self.open_store()
            self._source_checked = True

    @classmethod
    def store_class(cls) -> type["VisionDataModule"]:
        """Class whose prepared store this class uses: a subclass that changes only hooks uses that of its parent.

        A subclass with several parents has a store of its own, since each of them may say what its samples are.
        """
        kind = cls
        while VisionDataModule in kind.__mro__[2:] and set(vars(kind)) <= HOOKS and len(kind.__bases__) == 1:
            kind = kind.__mro__[1]
        return kind

    def settings(self) -> dict[str, Any]:
        """Settings that identify the prepared store of this data set."""
        kind = self.store_class()
        settings = {"dataset": f"{kind.__module__}.{kind.__qualname__}", **self.prepare_settings()}
        # A user's class may still change, so that its source code belongs to the identity of its store.
        if not is_ours(kind) and (sources := _sources(kind)):
            settings["code"] = hashlib.sha256(b"".join(sources)).hexdigest()
        return settings

    def store_folder(self) -> Path:
        """Folder of the prepared store, which may not exist yet."""
        return self.root / self.store_class().__name__ / store_key(self.settings())

    def open_store(self, check_source: bool = True) -> Store:
        """Opens the prepared store, preparing it first if there is none.

        Args:
            check_source: Whether the store is prepared again if its source has changed.

        Raises:
            UserError: The source is missing and cannot be fetched, or the store is damaged.
        """
        kind = self.store_class()

        def write(writer: StoreWriter) -> dict[str, Any]:
            entries = self.write_store(writer, self.root / "downloads" / kind.__name__)
            meta = {"dataset": kind.__name__, "class_names": list(self.class_names), "settings": self.settings()}
            return meta | entries

        folder = self.store_folder()
        store = open_or_write(folder, write, self.is_stale if check_source else None)
        for split in SPLITS:
            if f"{split}-images" not in store.arrays:
                continue
            shape = store.arrays[f"{split}-images"].shape
            if shape[1:] != self.stored_shape or store.meta.get("class_names") != list(self.class_names):
                raise UserError(
                    f"The prepared store {folder} holds {self.item}s of shape {shape[1:]} and classes "
                    f"{store.meta.get('class_names')}, but the class {kind.__name__} defines {self.stored_shape} and "
                    f"{list(self.class_names)}; correct the class, or delete the store to prepare it again."
                )
        return store

    def setup(self, stage: str | None = None) -> None:
        """Opens the store, makes the splits and computes the statistics; a second call does nothing."""
        if self.store is not None:
            return
        # With several processes, the first one has checked the source in `prepare_data`.
        store = self.open_store(check_source=not self._source_checked and getattr(rank_zero_only, "rank", 0) == 0)
        self.splits = self._make_splits(store)
        self.fit_statistics(store)
        self.store = store

    def fit_statistics(self, store: Store) -> None:
        """Fits the normalization of the inputs on the training split; called by `setup` after the splits are made."""
        if self.mean is None or self.std is None:
            mean, std = channel_statistics(store.arrays["train-images"], self.train_index)
            self.mean = self.mean if self.mean is not None else mean
            self.std = self.std if self.std is not None else std

    def watch_test(self) -> None:
        """Makes the official test images the validation split, so that nothing is left to test on; before `setup`.

        Raises:
            UserError: The splits are made already, or an option cuts them in another way.
        """
        if self.test_is_watched:
            return
        if self.store is not None:
            raise UserError(
                f"{self.title} is split already, so that its official test {self.item}s cannot become the validation "
                "split; make the data module anew."
            )
        for name, value in (("folds", self.folds), ("test_size", self.test_size), ("val_size", self.val_size)):
            if value is not None:
                raise UserError(
                    f"allow names test_as_validation, so that the official test {self.item}s are the validation split, "
                    f"but data.{name} is {value}; remove one of the two."
                )
        self.test_is_watched = True

    def kept_copies(self) -> list[str]:
        """Names of the samples that were kept although another one has the same bytes; valid after `setup`."""
        return [entry["file"] for entry in self._ready()[0].meta.get("copies", [])]

    def _make_splits(self, store: Store) -> dict[str, Split]:
        labels = np.asarray(store.arrays["train-labels"])
        rest = np.arange(len(labels))
        # Rows of a table may well have the same values without being copies.
        copies = groups_of_copies(labels, sample_digests(store, "train")) if self.item == "image" else None
        splits = {}
        sizes = {"test": self.test_size, "val": self.val_size}
        if self.train_as_test:
            if self.val_size or self.fold_is == "val":
                raise UserError(
                    f"{type(self).__name__} validates on its training {self.item}s, but "
                    f"{f'data.val_size is {self.val_size}' if self.val_size else 'data.fold_is is val'}; remove it."
                )
            del sizes["val"]
        if self.test_is_watched:
            if "test-labels" not in store.arrays:
                raise UserError(
                    f"allow names test_as_validation, but {self.title} has no official test {self.item}s; remove it "
                    "from allow."
                )
            empty = np.arange(0)
            splits = {"val": Split("test", np.arange(len(store.arrays["test-labels"]))), "test": Split("test", empty)}
            sizes = {}
        for stage, size in sizes.items():
            if self.folds is not None and self.fold is not None and self.fold_is == stage:
                remaining, selected = stratified_fold(
                    labels[rest],
                    self.fold,
                    self.folds,
                    self.split_seed,
                    class_names=self.class_names,
                    item=self.item,
                    copies=copies[rest] if copies is not None else None,
                )
            elif size is None and f"{stage}-labels" in store.arrays:
                splits[stage] = Split(stage, np.arange(len(store.arrays[f"{stage}-labels"])))
                continue
            else:
                remaining, selected = stratified_holdout(
                    labels[rest],
                    size if size is not None else DEFAULT_SIZES[stage],
                    self.split_seed,
                    name=f"data.{stage}_size",
                    class_names=self.class_names,
                    item=self.item,
                    copies=copies[rest] if copies is not None else None,
                )
            splits[stage] = Split("train", rest[selected])
            rest = rest[remaining]
        if self.train_size is not None:
            rest = rest[stratified_part(labels[rest], self.train_size, self.split_seed, self.class_names, self.item)]
        train = Split("train", rest)
        return {"train": train, "val": train if self.train_as_test else splits["val"], "test": splits["test"]}

    @property
    def train_index(self) -> np.ndarray:
        """Indices of the training split in the store's `train` arrays; valid after `setup`."""
        return self.splits["train"].index

    @property
    def val_index(self) -> np.ndarray:
        """Indices of the validation split in the store's arrays; valid after `setup`."""
        return self.splits["val"].index

    def copies_of_training(self) -> dict[str, int]:
        """Number of validation and of test samples of which the training split has another one with the same bytes.

        Valid after `setup`. Of a table, the values of all columns but the target are compared.
        """
        store, counts = self._ready()[0], {}
        train = self.splits["train"]
        trained = sample_digests(store, train.part)[train.index]
        for stage in ("val", "test"):
            split = self.splits[stage]
            index = split.index[~self._is_trained_on(split)]
            if len(index):
                counts[stage] = int(np.isin(sample_digests(store, split.part)[index], trained).sum())
        return counts

    def telling_columns(self) -> list[str]:
        """Names of the columns of which each alone tells the class of every training row; valid after `setup`."""
        return []

    def trained_on(self) -> dict[str, int]:
        """Number of validation and of test samples that are training samples themselves; valid after `setup`.

        Of a subclass with a loader of its own for one of them, the first samples of the loader tell.
        """
        counts = {stage: int(self._is_trained_on(self.splits[stage]).sum()) for stage in ("val", "test")}
        for stage in counts:
            loader = f"{stage}_dataloader"
            if getattr(type(self), loader) is not getattr(VisionDataModule, loader):
                counts[stage] = self._training_images_in(self._looked_at(loader))
        return {stage: count for stage, count in counts.items() if count}

    def augments_validation(self) -> bool:
        """Whether validation samples are augmented: by `augmented_validation`, or by a loader of a subclass's own."""
        if type(self).val_dataloader is VisionDataModule.val_dataloader:
            return self.augmented_validation and any(not isinstance(entry, Mixing) for entry in self.augment)
        loader = self._looked_at("val_dataloader")
        if isinstance(loader, ResidentLoader):
            return bool(loader.augmentations)
        # The data set behind a loader of torch gives other values for the same sample if it draws random numbers.
        samples = getattr(loader, "dataset", None)
        if not isinstance(samples, Dataset) or isinstance(samples, IterableDataset):
            return False
        places = range(min(DRAWN_SAMPLES, len(samples) if isinstance(samples, Sized) else 1))
        with same_random_numbers():
            return any(_varies(samples, place) for place in places)

    def _looked_at(self, name: str) -> Any:
        """A loader of a subclass's own, made before a run; it does not decide where the run holds its images."""
        residency = self._residency
        try:
            return getattr(self, name)()
        finally:
            self._residency = residency

    def _is_trained_on(self, split: Split) -> np.ndarray:
        train = self.splits["train"]
        return np.isin(split.index, train.index) if split.part == train.part else np.zeros(len(split.index), bool)

    def _training_images_in(self, loader: Any) -> int:
        """Number of the first images of a loader that are training images, where at least half are; 0 otherwise."""
        store, mean, std = self._ready()
        train = self.splits["train"]
        if isinstance(loader, ResidentLoader) and isinstance(loader.images, Tensor):
            pixels = loader.images[:SEEN_OF_OWN_LOADER].cpu()
        else:
            with same_random_numbers():
                batch = next(iter(loader), None)
            inputs = batch[0] if isinstance(batch, list | tuple) else None
            if not isinstance(inputs, Tensor) or len(self.input_shape) != 3 or inputs.shape[1:] != self.input_shape:
                return 0
            scale, shift = scale_and_shift(mean, std)
            pixels = ((inputs.cpu() - shift) / scale).round().clamp(0, 255).to(torch.uint8)
        digests = digests_of_rows(pixels.permute(0, 2, 3, 1).contiguous().numpy())
        found = np.isin(digests, sample_digests(store, train.part)[train.index])
        return int(found.sum()) if found.mean() >= TRAINING_SHARE else 0

    def data_digest(self) -> str:
        """Sha256 of everything that reaches the model: arrays, splits and normalization.

        Valid after `setup`.
        """
        store, mean, std = self._ready()
        digest = hashlib.sha256(repr([sorted(store.meta["arrays"].items()), mean, std]).encode())
        for stage, split in sorted(self.splits.items()):
            digest.update(f"{stage} {split.part} {len(split.index)};".encode() + split.index.tobytes())
        return digest.hexdigest()

    def split_digest(self, stage: str) -> str:
        """Sha256 of the samples of a split and their labels, whatever normalizes them; valid after `setup`.

        Args:
            stage: Split: `train`, `val` or `test`.
        """
        entries, split = self._ready()[0].meta["arrays"], self.splits[stage]
        arrays = [entries[f"{split.part}-{kind}"]["sha256"] for kind in ("images", "labels") if len(split.index)]
        return hashlib.sha256(f"{arrays} {len(split.index)};".encode() + split.index.tobytes()).hexdigest()

    def check_unseen(self, stage: str, run: str, recorded: Mapping[str, str]) -> None:
        """Checks that no sample of a split can be one that a run was trained on; valid after `setup`.

        Args:
            stage: Split: `val` or `test`.
            run: Run, for messages.
            recorded: Digests of the splits of the run, by `split_digest`.

        Raises:
            UserError: The split is cut from training samples, and neither it nor the training split is that of the run.
        """
        if self.splits[stage].part != "train" or "train" not in recorded:
            return
        if all(recorded.get(name) != self.split_digest(name) for name in (stage, "train")):
            name = "validation" if stage == "val" else stage
            raise UserError(
                f"The training {self.item}s of {self.title} are not those that {run} was trained on, so that it may "
                f"have been trained on {name} {self.item}s, which are cut from the same ones; restore the data and the "
                f"options of the run, give {name} {self.item}s of their own, or use visionbench predict with files."
            )

    def sealed_samples(self) -> SealedSamples:
        """The test samples as the ledger of test openings knows them; valid after `setup`."""
        return SealedSamples(self.title, self.item, len(self.splits["test"].index), self.split_digest("test"))

    def file_recipe(self) -> Recipe | None:
        """Recipe that turns an image file into a model input for predictions; `None` if files cannot be inputs."""
        if len(self.input_shape) != 3 or self.input_shape[0] not in (1, 3):
            return None
        channels, height, width = self.input_shape
        return Recipe((height, width), 1 if channels == 1 else 3, resize="crop", scale=1.0, invert=False)

    def describe_input(self) -> dict[str, Any]:
        """Description of a model's inputs and outputs in plain types, for its run folder; valid after `setup`."""
        self._ready()
        recipe = self.file_recipe()
        return {
            "data": f"{type(self).__module__}.{type(self).__qualname__}",
            "title": self.title,
            "class_names": list(self.class_names),
            "input_shape": list(self.input_shape),
            "mean": self.mean,
            "std": self.std,
            "file": vars(recipe) | {"size": list(recipe.size)} if recipe is not None else None,
        }

    def sample_name(self, part: str, index: int) -> str:
        """Name of a sample: its file in the source if the store knows it, else part and index, such as test/17.

        Args:
            part: Part of the store: `train`, `val` or `test`.
            index: Index of the sample in that part, from 0.
        """
        names = self._ready()[0].arrays.get(f"{part}-names")
        return os.fsdecode(bytes(names[index])) if names is not None else f"{part}/{index}"

    def sample_names(self, stage: str, count: int) -> list[str]:
        """Names of the first samples that the loader of a split gives, in its order; valid after `setup`.

        Where a subclass has a loader of its own, which samples it gives is not known: they are numbered from 0.

        Args:
            stage: Split: `val` or `test`.
            count: Number of samples.
        """
        split, loader = self.splits[stage], f"{stage}_dataloader"
        if getattr(type(self), loader) is not getattr(VisionDataModule, loader):
            return [f"{loader}/{place}" for place in range(count)]
        return [self.sample_name(split.part, int(place)) for place in split.index[:count]]

    def sizes(self) -> dict[str, int]:
        """Number of samples in each split; valid after `setup`."""
        self._ready()
        return {stage: len(split.index) for stage, split in self.splits.items()}

    def label_ranges(self) -> dict[str, tuple[int, int]]:
        """Smallest and largest label of each split that has samples; valid after `setup`."""
        arrays = self._ready()[0].arrays
        labels = {stage: arrays[f"{split.part}-labels"][split.index] for stage, split in self.splits.items()}
        return {stage: (int(values.min()), int(values.max())) for stage, values in labels.items() if len(values)}

    def training_samples(self, count: int) -> tuple[Tensor, Tensor]:
        """Gives some training samples, evenly spaced in the split, not augmented; valid after `setup`.

        Args:
            count: Number of samples; a smaller split gives all it has.

        Returns:
            Inputs as the model takes them, float32, and labels, shape (count,), int64, on the CPU.
        """
        size = len(self.train_index)
        samples: tuple[Tensor, Tensor] = next(iter(self._some_samples(np.linspace(0, size - 1, min(count, size)))))
        return samples

    def _some_samples(self, places: np.ndarray) -> ResidentLoader:
        store, mean, std = self._ready()
        split = self.splits["train"]
        index = split.index[places.round().astype(np.int64)]
        return ResidentLoader(
            _resident(store.arrays[f"{split.part}-images"], index, torch.device("cpu")),
            torch.tensor(store.arrays[f"{split.part}-labels"][index]),
            batch_size=len(index),
            mean=mean,
            std=std,
        )

    def left_out(self, processes: int = 1) -> int:
        """Gives the number of training samples that each epoch leaves out, since their batch is too small.

        Args:
            processes: Number of processes.
        """
        return left_out(len(self.train_index), self.batch_size, processes, self.trains_batch_norm)

    def train_dataloader(self) -> ResidentLoader:
        """Shuffled, augmented batches of the training split."""
        self._ready()
        kind = EpochOrder if self.shuffle else FixedOrder
        order = kind(len(self.train_index), self._order_seed())
        return self._loader("train", order=order, augmentations=self.augment)

    def _order_seed(self) -> int:
        return self.seed if self.seed is not None else self.run_seed

    def val_dataloader(self) -> ResidentLoader | list[Any]:
        """Batches of the validation split, in its order; an empty list if the split is empty."""
        if not self.sizes()["val"]:
            return []
        return self.augmented_val_dataloader(0) if self.augmented_validation else self._loader("val")

    def augmented_val_dataloader(self, epoch: int) -> ResidentLoader:
        """Batches of the validation split, in its order, augmented as training samples are, apart from mixing.

        Args:
            epoch: Number of the epoch, from 0, whose random parameters the augmentations have.
        """
        order = FixedOrder(self.sizes()["val"], self._order_seed())
        order.set_epoch(epoch)
        augmentations = [entry for entry in self.augment if not isinstance(entry, Mixing)]
        return self._sharing("val", order, augmentations)

    def test_dataloader(self) -> ResidentLoader | list[Any]:
        """Batches of the test split, in its order; an empty list if the split is empty."""
        return self._loader("test") if self.sizes()["test"] else []

    def predict_dataloader(self) -> ResidentLoader:
        """Batches of the training split, in its order and without augmentation."""
        return self._sharing("train")

    def _sharing(
        self, stage: str, order: EpochOrder | None = None, augmentations: Sequence[Augmentation] = ()
    ) -> ResidentLoader:
        """A loader of a split that shares the images of the loader that a run has of it, if it has one."""
        trainer, name = self.trainer, f"{stage}_dataloader"
        if trainer is not None and getattr(type(self), name) is getattr(VisionDataModule, name):
            made = trainer.train_dataloader if stage == "train" else trainer.val_dataloaders
            features = isinstance(made, FeatureLoader)
            if isinstance(made, ResidentLoader) and made.gives_samples_as_they_are and not (features and augmentations):
                return made.again(order, augmentations)
        return self._loader(stage, order, augmentations)

    def check_sealed(self) -> None:
        """Checks that no model is being trained, which may not see the test samples.

        Raises:
            UserError: A model is being trained.
        """
        state = self.trainer.state if self.trainer is not None else None
        if state is not None and state.fn == TrainerFn.FITTING and state.status == TrainerStatus.RUNNING:
            raise UserError(
                f"The test {self.item}s of {self.title} were asked for during training, but they may only measure the "
                "result; use the validation split. The run tests its result itself, after training."
            )

    def _loader(
        self, stage: str, order: EpochOrder | None = None, augmentations: Sequence[Augmentation] = ()
    ) -> ResidentLoader:
        if stage == "test":
            self.check_sealed()
        store, mean, std = self._ready()
        device, shard, local_processes = torch.device("cpu"), (0, 1), 1
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            shard = (self.trainer.global_rank, self.trainer.world_size)
            local_processes = self.trainer.num_devices
        split, residency = self.splits[stage], self.residency(device, local_processes)
        images = store.arrays[f"{split.part}-images"]
        loader = ResidentLoader(
            _resident(images, split.index, device)
            if residency.resident
            else MappedImages(images, split.index, device, residency.workers),
            torch.tensor(store.arrays[f"{split.part}-labels"][split.index], device=device),
            batch_size=self.batch_size,
            mean=mean,
            std=std,
            order=order,
            augmentations=augmentations,
            num_classes=self.num_classes,
            shard=shard,
            batch_norm=self.trains_batch_norm and stage == "train",
        )
        return loader if self.frozen_features is None else self.frozen_features(stage, loader)

    def residency(self, device: torch.device, processes: int = 1) -> Residency:
        """Decides whether the images of all splits are held on the device; valid after `setup`.

        Either all splits are held or none, since the loaders of a run exist at the same time. The first decision stays,
        since less memory is free once some images are loaded.

        Args:
            device: Training device.
            processes: Number of processes that train on this machine; on CPUs they share its memory.
        """
        if self._residency is None:
            sharing = processes if device.type == "cpu" else 1
            needed = sum(self.sizes().values()) * math.prod(self.input_shape)
            if self.memory_budget is not None:
                budget = self.memory_budget * GIB
                limit = f"data.memory_budget, {self.memory_budget:g} GiB"
            else:
                budget = FREE_SHARE * free_memory(device) / sharing
                share = f" for one of {sharing} processes" * (sharing > 1)
                limit = f"half of the free memory{share}, {_size_text(budget)}"
            workers = self.workers if self.workers is not None else max(1, min(4, processor_cores() // processes))
            self._residency = Residency(needed <= budget, workers, f"{_size_text(needed)} are more than {limit}")
        return self._residency

    def _ready(self) -> tuple[Store, list[float], list[float]]:
        if self.store is None or self.mean is None or self.std is None:
            raise RuntimeError(f"{type(self).__name__}.setup() has not been called yet; call it first.")
        return self.store, self.mean, self.std


def _augmentations(augment: Any) -> list[Augmentation]:
    """The augmentations of a data set; none for `None`."""
    entries = [] if augment is None else augment
    if not isinstance(entries, list | tuple) or (
        wrong := [entry for entry in entries if not isinstance(entry, Augmentation)]
    ):
        found = wrong[0] if isinstance(entries, list | tuple) else entries
        raise UserError(
            f"data.augment holds {getattr(found, '__name__', type(found).__name__)}, expected a list of augmentations, "
            "such as [HorizontalFlip()]; make one of the class, and put it into a list."
        )
    return list(entries)


def _sources(kind: type) -> list[bytes]:
    """The code of a user's class and of its bases that are the user's own: their files, or what those without hold."""
    sources: dict[Any, bytes] = {}
    for base in kind.__mro__:
        if is_ours(base) or base.__module__.partition(".")[0] in sys.stdlib_module_names:
            continue
        if (path := file_of(base)) is None:
            own = [(name, _code(value)) for name, value in sorted(vars(base).items()) if not name.startswith("__")]
            sources[base] = repr(own).encode()
        elif base is kind or "site-packages" not in path.parts:  # an installed package is known by its version
            sources[path] = path.read_bytes()
    return [*sources.values()]


def _code(value: Any) -> Any:
    """A value or a function of a class that was typed into a notebook, in plain types; `None` for anything else."""
    code = getattr(getattr(value, "fget", None) or getattr(value, "__func__", value), "__code__", value)
    if not isinstance(code, CodeType):
        return value if isinstance(value, bool | int | float | str) else None
    constants = [_code(each) if isinstance(each, CodeType) else each for each in code.co_consts]
    # The order of a set differs from process to process.
    plain = [sorted(map(repr, each)) if isinstance(each, frozenset) else each for each in constants]
    return [code.co_code, code.co_names, plain]


def _varies(samples: Dataset[Any], place: int) -> bool:
    """Whether a data set of torch gives other values for the same sample when it is asked again."""
    drawn = [samples[place] for _ in range(DRAWS)]
    values = [sample[0] for sample in drawn if isinstance(sample, tuple | list) and sample]
    return any(isinstance(value, Tensor) and not torch.equal(value, values[0]) for value in values)


def _sealed(test_dataloader: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(test_dataloader)
    def checked(data: VisionDataModule) -> Any:
        data.check_sealed()
        return test_dataloader(data)

    return checked


def _size_text(size: float) -> str:
    return f"{size / GIB:,.2f} GiB" if size >= GIB else f"{size / 2**20:,.1f} MiB"


def _check_arrays(arrays: Mapping[str, np.ndarray], classes: int) -> None:
    """Refuses arrays that would make training fail or would give wrong labels."""
    splits = ["train", *(split for split in SPLITS[1:] if any(name.startswith(f"{split}-") for name in arrays))]
    needed = [f"{split}-{kind}" for split in splits for kind in ("images", "labels")]
    if unknown := sorted(set(arrays) - {*needed, *(f"{split}-names" for split in splits)}):
        raise UserError(
            f"prepare_arrays gave an array {unknown[0]}, expected train-images and train-labels and, where they are "
            "official, those of val and test; rename it, or leave it out."
        )
    for name in needed:
        if not isinstance(arrays.get(name), np.ndarray):
            given = type(arrays[name]).__name__ if name in arrays else "no array"
            raise UserError(f"prepare_arrays gave {given} as {name}, expected a NumPy array; return one by this name.")
    for split in splits:
        images, labels = arrays[f"{split}-images"], arrays[f"{split}-labels"]
        if images.dtype != np.uint8 or images.ndim != 4:
            raise UserError(f"{split}-images is {images.dtype} {images.shape}, expected uint8 (N, H, W, C).")
        if labels.dtype != np.int64 or labels.shape != (len(images),):
            raise UserError(f"{split}-labels is {labels.dtype} {labels.shape}, expected int64 ({len(images)},).")
        if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
            raise UserError(
                f"{split}-labels go from {labels.min()} to {labels.max()}, expected 0 to {classes - 1}, one for each "
                "class name."
            )


def _resident(images: np.ndarray, index: np.ndarray, device: torch.device) -> Tensor:
    """Copy of images of the store as a tensor on the device, shape (n, C, H, W)."""
    _, height, width, channels = images.shape
    tensor = torch.empty((len(index), channels, height, width), dtype=torch.uint8, device=device)
    start = 0
    for part in chunks(images, index):  # so that the images are never in memory twice
        tensor[start : start + len(part)] = torch.from_numpy(part).to(device).permute(0, 3, 1, 2)
        start += len(part)
    return tensor
