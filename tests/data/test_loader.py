import random
from itertools import chain

import numpy as np
import pytest
import torch

from tests.data.test_augment import ALL, NAMES
from tests.fakes import Tiny
from visionbench.data import loader as module
from visionbench.data.augment import AlternatingFlip, Augmentation, HorizontalFlip, RandomCrop
from visionbench.data.loader import EpochOrder, ResidentLoader, left_out
from visionbench.errors import UserError

pytestmark = pytest.mark.fast

MEAN, STD = [0.3, 0.5, 0.6], [0.2, 0.25, 0.4]
IMAGES = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (100, 3, 5, 7)).astype(np.uint8))


def make(n=24, *, batch_size=5, seed=None, epoch=0, **options):
    """A loader whose labels are the images' numbers; in their order unless a seed is given."""
    order = None if seed is None else EpochOrder(n, seed)
    if order:
        order.set_epoch(epoch)
    return ResidentLoader(
        IMAGES[:n], torch.arange(n), batch_size=batch_size, mean=MEAN, std=STD, order=order, **options
    )


def joined(loader):
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def numbers(loader):
    return [labels.tolist() for _, labels in loader]


def flat(batches):
    return list(chain.from_iterable(batches))


def normalized(images):
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (MEAN, STD))
    return (images.double() / 255 - mean) / std


def global_random_state():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


class Own(Augmentation):
    """As a user writes one."""

    def __init__(self, change=lambda images: images, rows=lambda n: n):
        self.change, self.rows = change, rows

    def draw(self, n, generator):
        return torch.rand(self.rows(n), generator=generator)

    def apply(self, images, parameters):
        return self.change(images)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (
            Own(lambda images: images[:, :, ::2]),
            r"made images of shape \(24, 3, 3, 7\), float32, of images of shape \(",
        ),
        (Own(lambda images: images[1:]), r"made images of shape \(23, 3, 5, 7\)"),
        (Own(lambda images: images.double()), r"made images of shape .*, float64, of images of shape .*, float32"),
        (Own(lambda images: images * 255), "made pixels from 0 to 255 of pixels from 0 to 1"),
        (Own(rows=lambda n: n // 2), "drew parameters for 12 of the 24 positions of an epoch"),
    ],
)
def test_an_augmentation_that_makes_something_else_is_refused(own, said):
    with pytest.raises(UserError, match=f"^Own {said}"):
        next(iter(make(seed=0, augmentations=[own])))


def test_an_augmentation_of_ones_own_may_add_noise():
    noise = Own(lambda images: images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0)))
    assert len(numbers(make(seed=0, augmentations=[noise]))) == 5


@pytest.mark.parametrize("size", [1, 2, 97])
def test_an_order_is_a_permutation(size):
    order = EpochOrder(size, seed=3)
    assert sorted(order) == list(range(size))
    assert list(order) == order.positions().tolist()
    assert len(order) == size


def test_orders_differ_between_epochs_and_seeds():
    orders = set()
    for seed in range(4):
        order = EpochOrder(30, seed)
        for epoch in range(4):
            order.set_epoch(epoch)
            orders.add(tuple(order))
    assert len(orders) == 16


