"""Features of a frozen network, computed once and kept on the disk."""

import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from visionbench.data.augment import Augmentation, Mixing
from visionbench.data.base import VisionDataModule
from visionbench.data.loader import FeatureLoader, FixedOrder, ResidentLoader
from visionbench.errors import UserError, is_disk_error
from visionbench.files import replacing
from visionbench.models.base import Classifier
from visionbench.runs.identity import code_digest, processor, weights_digest
from visionbench.text import counted, duration
from visionbench.training.device import device_name

# Folder of the features, beside the prepared data sets.
FOLDER = "features"


class FrozenFeatures:
    """Turns loaders of images into loaders of the features that a frozen part of a model gives for them.

    They are kept where prepared data are; those of arrays that were passed in Python, and of classes that were typed
    into a notebook, stay in memory. A file holds the features of one split, shape (N, F), float32. Its name is the
    digest of all that they depend on: the weights, the data with their normalization, the batch size, the code, that of
    the user's own layers and augmentations included, the precision, the device, the processor, the threads, the version
    of torch and, for a view, the augmentations and the seed.

    Args:
        model: Model of the run.
        data: Data module of the run.
        trainer: Trainer of the run, whose precision the features are computed in.
        say: Called with a line for each split whose features are computed.
    """

    def __init__(
        self, model: Classifier, data: VisionDataModule, trainer: Trainer, say: Callable[[str], object]
    ) -> None:
        self.model = model
        self.data = data
        self.trainer = trainer
        self.say = say
        self.views = int(getattr(model, "views", 0))
        self._weights = ""

    def __call__(self, stage: str, loader: ResidentLoader) -> ResidentLoader:
        """Gives the loader of the features, or the loader itself where its images differ from epoch to epoch.

        Args:
            stage: Split: `train`, `val` or `test`.
            loader: Loader of its images.

        Raises:
            UserError: Views are asked for of images that are mixed with each other.
        """
        extractor = self.model.feature_extractor()
        if extractor is None:
            return loader
        augmentations, order = loader.augmentations, loader.sampler
        if not augmentations or order is None:
            return FeatureLoader(loader, [self._features(extractor, stage, loader.again(), ())], augmented=False)
        if self.views == 0 or stage != "train":
            return loader
        if any(isinstance(augmentation, Mixing) for augmentation in augmentations):
            raise UserError(
                f"model.views is {self.views}, but data.augment mixes images with each other, so that their features "
                "cannot be computed once; set model.views to 0, or leave out the mixing."
            )
        views = []
        for view in range(self.views):
            fixed = FixedOrder(len(loader.images), order.seed)
            fixed.set_epoch(view)
            views.append(self._features(extractor, stage, loader.again(fixed, augmentations), augmentations))
        return FeatureLoader(loader, views, augmented=True)

    def _features(
        self, extractor: nn.Module, stage: str, loader: ResidentLoader, augmentations: Sequence[Augmentation]
    ) -> Tensor:
        """The features of all samples of a loader, from the disk where they are there."""
        device = loader.labels.device
        layers_and_augmentations = [*map(type, extractor.modules()), *map(type, augmentations)]
        kinds = list(dict.fromkeys([type(self.model), type(self.data), *layers_and_augmentations]))
        path = self.data.root / FOLDER / f"{self._key(extractor, stage, loader, augmentations, kinds)}.npy"
        keeps = self.data.from_command_line and all(map(_is_in_files, kinds))
        kept = _read(path, len(loader.images)) if keeps else None
        if kept is not None:
            return torch.from_numpy(kept).to(device)
        began = time.monotonic()
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            features = torch.cat([extractor(images).float() for images, _ in loader])
        view = f" (view {loader.sampler.epoch + 1} of {self.views})" if loader.sampler is not None else ""
        line = f"features   of {counted(len(features), f'{stage} {self.data.item}')}{view} computed in "
        line += duration(time.monotonic() - began)
        if keeps and not _write(path, features):
            line += f"; they could not be kept in {path.parent}"
        self.say(line)
        return features

    def _key(
        self,
        extractor: nn.Module,
        stage: str,
        loader: ResidentLoader,
        augmentations: Sequence[Augmentation],
        kinds: Sequence[type],
    ) -> str:
        self._weights = self._weights or weights_digest(extractor.state_dict())
        order = loader.sampler
        parts: list[Any] = [
            *(type(self.model).__qualname__, str(extractor), self._weights, self.data.data_digest(), stage),
            *(loader.batch_size, code_digest(kinds), str(self.trainer.precision)),
            *(device_name(self.trainer), processor(), torch.get_num_threads(), torch.__version__),
            *([(type(entry).__qualname__, sorted(vars(entry).items())) for entry in augmentations],),
            *((order.seed, order.epoch) if order is not None else ()),
        ]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _is_in_files(kind: type) -> bool:
    """Whether the code of a class and its bases is in files, whose changes are noticed; that of a notebook is not."""
    modules = [base.__module__ for base in kind.__mro__]
    return all(
        name in sys.stdlib_module_names or getattr(sys.modules.get(name), "__file__", None) is not None
        for name in modules
    )


def _read(path: Path, count: int) -> np.ndarray | None:
    """The features in a file; `None` where there is none, or it is not whole."""
    try:
        features: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # it is computed again
        return None
    whole = features.dtype == np.float32 and features.ndim == 2 and len(features) == count
    return features if whole else None


def _write(path: Path, features: Tensor) -> bool:
    """Keeps features; gives whether that was possible. Without it, a run is slower and not wrong."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, features.cpu().numpy())
    except OSError as error:
        if not is_disk_error(error) and not isinstance(error, PermissionError):
            raise
        return False
    return True
