"""CSV files as people have them: how the text is encoded, where its table begins, and what separates its cells.

The csv module of the standard library splits the lines. A file is read in several passes, without keeping its text in
memory.
"""

import codecs
import contextlib
import csv
import gzip
import io
import re
import shlex
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import IO

from visionbench.data.file_kinds import GZIP, HEAD, foreign_kind
from visionbench.data.numbers import MISSING, Mark, NumberEvidence, NumberStyle, common_mark, plain_number
from visionbench.errors import UserError
from visionbench.text import counted, option, quoted, shown

DELIMITERS = "\t;|,"  # commas last, since they are in names and numbers too
IN_WORDS = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas"}
# Lines, and characters, by which the separator is found; and rows by which the line of names is judged.
SAMPLE_LINES, SAMPLE_CHARACTERS, JUDGED_ROWS = 2000, 4_000_000, 200
CHUNK_ROWS = 1000  # rows whose numbers are looked at together
# Bytes for each NUL byte of a file that is no UTF-8 from its beginning, at most; fewer are a damage.
MOST_PER_NUL = 10
# From this many on, increasing numbers are names of columns, such as wavelengths.
MIN_SCALE = 5
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before the mark of UTF-16, which it begins with
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# The line by which Excel is told the separator.
SEPARATOR_LINE = re.compile(r'"?sep=(\t|[^\w\s"])"?[,;\t|]*\s*', re.IGNORECASE)

Record = tuple[int, list[str]]  # number of the last line of a record, and its cells


@dataclass(frozen=True)
class _Layout:
    """One way to read the beginning of a file.

    Attributes:
        delimiter: Separator of the cells.
        start: Number of lines above that with the names.
        names: Cells of that line, without empty ones at its end that no row fills.
        rows: Records below that line.
        error: What the csv module cannot read there; empty if it reads all.
    """

    delimiter: str
    start: int
    names: list[str]
    rows: list[Record]
    error: str

    @property
    def fitting(self) -> float:
        """Share of the rows that have as many cells as there are names."""
        return sum(_fits(cells, len(self.names)) for _, cells in self.rows) / max(1, len(self.rows))


