"""What the model says of each validation and test sample, kept in the run's folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F

from visionbench.data.base import VisionDataModule
from visionbench.evaluation.predictions import Predictions, save_predictions
from visionbench.models.base import Classifier
from visionbench.training.callbacks.after_epoch import AfterEpoch
from visionbench.training.callbacks.checkpoints import RunCheckpoints


class KeptPredictions(AfterEpoch):
    """Keeps the predictions of the test, and those of the best epoch's validation, as `predictions/` in a run.

    Each is a CSV file with a row for each sample, in the split's order, and an array of the probabilities of each
    class, shape (N, classes), float32. They are gathered on the device, and copied from it once at the end.

    Args:
        folder: For the files.
        data: The data set.
        checkpoints: Tells which epoch is the best; it has to stand before this in the list of callbacks.
        after_validation: Called with the predictions of each validation.
    """

    def __init__(
        self,
        folder: Path,
        data: VisionDataModule,
        checkpoints: RunCheckpoints | None,
        after_validation: Callable[[Trainer, Predictions], object] | None = None,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.data = data
        self.checkpoints = checkpoints
        self.after_validation = after_validation
        self.kept: dict[str, Predictions] = {}
        self.batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self.batches = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self.batches = []

    def on_validation_batch_end(  # noqa: D102
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._add(pl_module, outputs, batch)

    def on_test_batch_end(  # noqa: D102
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._add(pl_module, outputs, batch)

    def _add(self, model: LightningModule, outputs: Any, batch: Any) -> None:
        # A user's own step may give nothing, or something else.
        if isinstance(model, Classifier) and isinstance(outputs, Tensor) and len(outputs) == len(batch[1]):
            self.batches.append((model.probabilities(outputs), model.predict(outputs), batch[1]))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        super().on_validation_end(trainer, pl_module)
        if (predictions := self._gathered(trainer, "val")) is not None:
            self.kept["val"] = predictions
            if self.after_validation is not None and trainer.is_global_zero:
                self.after_validation(trainer, predictions)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        best = self.checkpoints is not None and self.checkpoints.best_epoch == trainer.current_epoch
        if best and self.validated and "val" in self.kept and trainer.is_global_zero:
            save_predictions(self.folder, self.kept["val"], self.data.class_names)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        predictions = self._gathered(trainer, "test")
        if predictions is not None and trainer.is_global_zero:
            self.kept["test"] = predictions
            save_predictions(self.folder, predictions, self.data.class_names)

    def _gathered(self, trainer: Trainer, stage: str) -> Predictions | None:
        """The predictions of all processes, in the split's order."""
        if not self.batches:
            return None
        parts = [torch.cat(part) for part in zip(*self.batches, strict=True)]
        self.batches = []
        if trainer.world_size > 1:
            parts = [_dealt_back(trainer, part) for part in parts]
        probabilities, predicted, labels = (part.cpu().numpy() for part in parts)
        split = self.data.splits[stage]
        names = [self.data.sample_name(split.part, int(place)) for place in split.index[: len(labels)]]
        return Predictions(stage, probabilities, predicted, labels, names)


def _dealt_back(trainer: Trainer, part: Tensor) -> Tensor:
    """Puts together what was dealt out in turn: the first of each process, then the second, and so on."""
    sizes = trainer.strategy.all_gather(torch.tensor(len(part), device=part.device)).tolist()
    padded = F.pad(part, [0] * (2 * part.ndim - 1) + [max(sizes) - len(part)])
    gathered = trainer.strategy.all_gather(padded)  # (processes, N, ...)
    return gathered.transpose(0, 1).reshape(-1, *part.shape[1:])[: sum(sizes)]
