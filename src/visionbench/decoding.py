"""Decoding of image files to pixels, in the processes that prepare a folder of images.

This module is outside of `data/`, whose import loads torch and takes seconds, so that such a process imports only this.
"""

import errno
import hashlib
import io
import math
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Literal

import numpy as np
from PIL import (
    ExifTags,
    Image,
    ImagePalette,
    Jpeg2KImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
)

from visionbench.file_kinds import CONVERT, HEAD_BYTES, foreign_kind
from visionbench.pixel_data import exif_orientation, jpeg_2000_layout, tiff_numbers, without_metadata
from visionbench.text import counted, shown

# Formats, recognized by content, not by name. EPS and the like are excluded, since Pillow would start Ghostscript.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by the EXIF orientation
NEW_SUBFILE_TYPE, INK_SET, DNG_VERSION = 254, 332, 50706  # tags of TIFF
JPEG_2000_COLOR_SPACES = (12, 15, 16, 17, 18)  # CMYK, black and white, sRGB, gray, sYCC
PHOTOMETRIC = {0: "white is zero", 5: "CMYK", 6: "YCbCr", 8: "CIELab", 32803: "the mosaic of a camera", 32844: "LogL"}
# Beginnings of Pillow's messages about files that are not damaged.
UNSUPPORTED = ("unsupported", "cannot handle", "unknown pixel mode", "unknown raw mode", "unable to determine")

# Version of the rules by which files become pixels. It is raised where a file comes out otherwise, so that images are
# prepared again: version 1 took a negative of 16 bits for a positive, for example.
DECODING = 2

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


