"""LightningModules that classify images."""

from visionbench.models.base import Classifier, Objective
from visionbench.models.cnn import CNN
from visionbench.models.mlp import MLP

__all__ = ["CNN", "MLP", "Classifier", "Objective"]
