"""What callbacks learn of training steps."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

# Name of the earlier steps of a round among the outputs of its last step.
EARLIER = "earlier"


@dataclass(slots=True)
class Earlier:
    """The steps of a round before its last one, whose hooks are called for the whole round.

    Attributes:
        losses: Minimized loss of each batch, without a graph.
        samples: Number of samples.
    """

    losses: list[Tensor] = field(default_factory=list)
    samples: int = 0

    def add(self, loss: Tensor, samples: int) -> None:
        """Adds a batch."""
        self.losses.append(loss)
        self.samples += samples


@dataclass(slots=True)
class Steps:
    """The training steps of one round of hooks.

    Attributes:
        losses: Minimized loss of each batch, shape (k,), on the training device; not a number for a skipped batch.
        samples: Number of samples that this process has seen in these steps.
        batches: Number of batches, k.
    """

    losses: Tensor
    samples: int
    batches: int


class StepwiseCallback(Callback):
    """A callback that follows training steps through `on_steps`, however many steps a round of hooks has."""

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        global _newest
        loss = outputs["loss"] if outputs else None
        known, steps = _newest
        if steps is None or loss is None or loss is not known:  # Lightning makes a new tensor for each step
            steps = steps_of(pl_module, outputs, batch)
            _newest = (loss, steps)
        self.on_steps(trainer, pl_module, steps)

    def on_steps(self, trainer: Trainer, model: LightningModule, steps: Steps) -> None:
        """Called after each round of steps, before any validation that follows it.

        Args:
            trainer: Trainer of the run.
            model: Model in training.
            steps: Losses and counts of the steps; reading a loss makes the host wait for the device.
        """

    def steps_until_due(self, trainer: Trainer) -> int | None:
        """The number of optimizer steps after which the callback has to be called at the latest.

        Args:
            trainer: Trainer of the run.

        Returns:
            The number; 0 for a call after the next batch; `None` where it need not be called.
        """
        return None


def steps_of(model: LightningModule, outputs: Any, batch: Any) -> Steps:
    """Makes the record of one round of steps, without waiting for the device.

    Args:
        model: Model in training.
        outputs: Outputs of the step as Lightning hands them to callbacks; empty for a skipped batch.
        batch: Images and labels of the last step.
    """
    if not outputs:
        return Steps(torch.full((1,), math.nan, device=model.device), len(batch[1]), 1)
    loss: Tensor = outputs["loss"]  # without a graph, as Lightning hands it on
    earlier: Earlier | None = outputs.get(EARLIER)
    if earlier is None:
        return Steps(loss.view(1), len(batch[1]), 1)
    losses = torch.stack([*earlier.losses, loss])
    return Steps(losses, earlier.samples + len(batch[1]), len(losses))


# The loss of the newest round, which identifies it, and its record. All callbacks of one round share the record:
# making a view of a tensor takes longer than what a callback does with it.
_newest: tuple[Tensor | None, Steps | None] = (None, None)
