"""Seconds of the answers that need no training, and from the command to the first training step.

    python benchmarks/start.py [--repetitions N]

Each command runs as a process of its own, all of them in turn, `N` times; the table shows median, lowest and
highest wall-clock time. The last rows are of `import lightning.pytorch` alone, of a command up to its first training
step, and the difference of their medians. The environment must be compiled (`uv sync` does it), or every process
compiles torch anew.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = "fit --model MLP --data Digits --data.root data --trainer.max_epochs 1 --figures none"
ANSWERS = [
    "data list",
    "report run",
    "compare run other",
    "fit --config missing.yaml",
    "fitt",
    "fit --model MPL --data Digits",
    "fit --model MLP --data Digit",
]
# A model that ends its process at the first training step.
REACHED = 42  # exit status of a process that came to its first step
FIRST_STEP = f"""
import os

from visionbench.models import MLP


class FirstStep(MLP):
    def training_step(self, batch, batch_idx):
        os._exit({REACHED})
"""
IMPORT = "import lightning.pytorch"
STEP = "to the first step"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    repetitions = parser.parse_args().repetitions
    visionbench = [sys.executable, "-m", "visionbench"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "first_step.py").write_text(FIRST_STEP, encoding="utf-8")
        for name in ("run", "other"):
            subprocess.run([*visionbench, *RUN.split(), "--run_dir", name], cwd=folder, check=True, capture_output=True)
        commands = {line: [*visionbench, *line.split()] for line in ANSWERS}
        commands[IMPORT] = [sys.executable, "-c", IMPORT]
        commands[STEP] = [*visionbench, *RUN.replace("--model MLP", "--model first_step.FirstStep").split()]
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(repetitions):
            for name, command in commands.items():
                began = time.perf_counter()
                done = subprocess.run(
                    command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": _path()}
                )
                seconds[name].append(time.perf_counter() - began)
                if name == STEP and done.returncode != REACHED:
                    raise SystemExit(f"The run did not come to its first step:\n{done.stdout}{done.stderr}")
    print(f"{'command':<30} {'median':>7} {'lowest':>7} {'highest':>7}   seconds, n = {repetitions}")
    for name, times in seconds.items():
        print(f"{name:<30} {statistics.median(times):7.2f} {min(times):7.2f} {max(times):7.2f}")
    difference = statistics.median(seconds[STEP]) - statistics.median(seconds[IMPORT])
    print(f"{'first step - import':<30} {difference:7.2f}")


def _path() -> str:
    """The search path of this process, so that the same packages are found from another folder."""
    return os.pathsep.join(path for path in sys.path[1:] if path)  # without the folder of this file


if __name__ == "__main__":
    main()
