"""Resident batches: the whole data set as one uint8 tensor on the device, a batch an index into it.

There is no per-image Python: gathering, augmenting and normalising are done for a block of batches at a time, on the
device, and the batches are slices of it. Order and augmentation are functions of (seed, epoch, position in the epoch)
from private generators; neither the global random state nor the batch size moves them. What does not fit in memory
comes from the memory map instead, block by block; all the rest is the same code.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Sampler

from visionbench.data.augment import Augmentation, Mixing
from visionbench.data.mapped import MappedImages
from visionbench.errors import UserError

# Large enough to spread the cost of the calls over many batches, small enough to stay in a processor's cache.
BLOCK_BYTES = 4 * 2**20


def generator(seed: int, epoch: int, stream: int) -> torch.Generator:
    """A private generator for one purpose in one epoch of one run; `SeedSequence` keeps neighbours independent."""
    state = np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def scale_and_shift(
    mean: Sequence[float], std: Sequence[float], device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Two factors, (C, 1, 1) float32: pixels times the first plus the second are (pixels / 255 - mean) / std."""
    std_column = torch.tensor(std, dtype=torch.float32, device=device)[:, None, None]
    mean_column = torch.tensor(mean, dtype=torch.float32, device=device)[:, None, None]
    return 1 / (255 * std_column), -mean_column / std_column


class EpochOrder(Sampler[int]):
    """The order of the training images, a function of (seed, epoch).

    Lightning tells it the epoch, after a resume too, as it does every sampler that has a `set_epoch`.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, from 0, that the next iteration is for."""
        self.epoch = epoch

    def positions(self) -> Tensor:
        """The image at each position of the epoch, shape (N,), int64, on the CPU."""
        return torch.randperm(self.size, generator=generator(self.seed, self.epoch, 0))

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions().tolist())

    def __len__(self) -> int:
        return self.size


