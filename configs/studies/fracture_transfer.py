"""The frozen network of CSCI 5922, Lab 1, February 2024, question 2, without an evaluation mode."""

from visionbench.models import FrozenResNet


class TrainingModeResNet(FrozenResNet):
    """A frozen ResNet whose batch norms stay in training mode, so that their statistics follow the batches."""

    frozen_in_train_mode = True
