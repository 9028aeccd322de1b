"""False alarms of the guards, and what the guards cost.

    python benchmarks/guards.py alarms [--count 50] [--seed 0]
    python benchmarks/guards.py cost [--data FashionMNIST] [--root DIR]

`alarms` trains the shipped run files on Digits (table.yaml on a table that is made here), and as many runs as `--count`
says of a generator: models x losses x data sets x optimizers x schedulers x precisions x 2 to 200 classes, all of them
sound and with classes that can be told apart. The list shows each run with what the guards said of it; anything is a
false alarm, and exit status 1.

`cost` trains configs/mlp.yaml and configs/cnn.yaml for two epochs and adds up the seconds inside the guards and the
callbacks that look for them: before the first step, and as a share of the training after it.
"""

import argparse
import csv
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import visionbench
from visionbench.data import Arrays
from visionbench.runs.folder import RunFolder
from visionbench.training.callbacks import EndOfEpoch, FirstBatch, StartOfTraining
from visionbench.training.callbacks.finite import FiniteLosses
from visionbench.training.session import Session

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
# A learning rate with which each of them learns.
OPTIMIZERS = {
    "Adam": {"lr": 0.002},
    "AdamW": {"lr": 0.002},
    "RMSprop": {"lr": 0.001},
    "SGD": {"lr": 0.02, "momentum": 0.9},
}
SCHEDULERS: list[dict[str, Any]] = [
    {},
    {"lr_scheduler": "ReduceLROnPlateau", "lr_scheduler.patience": 1},
    {"lr_scheduler": "CosineAnnealingLR", "lr_scheduler.T_max": 4},
    {"lr_scheduler": "StepLR", "lr_scheduler.step_size": 2},
    {"lr_scheduler": "OneCycleLR", "lr_scheduler.max_lr": 0.01, "lr_interval": "step"},
    {"lr_scheduler": "WarmupCosineLR", "lr_scheduler.warmup": 1},
]
LOSSES = ["cross_entropy", "nll", "binary_cross_entropy", "mse"]
PRECISIONS = ["32-true", "bf16-mixed", "64-true"]
CLASSES = [2, 3, 10, 26, 100, 200]
EPOCHS = 4


