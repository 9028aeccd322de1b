"""Runs of a search that end early, since they are worse than the median of those before them."""

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from visionbench.models.optimization import Mode


class EndBelowMedian(Callback):
    """Ends a run whose best value so far is worse than a threshold: the median of earlier runs after the same epoch.

    A variant of the median stopping rule of Golovin et al., "Google Vizier" (KDD 2017), which takes running averages.
    The thresholds are part of the run's configuration, so that the run is the same whenever it is trained.

    Args:
        metric: Metric of the validation.
        mode: Direction of its improvement.
        thresholds: Median after each epoch; null where no run is ended.
        digits: Number of significant digits of the thresholds, to which a value is rounded, so that an equal one is
            not worse.
    """

    def __init__(self, metric: str, mode: Mode, thresholds: list[float | None], digits: int) -> None:
        self.metric = metric
        self.mode = mode
        self.thresholds = thresholds
        self.digits = digits
        self.best = -math.inf if mode == "max" else math.inf

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: D102
        self.best = state_dict["best"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compares the best value so far with the median, and ends the run below it."""
        if trainer.sanity_checking or self.metric not in trainer.callback_metrics:
            return
        value = float(f"{float(trainer.callback_metrics[self.metric]):.{self.digits}g}")
        self.best = max(self.best, value) if self.mode == "max" else min(self.best, value)
        epoch = trainer.current_epoch
        threshold = self.thresholds[epoch] if epoch < len(self.thresholds) else None
        if threshold is not None and (self.best < threshold if self.mode == "max" else self.best > threshold):
            trainer.should_stop = True
