"""A session: one run from its settings to its result, without a command line, a terminal or a figure."""

import contextlib
import dataclasses
import functools
import os
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import yaml
from filelock import FileLock
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from lightning.pytorch.trainer.states import TrainerStatus
from lightning.pytorch.utilities.exceptions import SIGTERMException

from visionbench import guards
from visionbench.errors import MetricFailed, RunFailed, Stopped, UserError, is_disk_error
from visionbench.evaluation.metrics import Evaluator, expand
from visionbench.evaluation.predictions import EVALUATIONS, Predictions, save_predictions
from visionbench.guards import (
    GUARDS,
    DataContext,
    EndContext,
    EpochContext,
    Finding,
    FirstBatchContext,
    ModelContext,
    Refused,
)
from visionbench.guards.data import OfficialTestAsValidation
from visionbench.models.base import BATCH_NORMS
from visionbench.models.schedulers import wants_total_steps
from visionbench.processes import RUN_FOLDER_VARIABLE, World
from visionbench.runs import resume
from visionbench.runs.checkpoints import AtomicCheckpointIO
from visionbench.runs.folder import RunFolder, Status, divergence
from visionbench.runs.identity import (
    config_digest,
    flat,
    git_state,
    identity,
    named_classes,
    process_count,
    remember_source,
    versions,
    weights_digest,
)
from visionbench.text import counted, is_utf8, one_line, shown
from visionbench.training.callbacks import (
    BeforeTraining,
    Diverged,
    EndOfEpoch,
    EpochSeed,
    EvaluatedEpochs,
    FiniteLosses,
    FirstBatch,
    IdleTapsIn32Bits,
    KeptPredictions,
    MetricsFile,
    RunCheckpoints,
    RunTensorBoardLogger,
    SplitOutputs,
    StartOfTraining,
    StepLosses,
    Throughput,
)
from visionbench.training.callbacks.finite import Divergence
from visionbench.training.callbacks.tensorboard import hyperparameters
from visionbench.training.device import device_name, is_on_cuda, nondeterministic, nondeterministic_kernels, threads_for
from visionbench.training.epoch_loop import EpochLoop
from visionbench.training.evaluations import Evaluation, FurtherEvaluations, Outputs, measured_further
from visionbench.training.features import FrozenFeatures
from visionbench.training.launched import LaunchedProcesses
from visionbench.training.result import RunResult
from visionbench.training.settings import Settings
from visionbench.training.summary import opening_lines, parameter_count
from visionbench.training.torch_warnings import reported_warnings

