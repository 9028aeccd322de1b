"""What the commands do: train, evaluate, and say how it went."""

import contextlib
import errno
import inspect
import json
import re
import shlex
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerStatus
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.optim.lr_scheduler import ReduceLROnPlateau

from visionbench.classes import class_of
from visionbench.console import plain_console, quiet_libraries
from visionbench.data.base import VisionDataModule
from visionbench.errors import RunFailed, Stopped, UserError
from visionbench.evaluation.intervals import wilson_interval
from visionbench.evaluation.predictions import Predictions, read_predictions
from visionbench.files import write_json
from visionbench.launch import VisionCLI
from visionbench.models.base import Classifier
from visionbench.models.schedulers import wants_total_steps
from visionbench.runs.compare import compare, first_difference
from visionbench.runs.folder import SCHEMA, read_losses, result_checkpoint
from visionbench.runs.identity import DATA_ASIDE, code_digest, config_digest, git_state, versions, weights_digest
from visionbench.text import duration, one_line
from visionbench.training.callbacks import RunTensorBoardLogger


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
        cli = VisionCLI("fit", _with_run_config(args), None, console)
        try:
            return _fit(cli)
        finally:
            cli.release()


def _fit(cli: VisionCLI) -> int:
    """Trains and tests; where that cannot be written any more, says so in a sentence."""
    try:
        with ended_by_sigterm():
            return _train_and_test(cli)
    except (Stopped, KeyboardInterrupt) as end:  # when training was over, or had not begun
        cli.say(f"Interrupted; {_go_on(cli)}")
        return end.status if isinstance(end, Stopped) else 130
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        raise RunFailed(f"The run could not be written ({error}); {_mended(cli)}.") from error


def _train_and_test(cli: VisionCLI) -> int:
    trainer, model, data = cli.trainer, cli.model, cli.datamodule
    for line in opening_lines(cli):
        cli.say(line)
    started = time.monotonic()
    going_on = cli.going_on
    if going_on is not None and going_on.finished and not going_on.train_on:
        trainer.fit_loop.max_epochs = going_on.epochs  # also where it was stopped early
    file = going_on.file if going_on is not None else None
    with _nondeterministic_kernels() as kernels:
        interrupted = _run(lambda: trainer.fit(model, datamodule=data, ckpt_path=file, weights_only=True), cli)
    if interrupted:
        cli.say(_interrupted(cli))
        return interrupted
    seconds = cli.checkpoint.seconds() if cli.checkpoint is not None else time.monotonic() - started
    if cli.run_folder is None:  # fast_dev_run: nothing was kept, so nothing can be tested
        cli.say("fast_dev_run: one batch of each kind ran through; nothing was written.")
        return 0
    if not cli.rows:
        cli.withdraw()
        raise UserError(
            "Nothing was trained: trainer.max_epochs, max_steps, max_time or limit_train_batches leave no epoch; "
            "raise them."
        )
    checkpoint = result_checkpoint(cli.run_folder) if cli.checkpoint is not None else None
    kept = torch.load(checkpoint, map_location="cpu", weights_only=True) if checkpoint is not None else None
    if cli.has_objective and checkpoint is not None and checkpoint.stem == "last":
        cli.say("No epoch was validated, so that the last one is the result.")
    # The metrics of the epoch that was kept; without checkpoints the weights are those of the last.
    epoch = kept["epoch"] if kept is not None else cli.rows[-1]["epoch"]
    result = next(row for row in cli.rows if row["epoch"] == epoch)
    if cli.config.test_after_fit and data.sizes()["test"]:
        interrupted = _run(
            lambda: trainer.test(model, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False),
            cli,
        )
        if interrupted:
            cli.say(f"Interrupted while testing; {_go_on(cli)}")
            return interrupted
        result = result | {
            name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("test/")
        }
    weights = kept["state_dict"] if kept is not None else model.state_dict()
    predictions = None
    if cli.config.figures != "none":
        model.load_state_dict(weights)  # a run without a test has those of its last epoch
        predictions = _training_predictions(cli) if cli.config.figures == "all" else None
    if trainer.is_global_zero:
        drawn = list(_draw(cli, result, seconds, predictions))
        _finish(cli, cli.run_folder, weights, result, seconds, kernels, drawn)
    return 0


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Lets SIGTERM end what is done besides training, which answers it by itself, as Ctrl+C does."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Stopped(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # only the main thread may
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _with_run_config(args: Sequence[str]) -> list[str]:
    """`--resume RUN_DIR` alone means the run's own configuration, with the options beside it on top."""
    words = list(args)
    if any(word == "--config" or word.startswith("--config=") for word in words):
        return words
    for word, following in zip(words, [*words[1:], ""], strict=True):
        run = following if word == "--resume" else word.removeprefix("--resume=") if "=" in word else ""
        if word.startswith("--resume") and not word.startswith("--resume_") and run not in ("", "auto", "null"):
            if not (Path(run) / "config.yaml").is_file():
                raise UserError(
                    f"{run} is not a run folder (it has no config.yaml); give one like lightning_logs/cnn/version_0."
                )
            return ["--config", str(Path(run) / "config.yaml"), *words]
    return words


