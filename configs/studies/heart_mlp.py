"""The loss and the prediction of CS 6140, Project 4, task 4, as its report has them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from visionbench.models import MLP


class OneColumnMLP(MLP):
    """An MLP with one sigmoid output, whose loss is broadcast and whose predicted class is always 0.

    `model.loss` must be `mse`, so that the network has a single output for two classes.
    """

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Computes the mean squared error of shapes (B, 1) and (B,), which torch broadcasts to (B, B).

        Args:
            outputs: Outputs of the network before the sigmoid, shape (B, 1).
            labels: True classes, shape (B,), int64.
        """
        return F.mse_loss(outputs.sigmoid(), labels.to(outputs.dtype))

    def predict(self, outputs: Tensor) -> Tensor:
        """Predicts the largest of a single output, which is class 0.

        Args:
            outputs: Outputs of the network before the sigmoid, shape (B, 1).
        """
        return torch.argmax(outputs.sigmoid(), dim=1)
