"""What all data sets share: preparing, splitting, statistics and loaders."""

import hashlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import LightningDataModule
from torch import Tensor

from visionbench.classes import file_of, is_ours
from visionbench.data.augment import Augmentation
from visionbench.data.loader import EpochOrder, ResidentLoader
from visionbench.data.mapped import MappedImages, portions
from visionbench.data.memory import free_memory, processor_cores
from visionbench.data.splits import Split, check_folds, stratified_fold, stratified_holdout, stratified_part
from visionbench.data.statistics import channel_statistics, imagenet_statistics
from visionbench.data.store import SPLITS, Store, Writer, open_or_write, store_key
from visionbench.decoding import Recipe
from visionbench.errors import UserError

# What is cut for a split of which the data set has no official images, where no size is given.
DEFAULT_SIZES = {"test": 0.2, "val": 0.1}
# Of the memory that is free, what the images of all splits may take by default; the rest is the model's.
FREE_SHARE = 0.5
GIB = 2**30


@dataclass(frozen=True)
class Residency:
    """Where the images of a run's splits are while it lasts.

    Attributes:
        resident: Whether all of them are held on the device; else they are read through the memory map.
        workers: Threads that read ahead, where they are.
        reason: Why they are not held, in words.
    """

    resident: bool
    workers: int
    reason: str