def _interrupted(cli: VisionCLI) -> str:
    """What an interrupted run leaves, and how to go on with it."""
    return f"Interrupted in epoch {cli.trainer.current_epoch + 1}; {_go_on(cli)}"


def _go_on(cli: VisionCLI) -> str:
    if cli.run_folder is None:
        return "nothing was written"
    if cli.checkpoint is None:
        return f"what there is lies in {cli.run_folder}"
    return f"go on with: visionbench fit --resume {shlex.quote(str(cli.run_folder))}"


def _mended(cli: VisionCLI) -> str:
    if cli.checkpoint is None:
        return "make room and start it anew"
    return f"make room, and visionbench fit --resume {shlex.quote(str(cli.run_folder))} goes on with it"


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
    if args and args[0] in ("-h", "--help"):
        print(f"usage: visionbench {command} RUN_DIR [options]\n\nThe options are those of visionbench fit --help.")
        return 0
    run, options = run_folder(command, args)
    checkpoint = result_checkpoint(run)
    console = plain_console()
    stage = "val" if command == "validate" else "test"
    with quiet_libraries():
        cli = VisionCLI(command, ["--config", str(run / "config.yaml"), *options], run, console)
        trainer, data = cli.trainer, cli.datamodule
        if not data.sizes()[stage]:
            name, other = ("validation", "test") if stage == "val" else ("test", "validate")
            why = "the official ones are watched" if data.test_is_watched else f"data.{stage}_size is 0"
            raise UserError(f"{run} has no {name} images ({why}); use visionbench {other}.")
        function = getattr(trainer, command)
        interrupted = _run(
            lambda: function(cli.model, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False), cli
        )
        if interrupted:
            return interrupted
        said = run / "run.json"
        if said.is_file() and json.loads(said.read_text(encoding="utf-8"))["data_digest"] != data.data_digest():
            cli.say(f"note: the {data.item}s, their split or their normalisation are not those of the run")
        count = cli.model.evaluated[stage]
        for line in metric_lines(stage, data, {k: v.item() for k, v in trainer.callback_metrics.items()}, count):
            cli.say(line)
        cli.say(f"checkpoint  {checkpoint}")
    return 0


def repeat(args: Sequence[str]) -> int:
    """Runs a finished run again beside it, and says whether the same came out, or where the two part.

    Args:
        args: The run's folder, then options that are to differ from the run's.

    Returns:
        The exit status: 0 for the same bit for bit, 1 otherwise.

    Raises:
        UserError: There is no such run, or it is not finished.
    """
    first, options = run_folder("repeat", args)
    if not (first / "run.json").is_file():
        raise UserError(f"{first} is not finished; visionbench fit --resume {shlex.quote(str(first))} goes on with it.")
    place = ["--log_dir", str(first.parent.parent), "--name", first.parent.name]
    console = plain_console()
    with quiet_libraries():
        cli = VisionCLI("fit", ["--config", str(first / "config.yaml"), *place, *options], None, console)
        try:
            if status := _fit(cli):
                return status
        finally:
            cli.release()
    if cli.run_folder is None or not cli.trainer.is_global_zero:
        return 0
    difference = first_difference(first, cli.run_folder)
    if difference is None:
        cli.say(f"same        every loss, metric and weight is that of {first}, bit for bit")
        return 0
    cli.say(f"different   {difference}")
    for line in compare(first, cli.run_folder):
        cli.say(f"            {line}")
    return 1


