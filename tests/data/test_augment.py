import math

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from visionbench.data.augment import (
    TRIES,
    ColorJitter,
    CutMix,
    HorizontalFlip,
    MixUp,
    RandomAffine,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    RandomRotation,
    VerticalFlip,
)
from visionbench.errors import UserError

pytestmark = pytest.mark.fast

ALL = [
    HorizontalFlip(),
    VerticalFlip(),
    RandomCrop(2),
    RandomCrop(1, "zeros"),
    RandomResizedCrop(),
    RandomAffine(30, (0.2, 0.3), (0.7, 1.4), [-10, 20, -5, 15]),
    RandomRotation(45, "bilinear"),
    ColorJitter(0.2, 0.3, 0.4, 0.1),
    RandomErasing(0.8, (0.1, 0.4)),
    MixUp(0.4),
    CutMix(),
]
NAMES = [type(augmentation).__name__ for augmentation in ALL]
N = 40_000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(n=9, channels=3, height=5, width=7):
    return torch.rand(n, channels, height, width, generator=seeded())


@pytest.fixture
def images():
    return noise()


def in_turn(images, change, parameters):
    """What torchvision makes of each image by itself."""
    return torch.stack([change(image, *row) for image, row in zip(images, parameters.tolist(), strict=True)])


# What an augmentation does, beside torchvision's functional with the same parameters.


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
@pytest.mark.parametrize(
    ("augmentation", "flip"),
    [(HorizontalFlip(), reference.horizontal_flip), (VerticalFlip(), reference.vertical_flip)],
)
def test_flips_are_exactly_those_drawn(images, augmentation, flip, kind):
    images = (255 * images).to(kind)
    drawn = torch.tensor([True, False, False, True, True, False, True, False, False])
    expected = torch.stack([flip(i) if mirrored else i for i, mirrored in zip(images, drawn, strict=True)])
    result = augmentation.apply(images, drawn)
    assert result.dtype == kind
    assert torch.equal(result, expected)


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("padding", [1, 2, 4])
def test_crop_in_the_middle_is_the_image(images, mode, padding):
    crop = RandomCrop(padding, mode)
    assert torch.equal(crop.apply(images, torch.full((9, 2), padding)), images)


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
@pytest.mark.parametrize(("mode", "torch_mode"), [("zeros", "constant"), ("reflect", "reflect")])
def test_crop_cuts_each_image_out_of_its_padded_copy(images, mode, torch_mode, kind):
    images = (255 * images).to(kind)
    parameters = torch.tensor([[0, 0], [4, 4], [0, 4], [4, 0], [1, 2], [2, 1], [3, 0], [0, 3], [2, 2]])
    expected = in_turn(
        images, lambda i, y, x: reference.crop(reference.pad(i, [2], padding_mode=torch_mode), y, x, 5, 7), parameters
    )
    result = RandomCrop(2, mode).apply(images, parameters)
    assert result.dtype == kind
    assert torch.equal(result, expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"brightness": 0.5},
        {"contrast": 0.5},
        {"saturation": 0.5},
        {"hue": 0.5},
        {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2},
        {"brightness": 0.9, "contrast": (0.3, 2.0), "saturation": 3.0, "hue": (-0.4, 0.1)},
    ],
    ids=lambda options: "-".join(options),
)
def test_jitter_equals_torchvision_in_the_same_order(options, channels):
    images = noise(200, channels)
    images[:4] *= torch.tensor([0.0, 1.0, 0.5, 0.1])[:, None, None, None]  # black, and dark ones
    images[4] = images[4, :1]  # gray: it has no hue
    adjust = [
        reference.adjust_brightness,
        reference.adjust_contrast,
        reference.adjust_saturation,
        reference.adjust_hue,
    ]
    jitter = ColorJitter(**options)
    drawn = jitter.draw(200, seeded())
    assert len(torch.unique(drawn[:, 4:], dim=0)) == math.factorial(len(options))

    def in_order(image, *row):
        for step in row[4:]:
            image = adjust[int(step)](image, row[int(step)])
        return image

    expected = in_turn(images, in_order, drawn)
    torch.testing.assert_close(jitter.apply(images, drawn), expected, rtol=0, atol=3e-6)


def test_saturation_and_hue_do_nothing_to_one_channel():
    images = noise(30, 1)
    jitter = ColorJitter(saturation=0.9, hue=0.5)
    assert torch.equal(jitter.apply(images, jitter.draw(30, seeded())), images)