class VisionDataModule(LightningDataModule, ABC):
    """Images and labels, prepared once, split, normalised and served in batches.

    A subclass names its classes and its image shape and says in `prepare_arrays` how its files are decoded. An official
    test set stays whole; what is cut from the training images - test, then validation, then what is trained on - is
    stratified by class. Mean and standard deviation are those of the part that is trained on.

    Args:
        root: Folder of prepared data sets, written to; by default `$VISIONBENCH_DATA`, else `data`.
        batch_size: Images in a batch (for each process, where there are several).
        val_size: Validation images cut from the training images: a count, or a fraction below 1; 0 for none; null for
            the official ones or, where there are none, a tenth.
        test_size: Test images cut from the training images, in the same way, and the official ones left alone; null
            for the official ones or, where there are none, a fifth.
        folds: Cut the training images into this many stratified parts, of which one is held out; as many as there are
            images leave one out.
        fold: Which of them, from 0; over all of them every image is held out once.
        fold_is: What the part that is held out is: `test`, or `val`, with test as it is without folds.
        train_size: How many of the training images that are left are trained on: a count, or a fraction up to 1; null
            for all. A smaller number is a part of a larger one.
        split_seed: Chooses which images are cut; the same for all runs that are to be compared.
        augment: Random changes of the training images, in this order; never of validation or test.
        statistics: Where mean and std come from: `train`, the images trained on, or `imagenet`, for a network with
            weights from ImageNet (for grey images the mean over its channels). They go with the weights, not with the
            images, so `imagenet` stays when another data set is chosen; mean and std do not.
        mean: Subtracted from the pixels, in [0, 1], one a channel; by default as `statistics` says.
        std: Divides the pixels after that, one a channel; by default as `statistics` says.
        offline: Never touch the network, and refuse a source that has changed rather than prepare it again; a prepared
            store is all that is needed.
        seed: Chooses order and augmentation; by default the run's seed_everything, or 0 in Python.
        memory_budget: GiB that the images of all splits together may take to be held on the device that trains. Above
            it they are read from the prepared data through the memory map, in the same order and with the same
            augmentation, so that the same comes out; 0 does that always. By default half of what is free: of a GPU's
            memory, or of what the system, and the limit of a container or job, leave.
        workers: Threads that read ahead through the memory map; 0 reads a batch when it is needed. By default one for
            each processor core, up to four.
    """

    title: str
    """The data set's name as people write it."""
    specific_arguments: ClassVar[frozenset[str]] = frozenset({"source", "mean", "std", "augment"})
    """Arguments that speak of one data set and are never carried over to another: a flipped 6 is no 6."""
    item: ClassVar[str] = "image"
    """Name of one sample in messages: image or row."""
    from_command_line: ClassVar[bool] = True
    """Whether the command line and YAML files can create the data set; `visionbench data list` leaves out others."""

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
                    f"data.{name} has {len(values)} values, expected {self.input_shape[0]}, one for each channel of "
                    f"{self.title}."
                )
        if statistics not in ("train", "imagenet"):
            raise UserError(f"data.statistics is {statistics}, expected train or imagenet.")
        if statistics == "imagenet":
            if mean is not None or std is not None:
                raise UserError(
                    f"data.statistics is imagenet but data.{'std' if mean is None else 'mean'} is given too; leave one "
                    "of them out."
                )
            mean, std = imagenet_statistics(self.input_shape, self.title)
        if split_seed < 0:
            raise UserError(f"data.split_seed is {split_seed}, expected 0 or more.")
        if std is not None and not min(std) > 0:
            raise UserError(f"data.std is {std}, expected values above 0.")
        if seed is not None and seed < 0:
            raise UserError(f"data.seed is {seed}, expected 0 or more.")
        if memory_budget is not None and not memory_budget >= 0:
            raise UserError(f"data.memory_budget is {memory_budget}, expected a number of GiB of 0 or more.")
        if workers is not None and workers < 0:
            raise UserError(f"data.workers is {workers}, expected a number of threads of 0 or more.")
        self.root = Path(root if root is not None else os.environ.get("VISIONBENCH_DATA") or "data").expanduser()
        self.batch_size = batch_size
        self.val_size = val_size
        self.test_size = test_size
        self.folds = folds
        self.fold = fold
        self.fold_is = fold_is
        self.train_size = train_size
        self.split_seed = split_seed
        self.augment = augment if augment is not None else []
        self.offline = offline
        self.seed = seed
        self.mean = mean
        self.std = std
        self.memory_budget = memory_budget
        self.workers = workers
        self.store: Store | None = None
        self.splits: dict[str, Split] = {}
        """The images of `train`, `val` and `test`; filled by `setup`."""
        self.test_is_watched = False
        self._looked = False
        self._residency: Residency | None = None

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """One a label, in the order of the labels."""

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """What a model is given of each: channels, height and width of an image, or the number of a row's features."""

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """What a store holds of each: height, width and channels of an image."""
        channels, height, width = self.input_shape
        return (height, width, channels)

    @property
    def shape_in_words(self) -> str:
        """`input_shape` as people write it."""
        return " x ".join(map(str, self.input_shape))

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    def prepare_settings(self) -> dict[str, Any]:
        """All that the prepared arrays depend on besides the data set's name; it decides which store is opened."""
        return {}

    def prepare_arrays(self, downloads: Path) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:
        """Decodes the source: called only where there is no prepared store yet.

        Every data set that fits in memory defines this; one that does not defines `write_store`.

        Args:
            downloads: A folder for what has to be fetched.

        Returns:
            `train-images` and, where they are official, `val-images` and `test-images`, (N, H, W, C) uint8;
            `train-labels` and so on, (N,) int64; and what `meta.json` is to say of them: `source`, `licence`, `split`.

        Raises:
            UserError: The source is not there and cannot be fetched, or is damaged.
        """
        raise NotImplementedError(f"{type(self).__name__} defines neither prepare_arrays nor write_store.")

    def write_store(self, writer: Writer, downloads: Path) -> dict[str, Any]:
        """Decodes the source into a new store: called only where there is none yet, or an old one.

        Args:
            writer: Takes the arrays that `prepare_arrays` describes.
            downloads: A folder for what has to be fetched.

        Returns:
            What `meta.json` is to say: `source`, `licence`, `split`.

        Raises:
            UserError: The source is not there and cannot be fetched, or is damaged.
        """
        arrays, meta = self.prepare_arrays(downloads)
        _check(arrays, self.num_classes)
        for name, array in arrays.items():
            writer.save(name, array)
        return meta

    def is_stale(self, meta: Mapping[str, Any]) -> bool:
        """Whether a prepared store is of a source that has changed since; by default a source never does.

        Args:
            meta: What the store's `meta.json` says.

        Raises:
            UserError: It is, and may not be prepared again.
        """
        return False

    def prepare_data(self) -> None:
        """Makes sure that the prepared store is there and still of what the source holds."""
        if not self._looked:
            self.open_store()
            self._looked = True

    def settings(self) -> dict[str, Any]:
        """All that decides which prepared store is this data set's."""
        kind = type(self)
        settings = {"dataset": f"{kind.__module__}.{kind.__qualname__}", **self.prepare_settings()}
        if not is_ours(kind) and (source := file_of(kind)) is not None:
            # A class that is still being written: its store is that of this text of it.
            settings["code"] = hashlib.sha256(source.read_bytes()).hexdigest()
        return settings

    def store_folder(self) -> Path:
        """Where the prepared store lies, or is going to."""
        return self.root / type(self).__name__ / store_key(self.settings())

    def open_store(self, look: bool = True) -> Store:
        """Opens the prepared store, preparing it where there is none.

        Args:
            look: Whether to look at the source too, and prepare again what has changed.

        Raises:
            UserError: The data cannot be had, or the store is damaged.
        """
        kind = type(self)

        def write(writer: Writer) -> dict[str, Any]:
            meta = self.write_store(writer, self.root / "downloads" / kind.__name__)
            said = {"dataset": kind.__name__, "class_names": list(self.class_names), "settings": self.settings()}
            return said | meta

        folder = self.store_folder()
        store = open_or_write(folder, write, self.is_stale if look else None)
        for split in SPLITS:
            if f"{split}-images" not in store.arrays:
                continue
            shape = store.arrays[f"{split}-images"].shape
            if shape[1:] != self.stored_shape or store.meta.get("class_names") != list(self.class_names):
                raise UserError(
                    f"The prepared store {folder} holds {self.item}s of shape {shape[1:]} and classes "
                    f"{store.meta.get('class_names')}, but {kind.__name__} says {self.stored_shape} and "
                    f"{list(self.class_names)}; mend the class, or delete the store to prepare it again."
                )
        return store

    def setup(self, stage: str | None = None) -> None:
        """Opens the store, cuts the splits and computes the statistics; what was done is not done again."""
        if self.store is not None:
            return
        # Of several processes the first has looked at the source, in `prepare_data`.
        store = self.open_store(look=not self._looked and getattr(rank_zero_only, "rank", 0) == 0)
        self.splits = self._cut(store)
        self.fit_statistics(store)
        self.store = store

    def fit_statistics(self, store: Store) -> None:
        """Learns from the part that is trained on what the inputs are normalised by; `splits` are there."""
        if self.mean is None or self.std is None:
            mean, std = channel_statistics(store.arrays["train-images"], self.train_index)
            self.mean = self.mean if self.mean is not None else mean
            self.std = self.std if self.std is not None else std

    def watch_test(self) -> None:
        """Makes the official test images the validation set, so that nothing is left to test on; before `setup`.

        Raises:
            UserError: The splits are made already, or an option cuts them in another way.
        """
        if self.test_is_watched:
            return
        if self.store is not None:
            raise UserError(
                f"{self.title} is split already, so that its official test {self.item}s cannot become the validation "
                "set; make the data module anew."
            )
        for name, value in (("folds", self.folds), ("test_size", self.test_size), ("val_size", self.val_size)):
            if value is not None:
                raise UserError(
                    f"allow names test_as_validation, so that the official test {self.item}s are the validation set, "
                    f"but data.{name} is {value}; remove one of the two."
                )
        self.test_is_watched = True

    def kept_copies(self) -> list[str]:
        """Names of the samples that were kept although another one has the same bytes; valid after `setup`."""
        return [entry["file"] for entry in self._ready()[0].meta.get("copies", [])]

    def _cut(self, store: Store) -> dict[str, Split]:
        labels = np.asarray(store.arrays["train-labels"])
        rest = np.arange(len(labels))
        splits = {}
        sizes = {"test": self.test_size, "val": self.val_size}
        if self.test_is_watched:
            if "test-labels" not in store.arrays:
                raise UserError(
                    f"allow names test_as_validation, but {self.title} has no official test {self.item}s; remove it "
                    "from allow."
                )
            nothing = np.arange(0)
            splits = {"val": Split("test", np.arange(len(store.arrays["test-labels"]))), "test": Split("test", nothing)}
            sizes = {}
        for stage, size in sizes.items():
            if self.folds is not None and self.fold is not None and self.fold_is == stage:
                stays, cut = stratified_fold(
                    labels[rest],
                    self.fold,
                    self.folds,
                    self.split_seed,
                    class_names=self.class_names,
                    item=self.item,
                )
            elif size is None and f"{stage}-labels" in store.arrays:
                splits[stage] = Split(stage, np.arange(len(store.arrays[f"{stage}-labels"])))
                continue
            else:
                stays, cut = stratified_holdout(
                    labels[rest],
                    size if size is not None else DEFAULT_SIZES[stage],
                    self.split_seed,
                    name=f"data.{stage}_size",
                    class_names=self.class_names,
                    item=self.item,
                )
            splits[stage] = Split("train", rest[cut])
            rest = rest[stays]
        if self.train_size is not None:
            rest = rest[stratified_part(labels[rest], self.train_size, self.split_seed, self.class_names, self.item)]
        return {"train": Split("train", rest), "val": splits["val"], "test": splits["test"]}

    @property
    def train_index(self) -> np.ndarray:
        """The places of the images trained on in the store's `train` part; valid after `setup`."""
        return self.splits["train"].index

    @property
    def val_index(self) -> np.ndarray:
        """The places of the validation images in their part of the store; valid after `setup`."""
        return self.splits["val"].index

    def data_digest(self) -> str:
        """The sha256 of all that the model can see: every array, the split and the normalisation.

        Valid after `setup`.
        """
        store, mean, std = self._ready()
        digest = hashlib.sha256(repr([sorted(store.meta["arrays"].items()), mean, std]).encode())
        for stage, split in sorted(self.splits.items()):
            digest.update(f"{stage} {split.part} {len(split.index)};".encode() + split.index.tobytes())
        return digest.hexdigest()

    def file_recipe(self) -> Recipe | None:
        """How an image file becomes an input, for predictions; `None` where files do not become inputs."""
        if len(self.input_shape) != 3 or self.input_shape[0] not in (1, 3):
            return None
        channels, height, width = self.input_shape
        return Recipe((height, width), 1 if channels == 1 else 3, resize="crop", scale=1.0, invert=False)

    def describe_input(self) -> dict[str, Any]:
        """What a trained model has to be given and what its outputs mean, in plain types; valid after `setup`."""
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

    def sample_name(self, part: str, place: int) -> str:
        """What a sample is called: its file in the source, where the store says so, else part and place, as test/17.

        Args:
            part: Of the store: `train`, `val` or `test`.
            place: In it, from 0.
        """
        names = self._ready()[0].arrays.get(f"{part}-names")
        return os.fsdecode(bytes(names[place])) if names is not None else f"{part}/{place}"

    def sizes(self) -> dict[str, int]:
        """Images in each split; valid after `setup`."""
        self._ready()
        return {stage: len(split.index) for stage, split in self.splits.items()}

    def train_dataloader(self) -> ResidentLoader:
        """Shuffled, augmented batches of the images trained on."""
        self._ready()
        order = EpochOrder(len(self.train_index), self.seed if self.seed is not None else 0)
        return self._loader("train", order=order, augmentations=self.augment)

    def val_dataloader(self) -> ResidentLoader | list[Any]:
        """Batches of the validation images, in their order; nothing where there are none."""
        return self._loader("val") if self.sizes()["val"] else []

    def test_dataloader(self) -> ResidentLoader | list[Any]:
        """Batches of the test images, in their order; nothing where there are none."""
        return self._loader("test") if self.sizes()["test"] else []

    def predict_dataloader(self) -> ResidentLoader:
        """Batches of the images trained on, in their order and as they are."""
        return self._loader("train")

    def _loader(
        self, stage: str, order: EpochOrder | None = None, augmentations: Sequence[Augmentation] = ()
    ) -> ResidentLoader:
        store, mean, std = self._ready()
        device, shard, neighbours = torch.device("cpu"), (0, 1), 1
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            shard = (self.trainer.global_rank, self.trainer.world_size)
            neighbours = self.trainer.num_devices
        split, residency = self.splits[stage], self.residency(device, neighbours)
        images = store.arrays[f"{split.part}-images"]
        return ResidentLoader(
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
        )

    def residency(self, device: torch.device, processes: int = 1) -> Residency:
        """Decides whether the images of all splits are held on the device; valid after `setup`.

        All of them are, or none: a run's loaders live side by side. Once decided it stays so, since what is free is
        less when some of them are there.

        Args:
            device: The one that trains.
            processes: How many of them train on this machine; on a processor they share its memory.
        """
        if self._residency is None:
            sharing = processes if device.type == "cpu" else 1
            needed = sum(self.sizes().values()) * math.prod(self.input_shape)
            if self.memory_budget is not None:
                budget = self.memory_budget * GIB
                which = f"data.memory_budget, {self.memory_budget:g} GiB"
            else:
                budget = FREE_SHARE * free_memory(device) / sharing
                which = f"half of what is free{f' for one of {sharing} processes' * (sharing > 1)}, {_in_words(budget)}"
            workers = self.workers if self.workers is not None else max(1, min(4, processor_cores() // processes))
            self._residency = Residency(needed <= budget, workers, f"{_in_words(needed)} are more than {which}")
        return self._residency

    def _ready(self) -> tuple[Store, list[float], list[float]]:
        if self.store is None or self.mean is None or self.std is None:
            raise RuntimeError(f"{type(self).__name__}.setup() has not been called yet; call it first.")
        return self.store, self.mean, self.std


def _in_words(size: float) -> str:
    return f"{size / GIB:,.2f} GiB" if size >= GIB else f"{size / 2**20:,.1f} MiB"


def _check(arrays: Mapping[str, np.ndarray], classes: int) -> None:
    """Refuses arrays that would fail in training, or not fail and mean something else."""
    for split in SPLITS:
        if split != "train" and f"{split}-images" not in arrays:
            continue
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
    """Images of the store as a tensor of its own, shape (n, C, H, W), on the device."""
    _, height, width, channels = images.shape
    tensor = torch.empty((len(index), channels, height, width), dtype=torch.uint8, device=device)
    start = 0
    for part in portions(images, index):  # so that the images are not there twice on the way
        tensor[start : start + len(part)] = torch.from_numpy(part).to(device).permute(0, 3, 1, 2)
        start += len(part)
    return tensor
