"""Cost as the work grows: time and memory over images, parameters and seeds.

    python benchmarks/growth.py images      # 6,000 to 600,000 images of Fashion-MNIST, repeated
    python benchmarks/growth.py parameters  # MLPs of 24 thousand to 24 million parameters
    python benchmarks/growth.py seeds       # a study of 1 to 64 seeds on Digits

Each point is one process: an epoch of training and its validation (MLP, batch 64), without predictions and figures. The
seconds of an epoch are those of training as `run.json` has them; memory is the largest resident size of the process.
For seeds, the seconds are those of `study run`, imports included, and the memory is that of the process that starts
the runs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IMAGES = (6_000, 20_000, 60_000, 200_000, 600_000)
# Widths of two hidden layers on 784 pixels.
WIDTHS = (30, 90, 270, 800, 2_400, 4_530)
SEEDS = (1, 4, 16, 64)
STUDY = """\
title: Growing
source: None
seeds: {seeds}
base:
  data: Digits
  model: {{class_path: MLP, init_args: {{widths: [16]}}}}
  trainer: {{max_epochs: 3}}
stages: {{all: {{}}}}
"""


def main() -> None:
    """Parses the arguments and prints a line for each point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("images", "parameters", "seeds"))
    parser.add_argument("--root", default="data", help="folder of prepared data sets")
    parser.add_argument("--point", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point is not None:
        print(json.dumps(point(arguments)))
        return
    points = {"images": IMAGES, "parameters": WIDTHS, "seeds": SEEDS}[arguments.what]
    print(
        f"{'images' if arguments.what == 'images' else arguments.what:>12} {'seconds':>9} {'us a unit':>10} {'MiB':>7}"
    )
    for value in points:
        with tempfile.TemporaryDirectory() as folder:
            unit, seconds, memory = study(value, folder) if arguments.what == "seeds" else fit(arguments, value)
        print(f"{unit:12,} {seconds:9.2f} {1e6 * seconds / unit:10.1f} {memory:7.0f}", flush=True)


def fit(arguments: argparse.Namespace, value: int) -> tuple[int, float, float]:
    """Trains one epoch in a process of its own; gives the number of units, the seconds and the memory in MiB."""
    command = [sys.executable, __file__, arguments.what, "--root", str(Path(arguments.root).resolve())]
    process = subprocess.Popen([*command, "--point", str(value)], stdout=subprocess.PIPE, text=True)
    printed = process.stdout.read() if process.stdout is not None else ""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"The point {value} failed:\n{printed}")
    said = json.loads(printed.splitlines()[-1])
    return said["unit"], said["seconds"], usage.ru_maxrss / 1024


def study(seeds: int, folder: str) -> tuple[int, float, float]:
    """Runs a study of some seeds; gives their number, the seconds and the memory in MiB."""
    path = Path(folder, "growing.yaml")
    path.write_text(STUDY.format(seeds=list(range(seeds))))
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "visionbench", "study", "run", str(path)], cwd=folder, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"The study of {seeds} seeds failed.")
    return seeds, time.monotonic() - began, usage.ru_maxrss / 1024


def point(arguments: argparse.Namespace) -> dict[str, float]:
    """Trains one epoch in this process."""
    import numpy as np

    from visionbench import Arrays
    from visionbench import fit as train
    from visionbench.data import FashionMNIST
    from visionbench.runs.folder import RunFolder

    arrays = FashionMNIST(root=arguments.root).open_store().arrays
    count, widths = (arguments.point, [256, 128, 64]) if arguments.what == "images" else (60_000, [arguments.point] * 2)
    places = np.arange(count) % len(arrays["train-labels"])
    data = Arrays(arrays["train-images"][places], np.asarray(arrays["train-labels"])[places], test_size=0)
    with tempfile.TemporaryDirectory() as folder:
        options = {"model.widths": widths, "trainer.precision": "32-true", "predictions": False}
        result = train("MLP", data, run_dir=Path(folder, "run"), max_epochs=1, test_after_fit=False, **options)
        parameters = RunFolder(Path(folder, "run")).metadata["parameters"]
    return {"unit": count if arguments.what == "images" else parameters, "seconds": result.seconds}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