AFFINES = {
    "degrees": RandomAffine(180),
    "translate": RandomAffine(0, (0.3, 0.2)),
    "scale": RandomAffine(0, scale=(0.4, 2.5)),
    "shear": RandomAffine(0, shear=40),
    "shears": RandomAffine(0, shear=[-40, 10, 5, 30]),
    "all": RandomAffine([-20, 70], (0.1, 0.4), (0.5, 1.5), [-20, 20, -30, 10]),
}


def affine(image, angle, right, down, scale, shear_x, shear_y, *_, mode):
    height, width = image.shape[1:]
    shift = [round(right * width), round(down * height)]
    return reference.affine(image, angle, shift, scale, [shear_x, shear_y], reference.InterpolationMode(mode))


@pytest.mark.parametrize("name", AFFINES)
def test_affine_equals_torchvision_bilinear(name):
    images = noise(40, 3, 21, 28)
    augmentation = AFFINES[name]
    augmentation.interpolation = "bilinear"
    drawn = augmentation.draw(40, seeded())
    expected = in_turn(images, lambda *row: affine(*row, mode="bilinear"), drawn)
    result = augmentation.apply(images, drawn)
    assert (result == 0).sum() > 0 or name == "shear"
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", AFFINES)
def test_affine_equals_torchvision_nearest(name):
    images = noise(200, 1, 21, 28)
    augmentation = AFFINES[name]
    augmentation.interpolation = "nearest"
    drawn = augmentation.draw(200, seeded())
    expected = in_turn(images, lambda *row: affine(*row, mode="nearest"), drawn)
    # A point half-way between two pixels, to the last digit, may go to either.
    assert (augmentation.apply(images, drawn) != expected).float().mean() < 1e-4


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("degrees", [45, [100, 260], [90, 90], [180, 180], [270, 270], [0, 0]])
@pytest.mark.parametrize("size", [(28, 28), (20, 15)])
def test_rotation_equals_torchvision(degrees, size, mode):
    if mode == "nearest" and size == (20, 15) and degrees in ([90, 90], [270, 270]):
        pytest.skip("every point lies half-way between two pixels, and may go to either")
    images = noise(40, 2, *size)
    rotation = RandomRotation(degrees, mode)
    drawn = rotation.draw(40, seeded())
    expected = in_turn(
        images, lambda i, angle, *_: reference.rotate(i, -angle, reference.InterpolationMode(mode)), drawn
    )
    result = rotation.apply(images, drawn)
    if mode == "nearest":
        assert (result != expected).float().mean() < 1e-4
    else:
        torch.testing.assert_close(result, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("value", [0.0, 0.7, [0.1, 0.5, 0.9]])
def test_erasing_equals_torchvision(value):
    images = noise(60, 3, 14, 19)
    erasing = RandomErasing(0.7, (0.05, 0.5), value=value)
    drawn = erasing.draw(60, seeded())
    rectangles = torch.stack(erasing.rectangles(drawn, 14, 19), dim=1)
    filling = torch.tensor(value if isinstance(value, list) else [value])[:, None, None]
    expected = in_turn(images, lambda image, *rectangle: reference.erase(image, *rectangle, filling), rectangles)
    assert torch.equal(erasing.apply(images, drawn), expected)


def test_resized_crop_equals_torchvision():
    images = noise(60, 3, 28, 21)
    crop = RandomResizedCrop((0.05, 1.0))
    drawn = crop.draw(60, seeded())
    rectangles = torch.stack(crop.rectangles(drawn, 28, 21), dim=1)
    expected = in_turn(
        images, lambda image, *rectangle: reference.resized_crop(image, *rectangle, size=[28, 21]), rectangles
    )
    torch.testing.assert_close(crop.apply(images, drawn), expected, rtol=0, atol=2e-5)


# How rectangles are found, beside a plain loop.


def tries(row, height, width):
    for share, aspect in zip(row[:TRIES], row[TRIES : 2 * TRIES], strict=True):
        area = share * height * width
        yield round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))


def place(row, tall, wide, height, width):
    return math.floor(row[-2] * (height - tall + 1)), math.floor(row[-1] * (width - wide + 1)), tall, wide


