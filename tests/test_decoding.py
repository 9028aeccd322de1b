"""From a file to pixels: what becomes of every kind of image, beside torchvision where it does the same."""

import io
import json
import random
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, functional

from visionbench import decoding
from visionbench.decoding import Recipe, Unusable, decode_files, to_array

pytestmark = pytest.mark.fast

RANDOM = np.random.RandomState(0)
ORIENTATION = 0x0112


def recipe(size=(8, 8), channels=3, resize="none", scale=1.0, invert=False):
    return Recipe(size, channels, resize, scale, invert)


def noise(width, height, channels=3):
    return RANDOM.randint(0, 256, (height, width, channels)).astype(np.uint8).squeeze()


def through_file(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


SIZES = [(133, 133), (37, 61), (61, 37), (8, 8), (9, 200), (5, 7), (28, 29)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [8, 28, 40])
def test_crop_is_torchvisions_resize_and_center_crop(size, target):
    image = Image.fromarray(noise(*size))
    expected = functional.center_crop(functional.resize(image, target, InterpolationMode.BILINEAR), target)
    np.testing.assert_array_equal(to_array(image, recipe((target, target), resize="crop")), np.asarray(expected))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [(10, 20), (30, 7)])
def test_crop_to_an_oblong_covers_it_and_keeps_the_shape(size, target):
    # A gray ramp from left to right keeps its steps where only the ends are cut off.
    pixels = to_array(Image.fromarray(noise(*size)), recipe(target, resize="crop"))
    assert pixels.shape == (*target, 3)
    white = to_array(Image.new("RGB", size, "white"), recipe(target, resize="crop"))
    assert white.min() == 255


@pytest.mark.parametrize("size", SIZES)
def test_squash_is_torchvisions_resize_of_both_sides(size):
    image = Image.fromarray(noise(*size))
    expected = functional.resize(image, [10, 20], InterpolationMode.BILINEAR)
    np.testing.assert_array_equal(to_array(image, recipe((10, 20), resize="squash")), np.asarray(expected))


@pytest.mark.parametrize("size", [(133, 133), (37, 61), (28, 29), (8, 8)])
def test_none_is_torchvisions_center_crop(size):
    image = Image.fromarray(noise(*size))
    np.testing.assert_array_equal(to_array(image, recipe()), np.asarray(functional.center_crop(image, 8)))


def zoomed(image, scale, size):
    tensor = torch.from_numpy(np.array(image))
    tensor = tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)
    turned = functional.affine(tensor, 0, [0, 0], scale, [0.0], InterpolationMode.NEAREST)
    return functional.center_crop(turned, size).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", [(133, 133), (61, 37), (100, 64), (31, 58), (64, 48)])
@pytest.mark.parametrize("scale", [36 / 128, 0.25, 0.3, 0.5, 0.7, 1.0, 1.7, 2.0, 3.1])
def test_scale_is_torchvisions_affine_save_where_a_pixel_lies_half_way_between_two(size, scale):
    image = Image.fromarray(noise(*size))
    ours, theirs = to_array(image, recipe((28, 28), scale=scale)), zoomed(image, scale, [28, 28])
    ties = []
    for length in reversed(size):
        first = round((length - 28) / 2)
        place = (np.arange(first, first + 28) - (length - 1) / 2) / scale + (length - 1) / 2
        ties.append(abs(place % 1 - 0.5) < 1e-4)  # torchvision computes in 32 bits
    differs = (ours != theirs).any(-1)
    assert not (differs & ~(ties[0][:, None] | ties[1])).any()


def test_the_path_of_the_greek_letters_is_torchvisions():
    """Gray, scaled by 36/128 about the center, the center cut out, inverted."""
    for _ in range(5):
        gray = Image.fromarray(noise(133, 133)).convert("L")
        ours = to_array(gray, recipe((28, 28), channels=1, scale=36 / 128, invert=True))
        tensor = torch.from_numpy(np.array(gray))[None]
        tensor = functional.affine(tensor, 0, [0, 0], 36 / 128, [0.0])
        theirs = functional.invert(functional.center_crop(tensor, [28, 28]))
        np.testing.assert_array_equal(ours[..., 0], theirs[0])


