"""How long the training of each epoch takes."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Notes samples and seconds of the training in each epoch that this process trains, without its validation."""

    def __init__(self) -> None:
        self.epochs: list[tuple[int, int, float]] = []
        self.began = self.ended = 0.0
        self.samples = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self.began = self.ended = time.monotonic()
        self.samples = 0

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.samples += len(batch[1]) * trainer.world_size
        self.ended = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self.epochs.append((trainer.current_epoch, self.samples, self.ended - self.began))