@pytest.mark.parametrize("augmentations", [[], ALL], ids=["none", "all"])
def test_an_epoch_neither_follows_nor_moves_the_global_random_state(augmentations):
    epochs = []
    for seed in range(2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        before = global_random_state()
        epochs.append(joined(make(seed=5, augmentations=augmentations, num_classes=24)))
        assert global_random_state() == before
    assert torch.equal(epochs[0][0], epochs[1][0])
    assert torch.equal(epochs[0][1], epochs[1][1])


@pytest.mark.parametrize("seed", [None, 0])
def test_batches_are_the_normalized_images_in_their_order(seed):
    loader = make(seed=seed)
    order = torch.arange(24) if seed is None else loader.sampler.positions()
    images, labels = joined(loader)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert torch.equal(labels, order)
    torch.testing.assert_close(images.double(), normalized(IMAGES[order]), rtol=1e-5, atol=1e-6)


def test_augmented_batches_are_augmented_before_they_are_normalized():
    flip, crop = HorizontalFlip(), RandomCrop(2, "zeros")
    loader = make(seed=1, epoch=2, augmentations=[flip, crop])
    images, labels = joined(loader)
    expected = IMAGES[labels].float()
    for stream, augmentation in enumerate([flip, crop], start=1):
        expected = augmentation.apply(expected, augmentation.draw(24, module.generator(1, 2, stream)))
    torch.testing.assert_close(images.double(), normalized(expected), rtol=1e-5, atol=1e-6)


def test_augmentation_changes_with_the_epoch_and_from_image_to_image():
    first, second = (make(seed=1, epoch=epoch, augmentations=[HorizontalFlip()]) for epoch in range(2))
    flips = []
    for loader in (first, second):
        images, labels = joined(loader)
        plain = normalized(IMAGES[labels]).float()
        changed = (images - plain).abs().amax((1, 2, 3)) > 1e-3
        assert 0 < changed.sum() < 24
        flips.append(sorted(labels[changed].tolist()))
    assert flips[0] != flips[1]


def test_an_alternating_flip_mirrors_each_image_in_every_other_epoch():
    mirrored = []
    for epoch in range(3):
        images, labels = joined(make(seed=1, epoch=epoch, augmentations=[AlternatingFlip()]))
        plain = normalized(IMAGES[labels]).float()
        changed = torch.empty(24, dtype=torch.bool)
        changed[labels] = (images - plain).abs().amax((1, 2, 3)) > 1e-3
        torch.testing.assert_close(images.flip(-1)[changed[labels]], plain[changed[labels]], rtol=1e-5, atol=1e-6)
        mirrored.append(changed)
    assert 0 < mirrored[0].sum() < 24
    assert torch.equal(mirrored[1], ~mirrored[0])
    assert torch.equal(mirrored[2], mirrored[0])


def test_two_equal_augmentations_draw_independently():
    loader = make(seed=1, augmentations=[HorizontalFlip(), HorizontalFlip()])
    images, labels = joined(loader)
    assert not torch.allclose(images, normalized(IMAGES[labels]).float(), atol=1e-3)


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 7, 24, 100])
@pytest.mark.parametrize("block_bytes", [1, 4 * 3 * 5 * 7 * 9, 2**30])
@pytest.mark.parametrize("augmentations", [*([a] for a in ALL), ALL], ids=[*NAMES, "all"])
def test_neither_batch_size_nor_block_size_changes_what_an_epoch_holds(
    seed, batch_size, block_bytes, augmentations, monkeypatch
):
    options = {"seed": seed, "augmentations": augmentations, "num_classes": 24}
    images, labels = joined(make(batch_size=24, **options))
    monkeypatch.setattr(module, "BLOCK_BYTES", block_bytes)
    loader = make(batch_size=batch_size, **options)
    assert [len(batch) for batch in numbers(loader)[:-1]] == [batch_size] * (len(loader) - 1)
    again, same = joined(loader)
    assert torch.equal(labels, same)
    assert torch.equal(images, again)


@pytest.mark.parametrize("augmentation", ALL, ids=NAMES)
def test_an_epoch_is_the_same_whatever_was_served_before(augmentation):
    options = {"seed": 2, "augmentations": [augmentation], "num_classes": 24}
    images, labels = joined(make(epoch=3, **options))
    loader = make(**options)
    for epoch, batches in enumerate([5, 2, 0]):  # a whole epoch, and others that are broken off
        loader.sampler.set_epoch(epoch)
        assert len(list(zip(range(batches), loader, strict=False))) == batches
    loader.sampler.set_epoch(3)
    again, same = joined(loader)
    assert torch.equal(images, again)
    assert torch.equal(labels, same)


@pytest.mark.parametrize("augmentations", [*([a] for a in ALL), ALL, []], ids=[*NAMES, "all", "none"])
@pytest.mark.parametrize("batches", [0, 1, 3, 4])
def test_an_epoch_gone_on_with_holds_what_was_left_of_it(batches, augmentations):
    loader = make(seed=1, augmentations=augmentations, num_classes=24)
    images, labels = joined(loader)
    loader.begin_at(batches)
    rest, same = joined(loader)
    assert torch.equal(rest, images[5 * batches :])
    assert torch.equal(same, labels[5 * batches :])
    assert len(joined(loader)[1]) == 24  # only that iteration was shortened


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("n", [2, 23, 24, 25, 97])
def test_every_image_comes_once_an_epoch_and_the_last_small_batch_is_kept(seed, n):
    batches = numbers(make(n, batch_size=5, seed=seed))
    assert sorted(flat(batches)) == list(range(n))
    assert len(batches[-1]) == (n % 5 or 5)


