"""Image files whose metadata is broken, whose layout is unusual, or that are no images: used, or refused by name."""

import base64
import gzip
import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.image_bytes import chunk, png, tiff
from visionbench.decoding import Recipe, decode_files

pytestmark = pytest.mark.fast

RAMP = np.arange(64).reshape(8, 8)  # levels of 8 bits: four times as much
CORNER = np.zeros((8, 8, 3), np.uint8)
CORNER[:4, :4] = 255, 0, 0
CORNER[4:, :4] = 0, 255, 0  # every way to turn it is another picture


def decoded(tmp_path, content, channels=1, size=(8, 8)):
    """Pixels of a file, or the reason why it cannot be used."""
    path = tmp_path / "file"
    path.write_bytes(content)
    result = decode_files([str(path)], Recipe(size, channels, "none", 1.0, False))
    (problem,) = result.problems
    return result.images[0].squeeze() if problem is None else problem


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# Pixels that decode although the metadata does not


def exif(*entries, order="<", count=None):
    """EXIF data: entries (tag, type, count, value of 4 bytes)."""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    body = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3] for entry in entries)
    number = len(entries) if count is None else count
    return b"Exif\0\0" + magic + struct.pack(f"{order}IH", 8, number) + body + bytes(4)


TURNED = (0x112, 3, 1, struct.pack("<HH", 6, 0))
EXIF = {
    "texts as number and fraction": exif(TURNED, (0x131, 3, 1, b"\5\0\0\0"), (0x132, 5, 1, b"\x08\0\0\0")),
    "resolution as text": exif(TURNED, (0x11A, 2, 3, b"ab\0\0"), (0x128, 2, 3, b"cm\0\0")),
    "fraction by zero": exif(TURNED, (0x11A, 5, 1, b"\x1a\0\0\0")),
    "offsets beyond the end": exif(TURNED, (0x8769, 4, 1, b"\xff\xff\xff\x7f"), (0x8825, 4, 1, b"\xff\xff\xff\xff")),
    "directory within itself": exif(TURNED, (0x8769, 4, 1, b"\x08\0\0\0")),
    "maker note of no size": exif(TURNED, (0x927C, 7, 2**31, b"\xff\0\0\0")),
    "unknown types": exif(TURNED, (0x9999, 77, 3, b"abcd"), (0, 0, 0, b"\0\0\0\0")),
    "more entries than there are": exif(TURNED, count=900),
    "cut after the orientation": exif(TURNED, (0x131, 2, 50, b"\xff\0\0\0"))[: 6 + 8 + 2 + 12 + 5],
    "orientation as LONG": exif((0x112, 4, 1, struct.pack("<I", 6))),
    "orientation as BYTE": exif((0x112, 1, 1, b"\6\0\0\0")),
    "big-endian": exif((0x112, 3, 1, struct.pack(">HH", 6, 0)), (0x132, 5, 1, b"\0\0\0\x08"), order=">"),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("data", EXIF.values(), ids=EXIF)
def test_an_image_with_broken_exif_is_used_and_turned(tmp_path, kind, data):
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}, "AVIF": {"quality": 100}}
    stored = Image.fromarray(CORNER.repeat(8, 0).repeat(8, 1)).transpose(Image.Transpose.ROTATE_90)
    content = saved(stored, kind, **options.get(kind, {}))
    if kind == "JPEG":
        content = content[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(data)) + data + content[2:]
    elif kind == "PNG":
        content = content[:33] + chunk(b"eXIf", data[6:]) + content[33:]
    elif kind == "WEBP":
        bits = struct.unpack("<I", content[21:25])[0]
        size = struct.pack("<I", bits & 0x3FFF)[:3] + struct.pack("<I", bits >> 14 & 0x3FFF)[:3]
        extended = b"VP8X" + struct.pack("<I", 10) + b"\x08\0\0\0" + size
        body = extended + content[12:] + b"EXIF" + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
        content = b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
    else:
        valid = Image.Exif()
        valid[0x112], valid[0x131] = 6, "x" * 100  # the orientation becomes a property of the image
        content = saved(stored, kind, exif=valid, **options[kind])
        end = content.index(b"x" * 100) + 100
        start = max(content.rfind(b"II*\0", 0, end), content.rfind(b"MM\0*", 0, end))
        content = content[:start] + data[6:].ljust(end - start, b"\xff") + content[end:]
    pixels = decoded(tmp_path, content, 3, (64, 64))
    assert not isinstance(pixels, str), pixels
    assert abs(pixels[4::8, 4::8].astype(int) - CORNER).max() <= 12


