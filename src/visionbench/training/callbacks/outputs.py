"""What a model gives for the samples of a validation or test, gathered once, and the metrics computed from it."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from visionbench.errors import UserError
from visionbench.evaluation.metrics import Evaluator
from visionbench.models.base import Classifier
from visionbench.training.evaluations import Outputs, dealt_back


class SplitOutputs(Callback):
    """Gathers the outputs of each validation and test, of all processes, and logs the metrics computed from them.

    The outputs stay on the device during the split and are copied from it once, at its end. Every process computes the
    metrics of the whole split, so that early stopping and plateau schedulers see the same values everywhere.

    Args:
        evaluator: Computes the metrics to log.
        keep: Whether the outputs stay in memory until `take` hands them out; otherwise they are dropped with the
            metrics computed.
    """

    def __init__(self, evaluator: Evaluator, keep: bool) -> None:
        self.evaluator = evaluator
        self.keep = keep
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []
        self._outputs: Outputs | None = None

    def take(self) -> Outputs | None:
        """Hands out the outputs of the split that ended last, and forgets them; `None` where there are none."""
        outputs, self._outputs = self._outputs, None
        return outputs

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._batches, self._outputs = [], None

    def on_validation_batch_end(  # noqa: D102
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # A user's own step may give nothing, or something else.
        if isinstance(pl_module, Classifier) and isinstance(outputs, Tensor) and len(outputs) == len(batch[1]):
            # A user's own layers may end in half precision, which numpy does not know in all its kinds.
            probabilities = pl_module.probabilities(outputs).float()
            self._batches.append((probabilities, pl_module.predict(outputs), batch[1]))
        elif self.evaluator.specs:
            step = "test_step" if trainer.testing else "validation_step"
            raise UserError(
                f"The metrics {', '.join(self.evaluator.specs)} need the outputs of the model, but {step} of "
                f"{type(pl_module).__name__} does not return them; return them, or remove the metrics."
            )

    on_test_start = on_validation_start
    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._end(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._end(trainer, pl_module, "test")

    def _end(self, trainer: Trainer, model: LightningModule, stage: str) -> None:
        if not self._batches:
            return
        parts = [torch.cat(part) for part in zip(*self._batches, strict=True)]
        self._batches = []
        if trainer.world_size > 1:
            parts = [dealt_back(trainer, part) for part in parts]
        outputs = Outputs(*(part.cpu() for part in parts))
        if self.keep:
            self._outputs = outputs
        if not self.evaluator.specs or trainer.sanity_checking:  # of a sanity check, nothing is logged
            return
        try:
            values = self.evaluator.compute(outputs.labels, outputs.predicted, outputs.probabilities)
        except ValueError as error:
            raise UserError(
                f"The metrics cannot be computed from what {type(model).__name__} gives for the {stage} split: {error}"
            ) from error
        for name, value in values.items():
            model.log(f"{stage}/{name}", torch.tensor(value, dtype=torch.float64))
