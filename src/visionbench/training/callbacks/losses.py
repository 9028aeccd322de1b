"""The loss of every step, as a file that only grows."""

import os
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from visionbench.errors import UserError
from visionbench.runs.folder import DTYPE
from visionbench.training.steps import Steps, StepwiseCallback


class StepLosses(StepwiseCallback):
    """Writes what was minimised in each batch to a file; the losses stay on the device until an epoch's end.

    Two runs are told apart by the first of them that differs.

    Args:
        path: The file.
        batches: That are done when a run is gone on with: their losses stay; `None` for a new run.

    Raises:
        UserError: The file has fewer.
    """

    def __init__(self, path: Path, batches: int | None = None) -> None:
        self.path = path
        self.losses: list[Tensor] = []
        if batches is None:
            return
        written = path.stat().st_size // DTYPE.itemsize if path.exists() else 0
        if written < batches:
            raise UserError(
                f"{path} has {written} losses, but {batches} batches are done; restore the file as the run "
                "wrote it, or start a new run."
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
