"""What the trainings of a study would take in notebook style: processor seconds of one of its cells, both ways.

    python benchmarks/notebook_cells.py heart-mlp mnist-cnn
    python benchmarks/notebook_cells.py greek-transfer=../letters          # a study of files that a user brings
    python benchmarks/notebook_cells.py mnist-cnn --csv docs/results/notebook.csv

The cell is the first run of the study, from random weights. Both ways train the same network by the same
optimizer in 32 bits, in one process with one thread, as a run of a study is trained:

ours      a run as a study trains it, with validation, predictions, checkpoints, test and metrics.csv.
notebook  images from a PIL image or from their files, resized, augmented and normalized one by one by torchvision in
          each epoch, a DataLoader without workers, a plain loop that reads loss and accuracy at each step, and a
          validation after each epoch; not tested. Rows of a table come from a TensorDataset.

Seconds are of the processor, so that other work on the machine counts little. A long cell is trained for one and for
three epochs, a very long one for one and two, and the others are added by the difference; a notebook's epochs all take
the time of the first. With --csv, the rows of the studies that were measured are written into a file beside those of
others; docs/write_results.py reads it.
"""

import argparse
import csv
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ("study", "cell", "epochs", "ours", "notebook", "processor")
SHORT, LONG = 60, 600  # processor seconds of all epochs in a notebook, up to which a cell is trained whole or for three


