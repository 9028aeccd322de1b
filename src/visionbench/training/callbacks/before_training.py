"""How good the untrained model is."""

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from visionbench.data.base import VisionDataModule
from visionbench.files import write_json
from visionbench.models.base import Classifier, Totals, in_evaluation


class BeforeTraining(Callback):
    """Evaluates the model on the validation samples before its first step, and writes loss and accuracy to a file.

    No random number is drawn and no weight is changed, so that the run is the same with it.

    Args:
        path: The file, as JSON.
        data: Data module of the run.
    """

    def __init__(self, path: Path, data: VisionDataModule) -> None:
        self.path = path
        self.data = data

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if trainer.global_step > 0 or trainer.current_epoch > 0 or not isinstance(pl_module, Classifier):
            return
        if not self.data.sizes()["val"]:
            return
        totals = Totals(pl_module.device)
        with in_evaluation(pl_module), torch.no_grad(), trainer.strategy.precision_plugin.forward_context():
            for images, labels in self.data.val_dataloader():
                outputs = pl_module(images.to(pl_module.device))
                labels = labels.to(pl_module.device)
                totals.add(pl_module.loss(outputs, labels), pl_module.predict(outputs), labels)
        loss, correct, count = (
            float(trainer.strategy.reduce(value, reduce_op="sum"))
            for value in (totals.loss, totals.correct, torch.tensor(totals.count, device=pl_module.device))
        )
        if trainer.is_global_zero:
            self.path.parent.mkdir(exist_ok=True)
            write_json(self.path, {"before/val/loss": loss / count, "before/val/acc": correct / count})
