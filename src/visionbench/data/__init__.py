"""Data sets as LightningDataModules."""

from typing import TYPE_CHECKING

from visionbench.classes import lazy_attributes

if TYPE_CHECKING:
    from visionbench.data.arrays import Arrays as Arrays
    from visionbench.data.augment import AlternatingFlip as AlternatingFlip
    from visionbench.data.augment import Augmentation as Augmentation
    from visionbench.data.augment import ColorJitter as ColorJitter
    from visionbench.data.augment import CutMix as CutMix
    from visionbench.data.augment import HorizontalFlip as HorizontalFlip
    from visionbench.data.augment import Mixing as Mixing
    from visionbench.data.augment import MixUp as MixUp
    from visionbench.data.augment import RandomAffine as RandomAffine
    from visionbench.data.augment import RandomCrop as RandomCrop
    from visionbench.data.augment import RandomErasing as RandomErasing
    from visionbench.data.augment import RandomResizedCrop as RandomResizedCrop
    from visionbench.data.augment import RandomRotation as RandomRotation
    from visionbench.data.augment import VerticalFlip as VerticalFlip
    from visionbench.data.base import VisionDataModule as VisionDataModule
    from visionbench.data.bone_break import BoneBreak as BoneBreak
    from visionbench.data.cifar10 import CIFAR10 as CIFAR10
    from visionbench.data.digits import Digits as Digits
    from visionbench.data.fashion_mnist import FashionMNIST as FashionMNIST
    from visionbench.data.greek_letters import GreekLetters as GreekLetters
    from visionbench.data.heart_failure import HeartFailure as HeartFailure
    from visionbench.data.image_folder import ImageFolder as ImageFolder
    from visionbench.data.mnist import MNIST as MNIST
    from visionbench.data.rows import Rows as Rows
    from visionbench.data.table import Table as Table

# Modules of the data sets that the command line knows by name. A module is imported when its class is asked for, since
# torch comes with it.
DATA_SETS = {
    "CIFAR10": "cifar10",
    "MNIST": "mnist",
    "Digits": "digits",
    "FashionMNIST": "fashion_mnist",
    "BoneBreak": "bone_break",
    "GreekLetters": "greek_letters",
    "HeartFailure": "heart_failure",
    "ImageFolder": "image_folder",
    "Table": "table",
}
_AUGMENTATIONS = (
    *("AlternatingFlip", "Augmentation", "ColorJitter", "CutMix", "HorizontalFlip", "MixUp", "Mixing"),
    *("RandomAffine", "RandomCrop", "RandomErasing", "RandomResizedCrop", "RandomRotation", "VerticalFlip"),
)
_OTHERS = {"Arrays": "arrays", "Rows": "rows", "VisionDataModule": "base"} | dict.fromkeys(_AUGMENTATIONS, "augment")
_MODULES = DATA_SETS | _OTHERS

__all__ = [*_MODULES]
__getattr__ = lazy_attributes(__name__, _MODULES)
