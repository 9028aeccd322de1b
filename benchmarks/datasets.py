"""Real data sets from files to a trained network: what preparing, verifying and training each of them costs.

    python benchmarks/datasets.py FOLDER

Every data set that is found in FOLDER goes through the command line, each command in a process of its own: `data
prepare` into an empty root, the same again, which only opens, `data verify`, and `fit` of a small MLP for two epochs.
What is looked for: `MNIST/raw` (the four files), `bone_break`, `greek` and `cifar10_jpeg` (image folders; the last one
also as `cifar10_jpeg_train.tar`, which is unpacked), and `heart` (a table). FOLDER is only read.

Seconds are those of whole commands, imports and all, save those of the two epochs, which are the training's own. Images
a second are what an image folder says of its preparing, without the imports. Memory is the peak, over all commands, of
what all processes of one hold together (RssAnon + RssShmem of Linux's /proc, sampled every 20 ms): resident, without
the page cache.
"""

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from usual_way import processor

from visionbench.runs.folder import RunFolder

EPOCHS = 2
FIT = ["--model", "MLP", "--model.widths", "[32]", "--trainer.max_epochs", str(EPOCHS), "--seed_everything", "0"]
GREEK = "--data.size 28 --data.channels 1 --data.resize none --data.scale 0.28125 --data.invert true --data.test_size 9"
GREEK += " --data.val_size 0 --data.batch_size 9"
COLUMNS = "data set | files | prepare | images a second | open | verify | two epochs | test accuracy | peak memory"


@dataclass(frozen=True)
class DataSet:
    """A data set that may be in the folder.

    Attributes:
        name: In the table.
        kind: Its class.
        place: Where it lies within the folder.
        options: Beside the class and its source.
        fit: Options of `fit` alone.
    """

    name: str
    kind: str
    place: str
    options: str = ""
    fit: str = ""


DATA_SETS = (
    DataSet("MNIST", "MNIST", "MNIST/raw"),
    DataSet("bone_break, 224 x 224 x 3", "ImageFolder", "bone_break", "--data.size 224"),
    DataSet("greek, 28 x 28 x 1", "ImageFolder", "greek", GREEK, "--objective.metric train/loss"),
    DataSet("CIFAR-10 as JPEG, 32 x 32 x 3", "ImageFolder", "cifar10_jpeg", "--data.size 32"),
    DataSet("heart", "Table", "heart", "--data.target HeartDisease"),
)


class Failed(Exception):
    """A command ended otherwise than with 0; the message is what it said last."""


def main() -> int:
    """Parses the arguments, takes each data set through the commands and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="folders of data sets, such as greek; by default all")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    lines, failures = [], 0
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        known, _, _ = run(["data", "list", "--root", str(work)], work)
        for data_set in DATA_SETS:
            if arguments.only is not None and data_set.place.partition("/")[0] not in arguments.only:
                continue
            source = found(folder, data_set.place, work)
            if source is None:
                lines.append(f"{data_set.name} | skipped: {data_set.place} is not in the folder")
            elif f"\n{data_set.kind} " not in f"\n{known}":
                lines.append(f"{data_set.name} | skipped: visionbench has no class {data_set.kind}")
            else:
                try:
                    lines.append(measured(data_set, source, work))
                except Failed as error:
                    failures += 1
                    lines.append(f"{data_set.name} | failed: {error}")
            print(f"| {lines[-1]} |", flush=True)
    print(f"\n| {COLUMNS} |\n|{'---|' * len(COLUMNS.split(' | '))}")
    for line in lines:
        print(f"| {line} |")
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"\nn = 1, {len(os.sched_getaffinity(0))} processors to decode, {threads} threads to train, on {processor()}")
    return 1 if failures else 0


def found(folder: Path, place: str, work: Path) -> Path | None:
    """Where a data set lies, unpacked in `work` if it is an archive; `None` where it is not there."""
    if (folder / place).is_dir():
        return folder / place
    archive = folder / f"{place}_train.tar"
    if not archive.is_file():
        return None
    with tarfile.open(archive) as packed:
        packed.extractall(work / "unpacked", filter="data")
    return work / "unpacked" / place


def measured(data_set: DataSet, source: Path, work: Path) -> str:
    """Takes a data set through the commands and gives its line of the table."""
    files = sum(len(names) for _, _, names in os.walk(source))
    options = [
        data_set.kind,
        "--data.source",
        str(source),
        "--data.root",
        str(work / "root"),
        *data_set.options.split(),
    ]
    memory, seconds, rate = [], [], "-"
    for words in (["data", "prepare"], ["data", "prepare"], ["data", "verify"], ["fit", *FIT, "--data"]):
        fit = ["--run_dir", str(work / "runs" / data_set.name), *data_set.fit.split()]
        text, whole, peak = run([*words, *options, *(fit if words[0] == "fit" else [])], work)
        seconds.append(whole)
        memory.append(peak)
        if printed := re.search(r"prepared .* s, (\S+) per second", text):
            rate = printed[1]
    said = RunFolder(work / "runs" / data_set.name).metadata
    accuracy = f"{said['metrics']['test/acc']:.2%}" if "test/acc" in said["metrics"] else "-"
    took = [f"{each:.1f} s" for each in (*seconds[:3], said["seconds"])]
    cells = [data_set.name, f"{files:,}", took[0], rate, *took[1:], accuracy, f"{max(memory) / 2**20:,.0f} MB"]
    return " | ".join(cells)


def run(words: list[str], folder: Path) -> tuple[str, float, int]:
    """Runs visionbench in a process of its own; gives what it printed, seconds, and the peak of its memory in bytes.

    Raises:
        Failed: It did not end with 0.
    """
    began, peak = time.monotonic(), 0
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "visionbench", *words], cwd=folder, stdout=output, stderr=subprocess.STDOUT
        )
        while process.poll() is None:
            peak = max(peak, resident(process.pid))
            time.sleep(0.02)
        seconds = time.monotonic() - began
        output.seek(0)
        said = output.read()
    if process.returncode != 0:
        raise Failed(f"visionbench {words[0]} ended with {process.returncode}: {(said.splitlines() or [''])[-1]}")
    return said, seconds, peak


def resident(pid: int) -> int:
    """Bytes of memory that a process and those below it hold, without what is mapped from files."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += 1024 * int(line.split()[1])
        children = [n for task in Path(f"/proc/{pid}/task").iterdir() for n in (task / "children").read_text().split()]
        own = Path(f"/proc/{pid}/cmdline").read_bytes()
        # A child of the same words has been forked and not yet become another program: its memory is its parent's.
        children = [child for child in children if Path(f"/proc/{child}/cmdline").read_bytes() != own]
    except (OSError, ProcessLookupError):  # one of them has just ended
        return total
    return total + sum(resident(int(child)) for child in children)


if __name__ == "__main__":
    sys.exit(main())
