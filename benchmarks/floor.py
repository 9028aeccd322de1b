"""How far a training is from the floor: a plain PyTorch loop that does the same work.

    python benchmarks/floor.py mlp                       # all four ways, five times in turn
    python benchmarks/floor.py cnn --ways floor ours --images 12000 --epochs 1 3
    python benchmarks/floor.py mlp --figure floor.png --csv floor.csv

Four ways to train one network on Fashion-MNIST, each in a process of its own, in turn:

floor     resident tensors, batches by index, a fused optimizer, sums of loss and accuracy on the device, a validation
          after each epoch; our precision, and the better of one and all threads. The same batches in the same order,
          so that the accuracy is that of `ours`.
ours      `visionbench fit`: progress bar, TensorBoard, validation, predictions, checkpoints, metrics.csv.
lightning a LightningModule as tutorials show it: torchvision's data set with ToTensor and Normalize for each image, a
          DataLoader with the better of 0 and 2 workers, loss and accuracy logged at each step, a Trainer with defaults.
notebook  the same data set and DataLoader in a plain loop, which reads loss and accuracy at each step.

The four networks are those of configs/mlp.yaml, cnn.yaml and patch_mlp.yaml with their batch sizes, and a frozen
ResNet-18 with random weights on images of 32 pixels. Learning-rate schedulers and augmentation are left out, so that
all ways do the same.

The seconds of an epoch are (time of the long run - time of the short run) / (difference of their epochs), where the
time is that of a whole process; the start-up is what is left of the short run. Memory is the largest resident size.
Ratios are medians over the repetitions, with the lowest and the highest. On a machine whose speed changes by itself,
that is mostly noise; the fastest epoch of all repetitions is then the better measure, and has a ratio of its own.
"""

import argparse
import csv
import itertools
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WAYS = ("floor", "ours", "lightning", "notebook")
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"class": "MLP", "args": {"widths": [256, 128, 64], "activation": "tanh"}, "batch": 64, "plain": True},
    "cnn": {"class": "CNN", "args": {"dropouts": [0.0, 0.0, 0.3], "dense": 64, "dense_dropout": 0.3}, "batch": 64},
    "patch_mlp": {
        "class": "PatchMLP",
        "args": {"width": 128, "patch_hidden": 64, "feature_hidden": 256},
        "batch": 128,
    },
    "frozen": {"class": "FrozenResNet", "args": {"weights": "none"}, "batch": 64},
}
VAL, TEST = 6000, 10000


