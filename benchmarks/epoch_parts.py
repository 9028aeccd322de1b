"""Where the time of an epoch goes, in one process, so that a machine whose speed changes by itself matters less.

    python benchmarks/epoch_parts.py shares   # milliseconds an epoch of each part of `fit`
    python benchmarks/epoch_parts.py turns    # an epoch of `fit` and one of the plain loop, by turns
    python benchmarks/epoch_parts.py batches  # evaluation in batches of 64 to 1,280 images
    python benchmarks/epoch_parts.py layouts  # a step of two CNNs, channels first or last in memory, and compiled

`shares` and `turns` train the MLP of configs/mlp.yaml on Fashion-MNIST. The plain loop is that of floor.py: resident
tensors, a fused optimizer, sums of loss and accuracy, a validation. Each of our epochs is compared with the mean of
the plain ones before and after it.
"""

import argparse
import copy
import itertools
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

CONFIG = Path(__file__).resolve().parent.parent / "configs/mlp.yaml"


def main() -> None:
    """Parses the arguments and runs one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("shares", "turns", "batches", "layouts"))
    parser.add_argument("--epochs", type=int, default=13, help="epochs; for layouts, a third of the repetitions")
    parser.add_argument("--root", default="data", help="folder of prepared data sets")
    arguments = parser.parse_args()
    {"shares": shares, "turns": turns, "batches": batches, "layouts": layouts}[arguments.what](arguments)


def fit(arguments: argparse.Namespace) -> None:
    """Trains the MLP as `visionbench fit` does."""
    from visionbench import fit as train

    with tempfile.TemporaryDirectory() as folder:
        options = {"data.root": arguments.root}
        train(config=CONFIG, run_dir=Path(folder, "run"), max_epochs=arguments.epochs, **options)


def shares(arguments: argparse.Namespace) -> None:
    """Measures the parts of an epoch by clocks around them."""
    from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
    from lightning.pytorch.loops.fit_loop import _FitLoop
    from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

    from visionbench.models import Classifier
    from visionbench.training.callbacks import RunCheckpoints
    from visionbench.training.epoch_loop import EpochLoop

    seconds: dict[str, float] = defaultdict(float)
    for owner, name, part in (
        (_FitLoop, "on_advance_start", "start of an epoch"),
        (_FitLoop, "advance", "an epoch between its start and its end"),
        (EpochLoop, "_run_ahead", "steps without hooks"),
        (_TrainingEpochLoop, "advance", "last step of each round, with its hooks"),
        (_EvaluationLoop, "run", "validation, and the test after training"),
        (Classifier, "validation_step", "steps of the validation"),
        (_FitLoop, "on_advance_end", "end of an epoch"),
        (RunCheckpoints, "_save", "checkpoint"),
    ):
        clock(owner, name, part, seconds)
    fit(arguments)
    for part, value in seconds.items():
        print(f"{part:<42} {1000 * value / arguments.epochs:9.1f} ms an epoch")


def clock(owner: Any, name: str, part: str, seconds: dict[str, float]) -> None:
    """Adds the time of a method to that of a part."""
    original = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            seconds[part] += time.perf_counter() - began

    setattr(owner, name, timed)


def turns(arguments: argparse.Namespace) -> None:
    """Runs an epoch of the plain loop before each of ours."""
    from visionbench.training.callbacks import RunCheckpoints

    plain: list[float] = []
    ours: list[float] = []
    began: list[float] = []
    loop: list[Callable[[], float]] = []
    starts = RunCheckpoints.on_train_epoch_start

    def start(callback: Any, trainer: Any, model: Any) -> None:
        starts(callback, trainer, model)
        if began:
            ours.append(time.perf_counter() - began[-1])
        state = torch.get_rng_state()
        if not loop:
            loop.append(plain_loop(trainer, model))
        plain.append(loop[0]())
        torch.set_rng_state(state)
        began.append(time.perf_counter())

    RunCheckpoints.on_train_epoch_start = start
    fit(arguments)
    ratios = sorted(2 * mine / (a + b) for mine, a, b in zip(ours, plain, plain[1:], strict=False))
    print(f"plain  {', '.join(f'{value:.2f}' for value in plain)} s an epoch")
    print(f"ours   {', '.join(f'{value:.2f}' for value in ours)} s an epoch")
    print(
        f"ratio  {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}, n = {len(ratios)}), of the "
        f"fastest {min(ours) / min(plain):.2f}"
    )


def plain_loop(trainer: Any, model: Any) -> Callable[[], float]:
    """An epoch of the plain loop on the run's tensors; it gives its seconds."""
    train, val = trainer.train_dataloader, trainer.datamodule.val_dataloader()
    size, labels = train.batch_size, train.labels
    images, val_images = (loader.images.float().mul_(loader.scale).add_(loader.shift) for loader in (train, val))
    network = copy.deepcopy(model.network)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001, fused=True)

    def epoch() -> float:
        began = time.perf_counter()
        order = torch.randperm(len(images))
        loss_sum, correct = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
        network.train()
        for place in range(0, len(images), size):
            index = order[place : place + size]
            x, y = images.index_select(0, index), labels.index_select(0, index)
            outputs = network(x)
            loss = F.cross_entropy(outputs, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach() * len(y)
            correct += (outputs.detach().argmax(1) == y).sum()
        network.eval()
        with torch.no_grad():
            for x, y in zip(val_images.split(size), val.labels.split(size), strict=True):
                outputs = network(x)
                loss_sum += F.cross_entropy(outputs, y) * len(y)
                correct += (outputs.argmax(1) == y).sum()
        return time.perf_counter() - began

    return epoch


def batches(arguments: argparse.Namespace) -> None:
    """Evaluates three networks in batches of several sizes, by turns."""
    from visionbench.models import CNN, MLP, PatchMLP

    sizes, images = (64, 128, 256, 512, 1280), torch.randn(2560, 1, 28, 28)
    print(f"{'':<10}" + "".join(f"{size:>8}" for size in sizes) + "   us an image, the fastest of 5")
    for model, threads in ((MLP, 1), (CNN, 2), (PatchMLP, 2)):
        torch.set_num_threads(threads)
        options = {"width": 128, "patch_hidden": 64, "feature_hidden": 256} if model is PatchMLP else {}
        network = model(10, (1, 28, 28), **options).eval()
        found: dict[int, list[float]] = {size: [] for size in sizes}
        with torch.no_grad():
            for _ in range(5):
                for size in sizes:
                    began = time.perf_counter()
                    for part in images.split(size):
                        network(part)
                    found[size].append(1e6 * (time.perf_counter() - began) / len(images))
        print(f"{model.__name__:<10}" + "".join(f"{min(found[size]):8.1f}" for size in sizes), flush=True)


def layouts(arguments: argparse.Namespace) -> None:
    """Makes steps of the CNN of configs/cnn.yaml and of the small one of the MNIST study, by turns."""
    from visionbench.models import CNN

    small = {"widths": [10, 20], "convs": [1, 1], "filter_size": 5, "padding": "none", "dense": 50}
    small |= {"dropouts": [0.0, 0.5], "channel_dropout": True, "dense_dropout": 0.5, "batch_norm": False}
    networks: dict[str, dict[str, Any]] = {"cnn.yaml": {"dense_dropout": 0.3}, "mnist-cnn": small}
    formats = {"first": torch.contiguous_format, "last": torch.channels_last}
    for (name, options), threads in itertools.product(networks.items(), (1, 2)):
        torch.set_num_threads(threads)
        steps = {
            f"{layout}{', compiled' if compiled else ''}": stepper(
                CNN(10, (1, 28, 28), **options).network, form, compiled
            )
            for compiled in (False, True)
            for layout, form in formats.items()
        }
        found: dict[str, list[float]] = {kind: [] for kind in steps}
        for _ in range(3 * arguments.epochs):
            for kind, step in steps.items():
                began = time.perf_counter()
                for _ in range(5):
                    step()
                found[kind].append(1000 * (time.perf_counter() - began) / 5)
        for kind, times in found.items():
            print(
                f"{name:<10} {threads} threads   channels {kind:<16} {statistics.median(times):7.1f} ms a step, the "
                f"fastest {min(times):6.1f}, n = {len(times)}",
                flush=True,
            )


def stepper(network: Any, layout: torch.memory_format, compiled: bool) -> Callable[[], None]:
    """A training step of a network on 64 random images, after two steps that warm it up."""
    network = network.to(memory_format=layout)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    images, labels = torch.randn(64, 1, 28, 28), torch.randint(0, 10, (64,))
    forward = torch.compile(network) if compiled else network

    def step() -> None:
        loss = F.cross_entropy(forward(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(2):
        step()
    return step


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
