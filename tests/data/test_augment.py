import pytest
import torch
from torch.nn import functional as F

from visionbench.data.augment import HorizontalFlip, RandomCrop
from visionbench.errors import UserError


@pytest.fixture
def images():
    return torch.rand(9, 3, 5, 7, generator=torch.Generator().manual_seed(0))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_flip_mirrors_left_to_right_exactly_those_drawn(images):
    drawn = torch.tensor([True, False, False, True, True, False, True, False, False])
    flipped = HorizontalFlip().apply(images, drawn)
    for image, result, mirrored in zip(images, flipped, drawn, strict=True):
        expected = torch.stack([image[:, :, column] for column in reversed(range(7))], dim=-1) if mirrored else image
        assert torch.equal(result, expected)


@pytest.mark.parametrize("p", [0, 0.2, 0.5, 1])
def test_flip_draws_with_the_given_probability(p):
    share = HorizontalFlip(p).draw(20_000, seeded()).float().mean()
    assert share == pytest.approx(p, abs=0 if p in (0, 1) else 0.015)


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("padding", [1, 2, 4])
def test_crop_in_the_middle_is_the_image(images, mode, padding):
    crop = RandomCrop(padding, mode)
    assert torch.equal(crop.apply(images, torch.full((9, 2), padding)), images)


@pytest.mark.parametrize(("mode", "torch_mode"), [("zeros", "constant"), ("reflect", "reflect")])
def test_crop_cuts_each_image_out_of_its_padded_copy(images, mode, torch_mode):
    crop = RandomCrop(2, mode)
    parameters = torch.tensor([[0, 0], [4, 4], [0, 4], [4, 0], [1, 2], [2, 1], [3, 0], [0, 3], [2, 2]])
    cut = crop.apply(images, parameters)
    for image, result, (top, left) in zip(images, cut, parameters.tolist(), strict=True):
        padded = F.pad(image, (2, 2, 2, 2), mode=torch_mode)
        assert torch.equal(result, padded[:, top : top + 5, left : left + 7])


def test_crop_draws_every_shift_about_equally_often():
    drawn = RandomCrop(2).draw(25_000, seeded())
    _, counts = torch.unique(drawn, dim=0, return_counts=True)
    assert len(counts) == 25
    assert counts.min() > 800
    assert counts.max() < 1200


@pytest.mark.parametrize("augmentation", [HorizontalFlip(), RandomCrop(2)])
def test_each_image_has_parameters_of_its_own(augmentation):
    drawn = augmentation.draw(64, seeded())
    assert len(drawn) == 64
    assert len(torch.unique(drawn, dim=0)) > 1
    assert torch.equal(drawn, augmentation.draw(64, seeded()))
    assert not torch.equal(drawn, augmentation.draw(64, seeded(1)))


@pytest.mark.parametrize("augmentation", [HorizontalFlip(), RandomCrop(2), RandomCrop(1, "zeros")])
def test_the_images_given_are_left_as_they_are(augmentation, images):
    before = images.clone()
    result = augmentation.apply(images, augmentation.draw(9, seeded()))
    result.zero_()
    assert torch.equal(images, before)


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_a_flip_probability_that_is_none_is_refused(p):
    with pytest.raises(UserError, match=r"HorizontalFlip: p is .*from 0 to 1"):
        HorizontalFlip(p)


@pytest.mark.parametrize("padding", [0, -2])
def test_a_crop_without_padding_is_refused(padding):
    with pytest.raises(UserError, match=rf"RandomCrop: padding is {padding}, expected at least 1"):
        RandomCrop(padding)
