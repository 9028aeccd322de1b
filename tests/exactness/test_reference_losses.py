"""The losses of the first 50 steps of each model on Digits, held against a table.

On the processor family and the torch version that the table names, bit for bit; elsewhere to the tolerance below. After
a change that is meant to change them, in the environment of the tests, from the root of the repository:

    python -m tests.exactness.test_reference_losses

writes the table again. There is no dropout in these runs, since its random numbers are not the same on all processors.
"""

import contextlib
import csv
import io
import shlex
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from visionbench.cli import main
from visionbench.runs.folder import RunFolder

TABLE = Path(__file__).with_name("reference_losses.csv")
STEPS = 50
# Relative. With the instructions of AVX-512, AVX2 or SSE, and with one or two threads, they parted by 0.0002 at most;
# with Adam, which divides by gradients near zero, those of PatchMLP did by 0.05 and those of CNN by 0.025.
TOLERANCE = 0.002
MODELS = {
    "MLP": "--model MLP",
    "CNN": "--model CNN --model.widths [8,16,16] --model.dropouts [0,0,0] --data.augment [RandomCrop] "
    "--model.optimizer SGD --model.optimizer.lr 0.003",
    "PatchMLP": "--model PatchMLP --model.optimizer SGD --model.optimizer.lr 0.003",
    "FrozenResNet": "--model FrozenResNet --model.weights none --model.min_size 32 --model.dropout 0",
}


def processor() -> str:
    """The processor's family in /proc/cpuinfo's words, what torch makes of it, and torch's version."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    said = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    family = " ".join(f"{name} {said.get(name)}" for name in ("vendor_id", "cpu family", "model"))
    return f"{family}; {torch.backends.cpu.get_cpu_capability()}; torch {torch.__version__}"


def losses(name: str, root: Path, folder: Path) -> np.ndarray:
    """Of a model's first steps, shape (50,), float32."""
    line = f"fit --data Digits {MODELS[name]} --data.root {root} --data.batch_size 16 --data.val_size 0 --name {name}"
    line += f" --trainer.max_steps {STEPS} --trainer.precision 32-true --trainer.logger false"
    line += " --test_after_fit false --figures none"
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(shlex.split(f"{line} --log_dir {folder}")) == 0
    return RunFolder(folder / name / "version_0").step_losses


def table() -> tuple[str, dict[str, np.ndarray]]:
    """The processor that the table is of, and the losses by model."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        named = file.readline().removeprefix("# ").strip()
        rows = list(csv.DictReader(file))
    return named, {name: np.array([row[name] for row in rows], dtype=np.float32) for name in MODELS}


@pytest.mark.parametrize("name", list(MODELS))
def test_the_first_losses_are_those_of_the_table(name, digits_root, tmp_path):
    named, expected = table()
    found = losses(name, digits_root, tmp_path)
    assert found.shape == (STEPS,)
    if processor() == named:
        assert found.tolist() == expected[name].tolist()
    else:
        np.testing.assert_allclose(found, expected[name], rtol=TOLERANCE)


def test_the_table_is_of_runs_that_learned():
    for values in table()[1].values():
        assert values.shape == (STEPS,)
        assert values[-10:].mean() < 0.97 * values[:10].mean()


def write() -> None:
    """Writes the table."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        columns = {name: losses(name, Path(folder, "data"), Path(folder)) for name in MODELS}
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        file.write(f"# {processor()}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", *MODELS])
        for step in range(STEPS):
            # Nine digits are as many as a float32 needs to be read back.
            writer.writerow([step + 1, *(f"{values[step]:.9g}" for values in columns.values())])


if __name__ == "__main__":
    write()
