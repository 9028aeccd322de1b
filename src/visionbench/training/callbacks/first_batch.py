"""The first training step, as the guards see it."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from visionbench.training.steps import StepwiseCallback, steps_of


class FirstBatch(StepwiseCallback):
    """Shows the first training step of a session to a function; the host waits for the device this once.

    Args:
        ask: Function of the batch and of the losses of the step.
    """

    def __init__(self, ask: Callable[[Any, Tensor], None]) -> None:
        self.ask: Callable[[Any, Tensor], None] | None = ask

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.ask is None or not outputs:  # a skipped batch has no loss
            return
        ask, self.ask = self.ask, None
        # The mean over the processes, so that all of them end where one of them is refused.
        losses = trainer.strategy.reduce(steps_of(pl_module, outputs, batch).losses.clone(), reduce_op="mean")
        ask(batch, losses)

    def steps_until_due(self, trainer: Trainer) -> int | None:  # noqa: D102
        return 0 if self.ask is not None else None
