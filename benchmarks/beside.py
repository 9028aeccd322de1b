"""What two trainings on the same cores cost each other, by how their threads wait.

    python benchmarks/beside.py
    python benchmarks/beside.py --spins 30000 100000   # other numbers of looks before a thread sleeps

A thread that waits for the others of its process spins for milliseconds by default, and holds a core that the other
training could use. With OMP_WAIT_POLICY=PASSIVE it sleeps at once; with GOMP_SPINCOUNT=10000, which `visionbench` sets
where nothing else is asked for, it sleeps soon. The training is the CNN of configs/cnn.yaml at batch 64 with all
threads, as a plain loop; the numbers are milliseconds a step, medians of a process, alone and of two beside each other,
by turns.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from visionbench.surroundings import SPINS, SPINS_VARIABLE

WAYS = {"default": {}, "passive": {"OMP_WAIT_POLICY": "PASSIVE"}, "visionbench": {SPINS_VARIABLE: SPINS}}


def main() -> None:
    """Parses the arguments, and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--spins", type=int, nargs="*", default=[], help="further numbers of looks to try")
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        print(train(arguments.seconds))
        return
    ways = {**WAYS, **{f"{spins:,} looks": {SPINS_VARIABLE: str(spins)} for spins in arguments.spins}}
    print(f"{'':<15} {'alone':>8} {'beside another':>15}   ms a step, {os.cpu_count()} cores")
    for _ in range(arguments.repeats):
        for name, variables in ways.items():
            others = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", SPINS_VARIABLE)}
            environment = {**others, **variables}
            alone, pair = (measure(count, arguments.seconds, environment) for count in (1, 2))
            print(f"{name:<15} {alone[0]:8.1f} {statistics.mean(pair):15.1f}", flush=True)


def measure(count: int, seconds: float, environment: dict[str, str]) -> list[float]:
    """Milliseconds a step of some trainings that run at the same time."""
    command = [sys.executable, __file__, "--train", "--seconds", str(seconds)]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return [float(process.communicate()[0]) for process in processes]


def train(seconds: float) -> float:
    """Trains on noise; gives the median of the milliseconds a step."""
    import torch

    from visionbench.models import CNN

    torch.set_num_threads(os.cpu_count() or 1)
    network = CNN(10, (1, 28, 28), dropouts=[0.0, 0.0, 0.3], dense=64, dense_dropout=0.3).network
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001, fused=True)
    images, labels = torch.randn(64, 1, 28, 28), torch.randint(0, 10, (64,))
    times = []
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        began = time.monotonic()
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(1000 * (time.monotonic() - began))
    return statistics.median(times)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
