"""Writes docs/gallery/: figures of four runs, as every run draws them.

    python docs/gallery.py --heart FOLDER --greek FOLDER

A CNN on Fashion-MNIST by configs/cnn.yaml, another on Digits, one that begins with the weights of that and learns
three Greek letters from 18 of 27 images, and an MLP on a table of heart patients. FOLDER is what `--data.source` takes.
The pictures are those of TensorBoard, with fewer colors, so that they are small.
"""

import argparse
import io
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[1]
COLORS = 96
GREEK = (
    "--data ImageFolder --data.size 28 --data.channels 1 --data.resize none --data.scale 0.28125 --data.invert true "
    "--data.test_size 9 --data.val_size 0 --data.batch_size 5 --trainer.max_epochs 60 --model.freeze [blocks] "
    "--model.lr_scheduler null --objective.metric train/loss"
)


@dataclass(frozen=True)
class Run:
    """A run of the gallery.

    Attributes:
        name: Name of the run, with which the names of its pictures begin.
        title: Heading of the run on the page.
        options: Options of `visionbench fit`.
        left_out: Names of figures that are left out, because another run shows them.
    """

    name: str
    title: str
    options: str
    left_out: tuple[str, ...] = ()


RUNS = (
    Run("fashion", "A CNN on Fashion-MNIST", "--config configs/cnn.yaml --figures all"),
    Run(
        "digits",
        "A CNN on scikit-learn's digits",
        "--config configs/cnn.yaml --data Digits --trainer.max_epochs 3",
        ("network", "throughput", "test-samples", "test-confusion"),
    ),
    Run(
        "greek",
        "Three Greek letters from 18 images, with the filters of the digits",
        f"--config configs/cnn.yaml {GREEK}",
        (
            "network",
            "throughput",
            "first-filters",
            "activations",
            "test-errors",
            "test-confusion-shares",
            "step-losses",
        ),
    ),
    Run(
        "heart",
        "An MLP on a table of two classes",
        "--config configs/table.yaml --data.target HeartDisease",
        ("throughput", "step-losses", "test-confused-pairs", "test-confusion-shares"),
    ),
)


def main() -> int:
    """Trains the runs, one after the other, and writes their pictures and the page that shows them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heart", type=Path, required=True, metavar="FOLDER", help="folder of train.csv and test.csv")
    parser.add_argument(
        "--greek",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder of a folder for each letter",
    )
    arguments = parser.parse_args()
    page = ["# Gallery", "", "What four runs drew by themselves; `python docs/gallery.py` makes all of it again."]
    pictures: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as name:
        logs = Path(name)
        for run in RUNS:
            words = run.options.split()
            if run.name in ("heart", "greek"):
                words += ["--data.source", str(getattr(arguments, run.name).resolve())]
            if run.name == "greek":
                words += ["--model.start_from", str(logs / "digits")]
            command = [sys.executable, "-m", "visionbench", "fit", *words]
            command += ["--name", run.name, "--run_dir", str(logs / run.name), "--data.root", str(ROOT / "data")]
            print(f"{run.title}: visionbench fit {run.options}", flush=True)
            done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE)
            if done.returncode:
                print(done.stdout, file=sys.stderr)
                return done.returncode
            lines = [line for line in done.stdout.splitlines() if " accuracy " in line or line.startswith("figures ")]
            lines = [
                line.partition(" in ")[0] + line[line.rindex(" (") :] if "figures " in line else line for line in lines
            ]
            print("\n".join(lines), flush=True)
            page += ["", f"## {run.title}", "", f"`visionbench fit {run.options}`", "", f"{lines[0]}."]
            for figure, content in figures(logs / run.name).items():
                if figure not in run.left_out and not figure.startswith("train-"):
                    pictures[f"{run.name}-{figure}.png"] = content
                    page += ["", f"![{figure.replace('-', ' ')}]({run.name}-{figure}.png)"]
    folder = ROOT / "docs" / "gallery"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    for file, content in pictures.items():
        (folder / file).write_bytes(content)
    (folder / "README.md").write_text("\n".join(page) + "\n", encoding="utf-8")
    size = sum(map(len, pictures.values()))
    print(f"{len(pictures)} pictures, {size / 1e6:.2f} MB, in {folder}")
    return 0


def figures(run: Path) -> dict[str, bytes]:
    """The last picture of each figure of a run, as PNG of few colors, by name."""
    events = EventAccumulator(str(run), size_guidance={"images": 0})
    events.Reload()
    pictures = {}
    for tag in events.Tags()["images"]:
        picture = Image.open(io.BytesIO(events.Images(tag)[-1].encoded_image_string)).quantize(COLORS)
        packed = io.BytesIO()
        picture.save(packed, format="png", optimize=True)
        pictures[tag.removeprefix("figures/")] = packed.getvalue()
    return pictures


if __name__ == "__main__":
    sys.exit(main())
