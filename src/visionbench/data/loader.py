"""Resident batches: the whole data set as one uint8 tensor on the device, a batch an index into it.

There are no workers and no per-image Python: gathering, augmenting and normalising are done for a block of batches at
a time, on the device, and the batches are slices of it. Order and augmentation are functions of (seed, epoch,
position in the epoch) from private generators; neither the global random state nor the batch size moves them.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from visionbench.data.augment import Augmentation

# Large enough to spread the cost of the calls over many batches, small enough to stay in a processor's cache.
BLOCK_BYTES = 4 * 2**20


def generator(seed: int, epoch: int, stream: int) -> torch.Generator:
    """A private generator for one purpose in one epoch of one run; `SeedSequence` keeps neighbours independent."""
    state = np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


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

    Args:
        images: The data, shape (N, C, H, W), uint8.
        labels: Shape (N,), int64, on the same device.
        batch_size: Images in a batch; the last one may be smaller.
        mean: Subtracted from pixels in [0, 1], one a channel.
        std: Then divided by, one a channel.
        order: Shuffles each epoch; `None` keeps the data's order.
        augmentations: Applied one after the other; they need an `order`, whose seed and epoch they share.
        shard: (rank, number of processes): a global batch is `batch_size` images for each process, dealt out in turn.

    With an `order`, a last batch that would leave a process a single image or none is left out: batch norm cannot
    train on one, and a process without a batch would leave the others waiting for its gradient.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        order: EpochOrder | None = None,
        augmentations: Sequence[Augmentation] = (),
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        # A DataLoader's names: through `sampler` Lightning sets the epoch, and it reads `batch_sampler` on the way.
        self.sampler = order
        self.batch_sampler = None
        self.augmentations = augmentations
        self.rank, self.ranks = shard
        # (x / 255 - mean) / std as one multiplication and one addition
        std_column = torch.tensor(std, dtype=torch.float32, device=images.device)[:, None, None]
        self.scale = 1 / (255 * std_column)
        self.shift = -torch.tensor(mean, dtype=torch.float32, device=images.device)[:, None, None] / std_column
        rest = len(images) % (batch_size * self.ranks)
        left_out = rest if order is not None and rest < 2 * self.ranks else 0
        # This process's positions in the epoch.
        self.positions = torch.arange(len(images) - left_out)[self.rank :: self.ranks]

    def __len__(self) -> int:
        return -(-len(self.positions) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        device = self.images.device
        order = torch.arange(len(self.images)) if self.sampler is None else self.sampler.positions()
        chosen = order[self.positions].to(device)
        parameters: list[Tensor] = []
        if self.sampler is not None:
            for stream, augmentation in enumerate(self.augmentations, start=1):
                draws = generator(self.sampler.seed, self.sampler.epoch, stream)
                parameters.append(augmentation.draw(self.sampler.size, draws)[self.positions].to(device))
        image_bytes = 4 * self.images[0].numel()
        block = self.batch_size * max(1, BLOCK_BYTES // (image_bytes * self.batch_size))
        for start in range(0, len(chosen), block):
            stop = min(start + block, len(chosen))
            index = chosen[start:stop]
            images = self._normalised(self.images[index], [p[start:stop] for p in parameters])
            yield from zip(
                torch.split(images, self.batch_size), torch.split(self.labels[index], self.batch_size), strict=True
            )

    def _normalised(self, images: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        pixels = images.float()
        if not parameters:
            return pixels.mul_(self.scale).add_(self.shift)
        pixels.div_(255)
        for augmentation, rows in zip(self.augmentations, parameters, strict=True):
            pixels = augmentation.apply(pixels, rows)
        return pixels * (255 * self.scale) + self.shift
