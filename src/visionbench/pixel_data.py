"""Image files without their metadata, for files whose pixels can be decoded although their metadata is broken."""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

# Chunks and segments that decide what the pixels are; all others are metadata.
PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
WEBP_CHUNKS = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF")
JPEG_SEGMENTS = {0xE0: 14, 0xEE: 12}  # JFIF and Adobe, which tell the color space; their bytes, if they are whole
# Tags of TIFF: size, bits, compression, photometric interpretation, strips, tiles, predictor, colors, samples, JPEG.
TIFF_TAGS = frozenset(
    {254, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 338}
    | {339, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532}
)
ORIENTATION = 274
# Formats of `struct` for the types of TIFF's integers: the orientation should be a SHORT, but some programs err.
INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}


class Reduced(NamedTuple):
    """An image file without its metadata: its content, and the EXIF orientation, 1 to 8, which was among them."""

    content: bytes
    orientation: int


def without_metadata(content: bytes) -> Reduced | None:
    """The same image without its metadata.

    Args:
        content: Content of a PNG, JPEG, WebP, TIFF or AVIF file.

    Returns:
        The same image, with the orientation as far as it can be read; `None` for a file of another format, or one whose
        structure cannot be followed.
    """
    try:
        if content.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(content)
        if content.startswith(b"\xff\xd8\xff"):
            return _jpeg(content)
        if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
            return _webp(content)
        if content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _tiff(content)
        if content[4:8] == b"ftyp":
            return _avif(content)
    except (struct.error, IndexError):  # the structure goes on beyond the end of the file
        pass
    return None


def exif_orientation(exif: bytes) -> int:
    """The orientation that EXIF data tell, 1 to 8; 1 where they tell none or are damaged before it."""
    exif = exif.removeprefix(b"Exif\0\0").removeprefix(b"Exif\0\0")
    try:
        for entry, endian in _tiff_entries(exif):
            if (orientation := _orientation(exif, entry, endian)) is not None:
                return orientation
    except struct.error:
        pass
    return 1


def jpeg_2000_layout(content: bytes) -> tuple[list[int], int | None]:
    """Bits of each component of a JPEG 2000 image, and the number of its color space, where the file has one.

    Args:
        content: Content of the file.
    """
    start = max(0, content.find(b"\xff\x4f\xff\x51"))  # of the code stream, which begins with the size
    header = content[:start]
    color = header.find(b"colr\1")
    (count,) = struct.unpack_from(">H", content, start + 40)
    bits = [(content[place] & 0x7F) + 1 for place in range(start + 42, start + 42 + 3 * count, 3)]
    return bits, struct.unpack_from(">I", header, color + 7)[0] if color >= 0 else None


def tiff_numbers(content: bytes) -> dict[int, int]:
    """The first value of each tag of integers in the first directory of a TIFF, as far as it can be read."""
    numbers = {}
    big = content[2:4] in (b"+\0", b"\0+")
    try:
        for entry, endian in _tiff_entries(content):
            tag, kind, count = struct.unpack_from(f"{endian}HH{'Q' if big else 'I'}", content, entry)
            if kind in INTEGERS:
                place, inline = entry + (12 if big else 8), 8 if big else 4
                if struct.calcsize(INTEGERS[kind]) * count > inline:
                    (place,) = struct.unpack_from(f"{endian}{'Q' if big else 'I'}", content, place)
                (numbers[tag],) = struct.unpack_from(f"{endian}{INTEGERS[kind]}", content, place)
    except struct.error:
        pass
    return numbers


def _png(content: bytes) -> Reduced:
    parts, orientation, place = [content[:8]], 1, 8
    while place + 8 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        kind, end = content[place + 4 : place + 8], place + 12 + length
        if kind == b"eXIf":
            orientation = exif_orientation(content[place + 8 : end - 4])
        elif kind in PNG_CHUNKS:
            parts.append(content[place:end])
        if kind == b"IEND":
            break
        place = end
    return Reduced(b"".join(parts), orientation)