def text(keyword, value):
    return chunk(b"zTXt", keyword + b"\0\0" + zlib.compress(value))


def turn(tag=6):
    return chunk(b"eXIf", exif((0x112, 3, 1, struct.pack("<HH", tag, 0)))[6:])


CHUNKS = {
    "compressed text of 2 MB": text(b"Comment", b"x" * (2 << 20)),
    "international text of 2 MB": chunk(b"iTXt", b"c\0\1\0\0\0" + zlib.compress(b"x" * (2 << 20))),
    "many texts": text(b"Comment", b"x" * (1 << 20)) * 70,
    "color profile of 2 MB": chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(2 << 20))),
    "color profile of no method": chunk(b"iCCP", b"p\0\7abc"),
    "color profile without an end of its name": chunk(b"iCCP", b"pppp"),
    "text of no method": chunk(b"zTXt", b"c\0\7abc"),
    "EXIF in bad hexadecimal": text(b"Raw profile type exif", b"\nexif\n  10\nno hexadecimal\n"),
    "EXIF in cut hexadecimal": text(b"Raw profile type exif", b"\nexif\n  10\n457\n"),
    "bad checksum of a text": chunk(b"tEXt", b"a\0b")[:-4] + b"bad!",
    "short gamma": chunk(b"gAMA", b"\0"),
    "short chromaticities": chunk(b"cHRM", b"\0" * 5),
    "short density": chunk(b"pHYs", b"\0" * 3),
    "empty intent": chunk(b"sRGB", b""),
    "short animation": chunk(b"acTL", b"\0\0"),
    "animation out of sequence": chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", b"\xff" * 26),
    "text called interlace": chunk(b"tEXt", b"interlace\0yes"),
    "text called transparency": chunk(b"tEXt", b"transparency\0yes"),
    "text called bbox": chunk(b"tEXt", b"bbox\0yes"),
    "unknown chunk": chunk(b"vpAg", b"abc"),
}


@pytest.mark.parametrize("broken", CHUNKS.values(), ids=CHUNKS)
def test_a_png_with_broken_metadata_is_used_and_turned(tmp_path, broken):
    levels = RAMP * 4
    np.testing.assert_array_equal(decoded(tmp_path, png(levels, 8, chunks=[broken])), levels)
    turned = np.rot90(levels, -1)
    content = png(levels, 8, chunks=[turn(), broken])
    if b"Raw profile" not in broken:  # a profile in place of the chunk
        np.testing.assert_array_equal(decoded(tmp_path, content), turned)
    after = png(levels, 8)
    end = after.index(b"IEND") - 4
    np.testing.assert_array_equal(decoded(tmp_path, after[:end] + broken + after[end:]), levels)


def segment(marker, content):
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(content)) + content


SEGMENTS = {
    "several pictures, cut": segment(0xE2, b"MPF\0II*\0\x08\0\0\0"),
    "several pictures, none": segment(0xE2, b"MPF\0MM\0*\0\0\0\x08\0\0\0\0\0\0"),
    "color profile in missing parts": segment(0xE2, b"ICC_PROFILE\0\1\x09abc"),
    "color profile without numbers": segment(0xE2, b"ICC_PROFILE\0"),
    "Photoshop's resources, cut": segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x10ab"),
    "short JFIF": segment(0xE0, b"JFIF\0"),
    "EXIF of other order": segment(0xE1, b"Exif\0\0XX*\0\x08\0\0\0"),
    "empty EXIF": segment(0xE1, b"Exif\0\0"),
    "XMP that is no XML": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation=\xff>"),
    "comment of 64 kB": segment(0xFE, b"\xff" * 65533),
}


@pytest.mark.parametrize("broken", SEGMENTS.values(), ids=SEGMENTS)
def test_a_jpeg_with_broken_metadata_is_used(tmp_path, broken):
    content = saved(Image.fromarray(CORNER), "JPEG", quality=100, subsampling=0)
    pixels = decoded(tmp_path, content[:2] + broken + content[2:], 3)
    assert not isinstance(pixels, str), pixels
    assert abs(pixels.astype(int) - CORNER).max() <= 12


