"""Losses by name: how many outputs they ask of a network, what these mean, and how far they are from the labels.

A network ends in a linear layer whatever the loss: what turns its outputs into probabilities belongs to the loss.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

LossName = Literal["cross_entropy", "nll", "binary_cross_entropy", "mse"]


class Loss(ABC):
    """A loss, with the shape and the meaning of the outputs that it is computed from.

    Args:
        num_classes: Of the data set.
    """

    takes_shares: ClassVar[bool] = False
    """Whether an image may belong to several classes in shares, as after MixUp and CutMix."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    @property
    def num_outputs(self) -> int:
        """Outputs for each image."""
        return self.num_classes

    def activate(self, outputs: Tensor) -> Tensor:
        """What the model makes of its network's outputs before it gives them away; (B, num_outputs) -> the same."""
        return outputs

    @abstractmethod
    def __call__(self, outputs: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
        """The mean loss of activated outputs, (B, num_outputs), float32; labels are (B,), int64.

        Where `takes_shares`, labels may also be each class's share, (B, num_classes), float32.
        """

    @abstractmethod
    def probabilities(self, outputs: Tensor) -> Tensor:
        """Of each class: (B, num_outputs) -> (B, num_classes)."""

    def predict(self, outputs: Tensor) -> Tensor:
        """The most probable class: (B, num_outputs) -> (B,), int64."""
        return outputs.argmax(dim=1)


class CrossEntropy(Loss):
    """Softmax cross-entropy on one logit a class."""

    takes_shares = True

    def __call__(self, outputs: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:  # noqa: D102
        return F.cross_entropy(outputs, labels, label_smoothing=label_smoothing)

    def probabilities(self, outputs: Tensor) -> Tensor:  # noqa: D102
        return outputs.softmax(dim=1)


class NegativeLogLikelihood(Loss):
    """Negative log-likelihood on log-probabilities: the model gives log-softmax of its network's outputs."""

    def activate(self, outputs: Tensor) -> Tensor:
        """Log-probabilities; those of a network that ends in a log-softmax of its own are left as they are."""
        return outputs.log_softmax(dim=-1)  # outputs without an axis of classes are refused with their loss

    def __call__(self, outputs: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:  # noqa: D102
        return F.nll_loss(outputs, labels)

    def probabilities(self, outputs: Tensor) -> Tensor:  # noqa: D102
        return outputs.exp()


class BinaryCrossEntropy(Loss):
    """Binary cross-entropy on one logit: that of the second of two classes."""

    @property
    def num_outputs(self) -> int:  # noqa: D102
        return 1

    def __call__(self, outputs: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:  # noqa: D102
        return F.binary_cross_entropy_with_logits(outputs.squeeze(1), labels.to(outputs.dtype))

    def probabilities(self, outputs: Tensor) -> Tensor:  # noqa: D102
        second = outputs.sigmoid()
        return torch.cat([1 - second, second], dim=1)

    def predict(self, outputs: Tensor) -> Tensor:
        """The second class where it has more than half of the probability."""
        return (outputs.squeeze(1) > 0).long()


class MeanSquaredError(Loss):
    """Mean squared error of the probabilities: a sigmoid of one output for two classes, a softmax for more.

    For two classes the label itself, 0 or 1, is the target; for more it is the one-hot vector, and the mean goes over
    its entries too.
    """

    @property
    def num_outputs(self) -> int:  # noqa: D102
        return 1 if self.num_classes == 2 else self.num_classes

    def __call__(self, outputs: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:  # noqa: D102
        if self.num_outputs == 1:
            return F.mse_loss(outputs.squeeze(1).sigmoid(), labels.to(outputs.dtype))
        return F.mse_loss(outputs.softmax(dim=1), F.one_hot(labels, self.num_classes).to(outputs.dtype))

    def probabilities(self, outputs: Tensor) -> Tensor:  # noqa: D102
        if self.num_outputs > 1:
            return outputs.softmax(dim=1)
        second = outputs.sigmoid()
        return torch.cat([1 - second, second], dim=1)

    def predict(self, outputs: Tensor) -> Tensor:
        """The most probable class; of two, the second where it has more than half of the probability."""
        return outputs.argmax(dim=1) if self.num_outputs > 1 else (outputs.squeeze(1) > 0).long()


LOSSES: dict[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "nll": NegativeLogLikelihood,
    "binary_cross_entropy": BinaryCrossEntropy,
    "mse": MeanSquaredError,
}
