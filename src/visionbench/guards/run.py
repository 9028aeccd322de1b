"""Guards of the training: asked after the first batch, and at the end of training."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from visionbench.data.base import VisionDataModule
from visionbench.guards.base import Finding, Guard
from visionbench.models.base import Classifier


@dataclass(frozen=True)
class FirstBatchContext:
    """The first training step of this process.

    Attributes:
        model: Model after the step.
        data: Data module.
        batch: Images and labels of the step.
        losses: Minimized losses, one for each batch of the step; the mean over the processes.
    """

    model: Classifier
    data: VisionDataModule
    batch: Any
    losses: Tensor


@dataclass(frozen=True)
class EndContext:
    """A run after training, before its test.

    Attributes:
        rows: Metrics of each epoch.
        objective: Metric that chooses the epoch; `None` where the last epoch is the result.
    """

    rows: Sequence[Mapping[str, Any]]
    objective: str | None


class NonFiniteLoss(Guard):
    """Trains on although the loss of the first batch is infinite or not a number."""

    name = "non_finite_loss"
    stage = "first batch"

    def check(self, context: FirstBatchContext) -> Iterator[Finding]:  # noqa: D102
        if not context.losses.isfinite().all():
            loss = context.losses[~context.losses.isfinite()][0].item()
            yield Finding(
                "refusal",
                f"The loss of the first batch is {loss}, expected a finite number; look for values that are not finite "
                "in the images or in the outputs of the model.",
            )


class NothingTrained(Guard):
    """A run trains at least one epoch."""

    stage = "end"

    def check(self, context: EndContext) -> Iterator[Finding]:  # noqa: D102
        if not context.rows:
            yield Finding(
                "refusal",
                "Nothing was trained: trainer.max_epochs, max_steps, max_time or limit_train_batches leave no epoch; "
                "raise them.",
            )


class NothingValidated(Guard):
    """Reports that no epoch could be chosen."""

    stage = "end"

    def check(self, context: EndContext) -> Iterator[Finding]:  # noqa: D102
        objective = context.objective
        if context.rows and objective is not None and not any(objective in row for row in context.rows):
            yield Finding(
                "warning", f"No epoch was validated, so that there is no {objective} and the last epoch is the result."
            )