def _jpeg(content: bytes) -> Reduced:
    parts, orientation, place = [content[:2]], 1, 2
    while content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker == 0xDA:  # the pixels follow
            break
        (length,) = struct.unpack_from(">H", content, place + 2)
        segment, end = content[place + 4 : place + 2 + length], place + 2 + length
        if marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            orientation = exif_orientation(segment)
        is_metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if not is_metadata or len(segment) >= JPEG_SEGMENTS.get(marker, 2**16):
            parts.append(content[place:end])
        place = end
    return Reduced(b"".join([*parts, content[place:]]), orientation)


def _webp(content: bytes) -> Reduced:
    parts, orientation, place = [], 1, 12
    while place + 8 <= len(content):
        kind, length = struct.unpack_from("<4sI", content, place)
        end = place + 8 + length + length % 2
        if kind == b"EXIF":
            orientation = exif_orientation(content[place + 8 : end])
        elif kind == b"VP8X":  # its flags tell which chunks there are: alpha and animation stay
            flags = content[place + 8] & 0b00010010
            parts.append(content[place : place + 8] + bytes([flags]) + content[place + 9 : end])
        elif kind in WEBP_CHUNKS:
            parts.append(content[place:end])
        place = end
    chunks = b"".join(parts)
    return Reduced(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks, orientation)


def _tiff(content: bytes) -> Reduced:
    """The file with a first directory that has only the tags for the pixels, and with no further directory."""
    kept, orientation, first, endian, big = [], 1, 0, "<", content[2:4] in (b"+\0", b"\0+")
    size = 20 if big else 12
    for entry, endian in _tiff_entries(content):
        first = first or entry
        orientation = _orientation(content, entry, endian, big) or orientation
        (tag,) = struct.unpack_from(f"{endian}H", content, entry)
        if tag in TIFF_TAGS and entry + size <= len(content):
            kept.append(content[entry : entry + size])
    count = struct.pack(f"{endian}Q" if big else f"{endian}H", len(kept))
    directory = count + b"".join(kept) + bytes(8 if big else 4)
    start = first - len(count)
    return Reduced(content[:start] + directory + content[start + len(directory) :], orientation)


def _orientation(content: bytes, entry: int, endian: str, big: bool = False) -> int | None:
    """The orientation, where an entry of a directory of TIFF is of this tag and holds one."""
    tag, kind = struct.unpack_from(f"{endian}HH", content, entry)
    if tag != ORIENTATION or kind not in INTEGERS:
        return None
    (value,) = struct.unpack_from(f"{endian}{INTEGERS[kind]}", content, entry + (12 if big else 8))
    return value if 1 <= value <= 8 else None


def _tiff_entries(content: bytes) -> Iterator[tuple[int, str]]:
    """Place of each entry in the first directory of a TIFF file or of EXIF data, and the byte order of the file."""
    endian = {b"II": "<", b"MM": ">"}.get(content[:2])
    if endian is None:
        return
    if struct.unpack_from(f"{endian}H", content, 2) == (43,):
        (place,) = struct.unpack_from(f"{endian}Q", content, 8)
        (count,) = struct.unpack_from(f"{endian}Q", content, place)
        places = range(place + 8, place + 8 + 20 * count, 20)
    else:
        (place,) = struct.unpack_from(f"{endian}I", content, 4)
        (count,) = struct.unpack_from(f"{endian}H", content, place)
        places = range(place + 2, place + 2 + 12 * count, 12)
    for entry in places:
        if entry + 12 > len(content):
            return
        yield entry, endian


def _avif(content: bytes) -> Reduced:
    """The file with items of another type in place of EXIF and XMP, which decoders then ignore.

    The orientation is 1, since that of AVIF is not in EXIF but in a property of the image, which decoders apply.
    """
    return Reduced(re.sub(rb"(infe.{8})(Exif|mime)", rb"\1skip", content, flags=re.DOTALL), 1)
