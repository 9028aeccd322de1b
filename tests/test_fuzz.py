"""Changed configurations are refused in one sentence, or mean what they say."""

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"


@pytest.mark.slow
def test_two_hundred_changed_configurations_are_refused_or_mean_what_they_say():
    """In a process of its own, whose memory is limited."""
    done = subprocess.run([sys.executable, str(FUZZ), "--count", "200", "--seed", "7"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "200 cases of seed 7, 0 failures" in done.stdout
