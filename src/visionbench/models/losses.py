"""Losses by name, each with the number and the meaning of the network's outputs.

For every loss, the network ends in a linear layer: the loss turns the outputs into probabilities.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

LossName = Literal["cross_entropy", "nll", "binary_cross_entropy", "mse"]


class Loss(ABC):
    """A loss, with the shape and the meaning of the outputs that the loss takes.

    Args:
        num_classes: Number of classes of the data set.
    """

    takes_shares: ClassVar[bool] = False
    """Whether the labels may be shares of classes, as MixUp and CutMix make them."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    @property
    def num_outputs(self) -> int:
        """Number of outputs of the network for each image."""
        return self.num_classes

    def activate(self, outputs: Tensor) -> Tensor:
        """Turns the outputs of the network into those of the model: (B, num_outputs) -> the same shape."""
        return outputs

    @abstractmethod
    def __call__(self, outputs: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
        """Computes the mean loss of a batch.

        Args:
            outputs: Outputs of `activate`, shape (B, num_outputs), float32.
            labels: True classes, shape (B,), int64; where `takes_shares`, also shares of all classes, shape (B,
                num_classes), float32.
            label_smoothing: Share of the target probability that is spread over all classes.
        """

    @abstractmethod
    def probabilities(self, outputs: Tensor) -> Tensor:
        """Computes the probability of each class: (B, num_outputs) -> (B, num_classes)."""

    def predict(self, outputs: Tensor) -> Tensor:
        """Predicts the most probable class: (B, num_outputs) -> (B,), int64."""
        return outputs.argmax(dim=1)


class CrossEntropy(Loss):
    """Softmax cross-entropy on one logit for each class."""

    takes_shares = True

    def __call__(self, outputs: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:  # noqa: D102
        return F.cross_entropy(outputs, labels, label_smoothing=label_smoothing)

    def probabilities(self, outputs: Tensor) -> Tensor:  # noqa: D102
        return outputs.softmax(dim=1)


class NegativeLogLikelihood(Loss):
    """Negative log-likelihood on log-probabilities: the model computes the log-softmax of the network's outputs."""

    def activate(self, outputs: Tensor) -> Tensor:
        """Computes log-probabilities; a second log-softmax changes nothing, so the network may end in one itself."""
        return outputs.log_softmax(dim=-1)  # `Classifier.loss` refuses outputs without an axis of classes

    def __call__(self, outputs: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:  # noqa: D102
        return F.nll_loss(outputs, labels)

    def probabilities(self, outputs: Tensor) -> Tensor:  # noqa: D102
        return outputs.exp()


class BinaryCrossEntropy(Loss):
    """Binary cross-entropy on one logit, the logit of the second of two classes."""

    @property
    def num_outputs(self) -> int:  # noqa: D102
        return 1

    def __call__(self, outputs: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:  # noqa: D102
        return F.binary_cross_entropy_with_logits(outputs.squeeze(1), labels.to(outputs.dtype))

    def probabilities(self, outputs: Tensor) -> Tensor:  # noqa: D102
        return _of_one_output(outputs)

    def predict(self, outputs: Tensor) -> Tensor:
        """Predicts the second class where its probability is more than one half."""
        return (outputs.squeeze(1) > 0).long()


class MeanSquaredError(Loss):
    """Mean squared error of the probabilities: a sigmoid of one output for two classes, a softmax for more.

    For two classes, the target is the label itself, 0 or 1. For more classes, the target is the one-hot vector, and the
    mean is taken over its entries too.
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
        return _of_one_output(outputs)

    def predict(self, outputs: Tensor) -> Tensor:
        """Predicts the most probable class; of two classes, the second where its probability is more than one half."""
        return outputs.argmax(dim=1) if self.num_outputs > 1 else (outputs.squeeze(1) > 0).long()


def _of_one_output(outputs: Tensor) -> Tensor:
    """The probabilities of two classes, of which one output is the logit of the second: (B, 1) -> (B, 2)."""
    second = outputs.sigmoid()
    # From a logit of 16.7 on, the second one is rounded to 1. The first one is then tiny, but not 1 - 1, of which the
    # logarithm would no longer be that of the loss.
    first = torch.where(second == 1, (-outputs).sigmoid(), 1 - second)
    return torch.cat([first, second], dim=1)


LOSSES: dict[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "nll": NegativeLogLikelihood,
    "binary_cross_entropy": BinaryCrossEntropy,
    "mse": MeanSquaredError,
}
