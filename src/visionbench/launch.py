"""Training and evaluating from the command line, through LightningCLI."""

import contextlib
import logging
import os
import shutil
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.trainer.states import TrainerStatus
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from torch.optim.lr_scheduler import ReduceLROnPlateau

from visionbench import runs
from visionbench.callbacks import AtomicCheckpointIO, MetricsFile, Progress, RunTensorBoardLogger
from visionbench.callbacks.progress import duration, plain_console
from visionbench.data.base import VisionDataModule
from visionbench.errors import UserError
from visionbench.models.base import Classifier, Objective
from visionbench.parsing import Parser, class_of, root_cause, watched_parsing

# What every run shares; a run file says only what is its own.
TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": 10,
    "num_sanity_val_steps": 0,  # every validation is of a trained epoch, so that no metric is of an untrained model
    "enable_model_summary": False,  # the run's own first lines say it shorter
    "log_every_n_steps": 1,  # metrics are logged once an epoch; a larger value only makes Lightning warn
}

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
        self.checkpoint: ModelCheckpoint | None = None
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
        for name in LINKED:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: D102
        with watched_parsing(self.say):
            self.config = parser.parse_args(args)
        if isinstance(self.config.seed_everything, bool):
            raise UserError("seed_everything is true or false, expected an integer, so that the run can be repeated.")

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
        _check_objective(config.objective, model_kind, has_validation)
        if not has_validation:
            watching = "early_stopping" if config.early_stopping.patience is not None else None
            scheduler = model.init_args.get("lr_scheduler")
            if scheduler is not None and issubclass(class_of(scheduler), ReduceLROnPlateau):
                watching = "ReduceLROnPlateau"
            if watching is not None and config.objective.metric.startswith("val/"):
                raise UserError(
                    f"{watching} watches {config.objective.metric}, but there is no validation; set data.val_size "
                    f"above 0, take {watching} out, or watch train/loss by objective.metric."
                )
        self.has_objective = has_validation or not config.objective.metric.startswith("val/")
        self.kinds = (model_kind, data_kind)
        self.precision_reason = "as asked for"
        if config.trainer.precision is None:
            config.trainer.precision, self.precision_reason = default_precision(config.trainer.accelerator)

    def instantiate_classes(self) -> None:
        """Makes data, model and Trainer; what one of them refuses is said without the parser's words around it."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            if isinstance(cause := root_cause(error), UserError):
                raise cause from None
            raise

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Makes the Trainer, for fit with the run's folder, which is claimed only when the data are there."""
        self.model.objective = Objective(
            self.config.objective.metric,
            self.config.objective.mode or self.model.metrics[self.config.objective.metric],
        )
        if self.datamodule.seed is None:
            self.datamodule.seed = self.config.seed_everything
        if _is_first_process():
            self.datamodule.prepare_data()
        self.datamodule.setup()
        trainer_config = self.config.trainer
        overrides: dict[str, Any] = {"enable_progress_bar": False}
        callbacks: list[Callback] = []
        if self.run is not None or trainer_config.fast_dev_run:
            overrides |= {"logger": False, "enable_checkpointing": False}
        else:
            self.run_folder = self._claim()
            metrics_file = MetricsFile(self.run_folder / "metrics.csv")
            self.rows = metrics_file.rows
            callbacks.append(metrics_file)
            if trainer_config.enable_checkpointing is not False:
                self.checkpoint = self._model_checkpoint(self.run_folder / "checkpoints")
                callbacks.append(self.checkpoint)
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
        overrides["callbacks"] = [*_as_list(self.config_init.trainer.callbacks), *callbacks]
        try:
            trainer = Trainer(**{**self.config_init.trainer.as_dict(), **overrides, **kwargs})
        except (MisconfigurationException, ValueError, TypeError) as error:
            self.withdraw()
            raise UserError(f"The Trainer does not take these settings: {_one_line(error)}") from error
        if self.run_folder is not None and _is_first_process():
            self.parser.save(
                self.config, str(self.run_folder / "config.yaml"), skip_none=False, multifile=False, overwrite=True
            )
        return trainer

    def _claim(self) -> Path:
        if not _is_first_process():
            if RUN_FOLDER_VARIABLE not in os.environ:
                raise UserError(
                    "This process is one of several but was not started by the first of them; start one process with "
                    "visionbench fit and --trainer.devices N, which starts the others."
                )
            return Path(os.environ[RUN_FOLDER_VARIABLE])
        configs = self.config.get("config") or []
        stem = Path(str(configs[0])).stem if configs else self.kinds[0].__name__.lower()
        folder = runs.claim(Path(self.config.log_dir) / (self.config.name if self.config.name is not None else stem))
        os.environ[RUN_FOLDER_VARIABLE] = str(folder)
        return folder

    def withdraw(self) -> None:
        """Takes back the claimed folder of a run that never began."""
        if self.run_folder is not None and _is_first_process():
            shutil.rmtree(self.run_folder)
            with contextlib.suppress(OSError):  # other runs of this name are in it
                self.run_folder.parent.rmdir()

    def _model_checkpoint(self, folder: Path) -> ModelCheckpoint:
        return ModelCheckpoint(
            dirpath=folder,
            filename="best" if self.has_objective else "last",
            monitor=self.model.objective.metric if self.has_objective else None,
            mode=self.model.objective.mode or "min",
            save_last=self.has_objective,
            auto_insert_metric_name=False,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
        )

    def _loggers(self, folder: Path) -> Any:
        given = self.config_init.trainer.logger
        if given is None or given is True:
            return RunTensorBoardLogger(
                save_dir=folder.parent.parent,
                name=folder.parent.name,
                version=folder.name,
                default_hp_metric=False,
            )
        return given


