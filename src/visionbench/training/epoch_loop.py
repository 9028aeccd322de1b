"""The loop of an epoch's batches: one round of the Trainer's hooks for several optimizer steps.

A step of a small network takes less time than the Trainer's hooks around it. The loop therefore runs several steps by
itself, exactly as the Trainer would, and hands the last one of each round to the Trainer, with all hooks, counters and
loggers. It does so only where nobody else looks at single steps.
"""

import time
from collections.abc import Callable
from typing import Any, Literal, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.core.hooks import DataHooks
from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import Optimizer

from visionbench.classes import is_ours
from visionbench.data.loader import ResidentLoader
from visionbench.models.base import Batch, Classifier
from visionbench.training.graphs import CudaGraphs, GraphedSteps
from visionbench.training.steps import EARLIER, Earlier, StepwiseCallback

# So that a bar moves and Ctrl+C is heeded, however long a step takes. Any number of steps a round gives the same
# numbers, so that a clock may end a round.
SECONDS_OF_A_ROUND = 0.2

# Types of devices whose steps can be captured as graphs.
GRAPH_DEVICES = ("cuda",)

# What a callback or a model may do at each step.
STEP_HOOKS = (
    *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
    "on_before_optimizer_step",
)
MODEL_HOOKS = (
    *("training_step", "backward", "optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping"),
    "clip_gradients",
)
DATA_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class EpochLoop(_TrainingEpochLoop):
    """Runs several optimizer steps in each round of hooks, with the same weights, losses and counters.

    A round ends at the latest where something is due: a validation, a checkpoint, the end of the epoch or of training.

    Args:
        trainer: Trainer whose loop this is.
        steps_per_execution: Number of optimizer steps in a round, at most.
        say: Called with a sentence where each step has a round of its own although more are asked for.
        cuda_graph: Whether the steps of a round, besides the last, are captured as CUDA graphs where that works.
    """

    def __init__(
        self,
        trainer: Trainer,
        steps_per_execution: int,
        say: Callable[[str], object],
        cuda_graph: Literal["auto", "never"] = "never",
    ) -> None:
        limits = trainer.fit_loop.epoch_loop
        super().__init__(trainer, limits.min_steps, limits.max_steps)
        self.automatic_optimization: _Optimization = _Optimization(trainer)
        self.steps_per_execution = steps_per_execution
        self.say = say
        self.cuda_graph = cuda_graph
        self.graphed: GraphedSteps | None = None
        self._asked = False  # whether the run has been looked at

    def on_run_start(self, data_fetcher: Any) -> None:
        """Looks, before the first epoch, whether rounds may have several steps."""
        super().on_run_start(data_fetcher)
        if self._asked:
            return
        self._asked = True
        if self.steps_per_execution > 1 and (reason := _reason(self.trainer)) is not None:
            self.steps_per_execution = 1
            self.say(f"steps_per_execution is 1: {reason}.")
        if self.cuda_graph == "auto":
            self._prepare_graphs()

    def _prepare_graphs(self) -> None:
        trainer, model = self.trainer, cast(Classifier, self.trainer.lightning_module)
        if (reason := _reason_against_graphs(trainer, self.steps_per_execution)) is not None:
            self.say(f"CUDA graphs are not used: {reason}.")
            return

        def forward(batch: Batch, index: int) -> Tensor:
            with trainer.precision_plugin.train_step_context():
                return model.training_step(batch, index)

        self.graphed = GraphedSteps(model, forward, self.say, CudaGraphs(trainer.strategy.root_device))

    def advance(self, data_fetcher: Any) -> None:
        """Runs one round: steps without hooks, then one with them."""
        self.automatic_optimization.earlier = Earlier()
        if self.steps_per_execution > 1 and not self.restarting and not self.trainer.should_stop:
            self._run_ahead(data_fetcher, self._batches_until_due() - 1)
        super().advance(data_fetcher)

    def _batches_until_due(self) -> int:
        """The number of batches up to the one after which something may happen, that one included."""
        trainer = self.trainer
        accumulated = trainer.accumulate_grad_batches
        ready = self.batch_progress.current.ready
        steps = [self.steps_per_execution]
        if self.max_steps != -1:
            steps.append(self.max_steps - self.global_step)
        for callback in trainer.callbacks:
            if isinstance(callback, StepwiseCallback) and (due := callback.steps_until_due(trainer)) is not None:
                steps.append(due)
        batches = [min(steps) * accumulated - ready % accumulated, trainer.num_training_batches - ready]
        if self._should_check_val_epoch():
            done = self.total_batch_idx + 1 if trainer.check_val_every_n_epoch is None else ready
            batches.append(trainer.val_check_batch - done % trainer.val_check_batch)
        return int(min(batches))

    def _run_ahead(self, data_fetcher: Any, batches: int) -> None:
        """Runs batches in the order of Lightning's automatic optimization, without its hooks.

        Args:
            data_fetcher: Gives the batches.
            batches: Number of batches; fewer are run where they take long.
        """
        trainer, counts = self.trainer, self.automatic_optimization.optim_progress.optimizer
        model: Any = trainer.lightning_module
        precision, accumulated = trainer.precision_plugin, trainer.accumulate_grad_batches
        (optimizer,) = trainer.optimizers
        clip, algorithm = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
        schedules = any(config.interval == "step" for config in trainer.lr_scheduler_configs)
        ends = time.monotonic() + SECONDS_OF_A_ROUND
        connector, results, graphed = trainer._logger_connector, self._results, self.graphed
        loss: Any = None

        def closure() -> Any:
            nonlocal loss
            if graphed is not None and (loss := graphed.step(batch, index)) is not None:
                counts.zero_grad.increment_by(1)
                before_step()
                return loss
            with precision.train_step_context():
                loss = model.training_step(batch, index)
            if accumulated > 1:
                loss = loss / accumulated
            if index % accumulated == 0:
                optimizer.zero_grad()
                counts.zero_grad.increment_by(1)
            loss.backward()
            # What is left of the autograd graph would bring the stream of this step into the capture of a later one.
            loss = loss.detach()
            if steps:
                before_step()
            return loss

        def before_step() -> None:
            model.on_before_optimizer_step(optimizer)
            if clip:
                model.clip_gradients(optimizer, clip, algorithm)

        outside, model._current_fx_name = model._current_fx_name, "training_step"  # so that `self.log` works there
        for _ in range(batches):
            batch, *_ = next(data_fetcher)
            self.batch_progress.increment_by(1)
            index, steps = self.batch_idx, not self._should_accumulate()
            connector._first_loop_iter = connector._first_loop_iter is None
            results.batch, results.batch_size = batch, None
            logged = model.log_calls
            if steps:
                optimizer.step(closure)
                counts.step.increment_by(1)
                if schedules:
                    self.update_lr_schedulers("step", update_plateau_schedulers=False)
            else:
                closure()
            self.automatic_optimization.earlier.add(loss, len(batch[1]))
            if model.log_calls != logged:  # a part of the step that a subclass extends may log
                connector.on_batch_end()
                connector.update_train_step_metrics()
            if steps:
                if schedules:
                    self.update_lr_schedulers("step", update_plateau_schedulers=True)
                self._batches_that_stepped += 1
            if time.monotonic() > ends:
                break
        model._current_fx_name = outside


