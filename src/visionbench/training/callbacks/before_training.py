"""How good the untrained model is."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from visionbench.files import write_json
from visionbench.models.base import Classifier
from visionbench.training.evaluations import FurtherEvaluations


class BeforeTraining(Callback):
    """Evaluates the model on the validation samples before its first step, and writes the metrics to a file.

    A resumed run is past its first step, and finds them in the file.

    Args:
        path: The file, as JSON.
        evaluations: Makes the evaluation.
    """

    def __init__(self, path: Path, evaluations: FurtherEvaluations) -> None:
        self.path = path
        self.evaluations = evaluations

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if trainer.global_step > 0 or trainer.current_epoch > 0 or not isinstance(pl_module, Classifier):
            return
        if not self.evaluations.data.sizes()["val"] or trainer.limit_val_batches == 0:
            return
        evaluation = self.evaluations.evaluate(trainer, pl_module, "before", epoch=0)
        pl_module.evaluated["before"] = evaluation.count
        if trainer.is_global_zero:
            write_json(self.path, evaluation.metrics)
