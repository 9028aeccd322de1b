"""Data sets as LightningDataModules."""

from visionbench.data.arrays import Arrays
from visionbench.data.augment import (
    Augmentation,
    ColorJitter,
    CutMix,
    HorizontalFlip,
    Mixing,
    MixUp,
    RandomAffine,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    RandomRotation,
    VerticalFlip,
)
from visionbench.data.base import VisionDataModule
from visionbench.data.cifar10 import CIFAR10
from visionbench.data.digits import Digits
from visionbench.data.fashion_mnist import FashionMNIST
from visionbench.data.image_folder import ImageFolder
from visionbench.data.mnist import MNIST
from visionbench.data.table import Table

__all__ = [
    "CIFAR10",
    "MNIST",
    "Arrays",
    "Augmentation",
    "ColorJitter",
    "CutMix",
    "Digits",
    "FashionMNIST",
    "HorizontalFlip",
    "ImageFolder",
    "MixUp",
    "Mixing",
    "RandomAffine",
    "RandomCrop",
    "RandomErasing",
    "RandomResizedCrop",
    "RandomRotation",
    "Table",
    "VerticalFlip",
    "VisionDataModule",
]
