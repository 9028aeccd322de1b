"""Rows of features: what all data sets of rows share, and those that a notebook already holds."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from visionbench.data.arrays import InMemory, as_labels
from visionbench.data.augment import Augmentation
from visionbench.data.base import Residency, VisionDataModule
from visionbench.data.loader import EpochOrder, ResidentLoader, RowLoader
from visionbench.data.store import Store
from visionbench.data.telling import telling_columns
from visionbench.errors import UserError


class EncodedRows(VisionDataModule):
    """A data set of rows, which are encoded as features once and held on the device.

    A subclass fills `encoded` in `fit_statistics`.
    """

    item: ClassVar[str] = "row"
    encoded: dict[str, np.ndarray]
    """Encoded rows of each split, shape (N, F), float32; filled by `setup`."""

    @property
    def shape_in_words(self) -> str:  # noqa: D102
        return f"{self.input_shape[0]} features"

    def telling_columns(self) -> list[str]:  # noqa: D102
        store, train = self._ready()[0], self.splits["train"]
        rows = store.arrays[f"{train.part}-images"][train.index]
        labels = store.arrays[f"{train.part}-labels"][train.index]
        return [self.column_name(number) for number in telling_columns(rows.T, labels)]

    def column_name(self, number: int) -> str:
        """Name of a column of the rows, for messages."""
        return str(number)

    def residency(self, device: torch.device, processes: int = 1) -> Residency:
        """The encoded rows are always held on the device."""
        return Residency(True, 0, "")

    def _loader(
        self, stage: str, order: EpochOrder | None = None, augmentations: Sequence[Augmentation] = ()
    ) -> ResidentLoader:
        if stage == "test":
            self.check_sealed()
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
            batch_norm=self.trains_batch_norm and stage == "train",
        )

    def _training_images_in(self, loader: Any) -> int:
        """Number of rows of a loader that is that of the training split; 0 otherwise, since rows may well be equal."""
        rows = torch.from_numpy(self.encoded["train"])
        given = loader.images if isinstance(loader, ResidentLoader) else None
        return len(rows) if isinstance(given, Tensor) and torch.equal(given.cpu(), rows) else 0

    def _some_samples(self, places: np.ndarray) -> ResidentLoader:
        store, _, _ = self._ready()
        split, rows = self.splits["train"], places.round().astype(np.int64)
        return RowLoader(
            torch.tensor(self.encoded["train"][rows]),
            torch.tensor(store.arrays[f"{split.part}-labels"][split.index[rows]]),
            batch_size=len(rows),
        )


class Rows(EncodedRows, InMemory):
    """Rows of numbers and labels from Python: what other libraries call a feature matrix.

    Only Python can create this data set. The array is copied, so that later changes of it do not reach a run. No store
    is written. Models that take rows, such as MLP, take it; models for images refuse it.

    - Rows: finite numbers, shape (N, F). Each feature is standardized with the mean and the deviation of the training
      split; a feature that is constant there becomes 0 in all splits, since its weights cannot be trained.
    - Classes: the labels 0 to K-1.
    - Split: cut by `split_seed`.
    - Source: the caller's array. License: that of the rows.

    Args:
        rows: Rows to train, validate and test on.
        labels: Labels of the rows: N integers from 0 to K-1.
        class_names: Names of the K classes, in the order of the labels; by default "0", "1" and so on.
        scaling: Scaling of features: standard, to mean 0 and deviation 1; or none.
    """

    title = "Rows"
    specific_arguments: ClassVar[frozenset[str]] = VisionDataModule.specific_arguments | {
        *("rows", "labels", "class_names", "scaling")
    }

    def __init__(
        self,
        rows: Any = None,
        labels: Any = None,
        class_names: Sequence[str] | None = None,
        scaling: Literal["standard", "none"] = "standard",
        **kwargs: Any,
    ) -> None:
        if scaling not in ("standard", "none"):
            raise UserError(f"data.scaling is {scaling}, expected standard or none.")
        self.scaling = scaling
        self._arrays = {"train-images": _as_rows(rows)}
        self._arrays["train-labels"] = as_labels(labels, "labels", len(self._arrays["train-images"]), "Rows", "row")
        self._class_names = self._named_classes(class_names)
        # Arguments for pixels are not arguments of rows.
        super().__init__(augment=None, statistics="train", mean=None, std=None, **kwargs)
        self.encoded = {}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Number of features of a row: (F,)."""
        return (self._arrays["train-images"].shape[1],)

    @property
    def stored_shape(self) -> tuple[int, ...]:  # noqa: D102
        return self.input_shape

    def fit_statistics(self, store: Store) -> None:
        """Fits mean and deviation of each feature on the training split and standardizes all splits."""
        rows = store.arrays["train-images"]
        mean, std = np.zeros(rows.shape[1]), np.ones(rows.shape[1])
        if self.scaling == "standard":
            training = rows[self.train_index]
            with np.errstate(over="ignore", invalid="ignore"):  # `standardized` refuses what this gives
                mean, std = training.mean(axis=0), training.std(axis=0)
            # By its own computation it is not exactly 0, since the mean is rounded.
            std[training.min(axis=0) == training.max(axis=0)] = 0.0
        self.mean, self.std = mean.tolist(), std.tolist()
        self.encoded = {stage: standardized(rows[split.index], mean, std) for stage, split in self.splits.items()}


def standardized(rows: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Rows as the model takes them, float32.

    Args:
        rows: Rows, shape (N, F), float64.
        mean: Mean of each feature, which is subtracted.
        std: Deviation of each feature, by which the difference is divided; a feature whose deviation is 0 becomes 0.

    Raises:
        UserError: A number is too large for float32, or its square for float64.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        encoded: np.ndarray = np.where(std == 0, 0.0, (rows - mean) / np.where(std == 0, 1.0, std)).astype(np.float32)
    finite = np.isfinite(encoded) & np.isfinite(std)
    if not finite.all():
        row, feature = np.argwhere(~finite)[0]
        raise UserError(
            f"Feature {feature} of row {row} is {rows[row, feature]:.6g}, which cannot be standardized, expected "
            "numbers whose squares a computer can hold; scale the feature, or leave it out."
        )
    return encoded


def _as_rows(rows: Any) -> np.ndarray:
    """A copy of the rows, shape (N, F), float64, that cannot be written to."""
    if not isinstance(rows, np.ndarray | torch.Tensor):
        raise UserError(
            f"The rows of Rows are {'missing' if rows is None else type(rows).__name__}, expected a NumPy array or a "
            "tensor, which only Python can pass, as Rows(rows, labels); on the command line, use --data Table."
        )
    values = rows.detach().cpu().numpy() if isinstance(rows, torch.Tensor) else rows
    if values.dtype.kind not in "biuf" or values.ndim != 2 or 0 in values.shape:
        raise UserError(
            f"The rows of Rows are {values.dtype} of shape {values.shape}, expected numbers of shape (N, F) without an "
            "empty axis."
        )
    copied: np.ndarray = np.array(values, dtype=np.float64, order="C")
    if not np.isfinite(copied).all():
        raise UserError("The rows of Rows hold a number that is not finite; replace it, or leave its row out.")
    copied.flags.writeable = False
    return copied