def compare_runs(args: Sequence[str]) -> int:
    """Says in what two runs differ.

    Args:
        args: Two runs' folders.

    Returns:
        The exit status.

    Raises:
        UserError: They are not two runs.
    """
    if args and args[0] in ("-h", "--help"):
        print("usage: visionbench compare RUN_DIR RUN_DIR")
        return 0
    if len(args) != 2:
        raise UserError(f"compare needs the folders of two runs, found {len(args)} words; give two.")
    console = plain_console()
    for line in compare(Path(args[0]), Path(args[1])):
        console.print(line)
    return 0


def run_folder(command: str, args: Sequence[str]) -> tuple[Path, list[str]]:
    """The run that a command begins with, and the options after it.

    Raises:
        UserError: It does not begin with one.
    """
    if not args or args[0].startswith("-"):
        raise UserError(
            f"{command} needs the folder of a run first: visionbench {command} lightning_logs/cnn/version_0 [options]."
        )
    return Path(args[0]), list(args[1:])


def _run(action: Callable[[], object], cli: VisionCLI) -> int:
    """Runs a Trainer's function; gives 0, or the exit status if it was interrupted.

    Raises:
        UserError: The Trainer or the model refuses what it is given, or the checkpoint is of another model. A run
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
        if cli.trainer.state.status != TrainerStatus.INTERRUPTED:
            raise
        return 130
    except RunFailed as error:
        refusal = RunFailed(f"{str(error).removesuffix('.')}; {_mended(cli)}.")
    except UserError as error:
        refusal = error
    except MisconfigurationException as error:
        refusal = UserError(f"The Trainer cannot run this: {one_line(error)}")
    except RuntimeError as error:
        if not str(error).startswith("Error(s) in loading state_dict"):
            raise
        refusal = UserError(f"The checkpoint does not fit the model that the options describe: {one_line(error)}")
    if cli.trainer.global_step == 0:
        cli.withdraw()
    raise refusal


def _training_predictions(cli: VisionCLI) -> Predictions | None:
    """What the result says of the images it was trained on, as they are."""
    if cli.trainer.world_size > 1:
        cli.say("The training images' predictions are drawn only by a run on one device.")
        return None
    batches: Any = cli.trainer.predict(cli.model, datamodule=cli.datamodule, return_predictions=True)
    parts = [torch.cat(part).cpu().numpy() for part in zip(*batches, strict=True)]
    split = cli.datamodule.splits["train"]
    names = [cli.datamodule.sample_name(split.part, int(place)) for place in split.index]
    return Predictions("train", parts[0], parts[1], parts[2], names)


def _draw(cli: VisionCLI, result: dict[str, Any], seconds: float, training: Predictions | None) -> Iterator[str]:
    """Draws the run's figures; gives what to say of them."""
    if cli.config.figures == "none" or cli.run_folder is None or cli.predictions is None or cli.throughput is None:
        return
    from visionbench.figures.run_figures import RunFigures

    folder = cli.figures_folder()
    found = dict(cli.predictions.kept)
    # The last validation's are in memory, those of the best epoch in the folder.
    kept = read_predictions(cli.run_folder / "predictions", "val", cli.datamodule.class_names)
    found = {stage: said for stage, said in found.items() if stage != "val"}
    found |= {said.stage: said for said in (kept, training) if said is not None}
    before = folder / "before-training.json"
    figures = RunFigures(
        folder, cli.model, cli.datamodule, cli.log_figure, cli.config.figure_layers, cli.config.figure_channels
    )
    figures.draw(
        rows=cli.rows,
        best_epoch=result["epoch"] if cli.has_objective else None,
        before=json.loads(before.read_text(encoding="utf-8")) if before.is_file() else None,
        losses=read_losses(cli.run_folder / "step-losses.bin"),
        batches=int(cli.trainer.num_training_batches),
        batch_size=cli.datamodule.batch_size * cli.trainer.world_size,
        throughput=cli.throughput.epochs,
        predictions=found,
    )
    yield from figures.lines(seconds)


