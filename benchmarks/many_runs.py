"""What a study of many runs costs beside its trainings: seconds of a runner with half of the rows, by number of runs.

    python benchmarks/many_runs.py --runs 100 1000 10000

The rows are copies of a real one, `docs/results/mnist-cnn/runs.csv`, with its curves and its confusion matrix. Nothing
is trained.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from visionbench.studies.results import read_rows, write_rows
from visionbench.studies.runner import RESULTS_FILE, Options, Runner
from visionbench.studies.spec import load_study

ROW = read_rows(Path(__file__).parents[1] / "docs/results/mnist-cnn/runs.csv")[0]
TEXT = """\
title: Many runs
source: made up
seeds: {seeds}
base: {{data: Digits, model: {{class_path: MLP, init_args: {{widths: [8]}}}}, trainer: {{max_epochs: 1}}}}
grid:
  dropout: {{{dropouts}}}
  lr: {{{rates}}}
stages:
  cells: {{grid: [dropout, lr], result: last epoch}}
"""


def study_file(folder: Path, runs: int) -> Path:
    """Writes a study of so many runs: 100 cells with their seeds, or four cells where there are fewer than 1,000."""
    side = 10 if runs >= 1000 else 2
    dropouts = ", ".join(f"{n}: {{model.dropout: {n / 100}}}" for n in range(side))
    rates = ", ".join(f"{n}: {{model.optimizer.lr: {(n + 1) / 1000}}}" for n in range(side))
    path = folder / "configs/studies/many.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(TEXT.format(seeds=list(range(runs // side**2)), dropouts=dropouts, rates=rates))
    return path


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """Least seconds of some calls."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return min(times)


def measure(runs: int, repeats: int) -> dict[str, float]:
    """Seconds of a runner's parts in a study of so many runs, of which half have rows."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        study = load_study(str(study_file(Path(name), runs)))
        runner = Runner(study, Options())
        rows = [  # without a digest of code, as rows of an early version
            replace(ROW, id=run.id, protocols=run.protocols, stage="cells", cell=dict(run.first.cell), code="")
            for run in list(runner.plan.runs.values())[: runs // 2]
        ]
        runner.store.folder.mkdir(parents=True)
        write_rows(runner.store.folder / RESULTS_FILE, rows)
        size = (runner.store.folder / RESULTS_FILE).stat().st_size
        found = {"start": seconds(lambda: Runner(study, Options()), 1)}
        runner = Runner(study, Options())
        found["refresh"] = seconds(runner.refresh, repeats)
        found["missing"] = seconds(runner.missing, repeats)
        found["write"] = seconds(runner.write, repeats)
        found["MB"] = size / 1e6
        return found


def main() -> None:
    """Prints a row for each number of runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print("  runs   rows MB  start s  refresh s  missing s  write s")
    for runs in options.runs:
        found = measure(runs, options.repeats)
        print(
            f"{runs:6d} {found['MB']:9.1f} {found['start']:8.2f} {found['refresh']:10.3f} {found['missing']:10.3f} "
            f"{found['write']:8.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
