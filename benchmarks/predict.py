"""What `visionbench predict` makes of a folder of photographs: images a second, and memory that does not grow.

    python benchmarks/predict.py

Writes JPEG files into a temporary folder, trains a CNN for an epoch on a few of them, and predicts 1,000 and then
10,000 of them, each in processes of its own. The time is predict's own, without Python's imports. Memory is the peak of
what the process and those that decode for it have for themselves at once, without pages that they share, looked at 20
times a second; so this needs Linux. Then predict is killed half-way and run again, and the tables are compared.
"""

import argparse
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from usual_way import processor


def main() -> None:
    """Parses the arguments, runs everything and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs=2, default=(1000, 10000), help="few and many")
    parser.add_argument("--width", type=int, default=500, help="of a photograph, in pixels; its height is 3/4 of that")
    parser.add_argument("--size", type=int, default=64, help="of the images that the model takes, in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    few, many = arguments.files
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photographs(folder / "many", many, arguments.width)
        (folder / "few").mkdir()
        for number, photograph in enumerate(sorted((folder / "many").iterdir())[:few]):
            (folder / "few" / photograph.name).hardlink_to(photograph)
            label = folder / "train" / "ab"[number % 2]
            label.mkdir(parents=True, exist_ok=True)
            if number < 200:
                (label / photograph.name).hardlink_to(photograph)
        run = "run"
        options = f"--data ImageFolder --data.source train --data.size {arguments.size} --data.root root"
        options += " --trainer.precision 32-true"
        visionbench(folder, f"fit --model CNN {options} --trainer.max_epochs 1 --run_dir {run}")
        peaks: dict[int, float] = {}
        for count, part in ((few, "few"), (many, "many")):
            measured = [predict(folder, f"predict {run} {part} --output {part}.csv") for _ in range(arguments.repeats)]
            speeds = sorted(speed for speed, _ in measured)
            peaks[count] = max(peak for _, peak in measured)
            print(
                f"{count:,} files: {statistics.median(speeds):,.0f} images a second ({speeds[0]:,.0f} to "
                f"{speeds[-1]:,.0f}, n = {len(speeds)}), peak memory {peaks[count]:,.0f} MB",
                flush=True,
            )
        print(f"{peaks[many] - peaks[few]:+,.0f} MB for {many // few} times the files, on {processor()}")
        whole = (folder / "many.csv").read_bytes()
        (folder / "many.csv").unlink()
        killed = start(folder, f"predict {run} many --output many.csv")
        part_file = folder / ".many.csv.part"
        while killed.poll() is None and not (part_file.exists() and part_file.stat().st_size > len(whole) / 2):
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        left = (folder / "many.csv").exists()
        visionbench(folder, f"predict {run} many --output many.csv")
        same = (folder / "many.csv").read_bytes() == whole
        print(f"killed half-way: {'a' if left else 'no'} table; run again: {'the same' if same else 'another'} table")


def write_photographs(folder: Path, count: int, width: int) -> None:
    """Writes JPEG files that are all different and take as long to decode as photographs do."""
    folder.mkdir()
    random = np.random.RandomState(0)
    height = width * 3 // 4
    scenes = []
    for _ in range(20):
        coarse = Image.fromarray(random.randint(0, 256, (24, 32, 3)).astype(np.uint8))
        noise = random.normal(0, 6, (height, width, 3))
        scenes.append(np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) + noise)
    for number in range(count):
        shifted = np.roll(scenes[number % len(scenes)], number // len(scenes), axis=1)
        Image.fromarray(shifted.clip(0, 255).astype(np.uint8)).save(folder / f"{number:05d}.jpg", quality=90)


def start(folder: Path, line: str) -> subprocess.Popen:
    """Starts `visionbench` with the words of a line, in a folder."""
    command = [sys.executable, "-m", "visionbench", *line.split()]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def visionbench(folder: Path, line: str) -> None:
    """Runs it to its end."""
    process = start(folder, line)
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(said)


def predict(folder: Path, line: str) -> tuple[float, float]:
    """Images a second and peak memory in MB."""
    process = start(folder, line)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(own_memory, family(process.pid))))
        time.sleep(0.05)
    said = process.stderr.read()
    if process.returncode:
        raise SystemExit(said)
    (speed,) = re.findall(r"([\d,]+) per second", said)
    return float(speed.replace(",", "")), peak / 1024


def family(pid: int) -> list[int]:
    """A process and those that it started."""
    try:
        children = [child for task in Path(f"/proc/{pid}/task").iterdir() for child in _words(task / "children")]
    except OSError:  # it has ended
        return []
    return [pid, *(each for child in children for each in family(int(child)))]


def _words(file: Path) -> list[str]:
    return file.read_text().split()


def own_memory(pid: int) -> int:
    """What a process has for itself, in kB."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private"))


if __name__ == "__main__":
    main()
