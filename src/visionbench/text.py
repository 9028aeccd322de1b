"""Numbers, names and errors as text."""

import json
import math
import shlex
import textwrap

MINUS = "\N{MINUS SIGN}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 8 s, 3 min 20 s, 1 h 05 min."""
    whole = math.ceil(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def as_percent(share: float, digits: int = 2) -> str:
    """A share in percent: 97.80 %; with more digits where it would look like none or all, but is not.

    Args:
        share: Share, from 0 to 1.
        digits: Number of digits after the point.
    """
    while digits < 9 and share not in (0, 1) and float(f"{100 * share:.{digits}f}") in (0, 100):
        digits += 1
    return f"{100 * share:.{digits}f} %"


def counted(count: int, item: str, items: str | None = None) -> str:
    """A number of things: 1 image, 1,200 images; `items` is the plural where it does not end in a mere s."""
    return f"{count:,} {item if count == 1 else items if items is not None else f'{item}s'}"


def one_line(error: BaseException) -> str:
    """An exception's message on one line, not longer than is read."""
    line = textwrap.shorten(str(error), 300, placeholder=" ...").rstrip(".! ")
    return line if line.endswith("?") else f"{line}."


def shown(name: str) -> str:
    """A name as it can be printed on one line and written as UTF-8."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def quoted(text: str) -> str:
    """Text of a cell or a name for a message, shortened if it is long."""
    text = shown(text)
    return f"'{text if len(text) <= 40 else text[:37] + '...'}'"


def option(name: str, value: object) -> str:
    """An option with its value, as it is written in a shell; every text in the value is quoted.

    Args:
        name: Name of the option, such as data.missing.
        value: Value of plain types.
    """
    return f"--{name} {shlex.quote(shown(json.dumps(value, ensure_ascii=False)))}"


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8; a path with other bytes cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
