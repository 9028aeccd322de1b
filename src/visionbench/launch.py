"""Training and evaluating from the command line, through LightningCLI."""

import contextlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from filelock import FileLock
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from rich.console import Console
from torch.optim.lr_scheduler import ReduceLROnPlateau

from visionbench.classes import class_of
from visionbench.config.parser import Parser, watched_parsing
from visionbench.data.base import VisionDataModule
from visionbench.errors import UserError, first_user_error, root_cause
from visionbench.evaluation.measures import confusion
from visionbench.evaluation.predictions import Predictions
from visionbench.files import replacing, write_json
from visionbench.models.base import Classifier, Objective, check_input_shape
from visionbench.models.schedulers import LONG_RUN, wants_total_steps
from visionbench.runs import resume
from visionbench.runs.checkpoints import AtomicCheckpointIO
from visionbench.runs.folder import SCHEMA, claim, lock
from visionbench.runs.identity import identity, process_count, remember_source
from visionbench.runs.resume import Resumption
from visionbench.text import one_line
from visionbench.training.callbacks import (
    BeforeTraining,
    KeptPredictions,
    MetricsFile,
    Progress,
    RunCheckpoints,
    RunTensorBoardLogger,
    StepLosses,
    Throughput,
)

# What every run shares; a run file says only what is its own.
TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": 10,
    "num_sanity_val_steps": 0,  # every validation is of a trained epoch, so that no metric is of an untrained model
    "enable_model_summary": False,  # the run's own first lines say it shorter
    "log_every_n_steps": 1,  # metrics are logged once an epoch; a larger value only makes Lightning warn
}

# Lightning sets this when it is imported, and every optimiser step then asks again whether there is a GPU; where there
# is none, that is a search for NVIDIA's library on the disk, a tenth of a small network's training time.
if not torch.cuda.is_available():
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"

# Of processors that multiply bfloat16 natively, in matrices (Intel) or vectors (AMD, some of Intel's).
BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}

# By these the data set tells the model its shape; a value written by hand would be lost without a word.
LINKED = ("num_classes", "input_shape")

# One process in a group of several is told the run's folder by the one that claimed it and started the others.
RUN_FOLDER_VARIABLE = "VISIONBENCH_RUN_FOLDER"


@dataclass
class Stopping:
    """Ends training early, when the objective no longer improves.

    Args:
        patience: Epochs without improvement to wait; by default training is not ended early.
        min_delta: Smallest change that counts as an improvement.
    """

    patience: int | None = None
    min_delta: float = 0.0


@dataclass
class Checkpointing:
    """What is kept of a run to go on from, besides the state after each epoch.

    Args:
        every_n_steps: Optimiser steps between checkpoints within an epoch; by default there are none.
    """

    every_n_steps: int | None = None


