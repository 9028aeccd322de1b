"""The data of CSCI 5922, Lab 1, September 2022, question 1: CIFAR-10, or a copy of its training images as files."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visionbench.data import CIFAR10
from visionbench.errors import UserError


class CIFAR10OrCopy(CIFAR10):
    """CIFAR-10 from its archive, or the training images of a folder `train` with a folder for each class.

    The study draws its test images from the training images, so that a copy needs no others. Accuracies on a copy that
    loses something, as JPEG does, are not those on CIFAR-10.

    Args:
        source: Folder with `cifar-10-python.tar.gz`, or with `train/airplane`, `train/automobile` and so on; used
            instead of a download, and read only.
    """

    def __init__(self, source: str | None = None, **kwargs: Any) -> None:
        super().__init__(source, **kwargs)

    @functools.cached_property
    def copied_files(self) -> list[tuple[Path, int]]:
        """Files of the copy with their labels, by class and name; empty without a copy."""
        folder = self.source / "train" if self.source is not None else None
        if folder is None or not folder.is_dir():
            return []
        labels = enumerate(self.class_names)
        return [(path, label) for label, name in labels for path in sorted((folder / name).glob("*.*"))]

    def prepare_settings(self) -> dict[str, Any]:  # noqa: D102
        files = [path for path, _ in self.copied_files]
        return {"files": len(files), "bytes": sum(path.stat().st_size for path in files)} if files else {}

    def prepare_arrays(self, downloads: Path) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:  # noqa: D102
        if not self.copied_files:
            return super().prepare_arrays(downloads)
        images = []
        for path, _ in self.copied_files:
            with Image.open(path) as image:
                if image.size != (32, 32):
                    raise UserError(f"{path} has {image.width} x {image.height} pixels, expected 32 x 32.")
                images.append(np.asarray(image.convert("RGB")))
        labels = np.array([label for _, label in self.copied_files], dtype=np.int64)
        meta = {
            "source": f"{len(images):,} files of {self.source}",
            "licence": "none stated",
            "split": "training images",
        }
        return {"train-images": np.stack(images), "train-labels": labels}, meta