TAGS = {
    "resolution as text": {282: (2, b"abcdef"), 283: (2, b"ab"), 296: (3, [3])},
    "directory beyond the end": {34665: (4, [2**31]), 34853: (4, [2**32 - 1])},
    "XMP as number": {700: (3, [7])},
    "software as numbers": {305: (3, [1, 2, 3, 4])},
    "color profile as number": {34675: (4, [5])},
    "page name as number": {285: (4, [5])},
}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
def test_a_tiff_with_broken_metadata_is_used_and_turned(tmp_path, tags, order):
    levels = RAMP * 4
    content = tiff(levels, order=order, tags={274: (3, [6]), **tags})
    np.testing.assert_array_equal(decoded(tmp_path, content), np.rot90(levels, -1))


def test_a_webp_whose_last_chunk_is_cut_is_used(tmp_path):
    content = saved(Image.fromarray(CORNER), "WEBP", lossless=True, exif=exif(TURNED))
    np.testing.assert_array_equal(decoded(tmp_path, content[:-3], 3), np.rot90(CORNER, -1))


# Pixels that would come out wrong without a word


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
@pytest.mark.parametrize("photometric", [0, 1])
def test_a_gray_tiff_has_its_own_black_and_white_or_is_named(tmp_path, order, bits, photometric):
    top = 2**bits - 1
    levels = np.round(RAMP / 63 * top).astype(int)
    expected = np.round((levels if photometric else top - levels) / top * 255)
    pixels = decoded(tmp_path, tiff(levels, bits, photometric, order))
    if isinstance(pixels, str):
        assert bits in (12, 16)
        assert f"1 band of {bits} bits" in pixels
        assert ("white is zero" in pixels) == (photometric == 0)
    else:
        np.testing.assert_array_equal(pixels, expected)


def colors(levels):
    return np.stack([levels, levels[::-1], levels.T], -1)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_color_tiff_has_its_colors_or_is_named(tmp_path, order, planes, bits):
    levels = colors(RAMP * 4)
    content = tiff(levels * (257 if bits == 16 else 1), bits, 2, order, planes=planes)
    if planes and bits == 16:
        assert "a TIFF of 16 bits with its bands one after the other" in decoded(tmp_path, content, 3)
    else:
        np.testing.assert_array_equal(decoded(tmp_path, content, 3), levels)


def test_premultiplied_and_plain_alpha_of_a_tiff_lie_on_white(tmp_path):
    gray, alpha = RAMP * 4, np.where(RAMP % 2, 255, 128)
    on_white = np.round(gray * (alpha / 255) + 255 - alpha)
    multiplied = np.round(gray * (alpha / 255)).astype(int)
    for extra, stored in ((2, gray), (1, multiplied)):
        found = decoded(tmp_path, tiff(np.stack([stored, alpha], -1), tags={338: (3, [extra])}))
        if isinstance(found, str):  # Pillow before 13 cannot read premultiplied gray
            assert (extra, "a TIFF of 2 bands of 8 bits, which cannot be decoded" in found) == (1, True)
        else:
            assert abs(found - on_white).max() <= 1, extra
        content = tiff(np.stack([stored, stored, stored, alpha], -1), photometric=2, tags={338: (3, [extra])})
        assert abs(decoded(tmp_path, content) - on_white).max() <= 2, extra


def test_a_palette_of_8_bits_in_a_tiff_is_not_black(tmp_path):
    palette = [level for _ in range(3) for level in range(256)]
    levels = RAMP * 4
    np.testing.assert_array_equal(decoded(tmp_path, tiff(levels, photometric=3, tags={320: (3, palette)})), levels)
    palette = [level * 257 for level in palette]
    np.testing.assert_array_equal(decoded(tmp_path, tiff(levels, photometric=3, tags={320: (3, palette)})), levels)


def test_lab_is_turned_into_gray_too(tmp_path):
    middle = np.full((8, 8, 3), [128, 0, 0])
    assert abs(decoded(tmp_path, tiff(middle, photometric=8)).astype(int) - 119).max() <= 2