def test_a_last_training_batch_of_one_image_is_left_out():
    assert [len(batch) for batch in numbers(make(21, batch_size=5, seed=0))] == [5] * 4
    assert [len(batch) for batch in numbers(make(21, batch_size=5))] == [5] * 4 + [1]
    assert [len(batch) for batch in numbers(make(3, batch_size=1, seed=0))] == [1] * 3


def test_a_last_training_batch_of_one_image_counts_where_no_batch_norm_trains():
    assert [len(batch) for batch in numbers(make(21, batch_size=5, seed=0, batch_norm=False))] == [5] * 4 + [1]
    for ranks, sizes in ((2, [5, 5, 1]), (3, [5, 2])):  # of 22: each of two processes gets one of the last two
        parts = [numbers(make(22, batch_size=5, seed=0, shard=(r, ranks), batch_norm=False)) for r in range(ranks)]
        assert [len(batch) for batch in parts[-1]] == sizes
    # Of 21, the second of two processes would have no image for the last batch.
    assert left_out(21, 5, 2, batch_norm=False) == 1
    assert left_out(22, 5, 2, batch_norm=True) == 2


def test_another_image_is_left_out_in_another_epoch():
    left_out = {sum(range(21)) - sum(flat(numbers(make(21, seed=0, epoch=epoch)))) for epoch in range(8)}
    assert len(left_out) > 1


def test_epochs_follow_the_sampler():
    loader = make(seed=0)
    first = numbers(loader)
    assert numbers(loader) == first
    loader.sampler.set_epoch(1)
    assert numbers(loader) != first
    loader.sampler.set_epoch(0)
    assert numbers(loader) == first


@pytest.mark.parametrize("n", [24, 25, 26, 29, 31, 100])
@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_processes_train_on_parts_of_the_same_global_batches(n, ranks, batch_size):
    parts = [numbers(make(n, batch_size=batch_size, seed=0, shard=(rank, ranks))) for rank in range(ranks)]
    assert len({len(part) for part in parts}) == 1
    whole = numbers(make(n, batch_size=batch_size * ranks, seed=0))[: len(parts[0])]
    for batch, *pieces in zip(whole, *parts, strict=True):
        assert sorted(flat(pieces)) == sorted(batch)
        assert all(len(piece) >= min(2, batch_size) for piece in pieces)
    assert n - sum(len(batch) for batch in whole) < 2 * ranks


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_processes_together_see_every_validation_image_once(ranks):
    parts = [flat(numbers(make(25, shard=(rank, ranks)))) for rank in range(ranks)]
    assert sorted(flat(parts)) == list(range(25))


@pytest.mark.parametrize("augmentations", [*([a] for a in ALL), ALL], ids=[*NAMES, "all"])
def test_an_image_is_augmented_alike_however_many_processes_there_are(augmentations):
    options = {"seed": 0, "augmentations": augmentations, "num_classes": 24}
    images, labels = joined(make(**options))
    for rank in range(3):
        part, same = joined(make(shard=(rank, 3), **options))
        assert torch.equal(part, images[rank::3])
        assert torch.equal(same, labels[rank::3])


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 7, 50])
@pytest.mark.parametrize("n", [1, 2, 3, 14, 15, 22, 100])
def test_the_length_is_the_number_of_batches(n, batch_size, ranks, seed):
    for rank in range(ranks):
        loader = make(n, batch_size=batch_size, seed=seed, shard=(rank, ranks))
        assert len(loader) == len(list(loader))


@pytest.fixture
def tiny(tmp_path):
    def build(**arguments):
        data = Tiny(root=str(tmp_path), batch_size=4, **arguments)
        data.setup()
        return data

    return build


def test_training_follows_the_seed_and_0_is_one(tiny):
    epochs = {seed: joined(tiny(seed=seed).train_dataloader())[0] for seed in (None, 0, 1)}
    assert torch.equal(epochs[None], epochs[0])
    assert not torch.equal(epochs[0], epochs[1])


class Blank(Augmentation):
    def draw(self, n, generator):
        return torch.zeros(n)

    def apply(self, images, parameters):
        return torch.zeros_like(images)


def test_validation_and_test_images_are_never_augmented(tiny):
    plain, blank = tiny(), tiny(augment=[Blank()])
    assert joined(blank.train_dataloader())[0].std((0, 2, 3)).max() < 1e-6
    for split in ("val_dataloader", "test_dataloader"):
        images, labels = joined(getattr(blank, split)())
        expected, same = joined(getattr(plain, split)())
        assert torch.equal(images, expected)
        assert torch.equal(labels, same)