def test_grey_is_torchvisions_to_within_one_level():
    image = Image.fromarray(noise(40, 40))
    ours = to_array(image, recipe((40, 40), channels=1)).astype(int)[..., 0]
    theirs = functional.rgb_to_grayscale(torch.from_numpy(np.array(image)).permute(2, 0, 1)).numpy()[0].astype(int)
    assert abs(ours - theirs).max() <= 1  # Pillow rounds, torchvision cuts off


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_says(orientation):
    upright = Image.fromarray(noise(8, 8))
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # stored so, it is shown upright when it is turned back by 270 degrees
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turns[orientation]) if orientation in turns else upright
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    np.testing.assert_array_equal(to_array(through_file(stored, exif=exif), recipe()), np.asarray(upright))


def test_what_is_transparent_lies_on_white():
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:4, :, 3] = 255  # black, opaque above and clear below
    pixels[7, :, 3] = 128
    rgb = to_array(through_file(Image.fromarray(pixels)), recipe())
    assert (rgb[:4] == 0).all()
    assert (rgb[4:7] == 255).all()
    assert (rgb[7] == 127).all()
    gray = np.stack([np.zeros((8, 8), np.uint8), pixels[..., 3]], -1)
    np.testing.assert_array_equal(to_array(through_file(Image.fromarray(gray, "LA")), recipe()), rgb)


def test_a_palette_is_looked_up_and_its_transparent_entry_lies_on_white():
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) % 3, "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    index = np.asarray(image)
    np.testing.assert_array_equal(to_array(through_file(image), recipe()), colors[index])
    colors[1] = 255
    np.testing.assert_array_equal(to_array(through_file(image, transparency=1), recipe()), colors[index])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_become_8_to_the_nearest(kind):
    levels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    pixels = to_array(through_file(Image.fromarray(levels), kind), recipe(channels=1))
    np.testing.assert_array_equal(pixels[..., 0], np.round(levels / 257))
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_16_bits_of_a_large_image_are_not_held_many_times():
    levels = RANDOM.randint(0, 65536, (1500, 1500)).astype(np.uint16)
    image = Image.fromarray(levels)
    tracemalloc.start()
    to_array(image, recipe(channels=1, resize="squash"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < levels.nbytes  # NumPy's share; it was four times as much and more, of what may be 89 million pixels


@pytest.mark.parametrize(
    ("size", "target"), [((1, 10_000), (224, 224)), ((10_000, 1), (224, 224)), ((1, 70), (1, 9**5))]
)
def test_a_strip_that_would_become_gigapixels_is_refused_before_it_is_enlarged(size, target, monkeypatch):
    monkeypatch.setattr(Image.Image, "resize", lambda *args: pytest.fail("enlarged"))
    with pytest.raises(
        Unusable, match=rf"^{size[0]} x {size[1]} pixels, too narrow to be enlarged until \d+ x \d+ are"
    ):
        to_array(Image.new("RGB", size), recipe(target, resize="crop"))


def test_a_strip_is_enlarged_where_that_fits_and_a_large_image_is_shrunk(monkeypatch):
    assert to_array(Image.new("RGB", (1, 10_000), "white"), recipe((28, 28), resize="crop")).min() == 255
    monkeypatch.setattr(decoding, "MAX_PIXELS", 100)
    assert to_array(Image.new("RGB", (40, 30), "white"), recipe((20, 20), resize="crop")).min() == 255


def test_a_bitmap_is_black_and_white():
    bits = RANDOM.rand(8, 8) < 0.5
    pixels = to_array(through_file(Image.fromarray(bits)), recipe())
    np.testing.assert_array_equal(pixels, np.where(bits, 255, 0)[..., None].repeat(3, 2))


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_becomes_rgb(kind):
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))  # cyan
    pixels = to_array(through_file(image, kind), recipe())
    assert abs(pixels.astype(int) - [0, 255, 255]).max() <= (0 if kind == "TIFF" else 3)


def test_grey_becomes_three_equal_channels():
    gray = noise(8, 8, 1)
    np.testing.assert_array_equal(to_array(through_file(Image.fromarray(gray)), recipe()), gray[..., None].repeat(3, 2))


def test_invert_makes_black_white():
    image = Image.fromarray(noise(8, 8))
    np.testing.assert_array_equal(to_array(image, recipe(invert=True)), 255 - np.asarray(image))


