"""A line for each epoch of a run, and a bar on a terminal; apart from `training`, which knows no terminal."""

import time

from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from visionbench.console import plain_console
from visionbench.models.base import Classifier
from visionbench.text import duration
from visionbench.training.callbacks.after_epoch import AfterEpoch
from visionbench.training.steps import Steps, StepwiseCallback

# A look at the loss makes the host wait for the device, so it is not had at every step.
SECONDS_BETWEEN_LOOKS = 0.2


class Progress(StepwiseCallback, AfterEpoch):
    """A line for each epoch and, on a terminal, a bar below them with the loss, the speed and the time that is left.

    Args:
        console: Where to write; standard output by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self.console = console if console is not None else plain_console()
        self.bar: Bar | None = None
        self.val_acc: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self.fit_started = self.epoch_started = self.looked = time.monotonic()
        self.seen = 0
        self.batches = trainer.fit_loop.epoch_loop.batch_progress.current.completed  # of an epoch that is resumed
        self.train_seconds = 0.0
        self.first_epoch = trainer.current_epoch
        if not (self.console.is_terminal and trainer.is_global_zero):
            return
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}"),
            console=self.console,
            transient=True,
            auto_refresh=False,
        )
        self.bar.start()
        self.task = self.bar.add_task("", total=self._batches_of_epoch(trainer), state="")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        super().on_train_epoch_start(trainer, pl_module)
        self.epoch_started = self.looked = time.monotonic()
        self.seen = self.batches = 0
        self.train_seconds = 0.0

    def on_steps(self, trainer: Trainer, model: LightningModule, steps: Steps) -> None:  # noqa: D102
        self.seen += steps.samples
        self.batches += steps.batches
        now = time.monotonic()
        self.train_seconds = now - self.epoch_started
        if self.bar is None or now - self.looked < SECONDS_BETWEEN_LOOKS:
            return
        self.looked = now
        parts = [f"loss {float(steps.losses[-1]):.3f}"]
        if self.val_acc is not None:
            parts.append(f"val acc {100 * self.val_acc:.2f} %")
        parts.append(self._speed(trainer))
        done = (trainer.current_epoch - self.first_epoch) + self.batches / self._batches_of_epoch(trainer)
        parts.append(self._left(trainer, done))
        self.bar.update(
            self.task,
            total=self._batches_of_epoch(trainer),
            completed=self.batches,
            description=self._epoch(trainer),
            state="  ".join(filter(None, parts)),
            refresh=True,
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if not trainer.is_global_zero:
            return
        metrics = self.epoch_metrics(trainer)
        parts = [self._epoch(trainer)]
        for stage in ("train", "val"):
            if f"{stage}/loss" in metrics:
                parts.append(f"{stage} loss {metrics[f'{stage}/loss']:.4f} acc {100 * metrics[f'{stage}/acc']:5.2f} %")
        self.val_acc = metrics.get("val/acc", self.val_acc)
        # Only the objective, since a line cannot hold the F1 of each of a hundred classes.
        objective = pl_module.objective.metric if isinstance(pl_module, Classifier) else ""
        if objective in metrics and objective.partition("/")[2] not in ("loss", "acc"):
            parts.append(f"{objective} {metrics[objective]:.4f}")
        parts.append(f"lr {metrics['lr']:.3g}")
        parts.append(self._speed(trainer))
        parts.append(self._left(trainer, trainer.current_epoch - self.first_epoch + 1))
        self.console.print("  ".join(filter(None, parts)))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: D102
        self._stop()

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _batches_of_epoch(self, trainer: Trainer) -> int:
        return max(1, int(trainer.num_training_batches))

    def _epoch(self, trainer: Trainer) -> str:
        last = trainer.max_epochs
        return f"epoch {trainer.current_epoch + 1}" + (f"/{last}" if last is not None and last > 0 else "")

    def _speed(self, trainer: Trainer) -> str:
        item = getattr(trainer.datamodule, "item", "image")  # type: ignore[attr-defined]
        return f"{self.seen * trainer.world_size / max(self.train_seconds, 1e-9):,.0f} {item}s/s"

    def _left(self, trainer: Trainer, done: float) -> str:
        if trainer.max_epochs is None or trainer.max_epochs < 1 or done <= 0:
            return ""
        left = (trainer.max_epochs - self.first_epoch - done) * (time.monotonic() - self.fit_started) / done
        return f"{duration(left)} left" if left > 0 else ""