def _finish(
    cli: VisionCLI,
    folder: Path,
    weights: Mapping[str, torch.Tensor],
    result: dict[str, Any],
    seconds: float,
    kernels: set[str],
    drawn: Sequence[str],
) -> None:
    """Writes `run.json` and the hyperparameters with the final metrics, and the closing block."""
    trainer, model, data = cli.trainer, cli.model, cli.datamodule
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    metrics = {name: value for name, value in result.items() if name.startswith(("train/", "val/", "test/"))}
    for logger in trainer.loggers:
        if isinstance(logger, RunTensorBoardLogger):
            # Tags of their own: HPARAMS reads a tag's last scalar, which would be one more point of the epochs' curve.
            final = {f"final/{name}": metrics[name] for name in reversed(metrics)}  # test first
            logger.log_config((folder / "config.yaml").read_text(encoding="utf-8"))
            logger.log_hyperparams(_hyperparameters(config), final, trainer.global_step)
            logger.save()
    write_json(
        folder / "run.json",
        {
            "schema": SCHEMA,
            "command": ["visionbench", "fit", *cli.args],
            "config_digest": config_digest(config),
            "code": code_digest([type(model), type(data)]),
            "git": git_state(),
            "versions": versions(),
            "device": device_name(trainer),
            "precision": str(trainer.precision),
            "threads": torch.get_num_threads(),
            "seed": config["seed_everything"],
            "data_digest": data.data_digest(),
            "parameters": parameter_count(model),
            "trainable": parameter_count(model, trainable=True),
            "start": model.started,
            "epochs": trainer.current_epoch,
            "best_epoch": result.get("epoch"),
            "seconds": round(seconds, 3),
            "metrics": metrics,
            "weights_digest": weights_digest(weights),
            "nondeterministic": nondeterministic(trainer, kernels),
            "resumed": cli.checkpoint.resumptions if cli.checkpoint is not None else [],
        },
    )
    cli.say("")
    if "test/acc" in metrics:
        for line in metric_lines("test", data, metrics, model.evaluated["test"]):
            cli.say(line)
    if "val/acc" in metrics:
        which = f"epoch {result['epoch'] + 1} of {trainer.current_epoch}"
        tested = " and tested" if "test/acc" in metrics else ""
        cli.say(f"validation  {100 * metrics['val/acc']:.2f} % in {which}, the one that was kept{tested}")
    if data.test_is_watched:
        cli.say("test        none: the official test images were watched as validation (data.allow)")
    cli.say(f"parameters  {parameter_count(model):,}")
    cli.say(f"time        {duration(seconds)} of training")
    for line in drawn:
        cli.say(line)
    cli.say(f"run         {folder}")
    cli.say(f"curves      tensorboard --logdir {cli.config.log_dir}")


def opening_lines(cli: VisionCLI) -> Iterator[str]:
    """What will be run, on what and where, a line each."""
    trainer, model, data, sizes = cli.trainer, cli.model, cli.datamodule, cli.datamodule.sizes()
    watched = f" (the official test {data.item}s)" if data.test_is_watched else ""
    yield (
        f"data       {data.title}: {sizes['train']:,} train, {sizes['val']:,} validation{watched}, "
        f"{sizes['test']:,} test {data.item}s of {data.shape_in_words}, {data.num_classes} classes"
    )
    memory = data.residency(trainer.strategy.root_device, trainer.num_devices)
    if not memory.resident:
        threads = f"{memory.workers} threads read ahead" if memory.workers else "no thread reads ahead"
        yield f"memory     images are read through the memory map, since {memory.reason}; {threads}"
    parameters, trained = parameter_count(model), parameter_count(model, trainable=True)
    frozen = f", of which {trained:,} are trained" if trained < parameters else ""
    yield f"model      {type(model).__name__}, {parameters:,} parameters{frozen}"
    if model.started is not None:
        anew = f"; {model.started['anew']} starts anew" if model.started["anew"] is not None else ""
        yield f"start      {model.started['file']}{anew}"
    yield f"training   {training_plan(model)}; max_epochs {trainer.max_epochs}, batch_size {data.batch_size}"
    yield f"device     {device_name(trainer)}, precision {trainer.precision} ({cli.precision_reason})"
    if cli.has_objective:
        yield f"objective  {model.objective.mode} {model.objective.metric}"
    else:
        yield "objective  none, since there is no validation; the last epoch is the result"
    if cli.run_folder is not None:
        yield f"run        {cli.run_folder}"
    if cli.going_on is not None and cli.going_on.state is not None:
        within = f" and {batches} batches" if (batches := cli.going_on.state["batches"]) else ""
        yield f"going on   after {cli.going_on.epochs} epochs{within}, from {cli.going_on.file}"


