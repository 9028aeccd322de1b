"""PNG and TIFF files of layouts that Pillow does not write, from their arrays."""

import struct
import zlib

import numpy as np


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def packed(levels, bits):
    """Rows of numbers of so many bits, each row filled up to a byte."""
    rows = np.asarray(levels).reshape(len(levels), -1)
    digits = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return [np.packbits(row).tobytes() for row in digits.reshape(len(rows), -1).astype(np.uint8)]


def png(levels, bits, color=0, chunks=(), header=b"", zlib_header=b"\x78\x9c"):
    """A PNG of levels, shape (H, W) or (H, W, bands), with chunks before its pixels."""
    height, width = levels.shape[:2]
    rows = b"".join(b"\0" + row for row in packed(levels, bits))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    parts = [
        b"\x89PNG\r\n\x1a\n",
        header,
        head,
        *chunks,
        chunk(b"IDAT", zlib_header + zlib.compress(rows)[2:]),
        chunk(b"IEND", b""),
    ]
    return b"".join(parts)


def tiff(levels, bits=8, photometric=1, order="<", tags=(), planes=False):
    """An uncompressed TIFF of unsigned levels, shape (H, W) or (H, W, bands); `tags` are (type, values) by number."""
    height, width, bands = (*levels.shape, 1)[:3]
    ordered = np.moveaxis(levels.reshape(height, width, bands), 2, 0).reshape(-1, width) if planes else levels
    if bits in (16, 32):
        pixels = np.asarray(ordered).astype(f"{order}u{bits // 8}").tobytes()
    else:
        pixels = b"".join(packed(ordered, bits))
    size = len(pixels) // bands if planes else len(pixels)
    entries = {256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * bands), 259: (3, [1]), 262: (3, [photometric])}
    entries |= {273: (4, [0] * (bands if planes else 1)), 277: (3, [bands]), 278: (4, [height])}
    entries |= {279: (4, [size] * (bands if planes else 1)), 284: (3, [2 if planes else 1]), **dict(tags)}
    entries = {number: entry for number, entry in sorted(entries.items()) if entry is not None}
    start = 8 + 2 + 12 * len(entries) + 4
    codes = {1: "B", 2: "s", 3: "H", 4: "I", 8: "h"}

    def value(kind, values):
        return values if kind == 2 else struct.pack(f"{order}{len(values)}{codes[kind]}", *values)

    place = start + sum(len(value(*entry)) for entry in entries.values() if len(value(*entry)) > 4)
    entries[273] = (4, [place + size * plane for plane in range(len(entries[273][1]))])
    directory, outside = struct.pack(f"{order}H", len(entries)), b""
    for number, (kind, values) in entries.items():
        content = value(kind, values)
        if len(content) > 4:
            outside, content = outside + content, struct.pack(f"{order}I", start + len(outside))
        directory += struct.pack(f"{order}HHI", number, kind, len(values)) + content.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}I", 8) + directory + bytes(4) + outside + pixels