@pytest.mark.parametrize("size", [(28, 28), (10, 40)])
def test_erasing_takes_the_first_rectangle_that_fits(size):
    erasing = RandomErasing(0.6, (0.3, 1.0))
    drawn = erasing.draw(500, seeded())
    found = torch.stack(erasing.rectangles(drawn, *size), dim=1).tolist()
    kinds = set()
    for (chosen, *row), result in zip(drawn.tolist(), found, strict=True):
        fitting = [number for number, (h, w) in enumerate(tries(row, *size)) if h < size[0] and w < size[1]]
        if chosen and fitting:
            assert tuple(result) == place(row, *list(tries(row, *size))[fitting[0]], *size)
        else:
            assert result == [0, 0, 0, 0]
        kinds.add((bool(chosen), len(fitting) > 0, fitting[:1] == [0]))
    assert {(True, True, True), (True, True, False), (True, False, False), (False, True, True)} <= kinds


@pytest.mark.parametrize("size", [(28, 28), (8, 60), (60, 8)])
def test_a_resized_crop_that_never_fits_is_cut_from_the_middle(size):
    crop = RandomResizedCrop((0.5, 1.0))
    drawn = crop.draw(500, seeded())
    middle = {(28, 28): (0, 0, 28, 28), (8, 60): (0, 24, 8, 11), (60, 8): (24, 0, 11, 8)}[size]
    in_the_middle = 0
    for row, result in zip(drawn.tolist(), torch.stack(crop.rectangles(drawn, *size), dim=1).tolist(), strict=True):
        # Here the aspect ratio is width by height.
        fitting = [(h, w) for w, h in tries(row, *size) if 0 < h <= size[0] and 0 < w <= size[1]]
        assert tuple(result) == (place(row, *fitting[0], *size) if fitting else middle)
        in_the_middle += not fitting
    assert (in_the_middle > 400) == (size != (28, 28))


# What is drawn.


def assert_uniform(values, low, high):
    """Each tenth of the range holds a tenth of the values, within three standard deviations."""
    assert values.min() >= low
    assert values.max() <= high
    counts = torch.histc(values.double(), 10, low, high)
    assert (counts - len(values) / 10).abs().max() < 3 * math.sqrt(len(values) * 0.1 * 0.9)


def assert_like(values, expected):
    """Means of the values and of their squares are those of a sample, within three standard deviations."""
    values, expected = values.double(), torch.as_tensor(expected, dtype=torch.float64)
    for power in (1, 2):
        ours, theirs = values**power, expected**power
        deviation = math.sqrt(ours.var() / len(ours) + theirs.var() / len(theirs))
        assert abs(ours.mean() - theirs.mean()) < 3 * deviation


def torchvision_parameters(transform, *size, n=8000):
    torch.manual_seed(0)
    return [transform.make_params([torch.zeros(3, *size)]) for _ in range(n)]


@pytest.mark.parametrize("kind", [HorizontalFlip, VerticalFlip])
@pytest.mark.parametrize("p", [0, 0.2, 0.5, 1])
def test_flips_are_drawn_with_the_given_probability(kind, p):
    share = kind(p).draw(N, seeded()).double().mean()
    assert abs(share - p) <= 3 * math.sqrt(p * (1 - p) / N)


@pytest.mark.parametrize("p", [0, 0.2, 1])
def test_erasing_is_drawn_with_the_given_probability(p):
    share = RandomErasing(p).draw(N, seeded())[:, 0].double().mean()
    assert abs(share - p) <= 3 * math.sqrt(p * (1 - p) / N)


def test_crop_draws_every_shift_equally_often():
    _, counts = torch.unique(RandomCrop(2).draw(N, seeded()), dim=0, return_counts=True)
    assert len(counts) == 25
    assert (counts - N / 25).abs().max() < 3 * math.sqrt(N / 25 * 24 / 25)


@pytest.mark.parametrize(
    ("given", "low", "high"),
    [(0.2, 0.8, 1.2), (1, 0.0, 2.0), (1.5, 0.0, 2.5), ((0.5, 0.9), 0.5, 0.9)],
)
@pytest.mark.parametrize("column", range(3))
def test_jitter_draws_factors_from_the_documented_range(given, low, high, column):
    drawn = ColorJitter(**{("brightness", "contrast", "saturation")[column]: given}).draw(N, seeded())
    assert_uniform(drawn[:, column], low, high)
    others = [0, 1, 2]
    others.remove(column)
    assert (drawn[:, others] == 1).all()
    assert (drawn[:, 3] == 0).all()


@pytest.mark.parametrize(("given", "low", "high"), [(0.1, -0.1, 0.1), (0.5, -0.5, 0.5), ((-0.3, 0.1), -0.3, 0.1)])
def test_jitter_draws_hues_from_the_documented_range(given, low, high):
    assert_uniform(ColorJitter(hue=given).draw(N, seeded())[:, 3], low, high)


