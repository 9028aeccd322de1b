"""Checkpoints: never half-written, and complete, so that a resumed run equals one that was never stopped."""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from visionbench.errors import Stopped
from visionbench.models.base import Classifier, Totals
from visionbench.random_state import random_state, set_random_state
from visionbench.runs.checkpoints import CHECKPOINT_KEY, promote
from visionbench.training.callbacks.after_epoch import AfterEpoch
from visionbench.training.lightning_private import (
    end_fit_restart,
    is_resumable_after_batch,
    restore_callback_metrics,
)
from visionbench.training.steps import Steps, StepwiseCallback


class RunCheckpoints(StepwiseCallback, AfterEpoch):
    """Writes checkpoints of the last state and of the best epoch, after each epoch and, if asked, within epochs.

    The checkpoint of an epoch is written when the epoch is complete, schedulers included, just before the next epoch
    starts; a run that is resumed from it repeats nothing and skips nothing. A checkpoint within an epoch also holds the
    epoch's sums, the number of finished batches and the global random state.

    SIGTERM and Ctrl+C stop the run after the current round of steps or validation; a second signal stops it at once.

    Args:
        folder: Folder of best.ckpt, last.ckpt and previous.ckpt, the checkpoint before the last.
        objective: Metric and mode that choose the best epoch; `None` for the last checkpoint only.
        every_n_steps: Number of optimizer steps between checkpoints within an epoch; `None` for none within epochs.
        described: Description of the run, stored in each checkpoint and compared when the run is resumed.
        resumed: State of this callback in the checkpoint that the run resumes from; `None` for a new run.
        before: Function called just before a checkpoint is written, so that what the checkpoint relies on, such as the
            rows of metrics.csv, is on the disk.
    """

    def __init__(
        self,
        folder: Path,
        *,
        objective: tuple[str, str] | None,
        every_n_steps: int | None = None,
        described: dict[str, Any] | None = None,
        resumed: dict[str, Any] | None = None,
        before: Sequence[Callable[[], object]] = (),
    ) -> None:
        super().__init__()
        self.folder = folder
        self.objective = objective
        self.every_n_steps = every_n_steps
        self.described = described if described is not None else {}
        self.resumed = resumed
        self.before = list(before)
        self.resumptions: list[dict[str, Any]] = list(resumed["resumptions"]) if resumed is not None else []
        self.best: float | None = resumed["best"] if resumed is not None else None
        self.best_epoch: int | None = resumed["best_epoch"] if resumed is not None else None
        self.seconds_before: float = resumed["seconds"] if resumed is not None else 0.0
        # Checkpoints of earlier versions have no cpu_seconds.
        self.cpu_seconds_before: float = resumed.get("cpu_seconds", 0.0) if resumed is not None else 0.0
        self.started, self.started_cpu = time.monotonic(), time.process_time()
        self.finished = False
        self.seen = 0  # batches of the running epoch
        self.batches = 0  # batches of an unfinished epoch, in the checkpoint that is being written
        self.improved = False
        self.last_step = -1  # global step of the newest checkpoint
        self.signal: int | None = None
        self.handlers: dict[int, Any] = {}

    def seconds(self) -> float:
        """Seconds of training, those before a resumption included."""
        return self.seconds_before + time.monotonic() - self.started

    def cpu_seconds(self) -> float:
        """Processor seconds of this process since training began, those before a resumption included."""
        return self.cpu_seconds_before + time.process_time() - self.started_cpu

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self.started = time.monotonic()
        self._catch_signals(trainer)
        if self.resumed is None:
            return
        self.last_step = trainer.global_step
        # What a plateau scheduler or early stopping sees of an epoch before the next validation.
        metrics = {name: value.to(pl_module.device) for name, value in self.resumed["metrics"].items()}
        restore_callback_metrics(trainer, metrics)
        trainer.should_stop = self.resumed["should_stop"]
        end_fit_restart(trainer)
        if not (batches := self.resumed["batches"]):
            trainer.fit_loop.epoch_loop.restarting = False
            return
        self.seen = batches
        # The loop of batches has to restart, so that it counts on.
        if self.resumed["validated"]:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, AfterEpoch):
                    callback.validated = True
        trainer.train_dataloader.begin_at(batches)  # type: ignore[union-attr]
        totals = Totals(pl_module.device)
        totals.load_state_dict(self.resumed["totals"])
        pl_module.train_totals = totals  # type: ignore[assignment]  # torch types attributes as modules
        set_random_state(self.resumed["random"])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if trainer.global_step > max(self.last_step, 0):
            self._save(trainer)
        self._stop_if_told(trainer)
        super().on_train_epoch_start(trainer, pl_module)
        self.seen = 0

    def on_steps(self, trainer: Trainer, model: LightningModule, steps: Steps) -> None:  # noqa: D102
        self.seen += steps.batches
        stop = self.signal is not None
        if not stop and self.every_n_steps is None:
            return
        if trainer.world_size > 1:
            # Other processes have sums and random numbers of their own: only between epochs is there one state.
            return
        due = (
            self.every_n_steps is not None
            and trainer.global_step >= max(self.last_step, 0) + self.every_n_steps
            and trainer.global_step > 0
        )
        if not (stop or due):
            return
        if not (is_resumable_after_batch(trainer) and hasattr(trainer.train_dataloader, "begin_at")):
            return
        self.batches = self.seen
        self._save(trainer)
        self.batches = 0
        self._stop_if_told(trainer)

    def steps_until_due(self, trainer: Trainer) -> int | None:  # noqa: D102
        if self.every_n_steps is None:
            return None
        return max(self.last_step, 0) + self.every_n_steps - trainer.global_step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if self.objective is None:
            return
        name, mode = self.objective
        metrics = self.epoch_metrics(trainer)
        if name not in metrics:
            return
        value = metrics[name]
        if not math.isfinite(value):  # an epoch without a score
            return
        if self.best is None or (value < self.best if mode == "min" else value > self.best):
            self.best, self.best_epoch, self.improved = value, trainer.current_epoch, True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self.finished = True
        if trainer.global_step > max(self.last_step, 0):
            self._save(trainer)
        self._release_signals()
        self._stop_if_told(trainer)  # what is left, the test, is for the run that goes on

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: D102
        self._release_signals()

    def on_save_checkpoint(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        ours: dict[str, Any] = {
            "described": self.described,
            "epochs": trainer.current_epoch,  # that are finished
            "batches": self.batches,  # of the next
            "step": trainer.global_step,
            "all_batches": trainer.fit_loop.total_batch_idx + 1,
            "start": pl_module.start.record() if isinstance(pl_module, Classifier) else None,
            "counts": dict(pl_module.evaluated) if isinstance(pl_module, Classifier) else {},
            "best": self.best,
            "best_epoch": self.best_epoch,
            "improved": self.improved,
            "metrics": dict(trainer.callback_metrics),
            "validated": self.validated,
            "should_stop": trainer.should_stop,
            "finished": self.finished,
            "seconds": self.seconds(),
            "cpu_seconds": self.cpu_seconds(),
            "resumptions": self.resumptions,
        }
        if self.batches and isinstance(pl_module, Classifier):
            ours |= {"totals": pl_module.train_totals.state_dict(), "random": random_state()}
        else:
            # All that belongs to the last epoch is done, and nothing yet of the next.
            checkpoint["epoch"] = trainer.current_epoch - 1
            progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
            for part in progress.values():
                part["ready"] = part["started"] = part["completed"] = part["processed"]
        checkpoint[CHECKPOINT_KEY] = ours

    def _save(self, trainer: Trainer) -> None:
        for write in (*self.before, *(logger.save for logger in trainer.loggers)):
            write()
        self.last_step = trainer.global_step
        following = self.folder / "next.ckpt"
        trainer.save_checkpoint(following)
        if trainer.is_global_zero:
            promote(following, best=self.improved)
        self.improved = False

    def _catch_signals(self, trainer: Trainer) -> None:
        def note(number: int, frame: FrameType | None) -> None:
            if self.signal is not None:  # the second one
                raise Stopped(128 + number)
            self.signal = number

        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # only the main thread may
                self.handlers[number] = signal.signal(number, note)

    def _release_signals(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}

    def _stop_if_told(self, trainer: Trainer) -> None:
        told = self.signal is not None
        if trainer.world_size > 1:
            told = trainer.strategy.reduce_boolean_decision(told, all=False)
        if told:
            raise Stopped(128 + (self.signal if self.signal is not None else signal.SIGTERM))
