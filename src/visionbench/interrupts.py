"""SIGTERM as an exception."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from visionbench.errors import Stopped


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Lets SIGTERM end a block of code as Ctrl+C does; Lightning's Trainer answers the signal itself while it trains.

    Raises:
        Stopped: The process receives SIGTERM within the block.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(128 + number)

    try:
        previous_handler = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # only the main thread may set a handler
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous_handler)
