"""Changed configurations, images and tables are refused in one sentence, or mean what they say."""

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "benchmarks" / "fuzz_configurations.py"


@pytest.mark.slow
def test_two_hundred_changed_configurations_are_refused_or_mean_what_they_say():
    """In a process of its own, whose memory is limited."""
    done = subprocess.run([sys.executable, str(FUZZ), "--count", "200", "--seed", "7"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "200 cases of seed 7, 0 failures" in done.stdout


@pytest.mark.slow
def test_a_hundred_image_files_are_decoded_as_by_another_decoder_or_refused():
    """In a process of its own, where the other decoder may write on the screen."""
    fuzz = FUZZ.with_name("fuzz_images.py")
    done = subprocess.run([sys.executable, str(fuzz), "--count", "100"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100 files of seed 0, 0 failures" in done.stdout


@pytest.mark.slow
def test_a_hundred_tables_are_read_as_pandas_reads_them():
    """A fifth of the tables of the benchmark."""
    command = [sys.executable, str(FUZZ.with_name("fuzz_tables.py")), "--count", "100"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100 tables of seed 0, 0 failures" in done.stdout