class CsvFile:
    """A CSV file, opened by reading it once; its first line names the columns.

    Cells are separated by commas, semicolons, tabs or bars (what fits most lines is used), or by what a line such as
    `sep=;` at the top says, and may be quoted. The text is UTF-8, or UTF-16 with a byte order mark, and may be
    compressed by gzip. Empty lines, lines above the names that begin with #, and empty cells beyond the last column are
    ignored.

    Args:
        path: Path of the file.
        allow_unnamed: Whether columns without a name are allowed.
        fewest: Smallest number of columns.
        expected: Names that columns should have; they decide between ways to read the file.
        ignored: Names of columns that are not used, for the advice in a message.

    Raises:
        UserError: The file cannot be read, is empty or is no CSV file, its first line does not name the columns, or the
            number of cells of a row is not that of the columns.
    """

    delimiter = ","
    evidence: Mapping[str, NumberEvidence] = {}
    """What the cells of each column tell about the way in which it writes numbers."""
    _mark: Mark | None = None

    def __init__(
        self,
        path: Path,
        allow_unnamed: bool = False,
        fewest: int = 2,
        expected: Collection[str] = (),
        ignored: Sequence[str] = (),
    ) -> None:
        self.path = path
        self._is_gzip, self._encoding = False, "utf-8-sig"
        with self._reading():
            self._find_form()
            lines, is_whole = self._sample()
        named = SEPARATOR_LINE.fullmatch(lines[0]) if lines else None
        self._separator = named[1] if named else ""
        layouts = _layouts(lines, self._separator, is_whole)
        if not layouts:
            raise UserError(
                f"{self.name} is empty, expected a line with the names of the columns, followed by one row per line."
            )
        layout = max(layouts, key=lambda layout: _rank(layout, frozenset(expected)))
        self.delimiter, self._start, self.names = layout.delimiter, layout.start, layout.names
        self.comments = sum(line.lstrip().startswith("#") for line in lines[: layout.start])
        """Number of lines above the names that begin with #."""
        self._check_layout(layout, layouts, fewest)
        self._check_names(allow_unnamed, ignored)
        self.evidence = {name: NumberEvidence() for name in self.names}
        rows = (cells for _, cells in self.rows())
        while chunk := list(islice(rows, CHUNK_ROWS)):
            for name, column in zip(self.names, zip(*chunk, strict=True), strict=True):
                self.evidence[name].add(column)
        self._mark = common_mark(self.evidence.values())

    @property
    def name(self) -> str:
        """Path of the file, for messages."""
        return shown(str(self.path))

    def rows(self) -> Iterator[Record]:
        """Line number (of the row's last line) and cells of each row.

        Raises:
            UserError: The file cannot be read, or the number of cells of a row is not that of the columns.
        """
        records = self._records()
        next(records, None)
        width = len(self.names)
        for line, cells in records:
            if len(cells) != width:
                if not _fits(cells, width):
                    raise UserError(
                        f"{self.name}, line {line}, has {counted(len(cells), 'cell')}, expected {width}, one for each "
                        f"column; {self._advice(len(cells))}."
                    )
                cells = cells[:width]
            if cells == self.names:
                raise UserError(
                    f"{self.name}, line {line}, repeats the names of the columns, as where files were joined, expected "
                    "a row; remove the line."
                )
            yield line, cells

    def number(self, cell: str) -> float | None:
        """Number in a cell, with a decimal point, or a comma if commas do not separate cells; `None` if it is none."""
        if self.delimiter != "," and cell.count(",") == 1 and "." not in cell:
            cell = cell.replace(",", ".")
        return plain_number(cell)

    def mark(self, name: str, trained: Mark | None = None) -> Mark | None:
        """Decimal mark of a column; `None` if it cannot be told.

        Args:
            name: Name of the column.
            trained: Decimal mark of the column in the training file; `None` if this is the training file.
        """
        if name not in self.evidence:
            return trained or "."
        return self.evidence[name].decimal(self._mark or trained, self.delimiter == ",")

    def _advice(self, cells: int) -> str:
        if cells < len(self.names):
            return "add what is missing there"
        commas = ", and write numbers with decimal points" if self.delimiter == "," else ""
        return f"put a cell that contains the separator in double quotes{commas}"

    def _find_form(self) -> None:
        """Finds compression and encoding; refuses a file of another kind."""
        with self.path.open("rb") as file:
            head = file.read(HEAD)
        if head.startswith(GZIP):
            self._is_gzip = True
            with self._bytes() as content:
                head = content.read(HEAD)
        if (kind := foreign_kind(self.path, head)) is not None:
            raise UserError(f"{self.name} {kind}")
        self._encoding = next((name for mark, name in BYTE_ORDER_MARKS if head.startswith(mark)), "utf-8-sig")
        if self._encoding == "utf-8-sig" and head.count(0) * MOST_PER_NUL > len(head):
            raise UserError(
                f"{self.name} holds many NUL bytes, as UTF-16 without a byte order mark does, and files that are no "
                "text, expected a CSV file; save it as CSV in UTF-8."
            )

    def _sample(self) -> tuple[list[str], bool]:
        """The first lines of the file, and whether they are all."""
        lines: list[str] = []
        characters = 0
        with self._text() as file:
            for line in self._checked(file):
                if len(lines) == SAMPLE_LINES or characters > SAMPLE_CHARACTERS:
                    return lines, False
                lines.append(line)
                characters += len(line)
        return lines, True

    def _check_layout(self, layout: _Layout, layouts: Sequence[_Layout], fewest: int) -> None:
        first, names, rows = f"{self.name}, line {layout.start + 1},", layout.names, layout.rows
        if len(names) < fewest or (len(rows) > 1 and not layout.fitting):
            for other in layouts:
                (width, count), *_ = Counter(len(cells) for _, cells in other.rows).most_common(1) or [(0, 0)]
                if count > 1 and 2 * count > len(other.rows) and width > 1:
                    raise UserError(
                        f"{first} has {counted(len(other.names), 'cell')}, {quoted(', '.join(other.names))}, but the "
                        f"lines below it have {width}, separated by {IN_WORDS.get(other.delimiter, other.delimiter)}, "
                        "expected a name for each column; remove a title above the names, name every column (R leaves "
                        f"out the name of the row names), and {self._advice(width)}."
                    )
        if len(names) < fewest:
            said = f"{quoted(self._separator)}, which its first line names" if self._separator else ""
            raise UserError(
                f"{self.name} has one column, {quoted(names[0])}, expected two or more (the target and others), "
                f"separated by {said or 'commas, semicolons, tabs or bars'}; for another separator, such as ^, write "
                "the line sep=^ above the names."
            )
        judged = [cells for _, cells in rows[:JUDGED_ROWS] if len(cells) >= len(names) and cells != names]
        if _is_row(names, judged):
            raise UserError(
                f"{first} holds {quoted(', '.join(names))}, which looks like a row, expected the names of the columns; "
                "write a line with a name for each column above it, or rename columns that are called as their cells."
            )

    def _check_names(self, allow_unnamed: bool, ignored: Sequence[str]) -> None:
        for name, count in Counter(self.names).items():
            if count > 1 and (name or not allow_unnamed):
                places = ", ".join(str(place) for place, other in enumerate(self.names, start=1) if other == name)
                named = f"named {quoted(name)}" if name else "without a name"
                raise UserError(
                    f"{self.name} has {count} columns {named} (columns {places}); give each a different name in the "
                    "first line."
                )
        if "" in self.names and not allow_unnamed:
            raise UserError(
                f"Column {self.names.index('') + 1} of {self.name} has no name (pandas writes row numbers like this); "
                f"give it a name, or ignore it with {option('data.ignore', [*ignored, ''])}."
            )

    def _records(self) -> Iterator[Record]:
        line = self._start
        try:
            with self._reading(), self._text() as file:
                lines = self._checked(file)
                for _ in range(self._start):
                    next(lines)
                for line, cells in _split(lines, self.delimiter, self._start):
                    if any(cells):
                        yield line, cells
        except csv.Error as error:
            raise UserError(
                f"{self.name} cannot be read as CSV after line {line} ({error}); correct the quotes there: a cell that "
                "begins with a double quote ends with one, and has two for each in between."
            ) from error

    def _checked(self, file: Iterable[str]) -> Iterator[str]:
        for number, line in enumerate(file, start=1):
            if "\0" in line:
                raise UserError(
                    f"{self.name}, line {number}, holds a NUL byte, expected text; save it as CSV in UTF-8, or fetch "
                    "the file again if it is damaged."
                )
            yield line

    def _bytes(self) -> IO[bytes]:
        return gzip.open(self.path, "rb") if self._is_gzip else self.path.open("rb")  # type: ignore[return-value]

    def _text(self) -> IO[str]:
        return io.TextIOWrapper(self._bytes(), encoding=self._encoding, newline="")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Turns what may go wrong with a file into sentences."""
        try:
            yield
        except UnicodeDecodeError as error:
            raise UserError(self._where_not_text(error)) from error
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{self.name} is damaged (gzip: {error}); fetch it again.") from error
        except OSError as error:
            raise UserError(f"{self.name} cannot be read ({error.strerror}); make it readable.") from error

    def _where_not_text(self, error: UnicodeDecodeError) -> str:
        if self._encoding != "utf-8-sig":
            return f"{self.name} begins as {self._encoding.upper()}, but is not ({error.reason}); save it as UTF-8."
        where = ""
        with self._bytes() as file:
            for number, line in enumerate(file, start=1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as reason:
                    where = f" (byte 0x{line[reason.start]:02x} in line {number})"
                    break
        path = shlex.quote(self.name)
        return (
            f"{self.name} is not UTF-8{where}; save it as UTF-8, or convert it, from the encoding of Windows with "
            f"iconv -f WINDOWS-1252 -t UTF-8 {path} > utf8.csv."
        )


def _layouts(lines: Sequence[str], separator: str, is_whole: bool) -> list[_Layout]:
    """The ways to read the beginning of a file.

    Args:
        lines: First lines of the file.
        separator: Separator that the very first line names; empty for none.
        is_whole: Whether these are all lines.
    """
    top = int(bool(separator))
    place = top
    while place < len(lines) and (not lines[place].strip() or lines[place].lstrip().startswith("#")):
        place += 1
    # The names may stand in a line with #: above all rows, or below comments.
    marked = [number for number in range(top, place) if lines[number].lstrip().startswith("#")]
    layouts = []
    for start in dict.fromkeys([*marked[:1], *marked[-1:], place]):
        for delimiter in separator or DELIMITERS:
            records: list[Record] = []
            error = ""
            try:
                records.extend(record for record in _split(lines[start:], delimiter, start) if any(record[1]))
            except csv.Error as reason:
                # A sample may end within a quoted cell.
                error = str(reason) if is_whole or "unexpected end" not in str(reason) else ""
            if records:
                layouts.append(_Layout(delimiter, start, *_names_and_rows(records), error))
    return layouts


def _names_and_rows(records: list[Record]) -> tuple[list[str], list[Record]]:
    (_, names), *rows = records
    while not names[-1] and not any(any(cells[len(names) - 1 :]) for _, cells in rows):
        names = names[:-1]  # a separator at the end of each line
    return names, rows


def _rank(layout: _Layout, expected: frozenset[str]) -> tuple[bool, int, bool, float, int]:
    """How well a layout fits: more is better; of equal ones, the first is used."""
    found = len(expected & set(layout.names))
    return len(layout.names) > 1, found, not layout.error, layout.fitting, len(layout.names)


def _split(lines: Iterable[str], delimiter: str, start: int) -> Iterator[Record]:
    """Line number and cells, without blanks around them, of each record.

    Args:
        lines: Lines, with their ends.
        delimiter: Separator of the cells.
        start: Number of lines above.

    Raises:
        csv.Error: The quotes are wrong.
    """
    reader = csv.reader(_tidied(lines, delimiter), delimiter=delimiter, strict=True, skipinitialspace=True)
    for cells in reader:
        yield start + reader.line_num, [cell.strip() for cell in cells]


def _tidied(lines: Iterable[str], delimiter: str) -> Iterator[str]:
    """Lines without blanks between the quote at the end of a cell and the separator, which the csv module refuses."""
    separator = re.escape(delimiter)
    ending = rf" +(?={separator}|[\r\n]*$)"
    quoted_cell = re.compile(rf'((?:^|{separator}) *"(?:[^"]|"")*"){ending}')
    rest_of_cell = re.compile(rf'(^(?:[^"]|"")*"){ending}')
    is_open = False  # whether a quoted cell goes on from the line above
    for line in lines:
        if '"' in line:
            if '" ' in line:
                if is_open:
                    line = rest_of_cell.sub(r"\1", line)
                line = quoted_cell.sub(r"\1", line)
            is_open ^= line.count('"') % 2 == 1
        yield line


def _fits(cells: Sequence[str], width: int) -> bool:
    """Whether a row has as many cells, not counting empty ones beyond them."""
    return len(cells) == width or (len(cells) > width and not any(cells[width:]))


def _is_row(names: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether the names of columns are the cells of a row.

    A word tells it if it is also a cell of its column, and a number if it lies among those of its column; except for
    numbers that count the columns, or grow from one to the next as on a scale.
    """
    words = numbers = 0  # names that tell it
    values: list[float] = []
    told = [(place, name) for place, name in enumerate(names) if name.casefold() not in MISSING]
    for place, name in told:
        value = _any_number(name)
        if value is None:
            words += any(cells[place] == name for cells in rows)
            continue
        values.append(value)
        below = [number for cells in rows if (number := _any_number(cells[place])) is not None]
        numbers += bool(below) and min(below) <= value <= max(below)
    if not words and values:
        counts = all(value.is_integer() for value in values) and all(b - a == 1 for a, b in pairwise(values))
        if counts or (len(values) >= MIN_SCALE and all(a < b for a, b in pairwise(values))):
            return False
    return 2 * (words + numbers) >= len(told) and (numbers > 0 or words > 1)


def _any_number(cell: str) -> float | None:
    """Number in a cell with a decimal point or comma."""
    value = NumberStyle(".").number(cell)
    return value if value is not None else NumberStyle(",").number(cell)