def main() -> int:
    """Runs one of the two parts; 1 if there is a false alarm, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("alarms", "cost"))
    parser.add_argument("--count", type=int, default=50, help="number of runs of the generator")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generator")
    parser.add_argument("--data", default="FashionMNIST", help="data set on which the cost is measured")
    parser.add_argument("--root", default="data", help="folder of prepared data sets")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.part == "cost":
            return cost(arguments.data, arguments.root, Path(temporary))
        return alarms(arguments.count, arguments.seed, arguments.root, Path(temporary))


def alarms(count: int, seed: int, root: str, folder: Path) -> int:
    """Prints each run with the findings of the guards; 1 if there is one, else 0."""
    draw, found, runs = random.Random(seed), 0, 0
    for words, train in (*shipped(root, folder), *(generated(draw, folder) for _ in range(count))):
        result = train(folder / f"run{runs}")
        findings = [finding["sentence"] for finding in RunFolder(result.folder).metadata["findings"]]
        if result.status != "finished":
            findings.append(f"the run is {result.status}")
        found, runs = found + bool(findings), runs + 1
        print(f"{runs:3}  {words}: test accuracy {100 * result.metrics.get('test/acc', 0):.1f} %", flush=True)
        for sentence in findings:
            print(f"     {sentence}", flush=True)
    print(f"{found} of {runs} runs have a finding")
    return int(found > 0)


def shipped(root: str, folder: Path) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    """Gives each shipped run file on small data, with a function that trains it into a run folder."""
    table = write_table(folder / "table.csv", 400, 2, random.Random(0))
    for path in sorted(CONFIGS.glob("*.yaml")):
        if path.stem == "table":
            options = {"data.source": str(table), "data.target": "kind", "data.numeric": [], "data.missing": {}}
            data = "Table"
        else:
            options, data = {}, "Digits"
        if path.stem == "transfer":  # without weights to fetch
            options |= {"model.weights": "none", "model.freeze": [], "data.statistics": "train", "data.batch_size": 32}
        options["data.root"] = root

        def train(run: Path, path: Path = path, data: str = data, options: dict[str, Any] = options) -> Any:
            return visionbench.fit(data=data, config=path, max_epochs=EPOCHS, run_dir=run, **options)

        yield f"configs/{path.name} --data {data}", train


def generated(draw: random.Random, folder: Path) -> tuple[str, Callable[[Path], Any]]:
    """Gives a sound run in words, with a function that trains it into a run folder."""
    model = draw.choice(["MLP", "MLP", "CNN", "CNN", "PatchMLP", "FrozenResNet"])
    # A deep network without ImageNet weights, and a squared error of many classes, learn too slowly for this.
    classes = draw.choice(CLASSES if model != "FrozenResNet" else [2, 3, 10])
    losses = {2: LOSSES}.get(classes, ["cross_entropy", "nll", "mse"] if classes <= 10 else ["cross_entropy", "nll"])
    options = model_options(model, draw)
    options["loss"] = loss = draw.choice(losses)
    optimizer = draw.choice(list(OPTIMIZERS))
    options |= {"optimizer": optimizer} | {f"optimizer.{name}": v for name, v in OPTIMIZERS[optimizer].items()}
    scheduler = draw.choice(SCHEDULERS)
    options |= scheduler
    precision = draw.choice(PRECISIONS)
    channels, size = draw.choice([1, 3]), draw.choice([8, 12, 16])
    kind = draw.choice(["images", "images", "table"]) if model == "MLP" else "images"
    shape = "rows of 11 features" if kind == "table" else f"images of {channels} x {size} x {size}"
    parts = [model, loss, optimizer, scheduler.get("lr_scheduler", "no scheduler"), precision]
    words = ", ".join([*parts, f"{classes} classes of {shape}"])
    samples = max(600, 12 * classes)
    seed = draw.randrange(2**31)

    def train(run: Path) -> Any:
        data: dict[str, Any]
        named = {f"model.{name}": value for name, value in options.items()} | {"trainer.precision": precision}
        if kind == "table":
            source = write_table(folder / f"{run.name}.csv", samples, classes, random.Random(seed))
            data = {"data": "Table", "data.source": str(source), "data.target": "kind", "data.root": str(folder)}
            data["data.batch_size"] = 32
        else:
            data = {"data": make_images(samples, classes, channels, size, seed)}
        # So many classes of 12 samples each, and a squared error, take longer to be learned.
        epochs = EPOCHS * (3 if classes > 26 or loss == "mse" else 1)
        return visionbench.fit(model, max_epochs=epochs, run_dir=run, **data, **named)

    return words, train


def model_options(model: str, draw: random.Random) -> dict[str, Any]:
    """Gives sound options of a model."""
    activation = draw.choice(["relu", "tanh", "gelu"])
    if model == "MLP":
        widths, norm = draw.choice([[64], [128, 64]]), draw.choice([True, False])
        return {"widths": widths, "activation": activation, "batch_norm": norm, "dropout": draw.choice([0.0, 0.2])}
    if model == "CNN":
        norm, dense = draw.choice([True, False]), draw.choice([32, 64])
        shape = {"widths": [16, 32], "convs": [1, 1], "dropouts": [0.0, draw.choice([0.0, 0.2])], "dense": dense}
        return {**shape, "activation": activation, "batch_norm": norm}
    if model == "PatchMLP":
        return {"patch_size": 4, "width": 64, "blocks": 1, "skip": draw.choice([True, False]), "patch_hidden": 32}
    return {"weights": "none", "freeze": [], "min_size": 32, "hidden": 64, "dropout": draw.choice([0.0, 0.3])}


def make_images(samples: int, classes: int, channels: int, size: int, seed: int) -> Arrays:
    """Gives images of a pattern for each class, with noise."""
    generator = np.random.default_rng(seed)
    labels = np.arange(samples) % classes
    patterns = generator.uniform(40, 215, (classes, size, size, channels))
    images = patterns[labels] + generator.normal(0, 25, (samples, size, size, channels))
    return Arrays(images.clip(0, 255).astype(np.uint8), labels, batch_size=32)


def write_table(path: Path, rows: int, classes: int, draw: random.Random) -> Path:
    """Writes numbers and categories whose means depend on the class."""
    centers = [[draw.uniform(-3, 3) for _ in range(10)] for _ in range(classes)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"x{number}" for number in range(10)), "color", "kind"])
        for row in range(rows):
            center = centers[row % classes]
            values = [f"{10**number * draw.gauss(mean, 0.5) / 1000:.6g}" for number, mean in enumerate(center)]
            writer.writerow([*values, draw.choice(["red", "green", "blue"]), f"class{row % classes}"])
    return path


def cost(data: str, root: str, folder: Path) -> int:
    """Prints the seconds that the guards take."""
    seconds: dict[str, float] = {}

    inside: list[str] = []  # what is timed already, such as a callback that asks the guards

    def timed(owner: type, name: str, part: str) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if inside:
                return original(*args, **kwargs)
            inside.append(name)
            begin = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - begin
                inside.clear()

        setattr(owner, name, wrapped)

    timed(StartOfTraining, "on_train_start", "start")
    timed(Session, "_ask", "start")
    timed(FirstBatch, "on_train_batch_end", "in run")
    for owner in (EndOfEpoch, FiniteLosses):
        for name in vars(owner):
            if name.startswith("on_"):
                timed(owner, name, "in run")
    for name in ("mlp", "cnn"):
        seconds.clear()
        result = visionbench.fit(
            data=data, config=CONFIGS / f"{name}.yaml", max_epochs=2, run_dir=folder / name, **{"data.root": root}
        )
        share = seconds["in run"] / result.seconds
        print(
            f"configs/{name}.yaml on {data}: {seconds['start']:.2f} s before the first step, "
            f"{seconds['in run']:.2f} s of {result.seconds:.1f} s in two epochs ({share:.2%})",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
