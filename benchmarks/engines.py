"""What other engines cost: Ray against the local runner, two processes against one.

    python benchmarks/engines.py ray --runs 200      # a study of tiny runs, by turns
    python benchmarks/engines.py ddp --repeats 3     # configs/cnn.yaml, by turns

`ray` trains one epoch of a small MLP on Digits with 200 seeds: by the local runner with a process for each core, and by
`--executor ray` with an actor for each core. A time is that of the whole command, or that from the first finished run
to the end.

`ddp` trains the network of configs/cnn.yaml on a part of Fashion-MNIST: one process with two threads, and two processes
of one thread each with the same global batch of 64 and the same precision. The seconds of an epoch are those of a run
of three epochs less those of a run of one, halved.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from studies import MANY, processor

PROGRAM = [sys.executable, "-m", "visionbench"]
# Name of the way: number of processes, threads of each.
PROCESSES = {"one process, two threads": (1, 2), "two processes, one thread each": (2, 1)}


def main() -> None:
    """Parses the arguments and runs one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("ray", "ddp"))
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=8000, help="training images of an epoch")
    parser.add_argument("--root", default="data", help="folder of prepared data sets")
    arguments = parser.parse_args()
    print(f"on {processor()}")
    if arguments.what == "ray":
        ray(arguments)
    else:
        ddp(arguments)


def ray(arguments: argparse.Namespace) -> None:
    """Runs the same study locally and on Ray, by turns."""
    whole: dict[str, list[float]] = {"local": [], "ray": []}
    steady: dict[str, list[float]] = {"local": [], "ray": []}
    for _ in range(arguments.repeats):
        for executor in whole:
            total, after_start = study(arguments.runs, executor)
            whole[executor].append(total)
            steady[executor].append(after_start)
            print(f"{executor}: {total:.1f} s, of which {after_start:.1f} after the first run", flush=True)
    for name, times in (("whole command", whole), ("after the first run", steady)):
        report(name, times["ray"], times["local"])


def study(runs: int, executor: str) -> tuple[float, float]:
    """Runs a study of tiny runs; gives the seconds of the command, and those after the first finished run."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "many.yaml").write_text(MANY.format(seeds=list(range(runs))))
        command = [*PROGRAM, "study", "run", "many.yaml", "--executor", executor]
        began, first = time.monotonic(), None
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        for line in process.stdout or ():
            if first is None and re.match(r"\[\d+/", line):
                first = time.monotonic()
        ended = time.monotonic()
        if process.wait() or first is None:
            raise SystemExit(f"The study ended with status {process.returncode}.")
    return ended - began, ended - first


def ddp(arguments: argparse.Namespace) -> None:
    """Trains the CNN with one process and with two, by turns."""
    root = str(Path(arguments.root).resolve())
    epochs: dict[str, list[float]] = {name: [] for name in PROCESSES}
    for _ in range(arguments.repeats):
        for name, (processes, threads) in PROCESSES.items():
            short, long = (fit(root, arguments.images, processes, threads, count) for count in (1, 3))
            epochs[name].append((long - short) / 2)
            print(f"{name}: {epochs[name][-1]:.2f} s an epoch, {short:.1f} s for a run of one", flush=True)
    one, two = epochs.values()
    report("an epoch", two, one)


def fit(root: str, images: int, processes: int, threads: int, epochs: int) -> float:
    """Trains one run; gives the seconds of the whole command."""
    words = ["--config", str(Path("configs/cnn.yaml").resolve()), "--data.root", root, "--figures", "none"]
    words += ["--data.train_size", str(images), "--data.batch_size", str(64 // processes), "--threads", str(threads)]
    words += ["--trainer.devices", str(processes), "--trainer.max_epochs", str(epochs), "--trainer.accelerator", "cpu"]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        done = subprocess.run(
            [*PROGRAM, "fit", *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        seconds = time.monotonic() - began
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    return seconds


def report(name: str, times: list[float], base: list[float]) -> None:
    """Prints the ratio of two ways that ran by turns."""
    ratios = sorted(time / of for time, of in zip(times, base, strict=True))
    print(
        f"{name}: {statistics.median(times):.2f} s to {statistics.median(base):.2f} s, ratio "
        f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}, n = {len(ratios)})"
    )


if __name__ == "__main__":
    main()
