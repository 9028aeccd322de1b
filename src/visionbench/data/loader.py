"""Resident batches: the whole data set is one uint8 tensor on the device, and a batch is an index into it.

No Python code runs per image: a block of several batches is gathered, augmented and normalized at once on the device,
and the batches are slices of the block. Order and augmentation are functions of (seed, epoch, position in the epoch)
from private generators; neither the global random state nor the batch size changes them. Images that do not fit in
memory are read from the memory map, block by block; all other code is the same.
"""

import copy
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Sampler

from visionbench.classes import is_ours
from visionbench.data.augment import Augmentation, Mixing
from visionbench.data.mapped import MappedImages
from visionbench.errors import UserError

# Large enough to spread the cost of the calls over many batches, small enough to stay in a processor's cache.
BLOCK_BYTES = 4 * 2**20
# Pixels beyond these, after an augmentation, are not on the scale from 0 to 1; added noise may go beyond 0 and 1.
LOWEST, HIGHEST = -1.0, 2.0


def generator(seed: int, epoch: int, stream: int) -> torch.Generator:
    """A private generator for one purpose in one epoch; `SeedSequence` makes those of nearby numbers independent."""
    state = np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def scale_and_shift(
    mean: Sequence[float], std: Sequence[float], device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Factor and summand that normalize bytes, (C, 1, 1) float32: (pixels / 255 - mean) / std = pixels * a + b."""
    std_column = torch.tensor(std, dtype=torch.float32, device=device)[:, None, None]
    mean_column = torch.tensor(mean, dtype=torch.float32, device=device)[:, None, None]
    return 1 / (255 * std_column), -mean_column / std_column


def left_out(size: int, batch_size: int, processes: int, batch_norm: bool) -> int:
    """Gives the number of images that an epoch of training leaves out: those of a last batch that is too small.

    A batch norm needs two images, whose variance is not 0. With several processes, each of them needs an image, since
    the others would wait for its gradient.

    Args:
        size: Number of training images.
        batch_size: Number of images in a batch, for each process.
        processes: Number of processes.
        batch_norm: Whether the model has a batch norm, which cannot train on a batch of one image.
    """
    rest = size % (batch_size * processes)
    return rest if rest < (2 if batch_norm else 1) * processes else 0


class EpochOrder(Sampler[int]):
    """Order of the training images, a function of (seed, epoch).

    Lightning sets the epoch through `set_epoch`, also after a resume, as for every sampler with this method.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next iteration, from 0."""
        self.epoch = epoch

    def positions(self) -> Tensor:
        """Index of the image at each position of the epoch, shape (N,), int64, on the CPU."""
        return torch.randperm(self.size, generator=generator(self.seed, self.epoch, 0))

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions().tolist())

    def __len__(self) -> int:
        return self.size


class FixedOrder(EpochOrder):
    """Order of the data in every epoch, so that only augmentations differ from epoch to epoch."""

    def positions(self) -> Tensor:  # noqa: D102
        return torch.arange(self.size)


class ResidentLoader:
    """Batches of (images, labels): (B, C, H, W) float32, normalized, and (B,) int64, on the data's device.

    If an augmentation mixes images, the labels are the share of each class, shape (B, num_classes), float32.

    Args:
        images: Images of the split, shape (N, C, H, W), uint8, or a reader of them.
        labels: Labels of the images, shape (N,), int64, on the same device.
        batch_size: Number of images in a batch; the last batch may be smaller.
        mean: Mean per channel, subtracted from pixels in [0, 1].
        std: Standard deviation per channel, of pixels in [0, 1]; divides them after the mean is subtracted.
        order: Order of each epoch; `None` for the order of the data.
        augmentations: Augmentations, applied one after the other with the seed and epoch of `order`; without an `order`
            they are not applied.
        num_classes: Number of classes of the data set; required if an augmentation mixes images.
        shard: (rank, number of processes): a global batch has `batch_size` images per process, assigned in turn.
        batch_norm: Whether the model has a batch norm, which cannot train on a batch of one image.

    With an `order`, the images of a last batch that is too small, as `left_out` says, are left out of the epoch.
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
        batch_norm: bool = True,
    ) -> None:
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        # Names of a DataLoader: Lightning sets the epoch through `sampler`, and also reads `batch_sampler`.
        self.sampler = order
        self.batch_sampler = None
        self.augmentations = augmentations if order is not None else ()
        self.num_classes = num_classes
        if num_classes < 1 and any(map(_mixes, self.augmentations)):
            raise UserError(
                f"num_classes is {num_classes}, expected 1 or more, since an augmentation mixes images; pass it."
            )
        # A user's own, whose first images are looked at.
        self.unchecked = [entry for entry in self.augmentations if not is_ours(type(entry))]
        self.gives_samples_as_they_are = True  # to loaders that share its images by `again`
        self.rank, self.ranks = shard
        self.scale, self.shift = scale_and_shift(mean, std, images.device)
        kept = len(images)
        if order is not None:
            kept -= left_out(kept, batch_size, self.ranks, batch_norm)
        self.kept = kept
        # Positions of this process in the epoch.
        self.positions = torch.arange(kept)[self.rank :: self.ranks].contiguous()
        self.batches_done = 0

    def again(self, order: EpochOrder | None = None, augmentations: Sequence[Augmentation] = ()) -> "ResidentLoader":
        """A loader of all these images in another way, which shares their memory.

        Args:
            order: Order of each epoch; `None` for the order of the data.
            augmentations: Augmentations, none of which mixes images; without an `order` they are not applied.
        """
        loader = copy.copy(self)
        loader.sampler, loader.batches_done = order, 0
        loader.augmentations = augmentations if order is not None else ()
        left = left_out(len(self.images), self.batch_size, self.ranks, batch_norm=False) if order is not None else 0
        loader.positions = torch.arange(len(self.images) - left)[self.rank :: self.ranks].contiguous()
        return loader

    def __len__(self) -> int:
        return -(-len(self.positions) // self.batch_size)

    def weight(self, batch: int) -> float:
        """Gives the weight of this process's mean over a batch in the mean over all processes.

        It is 1, save in a last batch of which processes have more or fewer images: the mean of their means would count
        the images of a smaller part more.

        Args:
            batch: Number of the batch in the epoch, from 0.
        """
        if self.ranks == 1 or batch < len(self) - 1:
            return 1.0
        here = len(self.positions) - batch * self.batch_size
        return here * self.ranks / (self.kept - batch * self.batch_size * self.ranks)

    def begin_at(self, batches: int) -> None:
        """Skips the first batches of the next iteration only: those that a resumed run has already seen."""
        self.batches_done = batches

    def places(self, batch: int) -> list[int]:
        """Gives the indices of the images of a batch, in the split, in this process and the epoch of the sampler.

        Args:
            batch: Number of the batch in the epoch, from 0.
        """
        positions = self.positions[batch * self.batch_size : (batch + 1) * self.batch_size]
        if self.sampler is None:
            return positions.tolist()
        return self.sampler.positions()[positions].tolist()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first, self.batches_done = self.batches_done * self.batch_size, 0
        order = torch.arange(len(self.images))
        parameters: list[Tensor] = []
        if self.sampler is not None:
            order = self.sampler.positions()
            for stream, augmentation in enumerate(self.augmentations, start=1):
                draws = functools.partial(generator, self.sampler.seed, stream=stream)
                drawn = augmentation.of_epoch(order, self.sampler.epoch, draws)
                if len(drawn) != len(order):
                    raise UserError(
                        f"{type(augmentation).__name__} drew parameters for {len(drawn)} of the {len(order)} positions "
                        "of an epoch, expected a row for each; let draw return n rows."
                    )
                parameters.append(drawn.to(self.images.device))
        size = min(self.batch_size, max(1, len(self.positions)))  # a larger one may not be an integer of the machine
        block = size * max(1, BLOCK_BYTES // (4 * math.prod(self.images.shape[1:]) * size))
        starts = range(first, len(self.positions), block)
        needed, ahead = itertools.tee(
            self._needed(self.positions[start : start + block], len(order)) for start in starts
        )
        blocks = self._read(order[to_read] for *_, to_read in ahead)
        for positions, images in zip(needed, blocks, strict=True):
            images, labels = self._augmented(images, positions, order, parameters)
            yield from zip(
                torch.split(self._normalized(images), size),
                torch.split(labels, size),
                strict=True,
            )

    def _needed(self, positions: Tensor, size: int) -> list[Tensor]:
        """Positions whose images are needed after each mixing, from the last mixing to the first, and before the first.

        The input of a mixing holds the positions of its output and, as their partners, the positions before them. Each
        tensor is sorted. The last one holds the positions to read.
        """
        needed = [positions]
        for _ in filter(_mixes, self.augmentations):
            needed.append(torch.unique(torch.cat([needed[-1], (needed[-1] - 1) % size])))
        return needed

    def _read(self, requested: Iterable[Tensor]) -> Iterator[Tensor]:
        """Images at the requested indices, one block after the other, uint8."""
        if isinstance(self.images, MappedImages):
            return self.images.blocks(requested)
        # index_select copies whole images; indexing with [] would copy pixel by pixel.
        images = self.images
        return (images.index_select(0, indices.to(images.device)) for indices in requested)

    def _augmented(
        self, images: Tensor, needed: Sequence[Tensor], order: Tensor, parameters: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Images and labels at the first positions of `needed`; images are uint8, or float32 in [0, 1]."""
        *remaining, current = needed
        rows = current.to(self.images.device)
        labels = self.labels.index_select(0, order[current].to(self.images.device))
        for augmentation, drawn in zip(self.augmentations, parameters, strict=True):
            if images.dtype == torch.uint8 and not augmentation.moves_pixels:
                images = images.float().div_(255)
            if not isinstance(augmentation, Mixing):
                before, images = images, augmentation.apply(images, drawn.index_select(0, rows))
                if augmentation in self.unchecked:
                    self.unchecked = [entry for entry in self.unchecked if entry is not augmentation]
                    _check_augmented(augmentation, before, images)
                continue
            output = remaining.pop()
            own, partner = (torch.searchsorted(current, p).to(rows) for p in (output, (output - 1) % len(order)))
            current, rows = output, output.to(rows)
            images, share = augmentation.mix(
                images.index_select(0, own), images.index_select(0, partner), drawn.index_select(0, rows)
            )
            labels = labels if labels.ndim == 2 else F.one_hot(labels, self.num_classes).float()
            labels = labels[own] * share[:, None] + labels[partner] * (1 - share[:, None])
        return images, labels

    def _normalized(self, images: Tensor) -> Tensor:
        """Normalizes images, which are uint8 or float32 in [0, 1]."""
        if images.dtype == torch.uint8:
            return images.float().mul_(self.scale).add_(self.shift)
        return (images * (255 * self.scale)).add_(self.shift)


class RowLoader(ResidentLoader):
    """Batches of (rows, labels): (B, F) float32, unchanged, and (B,) int64, in the same order as batches of images.

    Args:
        rows: Encoded rows, shape (N, F), float32.
        labels: Labels of the rows, shape (N,), int64, on the same device.
        batch_size: Number of rows in a batch; the last batch may be smaller.
        order: Order of each epoch; `None` for the order of the data.
        shard: (rank, number of processes).
        batch_norm: Whether the model has a batch norm, which cannot train on a batch of one image.
    """

    def __init__(
        self,
        rows: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        order: EpochOrder | None = None,
        shard: tuple[int, int] = (0, 1),
        batch_norm: bool = True,
    ) -> None:
        super().__init__(
            *(rows, labels),
            batch_size=batch_size,
            mean=[0.0],
            std=[1.0],
            order=order,
            shard=shard,
            batch_norm=batch_norm,
        )

    def _normalized(self, images: Tensor) -> Tensor:
        return images  # rows are already encoded


class FeatureLoader(ResidentLoader):
    """Batches of (features, labels) in place of those of a loader of images: the same samples in the same order.

    Args:
        loader: Loader of the images.
        views: Features of all samples in the order of the data, shape (N, F), float32, on the loader's device; with
            several, those of differently augmented images, which the epochs take in turn.
        augmented: Whether the images were augmented.
    """

    def __init__(self, loader: ResidentLoader, views: Sequence[Tensor], augmented: bool) -> None:
        vars(self).update(vars(loader))
        self.views = views
        self.images = views[0]
        self.augmentations = ()
        self.gives_samples_as_they_are = not augmented

    def some(self, count: int) -> tuple[Tensor, Tensor]:
        """Gives the features and the labels of some samples, evenly spaced in the order of the data.

        Args:
            count: Number of samples; a smaller split gives all it has.
        """
        size = len(self.labels)
        places = torch.from_numpy(np.linspace(0, size - 1, min(count, size)).round().astype(np.int64))
        places = places.to(self.labels.device)
        return self.views[0].index_select(0, places), self.labels.index_select(0, places)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.sampler is not None:
            self.images = self.views[self.sampler.epoch % len(self.views)]
        return super().__iter__()

    def _normalized(self, images: Tensor) -> Tensor:
        return images  # the network saw the normalized images


def _check_augmented(augmentation: Augmentation, before: Tensor, after: Tensor) -> None:
    """Refuses images of another shape or type, or on another scale, which would be normalized wrongly."""
    if (after.shape, after.dtype) != (before.shape, before.dtype):
        raise UserError(
            f"{type(augmentation).__name__} made images of shape {tuple(after.shape)}, {_type_name(after)}, of images "
            f"of shape {tuple(before.shape)}, {_type_name(before)}, expected the same shape and type; correct its "
            "apply."
        )
    if after.is_floating_point() and after.numel():
        lowest, highest = (float(value) for value in after.aminmax())
        if lowest < LOWEST or highest > HIGHEST:
            raise UserError(
                f"{type(augmentation).__name__} made pixels from {lowest:.3g} to {highest:.3g} of pixels from 0 to 1, "
                "expected about 0 to 1, since they are normalized afterwards; correct its apply."
            )


def _type_name(images: Tensor) -> str:
    return str(images.dtype).removeprefix("torch.")


def _mixes(augmentation: Augmentation) -> bool:
    return isinstance(augmentation, Mixing)