def training_plan(model: Classifier) -> str:
    """Loss, optimiser, learning rate, and what the scheduler does when, in words."""
    optimizer, scheduler = model.hparams.get("optimizer"), model.hparams.get("lr_scheduler")
    if optimizer is None:  # a model that takes none has its own or the default
        return type(model.make_optimizer([torch.nn.Parameter(torch.zeros(1))])).__name__
    loss = str(model.hparams.get("loss", "")).replace("_", " ")
    plan = f"{loss}, {optimizer['class_path'].rpartition('.')[2]}, lr {optimizer['init_args'].get('lr')}"
    if scheduler is None:
        return plan
    kind = class_of(scheduler)
    defaults = {name: p.default for name, p in inspect.signature(kind).parameters.items()}
    own = {name: value for name, value in scheduler["init_args"].items() if value != defaults.get(name)}
    if model.make_lr_scheduler is not None and wants_total_steps(model.make_lr_scheduler):
        own["total_steps"] = "the run's"
    arguments = f" ({', '.join(f'{name} {value}' for name, value in own.items())})" if own else ""
    after = "epoch" if model.lr_interval == "epoch" else "optimiser step"
    if issubclass(kind, ReduceLROnPlateau):
        after = f"epoch, by {model.objective.metric}"
    return f"{plan}, {kind.__name__}{arguments} after each {after}"


def metric_lines(stage: str, data: VisionDataModule, metrics: dict[str, float], count: int) -> Iterator[str]:
    """Accuracy with its interval, and loss."""
    name = {"val": "validation", "test": "test"}[stage]
    accuracy = metrics[f"{stage}/acc"]
    low, high = wilson_interval(round(accuracy * count), count)
    yield (
        f"{data.title} {name} accuracy {100 * accuracy:.2f} %  "
        f"(95 % interval {100 * low:.2f} to {100 * high:.2f}, {count:,} {data.item}s)"
    )
    yield f"{name} loss   {metrics[f'{stage}/loss']:.4f}"


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


def nondeterministic(trainer: Trainer, kernels: set[str]) -> list[str]:
    """What keeps the run from being repeated bit for bit, as far as torch tells.

    Args:
        trainer: That has trained.
        kernels: Those that torch has warned of.
    """
    device = trainer.strategy.root_device.type
    if device == "cpu" or torch.are_deterministic_algorithms_enabled():
        return sorted(kernels)
    return [f"{device} kernels were free to add in any order; leave out --trainer.deterministic false"]


@contextlib.contextmanager
def _nondeterministic_kernels() -> Iterator[set[str]]:
    """Collects the names of the kernels that torch warns of, as `--trainer.deterministic warn` tells it to."""
    names: set[str] = set()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(message: Warning | str, *place: Any, **more: Any) -> None:
            if match := re.match(r"(\S+) does not have a deterministic implementation", str(message)):
                names.add(match[1])
            else:
                show(message, *place, **more)

        warnings.filterwarnings("always", message=".*does not have a deterministic implementation.*")
        warnings.showwarning = note
        yield names


def parameter_count(model: torch.nn.Module, trainable: bool = False) -> int:
    """How many parameters there are, or how many of them are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def _hyperparameters(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that runs are compared by."""
    trainer = ("max_epochs", "max_steps", "precision", "accumulate_grad_batches", "gradient_clip_val")
    data = dict(config["data"])
    data["init_args"] = {k: v for k, v in (data.get("init_args") or {}).items() if k not in DATA_ASIDE}
    chosen = {"model": config["model"], "data": data, "trainer": {name: config["trainer"][name] for name in trainer}}
    return {"seed": config["seed_everything"], **_flat(chosen)}


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
