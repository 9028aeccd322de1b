"""What a study costs.

    python benchmarks/studies.py many                 # 500 tiny runs: runs a minute, overhead, memory
    python benchmarks/studies.py notebook --epochs 5  # eight MLPs on Fashion-MNIST, and the same eight in a notebook

`many` trains one epoch of a small MLP on Digits with 500 seeds. Overhead is the time of a run besides its training.
Memory is that of the process that starts the runs and of the one that forks them, after 100 runs and at the end.

`notebook` trains the eight networks of fashion-mlp-regularization with one seed: as a study, and in the usual way of a
notebook, one after the other: torchvision's data set with ToTensor and Normalize for each image, a DataLoader with the
better of 0 and 2 workers, a plain loop of PyTorch with all threads. Both train on the same 51,000 images and validate
on 9,000 after each epoch. The time of the study is that of the whole command, imports included.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MANY = """\
title: Many tiny runs
source: None
seeds: {seeds}
base:
  data: Digits
  model: {{class_path: MLP, init_args: {{widths: [16]}}}}
  trainer: {{max_epochs: 1}}
stages: {{all: {{}}}}
"""
STUDY = Path(__file__).resolve().parent.parent / "configs/studies/fashion-mlp-regularization.yaml"


def main() -> None:
    """Parses the arguments and runs one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("many", "notebook"))
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--root", default="data", help="folder of prepared data sets")
    parser.add_argument("--usual", metavar="RAW", help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--networks", type=int, default=8, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.usual is not None:
        print(json.dumps(usual_way(arguments)))
    elif arguments.what == "many":
        many(arguments.runs)
    else:
        notebook(arguments)


def many(runs: int) -> None:
    """Measures a study of many tiny runs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "many.yaml")
        path.write_text(MANY.format(seeds=list(range(runs))))
        began = time.monotonic()
        command = [sys.executable, "-m", "visionbench", "study", "run", str(path)]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        memory, ends = {}, []
        for line in process.stdout or ():
            if match := re.match(r"\[(\d+)/", line):
                ends.append(time.monotonic())
                if int(match[1]) in (100, runs):
                    memory[int(match[1])] = [resident(pid) for pid in (process.pid, *children(process.pid))]
        process.wait()
        total = time.monotonic() - began
        rows = _rows(Path(folder, "lightning_logs/studies/many/results.csv"))
    training = sum(row.seconds for row in rows) / len(rows)
    steady = (ends[-2] - ends[0]) / (len(ends) - 2) if len(ends) > 2 else float("nan")
    workers = os.cpu_count() or 1
    print(f"{len(rows)} runs in {total:.0f} s on {processor()}: {60 * len(rows) / total:.0f} a minute")
    print(
        f"after the start {60 / steady:.0f} a minute; a run takes {steady * workers:.2f} s, training {training:.2f} s"
    )
    for count, sizes in sorted(memory.items()):
        print(f"resident memory after run {count}: {', '.join(f'{size:.1f} MiB' for size in sizes)}")


def notebook(arguments: argparse.Namespace) -> None:
    """Measures the eight networks as a study and in the usual way."""
    import yaml
    from usual_way import write_raw

    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, "raw")
        write_raw(Path(arguments.root), raw)
        content = yaml.safe_load(STUDY.read_text())
        content = {key: content[key] for key in ("title", "source", "base", "grid", "protocols", "stages")}
        content["stages"] = {"candidates": content["stages"]["candidates"]}
        content["protocols"] = {"corrected": content["protocols"]["corrected"]}
        content["seeds"] = [0]
        content["base"]["trainer"]["max_epochs"] = arguments.epochs
        path = Path(folder, "eight.yaml")
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        pilots = {workers: run_usual(arguments, raw, workers, 1, 1)["seconds"] for workers in (0, 2)}
        workers = min(pilots, key=lambda count: pilots[count])
        began = time.monotonic()
        command = [sys.executable, "-m", "visionbench", "study", "run", str(path)]
        command += ["--data.root", str(Path(arguments.root).resolve())]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        ours = time.monotonic() - began
        mean = _mean_accuracy(_rows(Path(folder, "lightning_logs/studies/eight/results.csv")))
        print(f"eight networks, {arguments.epochs} epochs each, on {processor()}")
        print(f"study {ours:.1f} s, mean validation accuracy {mean:.2f} %", flush=True)
        usual = run_usual(arguments, raw, workers, arguments.epochs, 8)
    print(f"notebook {usual['seconds']:.1f} s, mean validation accuracy {usual['accuracy']:.2f} %, {workers} workers")
    print(f"the study takes {ours / usual['seconds']:.2f} of the notebook's time (n = 1)")


def run_usual(arguments: argparse.Namespace, raw: Path, workers: int, epochs: int, networks: int) -> dict:
    """Runs the usual way in a process of its own."""
    command = [sys.executable, __file__, "notebook", "--usual", str(raw), "--workers", str(workers)]
    command += ["--epochs", str(epochs), "--networks", str(networks)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def usual_way(arguments: argparse.Namespace) -> dict:
    """Trains the networks one after the other, as a notebook does."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, random_split
    from torchvision import datasets, transforms

    began = time.monotonic()
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.2860,), (0.3530,))])
    whole = datasets.FashionMNIST(arguments.usual, train=True, transform=transform)
    train, val = random_split(whole, [51000, 9000], generator=torch.Generator().manual_seed(0))
    loaders = {
        "train": DataLoader(train, batch_size=64, shuffle=True, num_workers=arguments.workers),
        "val": DataLoader(val, batch_size=64, num_workers=arguments.workers),
    }
    accuracies = []
    cells = [(name, way) for name in ("Adam", "RMSprop") for way in ("none", "batch norm", "dropout", "L1")]
    for name, way in cells[: arguments.networks]:
        layers: list[nn.Module] = [nn.Flatten()]
        for place, (wide, narrow) in enumerate(((784, 256), (256, 128), (128, 64))):
            norm = [nn.BatchNorm1d(narrow)] if way == "batch norm" else []
            drop = [nn.Dropout(0.5)] if way == "dropout" and place == 1 else []
            layers += [nn.Linear(wide, narrow), *norm, nn.Tanh(), *drop]
        model = nn.Sequential(*layers, nn.Linear(64, 10))
        optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.001)
        criterion = nn.CrossEntropyLoss()
        for _ in range(arguments.epochs):
            model.train()
            running, correct = 0.0, 0
            for images, labels in loaders["train"]:
                optimizer.zero_grad()
                outputs = model(images)
                loss = criterion(outputs, labels)
                if way == "L1":
                    loss = loss + 0.0001 * sum(p.abs().sum() for p in model.parameters())
                loss.backward()
                optimizer.step()
                running += loss.item()
                correct += (outputs.argmax(1) == labels).sum().item()
            model.eval()
            correct = 0
            with torch.no_grad():
                for images, labels in loaders["val"]:
                    correct += (model(images).argmax(1) == labels).sum().item()
        accuracies.append(100 * correct / len(val))
        print(f"{name}, {way}: {accuracies[-1]:.2f} % after {time.monotonic() - began:.0f} s", file=sys.stderr)
    return {"seconds": time.monotonic() - began, "accuracy": sum(accuracies) / len(accuracies)}


def _rows(path: Path) -> list:
    from visionbench.studies.results import read_rows

    return read_rows(path)


def _mean_accuracy(rows: list) -> float:
    return 100 * sum(row.curves["val/acc"][-1] for row in rows) / len(rows)


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def resident(pid: int) -> float:
    """Resident memory of a process, in MiB."""
    match = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) / 1024 if match else 0.0


def processor() -> str:
    """Name of the processor, and its number of cores."""
    match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return f"{match[1] if match else platform.processor()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
