"""What all data sets share: preparing, splitting, statistics and loaders."""

import hashlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from visionbench.data.augment import Augmentation
from visionbench.data.loader import EpochOrder, ResidentLoader
from visionbench.data.store import Store, open_or_prepare, store_key
from visionbench.errors import UserError
from visionbench.source_code import file_of, is_ours


class VisionDataModule(LightningDataModule, ABC):
    """Images and labels, prepared once, split, normalised and served in batches.

    A subclass names its classes and its image shape and says in `prepare_arrays` how its files are decoded. The
    official test set stays whole; validation is cut from the training images, stratified by class. Mean and standard
    deviation are those of the part that is trained on.

    Args:
        root: Folder of prepared data sets, written to; by default `$VISIONBENCH_DATA`, else `data`.
        batch_size: Images in a batch (for each process, where there are several).
        val_size: Validation images cut from the training images: a count, or a fraction below 1; 0 for none.
        split_seed: Chooses which images are cut; the same for all runs that are to be compared.
        augment: Random changes of the training images, in this order; never of validation or test.
        mean: Subtracted from the pixels, in [0, 1], one a channel; by default that of the images trained on.
        std: Divides the pixels after that, one a channel; by default that of the images trained on.
        seed: Chooses order and augmentation; by default the run's seed_everything, or 0 in Python.
    """

    title: ClassVar[str]
    """The data set's name as people write it."""
    class_names: tuple[str, ...]
    """One a label, in the order of the labels."""
    input_shape: tuple[int, int, int]
    """Channels, height and width of an image."""
    specific_arguments: ClassVar[frozenset[str]] = frozenset({"source", "mean", "std"})
    """Arguments that speak of one data set and are never carried over to another."""

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 64,
        val_size: int | float = 0.1,
        split_seed: int = 0,
        augment: list[Augmentation] | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"data.batch_size is {batch_size}, expected 1 or more.")
        if not val_size >= 0 or (isinstance(val_size, float) and val_size >= 1):
            raise UserError(
                f"data.val_size is {val_size}, expected a count of images, a fraction below 1, or 0 for no validation."
            )
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != self.input_shape[0]:
                raise UserError(
                    f"data.{name} has {len(values)} values, expected {self.input_shape[0]}, one for each channel of "
                    f"{self.title}."
                )
        if split_seed < 0:
            raise UserError(f"data.split_seed is {split_seed}, expected 0 or more.")
        if std is not None and not min(std) > 0:
            raise UserError(f"data.std is {std}, expected values above 0.")
        if seed is not None and seed < 0:
            raise UserError(f"data.seed is {seed}, expected 0 or more.")
        self.root = Path(root if root is not None else os.environ.get("VISIONBENCH_DATA") or "data").expanduser()
        self.batch_size = batch_size
        self.val_size = val_size
        self.split_seed = split_seed
        self.augment = augment if augment is not None else []
        self.seed = seed
        self.mean = mean
        self.std = std
        self.store: Store | None = None

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    def prepare_settings(self) -> dict[str, Any]:
        """All that the prepared arrays depend on besides the data set's name; it decides which store is opened."""
        return {}

    @abstractmethod
    def prepare_arrays(self, downloads: Path) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:
        """Decodes the source: called only where there is no prepared store yet.

        Args:
            downloads: A folder for what has to be fetched.

        Returns:
            `train-images` and `test-images`, (N, H, W, C) uint8; `train-labels` and `test-labels`, (N,) int64; and
            what `meta.json` is to say of them: `source`, `licence`, `split`.

        Raises:
            UserError: The source is not there and cannot be fetched, or is damaged.
        """

    def prepare_data(self) -> None:
        """Makes sure that the prepared store is there."""
        self.open_store()

    def open_store(self) -> Store:
        """Opens the prepared store, preparing it where there is none.

        Raises:
            UserError: The data cannot be had, or the store is damaged.
        """
        kind = type(self)
        settings = {"dataset": f"{kind.__module__}.{kind.__qualname__}", **self.prepare_settings()}
        if not is_ours(kind) and (source := file_of(kind)) is not None:
            # A class that is still being written: its store is that of this text of it.
            settings["code"] = hashlib.sha256(source.read_bytes()).hexdigest()

        def prepare() -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:
            arrays, meta = self.prepare_arrays(self.root / "downloads" / kind.__name__)
            _check(arrays, self.num_classes)
            said = {"dataset": kind.__name__, "class_names": list(self.class_names), "settings": settings}
            return arrays, said | meta

        folder = self.root / kind.__name__ / store_key(settings)
        store = open_or_prepare(folder, prepare)
        channels, height, width = self.input_shape
        for split in ("train", "test"):
            shape = store.arrays[f"{split}-images"].shape
            if shape[1:] != (height, width, channels) or store.meta["class_names"] != list(self.class_names):
                raise UserError(
                    f"The prepared store {folder} holds images of {shape[1:]} (height, width, channels) and classes "
                    f"{store.meta['class_names']}, but {kind.__name__} says {(height, width, channels)} and "
                    f"{list(self.class_names)}; mend the class, or delete the store to prepare it again."
                )
        return store

    def setup(self, stage: str | None = None) -> None:
        """Opens the store, cuts the validation part and computes the statistics; what was done is not done again."""
        if self.store is not None:
            return
        store = self.open_store()
        train_labels = np.asarray(store.arrays["train-labels"])
        self.train_index, self.val_index = stratified_holdout(train_labels, self.val_size, self.split_seed)
        if self.mean is None or self.std is None:
            mean, std = channel_statistics(store.arrays["train-images"], self.train_index)
            self.mean = self.mean if self.mean is not None else mean
            self.std = self.std if self.std is not None else std
        self.store = store

    def data_digest(self) -> str:
        """The sha256 of all that the model can see: every array, the split and the normalisation.

        Valid after `setup`.
        """
        store, mean, std = self._ready()
        digest = hashlib.sha256(repr([sorted(store.meta["arrays"].items()), mean, std]).encode())
        digest.update(self.train_index.tobytes())
        digest.update(self.val_index.tobytes())
        return digest.hexdigest()

    def sizes(self) -> dict[str, int]:
        """Images in each split; valid after `setup`."""
        store, _, _ = self._ready()
        return {
            "train": len(self.train_index),
            "val": len(self.val_index),
            "test": len(store.arrays["test-labels"]),
        }

    def train_dataloader(self) -> ResidentLoader:
        """Shuffled, augmented batches of the images trained on."""
        order = EpochOrder(len(self.train_index), self.seed if self.seed is not None else 0)
        return self._loader("train", self.train_index, order=order, augmentations=self.augment)

    def val_dataloader(self) -> ResidentLoader | list[Any]:
        """Batches of the validation images, in their order; nothing where `val_size` is 0."""
        return self._loader("train", self.val_index) if len(self.val_index) else []

    def test_dataloader(self) -> ResidentLoader:
        """Batches of the test images, in their order."""
        return self._loader("test", None)

    def _loader(
        self,
        split: str,
        index: np.ndarray | None,
        order: EpochOrder | None = None,
        augmentations: Sequence[Augmentation] = (),
    ) -> ResidentLoader:
        store, mean, std = self._ready()
        device, shard = torch.device("cpu"), (0, 1)
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            shard = (self.trainer.global_rank, self.trainer.world_size)
        images, labels = store.arrays[f"{split}-images"], store.arrays[f"{split}-labels"]
        return ResidentLoader(
            _on_device(images if index is None else images[index], device).permute(0, 3, 1, 2).contiguous(),
            _on_device(labels if index is None else labels[index], device),
            batch_size=self.batch_size,
            mean=mean,
            std=std,
            order=order,
            augmentations=augmentations,
            shard=shard,
        )

    def _ready(self) -> tuple[Store, list[float], list[float]]:
        if self.store is None or self.mean is None or self.std is None:
            raise RuntimeError(f"{type(self).__name__}.setup() has not been called yet; call it first.")
        return self.store, self.mean, self.std


