"""Where the time of an epoch goes, in one process, so that a machine whose speed changes by itself matters less.

    python benchmarks/epoch_parts.py shares   # milliseconds an epoch of each part of `fit`
    python benchmarks/epoch_parts.py turns    # an epoch of `fit` and one of the plain loop, by turns
    python benchmarks/epoch_parts.py batches  # evaluation in batches of 64 to 1,280 images
    python benchmarks/epoch_parts.py layouts  # a step of two CNNs, channels first or last in memory, and compiled
    python benchmarks/epoch_parts.py layers   # each layer of the CNN, and how far it is from the processor's peak

`shares` and `turns` train a network of floor.py on Fashion-MNIST (`--model`), with a validation of 6,000 images. The
plain loop is that of floor.py: resident tensors, a fused optimizer, sums of loss and accuracy, a validation. Each of
our epochs is compared with the mean of the plain ones before and after it. `layers` makes forward and backward passes
of each layer alone, on 64 images in 32 bits with all threads, channels last; the peak is the fastest product of two
matrices of 2,048 rows and columns.
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


def main() -> None:
    """Parses the arguments and runs one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("shares", "turns", "batches", "layouts", "layers"))
    parser.add_argument("--epochs", type=int, default=13, help="epochs; for layouts, a third of the repetitions")
    parser.add_argument("--model", default="mlp", choices=("mlp", "cnn", "patch_mlp"), help="for shares and turns")
    parser.add_argument("--images", type=int, default=54000, help="training images, for shares and turns")
    parser.add_argument("--root", default="data", help="folder of prepared data sets")
    arguments = parser.parse_args()
    parts = {"shares": shares, "turns": turns, "batches": batches, "layouts": layouts, "layers": layers}
    parts[arguments.what](arguments)


def fit(arguments: argparse.Namespace) -> None:
    """Trains a network as `visionbench fit` does."""
    from benchmarks.floor import MODELS, VAL
    from visionbench import fit as train

    spec = MODELS[arguments.model]
    options: dict[str, Any] = {"data.root": arguments.root, "data.batch_size": spec["batch"], "data.val_size": VAL}
    options |= {"data.train_size": arguments.images, **{f"model.{name}": value for name, value in spec["args"].items()}}
    if spec.get("plain"):
        options["trainer.precision"] = "32-true"
    with tempfile.TemporaryDirectory() as folder:
        train(spec["class"], "FashionMNIST", run_dir=Path(folder, "run"), max_epochs=arguments.epochs, **options)


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
    is_mixed = trainer.precision == "bf16-mixed"

    def forward(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
            outputs = network(x).float()
            return outputs, F.cross_entropy(outputs, y)

    def epoch() -> float:
        began = time.perf_counter()
        order = torch.randperm(len(images))
        loss_sum, correct = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
        network.train()
        for place in range(0, len(images), size):
            index = order[place : place + size]
            x, y = images.index_select(0, index), labels.index_select(0, index)
            outputs, loss = forward(x, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach() * len(y)
            correct += (outputs.detach().argmax(1) == y).sum()
        network.eval()
        with torch.no_grad():
            for x, y in zip(val_images.split(size), val.labels.split(size), strict=True):
                outputs, loss = forward(x, y)
                loss_sum += loss * len(y)
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


def layers(arguments: argparse.Namespace) -> None:
    """Makes passes of each layer of the CNN of configs/cnn.yaml, of all together, and of the optimizer, by turns."""
    from visionbench.models import CNN

    network = CNN(10, (1, 28, 28), dense_dropout=0.3).network.to(memory_format=torch.channels_last).train()
    inputs: dict[str, torch.Tensor] = {}
    kept = [
        (name, module) for name, module in network.named_modules() if not list(module.children()) and name != "head"
    ]
    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args[0].detach().clone()}))
        for name, module in kept
    ]
    network(torch.randn(64, 1, 28, 28))
    for handle in handles:
        handle.remove()
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    step = stepper(network, torch.channels_last, False)
    passes: dict[str, Callable[[], Any]] = {"step": step}
    operations: dict[str, float] = {}
    for name, module in kept:
        passes[name] = one_layer(module, inputs[name], needs_gradient=not name.startswith("blocks.0.0"))
        operations[name] = multiplications(module, inputs[name], first=name.startswith("blocks.0."))
    passes["optimizer"] = optimizer.step
    square = torch.randn(2048, 2048)
    passes["peak"] = lambda: square @ square
    found: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(3 * arguments.epochs):
        for name, run in passes.items():
            began = time.perf_counter()
            run()
            found[name].append(1000 * (time.perf_counter() - began))
    medians = {name: statistics.median(times) for name, times in found.items()}
    peak = 2 * 2048**3 / min(found["peak"]) / 1e6
    kinds = {name: type(module).__name__ for name, module in kept}
    print(f"peak {peak:.0f} GFLOP a second with {torch.get_num_threads()} threads; a step {medians['step']:.1f} ms")
    for name in (*kinds, "optimizer"):
        rate = 2 * operations.get(name, 0) / medians[name] / 1e6
        share = f"{rate:6.0f} GFLOP/s, {rate / peak:4.0%} of the peak" if rate else ""
        print(
            f"{name:<12} {kinds.get(name, 'Adam'):<12} {medians[name]:7.2f} ms  "
            f"{medians[name] / medians['step']:6.1%}  {share}"
        )


def one_layer(module: Any, images: torch.Tensor, needs_gradient: bool) -> Callable[[], None]:
    """A forward and a backward pass of one layer, after two that warm it up."""
    images.requires_grad_(needs_gradient)
    gradient = torch.randn_like(module(images))

    def run() -> None:
        module(images).backward(gradient)

    for _ in range(2):
        run()
    return run


def multiplications(module: Any, images: torch.Tensor, first: bool) -> float:
    """Multiplications of a forward and a backward pass of a layer; 0 for one without matrix products."""
    weights = getattr(module, "weight", None)
    if weights is None or weights.dim() < 2:
        return 0.0
    places = images.shape[2] * images.shape[3] if weights.dim() == 4 else 1
    return float(weights.numel() * places * len(images) * (2 if first else 3))


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