class ResidentLoader:
    """Batches of (images, labels): (B, C, H, W) float32, normalised, and (B,) int64, on the data's device.

    Where an augmentation mixes images, the labels are each class's share: (B, num_classes), float32.

    Args:
        images: The data, shape (N, C, H, W), uint8, or what reads them from a store.
        labels: Shape (N,), int64, on the same device.
        batch_size: Images in a batch; the last one may be smaller.
        mean: Subtracted from pixels in [0, 1], one a channel.
        std: Then divided by, one a channel.
        order: Shuffles each epoch; `None` keeps the data's order.
        augmentations: Applied one after the other; they need an `order`, whose seed and epoch they share.
        num_classes: Of the data set; needed where an augmentation mixes images.
        shard: (rank, number of processes): a global batch is `batch_size` images for each process, dealt out in turn.

    With an `order`, a last batch that would leave a process a single image or none is left out: batch norm cannot
    train on one, and a process without a batch would leave the others waiting for its gradient.
    """

    def __init__(
        self,
        images: Tensor | MappedImages,
        labels: Tensor,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        order: EpochOrder | None = None,
        augmentations: Sequence[Augmentation] = (),
        num_classes: int = 0,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        # A DataLoader's names: through `sampler` Lightning sets the epoch, and it reads `batch_sampler` on the way.
        self.sampler = order
        self.batch_sampler = None
        self.augmentations = augmentations if order is not None else ()
        self.num_classes = num_classes
        if num_classes < 1 and any(map(_mixes, self.augmentations)):
            raise UserError("An augmentation that mixes images needs to know how many classes there are: num_classes.")
        self.rank, self.ranks = shard
        self.scale, self.shift = scale_and_shift(mean, std, images.device)
        rest = len(images) % (batch_size * self.ranks)
        left_out = rest if order is not None and rest < 2 * self.ranks else 0
        # This process's positions in the epoch.
        self.positions = torch.arange(len(images) - left_out)[self.rank :: self.ranks].contiguous()
        self.batches_done = 0

    def __len__(self) -> int:
        return -(-len(self.positions) // self.batch_size)

    def begin_at(self, batches: int) -> None:
        """Leaves out the first batches of the next iteration alone: those that a run has seen before it went on."""
        self.batches_done = batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first, self.batches_done = self.batches_done * self.batch_size, 0
        order = torch.arange(len(self.images))
        parameters: list[Tensor] = []
        if self.sampler is not None:
            order = self.sampler.positions()
            for stream, augmentation in enumerate(self.augmentations, start=1):
                draws = generator(self.sampler.seed, self.sampler.epoch, stream)
                parameters.append(augmentation.draw(len(order), draws).to(self.images.device))
        block = self.batch_size * max(1, BLOCK_BYTES // (4 * math.prod(self.images.shape[1:]) * self.batch_size))
        starts = range(first, len(self.positions), block)
        given, ahead = itertools.tee(self._given(self.positions[start : start + block], len(order)) for start in starts)
        read = self._read(order[needed] for *_, needed in ahead)
        for positions, images in zip(given, read, strict=True):
            images, labels = self._augmented(images, positions, order, parameters)
            yield from zip(
                torch.split(self._normalised(images), self.batch_size),
                torch.split(labels, self.batch_size),
                strict=True,
            )

    def _given(self, positions: Tensor, size: int) -> list[Tensor]:
        """The positions whose images each mixing has to give, from the last one backwards; then those to be read.

        A mixing is given those that it has to give and, as their partners, the positions before them. All ascend.
        """
        given = [positions]
        for _ in filter(_mixes, self.augmentations):
            given.append(torch.unique(torch.cat([given[-1], (given[-1] - 1) % size])))
        return given

    def _read(self, wanted: Iterable[Tensor]) -> Iterator[Tensor]:
        """Images by their numbers, a block after the other, in bytes."""
        if isinstance(self.images, MappedImages):
            return self.images.blocks(wanted)
        # A gather by index_select copies image by image; by [] it would go pixel by pixel.
        images = self.images
        return (images.index_select(0, chosen.to(images.device)) for chosen in wanted)

    def _augmented(
        self, images: Tensor, given: Sequence[Tensor], order: Tensor, parameters: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Images and labels at the first of the positions of `_given`; images in bytes or in [0, 1]."""
        *following, here = given
        rows = here.to(self.images.device)
        labels = self.labels.index_select(0, order[here].to(self.images.device))
        for augmentation, drawn in zip(self.augmentations, parameters, strict=True):
            if images.dtype == torch.uint8 and not augmentation.moves_pixels:
                images = images.float().div_(255)
            if not isinstance(augmentation, Mixing):
                images = augmentation.apply(images, drawn.index_select(0, rows))
                continue
            there = following.pop()
            own, before = (torch.searchsorted(here, p).to(rows) for p in (there, (there - 1) % len(order)))
            here, rows = there, there.to(rows)
            images, share = augmentation.mix(
                images.index_select(0, own), images.index_select(0, before), drawn.index_select(0, rows)
            )
            labels = labels if labels.ndim == 2 else F.one_hot(labels, self.num_classes).float()
            labels = labels[own] * share[:, None] + labels[before] * (1 - share[:, None])
        return images, labels

    def _normalised(self, images: Tensor) -> Tensor:
        """Images in bytes, or in [0, 1] if they are floats, less the mean and by the standard deviation."""
        if images.dtype == torch.uint8:
            return images.float().mul_(self.scale).add_(self.shift)
        return (images * (255 * self.scale)).add_(self.shift)


class RowLoader(ResidentLoader):
    """Batches of (rows, labels): (B, F) float32, as they are, and (B,) int64, in the order that images would have.

    Args:
        rows: The data, shape (N, F), float32.
        labels: Shape (N,), int64, on the same device.
        batch_size: Rows in a batch; the last one may be smaller.
        order: Shuffles each epoch; `None` keeps the data's order.
        shard: (rank, number of processes).
    """

    def __init__(
        self,
        rows: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        order: EpochOrder | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__(rows, labels, batch_size=batch_size, mean=[0.0], std=[1.0], order=order, shard=shard)

    def _normalised(self, images: Tensor) -> Tensor:
        return images  # encoded as a model is given them


def _mixes(augmentation: Augmentation) -> bool:
    return isinstance(augmentation, Mixing)
