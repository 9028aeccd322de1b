"""The measurement and the frozen network of CS 6140, Project 4, task 3, as its report has them."""

from visionbench.data import GreekLetters
from visionbench.models import CNN


class TrainAsTest(GreekLetters):
    """Greek letters whose validation images are the training images."""

    train_as_test = True


class ActiveDropoutCNN(CNN):
    """A CNN whose frozen parts stay in training mode, so that their dropouts are active."""

    frozen_in_train_mode = True
