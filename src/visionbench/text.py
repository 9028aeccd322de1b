"""Numbers, names and errors as text."""

import math
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


def counted(count: int, item: str) -> str:
    """A number of things: 1 image, 1,200 images."""
    return f"{count:,} {item}{'s' * (count != 1)}"


def one_line(error: BaseException) -> str:
    """An exception's message on one line, not longer than is read."""
    return textwrap.shorten(str(error), 300, placeholder=" ...").rstrip(".! ") + "."


def shown(name: str) -> str:
    """A name as it can be printed on one line and written as UTF-8."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
