"""Guards of training: asked after each validated epoch; each of them reports once a run."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from visionbench.data.base import VisionDataModule
from visionbench.guards.base import Finding, Guard
from visionbench.text import counted

# Number of epochs after which a model should be better than the most frequent class.
PATIENCE = 3
# Share of silent units in a layer above which the layer is reported.
SILENT_SHARE = 0.5
# Number of samples below which nothing is said of predictions and units.
FEW = 5


@dataclass(frozen=True)
class SilentUnits:
    """The units of a ReLU that are zero for all of some samples.

    Attributes:
        layer: Name of the layer.
        silent: Number of such units: features, or channels of images.
        units: Number of all units.
        samples: Number of samples.
    """

    layer: str
    silent: int
    units: int
    samples: int


@dataclass(frozen=True)
class EpochContext:
    """A validated epoch.

    Attributes:
        data: Data module.
        epoch: Number of the epoch, from 1.
        predicted: Number of validation samples for which each class was predicted.
        labels: Number of validation samples of each class.
        correct: Number of validation samples whose class was predicted.
        silent: Silent units of each ReLU; empty in epochs in which they were not counted.
    """

    data: VisionDataModule
    epoch: int
    predicted: Sequence[int]
    labels: Sequence[int]
    correct: int
    silent: Sequence[SilentUnits]

    @property
    def count(self) -> int:
        """Number of validation samples."""
        return sum(self.labels)


class ConstantPrediction(Guard):
    """Reports a model that predicts one class for every validation sample."""

    stage = "epoch"

    def check(self, context: EpochContext) -> Iterator[Finding]:  # noqa: D102
        several = sum(count > 0 for count in context.labels) > 1
        if context.epoch < 2 or context.count < FEW or not several:
            return
        if max(context.predicted) == sum(context.predicted):
            name = context.data.class_names[context.predicted.index(max(context.predicted))]
            yield Finding(
                "warning",
                f"After epoch {context.epoch}, the model predicts {name} for every one of the {context.count:,} "
                f"validation {context.data.item}s; look at the learning rate, the scale of the inputs and the loss.",
            )


class NoBetterThanMajority(Guard):
    """Reports a model that is no better than always predicting the most frequent class."""

    stage = "epoch"

    def check(self, context: EpochContext) -> Iterator[Finding]:  # noqa: D102
        most = max(context.labels)
        if context.epoch < PATIENCE or context.count < FEW or most == context.count:
            return
        if context.correct <= most:
            share = 100 * most / context.count
            yield Finding(
                "warning",
                f"After {counted(context.epoch, 'epoch')}, the validation accuracy is "
                f"{100 * context.correct / context.count:.2f} %, no better than always predicting the most frequent "
                f"class ({share:.2f} %); look at the learning rate, the scale of the inputs and the loss.",
            )


class SilentLayers(Guard):
    """Reports layers in which most ReLUs are zero for every sample, so that they learn nothing."""

    stage = "epoch"

    def check(self, context: EpochContext) -> Iterator[Finding]:  # noqa: D102
        layers = [layer for layer in context.silent if layer.samples >= FEW and layer.units > 1]
        if not layers:
            return
        worst = max(layers, key=lambda layer: layer.silent / layer.units)
        if worst.silent > math.floor(SILENT_SHARE * worst.units):
            yield Finding(
                "warning",
                f"After epoch {context.epoch}, {worst.silent:,} of {worst.units:,} units of the ReLU {worst.layer} are "
                f"zero for all of {worst.samples} training {context.data.item}s, so that they learn nothing; lower the "
                "learning rate, or normalize the inputs.",
            )
