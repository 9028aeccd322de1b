"""Small data sets that need no files from elsewhere."""

import gzip
import hashlib
from pathlib import Path

import numpy as np

from visionbench.data import VisionDataModule
from visionbench.data.sources import Origin, RawFile


def fashion_arrays() -> dict[str, np.ndarray]:
    """The content of the fake Fashion-MNIST, by the name of its file."""
    random = np.random.RandomState(0)
    return {
        "train-images-idx3-ubyte": random.randint(0, 256, (60, 28, 28)).astype(np.uint8),
        "train-labels-idx1-ubyte": (np.arange(60) % 10).astype(np.uint8),
        "t10k-images-idx3-ubyte": random.randint(0, 256, (20, 28, 28)).astype(np.uint8),
        "t10k-labels-idx1-ubyte": (np.arange(20) * 3 % 10).astype(np.uint8),
    }


def write_fashion_mnist(folder: Path, *, compressed: bool = True) -> Origin:
    """Writes the fake Fashion-MNIST and returns an origin that finds it in `folder` and nowhere else."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, array in fashion_arrays().items():
        content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
        files.append(RawFile(f"{name}.gz", hashlib.sha256(content).hexdigest(), len(content)))
    return Origin(files=tuple(files), mirrors=(), system_folder=folder)


class Tiny(VisionDataModule):
    """Noise: 33 training and 12 test images; a test may change `arrays` before they are prepared."""

    title = "Tiny"
    class_names = ("a", "b", "c")
    input_shape = (3, 5, 7)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        random = np.random.RandomState(0)
        self.arrays = {}
        for split, size in (("train", 33), ("test", 12)):
            self.arrays[f"{split}-images"] = random.randint(0, 256, (size, 5, 7, 3)).astype(np.uint8)
            self.arrays[f"{split}-labels"] = np.arange(size) % 3

    def prepare_arrays(self, downloads):
        return self.arrays, {"source": "noise", "licence": "none", "split": "none"}