PROFILERS: dict[str, Callable[..., Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}
# End of the names of the files that a profiler writes into the run folder.
PROFILE = "profile"

NOT_BEFORE = (
    "The run was started without evaluate before, and is resumed past its start, so that the untrained model is not "
    "evaluated."
)

Say = Callable[[str], object]


class Figures(Protocol):
    """Draws the figures of a run; a session only calls it."""

    def check(self, session: "Session") -> None:
        """Refuses settings of figures that the model cannot meet, before the run starts."""

    def after_validation(self, session: "Session", predictions: Predictions) -> None:
        """Draws what is wanted of a validation."""

    def at_end(self, session: "Session", ending: "Ending") -> list[str]:
        """Draws the figures of the result; gives the lines to print about them."""


@dataclass
class Ending:
    """What figures of a finished run are drawn from.

    Attributes:
        row: Metrics of the result, with `epoch`.
        seconds: Seconds of training.
        predictions: Predictions by split.
    """

    row: dict[str, Any]
    seconds: float
    predictions: dict[str, Predictions]


class Session:
    """Trains, validates and tests one run.

    Args:
        settings: Settings of the run.
        say: Called with each line that describes the run; by default nothing is printed.
        callbacks: Further callbacks, such as a progress bar.
        figures: Draws the figures; by default none are drawn.

    Raises:
        UserError: A metric is unknown, or cannot be computed for these classes.
    """

    def __init__(
        self,
        settings: Settings,
        say: Say | None = None,
        callbacks: Sequence[Callback] = (),
        figures: Figures | None = None,
    ) -> None:
        self.settings = settings
        self.model, self.data = settings.model, settings.data
        self.world = World.detect()
        if self.world.launch is not None:
            # As of processes that a run starts itself, so that config.yaml repeats the run on one machine.
            size = {"devices": self.world.launch.size, "num_nodes": 1}
            settings.trainer |= size
            settings.config.setdefault("trainer", {}).update(size)
            if self.world.launch.restarts and settings.resume is None:  # or each restart would begin anew
                place = settings.run_dir
                settings.resume = "auto" if place is None or not RunFolder(Path(place)).has_results else str(place)
        self.model.objective = settings.objective
        logged = self.model.metrics  # a metric that the model logs itself is not computed a second time
        names = expand(settings.metrics, self.data.class_names)
        self.evaluator = Evaluator([name for name in names if f"val/{name}" not in logged], self.data.class_names)
        for spec in self.evaluator.specs.values():
            if spec.user_class is not None:
                remember_source(spec.user_class)
        self.evaluations = FurtherEvaluations(self.data, self.evaluator)
        self.callbacks = list(callbacks)
        self.figures = figures if settings.figures != "none" else None
        self.trainer: Trainer
        self.run_folder: Path | None = None
        self.resumption: resume.Resumption | None = None
        self.rows: list[dict[str, Any]] = []
        self.checkpoints: RunCheckpoints | None = None
        self.predictions: KeptPredictions | None = None
        self.training_predictions: Predictions | None = None
        self.throughput = Throughput()
        self.starting_digest = ""
        self.findings: list[Finding] = []
        self._epoch_guards = list(GUARDS)
        self._say = say
        self._lock: FileLock | None = None
        self._started = False  # whether the run folder holds a configuration, so that the ending is recorded in it
        self._clock, self._cpu_clock = time.monotonic(), time.process_time()
        self._kernels: set[str] = set()

    def say(self, line: str) -> None:
        """Passes on a line about the run, in the first process only."""
        if self._say is not None and self.world.is_first:
            self._say(line)

    def fit(self) -> RunResult:
        """Trains, tests the result once and fills the run folder.

        Raises:
            UserError: The settings or the data are refused.
            RunFailed: The run cannot be written.
        """
        try:
            self._prepare()
            with reported_warnings(lambda finding: self._note([finding])):
                return self._train_and_test()
        except Refused:
            self._withdraw()
            raise
        except (Stopped, KeyboardInterrupt) as end:  # when training was over, or had not started
            self.say(f"Interrupted; {self._how_to_resume()}")
            return self._interrupted(end.status if isinstance(end, Stopped) else 130)
        except BaseException as error:
            self._write_ending(self._unfinished("failed"), error)
            if isinstance(error, RuntimeError) and (lost := self._lost_process(error)) is not None:
                raise lost from error
            if not isinstance(error, OSError) or not is_disk_error(error):
                raise
            if not self._started:
                self._withdraw()
            raise RunFailed(f"The run could not be written ({error}); {self._after_making_room()}.") from error
        finally:
            self._close()

    def check(self) -> list[Finding]:
        """Asks the guards that a run asks until its first step, makes that step and validates one batch.

        No run is written. Guards of a stage are asked once those of the stage before have refused nothing.

        Returns:
            What the guards found, refusals among it.

        Raises:
            UserError: The settings or the data are refused by something else than a guard.
        """
        self.settings.trainer["fast_dev_run"] = True
        try:
            self._prepare()
            with reported_warnings(lambda finding: self._note([finding])):
                status = self._run(lambda: self.trainer.fit(self.model, datamodule=self.data))
        except Refused as refused:
            return [*self.findings, *refused.findings]
        finally:
            self._close()
        if status:
            raise KeyboardInterrupt
        return self.findings

    def evaluate(self, stage: Literal["val", "test"], checkpoint: Path) -> RunResult:
        """Evaluates a checkpoint on a split; writes nothing.

        Args:
            stage: Split.
            checkpoint: File of the weights.

        Raises:
            UserError: The checkpoint is not of this model.
        """
        self.prepare_data()
        self._set_threads()
        outputs: list[Callback] = [SplitOutputs(self.evaluator, keep=False)] if self.evaluator.specs else []
        overrides: dict[str, Any] = {"logger": False, "enable_checkpointing": False}
        if self.world.launch is None and process_count(self.settings.trainer) > 1:
            overrides |= {"devices": 1, "num_nodes": 1, "strategy": "auto"}  # the run's own processes are not needed
        self._make_trainer(overrides, outputs)
        function = self.trainer.validate if stage == "val" else self.trainer.test
        status = self._run(
            lambda: function(self.model, datamodule=self.data, ckpt_path=checkpoint, weights_only=True, verbose=False)
        )
        if status:
            return self._interrupted(status)
        metrics = {name: value.item() for name, value in self.trainer.callback_metrics.items()}
        return RunResult(None, "finished", metrics, dict(self.model.evaluated))

    # Preparation

    def _prepare(self) -> None:
        settings = self.settings
        self._note(settings.findings)
        if self.figures is not None:
            self.figures.check(self)
        if settings.resume is None:
            self.model.prepare_start()
        self._ask("model", ModelContext(self.model, self.data))
        self.prepare_data()
        self._check_evaluations()
        self._ask("data", DataContext(self.data))
        self._set_threads()
        if settings.trainer.get("fast_dev_run"):
            # A logger, of which Lightning makes one that writes nothing, is for callbacks that need one.
            self._make_trainer({"logger": True, "enable_checkpointing": False}, self._guard_callbacks())
            return
        self._make_paths_absolute()
        self._check_texts()
        self.run_folder = self._claim(self._record())
        overrides: dict[str, Any] = {
            "default_root_dir": str(self.run_folder),
            "enable_checkpointing": True,  # MetricsFile is of the type that Lightning asks this for
            "logger": self._logger(self.run_folder),
            "plugins": [*_as_list(settings.trainer.get("plugins")), AtomicCheckpointIO()],
        }
        if isinstance(profiler := settings.trainer.get("profiler"), str):
            # Lightning's own would print a table for developers, which `quiet_libraries` keeps off the screen.
            overrides["profiler"] = PROFILERS[profiler](self.run_folder, PROFILE)
        self._make_trainer(overrides, self._run_callbacks(RunFolder(self.run_folder), self._record()))
        if self.model.feature_extractor() is not None and self.trainer.world_size == 1:
            self.data.frozen_features = FrozenFeatures(self.model, self.data, self.trainer, self.say)
        if self.world.is_first:
            run = RunFolder(self.run_folder)
            run.write_input(self.data.describe_input())
            config = {**settings.config, "resume": None, "resume_changed": False}
            run.write_config(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
            run.reopen()
        self._started = True

    def _check_evaluations(self) -> None:
        """Refuses further evaluations of a validation split that has no samples.

        Raises:
            UserError: One is asked for.
        """
        named = [name for name in self.settings.evaluate if name != "train_eval"]
        if named and (not self.data.sizes()["val"] or self.settings.trainer.get("limit_val_batches") == 0):
            raise UserError(
                f"evaluate names {named[0]}, which is measured on validation {self.data.item}s, but there is no "
                "validation; remove it, or set data.val_size above 0."
            )

    def _ask(self, stage: guards.Stage, context: Any) -> None:
        self._note(guards.inspect(GUARDS, stage, context, self.settings.allow))

    def _guard_callbacks(self) -> list[Callback]:
        return [
            StartOfTraining(self.data, functools.partial(self._ask, "start")),
            FirstBatch(self._ask_first_batch),
            EndOfEpoch(self.data, self._ask_epoch),
        ]

    def _ask_epoch(self, context: EpochContext) -> None:
        for guard in list(self._epoch_guards):
            if findings := guards.inspect([guard], "epoch", context, self.settings.allow):
                self._epoch_guards.remove(guard)  # what it found holds in later epochs too, and is said once
                self._note(findings)

    def _ask_first_batch(self, batch: Any, losses: torch.Tensor) -> None:
        self._ask("first batch", FirstBatchContext(self.model, self.data, batch, losses))

    def _note(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            self.findings.append(finding)
            self.say(f"note: {finding.sentence}")

    def _identity(self) -> dict[str, Any]:
        """The identity of the run; a run to be resumed gets its starting weights' digest from its checkpoint."""
        start = self.model.start.record()
        if self.resumption is not None and self.resumption.state is not None:
            start = self.resumption.state["start"]
        return identity(
            self.settings.config,
            data_digest=self.data.data_digest(),
            kinds=(type(self.model), type(self.data), *self._objective_class(), *named_classes(self.settings.config)),
            processes=process_count(self.settings.trainer),
            start=start["weights_digest"] if start is not None else None,
        )

    def _objective_class(self) -> list[type]:
        """The class of the objective where it is a metric of the user, whose code then chooses the best epoch."""
        spec = self.evaluator.specs.get(self.settings.objective.metric.removeprefix("val/"))
        return [] if spec is None or spec.user_class is None else [spec.user_class]

    def _record(self) -> dict[str, Any]:
        description = resume.record(self._identity(), self.settings.config, torch.get_num_threads())
        return {**description, "metrics": list(self.evaluator.specs)}

    def prepare_data(self) -> None:
        """Prepares and splits the data, and tells model and data what the settings say of both."""
        self.data.run_seed = self.settings.seed
        if OfficialTestAsValidation.name in self.settings.allow:
            self.data.watch_test()
        if self.world.is_first or self.world.launch is not None:  # where several do, one prepares and the others wait
            self.data.prepare_data()
        self.data.setup()

    def _set_threads(self) -> None:
        launch = self.world.launch
        beside = launch.devices if launch is not None else process_count(self.settings.trainer)
        available = max(1, torch.get_num_threads() // max(1, beside))  # no device at all is refused later
        torch.set_num_threads(self.settings.threads or threads_for(self.model, self.data.batch_size, available))
        if beside > 1:  # for the processes that the run starts; Lightning would choose another number
            os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())

    def _make_paths_absolute(self) -> None:
        """So that the run can be evaluated, and run again, from any folder."""
        config = self.settings.config
        config["data"].setdefault("init_args", {})["root"] = str(self.data.root.resolve())
        arguments = config["model"].get("init_args") or {}
        for place in ("start_from", "weights"):
            value = arguments.get(place)
            # A word with a meaning of its own stays one, though a folder may be called the same.
            if value not in (None, "imagenet", "none") and Path(value).exists():
                arguments[place] = str(Path(value).resolve())

    def _check_texts(self) -> None:
        """Refuses paths that config.yaml cannot hold.

        Raises:
            UserError: A path is not UTF-8 text.
        """
        for name, value in flat(self.settings.config).items():
            if isinstance(value, str) and not is_utf8(value):
                raise UserError(
                    f"{name.replace('init_args.', '')} is {shown(value)}, which is not UTF-8 text, so that the run "
                    "could not be read; rename the file or folder, or give another one."
                )

    def _make_trainer(self, overrides: dict[str, Any], callbacks: list[Callback]) -> None:
        arguments = self.settings.trainer
        overrides = {"enable_progress_bar": False, **overrides}
        if arguments.get("deterministic") is None and is_on_cuda(arguments.get("accelerator", "auto")):
            # So that the same command gives the same weights there too; what has no such kernel goes into run.json.
            overrides["deterministic"] = "warn"
        plugins = _as_list(overrides.get("plugins", arguments.get("plugins")))
        if not any(isinstance(plugin, ClusterEnvironment) for plugin in plugins):
            # The variables of a batch job are not about this process: Lightning would wait for the job's other tasks.
            overrides["plugins"] = [*plugins, self._cluster_environment()]
        if (launch := self.world.launch) is not None:
            overrides |= {"devices": launch.devices, "num_nodes": launch.nodes}
            if arguments.get("strategy") in (None, "auto"):
                overrides["strategy"] = "ddp"
        overrides["callbacks"] = [*_as_list(arguments.get("callbacks")), *callbacks]
        try:
            self.trainer = Trainer(**{**arguments, **overrides})
        except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
            self._withdraw()
            raise UserError(f"The Trainer does not take these settings: {one_line(error)}") from error
        self.trainer.fit_loop.epoch_loop = EpochLoop(
            self.trainer, self.settings.steps_per_execution, self.say, self.settings.cuda_graph
        )

    def _cluster_environment(self) -> ClusterEnvironment:
        return LightningEnvironment() if self.world.launch is None else LaunchedProcesses(self.world.launch)

    def _run_callbacks(self, run: RunFolder, description: dict[str, Any]) -> list[Callback]:
        settings, resumption = self.settings, self.resumption
        metrics_file = MetricsFile(
            run.metrics_path,
            resumption.epochs if resumption is not None else None,
            [*(f"val/{name}" for name in self.evaluator.specs), *self._columns()],
        )
        self.rows = metrics_file.rows
        losses = StepLosses(run.losses_path, resumption.batches if resumption is not None else None)
        finite = FiniteLosses(self.data)
        callbacks: list[Callback] = [*self._guard_callbacks(), EpochSeed(settings.seed), IdleTapsIn32Bits()]
        callbacks += [metrics_file, losses, finite]
        if settings.keeps_checkpoints:
            self.checkpoints = self._checkpoints(run.checkpoints, description, [losses.write, finite.check])
            callbacks.append(self.checkpoints)
        outputs = SplitOutputs(self.evaluator, keep=settings.predictions)
        if settings.predictions or self.evaluator.specs:
            callbacks.append(outputs)
        if settings.predictions:
            after = self._after_validation if self.figures is not None and settings.figures == "all" else None
            self.predictions = KeptPredictions(
                run.predictions_folder, self.data, outputs, self.checkpoints, not settings.chooses_epoch, after
            )
            callbacks.append(self.predictions)
            if self.checkpoints is not None:
                self.checkpoints.before.append(self.predictions.write_last)
        if self._epoch_evaluations():
            callbacks.append(EvaluatedEpochs(self.evaluations, self._epoch_evaluations()))
        if "before" in settings.evaluate or (self.figures is not None and settings.figures == "all"):
            callbacks.append(BeforeTraining(run.untrained_path, self.evaluations))
        if self.figures is not None:
            callbacks.append(self.throughput)
        if settings.early_stopping.patience is not None:
            callbacks.append(
                lightning_callbacks.EarlyStopping(
                    settings.objective.metric,
                    mode=settings.objective.mode or "min",
                    patience=settings.early_stopping.patience,
                    min_delta=settings.early_stopping.min_delta,
                )
            )
        return [*callbacks, *self.callbacks]

    def _epoch_evaluations(self) -> list[str]:
        """The further evaluations that are made after each epoch."""
        settings = self.settings
        if settings.evaluate_every == "end":
            return []
        return [name for name in dict.fromkeys(settings.evaluate) if name != "before"]

    def _columns(self) -> list[str]:
        """The columns of metrics.csv for further evaluations."""
        names = ("loss", "acc", *self.evaluator.specs)
        return [f"{evaluation}/{name}" for evaluation in self._epoch_evaluations() for name in names]

    def _checkpoints(
        self, folder: Path, description: dict[str, Any], before: Sequence[Callable[[], object]]
    ) -> RunCheckpoints:
        settings, resumption = self.settings, self.resumption
        objective = settings.objective
        callback = RunCheckpoints(
            folder,
            objective=(objective.metric, objective.mode or "min") if settings.has_objective else None,
            every_n_steps=settings.checkpoint.every_n_steps,
            described=description,
            resumed=resumption.state if resumption is not None else None,
            before=before,
        )
        if resumption is not None and resumption.state is not None:
            self.model.start.restore(resumption.state["start"])
            self.model.evaluated |= resumption.state.get("counts", {})  # checkpoints of earlier versions have none
            # A metric that is no longer asked for would otherwise be logged with its last value in every epoch.
            dropped = set(resumption.state["described"].get("metrics", ())) - set(self.evaluator.specs)
            for name in [f"val/{name}" for name in dropped] + list(measured_further(resumption.state["metrics"])):
                resumption.state["metrics"].pop(name, None)
            callback.resumptions.append(
                {
                    "epochs": resumption.epochs,
                    "batches": resumption.state["batches"],
                    "step": resumption.step,
                    "changed": resumption.changes,
                }
            )
        return callback

    def _logger(self, folder: Path) -> Any:
        asked = self.settings.trainer.get("logger")
        if asked is None or asked is True:
            return RunTensorBoardLogger(
                save_dir=folder.parent.parent,
                name=folder.parent.name,
                version=folder.name,
                default_hp_metric=False,
                # What was written after the checkpoint will be written again.
                purge_step=self.resumption.step if self.resumption is not None else None,
            )
        return asked

    # The run folder

    def _claim(self, description: dict[str, Any]) -> Path:
        """The run folder: a new one, or that of the run to resume, in `resumption`."""
        launch = self.world.launch
        if launch is None:
            return self._claim_first(description)
        launch.join()
        if self.world.is_first:
            try:
                folder = self._claim_first(description)
            except UserError as error:
                launch.share((None, False, error.status, str(error)))
                raise
            launch.share((folder.resolve(), self.resumption is not None, 0, ""))
            return folder
        answer: tuple[Path, bool, int, str] = launch.share(None)
        folder, is_resumed, status, refusal = answer
        if status:
            raise RunFailed(refusal) if status == RunFailed.status else UserError(refusal)
        if is_resumed:
            self.resumption = resume.open_for_resume(folder, description, allow_changes=True)
        if self.settings.resume is not None:
            self.model.prepare_start(load=self.resumption is None or self.resumption.state is None)
        return folder

    def _claim_first(self, description: dict[str, Any]) -> Path:
        """The run folder as the first process claims it, and as the processes that it starts then find it."""
        settings = self.settings
        if self.world.run_folder is not None:
            folder = self.world.run_folder
            if settings.resume is not None and RunFolder(folder).config_path.exists():
                self.resumption = resume.open_for_resume(folder, description, allow_changes=True)
            return folder
        parent = Path(settings.log_dir).expanduser() / settings.name
        place: Path | None = None
        if settings.resume == "auto":
            place = resume.newest_unfinished(parent, description)
        elif settings.resume is not None:
            place = Path(settings.resume)
        if place is not None:
            folder = place
            self._lock = RunFolder(folder).lock()  # before it is read, so that nobody writes in between
            self.resumption = resume.open_for_resume(folder, description, settings.resume_changed)
            if self.resumption.extends and self._counts_on_length():
                raise UserError(
                    "The learning-rate scheduler was made for the run's length, so that more epochs would be another "
                    "run from the first step on; start a new run, with --model.start_from if need be."
                )
            for line in self.resumption.notes:
                self.say(line)
            resume.finish_interrupted_writes(self.resumption)
        else:
            exact = settings.run_dir
            folder = RunFolder.claim(parent).path if exact is None else _claim_exactly(Path(exact))
            self.run_folder = folder  # which `_withdraw` removes where the disk is full
            self._lock = RunFolder(folder).lock()
        if settings.resume is not None:
            self.model.prepare_start(load=self.resumption is None or self.resumption.state is None)
        if self.world.launch is None:
            os.environ[RUN_FOLDER_VARIABLE] = str(folder)
        return folder

    def _counts_on_length(self) -> bool:
        make = self.model.make_lr_scheduler
        return make is not None and wants_total_steps(make)

    def _withdraw(self) -> None:
        """Removes the run folder of a run that never started; one that holds results is left alone."""
        if self.run_folder is None or self.resumption is not None or not self.world.is_first:
            return
        self._close()
        if self.run_folder.exists() and not RunFolder(self.run_folder).has_results:
            shutil.rmtree(self.run_folder)
            self._started = False
            with contextlib.suppress(OSError):  # other runs are in it
                self.run_folder.parent.rmdir()
                self.run_folder.parent.parent.rmdir()

    def _close(self) -> None:
        """Lets other processes resume the run, and closes the files of its loggers."""
        self.data.frozen_features = None
        if self._lock is not None:
            self._lock.release()
            os.environ.pop(RUN_FOLDER_VARIABLE, None)
        for logger in self.trainer.loggers if hasattr(self, "trainer") else ():
            if isinstance(logger, RunTensorBoardLogger):
                logger.close()

    # Training

    def _train_and_test(self) -> RunResult:
        trainer, model, data, settings = self.trainer, self.model, self.data, self.settings
        data.trains_batch_norm = any(module.training for module in model.modules() if isinstance(module, BATCH_NORMS))
        for line in opening_lines(settings, trainer, self.run_folder, self.resumption):
            self.say(line)
        self._clock, self._cpu_clock = time.monotonic(), time.process_time()
        resumption = self.resumption
        if resumption is not None and resumption.finished and not resumption.extends:
            trainer.fit_loop.max_epochs = resumption.epochs  # also where it was stopped early
        file = resumption.file if resumption is not None else None
        try:
            with nondeterministic_kernels() as self._kernels:
                status = self._run(lambda: trainer.fit(model, datamodule=data, ckpt_path=file, weights_only=True))
        except Diverged as error:
            return self._diverged(str(error), error.divergence)
        if status:
            self.say(f"Interrupted in epoch {trainer.current_epoch + 1}; {self._how_to_resume()}")
            return self._interrupted(status)
        seconds = self._seconds()
        if self.run_folder is None:  # fast_dev_run: nothing was kept, so nothing can be tested
            batches = counted(int(settings.trainer["fast_dev_run"]), "batch", "batches")
            self.say(f"fast_dev_run: {batches} of each kind ran through; nothing was written.")
            return RunResult(None, "finished")
        self._ask("end", EndContext(self.rows, settings.objective.metric if settings.chooses_epoch else None))
        checkpoint = RunFolder(self.run_folder).result_checkpoint() if self.checkpoints is not None else None
        content = torch.load(checkpoint, map_location="cpu", weights_only=True) if checkpoint is not None else None
        # The metrics of the epoch that was kept; without checkpoints the weights are those of the last.
        epoch = content["epoch"] if content is not None else self.rows[-1]["epoch"]
        row = next(row for row in self.rows if row["epoch"] == epoch)
        if (text := divergence(self.rows)) is not None:
            return self._diverged(text)
        if content is not None:
            model.load_state_dict(content["state_dict"])
        row = {**row, **self._evaluate_result(row)}
        if settings.test_after_fit and data.sizes()["test"]:
            self._open_test(RunFolder(self.run_folder), "fit" if resumption is None else "resume", checkpoint)
            status = self._run(
                lambda: trainer.test(model, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False)
            )
            if status:
                self.say(f"Interrupted while testing; {self._how_to_resume()}")
                return self._interrupted(status)
            row = row | {
                name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("test/")
            }
        weights = content["state_dict"] if content is not None else model.state_dict()
        lines: list[str] = []
        if self.figures is not None:
            model.load_state_dict(weights)  # a run without a test has those of its last epoch
            predictions = self._all_predictions()
            if trainer.is_global_zero:
                lines = self.figures.at_end(self, Ending(row, seconds, predictions))
        result = RunResult(
            folder=self.run_folder,
            status="finished",
            metrics=_metrics(row),
            counts=self._counts(),
            best_epoch=row.get("epoch"),
            weights_digest=weights_digest(weights),
            epochs=trainer.current_epoch,
            seconds=seconds,
            figure_lines=lines,
        )
        if trainer.is_global_zero and settings.trainer.get("enable_autolog_hparams") is not False:
            self._log_hyperparameters(RunFolder(self.run_folder), result.metrics)
        self._write_ending(result)
        return result

    def _open_test(self, run: RunFolder, purpose: str, checkpoint: Path | None) -> None:
        """Records that the test samples are evaluated now; in the first process only."""
        if self.world.is_first and (note := run.open_test(self.data.sealed_samples(), purpose, checkpoint)) is not None:
            self.say(note)

    def _run(self, action: Callable[[], object]) -> int:
        """Runs a function of the Trainer; gives 0, or the exit status if it was interrupted.

        Raises:
            UserError: The Trainer or the model refuses its input, or the checkpoint is of another model. A run
                that has not made a step by then leaves no folder.
        """
        refusal: UserError
        try:
            action()
            return 0
        except Stopped as stopped:
            return stopped.status
        except SIGTERMException:
            return 143
        except SystemExit:
            # Lightning turns Ctrl+C into an exit with status 1.
            if self.trainer.state.status != TrainerStatus.INTERRUPTED:
                raise
            return 130
        except MetricFailed as error:
            refusal = MetricFailed(f"{str(error).removesuffix('.')}; {self._after_mending_metric()}.")
        except RunFailed as error:
            if self.trainer.global_step == 0:
                self._withdraw()  # first, since a folder that is removed cannot be resumed
            refusal = RunFailed(f"{str(error).removesuffix('.')}; {self._after_making_room()}.")
        except UserError as error:
            refusal = error
        except MisconfigurationException as error:
            refusal = UserError(f"The Trainer cannot run this: {one_line(error)}")
        except RuntimeError as error:
            if not str(error).startswith("Error(s) in loading state_dict"):
                raise
            refusal = UserError(f"The checkpoint does not fit the model that the options describe: {one_line(error)}")
        if self.trainer.global_step == 0:
            self._withdraw()
        raise refusal

    def _after_validation(self, trainer: Trainer, predictions: Predictions) -> None:
        if self.figures is not None:
            self.figures.after_validation(self, predictions)

    def _all_predictions(self) -> dict[str, Predictions]:
        """The result's predictions by split, those of the training samples only where all figures are drawn."""
        if self.predictions is None or self.run_folder is None:
            return {}
        found = {stage: predictions for stage, predictions in self.predictions.kept.items() if stage != "val"}
        # The last validation's are in memory, those of the best epoch in the folder.
        kept = RunFolder(self.run_folder).predictions("val")
        if kept is not None:
            found["val"] = kept
        if self.training_predictions is not None:
            found["train"] = self.training_predictions
        return found

    def _evaluate_result(self, row: Mapping[str, Any]) -> dict[str, float]:
        """Makes the further evaluations of the result, keeps the training samples' predictions, and gives the metrics.

        Args:
            row: Metrics of the epoch that is the result, with those that were evaluated after each epoch.
        """
        settings, named = self.settings, self.settings.evaluate
        metrics = self._untrained_metrics() if "before" in named else {}
        if "augmented_val" in named and "augmented_val/loss" not in row:
            metrics |= self._evaluated("augmented_val", row["epoch"]).metrics
        keeps = "train_eval" in named and settings.predictions
        draws = self.figures is not None and settings.figures == "all" and settings.predictions
        if keeps or draws or ("train_eval" in named and "train_eval/loss" not in row):
            evaluation = self._evaluated("train_eval", row["epoch"], keep=keeps or draws)
            metrics |= evaluation.metrics if "train_eval" in named else {}
            if evaluation.outputs is not None and self.world.is_first:
                self._keep_training_predictions(evaluation.outputs, keeps)
        return metrics

    def _evaluated(self, name: str, epoch: int, keep: bool = False) -> Evaluation:
        self.model.to(self.trainer.strategy.root_device)  # the end of training has taken it from there
        evaluation = self.evaluations.evaluate(self.trainer, self.model, name, epoch, keep)
        self.model.evaluated[name] = evaluation.count
        return evaluation

    def _untrained_metrics(self) -> dict[str, float]:
        untrained = RunFolder(self._folder()).untrained_metrics
        if not untrained and self.world.is_first:
            self._note([Finding("warning", NOT_BEFORE)])
        return {f"before/{name.removeprefix('val/')}": value for name, value in untrained.items()}

    def _keep_training_predictions(self, outputs: Outputs, keeps: bool) -> None:
        split = self.data.splits["train"]
        names = [self.data.sample_name(split.part, int(place)) for place in split.index]
        self.training_predictions = outputs.of_split("train", names)
        if keeps:
            folder = RunFolder(self._folder()).predictions_folder
            save_predictions(folder, outputs.of_split("train_eval", names), self.data.class_names)

    def _counts(self) -> dict[str, int]:
        """The number of samples of each stage; of further evaluations, only of those that are asked for."""
        return {
            stage: count
            for stage, count in self.model.evaluated.items()
            if stage not in EVALUATIONS or stage in self.settings.evaluate
        }

    def _folder(self) -> Path:
        if self.run_folder is None:
            raise RuntimeError("The run has no folder.")
        return self.run_folder

    def log_figure(self, name: str, pixels: np.ndarray) -> None:
        """Puts a picture, (H, W, 3), uint8, into TensorBoard, at the step that training has reached."""
        for logger in self.trainer.loggers:
            if isinstance(logger, RunTensorBoardLogger):
                logger.log_figure(name, pixels, self.trainer.global_step)

    def _log_hyperparameters(self, run: RunFolder, metrics: dict[str, float]) -> None:
        """Puts the configuration and the hyperparameters with the final metrics into TensorBoard."""
        for logger in self.trainer.loggers:
            if isinstance(logger, RunTensorBoardLogger):
                # Tags of their own: HPARAMS reads a tag's last scalar, which would be one more point of the curve.
                final = {f"final/{name}": metrics[name] for name in reversed(metrics)}  # test first
                logger.log_config(run.config_path.read_text(encoding="utf-8"))
                logger.log_hyperparams(hyperparameters(self.settings.config), final, self.trainer.global_step)
                logger.save()

    # Endings

    def _write_ending(
        self, result: RunResult, error: BaseException | None = None, divergence: Divergence | None = None
    ) -> None:
        """Writes `run.json`, unless the run has not started; in the first process only.

        Args:
            result: Result of the run, as far as an unfinished run has one.
            error: Exception that ended the run.
            divergence: What was not finite first, and where.
        """
        if not self._started or not self.world.is_first:
            return
        try:
            self._write_metadata(result, error, divergence)
        except OSError as failure:
            if result.status == "finished" or not is_disk_error(failure):
                raise
            self.say(f"The ending of the run could not be recorded ({failure}).")

    def _write_metadata(self, result: RunResult, error: BaseException | None, divergence: Divergence | None) -> None:
        settings, trainer, model = self.settings, self.trainer, self.model
        if self.run_folder is None:
            raise RuntimeError("A run without a folder has no metadata.")
        run, config, metrics = RunFolder(self.run_folder), settings.config, result.metrics
        parts = self._identity()
        content: dict[str, Any] = {
            "status": result.status,
            "command": settings.command,
            "identity": parts["digest"],
            "config_digest": config_digest(config, parts["processes"], parts["start"]),
            "code": parts["code"],
            "git": git_state(),
            "versions": versions(),
            "device": device_name(trainer),
            "precision": str(trainer.precision),
            "threads": torch.get_num_threads(),
            "world_size": trainer.world_size,
            "seed": settings.seed,
            "data_digest": self.data.data_digest(),
            "copies_of_training": self.data.copies_of_training(),
            "split_digests": {stage: self.data.split_digest(stage) for stage in self.data.splits},
            "item": self.data.item,
            "parameters": parameter_count(model),
            "trainable": parameter_count(model, trainable=True),
            "start": model.start.record(),
            "objective": {"metric": settings.objective.metric, "mode": settings.objective.mode}
            if settings.has_objective
            else None,
            "result": "best" if self._chose(result.status) else "last",
            "epochs": result.epochs,
            "best_epoch": result.best_epoch,
            "seconds": round(result.seconds, 3),
            "cpu_seconds": round(self._cpu_seconds(), 3),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "metrics": metrics,
            "counts": result.counts,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "test_openings": run.test_openings,
            "opening": run.opening,
            "weights_digest": result.weights_digest or None,
            "nondeterministic": nondeterministic(trainer, self._kernels),
            "resumed": self.checkpoints.resumptions if self.checkpoints is not None else [],
        }
        if error is not None:
            content |= {"error": _in_words(error)}
        if divergence is not None:
            content |= {"divergence": {"text": str(divergence), **dataclasses.asdict(divergence)}}
        run.write_metadata(content)

    def _chose(self, status: Status) -> bool:
        """Whether the objective chose the epoch, or would have; not where no epoch had a value of it."""
        if status != "finished" or self.checkpoints is None:
            return self.settings.chooses_epoch
        return self.settings.chooses_epoch and self.checkpoints.best_epoch is not None

    def _interrupted(self, status: int) -> RunResult:
        result = self._unfinished("interrupted", status - 128)
        self._write_ending(result)
        return result

    def _diverged(self, text: str, divergence: Divergence | None = None) -> RunResult:
        """The result of a run with a loss that is not finite: it has no score and is not tested."""
        epochs = counted(len(self.rows), "epoch")
        has_checkpoints = divergence is not None and self.rows and self.checkpoints is not None
        kept = f"; the checkpoints are those of the {epochs} before" if has_checkpoints else ""
        self.say(f"diverged   {text}; the run is not tested{kept}.")
        seconds, lines = self._seconds(), []
        if self.figures is not None and self.rows and self.trainer.is_global_zero:
            lines = self.figures.at_end(self, Ending({"epoch": None}, seconds, {}))
        result = RunResult(self.run_folder, "diverged", epochs=len(self.rows), seconds=seconds, figure_lines=lines)
        self._write_ending(result, divergence=divergence)
        return result

    def _unfinished(self, status: Status, signal: int | None = None) -> RunResult:
        """What is known of a run that did not come to its end: the metrics of its best epoch so far, or of its last."""
        chooses = self.settings.chooses_epoch
        best = self.checkpoints.best_epoch if self.checkpoints is not None and chooses else None
        rows = [row for row in self.rows if best is None or row["epoch"] == best]
        row = rows[-1] if rows else {}
        return RunResult(
            folder=self.run_folder,
            status=status,
            metrics=_metrics(row),
            counts=self._counts(),
            best_epoch=row.get("epoch"),
            epochs=len(self.rows),
            seconds=self._seconds(),
            signal=signal,
        )

    def _seconds(self) -> float:
        """Seconds of training, those before a resumption included."""
        return self.checkpoints.seconds() if self.checkpoints is not None else time.monotonic() - self._clock

    def _cpu_seconds(self) -> float:
        """Processor seconds of training and test, those before a resumption included."""
        return self.checkpoints.cpu_seconds() if self.checkpoints is not None else time.process_time() - self._cpu_clock

    def _how_to_resume(self) -> str:
        if self.run_folder is None:
            return "nothing was written"
        if self.checkpoints is None:
            return f"its files are in {self.run_folder}"
        return f"resume with: visionbench fit --resume {shlex.quote(str(self.run_folder))}"

    def _lost_process(self, error: RuntimeError) -> RunFailed | None:
        """The sentence for the end of another process of this run; `None` for any other error.

        Args:
            error: Error of this process, which gloo or NCCL raises where it waits for the others.
        """
        if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
            return None
        started = enumerate(getattr(self.trainer.strategy.launcher, "procs", []), 1)
        ended = [
            f"process {rank} ended with status {process.returncode}" for rank, process in started if process.poll()
        ]
        found = ", ".join(ended) or f"look at what they printed ({one_line(error)[:100]}...)"
        rank, size = self.trainer.global_rank, self.trainer.world_size
        return RunFailed(f"Process {rank} of {size} has lost the others: {found}; {self._how_to_resume()}")

    def _after_mending_metric(self) -> str:
        if self.checkpoints is None or self.run_folder is None:
            return "correct the metric, or leave it out of metrics"
        return (
            "correct the metric, or leave it out of metrics, and visionbench fit --resume "
            f"{shlex.quote(str(self.run_folder))} resumes the run"
        )

    def _after_making_room(self) -> str:
        if self.run_folder is None or not (self._started or self.resumption):
            return "make room and start it again"
        return f"make room, and visionbench fit --resume {shlex.quote(str(self.run_folder))} resumes it"


def _claim_exactly(folder: Path) -> Path:
    """Makes this run folder.

    Raises:
        UserError: There is something there already, or the folder cannot be made.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir() or any(folder.iterdir()):
            raise UserError(
                f"run_dir is {folder}, which is there already; give another folder, or --resume {folder}."
            ) from None
    except OSError as error:
        raise UserError(f"The run folder {folder} cannot be made ({error.strerror}); give another one.") from error
    return folder


def _metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """The metrics in a row of the metrics file."""
    stages = ("train", "val", "test", *EVALUATIONS)
    return {name: value for name, value in row.items() if "/" in name and name.partition("/")[0] in stages}


def _in_words(error: BaseException) -> str:
    """An exception as one line; a sentence for the user stands for itself."""
    if isinstance(error, UserError):
        return one_line(error)
    return f"{type(error).__name__}: {one_line(error)}" if str(error) else type(error).__name__


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
