"""Image files of ten formats, whole and mutated: each is decoded right, or refused for a reason.

    python benchmarks/fuzz_images.py [--count 500] [--seed 0] [--summary FILE]

Each case draws a picture, writes it in one of the formats with options drawn for it, and changes the file: nothing, an
orientation, a transparent color, broken metadata, or bytes. The file is decoded by `visionbench.decoding` and by a
second decoder, OpenCV. It fails where

- an exception leaves `decode_files`, or it takes longer than `LIMIT` seconds,
- a reason is not one printable line,
- the file is whole (its pixels were not changed) and is refused, or differs from the picture that was drawn, beyond
  what the compression changes,
- both decoders read the file, and the difference is `MEAN` levels or more in the mean, or `LARGEST` or more anywhere.

CMYK and the orientation of TIFF and AVIF, which OpenCV reads by rules of its own, are compared with the drawn picture
alone. A file with changed bytes may be read by one decoder and refused by the other, and what they make of the damaged
part may differ: such files are counted, not failed.
"""

import argparse
import collections
import contextlib
import io
import os
import random
import struct
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")

import cv2
import numpy as np
from PIL import Image

from visionbench.decoding import Recipe, decode_files

LIMIT = 10.0
MEAN, LARGEST = 1.0, 16
FORMATS = ("AVIF", "BMP", "GIF", "J2K", "JP2", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MUTATIONS = ("none", "none", "orientation", "transparency", "metadata", "metadata", "bytes", "bytes", "cut")
# Formats that keep every pixel; of the others, the drawn picture is compared loosely.
LOSSY = {"AVIF", "JPEG", "WEBP"}
HEIGHT, WIDTH = 40, 56
# Ways to turn the drawn picture so that the orientation turns it back.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@dataclass
class Case:
    """A file and what it shows.

    Attributes:
        kind: Format.
        mutation: What was changed.
        content: Content of the file.
        picture: Pixels that the file shows, shape (H, W, 3), uint8.
        is_whole: Whether the pixels of the file are as they were written.
        tolerance: Largest difference that the compression may make.
        is_comparable: Whether OpenCV reads such a file by the same rules.
    """

    kind: str
    mutation: str
    content: bytes
    picture: np.ndarray
    is_whole: bool = True
    tolerance: float = 1.0
    is_comparable: bool = True


def main() -> int:
    """Runs all cases; prints and writes the summary; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--summary", type=Path, help="file for the summary")
    arguments = parser.parse_args()
    outcomes: collections.Counter[tuple[str, str]] = collections.Counter()
    failures, largest, slowest = [], 0.0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.count):
            draw = random.Random(f"{arguments.seed} {number}")
            case = make(draw, FORMATS[number % len(FORMATS)])
            path = Path(folder, f"{number}")
            path.write_bytes(case.content)
            began = time.monotonic()
            outcome, failure, difference = judged(case, path)
            seconds = time.monotonic() - began
            if seconds > LIMIT:
                failure = f"took {seconds:.1f} s"
            outcomes[case.kind, outcome] += 1
            largest, slowest = max(largest, difference), max(slowest, seconds)
            if failure:
                failures.append(f"case {number}: {case.kind}, {case.mutation}: {failure}")
                print(failures[-1], file=sys.stderr)
    summary = table(arguments, outcomes, failures, largest, slowest)
    print(summary)
    if arguments.summary is not None:
        arguments.summary.write_text(summary + "\n", encoding="utf-8")
    return 1 if failures else 0


def table(
    arguments: argparse.Namespace,
    outcomes: collections.Counter[tuple[str, str]],
    failures: list[str],
    largest: float,
    slowest: float,
) -> str:
    """The summary: counts of outcomes by format."""
    names = ["as drawn", "as OpenCV", "refused", "damaged, alike", "damaged, unlike", "damaged, by us alone"]
    lines = [f"{arguments.count} files of seed {arguments.seed}, {len(failures)} failures", ""]
    lines.append(f"{'format':8}" + "".join(f"{name:>22}" for name in names))
    for kind in FORMATS:
        lines.append(f"{kind:8}" + "".join(f"{outcomes[kind, name]:>22}" for name in names))
    lines += ["", f"largest difference from OpenCV in a whole file: {largest:.0f} levels"]
    lines += [f"every file was decoded or refused within {max(1, round(slowest + 0.5))} s"]
    return "\n".join(lines)


def judged(case: Case, path: Path) -> tuple[str, str, float]:
    """Outcome of a case, its failure (empty for none), and the largest difference from OpenCV."""
    height, width = case.picture.shape[:2]
    decoded = decode_files([str(path)], Recipe((height, width), 3, "squash", 1.0, False))
    (problem,) = decoded.problems
    other = by_opencv(case) if case.is_comparable else None
    if problem is not None:
        if not problem.isprintable() or len(problem) > 300:
            return "refused", f"reason is not one line: {problem!r}", 0
        return "refused", f"a whole file is refused: {problem}" if case.is_whole else "", 0
    (pixels,) = decoded.images
    if not case.is_whole:
        if other is None or other.shape != pixels.shape:
            return "damaged, by us alone", "", 0
        return "damaged, alike" if distance(pixels, other)[1] < LARGEST else "damaged, unlike", "", 0
    mean, most = distance(pixels, case.picture)
    if most > case.tolerance:
        return "as drawn", f"differs from the drawn picture by {mean:.2f} in the mean, {most:.0f} at most", 0
    if other is None:
        return "as drawn", "", 0
    if other.shape != pixels.shape:
        return "as OpenCV", f"has the shape {pixels.shape}, {other.shape} by OpenCV", 0
    mean, most = distance(pixels, other)
    failure = f"differs from OpenCV by {mean:.2f} in the mean, {most:.0f} at most"
    return "as OpenCV", failure if mean >= MEAN or most >= LARGEST else "", most


def distance(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Mean and largest difference of two pictures."""
    difference = abs(one.astype(float) - other.astype(float))
    return float(difference.mean()), float(difference.max())


def by_opencv(case: Case) -> np.ndarray | None:
    """The picture as OpenCV reads it, in RGB on white; `None` where it cannot."""
    with contextlib.suppress(cv2.error):
        buffer = np.frombuffer(case.content, np.uint8)
        pixels = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
        if pixels is not None and pixels.dtype == np.uint8 and (pixels.ndim == 2 or pixels.shape[2] == 3):
            pixels = cv2.imdecode(buffer, cv2.IMREAD_COLOR)  # which turns, but would lose alpha and 16 bits
        if pixels is None:
            return None
        pixels = pixels.astype(float) / (257 if pixels.dtype == np.uint16 else 1)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if pixels.shape[2] in (2, 4):
            alpha = pixels[..., -1:] / 255
            pixels = pixels[..., :-1] * alpha + 255 * (1 - alpha)
        pixels = pixels.repeat(3, 2) if pixels.shape[2] == 1 else pixels[..., ::-1]
        return np.round(pixels).astype(np.uint8)
    return None


def make(draw: random.Random, kind: str) -> Case:
    """Draws a case of a format."""
    mutation = draw.choice(MUTATIONS)
    noise = np.random.default_rng(draw.getrandbits(32))
    # Patches, each of one color, so that compression changes little, with soft edges for lossy formats.
    patches = noise.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    picture = Image.fromarray(patches).resize(
        (WIDTH, HEIGHT), Image.Resampling.BICUBIC if kind in LOSSY else Image.Resampling.NEAREST
    )
    if mutation == "transparency":
        return transparent(draw, kind, picture) or written(draw, kind, picture, "none")
    return written(draw, kind, picture, mutation)


def written(draw: random.Random, kind: str, picture: Image.Image, mutation: str) -> Case:
    """Writes a picture and changes the file."""
    mode = draw.choice(modes(kind))
    shown = picture.convert(mode) if mode in ("L", "1", "P") else picture
    if mode == "I;16":
        levels = np.asarray(picture.convert("L")).astype(np.uint16) * 257
        shown, stored = picture.convert("L"), Image.fromarray(levels)
    elif mode == "CMYK":
        stored = picture.convert("CMYK")
    elif mode == "RGB;16":  # which Pillow cannot write
        levels = np.asarray(picture)[..., ::-1].astype(np.uint16) * 257
        content = cv2.imencode(f".{kind.lower()}", levels)[1].tobytes()
        return changed(
            draw, Case(kind, mutation, content, np.asarray(picture)), "none" if mutation == "orientation" else mutation
        )
    else:
        stored = shown
    expected = np.asarray(shown.convert("RGB"))
    options, tolerance = options_for(draw, kind, mode)
    orientation = 1
    if mutation in ("orientation", "metadata") and kind in ("JPEG", "PNG", "TIFF", "WEBP", "AVIF") and mode != "I;16":
        orientation = draw.randint(1, 8)
        stored = stored.transpose(STORED[orientation]) if orientation in STORED else stored
    file = io.BytesIO()
    if orientation != 1:
        exif = Image.Exif()
        exif[274] = orientation
        options["exif"] = exif
    stored.save(file, {"J2K": "JPEG2000", "JP2": "JPEG2000"}.get(kind, kind), **options)
    case = Case(kind, mutation, file.getvalue(), expected, tolerance=tolerance)
    # OpenCV applies no orientation to alpha or 16 bits and none to TIFF, and converts CMYK by other rules.
    case.is_comparable = mode != "CMYK" and (orientation == 1 or kind in ("JPEG", "PNG", "WEBP"))
    return changed(draw, case, mutation)


def changed(draw: random.Random, case: Case, mutation: str) -> Case:
    """Changes the file of a case as its mutation says."""
    kind = case.kind
    if mutation == "metadata":
        case.content = with_broken_metadata(draw, kind, case.content)
    elif mutation == "bytes":
        content, case.is_whole = bytearray(case.content), False
        for _ in range(draw.choice([1, 1, 2, 4, 16])):
            content[draw.randrange(draw.choice([40, 400, 10**6]) % len(content) or len(content))] = draw.randrange(256)
        case.content = bytes(content)
    elif mutation == "cut":
        case.content, case.is_whole = case.content[: draw.randrange(1, len(case.content))], False
    return case


def modes(kind: str) -> list[str]:
    """Modes of Pillow that a format can hold."""
    return {
        "AVIF": ["RGB", "L"],
        "BMP": ["RGB", "L", "P", "1"],
        "GIF": ["P", "L", "1"],
        "J2K": ["RGB", "L", "I;16"],
        "JP2": ["RGB", "L", "I;16"],
        "JPEG": ["RGB", "L", "CMYK"],
        "PNG": ["RGB", "L", "P", "1", "I;16", "RGB;16"],
        "PPM": ["RGB", "L", "1", "I;16", "RGB;16"],
        "TIFF": ["RGB", "L", "P", "1", "I;16", "RGB;16", "CMYK"],
        "WEBP": ["RGB", "L"],
    }[kind]


def options_for(draw: random.Random, kind: str, mode: str) -> tuple[dict[str, object], float]:
    """Options for writing, and the largest difference from the picture that they bring."""
    if kind == "JPEG":
        sampling = draw.choice([0, 1, 2])
        # Colors are kept for 2 x 2 pixels: at edges of saturated patches much changes.
        return {
            "quality": 95,
            "subsampling": sampling,
            "progressive": draw.random() < 0.5,
        }, 20 if mode != "RGB" or sampling == 0 else 130
    if kind == "AVIF":
        return {"quality": 95, "subsampling": "4:4:4"}, 30
    if kind == "WEBP":
        lossless = draw.random() < 0.5
        return {"lossless": lossless, "quality": 100}, 1 if lossless else 130
    if kind in ("J2K", "JP2"):
        return {"irreversible": False, "no_jp2": kind == "J2K"}, 1
    if kind == "PNG":
        return {"compress_level": draw.choice([0, 1, 9]), "bits": 8} if mode == "P" else {"compress_level": 1}, 1
    if kind == "TIFF":
        compressions = [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"] + ["group4"] * (mode == "1")
        return {"compression": draw.choice(compressions), "big_tiff": draw.random() < 0.3}, 2
    if kind == "GIF":
        return {"interlace": draw.choice([0, 1])}, 1
    return {}, 1


def transparent(draw: random.Random, kind: str, picture: Image.Image) -> Case | None:
    """A case with transparent pixels, shown on white; `None` for a format without them."""
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[: HEIGHT // 2] = 255
    pixels = np.asarray(picture)
    on_white = np.where(alpha[..., None] == 255, pixels, 255).astype(np.uint8)
    options, tolerance = options_for(draw, kind, "RGB")
    with_alpha = Image.fromarray(np.dstack([pixels, alpha]))
    file = io.BytesIO()
    if kind in ("AVIF", "JP2", "PNG", "TIFF", "WEBP"):
        with_alpha.save(file, {"JP2": "JPEG2000"}.get(kind, kind), **options)
        return Case(kind, "transparency", file.getvalue(), on_white, tolerance=tolerance)
    if kind == "GIF":
        palette = Image.fromarray(np.where(alpha == 255, 1, 0).astype(np.uint8), "P")
        palette.putpalette([10, 20, 30, 200, 100, 50])
        palette.save(file, "GIF", transparency=0)
        shown = np.where(alpha[..., None] == 255, np.uint8([200, 100, 50]), 255).astype(np.uint8)
        return Case(kind, "transparency", file.getvalue(), shown)
    return None


def with_broken_metadata(draw: random.Random, kind: str, content: bytes) -> bytes:
    """The same file with metadata that cannot be parsed, beside those that it has."""
    if kind == "PNG":
        chunks = [
            (b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * (2 << 20))),
            (b"tEXt", b"interlace\0yes"),
            (b"tEXt", b"transparency\0yes"),
            (b"iCCP", b"profile\0\x07broken"),
            (b"gAMA", b"\0"),
            (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 10\nnot hexadecimal\n")),
            (b"pHYs", b"\0\0"),
        ]
        name, data = draw.choice(chunks)
        chunk = struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        place = 33  # after IHDR
        return content[:place] + chunk + content[place:]
    if kind == "JPEG":
        segments = [
            b"\xff\xe2" + struct.pack(">H", 2 + 12) + b"MPF\0II*\0\x08\0\0\0",
            b"\xff\xe2" + struct.pack(">H", 2 + 14) + b"ICC_PROFILE\0\x01\x09",
            b"\xff\xed" + struct.pack(">H", 2 + 20) + b"Photoshop 3.0\x008BIM\xff\xff",
            b"\xff\xe1" + struct.pack(">H", 2 + 12) + b"Exif\0\0broken",
        ]
        own = content.find(b"\xff\xe1")
        segment = draw.choice(segments[:3] if own >= 0 else segments)  # a second EXIF segment would continue the first
        return content[:2] + segment + content[2:]
    if kind == "WEBP" and content[12:16] == b"VP8X" and b"EXIF" not in content:
        return content + b"EXIF" + struct.pack("<I", 1000)
    return content


if __name__ == "__main__":
    sys.exit(main())
