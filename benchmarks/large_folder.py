"""Time and memory of preparing a large folder of images, and of an epoch of a small CNN that reads them from the disk.

    python benchmarks/large_folder.py

For each number of images it writes a folder of that many JPEG files of 64 x 64 pixels, all different, in two classes;
prepares it with `visionbench data prepare`; trains one epoch with `visionbench fit` and a memory budget that is too
small for any of them, so that they are read through the memory map; and deletes everything. 200,000 images are 1.5 GB
of files and 2.5 GB of pixels; the disk needs 6 GB of room for that while it runs.

Peak memory is the largest sum, over the command's process and all that it starts, of the memory that is resident and of
no file: RssAnon + RssShmem in /proc/PID/status, read every 20 ms; what processes share is counted in each. Page cache
is not in it. In brackets stands the same with the pages of files that are mapped, VmRSS: libraries, and what is
mapped of the images at that moment. The time of preparing is that of the whole command, imports included; the epoch's
is that of training and validation, and images a second are those trained on.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from visionbench.runs.folder import RunFolder

CLASSES = ("left", "right")
SIZE = 64
DISK_BYTES = 30_000  # for each image: a file of two blocks, the pixels, and room to spare
MODEL = "--model CNN --model.widths [8,16] --model.convs [1,1] --model.dropouts [0,0] --model.dense 32"


@dataclass
class Usage:
    """What a command took: seconds, and peak bytes without and with the pages of files."""

    seconds: float
    own: int
    with_files: int


def main() -> None:
    """Parses the arguments, runs all sizes and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[2_000, 20_000, 200_000])
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where the files are written, and deleted")
    parser.add_argument("--budget", type=float, default=0.01, help="data.memory_budget of the training")
    parser.add_argument("--workers", type=int, help="data.workers of the training")
    arguments = parser.parse_args()
    free, needed = shutil.disk_usage(arguments.folder).free, DISK_BYTES * max(arguments.counts)
    if free < needed:
        raise SystemExit(f"{arguments.folder} has {free / 2**30:.1f} GiB free, {needed / 2**30:.1f} are needed.")
    print("| images | JPEG files | prepare | peak memory | one epoch | images/s | peak memory |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for count in arguments.counts:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            print(row(Path(folder), count, arguments), flush=True)


def row(folder: Path, count: int, arguments: argparse.Namespace) -> str:
    """Runs one size and gives its line of the table."""
    size = write_images(folder / "images", count)
    data = ["--data.source", str(folder / "images"), "--data.size", str(SIZE), "--data.root", str(folder / "data")]
    prepared = measured(["data", "prepare", "ImageFolder", *data])
    words = ["fit", *MODEL.split(), "--data", "ImageFolder", *data, "--data.memory_budget", str(arguments.budget)]
    if arguments.workers is not None:
        words += ["--data.workers", str(arguments.workers)]
    trained = measured([*words, "--trainer.max_epochs", "1", "--run_dir", str(folder / "run")])
    run = RunFolder(folder / "run").metadata
    speed = 0.72 * count / run["seconds"]  # a fifth is test, and of the rest a tenth validation
    return (
        f"| {count:,} | {size / 1e6:,.0f} MB | {prepared.seconds:.1f} s | {memory(prepared)} | {run['seconds']:.1f} s "
        f"| {speed:,.0f} | {memory(trained)} |"
    )


def memory(usage: Usage) -> str:
    """Peak memory in words."""
    return f"{usage.own / 2**20:,.0f} MiB ({usage.with_files / 2**20:,.0f})"


def write_images(folder: Path, count: int) -> int:
    """Writes so many images, half of each class, with all processors; gives their bytes."""
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    parts = np.array_split(np.arange(count), max(1, count // 1000))
    with ProcessPoolExecutor() as pool:
        return sum(pool.map(write_part, [str(folder)] * len(parts), [part.tolist() for part in parts]))


def write_part(folder: str, numbers: list[int]) -> int:
    """Writes the images of these numbers: noise, brighter on the left or on the right."""
    size = 0
    for number in numbers:
        label = number % len(CLASSES)
        pixels = np.random.RandomState(number).randint(0, 206, (SIZE, SIZE, 3)).astype(np.uint8)
        pixels[:, label * SIZE // 2 : (label + 1) * SIZE // 2] += 50
        path = Path(folder, CLASSES[label], f"{number:06d}.jpg")
        Image.fromarray(pixels).save(path, quality=90, subsampling=0)
        size += path.stat().st_size
    return size


def measured(words: list[str]) -> Usage:
    """Runs `visionbench` and watches its memory."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "visionbench", *words], stdout=subprocess.DEVNULL)
    usage = Usage(0, 0, 0)

    def watch() -> None:
        while process.poll() is None:
            own = with_files = 0
            for pid in processes(process.pid):
                said = status(pid)
                own += said.get("RssAnon", 0) + said.get("RssShmem", 0)
                with_files += said.get("VmRSS", 0)
            usage.own, usage.with_files = max(usage.own, own), max(usage.with_files, with_files)
            time.sleep(0.02)

    watching = threading.Thread(target=watch)
    watching.start()
    if process.wait() != 0:
        raise SystemExit(f"visionbench {' '.join(words)} ended with exit status {process.returncode}.")
    watching.join()
    usage.seconds = time.monotonic() - began
    return usage


def processes(pid: int) -> list[int]:
    """A process and all that it has started, and they.

    One that still has its parent's command line is left out: it is about to run another program, and until then has
    its parent's memory, not one of its own.
    """
    found = [pid]
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                if Path(f"/proc/{child}/cmdline").read_bytes() != Path(f"/proc/{pid}/cmdline").read_bytes():
                    found += processes(int(child))
    except OSError:  # it has ended
        pass
    return found


def status(pid: int) -> dict[str, int]:
    """What /proc says of a process's memory, in bytes; nothing where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): 1024 * int(value) for name, value, _ in fields}


if __name__ == "__main__":
    main()
