"""Data sets as LightningDataModules."""

from visionbench.data.augment import Augmentation, HorizontalFlip, RandomCrop
from visionbench.data.base import VisionDataModule
from visionbench.data.digits import Digits
from visionbench.data.fashion_mnist import FashionMNIST

__all__ = ["Augmentation", "Digits", "FashionMNIST", "HorizontalFlip", "RandomCrop", "VisionDataModule"]
