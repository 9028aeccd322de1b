"""The run's metrics as a file that only grows."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from visionbench.errors import UserError
from visionbench.files import replacing
from visionbench.models.base import Classifier
from visionbench.runs.folder import RunFolder
from visionbench.text import counted
from visionbench.training.callbacks.after_epoch import AfterEpoch


class MetricsFile(AfterEpoch):
    """Appends a row to `metrics.csv` at the end of each epoch; numbers are written so that they read back exactly.

    The callback comes before the checkpoints in the list of callbacks, so that each epoch with a checkpoint has its
    row. The file holds no times: equal runs write equal files.

    Args:
        path: Path of metrics.csv.
        epochs: Number of finished epochs of a resumed run, whose rows are kept; `None` for a new run.
        additional: Names of the metrics that are logged besides those of the model; a resumed run may ask for others
            than before.
    """

    def __init__(self, path: Path, epochs: int | None = None, additional: Sequence[str] = ()) -> None:
        super().__init__()
        self.path = path
        self.additional = additional
        self.rows: list[dict[str, Any]] = []
        self.columns: list[str] = []
        if epochs is not None:
            self._go_on_after(epochs)

    def _go_on_after(self, epochs: int) -> None:
        """Reads the rows of the epochs that a run goes on after, and takes out those that it will write again.

        Raises:
            UserError: There are fewer.
        """
        if epochs == 0:
            self.path.unlink(missing_ok=True)  # its header may be torn
            return
        run = RunFolder(self.path.parent)
        columns, rows = run.metrics_table()
        self.columns = list(dict.fromkeys([*columns, *self.additional]))
        self.rows += rows[:epochs]
        if len(self.rows) < epochs:
            raise UserError(
                f"{self.path} has {counted(len(self.rows), 'row')}, but {counted(epochs, 'epoch')} "
                f"{'is' if epochs == 1 else 'are'} finished; restore the file from a copy, or {run.how_to_repeat()}."
            )
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step, **self.epoch_metrics(trainer)}
        if not self.columns:
            declared = pl_module.metrics if isinstance(pl_module, Classifier) else {}
            fixed = ["epoch", "step", "lr", *(name for name in declared if not name.startswith("test/"))]
            fixed += self.additional
            self.columns = fixed + sorted(set(row) - set(fixed))
        # In the order of the file, as the rows that a resumed run reads from it: the order reaches run.json.
        row = {name: row[name] for name in self.columns if name in row} | row
        self.rows.append(row)
        if not trainer.is_global_zero:
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="", extrasaction="ignore")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            os.fsync(file.fileno())