def fit(args: Sequence[str]) -> int:
    """Trains, tests the best epoch once and leaves a run folder.

    Args:
        args: The options of `visionbench fit`.

    Returns:
        The exit status.

    Raises:
        UserError: The command, the configuration or the data are not right.
    """
    console = plain_console()
    with quiet_libraries():
        cli = VisionCLI("fit", args, None, console)
        trainer, model, data = cli.trainer, cli.model, cli.datamodule
        for line in opening_lines(cli):
            cli.say(line)
        started = time.monotonic()
        interrupted = _run(lambda: trainer.fit(model, datamodule=data), cli)
        if interrupted:
            cli.say(f"Interrupted in epoch {trainer.current_epoch + 1}; what there is lies in {cli.run_folder}.")
            return interrupted
        seconds = time.monotonic() - started
        if cli.run_folder is None:  # fast_dev_run: nothing was kept, so nothing can be tested
            cli.say("fast_dev_run: one batch of each kind ran through; nothing was written.")
            return 0
        result = _best_row(cli)
        checkpoint = runs.result_checkpoint(cli.run_folder) if cli.checkpoint is not None else None
        if cli.config.test_after_fit:
            interrupted = _run(
                lambda: trainer.test(model, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False),
                cli,
            )
            if interrupted:
                return interrupted
            result |= {
                name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("test/")
            }
        if trainer.is_global_zero:
            _finish(cli, cli.run_folder, checkpoint, result, seconds)
    return 0


def evaluate(command: str, args: Sequence[str]) -> int:
    """Evaluates the result of a run on its validation or its test images; writes nothing.

    Args:
        command: `validate` or `test`.
        args: The run's folder, then options that are to differ from the run's.

    Returns:
        The exit status.

    Raises:
        UserError: There is no such run, or its checkpoint does not fit the options.
    """
    options = list(args)
    if not options or options[0].startswith("-"):
        if options and options[0] in ("-h", "--help"):
            print(f"usage: visionbench {command} RUN_DIR [options]\n\nThe options are those of visionbench fit --help.")
            return 0
        raise UserError(
            f"{command} needs the folder of a run first: visionbench {command} lightning_logs/cnn/version_0 [options]."
        )
    run = Path(options.pop(0))
    checkpoint = runs.result_checkpoint(run)
    console = plain_console()
    stage = "val" if command == "validate" else "test"
    with quiet_libraries():
        cli = VisionCLI(command, ["--config", str(run / "config.yaml"), *options], run, console)
        trainer, data = cli.trainer, cli.datamodule
        if stage == "val" and not data.sizes()["val"]:
            raise UserError(f"{run} has no validation images (data.val_size is 0); use visionbench test.")
        function = getattr(trainer, command)
        interrupted = _run(
            lambda: function(cli.model, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False), cli
        )
        if interrupted:
            return interrupted
        count = cli.model.evaluated[stage]
        for line in metric_lines(stage, data.title, {k: v.item() for k, v in trainer.callback_metrics.items()}, count):
            cli.say(line)
        cli.say(f"checkpoint  {checkpoint}")
    return 0


