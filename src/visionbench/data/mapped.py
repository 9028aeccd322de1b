"""Images that are not held in memory: read from a store through the memory map, some blocks ahead of who trains.

To read a block is to copy bytes out of the page cache. NumPy does that, and waits for the disk, without Python's global
lock, so that the workers are threads, as they are in FFCV and DALI, and not processes as a `DataLoader`'s. They start
at once, where a process would import torch for seconds and hold its libraries' memory again; what they have read is
there without being sent; and nothing is left of them when the run ends, whatever ended it.
"""

import math
import mmap
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from visionbench.errors import RunFailed, UserError

# Blocks that are read, or waiting to be, for each worker while another one is used.
BLOCKS_AHEAD = 2
# Of images that are copied out at once where all of them are gone through in their order.
PORTION_BYTES = 4 * 2**20
# Of images that are mapped before they are let go. It is looked at each time that so much may have been: a row that is
# read may map a large page of the page cache, all of it.
MAPPED_BYTES = 256 * 2**20
LARGE_PAGE = 2 * 2**20


class MappedImages:
    """Images of a prepared store that are read when they are needed.

    Args:
        images: The store's, shape (N, H, W, C), uint8, memory-mapped.
        index: Which of them, in which order, shape (n,), int64.
        device: Where they are wanted.
        workers: Threads that read ahead; 0: a block is read when it is asked for.
    """

    def __init__(self, images: np.ndarray, index: np.ndarray, device: torch.device, workers: int) -> None:
        if not isinstance(images, np.memmap):
            raise TypeError(f"The images are {type(images).__name__}, expected a memory map.")
        self.images = images
        self.index = index
        self.device = device
        self.workers = workers
        _, height, width, channels = images.shape
        self.shape = (len(index), channels, height, width)
        self._may_be_mapped = 0
        self._of_others = _pages_of_files()

    def __len__(self) -> int:
        return len(self.index)

    def blocks(self, wanted: Iterable[Tensor]) -> Iterator[Tensor]:
        """Reads blocks of images, the next ones while one is used.

        Args:
            wanted: The numbers of each block's images among the n, shape (m,), int64, on the CPU.

        Yields:
            The images of each, shape (m, C, H, W), uint8, on the device.

        Raises:
            UserError: The store's file has been cut short.
            RunFailed: There is no memory left to read into.
        """
        if self.workers == 0:
            for places in wanted:
                yield self._handed_over(self._read(places, self._room(places)))
            return
        with ThreadPoolExecutor(self.workers, "visionbench-reader") as pool:
            waiting: deque[Future[Tensor]] = deque()
            try:
                for places in wanted:
                    waiting.append(pool.submit(self._read, places, self._room(places)))
                    if len(waiting) > BLOCKS_AHEAD * self.workers:
                        yield self._handed_over(waiting.popleft().result())
                while waiting:
                    yield self._handed_over(waiting.popleft().result())
            finally:  # also where the epoch is broken off
                pool.shutdown(cancel_futures=True)

    def _room(self, places: Tensor) -> Tensor:
        # Pinned memory is copied to a GPU while the host goes on; torch keeps it from being used again before that.
        shape = (len(places), *self.shape[1:])
        return torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")

    def _read(self, places: Tensor, room: Tensor) -> Tensor:
        rows = self.index[places.numpy()]
        try:
            _announce(self.images, rows)
            if self.shape[1] == 1:
                _take(self.images, rows, room.view(len(rows), *self.images.shape[1:]).numpy())
            else:
                pixels = np.empty((len(rows), *self.images.shape[1:]), dtype=np.uint8)
                _take(self.images, rows, pixels)
                np.copyto(room.numpy(), pixels.transpose(0, 3, 1, 2))
        except MemoryError as error:
            raise RunFailed("There was no memory left to read the next images into.") from error
        return room

    def _handed_over(self, block: Tensor) -> Tensor:
        self._may_be_mapped += len(block) * max(LARGE_PAGE, math.prod(self.shape[1:]))
        if self._may_be_mapped >= MAPPED_BYTES:
            self._may_be_mapped = 0
            if _pages_of_files() - self._of_others > MAPPED_BYTES:
                forget(self.images)
        return block.to(self.device, non_blocking=self.device.type == "cuda")


def portions(images: np.ndarray, index: np.ndarray) -> Iterator[np.ndarray]:
    """Goes through images of a store, a few MB at a time.

    Args:
        images: Shape (N, H, W, C), uint8.
        index: Which of them, shape (n,).

    Yields:
        Copies of the next ones, shape (m, H, W, C).
    """
    size = max(1, PORTION_BYTES // max(1, math.prod(images.shape[1:])))
    for start in range(0, len(index), size):
        yield images[index[start : start + size]]
        forget(images)


def forget(array: np.ndarray) -> None:
    """Lets go of the pages of a memory map that were read.

    They stay in the page cache. Kept, they would be counted as this process's memory until that runs short.
    """
    if isinstance(array, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
        _map_of(array).madvise(mmap.MADV_DONTNEED)


def _pages_of_files() -> int:
    """Bytes of mapped files that count as this process's memory; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[2]) * mmap.PAGESIZE
    except OSError:
        return 0


def _announce(array: np.memmap, rows: np.ndarray) -> None:
    """Tells the system which rows will be read, so that it fetches all of them at once, not one after the other."""
    mapped, size = _map_of(array), array.dtype.itemsize * math.prod(array.shape[1:])
    begin = array.offset % mmap.ALLOCATIONGRANULARITY
    if mapped.size() < array.offset + array.nbytes:  # to read beyond its end would end the process
        raise UserError(
            f"The prepared array {array.filename} has been cut short since the run began; delete the folder it lies "
            "in, and run the same command to prepare it again."
        )
    # Smaller ones share their pages, and the system reads around a page by itself.
    if size < mmap.PAGESIZE or not hasattr(mmap, "MADV_WILLNEED"):
        return
    for row in np.sort(rows).tolist():
        place = begin + row * size
        first = place - place % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, first, place + size - first)


def _take(images: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    # With "raise" for what is out of range, NumPy would copy everything once more.
    np.take(np.asarray(images), rows, axis=0, out=out, mode="clip")


def _map_of(array: np.memmap) -> mmap.mmap:
    mapped: mmap.mmap = array._mmap  # type: ignore[attr-defined]  # the only way to it
    return mapped
