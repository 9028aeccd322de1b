"""What it costs to be able to go on from within an epoch: epoch time with and without checkpoints between steps.

    python benchmarks/checkpoints.py mlp --every 100

Both train the same network on the same images for the same number of epochs, each in a process of its own, in turn;
every second repeat begins with the other of the two. Without means a checkpoint after each epoch, which every run has.
An epoch's time is that of the whole fit, divided by the number of epochs.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from usual_way import CONFIGS, processor

from visionbench.runs.folder import RunFolder


def main() -> None:
    """Parses the arguments, runs both in turn and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("mlp", "patch_mlp", "cnn"))
    parser.add_argument("--every", type=int, default=100, help="optimizer steps between checkpoints")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--root", default="data", help="folder of prepared data sets")
    arguments = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as logs:
        for repeat in range(arguments.repeats):
            order = (None, arguments.every) if repeat % 2 == 0 else (arguments.every, None)
            runs = {every: run(arguments, every, Path(logs, f"{repeat}-{every}")) for every in order}
            without, with_them = runs[None], runs[arguments.every]
            if without["weights_digest"] != with_them["weights_digest"]:
                raise SystemExit("The checkpoints changed the weights.")
            seconds = [each["seconds"] / arguments.epochs for each in (without, with_them)]
            ratios.append(seconds[1] / seconds[0])
            print(f"repeat {repeat + 1}: without {seconds[0]:.3f} s an epoch, with {seconds[1]:.3f} s", flush=True)
    threads = without["threads"]
    print(
        f"{arguments.model} in {without['precision']}, {threads} thread{'s' if threads > 1 else ''}, on {processor()}"
    )
    print(
        f"a checkpoint every {arguments.every} steps: an epoch takes {statistics.median(ratios):.2f} times as long "
        f"({min(ratios):.2f} to {max(ratios):.2f}, n = {len(ratios)}, {arguments.epochs} epochs each)"
    )


def run(arguments: argparse.Namespace, every: int | None, folder: Path) -> dict:
    """Runs `visionbench fit` in a process of its own, in a new run folder, and gives its `run.json`."""
    command = [sys.executable, "-m", "visionbench", "fit", "--config", str(CONFIGS / f"{arguments.model}.yaml")]
    command += ["--trainer.max_epochs", str(arguments.epochs), "--run_dir", str(folder), "--data.root", arguments.root]
    command += ["--test_after_fit", "false"]
    if every is not None:
        command += ["--checkpoint.every_n_steps", str(every)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return RunFolder(folder).metadata


if __name__ == "__main__":
    main()
