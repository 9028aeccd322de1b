"""What the commands do: train, evaluate, and say how it went."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerStatus
from lightning.pytorch.utilities.exceptions import SIGTERMException

from visionbench import runs
from visionbench.callbacks import RunTensorBoardLogger
from visionbench.callbacks.progress import duration, plain_console
from visionbench.errors import UserError
from visionbench.launch import VisionCLI, one_line, quiet_libraries
from visionbench.models.base import Classifier


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
        if not cli.rows:
            cli.withdraw()
            raise UserError(
                "Nothing was trained: trainer.max_epochs, max_steps, max_time or limit_train_batches leave no epoch; "
                "raise them."
            )
        checkpoint = runs.result_checkpoint(cli.run_folder) if cli.checkpoint is not None else None
        kept = torch.load(checkpoint, map_location="cpu", weights_only=True) if checkpoint is not None else None
        if cli.has_objective and checkpoint is not None and checkpoint.stem == "last":
            cli.say("No epoch was validated, so that the last one is the result.")
        # The metrics of the epoch that was kept; without checkpoints the weights are those of the last.
        epoch = kept["epoch"] if kept is not None else cli.rows[-1]["epoch"]
        result = next(row for row in cli.rows if row["epoch"] == epoch)
        if cli.config.test_after_fit:
            interrupted = _run(
                lambda: trainer.test(model, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False),
                cli,
            )
            if interrupted:
                cli.say(f"Interrupted while testing; what there is lies in {cli.run_folder}.")
                return interrupted
            result = result | {
                name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("test/")
            }
        if trainer.is_global_zero:
            weights = kept["state_dict"] if kept is not None else model.state_dict()
            _finish(cli, cli.run_folder, weights, result, seconds)
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
        said = run / "run.json"
        if said.is_file() and json.loads(said.read_text(encoding="utf-8"))["data_digest"] != data.data_digest():
            cli.say("note: the images, their split or their normalisation are not those of the run")
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
        refusal = UserError(f"The Trainer cannot run this: {one_line(error)}")
    except RuntimeError as error:
        if not str(error).startswith("Error(s) in loading state_dict"):
            raise
        refusal = UserError(f"The checkpoint does not fit the model that the options describe: {one_line(error)}")
    if cli.trainer.global_step == 0:
        cli.withdraw()
    raise refusal


def _finish(
    cli: VisionCLI, folder: Path, weights: Mapping[str, torch.Tensor], result: dict[str, Any], seconds: float
) -> None:
    """Writes `run.json` and the hyperparameters with the final metrics, and the closing block."""
    trainer, model, data = cli.trainer, cli.model, cli.datamodule
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    metrics = {name: value for name, value in result.items() if name.startswith(("train/", "val/", "test/"))}
    for logger in trainer.loggers:
        if isinstance(logger, RunTensorBoardLogger):
            # Tags of their own: HPARAMS reads a tag's last scalar, which would be one more point of the epochs' curve.
            final = {f"final/{name}": metrics[name] for name in reversed(metrics)}  # test first
            logger.log_hyperparams(_hyperparameters(config), final, trainer.global_step)
            logger.save()
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
            "weights_digest": runs.weights_digest(weights),
            "nondeterministic": nondeterministic(trainer),
            "resumed": [],
        },
    )
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
    optimizer, scheduler = model.hparams.get("optimizer"), model.hparams.get("lr_scheduler")
    if optimizer is None:  # a model that takes none has its own or the default
        return type(model.make_optimizer([torch.nn.Parameter(torch.zeros(1))])).__name__
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
    forbidden = (
        torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    )
    if trainer.strategy.root_device.type == "cpu" or forbidden:
        return []
    return [
        f"{trainer.strategy.root_device.type} kernels were free to add in any order; --trainer.deterministic true "
        "forbids it"
    ]


def parameter_count(model: torch.nn.Module, trainable: bool = False) -> int:
    """How many parameters there are, or how many of them are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def _hyperparameters(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that runs are compared by."""
    trainer = ("max_epochs", "max_steps", "precision", "accumulate_grad_batches", "gradient_clip_val")
    data = dict(config["data"])
    data["init_args"] = {k: v for k, v in (data.get("init_args") or {}).items() if k not in ("root", "offline")}
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
