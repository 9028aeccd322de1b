"""Files that are taken for CSV files although they are something else: what each is, and what to do."""

import re
import shlex
import zipfile
from pathlib import Path

from visionbench.text import shown

GZIP = b"\x1f\x8b"
HEAD = 4096  # bytes by which the kind of a file is recognized
# Beginnings of files: the kind; the function of pandas that reads it and the package that this needs; or a command.
READERS: tuple[tuple[bytes, str, str, str], ...] = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook of the old form (.xls)", "read_excel", "xlrd"),
    (b"PAR1", "a Parquet file", "read_parquet", "pyarrow"),
    (b"ARROW1\x00", "a Feather file", "read_feather", "pyarrow"),
    (b"FEA1", "a Feather file", "read_feather", "pyarrow"),
    (b"ORC", "an ORC file", "read_orc", "pyarrow"),
    (b"<stata_dta>", "a Stata file", "read_stata", ""),
    (b"$FL2", "an SPSS file", "read_spss", "pyreadstat"),
    (b"\x00" * 12 + b"\xc2\xea\x81\x60", "a SAS file", "read_sas", ""),
)
PACKED: tuple[tuple[bytes, str, str], ...] = (
    (b"BZh", "compressed by bzip2", "bunzip2 --keep"),
    (b"\xfd7zXZ\x00", "compressed by xz", "unxz --keep"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "unzstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x"),
    (b"Rar!\x1a\x07", "a RAR archive", "unrar x"),
)
OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"%PDF-", "a PDF document"),
    (b"Obj\x01", "an Avro file"),
    (b"RDX", "an R workspace"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
)
# Parts of a zip file that tell its kind, and the reader as above.
IN_ZIP: tuple[tuple[str, str, str, str], ...] = (
    ("xl/workbook.xml", "an Excel workbook", "read_excel", "openpyxl"),
    ("xl/workbook.bin", "a binary Excel workbook", "read_excel", "pyxlsb"),
    ("content.xml", "an OpenDocument spreadsheet", "read_excel", "odfpy"),
)


def foreign_kind(path: Path, head: bytes) -> str | None:
    """The end of a sentence about a file that is no CSV file: what it is, and what to do; `None` for any other.

    Args:
        path: Path of the file.
        head: First bytes of its content.
    """
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(path)
    for magic, kind, reader, package in READERS:
        if head.startswith(magic):
            # Magic words of letters alone could be the beginning of a name.
            if magic.isalnum() and b"\x00" not in head:
                continue
            return f"is {kind}, expected a CSV file; {_by_pandas(path, reader, package)}"
    for magic, kind, command in PACKED:
        if head.startswith(magic) and (magic != b"BZh" or head[4:10] == b"1AY&SY"):
            return f"is {kind}, expected a CSV file; unpack it, with {command} {shlex.quote(shown(str(path)))}."
    for magic, kind in OTHERS:
        if head.startswith(magic) and (not magic.isalnum() or b"\x00" in head):
            return f"is {kind}, expected a CSV file; save its table as a CSV file."
    if head[257:262] == b"ustar":
        return f"is a tar archive, expected a CSV file; unpack it, with tar -xf {shlex.quote(shown(str(path)))}."
    return _text_kind(path, head.removeprefix(b"\xef\xbb\xbf").lstrip())


def _text_kind(path: Path, head: bytes) -> str | None:
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return (
            "is a pointer of Git LFS, which stands for a file that is not here, expected a CSV file; fetch it, with "
            "git lfs pull."
        )
    lowered = head[:200].lower()
    if lowered.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<table")):
        return (
            "is a page of the web (HTML), expected a CSV file; download the file itself, not the page that shows it "
            "(on GitHub by Raw, on other sites perhaps after signing in)."
        )
    if lowered.startswith((b"<?xml", b"<workbook")):
        return "is an XML file, expected a CSV file; save its table as a CSV file."
    if re.match(rb'\{\s*("|\})|\[\s*[\[{"]', head):
        return f"is a JSON file, expected a CSV file; {_by_pandas(path, 'read_json', '')}"
    if re.search(rb"(?im)^@relation\b", head) and re.search(rb"(?im)^@attribute\b", head):
        return "is an ARFF file of Weka, expected a CSV file; save its table as a CSV file."
    return None


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return "is a damaged zip file, expected a CSV file; fetch it again, and unpack it."
    for part, kind, reader, package in IN_ZIP:
        if part in names:
            return f"is {kind}, expected a CSV file; {_by_pandas(path, reader, package)}"
    return f"is a zip archive, expected a CSV file; unpack it, with unzip {shlex.quote(shown(str(path)))}."


def _by_pandas(path: Path, reader: str, package: str) -> str:
    """How to write the table as a CSV file."""
    code = f"import pandas; pandas.{reader}({str(path)!r}).to_csv({str(path.with_suffix('.csv'))!r}, index=False)"
    spreadsheet = "in its program, or " if reader == "read_excel" else ""
    sheet = " (its first sheet)" if reader == "read_excel" else ""
    needs = f", after pip install {package}" if package else ""
    return f"save it as CSV, {spreadsheet}with python -c {shlex.quote(code)}{sheet}{needs}."
