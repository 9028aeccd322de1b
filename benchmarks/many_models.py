"""Whether many small networks are trained faster as one batched model.

    python benchmarks/many_models.py [--models 16] [--model mlp]

Trains a number of networks with different starting weights, each with batches of its own, in three ways: as one batched
model (`torch.func`: vmap of the gradient, one Adam over the stacked parameters), one after the other, and in forked
processes, one a core with one thread each, as `visionbench study run` does. All three are plain loops over resident
noise, so that the ratio is that of the arithmetic. The loss of each network after the last step is compared.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

MODELS = {
    "mlp": ("MLP", {"widths": [256, 128, 64]}, 64),
    "small_mlp": ("MLP", {"widths": [32]}, 64),
    "patch_mlp": ("PatchMLP", {"width": 128, "patch_hidden": 64, "feature_hidden": 256}, 128),
}


def main() -> None:
    """Parses the arguments, measures the three ways by turns and prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(MODELS), default="mlp")
    parser.add_argument("--models", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    ways = {"batched": batched, "one by one": one_by_one, "forked": forked}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, list[float]] = {}
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            began = time.monotonic()
            losses[name] = way(arguments)
            seconds[name].append(time.monotonic() - began)
    print(f"{arguments.models} networks ({arguments.model}), {arguments.steps} steps each, n = {arguments.repeats}")
    for name in ways:
        ratios = sorted(mine / other for mine, other in zip(seconds[name], seconds["one by one"], strict=True))
        median = statistics.median(ratios)
        print(
            f"{name:<11} {statistics.median(seconds[name]):7.2f} s, {median:.2f} of one by one "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
    apart = max(abs(a - b) for a, b in zip(losses["batched"], losses["one by one"], strict=True))
    print(f"largest difference of the losses, batched and one by one: {apart:.1e}")


def network(arguments: argparse.Namespace, seed: int) -> torch.nn.Module:
    """A network with the starting weights of a seed."""
    import visionbench.models

    name, options, _ = MODELS[arguments.model]
    torch.manual_seed(seed)
    return getattr(visionbench.models, name)(10, (1, 28, 28), **options).network


def data(arguments: argparse.Namespace, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The batches of a network, (steps, B, 1, 28, 28), and their labels."""
    size = MODELS[arguments.model][2]
    draws = torch.Generator().manual_seed(seed)
    images = torch.randn(arguments.steps, size, 1, 28, 28, generator=draws)
    return images, torch.randint(0, 10, (arguments.steps, size), generator=draws)


def train(arguments: argparse.Namespace, seed: int) -> float:
    """Trains one network with one thread; gives its last loss."""
    torch.set_num_threads(1)
    model, (images, labels) = network(arguments, seed), data(arguments, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=True)
    loss: Any = None
    for x, y in zip(images, labels, strict=True):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def one_by_one(arguments: argparse.Namespace) -> list[float]:
    """Trains the networks one after the other."""
    return [train(arguments, seed) for seed in range(arguments.models)]


def forked(arguments: argparse.Namespace) -> list[float]:
    """Trains the networks in forked processes, as many at once as there are cores."""
    running: dict[int, tuple[int, int]] = {}
    losses = [0.0] * arguments.models
    waiting = list(range(arguments.models))
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            seed = waiting.pop(0)
            reader, writer = os.pipe()
            child = os.fork()
            if not child:
                os.write(writer, repr(train(arguments, seed)).encode())
                os._exit(0)
            os.close(writer)
            running[child] = (seed, reader)
        child, _ = os.wait()
        seed, reader = running.pop(child)
        losses[seed] = float(os.read(reader, 100))
        os.close(reader)
    return losses


def batched(arguments: argparse.Namespace) -> list[float]:
    """Trains the networks as one batched model, with as many threads as there are cores."""
    torch.set_num_threads(os.cpu_count() or 1)
    models = [network(arguments, seed) for seed in range(arguments.models)]
    parameters, buffers = stack_module_state(models)
    if buffers:
        raise SystemExit("A network with batch norms keeps statistics that vmap cannot write in place.")
    images, labels = (torch.stack(part) for part in zip(*(data(arguments, s) for s in range(len(models))), strict=True))
    optimizer = torch.optim.Adam(parameters.values(), lr=0.001, fused=True)
    base = models[0].to("meta")

    def loss_of(own: Any, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss = F.cross_entropy(functional_call(base, (own, {}), (x,)), y)
        return loss, loss

    gradients = vmap(grad(loss_of, has_aux=True), in_dims=(0, 0, 0))
    losses = torch.zeros(len(models))
    for step in range(arguments.steps):
        found, losses = gradients({k: p.detach() for k, p in parameters.items()}, images[:, step], labels[:, step])
        for name, parameter in parameters.items():
            parameter.grad = found[name]
        optimizer.step()
    return losses.tolist()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
