"""How many augmented images a second the resident loader gives, beside torchvision's transforms and a DataLoader.

    python benchmarks/augmentation.py

Both give the same: batches of 64 images of 28 x 28, cut out of a copy with a mirrored border of 2 pixels, flipped with
probability one half, normalized, float32; new ones each epoch. The usual way is a data set as torchvision's are, with
the transforms inside, and a DataLoader without workers; its images are PIL's, as theirs are, and then tensors, which
is quicker. Seconds are those that this process had on its processor, in one thread: images a second of one core,
whatever else the machine does. The ways run in turn.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from visionbench.data import HorizontalFlip, RandomCrop
from visionbench.data.loader import EpochOrder, ResidentLoader

MEAN, STD = [0.2860], [0.3530]


class Usual(Dataset):
    """Images and labels in memory, and transforms of one image, as torchvision's MNIST has them."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, *, pil: bool) -> None:
        self.images, self.labels, self.pil = images, labels, pil
        change = [v2.RandomCrop(28, padding=2, padding_mode="reflect"), v2.RandomHorizontalFlip()]
        self.transform = v2.Compose(
            [*change, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = Image.fromarray(self.images[index, 0].numpy()) if self.pil else self.images[index]
        return self.transform(image), int(self.labels[index])


def speed(batches: Iterable[tuple[torch.Tensor, torch.Tensor]], epochs: int = 1) -> float:
    """Images a second of processor time."""
    count, started = 0, time.process_time()
    for _ in range(epochs):
        for images, _ in batches:
            if images.dtype != torch.float32 or images.shape[1:] != (1, 28, 28):
                raise RuntimeError(f"A batch is {images.dtype} {tuple(images.shape)}.")
            count += len(images)
    return count / (time.process_time() - started)


def main() -> None:
    """Parses the arguments, runs both ways in turn and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=54_000, help="of noise; the usual way runs through a sixth")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    random = np.random.RandomState(0)
    images = torch.from_numpy(random.randint(0, 256, (arguments.images, 1, 28, 28)).astype(np.uint8))
    labels = torch.from_numpy(random.randint(0, 10, arguments.images))
    part = arguments.images // 6
    usual = {
        kind: DataLoader(Usual(images[:part], labels[:part], pil=kind == "PIL images"), batch_size=64, shuffle=True)
        for kind in ("PIL images", "tensors")
    }
    options = {"batch_size": 64, "mean": MEAN, "std": STD, "order": EpochOrder(len(images), seed=0)}
    ours = ResidentLoader(images, labels, augmentations=[RandomCrop(2), HorizontalFlip()], **options)
    ways: dict[str, Callable[[], float]] = {kind: lambda kind=kind: speed(usual[kind]) for kind in usual}
    ways["ours"] = lambda: speed(ours, epochs=3)
    for way in ways.values():
        way()  # the first run of each pays for imports and memory
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            measured[name].append(way())
    for name, values in measured.items():
        print(f"{name:10s} {statistics.median(values):9,.0f} images/s ({min(values):,.0f} to {max(values):,.0f})")
    for kind in usual:
        ratios = sorted(a / b for a, b in zip(measured["ours"], measured[kind], strict=True))
        print(
            f"resident batches: {statistics.median(ratios):.0f} times as many images a second as torchvision with "
            f"{kind} ({ratios[0]:.0f} to {ratios[-1]:.0f}, n = {len(ratios)})"
        )


if __name__ == "__main__":
    main()
