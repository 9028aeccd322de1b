"""The run's metrics as a file that only grows."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from visionbench.callbacks.after_epoch import AfterEpoch
from visionbench.models.base import Classifier


class MetricsFile(AfterEpoch):
    """Appends a row to `metrics.csv` at the end of each epoch; numbers are written so that they read back exactly.

    It stands before the checkpoints in the list of callbacks, so that an epoch that can be resumed from has its row.
    There are no times in the file: two equal runs write equal files.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self.columns: list[str] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step, **self.epoch_metrics(trainer)}
        self.rows.append(row)
        if not trainer.is_global_zero:
            return
        if not self.columns:
            declared = pl_module.metrics if isinstance(pl_module, Classifier) else {}
            fixed = ["epoch", "step", "lr", *(name for name in declared if not name.startswith("test/"))]
            self.columns = fixed + sorted(set(row) - set(fixed))
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="", extrasaction="ignore")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)