def stratified_holdout(labels: np.ndarray, size: int | float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a part from a data set, with each class's share of it as near to its share of the whole as can be.

    Args:
        labels: Shape (N,), integers.
        size: How many to cut: a count, or a fraction of N below 1.
        seed: Chooses which.

    Returns:
        The indices that stay and those that are cut, each sorted.

    Raises:
        UserError: Nothing would be left of a class, or more is asked for than there is.
    """
    count = round(size * len(labels)) if isinstance(size, float) else size
    if count == 0 and size > 0:
        raise UserError(
            f"data.val_size {size} of {len(labels)} images is not one image; give a larger one, or 0 for no validation."
        )
    if count >= len(labels):
        raise UserError(
            f"data.val_size asks for {count} of the {len(labels)} training images, so that none is left to train on; "
            "give a smaller count or a fraction."
        )
    # RandomState's stream is frozen for good (NEP 19), so a split does not change with NumPy's version.
    random = np.random.RandomState(seed)
    classes, totals = np.unique(labels, return_counts=True)
    exact = totals * (count / len(labels))
    taken = np.floor(exact).astype(int)
    # Largest remainders get the rest; ties go to the lower label.
    for extra in np.argsort(taken - exact, kind="stable")[: count - taken.sum()]:
        taken[extra] += 1
    cut = [random.permutation(np.flatnonzero(labels == c))[:n] for c, n in zip(classes, taken, strict=True)]
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[np.concatenate(cut)] = True
    for label, total, n in zip(classes, totals, taken, strict=True):
        if n == total and count:
            raise UserError(
                f"data.val_size would take all {total} training images of class {label}; give a smaller one."
            )
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def channel_statistics(images: np.ndarray, index: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of pixels in [0, 1], one a channel, exact: from counts of the 256 values.

    Args:
        images: Shape (N, H, W, C), uint8.
        index: Which images.
    """
    means, stds = [], []
    for channel in range(images.shape[-1]):
        counts = np.zeros(256, dtype=np.int64)
        for part in np.array_split(index, -(-len(index) // 4096)):  # so that a large data set is not copied whole
            counts += np.bincount(images[part, :, :, channel].ravel(), minlength=256)
        # In whole numbers up to the last division, for the same digits on every machine.
        number = int(counts.sum())
        total = sum(value * int(count) for value, count in enumerate(counts))
        squares = sum(value * value * int(count) for value, count in enumerate(counts))
        means.append(total / (255 * number))
        std = math.sqrt(number * squares - total * total) / (255 * number)
        stds.append(std if std > 0 else 1.0)  # a constant channel is left as it is, not divided by 0
    return means, stds


def _check(arrays: Mapping[str, np.ndarray], classes: int) -> None:
    """Refuses arrays that would fail in training, or not fail and mean something else."""
    for split in ("train", "test"):
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


def _on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A tensor of its own: a view of the read-only memory map could be written to, which crashes the process."""
    return torch.tensor(array, device=device)