def _run(action: Callable[[], object], cli: VisionCLI) -> int:
    """Runs a Trainer's function; gives 0, or the exit status if it was interrupted.

    Raises:
        UserError: The Trainer or the model refuses what it is given, or the checkpoint is of another model. A run
            that has not made a step by then leaves no folder.
    """
    try:
        action()
        return 0
    except SIGTERMException:
        return 143
    except SystemExit:
        # Lightning turns Ctrl+C into an exit with status 1.
        if cli.trainer.state.status != TrainerStatus.INTERRUPTED:
            raise
        return 130
    except UserError as error:
        refusal = error
    except MisconfigurationException as error:
        refusal = UserError(f"The Trainer cannot run this: {_one_line(error)}")
    except RuntimeError as error:
        if not str(error).startswith("Error(s) in loading state_dict"):
            raise
        refusal = UserError(f"The checkpoint does not fit the model that the options describe: {_one_line(error)}")
    if cli.trainer.global_step == 0:
        cli.withdraw()
    raise refusal


def opening_lines(cli: VisionCLI) -> Iterator[str]:
    """What will be run, on what and where, a line each."""
    trainer, model, data, sizes = cli.trainer, cli.model, cli.datamodule, cli.datamodule.sizes()
    yield (
        f"data       {data.title}: {sizes['train']:,} train, {sizes['val']:,} validation, {sizes['test']:,} test "
        f"images of {' x '.join(map(str, data.input_shape))}, {data.num_classes} classes"
    )
    yield f"model      {type(model).__name__}, {parameter_count(model):,} parameters"
    yield f"training   {training_plan(model)}; max_epochs {trainer.max_epochs}, batch_size {data.batch_size}"
    yield f"device     {device_name(trainer)}, precision {trainer.precision} ({cli.precision_reason})"
    if cli.has_objective:
        yield f"objective  {model.objective.mode} {model.objective.metric}"
    else:
        yield "objective  none, since there is no validation; the last epoch is the result"
    if cli.run_folder is not None:
        yield f"run        {cli.run_folder}"


def training_plan(model: Classifier) -> str:
    """Optimiser, learning rate and scheduler in words."""
    optimizer, scheduler = model.hparams["optimizer"], model.hparams.get("lr_scheduler")
    plan = f"{optimizer['class_path'].rpartition('.')[2]}, lr {optimizer['init_args'].get('lr')}"
    if scheduler is None:
        return plan
    return f"{plan}, {scheduler['class_path'].rpartition('.')[2]} after each {model.lr_interval}"


def metric_lines(stage: str, title: str, metrics: dict[str, float], count: int) -> Iterator[str]:
    """Accuracy with its interval, and loss."""
    name = {"val": "validation", "test": "test"}[stage]
    accuracy = metrics[f"{stage}/acc"]
    low, high = runs.wilson_interval(round(accuracy * count), count)
    yield (
        f"{title} {name} accuracy {100 * accuracy:.2f} %  "
        f"(95 % interval {100 * low:.2f} to {100 * high:.2f}, {count:,} images)"
    )
    yield f"{name} loss   {metrics[f'{stage}/loss']:.4f}"


