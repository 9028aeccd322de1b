"""The loss of every step, as a file that only grows."""

import os
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from visionbench.errors import UserError
from visionbench.runs.folder import DTYPE, RunFolder
from visionbench.training.steps import Steps, StepwiseCallback


class StepLosses(StepwiseCallback):
    """Writes the minimized loss of each batch to a file; the losses stay on the device until the end of the epoch.

    The first loss that differs shows the step at which two runs part.

    Args:
        path: Path of step-losses.bin.
        batches: Number of finished batches of a resumed run, whose losses are kept; `None` for a new run.

    Raises:
        UserError: The file has fewer losses.
    """

    def __init__(self, path: Path, batches: int | None = None) -> None:
        self.path = path
        self.losses: list[Tensor] = []
        if batches is None:
            return
        written = path.stat().st_size // DTYPE.itemsize if path.exists() else 0
        if written < batches:
            raise UserError(
                f"{path} has {written} losses, but {batches} batches are done; restore the file from a copy, or "
                f"{RunFolder(path.parent).how_to_repeat()}."
            )
        if path.exists():
            os.truncate(path, batches * DTYPE.itemsize)

    def on_steps(self, trainer: Trainer, model: LightningModule, steps: Steps) -> None:  # noqa: D102
        if trainer.is_global_zero:
            self.losses.append(steps.losses)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self.write()

    def write(self) -> None:
        """Appends what has been gathered."""
        if not self.losses:
            return
        values = torch.cat(self.losses).float().cpu().numpy().astype(DTYPE)
        self.losses = []
        with self.path.open("ab") as file:
            file.write(values.tobytes())
            file.flush()
            os.fsync(file.fileno())
