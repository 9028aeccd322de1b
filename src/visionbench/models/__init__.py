"""LightningModules that classify images."""

from typing import TYPE_CHECKING

from visionbench.classes import lazy_attributes

if TYPE_CHECKING:
    from visionbench.models.base import Classifier as Classifier
    from visionbench.models.base import Objective as Objective
    from visionbench.models.cifar10_speed import WhitenedCNN as WhitenedCNN
    from visionbench.models.cnn import CNN as CNN
    from visionbench.models.mlp import MLP as MLP
    from visionbench.models.optimizers import ConvMuon as ConvMuon
    from visionbench.models.patch_mlp import PatchMLP as PatchMLP
    from visionbench.models.schedulers import WarmupCosineLR as WarmupCosineLR
    from visionbench.models.transfer import FrozenResNet as FrozenResNet

# Modules of the models. A module is imported when its class is asked for, since torch comes with it.
MODELS = {
    "CNN": "cnn",
    "FrozenResNet": "transfer",
    "MLP": "mlp",
    "PatchMLP": "patch_mlp",
    "WhitenedCNN": "cifar10_speed",
}
_OTHERS = {"Classifier": "base", "ConvMuon": "optimizers", "Objective": "base", "WarmupCosineLR": "schedulers"}
_MODULES = MODELS | _OTHERS

__all__ = [*_MODULES]
__getattr__ = lazy_attributes(__name__, _MODULES)
