"""What a file is that cannot be used as an image, told from its content, and what to do with it."""

import re
import struct
from pathlib import Path

HEAD_BYTES = 4096  # bytes that tell the kind of a file

CONVERT = "save it as PNG or JPEG"
UNPACK = "unpack it, and give the folder"
DOCUMENT = "save its pages as PNG"
VIDEO = "save its frames as PNG"

# Place and bytes that begin a file of a kind; its name; what to do. The first match counts.
SIGNATURES = [
    (0, b"%PDF-", "a PDF document", DOCUMENT),
    (0, b"%!PS", "a PostScript document", DOCUMENT),
    (0, b"\xc5\xd0\xd3\xc6", "an EPS file", CONVERT),
    (0, b"8BPS", "a Photoshop file (PSD)", CONVERT),
    (0, b"gimp xcf", "a GIMP file (XCF)", CONVERT),
    (0, b"\0\0\1\0", "a Windows icon (ICO)", CONVERT),
    (0, b"icns", "an Apple icon (ICNS)", CONVERT),
    (0, b"\xff\x0a", "a JPEG XL image", CONVERT),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image", CONVERT),
    (0, b"\xff\xd8\xff\xf7", "a JPEG-LS image", CONVERT),
    (0, b"II\xbc", "a JPEG XR image", CONVERT),
    (0, b"BPG\xfb", "a BPG image", CONVERT),
    (0, b"FLIF", "a FLIF image", CONVERT),
    (0, b"qoif", "a QOI image", CONVERT),
    (0, b"DDS ", "a DirectDraw texture (DDS)", CONVERT),
    (0, b"\x01\xda", "an SGI image", CONVERT),
    (0, b"\x59\xa6\x6a\x95", "a Sun raster image", CONVERT),
    (0, b"farbfeld", "a farbfeld image", CONVERT),
    (0, b"P7\n", "a PAM image", CONVERT),
    (0, b"/* XPM", "an XPM image", CONVERT),
    (0, b"#define ", "an XBM image, or C source", CONVERT),
    (0, b"AT&TFORM", "a DjVu document", DOCUMENT),
    (0, b"\xd7\xcd\xc6\x9a", "a Windows metafile (WMF)", CONVERT),
    (40, b" EMF", "a Windows metafile (EMF)", CONVERT),
    (
        0,
        b"\x76\x2f\x31\x01",
        "an OpenEXR image, whose range has no limits",
        "save it as PNG, with a range that you choose",
    ),
    (
        0,
        b"#?RADIANCE",
        "a Radiance HDR image, whose range has no limits",
        "save it as PNG, with a range that you choose",
    ),
    (0, b"#?RGBE", "a Radiance HDR image, whose range has no limits", "save it as PNG, with a range that you choose"),
    (128, b"DICM", "a DICOM file", "save it as PNG, with the window that you choose"),
    (344, b"n+1\0", "a NIfTI volume", "save its slices as PNG"),
    (0, b"NRRD", "an NRRD volume", "save its slices as PNG"),
    (0, b"SIMPLE  =", "a FITS file", "save it as PNG, with a range that you choose"),
    (0, b"MM\0+", "a BigTIFF whose bytes are in big-endian order", CONVERT),
    (0, b"FUJIFILMCCD-RAW", "a raw file of a camera (RAF)", CONVERT),
    (0, b"IIRO", "a raw file of a camera (ORF)", CONVERT),
    (0, b"IIRS", "a raw file of a camera (ORF)", CONVERT),
    (0, b"IIU\0", "a raw file of a camera (RW2)", CONVERT),
    (0, b"\0MRM", "a raw file of a camera (MRW)", CONVERT),
    (0, b"FOVb", "a raw file of a camera (X3F)", CONVERT),
    (
        12,
        b"CgBI",
        "a PNG in the form of iOS applications",
        "convert it back with Xcode's `pngcrush -revert-iphone-optimizations`",
    ),
    (0, b"\x1a\x45\xdf\xa3", "a video (Matroska or WebM)", VIDEO),
    (8, b"AVI ", "a video (AVI)", VIDEO),
    (0, b"OggS", "an audio or video file (Ogg)", VIDEO),
    (0, b"FLV\1", "a video (FLV)", VIDEO),
    (0, b"\0\0\1\xba", "a video (MPEG)", VIDEO),
    (0, b"\0\0\1\xb3", "a video (MPEG)", VIDEO),
    (0, b"\x30\x26\xb2\x75", "an audio or video file (ASF, WMV)", VIDEO),
    (4, b"moov", "a video (QuickTime)", VIDEO),
    (4, b"mdat", "a video (QuickTime)", VIDEO),
    (8, b"WAVE", "an audio file (WAV)", "remove it"),
    (0, b"ID3", "an audio file (MP3)", "remove it"),
    (0, b"fLaC", "an audio file (FLAC)", "remove it"),
    (0, b"PK\3\4", "a ZIP archive, or a document of an office program", UNPACK),
    (0, b"PK\5\6", "an empty ZIP archive", "remove it"),
    (0, b"\x1f\x8b", "a gzip archive", UNPACK),
    (0, b"BZh", "a bzip2 archive", UNPACK),
    (0, b"\xfd7zXZ\0", "an xz archive", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", UNPACK),
    (0, b"Rar!", "a RAR archive", UNPACK),
    (257, b"ustar", "a tar archive", UNPACK),
    (0, b"\x93NUMPY", "a NumPy array", "save it as PNG, or pass it to visionbench.data.Arrays in Python"),
    (0, b"\x89HDF\r\n", "an HDF5 file", "save its images as PNG"),
    (0, b"MATLAB 5.0", "a MATLAB file", "save its images as PNG"),
    (0, b"PAR1", "a Parquet file", "save its images as PNG"),
    (0, b"SQLite format 3", "an SQLite database", "remove it"),
    (0, b"\0\5\x16\7", "an AppleDouble file, which macOS writes beside a file", "remove it"),
    (0, b"\0\5\x16\0", "an AppleSingle file", CONVERT),
    (0, b"\x4c\0\0\0\1\x14\2\0", "a Windows shortcut", "replace it by the file to which it leads"),
    (0, b"\xd0\xcf\x11\xe0", "a document of an office program, or a thumbnail database", "remove it"),
    (0, b"MZ", "a Windows program", "remove it"),
    (0, b"\x7fELF", "a program", "remove it"),
]
# Formats of the ISO container (`ftyp`), by their brands; the first match counts.
BRANDS = [
    ((b"avif", b"avis"), None, ""),
    ((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"), "a HEIC image", CONVERT),
    ((b"crx ",), "a raw file of a camera (CR3)", CONVERT),
    ((b"jxl ",), "a JPEG XL image", CONVERT),
    ((b"mif1", b"msf1"), "a HEIF image", CONVERT),
]
# Beginnings of text, in lower case.
TEXTS = [
    (rb"version https://git-lfs", "a Git LFS pointer, not the image itself", "fetch the image with `git lfs pull`"),
    (rb"\S*/annex/objects/", "a git-annex pointer, not the image itself", "fetch the image with `git annex get`"),
    (rb"(<\?xml.*)?(<!--.*-->\s*)*(<!doctype svg.*)?<svg", "an SVG drawing", "draw it as PNG"),
    (
        rb"(<\?xml.*)?(<!--.*-->\s*)*(<!doctype html|<html|<head|<body|<script)",
        "a web page (HTML), such as the answer of a server that refuses a download",
        "download the image again",
    ),
    (
        rb"<\?xml|<error|<\w+ xmlns",
        "XML, such as the answer of a server that refuses a download",
        "download the image again",
    ),
    (rb"[{\[]", "text (JSON), such as the answer of a server that refuses a download", "download the image again"),
    (rb"data:image/", "text that holds an image (a data URL)", "decode its base64 into a file"),
]
TARGA_KINDS = {1, 2, 3, 9, 10, 11}


def foreign_kind(content: bytes) -> str | None:
    """Name of the kind of a file, and what to do with it, for a kind that is not decoded.

    Args:
        content: Beginning of the file, `HEAD_BYTES` or the whole of a shorter one.

    Returns:
        A phrase for a message; `None` for a format that is decoded, and for an unknown kind.
    """
    if not content.strip(b"\0"):
        return "zero bytes where an image begins, which a failed copy leaves; copy it again"
    for place, signature, name, advice in SIGNATURES:
        if content.startswith(signature, place):
            return f"{name}; {advice}"
    if content[4:8] == b"ftyp":
        return _container(content)
    if content[:4] in (b"II*\0", b"MM\0*") and (camera := _camera_raw(content)) is not None:
        return camera
    if (text := _text(content)) is not None:
        return text
    if _is_targa(content):
        return f"a Targa image (TGA); {CONVERT}"
    if content.startswith(b"\0\0\2\0"):
        return f"a Windows cursor (CUR); {CONVERT}"
    if content[:1] == b"\n" and content[1:3] in (b"\0\1", b"\2\1", b"\3\1", b"\5\1"):
        return f"a PCX image; {CONVERT}"
    return None


def kind_of_file(path: Path) -> str | None:
    """Name of the kind of a file, and what to do with it; `None` where it cannot be read or its kind is not known."""
    try:
        with path.open("rb") as file:
            return foreign_kind(file.read(HEAD_BYTES))
    except OSError:
        return None


def _container(content: bytes) -> str | None:
    (length,) = struct.unpack_from(">I", content)
    brands = {content[8:12], *(content[place : place + 4] for place in range(16, min(length, len(content)), 4))}
    for known, name, advice in BRANDS:
        if not brands.isdisjoint(known):
            return None if name is None else f"{name}; {advice}"
    return f"a video or audio file (MP4, QuickTime or the like); {VIDEO}"


def _camera_raw(content: bytes) -> str | None:
    return f"a raw file of a camera (CR2); {CONVERT}" if content[8:10] == b"CR" else None


def _text(content: bytes) -> str | None:
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"), (b"\xef\xbb\xbf", "utf-8")):
        if content.startswith(mark):
            content = content[len(mark) :].decode(encoding, "ignore").encode()
    start = content.lstrip().lower()
    for pattern, name, advice in TEXTS:
        if re.match(pattern, start, flags=re.DOTALL):
            return f"{name}; {advice}"
    try:
        text = content[: HEAD_BYTES - 4].decode()
    except UnicodeDecodeError:
        return None
    is_plain_ppm = re.match(r"P[123]\s", text) is not None
    if is_plain_ppm or not all(character.isprintable() or character in "\t\n\r\f" for character in text):
        return None
    return "text, not an image; remove it"


def _is_targa(content: bytes) -> bool:
    """Whether the header of 18 bytes can be one of a Targa image, whose format has no signature."""
    if len(content) < 18:
        return False
    _, has_palette, kind, first, colors, color_bits, _, _, width, height, bits, flags = struct.unpack_from(
        "<BBBHHBHHHHBB", content
    )
    return (
        (
            color_bits in (15, 16, 24, 32)
            if has_palette == 1
            else (has_palette, first, colors, color_bits) == (0, 0, 0, 0)
        )
        and kind in TARGA_KINDS
        and bits in (8, 15, 16, 24, 32)
        and width > 0
        and height > 0
        and flags & 0b11000000 == 0
    )