@dataclass(frozen=True)
class Layout:
    """What a file tells about its pixels beyond the mode that Pillow gives.

    Attributes:
        maximum: Value of white, for an image of more than 8 bits.
        white_is_zero: Whether such an image is a negative.
        tables: Lookup tables of 256 values, one after the other for each band, for an image of 8 bits; empty for none.
        is_opaque: Whether the alpha channel has no meaning.
    """

    maximum: int = 65535
    white_is_zero: bool = False
    tables: Sequence[int] = ()
    is_opaque: bool = False


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
                    images[count] = _decode(file, recipe)
                    count += 1
            except (Unusable, OSError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
                problem = _reason(error)
            digests.append(digest)
            problems.append(problem)
    return Decoded(digests, problems, images[:count])


def _decode(file: BinaryIO, recipe: Recipe) -> np.ndarray:
    """Decodes an open file; where its metadata are in the way of its pixels, without them.

    Raises:
        Unusable: The file is damaged or of a kind that is not decoded, or does not fit the recipe.
    """
    try:
        with Image.open(file, formats=FORMATS) as opened:
            image = _upright(opened)
    except (Unusable, MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise
    except Exception as error:  # Pillow's plugins raise exceptions of many types for a damaged file
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        file.seek(0)
        content = file.read()
        if (kind := foreign_kind(content[:HEAD_BYTES])) is not None:
            raise Unusable(kind) from error
        image = _without_metadata(content, error)
    return _fitted(image, recipe)


def _without_metadata(content: bytes, error: Exception) -> Image.Image:
    """The image of a file that could not be decoded with its metadata, which raised `error`."""
    if (reduced := without_metadata(content)) is not None:
        try:
            with Image.open(io.BytesIO(reduced.content), formats=FORMATS) as opened:
                return _upright(opened, reduced.orientation)
        except (Unusable, MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise
        except Exception:
            pass  # the pixels themselves are damaged, or of a kind that is not decoded
    raise Unusable(_reason_of_pixels(content, error)) from error


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
    return _fitted(_upright(image), recipe)


def _fitted(image: Image.Image, recipe: Recipe) -> np.ndarray:
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


def _upright(image: Image.Image, orientation: int | None = None) -> Image.Image:
    """An image of 8 bits and without transparency, turned as its metadata say.

    Args:
        image: Open image of any mode.
        orientation: Orientation as in EXIF, 1 to 8; by default that of the image's metadata.
    """
    layout = _layout(image)
    image.load()
    if orientation is None:
        orientation = _orientation(image)
    if image.mode == "F":
        raise Unusable("pixels in floating point, whose range is not known; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = _eight_bits(image, layout)
    elif layout.tables:
        image = image.point(layout.tables)
    if orientation in TURNS:
        image = image.transpose(TURNS[orientation])
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data and not layout.is_opaque:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB") if image.mode not in ("1", "L", "RGB") else image


def _orientation(image: Image.Image) -> int:
    """The orientation that the metadata of an image tell; that of a TIFF is applied when it is loaded."""
    exif = image.info.get("exif")
    if isinstance(exif, bytes) and (orientation := exif_orientation(exif)) != 1:
        return orientation
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except MemoryError:
        raise
    except Exception:  # Pillow raises exceptions of many types for damaged metadata
        return 1


def _layout(image: Image.Image) -> Layout:
    """What a file tells about its pixels beyond the mode that Pillow gives, read before they are loaded.

    Raises:
        Unusable: Pillow would give other pixels than those of the file.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _tiff_layout(image)
    if isinstance(image, PngImagePlugin.PngImageFile):
        return _png_layout(image)
    if isinstance(image, Jpeg2KImagePlugin.Jpeg2KImageFile):
        return _jpeg_2000_layout(image)
    if image.format == "BMP" and image.mode == "RGBA":
        # Programs that know no transparency leave it at 0.
        return Layout(is_opaque=image.getchannel("A").getextrema() == (0, 0))
    return Layout()


def _tiff_layout(image: TiffImagePlugin.TiffImageFile) -> Layout:
    tags = image.tag_v2
    bits, sample_formats = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)), tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))
    if tags.get(NEW_SUBFILE_TYPE, 0) & 1 or DNG_VERSION in tags:
        raise Unusable(f"a raw file of a camera (DNG, NEF or the like), or a thumbnail before the image; {CONVERT}")
    if 2 in sample_formats:
        raise Unusable(f"pixels of signed {bits[0]}-bit integers; save it with unsigned 8 or 16 bits")
    if image.mode == "I":
        raise Unusable(f"pixels of {bits[0]}-bit integers, whose range is not known; save it with 8 or 16 bits")
    is_raw, photometric = image.info["compression"] == "raw", tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0)
    if image.mode in ("1", "L", "I;16", "I;16B") and TiffImagePlugin.PHOTOMETRIC_INTERPRETATION not in tags:
        raise Unusable(f"a TIFF that does not tell whether 0 is black or white; {CONVERT}")
    if photometric == 5 and tags.get(INK_SET, 1) != 1:
        raise Unusable(f"a TIFF of inks other than CMYK; {CONVERT}")
    if is_raw and tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 2 and bits[0] > 8:
        raise Unusable(f"a TIFF of {bits[0]} bits with its bands one after the other; {CONVERT}")
    if is_raw and photometric == 6 and tags.get(TiffImagePlugin.YCBCRSUBSAMPLING, (2, 2)) != (1, 1):
        raise Unusable(f"a TIFF in YCbCr with fewer colors than pixels, without compression; {CONVERT}")
    if image.mode in ("P", "PA"):
        colors = tags[TiffImagePlugin.COLORMAP]
        if max(colors) < 256:  # written by programs that take the 16 bits of a color for 8
            image.palette = ImagePalette.raw("RGB;L", bytes(colors))
    return Layout(maximum=2 ** bits[0] - 1, white_is_zero=tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0)


def _png_layout(image: PngImagePlugin.PngImageFile) -> Layout:
    info = image.info
    if any(isinstance(info.get(name), str) for name in ("bbox", "interlace", "transparency")):
        raise ValueError("text in place of a property")  # a text whose keyword is one of these names
    if image.mode == "P" and image.palette is None:
        raise ValueError("no palette")
    (tile,) = image.tile
    if "transparency" in info and tile.args == "RGB;16B":
        raise Unusable(f"a PNG of 16 bits with a transparent color; {CONVERT}, with an alpha channel")
    if "transparency" in info and tile.args in ("L;2", "L;4"):  # the gray that Pillow gives 8 bits, but not this one
        info["transparency"] *= 85 if tile.args == "L;2" else 17
    return Layout()


def _jpeg_2000_layout(image: Jpeg2KImagePlugin.Jpeg2KImageFile) -> Layout:
    """Tables for bands of less than 8 bits, whose bits Pillow shifts to the left."""
    file: IO[bytes] = image.fp  # type: ignore[assignment]  # open until the pixels are loaded
    file.seek(0)
    bits, color_space = jpeg_2000_layout(file.read())
    if color_space not in (None, *JPEG_2000_COLOR_SPACES):
        raise Unusable(f"a JPEG 2000 image in the color space number {color_space}; save it in RGB")
    if max(bits) > 8 and image.mode != "I;16":  # Pillow rounds white up to 256, which becomes black
        raise Unusable(f"a JPEG 2000 image of {max(bits)} bits with several bands; {CONVERT}")
    if min(bits) == 8 or image.mode == "I;16":
        return Layout()
    if len(bits) != len(image.getbands()) or image.mode in ("P", "PA"):
        raise Unusable(f"a JPEG 2000 image of {min(bits)} bits with a palette; {CONVERT}")
    tables = [
        round(min(1, (level >> 8 - b) / (2**b - 1)) * 255) for b in (min(b, 8) for b in bits) for level in range(256)
    ]
    return Layout(tables=tables)


def _eight_bits(image: Image.Image, layout: Layout) -> Image.Image:
    """Converts 16 bits to 8: black becomes 0 and white 255, independent of the range that the image uses."""
    levels = image.convert("I")
    lowest, highest = levels.getextrema()
    if lowest < 0 or highest > 65535:  # type: ignore[operator]
        raise Unusable("pixels of 32-bit integers, whose range is not known; save it with 8 or 16 bits")
    top = layout.maximum
    table = [min(255, (510 * level + top) // (2 * top)) for level in range(65536)]
    if layout.white_is_zero:
        table = [255 - level for level in table]
    gray = levels.point(table, "L")
    transparent = gray.info.pop("transparency", None)
    if transparent is not None:
        gray.putalpha(levels.point([255 * (level != transparent) for level in range(65536)], "L"))
    return gray


def _reason_of_pixels(content: bytes, error: Exception) -> str:
    """Reason why an image of a known format could not be decoded."""
    kinds = (name for name in FORMATS if (accept := Image.OPEN[name][1]) is not None and accept(content[:16]))
    if (kind := next(kinds, None)) is None:
        return "not an image of a known format; remove it"
    if isinstance(error, UnidentifiedImageError):
        try:
            Image.OPEN[kind][0](io.BytesIO(content), "")
        except Exception as cause:  # the one that Pillow does not tell
            error = cause
    message = shown(" ".join(str(error).split())) or type(error).__name__
    if kind == "TIFF" and message == "unknown pixel mode":
        return f"a TIFF of {_tiff_description(content)}, which cannot be decoded; {CONVERT}"
    if message.lower().startswith(UNSUPPORTED):
        return f"a {kind} of a kind that cannot be decoded ({message}); {CONVERT}"
    return f"damaged ({message})"


def _tiff_description(content: bytes) -> str:
    """Layout of the pixels of a TIFF, such as: 5 bands of 8 bits."""
    numbers = tiff_numbers(content)
    count, photometric = (
        numbers.get(TiffImagePlugin.SAMPLESPERPIXEL, 1),
        numbers.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION),
    )
    kind = {2: "signed ", 3: "floating-point "}.get(numbers.get(TiffImagePlugin.SAMPLEFORMAT, 1), "")
    bands = f"{counted(count, 'band')} of {kind}{counted(numbers.get(TiffImagePlugin.BITSPERSAMPLE, 1), 'bit')}"
    return bands + (f" ({PHOTOMETRIC[photometric]})" if photometric in PHOTOMETRIC else "")


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
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels, too many to decode"
    return f"cannot be read ({getattr(error, 'strerror', None) or error})"
