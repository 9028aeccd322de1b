"""A disk that is full in the midst of a checkpoint."""

import os
import shutil
import signal
import subprocess

import pytest

from tests.exactness.processes import Run
from tests.exactness.same import DIGITS, differences, next_second

pytestmark = pytest.mark.slow

LINE = f"{DIGITS} --model MLP --model.widths [64] --model.dropout 0.3 --data.batch_size 32 --trainer.max_epochs 4"
LINE += " --trainer.limit_train_batches 6 --log_dir runs"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB at tmp_path/runs."""
    place = tmp_path / "runs"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if os.name != "posix" or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can be mounted by root alone")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("left", [400_000, 0])
def test_a_full_disk_ends_a_run_in_a_sentence_and_loses_nothing(small_disk, tmp_path, digits_root, left):
    """A checkpoint has 600 kB: there is room for a part of it, or not for a row of metrics.csv."""
    whole = Run(tmp_path, f"{LINE.replace('runs', 'elsewhere')} --name mlp", digits_root)
    assert whole.end() == 0, whole.output()
    run = Run(tmp_path, f"{LINE} --name mlp", digits_root, "slow")
    run.wait_for_step(8)
    run.send(signal.SIGSTOP)
    filler = small_disk / "filler"
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    filler.write_bytes(bytes(free - left))
    folder = small_disk / "mlp" / "version_0"
    before = {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}
    run.send(signal.SIGCONT)
    assert run.end() == 1, run.output()
    errors = [line for line in run.output().splitlines() if line.startswith("visionbench: error: ")]
    assert len(errors) == 1
    assert "No space left on device" in errors[0]
    assert "visionbench fit --resume runs/mlp/version_0" in errors[0]
    assert "Traceback" not in run.output()
    assert {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()} == before
    filler.unlink()
    next_second()
    run = Run(tmp_path, "fit --resume runs/mlp/version_0", digits_root)
    assert run.end() == 0, run.output()
    assert "resumed    after 1 epoch" in run.output()
    assert differences(tmp_path / "elsewhere" / "mlp" / "version_0", folder) == []
