"""Each validated epoch, as the guards see it."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from visionbench.data.base import VisionDataModule
from visionbench.guards import EpochContext
from visionbench.models.base import Classifier
from visionbench.training.trial import silent_units


class EndOfEpoch(Callback):
    """Counts the predictions of each validation, and shows them to a function.

    The counts stay on the device until the end of the validation. Silent units are looked for after the epochs 1, 2, 4,
    8 and so on, so that the cost of a longer run does not grow with its length.

    Args:
        data: Data module of the run.
        ask: Function of what is known of an epoch.
    """

    def __init__(self, data: VisionDataModule, ask: Callable[[EpochContext], None]) -> None:
        self.data = data
        self.ask = ask
        self.counts: Tensor | None = None
        self.correct: Tensor

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self.counts = torch.zeros(2, self.data.num_classes, dtype=torch.int64, device=pl_module.device)
        self.correct = torch.zeros((), dtype=torch.int64, device=pl_module.device)

    def on_validation_batch_end(  # noqa: D102
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # A user's own step may give nothing, or something else.
        if self.counts is None or not isinstance(pl_module, Classifier) or not isinstance(outputs, Tensor):
            return
        predicted, labels = pl_module.predict(outputs), batch[1]
        self.correct += (predicted == labels).sum()
        for counts, classes in zip(self.counts, (predicted, labels), strict=True):
            counts.scatter_add_(0, classes, torch.ones_like(classes))  # unlike bincount, without waiting for the device

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if self.counts is None or trainer.sanity_checking or not isinstance(pl_module, Classifier):
            return
        predicted, labels = trainer.strategy.reduce(self.counts, reduce_op="sum").tolist()
        correct = int(trainer.strategy.reduce(self.correct, reduce_op="sum"))
        epoch = trainer.current_epoch + 1
        silent = silent_units(trainer, pl_module, self.data) if epoch & (epoch - 1) == 0 else []
        if sum(labels):
            self.ask(EpochContext(self.data, epoch, predicted, labels, correct, silent))
