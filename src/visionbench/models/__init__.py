"""LightningModules that classify images."""

from visionbench.models.base import Classifier, Objective
from visionbench.models.cnn import CNN
from visionbench.models.mlp import MLP
from visionbench.models.patch_mlp import PatchMLP
from visionbench.models.schedulers import WarmupCosineLR
from visionbench.models.transfer import FrozenResNet

__all__ = ["CNN", "MLP", "Classifier", "FrozenResNet", "Objective", "PatchMLP", "WarmupCosineLR"]
