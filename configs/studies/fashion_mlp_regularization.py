"""The softmax of CSCI 5922, Lab 1, February 2024, question 1, as its report has it."""

from torch import Tensor

from visionbench.models import MLP


class SoftmaxMLP(MLP):
    """An MLP whose outputs are probabilities, of which the cross-entropy takes the softmax once more."""

    def forward(self, images: Tensor) -> Tensor:
        """Computes the probabilities of the classes.

        Args:
            images: Normalized images, shape (B, C, H, W).
        """
        return super().forward(images).softmax(dim=1)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Returns the outputs, which are probabilities already.

        Args:
            outputs: Outputs of the model, shape (B, num_outputs).
        """
        return outputs.float()
