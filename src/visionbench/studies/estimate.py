"""The runs of a study and the time that they will take, without training them."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from visionbench.errors import UserError
from visionbench.studies.expand import PlannedRun, place_in_words
from visionbench.studies.runner import OVERHEAD, Runner
from visionbench.text import counted, duration, one_line

if TYPE_CHECKING:
    from visionbench.training.settings import Settings

# Training steps of a probe; the first ones are not counted.
PROBE_STEPS, WARM_UP_STEPS = 25, 5
# Cells that are probed; the others of a stage take as long as the mean of these.
MAX_PROBES = 12
# Time of a validation step, as a share of a training step.
VALIDATION_SHARE = 0.35


def dry_run(runner: Runner) -> Iterator[str]:
    """Lists the runs that are missing, with their times, which finished runs of the same cell tell, or a probe.

    Args:
        runner: Runner of the study.

    Raises:
        UserError: Runs would be refused, after all are listed.
    """
    missing = runner.missing()
    problems: dict[str, str] = {}
    seconds = _seconds(runner, missing, problems)
    for run in missing:
        known = seconds.get(run.id)
        yield f"{run.id}  {duration(known) if known is not None else '?':>12}  {place_in_words(run)}"
    for note in runner.notes:
        yield f"note: {note}"
    for entry in runner.waiting():
        yield f"{'later':<16}  {counted(entry.count, 'run'):>12}  {entry.stage} · {entry.protocol}: {entry.reason}"
    finished = sum(row.is_finished for row in runner.rows())
    total = f"; {_total(seconds, len(missing) - len(seconds), runner.workers())}" if missing else ""
    yield f"{counted(len(missing), 'run')} to train, {finished} finished{total}"
    if problems:
        raise UserError(f"These runs would be refused: {' '.join(dict.fromkeys(problems.values()))}")


def _total(seconds: dict[str, float], unknown: int, workers: int) -> str:
    if unknown and not seconds:
        return "their time is not known"
    total = sum(seconds.values())
    text = f"{duration(total)} of computing, about {duration(total / workers)} with {workers} at once"
    return text + (f", without {counted(unknown, 'run')} whose time is not known" if unknown else "")


def _seconds(runner: Runner, missing: list[PlannedRun], problems: dict[str, str]) -> dict[str, float]:
    seconds = {run.id: known for run in missing if (known := runner.estimate(run)) is not None}
    probes: dict[tuple[Any, ...], float] = {}
    probed = 0
    for run in missing:
        if run.id in seconds:
            continue
        key = (run.study.id, run.protocols, run.first.stage, tuple(run.first.cell.items()))
        data = str(run.config.get("data"))
        if key not in probes and probed < MAX_PROBES and data not in problems:
            probed += 1
            try:
                probes[key] = _probe(runner, run)
            except UserError as error:
                problems[data] = one_line(error)
        alike = [probes[key]] if key in probes else [value for name, value in probes.items() if name[2] == key[2]]
        if alike:
            seconds[run.id] = sum(alike) / len(alike)
    return seconds


def _probe(runner: Runner, run: PlannedRun) -> float:
    """Seconds of a run, from a few training steps on this machine."""
    import sys

    from visionbench.api import train
    from visionbench.config.cli import settings_from
    from visionbench.console import quiet_libraries
    from visionbench.processes import run_cleanly

    config = yaml.safe_load(yaml.safe_dump(run.config))
    if isinstance(config["model"], dict):
        config["model"].get("init_args", {}).pop("start_from", None)
    config |= {"predictions": False, "test_after_fit": False}
    config.pop("evaluate", None)
    epochs = _epochs(run)
    if run.continues is not None:  # only the further epochs are trained
        epochs -= _epochs(next(known for known in runner.every_run() if known.id == run.continues.run))
    config["trainer"] |= {"max_epochs": 1, "limit_train_batches": PROBE_STEPS, "limit_val_batches": 1}
    if run.study.module.exists():
        sys.path.insert(0, str(run.study.path.parent.resolve()))

    def measure() -> float:
        with tempfile.TemporaryDirectory() as folder, quiet_libraries():
            path = Path(folder) / "run.yaml"
            path.write_text(yaml.safe_dump(config), encoding="utf-8")
            words = ["--config", str(path), "--run_dir", f"{folder}/run", "--data.offline", "true"]
            settings = settings_from([*words, *runner.options.words])
            clock = _clock()
            train(settings, callbacks=[clock])
            return _whole(settings, clock.per_step(), epochs)

    return run_cleanly(measure) + OVERHEAD


def _epochs(run: PlannedRun) -> int:
    from visionbench.config.cli import TRAINER_DEFAULTS

    return int((run.config.get("trainer") or {}).get("max_epochs", TRAINER_DEFAULTS["max_epochs"]))


def _whole(settings: "Settings", step: float, epochs: int) -> float:
    sizes, batch = settings.data.sizes(), settings.data.batch_size
    batches = -(-sizes["train"] // batch) + VALIDATION_SHARE * -(-sizes["val"] // batch)
    return step * batches * epochs


def _clock() -> Any:
    from lightning.pytorch import Callback

    class Clock(Callback):
        """Notes when each training step has ended."""

        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            self.ends.append(time.monotonic())

        def per_step(self) -> float:
            ends = self.ends[WARM_UP_STEPS:] if len(self.ends) > 2 * WARM_UP_STEPS else self.ends
            return (ends[-1] - ends[0]) / max(1, len(ends) - 1)

    return Clock()