class VisionCLI(LightningCLI):
    """LightningCLI in subclass mode on `Classifier` and `VisionDataModule`, without its subcommands.

    Args:
        command: `fit`, `validate` or `test`.
        args: The options.
        run: The run to evaluate; `None` for fit.
        console: Gets the lines that say what will be done.
    """

    model: Classifier
    datamodule: VisionDataModule
    trainer: Trainer

    def __init__(self, command: str, args: Sequence[str], run: Path | None, console: Console) -> None:
        self.command = command
        self.args = list(args)
        self.run = run
        self.console = console
        self.run_folder: Path | None = None
        self.rows: list[dict[str, Any]] = []
        self.checkpoint: RunCheckpoints | None = None
        self.going_on: Resumption | None = None
        self.lock: FileLock | None = None
        self.predictions: KeptPredictions | None = None
        self.throughput: Throughput | None = None
        super().__init__(
            Classifier,
            VisionDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults=TRAINER_DEFAULTS,
            parser_class=Parser,
            parser_kwargs={
                "prog": f"visionbench {command}",
                # argparse's own usage names all of a hundred options before it says what the command does
                "usage": f"visionbench {command} "
                + ("--config FILE [options]" if run is None else "RUN_DIR [options]")
                + "\n\n--model.help NAME and --data.help NAME list the options of a model or a data set.",
                "description": "Train a model, then test its best epoch once." if run is None else "Evaluate a run.",
                "allow_abbrev": False,
            },
            args=list(args),
            run=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:  # noqa: D102
        parser.add_argument(
            "--name",
            type=str | None,
            default=None,
            help="Folder of the run in log_dir; default: the first config's name.",
        )
        parser.add_argument("--log_dir", type=str, default="lightning_logs", help="Folder of all runs.")
        parser.add_argument(
            "--test_after_fit", type=bool, default=True, help="Whether fit ends by testing the best epoch."
        )
        parser.add_class_arguments(Objective, "objective")
        parser.add_class_arguments(Stopping, "early_stopping")
        parser.add_class_arguments(Checkpointing, "checkpoint")
        parser.add_argument(
            "--resume",
            type=str | None,
            default=None,
            help="Go on with a run: its folder, or auto for the newest unfinished one of this name and configuration.",
        )
        parser.add_argument(
            "--resume_changed",
            type=bool,
            default=False,
            help="Whether to go on although configuration, data, code or versions are not those the run began with.",
        )
        parser.add_argument(
            "--figures",
            type=Literal["none", "final", "all"],
            default="final",
            help="What is drawn: nothing; what came out, at the end; or also each validation, the training images' "
            "predictions and the untrained model.",
        )
        parser.add_argument(
            "--figure_layers",
            type=list[str],
            default=[],
            help="Layers whose activations are drawn, such as blocks.0.1; default: some of the convolutions.",
        )
        parser.add_argument(
            "--figure_channels", type=list[int], default=[], help="Channels of these layers; default: the first."
        )
        for name in LINKED:
            check = self._fitting if name == "input_shape" else None
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate", compute_fn=check)

    def _fitting(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """What the data set gives, if the model takes it; the parser would refuse it in the words of types."""
        kind = class_of(self.config.model)
        if issubclass(kind, Classifier):
            check_input_shape(kind, input_shape)
        return input_shape

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: D102
        with watched_parsing(self.say):
            self.config = parser.parse_args(args)
        seed = self.config.seed_everything
        if isinstance(seed, bool) or not 0 <= seed < 2**32:
            raise UserError(
                f"seed_everything is {str(seed).lower()}, expected an integer from 0 to 4294967295, so that the run "
                "can be repeated."
            )

    def say(self, line: str) -> None:
        """Writes a line about the run, once where there are several processes."""
        if _is_first_process():
            self.console.print(line)

    def before_instantiate_classes(self) -> None:
        """Refuses what would be silently wrong, before data is touched, and fills in what depends on the machine."""
        config = self.config
        model, data = config.model, config.data
        model_kind, data_kind = class_of(model), class_of(data)
        for name in LINKED:
            if model.init_args.get(name) is not None:
                raise UserError(
                    f"model.{name} is set to {model.init_args[name]}, but it comes from the data set; take it out."
                )
        if config.name is not None and (config.name in ("", ".", "..") or Path(config.name).name != config.name):
            raise UserError(f"name is {config.name!r}, expected the name of one folder; --log_dir says where it lies.")
        has_validation = data.init_args.get("val_size") != 0 and config.trainer.limit_val_batches != 0
        _check_objective(config.objective, model_kind)
        scheduler = model.init_args.get("lr_scheduler")
        on_plateau = scheduler is not None and issubclass(class_of(scheduler), ReduceLROnPlateau)
        if on_plateau and model.init_args.get("lr_interval") == "step":
            raise UserError(
                "model.lr_interval is step, but ReduceLROnPlateau waits for the metric of an epoch; leave it out."
            )
        watching = "ReduceLROnPlateau" if on_plateau else "early_stopping"
        watched = on_plateau or config.early_stopping.patience is not None
        if watched and not has_validation and config.objective.metric.startswith("val/"):
            raise UserError(
                f"{watching} watches {config.objective.metric}, but there is no validation; set data.val_size above 0, "
                f"take {watching} out, or watch train/loss by objective.metric."
            )
        every, epochs = config.trainer.check_val_every_n_epoch, config.trainer.max_epochs
        if has_validation and every is not None and epochs is not None and 0 < epochs < every:
            raise UserError(
                f"trainer.check_val_every_n_epoch is {every}, but there are only {epochs} epochs, so that nothing "
                "would be validated; lower it, or set data.val_size 0."
            )
        if config.trainer.strategy in ("ddp_fork", "ddp_spawn", "ddp_notebook"):
            raise UserError(
                f"trainer.strategy is {config.trainer.strategy}, whose processes keep their metrics to themselves; use "
                "ddp, which starts this command once for each device."
            )
        optimizer = model.init_args.get("optimizer")
        if config.trainer.gradient_clip_val is not None and optimizer and optimizer.init_args.get("fused"):
            optimizer.init_args.fused = None  # Lightning refuses to clip for a fused optimiser in mixed precision
            self.say("model.optimizer.fused is turned off, because gradients are clipped")
        self.has_objective = has_validation or not config.objective.metric.startswith("val/")
        self.kinds = (model_kind, data_kind)
        for kind in self.kinds:
            remember_source(kind)
        self.precision_reason = "as asked for"
        if config.trainer.precision is None:
            config.trainer.precision, self.precision_reason = default_precision(config.trainer.accelerator)

    def instantiate_classes(self) -> None:
        """Makes data, model and Trainer; what one of them refuses is said without the parser's words around it."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            if (refusal := first_user_error(error)) is not None:
                raise refusal from None
            cause = root_cause(error)
            if isinstance(cause, ValueError):
                raise UserError(f"Data and model cannot be made from these settings: {one_line(cause)}") from error
            raise

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Makes the Trainer, for fit with the run's folder, which is claimed only when the data are there."""
        self.model.objective = Objective(
            self.config.objective.metric,
            self.config.objective.mode or self.model.metrics[self.config.objective.metric],
        )
        if self.datamodule.seed is None:
            self.datamodule.seed = self.config.seed_everything
        self._try_optimizer()
        if self.config.figure_layers and self.config.figures != "none":
            from visionbench.figures.network import check_layers

            check_layers(self.model, self.config.figure_layers)
        if self.command == "fit" and self.config.resume is None:
            self.model.start()
        if _is_first_process():
            self.datamodule.prepare_data()
        self.datamodule.setup()
        trainer_config = self.config.trainer
        overrides: dict[str, Any] = {"enable_progress_bar": False}
        callbacks: list[Callback] = []
        if self.run is not None or trainer_config.fast_dev_run:
            overrides |= {"logger": False, "enable_checkpointing": False}
        else:
            # So that the run can be evaluated, and run again, from any folder.
            self.config.data.init_args.root = str(self.datamodule.root.resolve())
            for place in ("start_from", "weights"):
                value = self.config.model.init_args.get(place)
                # A word with a meaning of its own stays one, though a folder may be called the same.
                if value not in (None, "imagenet", "none") and Path(value).exists():
                    self.config.model.init_args[place] = str(Path(value).resolve())
            self.run_folder = self._claim(self._record())
            described = self._record()
            finished = self.going_on.epochs if self.going_on is not None else None
            metrics_file = MetricsFile(self.run_folder / "metrics.csv", finished)
            self.rows = metrics_file.rows
            batches = self.going_on.batches if self.going_on is not None else None
            losses = StepLosses(self.run_folder / "step-losses.bin", batches)
            callbacks += [metrics_file, losses]
            if trainer_config.enable_checkpointing is not False:
                self.checkpoint = self._checkpoints(self.run_folder / "checkpoints", described, losses)
                callbacks.append(self.checkpoint)
            if self.config.figures != "none":
                callbacks += self._callbacks_of_figures(self.run_folder)
            if self.config.early_stopping.patience is not None:
                callbacks.append(
                    EarlyStopping(
                        self.model.objective.metric,
                        mode=self.model.objective.mode or "min",
                        patience=self.config.early_stopping.patience,
                        min_delta=self.config.early_stopping.min_delta,
                    )
                )
            overrides |= {
                "default_root_dir": str(self.run_folder),
                "enable_checkpointing": True,  # MetricsFile is of the type that Lightning asks this for
                "logger": self._loggers(self.run_folder),
                "plugins": [*_as_list(self.config_init.trainer.plugins), AtomicCheckpointIO()],
            }
            if trainer_config.enable_progress_bar is not False:
                callbacks.append(Progress(self.console))
        if trainer_config.deterministic is None and _is_on_cuda(trainer_config.accelerator):
            # So that the same command gives the same weights there too; what has no such kernel goes into run.json.
            overrides["deterministic"] = "warn"
        overrides["callbacks"] = [*_as_list(self.config_init.trainer.callbacks), *callbacks]
        try:
            trainer = Trainer(**{**self.config_init.trainer.as_dict(), **overrides, **kwargs})
        except (MisconfigurationException, ValueError, TypeError) as error:
            self.withdraw()
            raise UserError(f"The Trainer does not take these settings: {one_line(error)}") from error
        if self.run_folder is not None and _is_first_process():
            write_json(self.run_folder / "input.json", {"schema": SCHEMA, **self.datamodule.describe_input()})
            with replacing(self.run_folder / "config.yaml") as file:
                self.parser.save(self._saved_config(), str(file), skip_unset=False, multifile=False, overwrite=True)
            (self.run_folder / "run.json").unlink(missing_ok=True)  # of a run that is trained on: it spoke of less
        return trainer

    def _saved_config(self) -> Namespace:
        """The configuration that begins the run; how it was gone on with is in run.json."""
        config: Namespace = self.config.clone()
        config.resume, config.resume_changed = None, False
        return config

    def _plain_config(self) -> dict[str, Any]:
        plain: dict[str, Any] = yaml.safe_load(self.parser.dump(self._saved_config(), skip_unset=False))
        return plain

    def _record(self) -> dict[str, Any]:
        """What the checkpoints say of the run, as far as it is known: the starting weights may not be read yet."""
        config, start = self._plain_config(), self.model.started
        if self.going_on is not None and self.going_on.state is not None:
            start = self.going_on.state["start"]
        now = identity(
            config,
            data_digest=self.datamodule.data_digest(),
            kinds=self.kinds,
            processes=process_count(config["trainer"]),
            start=start["weights_digest"] if start is not None else None,
        )
        return resume.record(now, config, torch.get_num_threads())

    def _try_optimizer(self) -> None:
        """Makes optimiser and scheduler once for nothing, so that what they refuse is known before a run begins."""
        try:
            optimizer = self.model.make_optimizer([torch.nn.Parameter(torch.zeros(1))])
            if self.model.make_lr_scheduler is not None:
                self.model.build_lr_scheduler(optimizer, LONG_RUN)
        except (ValueError, TypeError, ZeroDivisionError) as error:
            raise UserError(
                f"The optimiser or its scheduler does not take these settings: {one_line(error)}"
            ) from error

    def _claim(self, described: dict[str, Any]) -> Path:
        """The run's folder: a new one, or that of the run to go on with, in `going_on`."""
        if not _is_first_process():
            if RUN_FOLDER_VARIABLE not in os.environ:
                raise UserError(
                    "This process is one of several but was not started by the first of them; start one process with "
                    "visionbench fit and --trainer.devices N, which starts the others."
                )
            folder = Path(os.environ[RUN_FOLDER_VARIABLE])
            if self.config.resume is not None and (folder / "config.yaml").exists():
                self.going_on = resume.open_for_resume(folder, described, allow_changes=True)
            return folder
        if self.config.name is None:
            configs = self.config.get("config") or []
            self.config.name = Path(str(configs[0])).stem if configs else self.kinds[0].__name__.lower()
        parent = Path(self.config.log_dir).expanduser() / self.config.name
        going_on = None
        if self.config.resume == "auto":
            going_on = resume.newest_unfinished(parent, described)
        elif self.config.resume is not None:
            going_on = Path(self.config.resume)
        if going_on is not None:
            folder = going_on
            self.lock = lock(folder)  # before it is read, so that nobody writes in between
            try:
                self.going_on = resume.open_for_resume(folder, described, self.config.resume_changed)
                if self.going_on.extends and self._counts_on_length():
                    raise UserError(
                        "The learning-rate scheduler was made for the run's length, so that more epochs would be "
                        "another run from the first step on; start a new one, with --model.start_from if need be."
                    )
            except UserError:
                self.release()
                raise
            for line in self.going_on.notes:
                self.say(line)
            resume.finish_interrupted_writes(self.going_on)
        else:
            folder = claim(parent)
            self.lock = lock(folder)
        if self.config.resume is not None:
            self.model.start(load=self.going_on is None or self.going_on.state is None)
        os.environ[RUN_FOLDER_VARIABLE] = str(folder)
        return folder

    def _counts_on_length(self) -> bool:
        make = self.model.make_lr_scheduler
        return make is not None and wants_total_steps(make)

    def release(self) -> None:
        """Lets other processes go on with the run."""
        if self.lock is not None:
            self.lock.release()

    def withdraw(self) -> None:
        """Takes back the claimed folder of a run that never began; one that holds results is left alone."""
        if self.run_folder is None or self.going_on is not None or not _is_first_process():
            return
        self.release()
        if not any((self.run_folder / name).exists() for name in ("metrics.csv", "checkpoints")):
            shutil.rmtree(self.run_folder)
            with contextlib.suppress(OSError):  # other runs are in it
                self.run_folder.parent.rmdir()
                self.run_folder.parent.parent.rmdir()

    def _checkpoints(self, folder: Path, described: dict[str, Any], losses: StepLosses) -> RunCheckpoints:
        objective = self.model.objective
        callback = RunCheckpoints(
            folder,
            seed=self.config.seed_everything,
            objective=(objective.metric, objective.mode or "min") if self.has_objective else None,
            every_n_steps=self.config.checkpoint.every_n_steps,
            described=described,
            resumed=self.going_on.state if self.going_on is not None else None,
            before=[losses.write],
        )
        if self.going_on is not None and self.going_on.state is not None:
            self.model.started = self.going_on.state["start"]
            callback.resumptions.append(
                {
                    "epochs": self.going_on.epochs,
                    "batches": self.going_on.state["batches"],
                    "step": self.going_on.step,
                    "changed": self.going_on.changes,
                }
            )
        return callback

    def _callbacks_of_figures(self, folder: Path) -> list[Callback]:
        draws_all = self.config.figures == "all"
        self.predictions = KeptPredictions(
            folder / "predictions",
            self.datamodule,
            self.checkpoint,
            self._draw_validation if draws_all else None,
        )
        self.throughput = Throughput()
        before = BeforeTraining(folder / "figures" / "before-training.json", self.datamodule)
        return [self.predictions, self.throughput, *([before] if draws_all else [])]

    def _draw_validation(self, trainer: Trainer, predictions: Predictions) -> None:
        """Shows in TensorBoard what is taken for what after each validation; in the folder only the last one stays."""
        from visionbench.figures.classes import draw_confusion

        names = self.datamodule.class_names
        counts = confusion(predictions.labels, predictions.predicted, len(names))
        drawn = draw_confusion("val", counts, names)
        self.log_figure(drawn.name, drawn.save(self.figures_folder()))

    def figures_folder(self) -> Path:
        """The folder of the run's figures, which is made where it is not there."""
        if self.run_folder is None:
            raise RuntimeError("A run without a folder has no figures.")
        folder = self.run_folder / "figures"
        folder.mkdir(exist_ok=True)
        return folder

    def log_figure(self, name: str, pixels: np.ndarray) -> None:
        """Puts a picture, (H, W, 3), uint8, into TensorBoard, at the step that training has reached."""
        for logger in self.trainer.loggers:
            if isinstance(logger, RunTensorBoardLogger):
                logger.log_figure(name, pixels, self.trainer.global_step)

    def _loggers(self, folder: Path) -> Any:
        given = self.config_init.trainer.logger
        if given is None or given is True:
            return RunTensorBoardLogger(
                save_dir=folder.parent.parent,
                name=folder.parent.name,
                version=folder.name,
                default_hp_metric=False,
                # What was written after the checkpoint will be written again.
                purge_step=self.going_on.step if self.going_on is not None else None,
            )
        return given


def default_precision(accelerator: Any) -> tuple[str, str]:
    """The precision for the device that a run will be on, and why.

    Args:
        accelerator: The Trainer's argument.
    """
    if _is_on_cuda(accelerator):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", "this GPU computes in bfloat16"
        return "32-true", "this GPU does not compute in bfloat16"
    on_processor = accelerator in ("auto", "cpu") and not torch.backends.mps.is_available()
    if on_processor and BFLOAT16_FLAGS & _processor_flags():
        return "bf16-mixed", "this processor multiplies in bfloat16"
    return "32-true", "nothing here multiplies in bfloat16"


def _is_on_cuda(accelerator: Any) -> bool:
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def _processor_flags() -> set[str]:
    """What the processor can do, in Linux's words; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split()}


def _check_objective(objective: Namespace, model: type) -> None:
    metrics = model.metrics if issubclass(model, Classifier) else Classifier.metrics
    watchable = [name for name in metrics if not name.startswith("test/")]
    metric = objective.metric
    if metric not in watchable:
        why = "is the test set's, which nothing may be chosen on" if metric in metrics else "is logged by nothing"
        raise UserError(f"objective.metric is {metric}, which {why}; expected one of {', '.join(watchable)}.")
    if objective.mode is not None and objective.mode != metrics[metric]:
        raise UserError(
            f"objective.mode is {objective.mode}, but {metric} is better when it is "
            f"{'large' if metrics[metric] == 'max' else 'small'}; leave objective.mode out."
        )


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _is_first_process() -> bool:
    return all(int(os.environ.get(name, "0")) == 0 for name in ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID"))
