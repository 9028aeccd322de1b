"""SIGTERM as an exception, for what is done besides training."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from visionbench.errors import Stopped


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Lets SIGTERM end what is done besides training, which answers SIGTERM by itself, as Ctrl+C does."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Stopped(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # only the main thread may
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
