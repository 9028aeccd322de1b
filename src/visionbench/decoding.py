"""From a file to pixels: what each process does that helps to prepare a folder of images.

It lies outside of `data/`, whose import brings torch and seconds of waiting, and is all that such a process imports.
"""

import errno
import hashlib
import math
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# By content, whatever the name says. Not everything that Pillow knows: for EPS it would start Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

# That a strip may become when it is enlarged: as many as Pillow lets a file have.
MAX_PIXELS = 89_478_485


@dataclass(frozen=True)
class Recipe:
    """How an image becomes an array.

    Attributes:
        size: Height and width.
        channels: 1 for grey, 3 for RGB.
        resize: `crop`, `squash` or `none`, as `ImageFolder` describes them.
        scale: Zoom about the centre.
        invert: Whether black and white change places.
    """

    size: tuple[int, int]
    channels: Literal[1, 3]
    resize: Literal["crop", "squash", "none"]
    scale: float
    invert: bool


@dataclass(frozen=True)
class Decoded:
    """What became of some files, one entry a file.

    Attributes:
        digests: The sha256 of each file's bytes, cut to 16 bytes; `None` where it could not be read.
        problems: Why a file cannot be used; `None` where it can.
        images: Those that can, shape (n, H, W, C), uint8, in their order.
    """

    digests: list[bytes | None]
    problems: list[str | None]
    images: np.ndarray


class Unusable(Exception):
    """A file that is no image or not one that can be used; the message is a short reason."""


def start_process() -> None:
    """Readies a process that decodes: Ctrl+C is its parent's affair, and it does not outlive its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()  # a parent that is killed tells nobody
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def decode_files(paths: Sequence[str], recipe: Recipe) -> Decoded:
    """Reads, hashes and decodes files."""
    digests: list[bytes | None] = []
    problems: list[str | None] = []
    images = np.empty((len(paths), *recipe.size, recipe.channels), dtype=np.uint8)
    count = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of files that are odd but can be read
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for path in paths:
            digest = problem = None
            try:
                with Path(path).open("rb") as file:
                    if os.fstat(file.fileno()).st_size == 0:
                        raise Unusable("empty")
                    digest = hashlib.file_digest(file, "sha256").digest()[:16]
                    file.seek(0)
                    with Image.open(file, formats=FORMATS) as image:
                        images[count] = to_array(image, recipe)
                    count += 1
            except Exception as error:
                if isinstance(error, MemoryError):
                    raise
                # Pillow's decoders raise what they like at what is not right in a file.
                problem = _reason(error)
            digests.append(digest)
            problems.append(problem)
    return Decoded(digests, problems, images[:count])


def to_array(image: Image.Image, recipe: Recipe) -> np.ndarray:
    """Turns an opened image, of several the first, into pixels.

    Args:
        image: Of any mode and size.
        recipe: What to make of it.

    Returns:
        Shape (H, W, C), uint8.

    Raises:
        Unusable: It is of a kind, or of a size, of which this cannot be made.
    """
    image = _eight_bits(ImageOps.exif_transpose(image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if recipe.channels == 1 else "RGB")
    height, width = recipe.size
    if recipe.resize == "squash":
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    elif recipe.resize == "crop":
        covering = _covering(image.size, (width, height))
        if math.prod(covering) > MAX_PIXELS and math.prod(covering) > math.prod(image.size):
            raise Unusable(
                f"{image.width} x {image.height} pixels, too narrow to be enlarged until {width} x {height} are covered"
            )
        image = image.resize(covering, Image.Resampling.BILINEAR)
    elif image.width < width or image.height < height:
        raise Unusable(f"{image.width} x {image.height} pixels, smaller than {width} x {height}")
    pixels = np.asarray(image).reshape(image.height, image.width, recipe.channels)
    pixels = _zoomed_centre(pixels, recipe.size, recipe.scale)
    return 255 - pixels if recipe.invert else pixels


def _eight_bits(image: Image.Image) -> Image.Image:
    """Brings 16 bits to 8: 0 to 65535 becomes 0 to 255, to the nearest, whatever part of it the image uses."""
    if image.mode == "F":
        raise Unusable("pixels in floating point, expected 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    image = image.convert("I")
    lowest, highest = image.getextrema()
    if lowest < 0 or highest > 65535:  # type: ignore[operator]
        raise Unusable("pixels of 32 bits, expected 8 or 16")
    return image.point([(level + 128) // 257 for level in range(65536)], "L")


def _covering(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """The smallest size, (width, height), of the same shape that covers the target; rounded down, as torchvision."""
    (width, height), (to_width, to_height) = size, target
    if to_width * height >= to_height * width:
        return to_width, max(to_height, to_width * height // width)
    return max(to_width, to_height * width // height), to_height


def _zoomed_centre(pixels: np.ndarray, size: tuple[int, int], scale: float) -> np.ndarray:
    """The centre of an image that is zoomed about its own centre, with the nearest pixel; black where there is none.

    Equal to torchvision's `affine` with nearest-neighbour interpolation, then `center_crop`; where a new pixel lies
    half-way between two old ones, the upper or left one is taken.
    """
    places, inside = [], []
    for length, new in zip(pixels.shape, size, strict=False):
        first = round((length - new) / 2)
        centre = (length - 1) / 2
        place = np.ceil((np.arange(first, first + new) - centre) / scale + centre - 0.5).astype(int)
        inside.append((place >= 0) & (place < length))
        places.append(np.clip(place, 0, length - 1))
    window = pixels[places[0][:, None], places[1]]
    return np.where((inside[0][:, None] & inside[1])[..., None], window, np.uint8(0))


def _reason(error: Exception) -> str:
    if isinstance(error, Unusable):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels, which may be meant to fill the memory"
    # EINVAL is of a decoder that was sent to a place before the file's beginning.
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        return f"cannot be read ({error.strerror})"
    return f"damaged ({' '.join(str(error).split()) or type(error).__name__})"