def main() -> None:
    """Parses the arguments, measures each study and prints and writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", metavar="STUDY[=FOLDER]", help="name of a study, and its --data.source")
    parser.add_argument("--root", default="data", help="folder of prepared data sets")
    parser.add_argument("--csv", type=Path, help="file with a row for each study")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    rows = {}
    if arguments.csv is not None and arguments.csv.exists():
        with arguments.csv.open(newline="") as file:
            rows = {row["study"]: row for row in csv.DictReader(file)}
    for text in arguments.studies:
        name, _, source = text.partition("=")
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = measure(name, source, Path(arguments.root).resolve(), Path(folder))
        row = rows[name]
        ratio = float(row["notebook"]) / float(row["ours"])
        print(
            f"{name}, {row['cell']}, {row['epochs']} epochs: ours {row['ours']} s, notebook {row['notebook']} s, "
            f"{ratio:.1f} times as long (n = 1, {row['processor']})",
            flush=True,
        )
        if arguments.csv is not None:
            with arguments.csv.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows[name] for name in sorted(rows))


def measure(name: str, source: str, root: Path, folder: Path) -> dict[str, str]:
    """Trains one cell of a study both ways."""
    import yaml
    from studies import processor

    from visionbench.studies.runner import Options, Runner
    from visionbench.studies.spec import load_study

    study = load_study(ROOT / "configs/studies" / f"{name}.yaml")
    sys.path.append(str(study.path.parent))
    plan = Runner(study, Options(studies=folder / "studies", accept_code=True)).plan
    run = next(iter(plan.runs.values()))
    for word in run.sources:  # the weights of another run, which cost nothing
        run.config["model"]["init_args"] = {
            option: value for option, value in run.config["model"]["init_args"].items() if value != f"${word}"
        }
    if "weights" in run.config["model"]["init_args"]:
        run.config["model"]["init_args"]["weights"] = "none"
    path = folder / "cell.yaml"
    path.write_text(yaml.safe_dump(run.config, sort_keys=False))
    words = ["--config", str(path), "--data.root", str(root), *(["--data.source", source] if source else [])]
    epochs = int(run.config["trainer"]["max_epochs"])
    usual = notebook_epoch(words, run.config["data"]["init_args"], source)
    whole = usual * epochs
    long = epochs if whole < SHORT else min(epochs, 3 if whole < LONG else 2)
    our_seconds(words, 1, folder / "first")  # what a process does once, such as imports
    ours = {count: our_seconds(words, count, folder / str(count)) for count in sorted({1, long})}
    step = (ours[long] - ours[1]) / (long - 1) if long > 1 else 0.0
    return {
        "study": name,
        "cell": ", ".join([run.first.stage, *run.first.cell.values()]),
        "epochs": str(epochs),
        "ours": f"{ours[long] + (epochs - long) * step:.1f}",
        "notebook": f"{whole:.1f}",
        "processor": processor(),
    }


def our_seconds(words: list[str], epochs: int, folder: Path) -> float:
    """Processor seconds of a run of so many epochs, as a study trains it."""
    from visionbench.api import train
    from visionbench.config.cli import settings_from
    from visionbench.console import quiet_libraries

    with quiet_libraries():
        began = time.process_time()
        result = train(settings_from([*words, "--run_dir", str(folder), "--trainer.max_epochs", str(epochs)]))
        seconds = time.process_time() - began
    if result.status != "finished":
        raise SystemExit(f"The run ended as {result.status}.")
    return seconds


def notebook_epoch(words: list[str], options: dict[str, Any], source: str) -> float:
    """Processor seconds of an epoch in notebook style: of the first, or of five short ones."""
    from torch.utils.data import DataLoader

    from visionbench.config.cli import settings_from
    from visionbench.console import quiet_libraries

    with quiet_libraries():
        settings = settings_from(words)
        model, data = settings.model, settings.data
        model.prepare_start()
        data.prepare_data()
        data.setup()
    train, val = (samples(data, stage, options, source) for stage in ("train", "val"))
    batches = DataLoader(train, data.batch_size, shuffle=True)
    checks = DataLoader(val, data.batch_size) if val is not None else []
    optimizer = model.make_optimizer([parameter for parameter in model.parameters() if parameter.requires_grad])
    for group in optimizer.param_groups:
        group["fused"] = None  # as torch chooses by itself
    next(epochs_of(model, optimizer, itertools.islice(batches, 1), []))  # what a process does once
    for epoch, seconds in enumerate(epochs_of(model, optimizer, batches, checks), 1):
        if seconds > 5 or epoch == 5:
            break
    return seconds / epoch


def epochs_of(model: Any, optimizer: Any, batches: Any, checks: Any) -> Iterator[float]:
    """Trains epoch after epoch; gives the processor seconds up to the end of each."""
    import torch

    began = time.process_time()
    while True:
        model.train()
        running, correct = 0.0, 0
        for images, labels in batches:
            optimizer.zero_grad()
            outputs = model(images)
            loss = model.loss(outputs, labels)
            if (penalty := model.penalty()) is not None:
                loss = loss + penalty
            loss.backward()
            optimizer.step()
            running += loss.item()
            correct += (model.predict(outputs) == labels).sum().item()
        model.eval()
        running, correct = 0.0, 0
        with torch.no_grad():
            for images, labels in checks:
                outputs = model(images)
                running += model.loss(outputs, labels).item()
                correct += (model.predict(outputs) == labels).sum().item()
        yield time.process_time() - began


def samples(data: Any, stage: str, options: dict[str, Any], source: str) -> Any:
    """The samples of a part as a data set of torch, which makes each tensor anew; `None` where the part is empty."""
    import numpy as np
    import torch
    from PIL import Image
    from torch.utils.data import Dataset, TensorDataset
    from torchvision import transforms

    if (part := data.splits.get(stage)) is None or len(part.index) == 0:
        return None
    labels = data.store.arrays[f"{part.part}-labels"][part.index].tolist()
    if len(data.input_shape) == 1:
        table = data.val_dataloader() if stage == "val" else data.train_dataloader()
        rows, answers = (torch.cat(column) for column in zip(*table, strict=True))
        return TensorDataset(rows, answers)
    pixels = data.store.arrays[f"{part.part}-images"]
    channels, *size = data.input_shape
    steps: list[Any] = []
    files: list[Path] = []
    if source and (names := data.store.arrays.get(f"{part.part}-names")) is not None:
        files = [Path(source, os.fsdecode(names[place])) for place in part.index]
        steps += [transforms.Resize(min(size)), transforms.CenterCrop(size)]
    if stage == "train":
        steps += [
            getattr(transforms, each["class_path"].rpartition(".")[2])(**each.get("init_args", {}))
            for each in options.get("augment") or []
        ]
    transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(data.mean, data.std)])

    class Samples(Dataset):
        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, place: int) -> tuple[Any, int]:
            if files:
                image = Image.open(files[place]).convert("L" if channels == 1 else "RGB")
            else:
                image = Image.fromarray(np.squeeze(pixels[part.index[place]]))
            return transform(image), labels[place]

    return Samples()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
