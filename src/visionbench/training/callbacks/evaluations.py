"""Further evaluations after each epoch."""

from collections.abc import Sequence

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from visionbench.models.base import Classifier
from visionbench.training.evaluations import FurtherEvaluations


class EvaluatedEpochs(Callback):
    """Makes further evaluations at the end of each epoch, and logs them under their names.

    Args:
        evaluations: Makes them.
        names: Names of the evaluations.
    """

    def __init__(self, evaluations: FurtherEvaluations, names: Sequence[str]) -> None:
        self.evaluations = evaluations
        self.names = names

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if not isinstance(pl_module, Classifier):
            return
        for name in self.names:
            evaluation = self.evaluations.evaluate(trainer, pl_module, name, trainer.current_epoch)
            pl_module.evaluated[name] = evaluation.count
            for metric, value in evaluation.metrics.items():
                pl_module.log(metric, torch.tensor(value, dtype=torch.float64))
