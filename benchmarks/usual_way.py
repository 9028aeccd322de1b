"""How much faster an epoch is than the usual way, with the test accuracy of both.

    python benchmarks/usual_way.py mlp
    python benchmarks/usual_way.py cnn

The usual way is what most notebooks do: torchvision's data set with ToTensor and Normalize for each image, a DataLoader
with the better of 0 and 2 workers, and a LightningModule that logs its loss and accuracy at every step, in the
Trainer's default precision. Ours is `visionbench fit` with the same network, optimizer and batch size, in the
precision that it chooses. Both train on the same 54,000 images, validate on the same 6,000 after each epoch, keep
checkpoints, and are tested at the end; each runs in a process of its own, in turn. An epoch's time is that of the whole
fit, divided by the number of epochs.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from visionbench.runs.folder import RunFolder

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def main() -> None:
    """Parses the arguments, runs both ways in turn and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("mlp", "cnn"))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--root", default="data", help="folder of prepared data sets")
    parser.add_argument("--usual", metavar="RAW", help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.usual is not None:
        print(json.dumps(usual_way(arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        raw, logs = Path(folder, "raw"), Path(folder, "logs")
        write_raw(Path(arguments.root), raw)
        pilots = {workers: run_usual(arguments, raw, workers, limit=200)["seconds"] for workers in (0, 2)}
        workers = min(pilots, key=lambda w: pilots[w])
        pairs = []
        for repeat in range(arguments.repeats):
            usual, ours = run_usual(arguments, raw, workers), run_ours(arguments, Path(logs, str(repeat)))
            pairs.append((usual, ours))
            print(f"repeat {repeat + 1}: usual {usual['seconds']:.2f} s an epoch, test {100 * usual['accuracy']:.2f} %")
            print(f"          ours  {ours['seconds']:.2f} s an epoch, test {100 * ours['accuracy']:.2f} %", flush=True)
    ratios = sorted(usual["seconds"] / ours["seconds"] for usual, ours in pairs)
    print(f"usual way with {workers} workers, 32-bit; ours in {pairs[0][1]['precision']}, on {processor()}")
    print(
        f"{arguments.model}: an epoch is {statistics.median(ratios):.1f} times as fast "
        f"({ratios[0]:.1f} to {ratios[-1]:.1f}, n = {len(ratios)}, {arguments.epochs} epochs each)"
    )


def run_usual(arguments: argparse.Namespace, raw: Path, workers: int, limit: int | None = None) -> dict:
    """Runs the usual way in a process of its own."""
    command = [sys.executable, __file__, arguments.model, "--usual", str(raw), "--workers", str(workers)]
    command += ["--root", arguments.root, "--epochs", str(1 if limit else arguments.epochs)]
    command += ["--limit", str(limit)] if limit else []
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def run_ours(arguments: argparse.Namespace, folder: Path) -> dict:
    """Runs `visionbench fit` in a process of its own, in a new run folder."""
    command = [sys.executable, "-m", "visionbench", "fit", "--config", str(CONFIGS / f"{arguments.model}.yaml")]
    command += ["--trainer.max_epochs", str(arguments.epochs), "--run_dir", str(folder), "--data.root", arguments.root]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    said = RunFolder(folder).metadata
    return {
        "seconds": said["seconds"] / arguments.epochs,
        "accuracy": said["metrics"]["test/acc"],
        "precision": said["precision"],
    }


def write_raw(root: Path, folder: Path) -> None:
    """Writes the prepared store as the IDX files that torchvision's data set reads."""
    from visionbench.data import FashionMNIST

    arrays = FashionMNIST(root=str(root)).open_store().arrays
    place = folder / "FashionMNIST" / "raw"
    place.mkdir(parents=True)
    for ours, theirs in (("train", "train"), ("test", "t10k")):
        images, labels = arrays[f"{ours}-images"][..., 0], arrays[f"{ours}-labels"].astype(np.uint8)
        for array, kind in ((images, "images-idx3"), (labels, "labels-idx1")):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
            (place / f"{theirs}-{kind}-ubyte").write_bytes(header + np.ascontiguousarray(array).tobytes())


def usual_way(arguments: argparse.Namespace) -> dict:
    """Trains and tests in this process, as notebooks do."""
    import torch
    import torchmetrics
    import yaml
    from lightning.pytorch import LightningModule, Trainer, seed_everything
    from torch.utils.data import DataLoader, Subset
    from torchvision import datasets, transforms

    from visionbench.data import FashionMNIST
    from visionbench.models import CNN, MLP

    class Usual(LightningModule):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network
            self.accuracies = torch.nn.ModuleDict(
                {f"{s}_acc": torchmetrics.Accuracy("multiclass", num_classes=10) for s in ("train", "val", "test")}
            )

        def step(self, batch: tuple, stage: str) -> torch.Tensor:
            images, labels = batch
            logits = self.network(images)
            loss = torch.nn.functional.cross_entropy(logits, labels)
            accuracy = self.accuracies[f"{stage}_acc"]
            accuracy(logits, labels)
            self.log(f"{stage}_loss", loss, prog_bar=True)
            self.log(f"{stage}_acc", accuracy, on_step=stage == "train", on_epoch=True, prog_bar=True)
            return loss

        def training_step(self, batch: tuple, batch_idx: int) -> torch.Tensor:
            return self.step(batch, "train")

        def validation_step(self, batch: tuple, batch_idx: int) -> None:
            self.step(batch, "val")

        def test_step(self, batch: tuple, batch_idx: int) -> None:
            self.step(batch, "test")

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=0.001)

    seed_everything(0)
    split = FashionMNIST(root=arguments.root)
    split.setup()
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(split.mean, split.std)])
    train = datasets.FashionMNIST(arguments.usual, train=True, transform=transform)
    test = datasets.FashionMNIST(arguments.usual, train=False, transform=transform)
    options = {"batch_size": 64, "num_workers": arguments.workers, "persistent_workers": arguments.workers > 0}
    loaders = [
        DataLoader(Subset(train, split.train_index.tolist()), shuffle=True, **options),
        DataLoader(Subset(train, split.val_index.tolist()), **options),
    ]
    said = yaml.safe_load((CONFIGS / f"{arguments.model}.yaml").read_text())["model"]["init_args"]
    said.pop("lr_scheduler", None)
    network = {"mlp": MLP, "cnn": CNN}[arguments.model](10, (1, 28, 28), **said).network
    model = Usual(network)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            default_root_dir=folder,
            max_epochs=arguments.epochs,
            limit_train_batches=arguments.limit,
            enable_progress_bar=False,  # its output would go into a pipe here; leaving it out is in its favor
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        started = time.monotonic()
        trainer.fit(model, *loaders)
        seconds = (time.monotonic() - started) / arguments.epochs
        accuracy = 0.0
        if arguments.limit is None:
            accuracy = trainer.test(model, DataLoader(test, **options), verbose=False)[0]["test_acc"]
    return {"seconds": seconds, "accuracy": accuracy}


def processor() -> str:
    """The processor and how many cores of it are used."""
    import os

    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.processor()}"


if __name__ == "__main__":
    main()
