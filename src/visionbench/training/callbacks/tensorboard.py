"""TensorBoard's event files in the run's folder."""

from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger

from visionbench.training.lightning_private import open_writer


class RunTensorBoardLogger(TensorBoardLogger):
    """Lightning's logger without its `hparams.yaml`: the run's `config.yaml` says it all."""

    def save(self) -> None:  # noqa: D102
        if (writer := open_writer(self)) is not None:
            writer.flush()

    def log_hyperparams(self, params: Any, metrics: dict[str, Any] | None = None, step: int | None = None) -> None:
        """Writes the HPARAMS entry with its final metrics; without metrics nothing, since the tab would show none."""
        if metrics:
            super().log_hyperparams(params, metrics, step)

    def log_figure(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Puts a picture, (H, W, 3), uint8, under `figures/`."""
        self.experiment.add_image(f"figures/{name}", pixels, step, dataformats="HWC")

    def log_config(self, text: str) -> None:
        """Puts the configuration, in YAML, under the tab of texts."""
        self.experiment.add_text("config", f"```yaml\n{text}\n```", 0)
