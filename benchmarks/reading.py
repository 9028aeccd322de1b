"""How many images a second the loader gives alone: of resident images, and of images read through the memory map.

    python benchmarks/reading.py

Batches of 64 images of 3 x 64 x 64 in a new order each epoch, normalized, float32, from one array of noise: held in
memory; read through the memory map when they are needed, or ahead by one or two threads; and, with --processes, read
ahead by two processes of a DataLoader, which hand over the same blocks through shared memory. First with the file in
the page cache, then without: before each epoch the system is asked to drop it. The ways run in turn; the seconds to the
first batch are of a new epoch.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from visionbench.data.loader import EpochOrder, ResidentLoader
from visionbench.data.mapped import MappedImages, release_pages

CPU = torch.device("cpu")
SHAPE = (64, 64, 3)


class Blocks(Dataset):
    """What a process of a DataLoader reads: a block an item."""

    def __init__(self, path: str, wanted: list[torch.Tensor]) -> None:
        self.path, self.wanted = path, wanted
        self.images: MappedImages | None = None

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, number: int) -> torch.Tensor:
        if self.images is None:  # in the process that reads
            array = np.load(self.path, mmap_mode="r")
            self.images = MappedImages(array, np.arange(len(array)), CPU, 0)
        return next(self.images.blocks([self.wanted[number]]))


class ByProcesses(MappedImages):
    """Blocks that two processes read."""

    def blocks(self, wanted: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:  # noqa: D102
        context = multiprocessing.get_context("spawn")
        blocks = Blocks(str(self.images.filename), list(wanted))
        yield from DataLoader(blocks, batch_size=None, num_workers=2, multiprocessing_context=context)


def epoch(loader: ResidentLoader, number: int) -> tuple[float, float]:
    """Images a second, and seconds to the first batch."""
    loader.sampler.set_epoch(number)
    count, first, began = 0, 0.0, time.perf_counter()
    for images, _ in loader:
        if images.dtype != torch.float32 or images.shape[1:] != (3, 64, 64):
            raise RuntimeError(f"A batch is {images.dtype} {tuple(images.shape)}.")
        first = first or time.perf_counter() - began
        count += len(images)
    return count / (time.perf_counter() - began), first


def drop(array: np.memmap) -> None:
    """Asks the system to take a file out of the page cache."""
    release_pages(array)
    descriptor = os.open(array.filename, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def main() -> None:
    """Parses the arguments, runs all ways in turn and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--processes", action="store_true", help="read by processes too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "images.npy")
        pixels = np.random.RandomState(0).randint(0, 256, (arguments.images, *SHAPE), dtype=np.uint8)
        np.save(path, pixels)
        os.sync()  # what is not on the disk yet cannot be dropped
        held = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        del pixels
        array = np.load(path, mmap_mode="r")
        index, labels = np.arange(len(array)), torch.zeros(len(array), dtype=torch.int64)
        sources = {"resident": held}
        sources |= {f"memory map, {n} threads": MappedImages(array, index, CPU, n) for n in (0, 1, 2)}
        if arguments.processes:
            sources["memory map, 2 processes"] = ByProcesses(array, index, CPU, 2)
        loaders = {
            name: ResidentLoader(
                images, labels, batch_size=64, mean=[0.5] * 3, std=[0.3] * 3, order=EpochOrder(len(array), 0)
            )
            for name, images in sources.items()
        }
        for cold in (False, True):
            measured: dict[str, list[tuple[float, float]]] = {name: [] for name in loaders}
            for repeat in range(arguments.repeats + 1):
                for name, loader in loaders.items():
                    if cold:
                        drop(array)
                    measured[name].append(epoch(loader, repeat))
            print("not in the page cache" if cold else "in the page cache")
            for name, values in measured.items():
                speeds, firsts = zip(*values[1:], strict=True)  # the first pays for memory
                print(
                    f"  {name:24s} {statistics.median(speeds):8,.0f} images/s ({min(speeds):,.0f} to {max(speeds):,.0f}"
                    f", n = {len(speeds)}); first batch after {statistics.median(firsts):.3f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