@pytest.mark.parametrize(("bits", "top"), [(2, 3), (4, 15), (8, 255), (16, 65535)])
def test_a_transparent_gray_of_a_png_lies_on_white(tmp_path, bits, top):
    levels = np.round(RAMP / 63 * top).astype(int)
    transparent = int(levels[3, 3])
    content = png(levels, bits, chunks=[chunk(b"tRNS", struct.pack(">H", transparent))])
    expected = np.where(levels == transparent, 255, np.round(levels / top * 255))
    np.testing.assert_array_equal(decoded(tmp_path, content), expected)


def test_a_png_of_16_bits_in_color_is_rounded_and_with_a_transparent_color_named(tmp_path):
    levels = colors(RAMP * 1000)
    pixels = decoded(tmp_path, png(levels, 16, 2), 3)
    assert abs(pixels - levels / 257).max() <= 1
    content = png(levels, 16, 2, [chunk(b"tRNS", struct.pack(">HHH", 1000, 2000, 3000))])
    assert "a PNG of 16 bits with a transparent color" in decoded(tmp_path, content, 3)


def test_gray_with_alpha_of_16_bits_lies_on_white(tmp_path):
    gray, alpha = RAMP * 1000, np.where(RAMP % 2, 65535, 0)
    pixels = decoded(tmp_path, png(np.stack([gray, alpha], -1), 16, 4))
    assert abs(pixels - np.where(alpha, gray / 257, 255)).max() <= 1


def test_a_png_of_colors_without_a_palette_is_damaged(tmp_path):
    assert decoded(tmp_path, png(RAMP, 8, 3)).startswith("damaged (")


