"""Small data sets that need no files from elsewhere."""

import gzip
import hashlib
import io
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from visionbench.data import VisionDataModule
from visionbench.data.sources import Origin, RawFile


def idx_contents(train: int = 60, test: int = 20) -> dict[str, np.ndarray]:
    """The content of a fake MNIST or Fashion-MNIST of some numbers of images, by the name of its file."""
    random = np.random.RandomState(0)
    return {
        "train-images-idx3-ubyte": random.randint(0, 256, (train, 28, 28)).astype(np.uint8),
        "train-labels-idx1-ubyte": (np.arange(train) % 10).astype(np.uint8),
        "t10k-images-idx3-ubyte": random.randint(0, 256, (test, 28, 28)).astype(np.uint8),
        "t10k-labels-idx1-ubyte": (np.arange(test) * 3 % 10).astype(np.uint8),
    }


def write_idx(folder: Path, *, compressed: bool = True, train: int = 60, test: int = 20) -> Origin:
    """Writes a fake MNIST or Fashion-MNIST and returns an origin that finds it in `folder` and nowhere else."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, array in idx_contents(train, test).items():
        content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
        files.append(RawFile(f"{name}.gz", hashlib.sha256(content).hexdigest(), len(content)))
    return Origin(files=tuple(files), mirrors=(), system_folder=folder)


def cifar10_contents(images: int = 20) -> dict[str, tuple[np.ndarray, list[int]]]:
    """The rows and labels of the fake CIFAR-10, by the name of their file, which holds some number of images."""
    random = np.random.RandomState(0)
    names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
    labels = [number % 10 for number in range(images)]
    return {name: (random.randint(0, 256, (images, 3072)).astype(np.uint8), labels) for name in names}


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image file, which is closed again."""
    with Image.open(path) as image:
        return image.size


def python2_pickle(rows: np.ndarray, labels: list[int], maker: str = "numpy.core.multiarray\n_reconstruct") -> bytes:
    """A batch as Python 2 pickled it for the official archive; its strings are of a kind that Python 3 never writes.

    `maker` is the function that is called to make the array.
    """

    def string(text: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(text)) + text if len(text) > 255 else b"U" + bytes([len(text)]) + text

    shape = b"J" + struct.pack("<i", len(rows)) + b"J" + struct.pack("<i", rows.shape[1]) + b"\x86"
    dtype = b"cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R(K\x03" + string(b"|")
    dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = f"c{maker}\n".encode() + b"cnumpy\nndarray\nK\x00\x85" + string(b"b") + b"\x87R"
    array += b"(K\x01" + shape + dtype + b"\x89" + string(rows.tobytes()) + b"tb"
    numbers = b"".join(b"K" + bytes([label]) for label in labels)
    return (
        b"\x80\x02}("
        + (string(b"batch_label") + string(b"batch 1"))
        + (string(b"labels") + b"](" + numbers + b"e")
        + (string(b"data") + array)
        + b"u."
    )


def write_cifar10(folder: Path, contents: Mapping[str, bytes] | None = None, images: int = 20) -> Origin:
    """Writes the fake CIFAR-10, or an archive of other files, and returns an origin that finds it in `folder`."""
    if contents is None:
        contents = {name: python2_pickle(*content) for name, content in cifar10_contents(images).items()}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cifar-10-python.tar.gz").write_bytes(packed.getvalue())
    digest = hashlib.sha256(packed.getvalue()).hexdigest()
    file = RawFile("cifar-10-python.tar.gz", digest, len(packed.getvalue()), is_archive=True)
    return Origin(files=(file,), mirrors=(), system_folder=folder)


def write_images(folder: Path, counts: Mapping[str, int], size: tuple[int, int] = (9, 8), seed: int = 0) -> Path:
    """Writes noise as PNG files `folder/NAME/00.png` and so on, of (width, height), all different; returns `folder`."""
    random = np.random.RandomState(seed)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = random.randint(0, 256, (size[1], size[0], 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02d}.png")
    return folder


def write_table(folder: Path, counts: Mapping[str, int], seed: int = 0) -> Path:
    """Writes `folder/NAME.csv`, all rows different, and returns `folder`.

    Columns: `size` and `weight`, numbers, of which some weights are missing; `color`, three categories and what is
    missing; and `kind`, the classes a, b and c in turn, which size and color tell.
    """
    random = np.random.RandomState(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in counts.items():
        lines = ["size,color,weight,kind"]
        for number in range(count):
            kind = number % 3
            weight = "" if number % 7 == 3 else f"{random.rand():.6f}"
            color = ("red", "green", "blue", "NA")[kind if number % 5 else random.randint(4)]
            lines.append(f"{10 * kind + random.rand():.6f},{color},{weight},{'abc'[kind]}")
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder


def write_heart(folder: Path, counts: Mapping[str, int], seed: int = 0) -> Path:
    """Writes `folder/NAME.csv` with the columns of the heart failure table, all rows different; returns `folder`.

    Each file has every category. Every fourth Cholesterol, and the first RestingBP, is 0.
    """
    random = np.random.RandomState(seed)
    folder.mkdir(parents=True, exist_ok=True)
    names = "Age Sex ChestPainType RestingBP Cholesterol FastingBS RestingECG MaxHR ExerciseAngina Oldpeak ST_Slope"
    for name, count in counts.items():
        lines = [",".join([*names.split(), "HeartDisease"])]
        for number in range(count):
            sick = number % 2
            cells = [
                *(random.randint(30, 78), "MF"[number // 2 % 2], ("ASY", "ATA", "NAP", "TA")[number % 4]),
                *(random.randint(90, 200) if number else 0, random.randint(100, 600) if number % 4 else 0),
                *(sick, ("LVH", "Normal", "ST")[number % 3], random.randint(70, 200), "NY"[sick]),
                *(f"{random.rand() * 4:.4f}", ("Down", "Flat", "Up")[number % 3]),
            ]
            lines.append(",".join(map(str, [*cells, sick])))
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder


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


class Letters(VisionDataModule):
    """Three classes of gray 28 x 28 noise: a model trained on Digits but for its last layer takes them."""

    title = "Letters"
    class_names = ("alpha", "beta", "gamma")
    input_shape = (1, 28, 28)

    def prepare_arrays(self, downloads):
        random = np.random.RandomState(0)
        arrays = {}
        for split, size in (("train", 30), ("test", 9)):
            arrays[f"{split}-images"] = random.randint(0, 256, (size, 28, 28, 1)).astype(np.uint8)
            arrays[f"{split}-labels"] = np.arange(size) % 3
        return arrays, {"source": "noise", "licence": "none", "split": "none"}


class Pairs(Letters):
    """Two classes: what a loss on one output is for."""

    title = "Pairs"
    class_names = ("a", "b")

    def prepare_arrays(self, downloads):
        arrays, meta = super().prepare_arrays(downloads)
        for split in ("train", "test"):
            arrays[f"{split}-labels"] %= 2
        return arrays, meta
