"""The end of a run whose losses or weights are no longer finite."""

from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from visionbench.data.base import VisionDataModule
from visionbench.data.loader import ResidentLoader
from visionbench.training.steps import Steps, StepwiseCallback

# Number of samples that a line names.
NAMED = 3


@dataclass(frozen=True)
class Divergence:
    """What was not finite first, and where.

    Attributes:
        what: Text of what was not finite: the loss with its value, or the weights.
        epoch: Number of the epoch, from 0.
        batch: Number of the batch in the epoch, from 0.
        step: Number of optimizer steps up to this batch.
        samples: Names of the samples of the batch; empty where the loader is a user's own.
    """

    what: str
    epoch: int
    batch: int
    step: int
    samples: list[str]

    def __str__(self) -> str:
        more = f" and {len(self.samples) - NAMED} more" if len(self.samples) > NAMED else ""
        samples = f", on {', '.join(self.samples[:NAMED])}{more}" if self.samples else ""
        return f"{self.what} in epoch {self.epoch + 1}, batch {self.batch + 1} (step {self.step}){samples}"


class Diverged(Exception):
    """A run has a loss or weights that are not finite.

    Args:
        divergence: What was not finite first, and where.
    """

    def __init__(self, divergence: Divergence) -> None:
        super().__init__(str(divergence))
        self.divergence = divergence


class FiniteLosses(StepwiseCallback):
    """Ends a run at the end of the epoch in which a loss was infinite or not a number, or before the next checkpoint.

    The losses stay on the device until then. No checkpoint is written after such a loss, nor with such weights, so that
    the checkpoints of the run stay finite.

    Args:
        data: Data module, which gives the names of the samples for the message.
    """

    def __init__(self, data: VisionDataModule) -> None:
        self.data = data
        self.losses: list[Tensor] = []
        self.batches: list[int] = []
        self.last = 0  # number of the newest batch in its epoch
        self.trainer: Trainer | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self.trainer = trainer

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if outputs:  # a skipped batch has no loss
            self.last = batch_idx
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_steps(self, trainer: Trainer, model: LightningModule, steps: Steps) -> None:  # noqa: D102
        self.batches += range(self.last + 1 - steps.batches, self.last + 1)
        self.losses.append(steps.losses)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self.check()

    def check(self) -> None:
        """Looks at the losses since the last call, and at the weights.

        Raises:
            Diverged: One of them is not finite.
        """
        trainer = self.trainer
        if trainer is None or not self.losses:
            return
        losses, batches = torch.cat(self.losses), self.batches
        self.losses, self.batches = [], []
        parameters = [parameter.detach() for parameter in trainer.lightning_module.parameters()]
        good = [losses.isfinite().all(), *(p.isfinite().all() for p in parameters if p.is_floating_point())]
        diverged = not bool(torch.stack(good).all())
        if trainer.world_size > 1:
            diverged = trainer.strategy.reduce_boolean_decision(diverged, all=False)
        if not diverged:
            return
        wrong = (~losses.isfinite()).nonzero()
        # Where only the weights are wrong, the last step has made them so.
        place = int(wrong[0]) if len(wrong) else len(losses) - 1
        batch = batches[min(place, len(batches) - 1)]
        what = f"loss {losses[place].item()}" if len(wrong) else "weights not finite"
        after = batches[-1] - batch
        step = trainer.global_step - after // trainer.accumulate_grad_batches
        raise Diverged(Divergence(what, trainer.current_epoch, batch, step, self._samples(trainer, batch)))

    def _samples(self, trainer: Trainer, batch: int) -> list[str]:
        loader = trainer.train_dataloader
        if not isinstance(loader, ResidentLoader):
            return []
        split = self.data.splits["train"]
        return [self.data.sample_name(split.part, int(split.index[place])) for place in loader.places(batch)]