class _Optimization(_AutomaticOptimization):
    """Lightning's step, whose outputs name the earlier steps of the round."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer)
        self.earlier = Earlier()

    def run(self, optimizer: Optimizer, batch_idx: int, kwargs: Any) -> dict[str, Any]:
        outputs = super().run(optimizer, batch_idx, kwargs)
        return {**outputs, EARLIER: self.earlier} if self.earlier.losses else outputs


def _reason(trainer: Any) -> str | None:
    """Why each step needs a round of its own, as the end of a sentence; `None` where nobody looks at single steps."""
    model, data = trainer.lightning_module, trainer.datamodule
    if type(trainer.strategy) is not SingleDeviceStrategy:
        return f"the strategy is {type(trainer.strategy).__name__}"
    precision = trainer.precision_plugin
    if type(precision) not in (Precision, MixedPrecision) or getattr(precision, "scaler", None) is not None:
        return f"the precision is {trainer.precision}"
    if not isinstance(trainer.profiler, PassThroughProfiler):
        return "a profiler is on"
    if trainer._val_check_time_interval is not None:
        return "trainer.val_check_interval is a time"
    if len(trainer.optimizers) != 1 or not model.automatic_optimization:
        return f"{type(model).__name__} optimizes by itself"
    for base, hooks in ((Classifier, STEP_HOOKS + MODEL_HOOKS), (LightningModule, DATA_HOOKS)):
        for name in hooks:
            if _overrides(model, base, name):
                return f"{type(model).__name__} overrides {name}"
    for name in DATA_HOOKS:
        if data is not None and _overrides(data, DataHooks, name):
            return f"{type(data).__name__} overrides {name}"
    for callback in trainer.callbacks:
        for name in STEP_HOOKS:
            takes_rounds = isinstance(callback, StepwiseCallback) and name == "on_train_batch_end"
            if not takes_rounds and _overrides(callback, Callback, name):
                return f"the callback {type(callback).__name__} overrides {name}"
    loader = trainer.train_dataloader
    if not isinstance(loader, ResidentLoader) or loader.labels.device != trainer.strategy.root_device:
        return f"the training loader is a {type(loader).__name__}"
    return None


def _reason_against_graphs(trainer: Any, steps_per_execution: int) -> str | None:
    """Why no step can be captured, as the end of a sentence; `None` where it can be tried."""
    if trainer.strategy.root_device.type not in GRAPH_DEVICES:
        return f"the device is {trainer.strategy.root_device.type}"
    if steps_per_execution == 1:
        return "steps_per_execution is 1"
    if trainer.accumulate_grad_batches > 1:
        return "gradients are accumulated"
    if not is_ours(type(trainer.lightning_module)):
        return f"{type(trainer.lightning_module).__name__} may do in Python what a graph does not repeat"
    optimizer = type(trainer.optimizers[0])
    if not is_ours(optimizer) and optimizer.__module__.partition(".")[0] != "torch":
        return f"{optimizer.__name__} may keep gradients, whose memory a graph overwrites"
    return None


def _overrides(thing: object, base: type, name: str) -> bool:
    """Whether an object has a method of its own in place of that of a base, in its class or set on it."""
    return name in vars(thing) or getattr(type(thing), name) is not getattr(base, name, None)