def test_jitter_draws_every_order_equally_often():
    orders, counts = torch.unique(ColorJitter(0.1, 0.1, 0.1, 0.1).draw(N, seeded())[:, 4:], dim=0, return_counts=True)
    assert sorted(map(tuple, orders.tolist())) == [tuple(o) for o in orders.tolist()]
    assert len(orders) == 24
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders.tolist())
    assert (counts - N / 24).abs().max() < 3 * math.sqrt(N / 24 * 23 / 24)


def test_affine_draws_from_the_documented_ranges():
    drawn = RandomAffine([-20, 70], (0.1, 0.4), (0.5, 1.5), [-20, 20, -30, 10]).draw(N, seeded())
    ranges = [(-20, 70), (-0.1, 0.1), (-0.4, 0.4), (0.5, 1.5), (-20, 20), (-30, 10)]
    for column, (low, high) in enumerate(ranges):
        assert_uniform(drawn[:, column], low, high)
    assert torch.corrcoef(drawn[:, :6].T).fill_diagonal_(0).abs().max() < 3 / math.sqrt(N)


def test_one_number_stands_for_a_range_about_0():
    drawn = RandomAffine(30, shear=15).draw(N, seeded())
    assert_uniform(drawn[:, 0], -30, 30)
    assert_uniform(drawn[:, 4], -15, 15)
    assert (drawn[:, [1, 2, 5]] == 0).all()
    assert (drawn[:, 3] == 1).all()
    assert_uniform(-RandomRotation([10, 50]).draw(N, seeded())[:, 0], 10, 50)


def test_affine_shifts_are_distributed_as_torchvision_s():
    theirs = [p["translate"] for p in torchvision_parameters(v2.RandomAffine(0, (0.1, 0.25)), 20, 28)]
    drawn = RandomAffine(0, (0.1, 0.25)).draw(N, seeded())
    for axis, size in enumerate((28, 20)):
        assert_like((drawn[:, 1 + axis] * size).round(), [shift[axis] for shift in theirs])


@pytest.mark.parametrize("size", [(28, 28), (20, 40)])
def test_erased_rectangles_are_distributed_as_torchvision_s(size):
    theirs = torchvision_parameters(v2.RandomErasing(1), *size)
    theirs = [p for p in theirs if p["v"] is not None]
    erasing = RandomErasing(1)
    ours = erasing.rectangles(erasing.draw(N, seeded()), *size)
    assert len(theirs) > 7900
    for name, values in zip("ijhw", ours, strict=True):
        assert_like(values[ours[2] > 0], [p[name] for p in theirs])


@pytest.mark.parametrize("size", [(28, 28), (20, 40)])
def test_resized_crops_are_distributed_as_torchvision_s(size):
    theirs = torchvision_parameters(v2.RandomResizedCrop(size), *size)
    crop = RandomResizedCrop()
    ours = crop.rectangles(crop.draw(N, seeded()), *size)
    for name, values in zip(("top", "left", "height", "width"), ours, strict=True):
        assert_like(values, [p[name] for p in theirs])


@pytest.mark.parametrize("augmentation", ALL, ids=NAMES)
def test_each_image_has_parameters_of_its_own(augmentation):
    drawn = augmentation.draw(64, seeded())
    assert len(drawn) == 64
    assert len(torch.unique(drawn, dim=0)) > 1
    assert torch.equal(drawn, augmentation.draw(64, seeded()))
    assert not torch.equal(drawn, augmentation.draw(64, seeded(1)))


@pytest.mark.parametrize("augmentation", ALL, ids=NAMES)
def test_one_image_many_times_in_a_batch_comes_out_differently(augmentation):
    images = noise(2, 3, 16, 16)[[0, 1] * 32]
    result = augmentation.apply(images, augmentation.draw(64, seeded()))
    assert len(torch.unique(result[::2], dim=0)) > 1


@pytest.mark.parametrize("augmentation", ALL, ids=NAMES)
def test_drawing_does_not_touch_the_global_random_state(augmentation):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    augmentation.draw(64, seeded())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("augmentation", [*ALL, ColorJitter()], ids=[*NAMES, "nothing"])
def test_the_images_given_are_left_as_they_are(augmentation, images):
    before = images.clone()
    result = augmentation.apply(images, augmentation.draw(9, seeded()))
    assert (result.shape, result.dtype) == (images.shape, images.dtype)
    result.zero_()
    assert torch.equal(images, before)


