"""How long the training of each epoch takes."""

import time

from lightning.pytorch import LightningModule, Trainer

from visionbench.training.steps import Steps, StepwiseCallback


class Throughput(StepwiseCallback):
    """Notes samples and seconds of the training in each epoch that this process trains, without its validation."""

    def __init__(self) -> None:
        self.epochs: list[tuple[int, int, float]] = []
        self.began = self.ended = 0.0
        self.samples = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self.began = self.ended = time.monotonic()
        self.samples = 0

    def on_steps(self, trainer: Trainer, model: LightningModule, steps: Steps) -> None:  # noqa: D102
        self.samples += steps.samples
        self.ended = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self.epochs.append((trainer.current_epoch, self.samples * trainer.world_size, self.ended - self.began))
