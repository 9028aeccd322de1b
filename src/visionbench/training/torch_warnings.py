"""Warnings of torch that mean that a number is another one than it seems, as findings."""

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator
from typing import TextIO

from visionbench.guards import Finding

# Beginning of a warning of torch, and the sentence that replaces it; {} stands for what the groups match.
MEANINGS = (
    (
        r"Using a target size \(torch\.Size\((.+?)\)\) that is different to the input size \(torch\.Size\((.+?)\)\)",
        "torch warned that a loss broadcasts labels of shape {} to outputs of shape {}; give both the same shape.",
    ),
    (
        r"Implicit dimension choice for (\w+) has been deprecated",
        "torch warned that {} has no dim, so that torch chooses the axis by the number of axes; give dim=1.",
    ),
)


@contextlib.contextmanager
def reported_warnings(note: Callable[[Finding], object]) -> Iterator[None]:
    """Passes on each of these warnings once, as a finding; all other warnings are shown as always.

    Args:
        note: Function of a finding.
    """
    known: set[str] = set()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_or_note(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            for pattern, sentence in MEANINGS:
                if match := re.match(pattern, str(message)):
                    if pattern not in known:
                        known.add(pattern)
                        note(Finding("warning", sentence.format(*match.groups())))
                    return
            show(message, category, filename, lineno, file, line)

        for pattern, _ in MEANINGS:
            warnings.filterwarnings("default", message=pattern)
        warnings.showwarning = show_or_note
        yield