@pytest.mark.parametrize("maximum", [1, 15, 100, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("magic", ["P2", "P5"])
def test_a_pgm_reaches_white_at_its_own_maximum(tmp_path, maximum, magic):
    levels = np.round(RAMP / 63 * maximum).astype(int)
    numbers = levels.astype(">u2" if maximum > 255 else "u1").tobytes()
    body = " ".join(map(str, levels.ravel())).encode() if magic == "P2" else numbers
    pixels = decoded(tmp_path, f"{magic}\n8 8\n{maximum}\n".encode() + body)
    np.testing.assert_allclose(pixels, levels / maximum * 255, atol=0.51)


# Made with OpenJPEG: levels 0 to 15 of 4 bits; white of 16 bits in color.
OF_4_BITS = """
/0//UQApAAAAAAAIAAAACAAAAAAAAAAAAAAACAAAAAgAAAAAAAAAAAABAwEB/1IADAAAAAEAAAQEAAH/XAAEQCD/ZAAlAAFDcmVh
dGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAAAnAAH/k98hYBKDlG14l7pohvwIQ+r+kg7KYxsGxp//2Q==
"""
OF_16_BITS = """
/0//UQAvAAAAAAAIAAAACAAAAAAAAAAAAAAACAAAAAgAAAAAAAAAAAADDwEBDwEBDwEB/1IADAAAAAEBAAQEAAH/XAAEQID/ZAAl
AAFDcmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAAAZAAH/k8/8MBQUAFyvh4CA/9k=
"""


def test_jpeg_2000_of_other_than_8_bits_is_right_or_named(tmp_path):
    np.testing.assert_array_equal(decoded(tmp_path, base64.b64decode(OF_4_BITS)), RAMP // 4 * 17)
    assert "a JPEG 2000 image of 16 bits with several bands" in decoded(tmp_path, base64.b64decode(OF_16_BITS), 3)
    deep = saved(Image.fromarray((RAMP * 1000).astype(np.uint16)), "JPEG2000")
    np.testing.assert_array_equal(decoded(tmp_path, deep), np.round(RAMP * 1000 / 257))
    lab = saved(Image.fromarray(CORNER), "JPEG2000").replace(
        struct.pack(">4sBBBI", b"colr", 1, 0, 0, 16), struct.pack(">4sBBBI", b"colr", 1, 0, 0, 14)
    )
    assert "in the color space number 14" in decoded(tmp_path, lab, 3)


def bmp(header, pixels, bits, compression=0, masks=b""):
    size = header + 14 + (len(masks) if header == 40 else 0)
    head = struct.pack("<IiiHHIIiiII", header, 8, 8, 1, bits, compression, len(pixels), 0, 0, 0, 0) + masks
    head = head.ljust(header + (len(masks) if header == 40 else 0), b"\0")
    return b"BM" + struct.pack("<IHHI", size + len(pixels), 0, 0, size) + head + pixels


def test_an_alpha_of_zero_in_a_bmp_has_no_meaning(tmp_path):
    bgra = np.dstack([CORNER[::-1, :, ::-1], np.zeros((8, 8), np.uint8)])
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    np.testing.assert_array_equal(decoded(tmp_path, bmp(124, bgra.tobytes(), 32, 3, masks), 3), CORNER)
    np.testing.assert_array_equal(decoded(tmp_path, bmp(40, bgra.tobytes(), 32), 3), CORNER)
    bgra[..., 3] = 255
    bgra[0, :, 3] = 0
    pixels = decoded(tmp_path, bmp(124, bgra.tobytes(), 32, 3, masks), 3)
    np.testing.assert_array_equal(pixels[:7], CORNER[:7])
    assert (pixels[7] == 255).all()


def test_an_avif_is_read(tmp_path):
    content = saved(Image.fromarray(CORNER.repeat(8, 0).repeat(8, 1)), "AVIF", quality=100)
    assert abs(decoded(tmp_path, content, 3, (64, 64))[4::8, 4::8].astype(int) - CORNER).max() <= 4


def test_the_whole_of_a_long_text_is_not_kept(tmp_path):
    """A text that would be 1 GB is left out with the others, not unpacked."""
    content = png(RAMP * 4, 8, chunks=[text(b"Comment", bytes(1 << 30))])
    assert len(content) < 2 << 20
    np.testing.assert_array_equal(decoded(tmp_path, content), RAMP * 4)


# Names of what cannot be used


def box(kind, brand, *brands):
    return struct.pack(">I", 16 + 4 * len(brands)) + b"ftyp" + brand + bytes(4) + b"".join(brands) + kind


def archive(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name in names:
            written.writestr(name, "content")
    return file.getvalue()


NAMES = {
    "a HEIC image": box(b"", b"heic", b"mif1"),
    "a HEIC image ": box(b"", b"mif1", b"heic"),
    "a HEIF image": box(b"", b"mif1", b"miaf"),
    "a video or audio file (MP4": box(b"mdat", b"isom", b"mp42"),
    "a video or audio file (MP4, QuickTime": box(b"", b"qt  "),
    "a raw file of a camera (CR3)": box(b"", b"crx "),
    "a raw file of a camera (CR2)": b"II*\0\x10\0\0\0CR\2\0",
    "a raw file of a camera (RAF)": b"FUJIFILMCCD-RAW 0201",
    "a raw file of a camera (DNG": tiff(RAMP, tags={50706: (1, [1, 4, 0, 0])}),
    "a raw file of a camera (DNG, NEF": tiff(RAMP, tags={254: (4, [1])}),
    "a video (Matroska": b"\x1a\x45\xdf\xa3abc",
    "a video (AVI)": b"RIFF\0\0\0\0AVI LIST",
    "an audio file (WAV)": b"RIFF\0\0\0\0WAVEfmt ",
    "a Windows icon": saved(Image.new("RGB", (16, 16)), "ICO"),
    "a Targa image": saved(Image.new("RGB", (16, 16)), "TGA"),
    "a Targa image (TGA)": saved(Image.new("P", (16, 16)), "TGA", rle=True),
    "a PCX image": saved(Image.new("RGB", (16, 16)), "PCX"),
    "an SGI image": saved(Image.new("RGB", (16, 16)), "SGI"),
    "a DirectDraw texture": saved(Image.new("RGB", (16, 16)), "DDS"),
    "an Apple icon": b"icns\0\0\0\x10",
    "a Photoshop file": b"8BPS\0\1" + bytes(20),
    "a PDF document": b"%PDF-1.7\n%\xe2\xe3",
    "an SVG drawing": b'<?xml version="1.0"?>\n<!-- x -->\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "an SVG drawing ": b"<svg width='1'/>",
    "a web page (HTML)": b"\r\n<!DOCTYPE html>\n<html><title>404</title></html>",
    "a web page (HTML) ": b"\xef\xbb\xbf<html lang='de'>\xc3\xa4",
    "XML, such as the answer": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "text (JSON)": b'{"error": "not found"}',
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "a git-annex pointer": b"/annex/objects/SHA256E-s1--00.jpg\n",
    "text that holds an image": b"data:image/png;base64,AAAA",
    "text, not an image": b"hello\n",
    "text, not an image; ": b"BMW is a car, and not a bitmap",
    "zero bytes": bytes(5000),
    "a JPEG XL image": b"\xff\x0a\xfa\x7f\x01",
    "a JPEG-LS image": b"\xff\xd8\xff\xf7\0\x0b\x08\0\x08\0\x08\1\1\x11\0",
    "a DICOM file": bytes(128) + b"DICM\2\0",
    "a NumPy array": b"\x93NUMPY\1\0",
    "a ZIP archive": archive("a.png"),
    "a gzip archive": gzip.compress(b"abc"),
    "a tar archive": b"a.png".ljust(257, b"\0") + b"ustar\x0000",
    "an AppleDouble file": b"\0\5\x16\7\0\2\0\0",
    "a Windows shortcut": b"\x4c\0\0\0\1\x14\2\0\0\0\0\0",
    "an OpenEXR image": b"\x76\x2f\x31\x01\2\0\0\0",
    "a PNG in the form of iOS": png(RAMP, 8, header=chunk(b"CgBI", b"\x50\0\x20\2"), zlib_header=b""),
    "a BigTIFF whose bytes": b"MM\0+\0\x08\0\0" + bytes(20),
    "a TIFF of 5 bands of 8 bits": tiff(np.zeros((8, 8, 5), int)),
    "a TIFF of 2 bands of 16 bits": tiff(np.zeros((8, 8, 2), int), 16, tags={338: (3, [2])}),
    "pixels of signed 8-bit integers": tiff(RAMP, tags={339: (3, [2])}),
    "pixels of signed 16-bit integers": tiff(RAMP, 16, tags={339: (3, [2])}),
    "pixels of signed 16-bit integers; save": tiff(RAMP, 16, order=">", tags={339: (3, [2])}),
    "pixels of signed 32-bit integers": tiff(RAMP, 32, tags={339: (3, [2])}),
    "pixels of 32-bit integers": tiff(RAMP, 32),
    "pixels in floating point": tiff(RAMP, 32, tags={339: (3, [3])}),
    "a TIFF of 3 bands of floating-point 32 bits": tiff(np.zeros((8, 8, 3), int), 32, 2, tags={339: (3, [3, 3, 3])}),
    "a TIFF of inks other than CMYK": tiff(np.zeros((8, 8, 4), int), photometric=5, tags={332: (3, [2])}),
    "a TIFF that does not tell whether 0": tiff(RAMP, tags={262: None}),
    "a TIFF in YCbCr with fewer colors": tiff(np.zeros((8, 8, 3), int), photometric=6, tags={530: (3, [2, 2])}),
    "a TIFF of 1 band of 8 bits (the mosaic": tiff(RAMP, photometric=32803),
    "a JPEG of a kind that cannot be decoded (cannot handle 12-bit": segment(0xC1, b"\x0c\0\x08\0\x08\1\1\x11\0").join(
        [b"\xff\xd8\xff\xdb\0\2", b""]
    ),
    "a BMP of a kind that cannot be decoded": bmp(40, b"", 24, 5),
    "damaged (": saved(Image.fromarray(CORNER), "PNG")[:60],
    "damaged (image": saved(Image.fromarray(np.random.RandomState(0).randint(0, 256, (8, 8, 3), np.uint8)), "JPEG")[
        :-40
    ],
    "not an image of a known format": b"\x91\x02\x03\xfe" * 9,
}


@pytest.mark.parametrize(("name", "content"), NAMES.items(), ids=NAMES)
def test_a_file_that_cannot_be_used_is_called_what_it_is(tmp_path, name, content):
    reason = decoded(tmp_path, content)
    assert isinstance(reason, str)
    assert reason.startswith(name.strip())
    assert reason.isprintable()


def test_formats_that_pillow_writes_are_not_called_something_else(tmp_path):
    for kind in ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP"):
        for mode in ("1", "L", "RGB"):
            image = Image.fromarray(RAMP.astype(np.uint8)).resize((64, 64)).convert(mode)
            options = {"pnginfo": PngImagePlugin.PngInfo()} if kind == "PNG" else {}
            if mode == "1" and kind in ("AVIF", "WEBP", "JPEG2000"):
                continue
            pixels = decoded(tmp_path, saved(image, kind, **options), 3, (64, 64))
            assert not isinstance(pixels, str), (kind, mode, pixels)
