"""What the model says of each validation and test sample, kept in the run's folder."""

from collections.abc import Callable
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer

from visionbench.data.base import VisionDataModule
from visionbench.evaluation.predictions import Predictions, remove_predictions, save_predictions
from visionbench.training.callbacks.after_epoch import AfterEpoch
from visionbench.training.callbacks.checkpoints import RunCheckpoints
from visionbench.training.callbacks.outputs import SplitOutputs


class KeptPredictions(AfterEpoch):
    """Keeps the predictions of the test, and those of the result's validation, as `predictions/` in a run.

    Each is a CSV file with a row for each sample, in the split's order, and an array of the probabilities of each
    class, shape (N, classes), float32.

    Args:
        folder: For the files.
        data: Data module of the run.
        outputs: Gathers what the predictions are made of.
        checkpoints: Tells which epoch is the best; it has to stand before this in the list of callbacks.
        last: Whether the last epoch is the result, whatever the best one is.
        after_validation: Called with the predictions of each validation.
    """

    def __init__(
        self,
        folder: Path,
        data: VisionDataModule,
        outputs: SplitOutputs,
        checkpoints: RunCheckpoints | None,
        last: bool,
        after_validation: Callable[[Trainer, Predictions], object] | None = None,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.data = data
        self.outputs = outputs
        self.checkpoints = checkpoints
        self.last = last or checkpoints is None  # without checkpoints the weights are those of the last epoch
        self.after_validation = after_validation
        self.kept: dict[str, Predictions] = {}
        self.pending: Predictions | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        super().on_validation_end(trainer, pl_module)
        if (predictions := self._take("val")) is not None:
            self.kept["val"] = predictions
            if self.after_validation is not None and trainer.is_global_zero:
                self.after_validation(trainer, predictions)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if not trainer.is_global_zero:
            return
        if self.last:
            remove_predictions(self.folder, "val")  # those of an earlier end, which the run has gone past
            if not self.validated:
                self.kept.pop("val", None)
            self.pending = self.kept.get("val")
            return
        best = self.checkpoints is not None and self.checkpoints.best_epoch == trainer.current_epoch
        if best and self.validated and "val" in self.kept:
            save_predictions(self.folder, self.kept["val"], self.data.class_names)

    def write_last(self) -> None:
        """Writes those of the last epoch, if training has ended; called before the checkpoint that says so."""
        if self.pending is not None and (self.checkpoints is None or self.checkpoints.finished):
            save_predictions(self.folder, self.pending, self.data.class_names)
            self.pending = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self.write_last()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        predictions = self._take("test")
        if predictions is not None and trainer.is_global_zero:
            self.kept["test"] = predictions
            save_predictions(self.folder, predictions, self.data.class_names)

    def _take(self, stage: str) -> Predictions | None:
        outputs = self.outputs.take()
        if outputs is None:
            return None
        return outputs.of_split(stage, self.data.sample_names(stage, len(outputs.labels)))
