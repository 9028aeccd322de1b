"""LightningModules that classify images."""

from visionbench.models.base import Classifier, Objective
from visionbench.models.cnn import CNN
from visionbench.models.mlp import MLP
from visionbench.models.patch_mlp import PatchMLP

__all__ = ["CNN", "MLP", "Classifier", "Objective", "PatchMLP"]