def main() -> None:
    """Parses the arguments, runs the ways in turn and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=tuple(MODELS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, nargs=2, default=(1, 6), metavar=("SHORT", "LONG"))
    parser.add_argument("--images", type=int, default=54000, help="training images")
    parser.add_argument("--steps", type=int, help="--steps_per_execution of ours")
    parser.add_argument("--root", default="data", help="folder of prepared data sets")
    parser.add_argument("--csv", help="file for a row for each process")
    parser.add_argument("--figure", help="file for a plot of the seconds an epoch")
    for hidden in ("--way", "--raw", "--precision"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    for hidden in ("--run_epochs", "--setting", "--limit"):
        parser.add_argument(hidden, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way is not None:
        print(json.dumps({"floor": floor, "lightning": lightning_way, "notebook": notebook}[arguments.way](arguments)))
        return
    from usual_way import write_raw

    arguments.root = str(Path(arguments.root).resolve())
    with tempfile.TemporaryDirectory() as folder:
        arguments.raw = str(Path(folder, "raw"))
        if {"lightning", "notebook"} & set(arguments.ways):
            write_raw(Path(arguments.root), Path(arguments.raw))
        measure(arguments, Path(folder))


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """Runs the ways in turn, and prints and writes the table."""
    from visionbench.training.device import default_precision

    plain = MODELS[arguments.model].get("plain", False)
    arguments.precision = "32-true" if plain else default_precision("auto")[0]
    # The floor has one thread or all of them, the usual ways no workers or two: what is faster in a short pilot.
    settings = {"ours": 0}
    for way, choices in (("floor", (1, os.cpu_count())), ("lightning", (0, 2)), ("notebook", (0, 2))):
        if way in arguments.ways:
            pilots = {choice: run(arguments, folder, way, choice, 1, limit=100)["training"] for choice in choices}
            settings[way] = min(pilots, key=lambda choice: pilots[choice])
    short, long = arguments.epochs
    rows = []
    for repeat in range(arguments.repeats):
        for way in arguments.ways:
            runs = {epochs: run(arguments, folder, way, settings[way], epochs) for epochs in (short, long)}
            epoch = (runs[long]["seconds"] - runs[short]["seconds"]) / (long - short)
            row = {
                **{"model": arguments.model, "way": way, "repeat": repeat + 1, "setting": settings[way]},
                "epoch": epoch,
                "fastest": runs[long]["fastest"],
                "start": runs[short]["seconds"] - short * epoch,
                "memory": runs[long]["memory"],
                "accuracy": runs[long]["accuracy"],
            }
            rows.append(row)
            print(f"repeat {repeat + 1}: {way:<9} {epoch:8.2f} s an epoch, start {row['start']:.1f} s", flush=True)
    if arguments.csv:
        with Path(arguments.csv).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    table(arguments, rows)
    if arguments.figure:
        draw(arguments, rows)


def table(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Prints a row for each way, and the ratios."""
    steps = -(-arguments.images // MODELS[arguments.model]["batch"])
    print()
    print(f"{arguments.model}, {arguments.images:,} images, {arguments.precision}, on {processor()}")
    print("way        s an epoch  ms a step  images/s  start s   MiB  val acc  fastest   epoch / floor")
    floors = {row["repeat"]: row["epoch"] for row in rows if row["way"] == "floor"}
    fastest_floor = min((row["fastest"] for row in rows if row["way"] == "floor"), default=math.nan)
    for way in arguments.ways:
        mine = [row for row in rows if row["way"] == way]
        epoch, start, memory = (statistics.median(row[name] for row in mine) for name in ("epoch", "start", "memory"))
        ratios = sorted(row["epoch"] / floors[row["repeat"]] for row in mine if row["repeat"] in floors)
        fastest = min(row["fastest"] for row in mine)
        ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})" if ratios else "-"
        ratio += f", of the fastest {fastest / fastest_floor:.2f}" if ratios else ""
        print(
            f"{way:<10} {epoch:10.2f} {1000 * epoch / steps:10.3f} {arguments.images / epoch:9,.0f} {start:8.1f} "
            f"{memory:5.0f} {100 * mine[-1]['accuracy']:8.2f} {fastest:8.2f}   {ratio}, n = {len(mine)}"
        )


