"""Many runs in one process: it stays as small as after a few, and each run is that of a fresh process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LINES = Path("/proc/self/status")
RUNS = 100
# Trains so many times in one process; prints for each run the digest, KiB of resident memory, threads and descriptors.
SCRIPT = """
import json, shutil, sys
from pathlib import Path

import visionbench

runs = []
for number in range(int(sys.argv[1])):
    result = visionbench.fit(
        "MLP",
        "Digits",
        max_epochs=1,
        run_dir=f"run-{number}",
        **{"model.widths": [16], "model.dropout": 0.2, "trainer.precision": "32-true", "threads": 1},
    )
    assert result.status == "finished", result
    shutil.rmtree(result.folder)
    lines = (line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    status = {name: value.split()[0] for name, value in lines if value.split()}
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    runs.append([result.weights_digest, int(status["VmRSS"]), int(status["Threads"]), descriptors])
print(json.dumps(runs))
"""


def runs_of_one_process(folder: Path, root: Path, number: int) -> list[list]:
    """Digest, KiB of resident memory, threads and descriptors after each of so many runs in a new process."""
    environment = os.environ | {"VISIONBENCH_DATA": str(root), "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", SCRIPT, str(number)]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(not LINES.exists(), reason="asks /proc")
def test_a_process_is_after_a_hundred_runs_as_after_a_few(tmp_path, digits_root):
    runs = runs_of_one_process(tmp_path, digits_root, RUNS)
    ((fresh, *_),) = runs_of_one_process(tmp_path, digits_root, 1)
    assert {digest for digest, *_ in runs} == {fresh}
    memory = [kib / 1024 for _, kib, *_ in runs]
    growth = memory[RUNS - 1] - memory[19]
    print(f"resident memory: {memory[0]:.0f} MiB after run 1, {memory[19]:.0f} after 20, {memory[-1]:.0f} after {RUNS}")
    assert growth <= 20, [round(size) for size in memory]
    assert {(threads, descriptors) for _, _, threads, descriptors in runs[2:]} == {tuple(runs[1][2:])}
