"""Whether two revisions of the project train to the same weights and metrics, bit for bit.

    python benchmarks/digests.py REVISION_A REVISION_B

Each revision is checked out as a git worktree in a temporary folder, and each command of `COMMANDS` is run with both of
them by the current interpreter, in one thread. The table shows the beginning of each run's `weights_digest`. Exit
status 1 where weights or metrics differ. The list is part of git, the digests are not: they differ between processors.
A command may use only options that both revisions have.
"""

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from visionbench.runs.folder import RunFolder

ROOT = Path(__file__).resolve().parent.parent
MLP = "--model MLP --model.widths [32] --model.dropout 0.2"
CNN = "--model CNN --model.widths [4,8] --model.convs [1,1] --model.dropouts [0.2,0.2]"
PATCHES = "--model PatchMLP --model.patch_hidden 16 --model.feature_hidden 32"
DIGITS = "--data Digits --data.root {data} --trainer.precision 32-true"
MAPPED = "--data.memory_budget 0 --data.workers 2"
PLATEAU = "--model.lr_scheduler ReduceLROnPlateau --model.lr_scheduler.patience 0 --model.lr_scheduler.factor 0.5"
ONE_CYCLE = "--model.lr_scheduler OneCycleLR --model.lr_scheduler.max_lr 0.01 --model.lr_interval step"
COMMANDS = {
    "MLP": f"{DIGITS} {MLP} --trainer.max_epochs 3",
    "MLP, memory-mapped": f"{DIGITS} {MLP} {MAPPED} --trainer.max_epochs 3",
    "MLP, plateau": f"{DIGITS} {MLP} {PLATEAU} --model.optimizer.lr 0.02 --trainer.max_epochs 6",
    "MLP, l1 and dropout": f"{DIGITS} {MLP} --model.l1 0.0001 --trainer.max_epochs 3",
    "MLP, accumulated": f"{DIGITS} {MLP} --trainer.accumulate_grad_batches 3 --trainer.max_epochs 3",
    "MLP, table": "--data Table --data.source {table} --data.target kind --data.root {data} --data.batch_size 16 "
    f"--data.test_size 40 --trainer.precision 32-true {MLP} --trainer.max_epochs 5",
    "CNN, one cycle": f"{DIGITS} {CNN} {ONE_CYCLE} --trainer.max_epochs 2",
    "CNN, augmented": f"{DIGITS} {CNN} --data.augment [RandomCrop,HorizontalFlip,RandomErasing] --trainer.max_epochs 2",
    "CNN, MixUp, memory-mapped": f"{DIGITS} {CNN} {MAPPED} --data.augment [MixUp] --trainer.max_epochs 2",
    "PatchMLP": f"{DIGITS} {PATCHES} --trainer.max_epochs 2",
    "FrozenResNet": f"{DIGITS} --model FrozenResNet --model.weights none --model.min_size 32 --model.hidden 16 "
    "--trainer.limit_train_batches 4 --trainer.limit_val_batches 1 --trainer.limit_test_batches 1 "
    "--trainer.max_epochs 2",
    "CNN, resumed": f"{DIGITS} {CNN} --data.batch_size 8 --data.augment [RandomCrop] --checkpoint.every_n_steps 20 "
    "--trainer.max_epochs 3",
}
# Run folder of each command, in a folder of its own; `--run_dir` is not known to every revision.
RUN = "lightning_logs/run/version_0"
RESUMED = "CNN, resumed"  # interrupted within an epoch and resumed


def main() -> int:
    """Runs the commands with both revisions and prints the table; 1 if one differs, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revisions", metavar="REVISION", nargs=2)
    parser.add_argument("--only", nargs="+", choices=COMMANDS, metavar="NAME", help="names of the commands to run")
    arguments = parser.parse_args()
    differing = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_table(folder / "table.csv")
        trees = [folder / "a", folder / "b"]
        try:
            for tree, revision in zip(trees, arguments.revisions, strict=True):
                git("worktree", "add", "--quiet", "--detach", str(tree), revision)
            names = arguments.only or list(COMMANDS)
            print(f"{'command':<26} {arguments.revisions[0][:16]:<16} {arguments.revisions[1][:16]:<16} same")
            for name in names:
                (digest, metrics), (other_digest, other_metrics) = (run(name, tree, folder) for tree in trees)
                same = digest == other_digest and metrics == other_metrics
                verdict = "yes" if same else "no" if digest != other_digest else "no: the metrics differ"
                print(f"{name:<26} {digest[:16]:<16} {other_digest[:16]:<16} {verdict}", flush=True)
                differing += not same
        finally:
            for tree in trees:
                if tree.exists():
                    git("worktree", "remove", "--force", str(tree))
    print(f"{len(names) - differing} of {len(names)} are the same")
    return int(differing > 0)


def git(*words: str) -> None:
    """Runs git in the project."""
    subprocess.run(["git", "-C", str(ROOT), *words], check=True)


def write_table(path: Path) -> None:
    """Writes 240 rows of two numeric columns and a categorical one, with missing cells, and a target of three kinds."""
    generator = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["length", "width", "color", "kind"])
        for number in range(240):
            kind = number % 3
            width = "" if number % 20 == 0 else f"{generator.gauss(-kind, 1):.3f}"
            color = generator.choice(["red", "green", "blue"])
            writer.writerow([f"{generator.gauss(kind, 1):.3f}", width, color, f"kind-{kind}"])


def run(name: str, tree: Path, folder: Path) -> tuple[str, object]:
    """The weights digest and the metrics of the run that a command gives with the package in `tree`."""
    work = folder / f"{tree.name}-{list(COMMANDS).index(name)}"
    work.mkdir()
    # Each revision prepares the data itself, so that a change in preparing is seen too.
    places = {"data": folder / f"data-{tree.name}", "table": folder / "table.csv"}
    words = ["fit", *COMMANDS[name].format(**places).split(), "--figures", "none", "--name", "run"]
    if name == RESUMED:
        interrupt(words, tree, work)
        words = ["fit", "--resume", RUN]
    process = start(words, tree, work)
    output = process.communicate()[0]
    if process.returncode != 0:
        raise SystemExit(f"{name}: exit status {process.returncode} with {tree.name}:\n{output}")
    run_folder = RunFolder(work / RUN)
    summary = run_folder.metadata
    if name == RESUMED and not summary["resumed"]:
        raise SystemExit(f"{name}: the run was not resumed.")
    return summary["weights_digest"], (summary["metrics"], run_folder.metrics_path.read_text(encoding="utf-8"))


def start(words: list[str], tree: Path, work: Path) -> subprocess.Popen:
    """Starts `visionbench` of a worktree."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "visionbench", *words],
        cwd=work,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A script that runs in the background ignores Ctrl+C, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def interrupt(words: list[str], tree: Path, work: Path) -> None:
    """Starts a run and stops it as by Ctrl+C, once it has a checkpoint from within an epoch."""
    process = start(words, tree, work)
    run_folder = RunFolder(work / RUN)
    while process.poll() is None and not (run_folder.checkpoints / "last.ckpt").is_file():
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    output = process.communicate()[0]
    if run_folder.rows or process.returncode == 0 or not (run_folder.checkpoints / "last.ckpt").is_file():
        raise SystemExit(f"{RESUMED}: the run was not stopped within its first epoch:\n{output}")


if __name__ == "__main__":
    raise SystemExit(main())