def draw(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Draws the seconds of an epoch, a dot for each repetition."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 0.6 + 0.5 * len(arguments.ways)), layout="constrained")
    for place, way in enumerate(arguments.ways):
        epochs = [row["epoch"] for row in rows if row["way"] == way]
        axes.plot(epochs, [place] * len(epochs), "o", alpha=0.6)
        axes.plot([statistics.median(epochs)], [place], "k|", markersize=18)
    axes.set_yticks(range(len(arguments.ways)), arguments.ways)
    axes.set_xlim(left=0)
    axes.set(xlabel="seconds an epoch", title=f"{arguments.model} on Fashion-MNIST, {processor()}")
    axes.invert_yaxis()
    figure.savefig(arguments.figure, dpi=120)


def run(
    arguments: argparse.Namespace, folder: Path, way: str, setting: int, epochs: int, limit: int | None = None
) -> dict[str, Any]:
    """Runs one way in a process of its own; gives its seconds, its memory and the last validation accuracy."""
    runs = Path(tempfile.mkdtemp(dir=folder)) / "run"
    command = ours(arguments, epochs, runs) if way == "ours" else other(arguments, way, setting, epochs, limit)
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    printed, ends = [], []
    for line in process.stdout or ():
        printed.append(line)
        if line.startswith("epoch "):
            ends.append(time.monotonic())
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    if status:
        raise SystemExit(f"{way} failed:\n{''.join(printed)}")
    fastest = min((after - before for before, after in itertools.pairwise(ends)), default=math.nan)
    measured = {"seconds": seconds, "memory": usage.ru_maxrss / 1024, "fastest": fastest}
    if way == "ours":
        with (runs / "metrics.csv").open() as file:
            accuracy = float(list(csv.DictReader(file))[-1]["val/acc"])
        return {**measured, "accuracy": accuracy}
    return {**measured, **json.loads(printed[-1])}


def other(arguments: argparse.Namespace, way: str, setting: int, epochs: int, limit: int | None) -> list[str]:
    """The command of a way that this file holds."""
    command = [sys.executable, __file__, arguments.model, "--way", way, "--run_epochs", str(epochs)]
    command += ["--setting", str(setting), "--raw", arguments.raw, "--precision", arguments.precision]
    command += ["--images", str(arguments.images), "--root", arguments.root]
    return [*command, "--limit", str(limit)] if limit is not None else command


def ours(arguments: argparse.Namespace, epochs: int, folder: Path) -> list[str]:
    """The command of `visionbench fit`."""
    model = MODELS[arguments.model]
    command = [sys.executable, "-m", "visionbench", "fit", "--data", "FashionMNIST", "--data.root", arguments.root]
    command += ["--data.train_size", str(arguments.images), "--data.batch_size", str(model["batch"])]
    command += ["--model", model["class"], *(f"--model.{name}={value}" for name, value in model["args"].items())]
    command += ["--trainer.max_epochs", str(epochs), "--trainer.precision", arguments.precision]
    command += ["--test_after_fit", "false", "--figures", "none", "--run_dir", str(folder)]
    return [*command, "--steps_per_execution", str(arguments.steps)] if arguments.steps else command


def split(arguments: argparse.Namespace) -> Any:
    """The data module of `ours`, for its order, statistics and split."""
    from visionbench.data import FashionMNIST

    data = FashionMNIST(
        root=arguments.root, seed=0, train_size=arguments.images, batch_size=MODELS[arguments.model]["batch"]
    )
    data.setup()
    return data


def network(arguments: argparse.Namespace) -> Any:
    """The network with the weights that `ours` starts from."""
    import random

    import numpy as np
    import torch

    import visionbench.models

    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    model = MODELS[arguments.model]
    made = getattr(visionbench.models, model["class"])(10, (1, 28, 28), **model["args"])
    made.prepare_start()
    return made


def floor(arguments: argparse.Namespace) -> dict[str, Any]:
    """The plain loop over resident tensors."""
    import contextlib
    import functools
    import importlib

    import numpy as np
    import torch
    from torch.nn import functional as F

    from visionbench.data.loader import scale_and_shift

    importlib.import_module("visionbench.training.device")  # keeps optimizers from looking for a GPU at each step
    torch.set_num_threads(arguments.setting)
    data, model = split(arguments), network(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = model.network.to(device)
    scale, shift = scale_and_shift(data.mean, data.std)
    images, labels = {}, {}
    for stage in ("train", "val"):
        part = data.splits[stage]
        pixels = torch.from_numpy(np.ascontiguousarray(data.store.arrays[f"{part.part}-images"][part.index]))
        images[stage] = (pixels.permute(0, 3, 1, 2).float() * scale + shift).to(device)
        labels[stage] = torch.tensor(data.store.arrays[f"{part.part}-labels"][part.index], device=device)
    order = data.train_dataloader().sampler
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.001, fused=True)
    mixed = arguments.precision == "bf16-mixed"
    autocast = functools.partial(torch.autocast, device.type, torch.bfloat16, cache_enabled=False)
    cast = autocast if mixed else contextlib.nullcontext
    size, count = data.batch_size, len(labels["train"])
    sums = {}

    def add(stage: str, loss: Any, outputs: Any, y: Any) -> None:
        sums[stage][0] += loss * len(y)
        sums[stage][1] += (outputs.argmax(1) == y).sum()

    began = time.monotonic()
    for epoch in range(arguments.run_epochs):
        order.set_epoch(epoch)
        positions = order.positions().to(device)
        torch.manual_seed(int(np.random.SeedSequence([0, epoch, 0]).generate_state(3)[2]))
        sums = {stage: [torch.zeros((), dtype=torch.float64, device=device) for _ in range(2)] for stage in images}
        model.train()
        for number, start in enumerate(range(0, count, size)):
            if number == arguments.limit:
                break
            index = positions[start : start + size]
            x, y = images["train"].index_select(0, index), labels["train"].index_select(0, index)
            with cast():
                outputs = net(x)
            loss = F.cross_entropy(outputs.float(), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            add("train", loss.detach(), outputs.detach(), y)
        model.eval()
        with torch.no_grad():
            for x, y in zip(images["val"].split(size), labels["val"].split(size), strict=True):
                with cast():
                    outputs = net(x)
                add("val", F.cross_entropy(outputs.float(), y), outputs, y)
        accuracy = sums["val"][1].item() / len(labels["val"])
        print(f"epoch {epoch + 1}", flush=True)
    return {"training": time.monotonic() - began, "accuracy": accuracy}


def loaders(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """DataLoaders of training and validation images, as tutorials make them."""
    from torch.utils.data import DataLoader, Subset
    from torchvision import datasets, transforms

    data = split(arguments)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(data.mean, data.std)])
    images = datasets.FashionMNIST(arguments.raw, train=True, transform=transform)
    workers = arguments.setting
    options = {"batch_size": data.batch_size, "num_workers": workers, "persistent_workers": workers > 0}
    return (
        DataLoader(Subset(images, data.train_index.tolist()), shuffle=True, **options),
        DataLoader(Subset(images, data.val_index.tolist()), **options),
    )


def lightning_way(arguments: argparse.Namespace) -> dict[str, Any]:
    """A LightningModule and a Trainer with defaults."""
    import torch
    import torchmetrics
    from lightning.pytorch import LightningModule, Trainer

    class Tutorial(LightningModule):
        def __init__(self, net: torch.nn.Module) -> None:
            super().__init__()
            self.net = net
            self.train_acc = torchmetrics.Accuracy("multiclass", num_classes=10)
            self.val_acc = torchmetrics.Accuracy("multiclass", num_classes=10)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            images, labels = batch
            logits = self.net(images)
            loss = torch.nn.functional.cross_entropy(logits, labels)
            self.train_acc(logits, labels)
            self.log("train_loss", loss, prog_bar=True)
            self.log("train_acc", self.train_acc, on_step=True, on_epoch=True, prog_bar=True)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            images, labels = batch
            logits = self.net(images)
            self.val_acc(logits, labels)
            self.log("val_loss", torch.nn.functional.cross_entropy(logits, labels), prog_bar=True)
            self.log("val_acc", self.val_acc, prog_bar=True)

        def on_train_epoch_end(self) -> None:
            print(f"epoch {self.current_epoch + 1}", flush=True)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
            return torch.optim.Adam(trained, lr=0.001)

    model = Tutorial(network(arguments).network)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            default_root_dir=folder,
            max_epochs=arguments.run_epochs,
            limit_train_batches=arguments.limit,
            enable_progress_bar=False,  # its output would go into a pipe here; leaving it out is in its favor
        )
        began = time.monotonic()
        trainer.fit(model, *loaders(arguments))
        return {"training": time.monotonic() - began, "accuracy": trainer.callback_metrics["val_acc"].item()}


def notebook(arguments: argparse.Namespace) -> dict[str, Any]:
    """A plain loop over DataLoaders, which reads loss and accuracy at each step."""
    import torch
    from torch import nn

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = network(arguments).network.to(device)
    train, val = loaders(arguments)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.001)
    began = time.monotonic()
    for epoch in range(arguments.run_epochs):
        model.train()
        running, correct = 0.0, 0
        for number, (images, labels) in enumerate(train):
            if number == arguments.limit:
                break
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            outputs = model(images)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            running += loss.item()
            correct += (outputs.argmax(1) == labels).sum().item()
        model.eval()
        correct = 0
        with torch.no_grad():
            for images, labels in val:
                images, labels = images.to(device), labels.to(device)
                correct += (model(images).argmax(1) == labels).sum().item()
        print(f"epoch {epoch + 1}", flush=True)
    return {"training": time.monotonic() - began, "accuracy": correct / VAL}


def processor() -> str:
    """Name of the GPU or the processor, and the number of cores."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return f"{match[1] if match else 'an unknown processor'}, {os.cpu_count()} cores"


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
