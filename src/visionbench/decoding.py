"""Decoding of image files to pixels, in the processes that prepare a folder of images.

This module is outside of `data/`, whose import loads torch and takes seconds, so that such a process imports only this.
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

# Formats, recognized by content, not by name. EPS and the like are excluded, since Pillow would start Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

# Largest number of pixels of an enlarged image: Pillow's limit for the pixels of a file.
MAX_PIXELS = 89_478_485


@dataclass(frozen=True)
class Recipe:
    """Settings for turning an image into an array.

    Attributes:
        size: Height and width of the array.
        channels: Number of channels: 1 for gray, 3 for RGB.
        resize: Way to reach the size: `crop`, `squash` or `none`, as in `ImageFolder`.
        scale: Zoom factor about the center.
        invert: Whether black and white are exchanged.
    """

    size: tuple[int, int]
    channels: Literal[1, 3]
    resize: Literal["crop", "squash", "none"]
    scale: float
    invert: bool


@dataclass(frozen=True)
class Decoded:
    """Result of decoding several files.

    Attributes:
        digests: Sha256 of the bytes of each file, truncated to 16 bytes; `None` for a file that could not be read.
        problems: Reason why each file cannot be used; `None` for a usable file.
        images: Images of the usable files, shape (n, H, W, C), uint8, in the order of the files.
    """

    digests: list[bytes | None]
    problems: list[str | None]
    images: np.ndarray


class Unusable(Exception):
    """A file that is not an image, or an image that cannot be used; the message is a short reason."""


def start_process() -> None:
    """Sets up a decoding process: it leaves Ctrl+C to its parent, and it ends when its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()  # a killed parent sends no signal to its children
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def decode_files(paths: Sequence[str], recipe: Recipe) -> Decoded:
    """Reads, hashes and decodes files."""
    digests: list[bytes | None] = []
    problems: list[str | None] = []
    images = np.empty((len(paths), *recipe.size, recipe.channels), dtype=np.uint8)
    count = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about unusual files that can be read
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
                # Pillow's decoders raise exceptions of many types for a damaged file.
                problem = _reason(error)
            digests.append(digest)
            problems.append(problem)
    return Decoded(digests, problems, images[:count])


def to_array(image: Image.Image, recipe: Recipe) -> np.ndarray:
    """Turns an open image (the first frame) into pixels.

    Args:
        image: Image of any mode and size.
        recipe: Settings for turning the image into an array.

    Returns:
        Pixels, shape (H, W, C), uint8.

    Raises:
        Unusable: The mode or the size of the image does not fit the recipe.
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
    pixels = _zoomed_center(pixels, recipe.size, recipe.scale)
    return 255 - pixels if recipe.invert else pixels


def _eight_bits(image: Image.Image) -> Image.Image:
    """Converts 16 bits to 8: 0 to 65535 becomes 0 to 255, rounded, independent of the range that the image uses."""
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
    """Smallest size (width, height) of the same aspect ratio that covers the target; rounded down as in torchvision."""
    (width, height), (to_width, to_height) = size, target
    if to_width * height >= to_height * width:
        return to_width, max(to_height, to_width * height // width)
    return max(to_width, to_height * width // height), to_height


def _zoomed_center(pixels: np.ndarray, size: tuple[int, int], scale: float) -> np.ndarray:
    """Center of an image after a zoom about it, with the nearest pixels; black outside of the image.

    Equal to torchvision's `affine` with nearest-neighbor interpolation, then `center_crop`; where a new pixel lies
    half-way between two old ones, the upper or left one is used.
    """
    indices, inside = [], []
    for length, new in zip(pixels.shape, size, strict=False):
        first = round((length - new) / 2)
        center = (length - 1) / 2
        index = np.ceil((np.arange(first, first + new) - center) / scale + center - 0.5).astype(int)
        inside.append((index >= 0) & (index < length))
        indices.append(np.clip(index, 0, length - 1))
    window = pixels[indices[0][:, None], indices[1]]
    return np.where((inside[0][:, None] & inside[1])[..., None], window, np.uint8(0))


def _reason(error: Exception) -> str:
    if isinstance(error, Unusable):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels, too many to decode"
    # A decoder that seeks before the beginning of the file raises EINVAL, which means a damaged file.
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        return f"cannot be read ({error.strerror})"
    return f"damaged ({' '.join(str(error).split()) or type(error).__name__})"
