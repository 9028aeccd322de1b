"""MixUp and CutMix: what they make of images and labels, whom they mix with whom, and how training takes it."""

import math

import pytest
import torch
import yaml
from torchvision.transforms import v2

from tests.data.test_augment import N, assert_like, seeded
from tests.data.test_loader import IMAGES, MEAN, STD, joined, make, normalized
from tests.fakes import Tiny
from visionbench.data import loader as module
from visionbench.data.augment import ColorJitter, CutMix, HorizontalFlip, MixUp, RandomCrop
from visionbench.data.loader import EpochOrder, ResidentLoader
from visionbench.errors import UserError

PIPELINES = {
    "mixup": [MixUp(0.4)],
    "cutmix": [CutMix()],
    "both": [MixUp(), CutMix(0.5)],
    "after and before others": [RandomCrop(1), MixUp(), ColorJitter(0.2, 0.4), CutMix(), HorizontalFlip()],
}


def whole_epoch(augmentations, seed, epoch, n, classes):
    """The augmented images and the labels of an epoch in one piece, each mixed with the one before it."""
    order = EpochOrder(n, seed)
    order.set_epoch(epoch)
    images = IMAGES[order.positions()].double() / 255
    labels = torch.eye(classes, dtype=torch.float64)[order.positions()]
    for stream, augmentation in enumerate(augmentations, start=1):
        drawn = augmentation.draw(n, module.generator(seed, epoch, stream))
        if isinstance(augmentation, MixUp):
            share = drawn.double()
            images = share[:, None, None, None] * images + (1 - share[:, None, None, None]) * images.roll(1, 0)
        elif isinstance(augmentation, CutMix):
            share = torch.zeros(n, dtype=torch.float64)
            mixed, partners = images.clone(), images.roll(1, 0)
            for i, (top, left, bottom, right) in enumerate(zip(*augmentation.rectangles(drawn, 5, 7), strict=True)):
                mixed[i, :, top:bottom, left:right] = partners[i, :, top:bottom, left:right]
                share[i] = 1 - (bottom - top) * (right - left) / 35
            images = mixed
        else:
            images = augmentation.apply(images.float(), drawn).double()
            continue
        labels = share[:, None] * labels + (1 - share[:, None]) * labels.roll(1, 0)
    return normalized(255 * images), labels


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("n", [2, 7, 24])
def test_an_epoch_is_each_image_mixed_with_the_one_before_it(name, n):
    images, labels = joined(make(n, seed=3, epoch=2, augmentations=PIPELINES[name], num_classes=n))
    expected, shares = whole_epoch(PIPELINES[name], 3, 2, n, n)
    assert (images.dtype, labels.dtype, labels.shape) == (torch.float32, torch.float32, (n, n))
    torch.testing.assert_close(images.double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(labels.double(), shares, rtol=0, atol=1e-6)
    torch.testing.assert_close(labels.sum(1), torch.ones(n))


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("ranks", [2, 3])
def test_partners_do_not_depend_on_the_number_of_processes(name, ranks):
    options = {"seed": 1, "augmentations": PIPELINES[name], "num_classes": 24}
    images, labels = joined(make(**options))
    for rank in range(ranks):
        part, shares = joined(make(shard=(rank, ranks), **options))
        assert torch.equal(part, images[rank::ranks])
        assert torch.equal(shares, labels[rank::ranks])


def test_no_image_is_its_own_partner_and_partners_change_with_the_epoch():
    partners = []
    for epoch in range(2):
        _, labels = joined(make(seed=0, epoch=epoch, augmentations=[MixUp()], num_classes=24))
        assert ((labels > 0).sum(1) == 2).all()
        order = EpochOrder(24, 0)
        order.set_epoch(epoch)
        own = order.positions()
        others = labels.scatter(1, own[:, None], 0).argmax(1)
        partners.append(dict(zip(own.tolist(), others.tolist(), strict=True)))
    assert partners[0] != partners[1]


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
@pytest.mark.parametrize("kind", [MixUp, CutMix])
def test_shares_are_drawn_from_the_beta_distribution(kind, alpha):
    shares = kind(alpha).draw(N, seeded()).view(N, -1)[:, 0]
    assert shares.min() >= 0
    assert shares.max() <= 1
    torch.manual_seed(0)
    assert_like(shares, torch.distributions.Beta(alpha, alpha).sample((N,)))
    assert abs(shares.mean() - 0.5) < 3 / math.sqrt(4 * (2 * alpha + 1) * N)


@pytest.mark.parametrize("size", [(28, 28), (15, 40)])
def test_rectangles_are_distributed_as_torchvision_s(size):
    torch.manual_seed(0)
    theirs = [v2.CutMix(num_classes=2).make_params([torch.zeros(2, 3, *size)]) for _ in range(4000)]
    cut = CutMix()
    drawn = cut.draw(N, seeded())
    top, left, bottom, right = cut.rectangles(drawn, *size)
    for values, column in zip((left, top, right, bottom), range(4), strict=True):
        assert_like(values, [p["box"][column] for p in theirs])
    _, own = cut.mix(torch.zeros(N, 1, *size), torch.ones(N, 1, *size), drawn)
    assert_like(own, [p["lam_adjusted"] for p in theirs])


@pytest.mark.parametrize("size", [(28, 28), (15, 40)])
def test_a_rectangle_is_cut_as_the_paper_says(size):
    height, width = size
    cut = CutMix()
    drawn = cut.draw(300, seeded())
    mixed, own = cut.mix(torch.zeros(300, 2, *size), torch.ones(300, 2, *size), drawn)
    for image, share, (kept, y, x) in zip(mixed, own.tolist(), drawn.tolist(), strict=True):
        center_y, center_x = int(y * height), int(x * width)
        half_height, half_width = (int(0.5 * math.sqrt(1 - kept) * length) for length in size)
        expected = torch.zeros(size)
        expected[
            max(center_y - half_height, 0) : center_y + half_height,
            max(center_x - half_width, 0) : center_x + half_width,
        ] = 1
        assert torch.equal(image, expected.expand(2, *size))
        assert share == pytest.approx(1 - expected.mean().item(), abs=1e-6)


@pytest.mark.parametrize("kind", [MixUp, CutMix])
@pytest.mark.parametrize("alpha", [0, -1, float("nan"), float("inf")])
def test_an_alpha_that_is_none_is_refused(kind, alpha):
    with pytest.raises(UserError, match=rf"{kind.__name__}: alpha is .*expected a number above 0"):
        kind(alpha)


def test_mixing_without_the_number_of_classes_is_refused():
    with pytest.raises(UserError, match="num_classes"):
        ResidentLoader(IMAGES, torch.zeros(100), batch_size=4, mean=MEAN, std=STD, order=EpochOrder(100, 0),
                       augmentations=[MixUp()])  # fmt: skip


@pytest.mark.parametrize("kind", [MixUp, CutMix])
def test_validation_and_test_are_never_mixed(tmp_path, kind):
    plain, mixed = Tiny(root=str(tmp_path)), Tiny(root=str(tmp_path), augment=[kind()])
    for data in (plain, mixed):
        data.setup()
    assert joined(mixed.train_dataloader())[1].shape[1] == 3
    for split in ("val_dataloader", "test_dataloader"):
        for ours, expected in zip(joined(getattr(mixed, split)()), joined(getattr(plain, split)()), strict=True):
            assert torch.equal(ours, expected)


@pytest.mark.parametrize("mixing", ["MixUp", "{class_path: CutMix, init_args: {alpha: 0.5}}"])
def test_a_run_trains_on_mixtures(cli, tmp_path, mixing):
    (tmp_path / "run.yaml").write_text(
        f"{{model: MLP, data: {{class_path: Digits, init_args: {{augment: [RandomCrop, {mixing}]}}}}}}"
    )
    line = "fit --config run.yaml --model.widths [32] --trainer.max_epochs 2 --trainer.precision 32-true"
    assert cli(line).status == 0
    last = (tmp_path / "lightning_logs" / "run" / "version_0" / "metrics.csv").read_text().splitlines()
    loss, accuracy = (
        dict(zip(last[0].split(","), last[2].split(","), strict=True))[f"train/{m}"] for m in ("loss", "acc")
    )
    assert 0.2 < float(accuracy) < 1
    assert 0.5 < float(loss) < 2.3
    config = yaml.safe_load((tmp_path / "lightning_logs" / "run" / "version_0" / "config.yaml").read_text())
    assert len(config["data"]["init_args"]["augment"]) == 2


@pytest.mark.parametrize("loss", ["nll", "mse"])
def test_another_loss_is_refused(cli, loss):
    refusal = cli(f"fit --model MLP --data Digits --data.augment+=MixUp --model.loss {loss}")
    said = refusal.refusal()
    assert f"model.loss is {loss}, which takes one class for each image" in said
    assert said.endswith("use cross_entropy, or remove these from data.augment.")


def test_a_wrong_argument_in_a_file_is_one_sentence(cli):
    line = "fit --model MLP --data Digits --data.augment"
    said = cli(f"{line} '[{{class_path: MixUp, init_args: {{alpha: -1}}}}]'").refusal()
    assert "MixUp: alpha is -1.0, expected a number above 0." in said
