"""A signal ends what is going on, whatever a library makes of exceptions."""

import contextlib
import signal

import pytest

from visionbench.errors import Stopped
from visionbench.interrupts import ended_by_sigterm


def test_sigterm_is_not_taken_for_an_error_by_a_library_that_catches_all_errors():
    with pytest.raises(Stopped) as stopped, ended_by_sigterm(), contextlib.suppress(Exception):
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.status == 128 + signal.SIGTERM
