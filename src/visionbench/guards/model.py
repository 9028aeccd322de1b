"""Guards of the model: asked when the model is built, before the data are prepared."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from visionbench.data.augment import Mixing
from visionbench.data.base import VisionDataModule
from visionbench.guards.base import Finding, Guard
from visionbench.models.base import Classifier
from visionbench.models.schedulers import LONG_RUN
from visionbench.text import one_line


@dataclass(frozen=True)
class ModelContext:
    """The model of a run and its data set.

    Attributes:
        model: Model with its starting weights; a resumed run reads them later.
        data: Data module, which may not be prepared yet.
    """

    model: Classifier
    data: VisionDataModule


class OptimizerSettings(Guard):
    """Builds optimizer and scheduler once as a trial, so that a refused setting is reported before the run starts."""

    stage = "model"

    def check(self, context: ModelContext) -> Iterator[Finding]:  # noqa: D102
        model = context.model
        try:
            optimizer = model.make_optimizer([torch.nn.Parameter(torch.zeros(1))])
            if model.make_lr_scheduler is not None:
                model.build_lr_scheduler(optimizer, LONG_RUN)
        except (ValueError, TypeError, ZeroDivisionError, OverflowError, RuntimeError) as error:
            yield Finding("refusal", f"The optimizer or its scheduler does not take these settings: {one_line(error)}")


class SharesOfClasses(Guard):
    """Mixed images need a loss that takes shares of classes as labels."""

    stage = "model"

    def check(self, context: ModelContext) -> Iterator[Finding]:  # noqa: D102
        model = context.model
        mixing = [type(entry).__name__ for entry in context.data.augment if isinstance(entry, Mixing)]
        if mixing and not model.loss_function.takes_shares:
            yield Finding(
                "refusal",
                f"model.loss is {model.loss_name}, which takes one class for each image, but {' and '.join(mixing)} in "
                f"data.augment {'makes' if len(mixing) == 1 else 'make'} labels that are shares of classes; use "
                "cross_entropy, or remove these from data.augment.",
            )