def test_of_several_frames_the_first_counts():
    frames = [Image.new("L", (8, 8), level) for level in (10, 200)]
    animation = through_file(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert animation.n_frames == 2
    assert (to_array(animation, recipe(channels=1)) == 10).all()


def test_every_file_is_told_about_and_a_bad_one_does_not_stop_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    good = Image.fromarray(noise(8, 8))
    good.save(tmp_path / "good.png")
    good.save(tmp_path / "really_png.jpg", "PNG")
    jpeg = io.BytesIO()
    Image.fromarray(noise(30, 30)).save(jpeg, "JPEG")
    contents = {
        "cut.jpg": jpeg.getvalue()[:-200],
        "text.png": b"not an image",
        "zero.png": b"",
        "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    Image.new("L", (40, 40)).save(tmp_path / "warned_of.png")
    Image.new("L", (50, 50)).save(tmp_path / "refused.png")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((8, 8), 70000, np.int32)).save(tmp_path / "wide.tif")
    Image.new("L", (7, 8)).save(tmp_path / "small.png")
    problems = {
        "good.png": None,
        "cut.jpg": "damaged (image file is truncated",
        "text.png": "text, not an image",
        "zero.png": "empty",
        "script.eps": "a PostScript document",
        "warned_of.png": "more than 1,000 pixels",
        "refused.png": "more than 1,000 pixels",
        "float.tif": "pixels in floating point",
        "wide.tif": "pixels of signed 32-bit integers",
        "small.png": "7 x 8 pixels, smaller than 8 x 8",
        "missing.png": "cannot be read (No such file or directory)",
        "really_png.jpg": None,
    }
    decoded = decode_files([str(tmp_path / name) for name in problems], recipe())
    for said, expected in zip(decoded.problems, problems.values(), strict=True):
        assert said == expected or said.startswith(expected)
    np.testing.assert_array_equal(decoded.images, [np.asarray(good)] * 2)
    assert decoded.digests[0] == decoded.digests[-1]
    assert len({digest for digest in decoded.digests if digest is not None}) == len(problems) - 3


def encoded():
    """An image in every format and in the kinds of each that are decoded in ways of their own."""
    pixels = np.random.RandomState(1).randint(0, 256, (6, 8, 3)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    image, second = Image.fromarray(pixels), Image.fromarray(pixels[::-1])
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    animated = {"save_all": True, "append_images": [second]}
    for picture, kind, options in [
        (image, "BMP", {}),
        (image, "GIF", animated),
        (image, "JPEG", {"exif": turned}),
        (image, "JPEG", {"progressive": True}),
        (image.convert("CMYK"), "JPEG", {}),
        (image, "JPEG2000", {}),
        (image, "PNG", {}),
        (image.convert("P"), "PNG", {"transparency": 3}),
        (image.convert("LA"), "PNG", {}),
        (deep, "PNG", {}),
        (image, "PPM", {}),
        (image, "TIFF", {}),
        (image, "TIFF", {"compression": "tiff_lzw"}),
        (image, "TIFF", {"compression": "tiff_adobe_deflate"}),
        (image, "TIFF", {"compression": "jpeg"}),
        (deep, "TIFF", {}),
        (image, "WEBP", {}),
        (image, "WEBP", {"lossless": True}),
        (image, "WEBP", animated),
    ]:
        file = io.BytesIO()
        picture.save(file, kind, **options)
        yield file.getvalue()


# In a process of its own, as in a pool: what a decoder in C does to its process is seen here.
DECODES = """
import json, sys
from visionbench.decoding import Recipe, decode_files
decoded = decode_files(sys.stdin.read().splitlines(), Recipe((16, 16), 3, "crop", 1.0, False))
print(json.dumps([decoded.problems, len(decoded.images)]))
"""


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_damaged_file_is_decoded_or_left_out_for_a_reason_and_nothing_else(tmp_path, count):
    chance = random.Random(count)
    originals = list(encoded())
    paths = []
    for number in range(count):
        content = bytearray(originals[number % len(originals)])
        for _ in range(chance.choice([1, 1, 2, 4, 8, 16])):
            place = chance.randrange(min(len(content), chance.choice([40, 200, 10**6])))  # the headers most of all
            content[place] = chance.choice([chance.randrange(256), content[place] ^ 1 << chance.randrange(8), 0, 255])
        if chance.random() < 0.15:
            del content[chance.randrange(1, len(content)) :]
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(content)
    process = subprocess.run(
        [sys.executable, "-c", DECODES],
        input="\n".join(map(str, paths)),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    problems, images = json.loads(process.stdout)
    assert len(problems) == count
    assert images == problems.count(None)
    assert 0.2 < images / count < 0.8  # some of both, so that both are tested
    for problem in filter(None, problems):
        assert problem.isprintable()
        assert len(problem) < 200
        assert problem.startswith(("damaged (", "not an image", "a ", "an ", "text", "more than", "pixels "))


def test_a_process_that_decodes_needs_no_torch():
    code = "import sys, visionbench.decoding; print(sorted({'torch', 'lightning', 'rich'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