def _finish(cli: VisionCLI, folder: Path, checkpoint: Path | None, result: dict[str, Any], seconds: float) -> None:
    """Writes `run.json` and the hyperparameters with the final metrics, and the closing block."""
    trainer, model, data = cli.trainer, cli.model, cli.datamodule
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    state = (
        model.state_dict()
        if checkpoint is None
        else torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    )
    metrics = {name: value for name, value in result.items() if name.startswith(("train/", "val/", "test/"))}
    runs.write_json(
        folder / "run.json",
        {
            "schema": runs.SCHEMA,
            "command": ["visionbench", "fit", *cli.args],
            "config_digest": runs.config_digest(config),
            "code": runs.code_digest([type(model), type(data)]),
            "git": runs.git_state(),
            "versions": runs.versions(),
            "device": device_name(trainer),
            "precision": str(trainer.precision),
            "threads": torch.get_num_threads(),
            "seed": config["seed_everything"],
            "data_digest": data.data_digest(),
            "parameters": parameter_count(model),
            "trainable": parameter_count(model, trainable=True),
            "epochs": trainer.current_epoch,
            "best_epoch": result.get("epoch"),
            "seconds": round(seconds, 3),
            "metrics": metrics,
            "weights_digest": runs.weights_digest(state),
            "nondeterministic": nondeterministic(trainer),
            "resumed": [],
        },
    )
    for logger in trainer.loggers:
        if isinstance(logger, RunTensorBoardLogger):
            logger.log_hyperparams(_flat({key: config[key] for key in ("model", "data", "trainer")}), metrics)
            logger.save()
    cli.say("")
    if "test/acc" in metrics:
        for line in metric_lines("test", data.title, metrics, model.evaluated["test"]):
            cli.say(line)
    if "val/acc" in metrics:
        which = f"epoch {result['epoch'] + 1} of {trainer.current_epoch}"
        cli.say(f"validation  {100 * metrics['val/acc']:.2f} % in {which}, the one that was kept and tested")
    cli.say(f"parameters  {parameter_count(model):,}")
    cli.say(f"time        {duration(seconds)} of training")
    cli.say(f"run         {folder}")
    cli.say(f"curves      tensorboard --logdir {cli.config.log_dir}")


def _best_row(cli: VisionCLI) -> dict[str, Any]:
    """The metrics of the epoch that the kept checkpoint is of: the first that has the best value, else the last."""
    rows, objective = cli.rows, cli.model.objective
    if not rows:
        return {}
    judged = [row for row in rows if row.get(objective.metric) == row.get(objective.metric, float("nan"))]
    if cli.checkpoint is None or not cli.has_objective or not judged:
        return dict(rows[-1])
    choose = max if objective.mode == "max" else min
    return dict(choose(judged, key=lambda row: row[objective.metric]))


def default_precision(accelerator: Any) -> tuple[str, str]:
    """The precision for the device that a run will be on, and why.

    Args:
        accelerator: The Trainer's argument.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", "this GPU computes in bfloat16"
        return "32-true", "this GPU does not compute in bfloat16"
    if accelerator in ("auto", "cpu") and not torch.backends.mps.is_available() and "amx_bf16" in _processor_flags():
        return "bf16-mixed", "this processor has bfloat16 matrix units"
    return "32-true", "no bfloat16 matrix units here"


def _processor_flags() -> set[str]:
    """What the processor can do, in Linux's words; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split()}


def device_name(trainer: Trainer) -> str:
    """The device as people name it."""
    device = trainer.strategy.root_device
    several = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
    if device.type == "cuda":
        return several + torch.cuda.get_device_name(device)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"{several}cpu, {threads} thread{'s' if threads != 1 else ''}"
    return several + device.type


def nondeterministic(trainer: Trainer) -> list[str]:
    """What keeps the run from being repeated bit for bit, as far as is known beforehand."""
    if trainer.strategy.root_device.type == "cpu" or torch.are_deterministic_algorithms_enabled():
        return []
    return [
        f"{trainer.strategy.root_device.type} kernels were free to add in any order; --trainer.deterministic true "
        "forbids it"
    ]


def parameter_count(model: torch.nn.Module, trainable: bool = False) -> int:
    """How many parameters there are, or how many of them are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keeps what libraries say to their developers, or say of things that are meant, off the user's screen."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _check_objective(objective: Namespace, model: type, has_validation: bool) -> None:
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


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `model.optimizer.lr: 0.001`, without those that are not set."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = prefix + key.removesuffix("init_args").removesuffix("class_path")
        if isinstance(value, dict):
            flat |= _flat(value, f"{name}." if not name.endswith(".") and name else name)
        elif value is not None:
            flat[name.rstrip(".")] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat


def _one_line(error: BaseException) -> str:
    """An exception's message on one line, not longer than is read."""
    return textwrap.shorten(str(error), 300, placeholder=" ...").rstrip(".! ") + "."


def _is_first_process() -> bool:
    return all(int(os.environ.get(name, "0")) == 0 for name in ("LOCAL_RANK", "NODE_RANK"))
