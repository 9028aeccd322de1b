"""Images that are not held in memory: read from a store through the memory map, some blocks ahead of training.

Reading a block copies bytes out of the page cache. NumPy copies, and waits for the disk, without Python's global lock.
The workers are therefore threads, as in FFCV and DALI, not processes, as in a `DataLoader`. Threads start at once,
while a process imports torch for seconds and needs memory for its libraries; their results need no transfer between
processes; and no thread remains after a run, however it ends.
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

# Blocks per worker that are read, or queued for reading, while training uses an earlier one.
BLOCKS_AHEAD = 2
# Size of a chunk when all images are read once in order.
CHUNK_BYTES = 4 * 2**20
# Mapped bytes after which the pages are released. The check takes place each time this many bytes may have been mapped:
# reading one row may map a whole large page of the page cache.
MAPPED_BYTES = 256 * 2**20
LARGE_PAGE = 2 * 2**20


class MappedImages:
    """Images of a prepared store that are read when they are needed.

    Args:
        images: Memory-mapped images of the store, shape (N, H, W, C), uint8.
        index: Indices of the images to use, in order, shape (n,), int64.
        device: Device that gets the images.
        workers: Number of threads that read ahead; 0 reads each batch when it is requested.
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
        self._mapped_before = _mapped_file_bytes()

    def __len__(self) -> int:
        return len(self.index)

    def blocks(self, requested: Iterable[Tensor]) -> Iterator[Tensor]:
        """Reads blocks of images; while one block is used, the next ones are read.

        Args:
            requested: Positions in `index` of the images of each block, shape (m,), int64, on the CPU.

        Yields:
            The images of each block, shape (m, C, H, W), uint8, on the device.

        Raises:
            UserError: The file of the store has been truncated.
            RunFailed: The memory is full.
        """
        if self.workers == 0:
            for positions in requested:
                yield self._delivered(self._read(positions, self._buffer(positions)))
            return
        with ThreadPoolExecutor(self.workers, "visionbench-reader") as pool:
            waiting: deque[Future[Tensor]] = deque()
            try:
                for positions in requested:
                    waiting.append(pool.submit(self._read, positions, self._buffer(positions)))
                    if len(waiting) > BLOCKS_AHEAD * self.workers:
                        yield self._delivered(waiting.popleft().result())
                while waiting:
                    yield self._delivered(waiting.popleft().result())
            finally:  # also if the epoch is interrupted
                pool.shutdown(cancel_futures=True)

    def _buffer(self, positions: Tensor) -> Tensor:
        # Pinned memory is copied to a GPU asynchronously; torch does not reuse it before the copy is complete.
        shape = (len(positions), *self.shape[1:])
        return torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")

    def _read(self, positions: Tensor, buffer: Tensor) -> Tensor:
        rows = self.index[positions.numpy()]
        try:
            _announce(self.images, rows)
            if self.shape[1] == 1:
                _take(self.images, rows, buffer.view(len(rows), *self.images.shape[1:]).numpy())
            else:
                pixels = np.empty((len(rows), *self.images.shape[1:]), dtype=np.uint8)
                _take(self.images, rows, pixels)
                np.copyto(buffer.numpy(), pixels.transpose(0, 3, 1, 2))
        except MemoryError as error:
            raise RunFailed("The memory is full, so that the next images cannot be read.") from error
        return buffer

    def _delivered(self, block: Tensor) -> Tensor:
        self._may_be_mapped += len(block) * max(LARGE_PAGE, math.prod(self.shape[1:]))
        if self._may_be_mapped >= MAPPED_BYTES:
            self._may_be_mapped = 0
            if _mapped_file_bytes() - self._mapped_before > MAPPED_BYTES:
                release_pages(self.images)
        return block.to(self.device, non_blocking=self.device.type == "cuda")


def chunks(images: np.ndarray, index: np.ndarray) -> Iterator[np.ndarray]:
    """Reads images of a store in chunks of a few MB.

    Args:
        images: Images of the store, shape (N, H, W, C), uint8.
        index: Indices of the images to read, shape (n,).

    Yields:
        Copies of the next images, shape (m, H, W, C).
    """
    size = max(1, CHUNK_BYTES // max(1, math.prod(images.shape[1:])))
    for start in range(0, len(index), size):
        yield images[index[start : start + size]]
        release_pages(images)


def release_pages(array: np.ndarray) -> None:
    """Releases the pages of a memory map that were read.

    The pages stay in the page cache. Without the release they would count as memory of this process until it is full.
    """
    if isinstance(array, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
        _map_of(array).madvise(mmap.MADV_DONTNEED)


def _mapped_file_bytes() -> int:
    """Bytes of mapped files that count as memory of this process; 0 if the system does not report them."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[2]) * mmap.PAGESIZE
    except OSError:
        return 0


def _announce(array: np.memmap, rows: np.ndarray) -> None:
    """Announces the rows to the system, so that it reads all of them at once instead of one after the other."""
    mapped, size = _map_of(array), array.dtype.itemsize * math.prod(array.shape[1:])
    begin = array.offset % mmap.ALLOCATIONGRANULARITY
    if mapped.size() < array.offset + array.nbytes:  # reading beyond the end of the file would kill the process
        raise UserError(
            f"The prepared array {array.filename} has been truncated since the run started; delete its folder, and run "
            "the same command to prepare it again."
        )
    # Smaller rows share pages, and the system reads the neighbors of a page by itself.
    if size < mmap.PAGESIZE or not hasattr(mmap, "MADV_WILLNEED"):
        return
    for row in np.sort(rows).tolist():
        start = begin + row * size
        first = start - start % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, first, start + size - first)


def _take(images: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    # With mode "raise", NumPy would make another copy of the images.
    np.take(np.asarray(images), rows, axis=0, out=out, mode="clip")


def _map_of(array: np.memmap) -> mmap.mmap:
    mapped: mmap.mmap = array._mmap  # type: ignore[attr-defined]  # NumPy has no public access to the map
    return mapped