@pytest.mark.parametrize("augmentation", [a for a in ALL if a.moves_pixels])
def test_bytes_are_moved_as_floats_are(augmentation, images):
    pixels = (255 * images).to(torch.uint8)
    drawn = augmentation.draw(9, seeded())
    assert torch.equal(augmentation.apply(pixels, drawn).float(), augmentation.apply(pixels.float(), drawn))


# What is refused.


@pytest.mark.parametrize("kind", [HorizontalFlip, VerticalFlip, RandomErasing])
@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_a_probability_that_is_none_is_refused(kind, p):
    with pytest.raises(UserError, match=rf"{kind.__name__}: p is .*from 0 to 1"):
        kind(p)


@pytest.mark.parametrize("padding", [0, -2])
def test_a_crop_without_padding_is_refused(padding):
    with pytest.raises(UserError, match=rf"RandomCrop: padding is {padding}, expected at least 1"):
        RandomCrop(padding)


def test_a_reflection_wider_than_the_image_is_refused(images):
    crop = RandomCrop(5)
    with pytest.raises(UserError, match="padding is 5, expected less than the image's 5 pixels"):
        crop.apply(images, crop.draw(9, seeded()))


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), (0.5,), (1.2, 0.8), (-0.1, 1)])
def test_factors_that_are_none_are_refused(name, value):
    with pytest.raises(UserError, match=rf"ColorJitter: {name} is .*expected a number"):
        ColorJitter(**{name: value})


@pytest.mark.parametrize("value", [-0.1, 0.6, float("nan"), (0.5,), (-0.6, 0.1), (0.2, 0.1)])
def test_hues_that_are_none_are_refused(value):
    with pytest.raises(UserError, match=r"ColorJitter: hue is .*from 0 to 0\.5"):
        ColorJitter(hue=value)


def test_jitter_of_two_channels_is_refused():
    jitter = ColorJitter(0.2)
    with pytest.raises(UserError, match="2 channels, expected 1"):
        jitter.apply(noise(4, 2), jitter.draw(4, seeded()))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"degrees": -10}, "degrees is -10"),
        ({"degrees": [10, -10]}, "degrees is"),
        ({"degrees": [0, 1, 2]}, "degrees is"),
        ({"degrees": float("nan")}, "degrees is nan"),
        ({"degrees": 0, "translate": (0.1, 1.5)}, "translate is"),
        ({"degrees": 0, "translate": (-0.1, 0.5)}, "translate is"),
        ({"degrees": 0, "translate": (0.1, 0.1, 0.1)}, "translate is"),
        ({"degrees": 0, "scale": (0, 1)}, "scale is"),
        ({"degrees": 0, "scale": (2, 1)}, "scale is"),
        ({"degrees": 0, "shear": [1, 2, 3]}, "shear is"),
        ({"degrees": 0, "shear": 90}, "shear is 90"),
    ],
)
def test_affine_arguments_that_are_none_are_refused(arguments, said):
    with pytest.raises(UserError, match=rf"^RandomAffine: {said}.*expected"):
        RandomAffine(**arguments)


def test_rotation_speaks_of_the_degrees_it_was_given():
    with pytest.raises(UserError, match=r"^RandomRotation: degrees is \[10, -10\]"):
        RandomRotation([10, -10])


@pytest.mark.parametrize("kind", [RandomErasing, RandomResizedCrop])
@pytest.mark.parametrize(
    "arguments",
    [{"scale": (0.5, 0.1)}, {"scale": (-0.1, 0.1)}, {"scale": (0.1, 1.1)}, {"ratio": (0, 1)}, {"ratio": (2, 1)}],
)
def test_rectangles_that_are_none_are_refused(kind, arguments):
    with pytest.raises(UserError, match=rf"{kind.__name__}: (scale|ratio) is .*expected"):
        kind(**arguments)


@pytest.mark.parametrize("value", [-0.1, 255, [], [0.1, 2]])
def test_a_filling_beyond_black_and_white_is_refused(value):
    with pytest.raises(UserError, match=r"RandomErasing: value is .*from 0"):
        RandomErasing(value=value)


def test_a_filling_for_other_channels_is_refused(images):
    erasing = RandomErasing(value=[0.1, 0.2])
    with pytest.raises(UserError, match="value has 2 numbers, expected one, or one for each of the image's 3"):
        erasing.apply(images, erasing.draw(9, seeded()))
