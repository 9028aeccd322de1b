"""Numbers as tables write them: with a decimal point or comma, thousands separators, and percent or currency signs."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Mark = Literal[".", ","]

MISSING = frozenset({"", "?", "na", "n/a", "#n/a", "nan", "null"})  # in upper or lower case
SIGNS = "%‰$¢£¤¥€₩₪₫₦₱₴₹₺₽₿"
BLANKS = " \u00a0\u2009\u202f'\u2019"  # blanks of all widths, and apostrophes, which separate thousands
MINUS = "\u2212"


def _pattern(mark: str, separator: str) -> re.Pattern[str]:
    """Digits with decimals and an exponent; or groups of three digits, of which the first begins with no zero."""
    groups = "|".join(rf"(?:[{re.escape(each)}][0-9]{{3}})+" for each in (separator, BLANKS))
    mark = re.escape(mark)
    plain = rf"(?:[0-9]+(?:{mark}[0-9]*)?|{mark}[0-9]+)(?:[eE][+-]?[0-9]+)?"
    return re.compile(rf"[+\-{MINUS}]?(?:{plain}|[1-9][0-9]{{0,2}}(?:{groups})(?:{mark}[0-9]*)?)")


PATTERNS: dict[Mark, re.Pattern[str]] = {".": _pattern(".", ","), ",": _pattern(",", ".")}
# What a number becomes for `float`, once it is known to be one.
PLAIN: dict[Mark, dict[int, str | None]] = {
    ".": {ord(MINUS): "-", ord(","): None, **dict.fromkeys(map(ord, BLANKS))},
    ",": {ord(MINUS): "-", ord("."): None, ord(","): ".", **dict.fromkeys(map(ord, BLANKS))},
}
# Digits with separators and signs, of which a person would say that they are a number. Dates are none.
_NUMBER_LIKE = re.compile(
    rf"[(+\-{MINUS}]*[{re.escape(SIGNS)}]?\s?[+\-{MINUS}]?"
    r"(?:[0-9][0-9,']*(?:\.[0-9]+)?|[0-9][0-9.']*,[0-9]+)"
    rf"\s?[{re.escape(SIGNS)}]?[)\-]*"
)
# Of several cells, one a line: marks that have to be looked at cell by cell; and decimals.
_TELLING = re.compile(rf"[,{re.escape(SIGNS + MINUS)}]|\.[^\n]*\.")
_DECIMALS = re.compile(r"^[+-]?(?:[0-9]+\.(?:[0-9]{1,2}|[0-9]{4,})?|\.[0-9]+|0[0-9]*\.[0-9]{3})$", re.MULTILINE)
_THREE_DECIMALS = re.compile(r"^[+-]?[1-9][0-9]{0,2}\.[0-9]{3}$", re.MULTILINE)


@dataclass(frozen=True)
class NumberStyle:
    """Way in which a column writes its numbers.

    Attributes:
        decimal: Mark before the decimals; the other mark separates thousands.
        sign: Percent or currency sign that each number has; empty for none.
    """

    decimal: Mark = "."
    sign: str = ""

    def number(self, cell: str) -> float | None:
        """Number in a cell, without its sign: 12.5 for 12.5 %; `None` if the cell is not a number of this style."""
        if self.sign:
            sign, cell = split_sign(cell)
            if sign != self.sign:
                return None
        if self.decimal == "." and (value := plain_number(cell)) is not None:
            return value
        if PATTERNS[self.decimal].fullmatch(cell):
            return float(cell.translate(PLAIN[self.decimal]))
        return plain_number(cell) if self.decimal == "," and "." not in cell else None


def plain_number(cell: str) -> float | None:
    """Number in a cell as Python writes it; `None` if the cell is not one."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if value == value and "_" not in cell else None  # only Python reads 1_000 as a number


def split_sign(cell: str) -> tuple[str, str]:
    """Percent or currency sign of a cell, empty for none, and the rest of the cell."""
    if cell[-1:] in SIGNS:
        return cell[-1:], cell[:-1].rstrip()
    if cell[:1] in SIGNS:
        return cell[0], cell[1:].lstrip()
    if cell[1:2] in SIGNS and cell[0] in f"+-{MINUS}":
        return cell[1:2], cell[0] + cell[2:].lstrip()
    return "", cell


def is_number_like(cell: str) -> bool:
    """Whether a cell is made of digits with separators and signs, although it may not be a number of any style."""
    return _NUMBER_LIKE.fullmatch(cell) is not None


@dataclass
class NumberEvidence:
    """What the cells of a column tell about the way in which it writes numbers.

    Attributes:
        cells: Number of cells that are no words for a missing one.
        marks: Number of cells that can be a number only with this decimal mark.
        ambiguous: First cell that is another number with a decimal point than with a decimal comma, by the mark that it
            has: 1.234 or 1,234.
        signs: Number of cells that are numbers with a sign, by sign.
    """

    cells: int = 0
    marks: Counter[Mark] = field(default_factory=Counter)
    ambiguous: dict[str, str] = field(default_factory=dict)
    signs: Counter[str] = field(default_factory=Counter)

    def add(self, cells: Sequence[str]) -> None:
        """Counts cells."""
        self.cells += sum(cell.casefold() not in MISSING for cell in cells)
        text = "\n".join(cells)
        if _TELLING.search(text):
            for cell in cells:
                self._add_one(cell)
            return
        # Most columns hold nothing but words, integers and common decimals, which are told faster together.
        self.marks["."] += len(_DECIMALS.findall(text))
        if "." not in self.ambiguous and (match := _THREE_DECIMALS.search(text)):
            self.ambiguous["."] = match[0]

    def _add_one(self, cell: str) -> None:
        sign, body = split_sign(cell)
        point, comma = PATTERNS["."].fullmatch(body), PATTERNS[","].fullmatch(body)
        if not point and not comma:
            return
        if sign:
            self.signs[sign] += 1
        if not comma:
            self.marks["."] += 1
        elif not point:
            self.marks[","] += 1
        elif (mark := "," if "," in body else "." if "." in body else None) is not None:
            self.ambiguous.setdefault(mark, cell)

    def decimal(self, elsewhere: Mark | None, in_commas: bool) -> Mark | None:
        """The decimal mark; `None` if it cannot be told.

        Args:
            elsewhere: Decimal mark of the other columns, or of the same column in the training file; `None` if that is
                not known.
            in_commas: Whether commas separate the cells, so that numbers have decimal points.
        """
        if self.marks.total():
            return "," if self.marks[","] > self.marks["."] else "."
        if len(self.ambiguous) > 1:
            return None
        if "," in self.ambiguous:
            return elsewhere or ("." if in_commas else None)
        return elsewhere or "."

    def sign(self) -> str:
        """The sign that most of the cells have."""
        (sign, count), *_ = self.signs.most_common(1) or [("", 0)]
        return sign if 2 * count > self.cells else ""


def common_mark(columns: Iterable[NumberEvidence]) -> Mark | None:
    """The decimal mark of the columns of a file, where all that can be told have the same; otherwise `None`."""
    marks = {mark for evidence in columns for mark, count in evidence.marks.items() if count}
    return marks.pop() if len(marks) == 1 else None
