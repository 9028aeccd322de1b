"""A command line as `Settings`, through LightningCLI."""

import contextlib
import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch.optim.lr_scheduler import ReduceLROnPlateau

from visionbench import guards
from visionbench.classes import class_of
from visionbench.config.class_changes import check_carried
from visionbench.config.parser import Parser
from visionbench.config.patches import watched_parsing
from visionbench.config.run_files import check_files
from visionbench.config.values import check_values
from visionbench.data.augment import Augmentation
from visionbench.data.base import VisionDataModule
from visionbench.errors import UserError, first_user_error, root_cause
from visionbench.evaluation.metrics import EACH_CLASS_F1, mode_of
from visionbench.guards import GUARDS, ConfigContext
from visionbench.guards.base import check_names
from visionbench.guards.config import LINKED
from visionbench.models.base import Classifier, Objective, check_input_shape
from visionbench.models.optimization import Mode
from visionbench.own_model import mistake_in_making, mistake_in_parts, raised_by_class
from visionbench.runs.folder import CONFIG_FILE, today_config
from visionbench.runs.identity import remember_source
from visionbench.text import one_line
from visionbench.training.device import default_precision
from visionbench.training.settings import STEPS_PER_EXECUTION, Checkpointing, EarlyStopping, EvaluationName, Settings

# More threads than any machine has cores end the process without a word.
MAX_THREADS = 1024
# Options that name a class, the outer ones first.
CLASS_KEYS = ("model", "data", "model.optimizer", "model.lr_scheduler")
# What every run shares; a run file says only what is its own.
TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": 10,
    "num_sanity_val_steps": 0,  # every validation is of a trained epoch, so that no metric is of an untrained model
    "enable_model_summary": False,  # the run's own first lines say it shorter
    "log_every_n_steps": 1,  # metrics are logged once an epoch; a larger value only makes Lightning warn
}

Command = Literal["fit", "check", "validate", "test"]

DESCRIPTIONS: dict[Command, str] = {
    "fit": "Train a model, then test its result, by default the best epoch, once.",
    "check": "Ask the guards of a run's start, train one step and validate one batch; no run is written.",
}


def settings_from(
    args: Sequence[str],
    command: Command = "fit",
    model: Classifier | None = None,
    data: VisionDataModule | None = None,
) -> Settings:
    """Turns a command line into the settings of a run; model and data module are made, nothing is trained.

    Args:
        args: Options of the command.
        command: Command that they are of.
        model: Model that is made already, and whose options therefore cannot be given.
        data: Data module that is made already, likewise.

    Raises:
        UserError: An option, a file or a value is refused.
    """
    check_files(args)
    words = _classes_first(_without_older_form(args))
    for part, made in (("model", model), ("data", data)):
        if made is not None and any(
            word == f"--{part}" or word.startswith((f"--{part}.", f"--{part}=")) for word in words
        ):
            raise UserError(
                f"An option of {part} is given, but the {part} is an object that is made already; pass the option to "
                f"the class when you make the {part}."
            )
    if data is not None:
        words += [f"--model.{name}={json.dumps(getattr(data, name))}" for name in LINKED]
    if model is not None:
        words = ["--model", json.dumps(_model_spec(model)), *words]
    settings = _SettingsCLI(command, words, data).settings()
    settings.command = ["visionbench", "fit", *args]
    if model is not None:
        settings.model = model
    return settings


def _without_older_form(words: Sequence[str]) -> list[str]:
    """Replaces the config.yaml of an older run, as the value of --config, by its settings in today's form."""
    replaced, previous = [], ""
    for word in words:
        option, path = ("", word) if previous == "--config" else ("--config=", word.removeprefix("--config="))
        previous = word
        if (not option or word.startswith(option)) and Path(path).name == CONFIG_FILE:
            content = today_config(Path(path))
            word = word if content is None else option + content
        replaced.append(word)
    return replaced


def _classes_first(words: Sequence[str]) -> list[str]:
    """Moves the name of a class before the options of the class, since the parser reads them in their order.

    An option that follows a name or a file is left where it is: it is one of the class that is named there.

    Args:
        words: Options of a command.
    """
    words = list(words)
    for key in CLASS_KEYS:
        first: int | None = None
        for place, word in enumerate(words):
            if word == "--config" or word.startswith("--config="):
                break
            if word == f"--{key}" or word.startswith(f"--{key}="):
                if first is not None:
                    end = place + 1 + (word == f"--{key}")
                    words[first:end] = [*words[place:end], *words[first:place]]
                break
            if first is None and word.startswith(f"--{key}.") and not word.startswith(f"--{key}.help"):
                first = place
    return words


def _not_text(words: Sequence[str]) -> str:
    """Path of the first file among options that is not UTF-8 text."""
    for word in words:
        path = Path(word.partition("=")[2] if word.startswith("--") else word)
        try:
            if path.is_file():
                path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return str(path)
    return "A file that the options name"


def _allow_help() -> str:
    named = ((guard.name, (guard.__doc__ or "").rstrip(".")) for guard in GUARDS if guard.name)
    described = "; ".join(f"{name} ({text})" for name, text in named)
    return (
        f"Names of guards whose refusals become notes: {described}. test_as_validation also makes the official test "
        "samples the validation split, so that data.folds, data.test_size and data.val_size cannot be given."
    )


def _model_spec(model: Classifier) -> dict[str, Any]:
    """Class and arguments of a model that is made already, as a configuration has them."""
    arguments = {n: v for n, v in model.hparams.items() if n not in (*LINKED, "_instantiator", "_class_path")}
    kind = type(model)
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": json.loads(json.dumps(arguments))}


def _data_spec(data: VisionDataModule) -> dict[str, Any]:
    """Class and plain arguments of a data module that is made already; arrays are told by the data digest alone."""
    arguments: dict[str, Any] = {}
    for base in type(data).__mro__:
        for name in inspect.signature(base.__init__).parameters:  # type: ignore[misc]
            value = getattr(data, name, None)
            if isinstance(value, Path):
                value = str(value)
            if hasattr(data, name) and isinstance(value, bool | int | float | str | None):
                arguments[name] = value
    arguments |= {name: _plain(value) for name, value in data.given_statistics.items()}
    if data.augment:
        arguments["augment"] = [_class_spec(entry, _arguments_of(entry)) for entry in data.augment]
    return _class_spec(data, arguments)


def _class_spec(made: object, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Class and arguments of an object, as a configuration names them."""
    kind = type(made)
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": dict(arguments)}


def _arguments_of(augmentation: Augmentation) -> dict[str, Any]:
    """All arguments of an augmentation, those by default among them, in plain types."""
    make: Any = type(augmentation).__init__
    if make is object.__init__:
        return {}
    args, kwargs = augmentation.made_with
    bound = inspect.signature(make).bind(augmentation, *args, **kwargs)
    bound.apply_defaults()
    arguments = dict(list(bound.arguments.items())[1:])  # without self
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= arguments.pop(name)
    return {name: _plain(value) for name, value in arguments.items()}


def _plain(value: Any) -> Any:
    """A value as a configuration can hold it; of an object that it cannot hold, the name of its class."""
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):  # of an array or a tensor
        return value.tolist()
    return str(value) if isinstance(value, Path) else f"{type(value).__module__}.{type(value).__qualname__}"


def _namespace(spec: dict[str, Any]) -> Namespace:
    made: Any = Namespace
    namespace: Namespace = made(class_path=spec["class_path"], init_args=made(**spec["init_args"]))
    return namespace


def settings_parser() -> LightningArgumentParser:
    """The parser of the options of `fit`."""
    try:
        _ParserOnly("fit", [], None)
    except _Made as made:
        return made.parser
    raise RuntimeError("LightningCLI does not parse its arguments any more.")


class _SettingsCLI(LightningCLI):
    """LightningCLI in subclass mode on `Classifier` and `VisionDataModule`, which ends before there is a Trainer.

    Args:
        command: Command that the options are of.
        args: Options.
        data: Data module that is made already; `None` where the options name one.
    """

    model: Classifier
    datamodule: VisionDataModule

    def __init__(self, command: Command, args: Sequence[str], data: VisionDataModule | None) -> None:
        self.words = list(args)
        self.made_data = data
        self.notes: list[str] = []
        evaluates = command in ("validate", "test")
        super().__init__(
            Classifier,
            VisionDataModule if data is None else None,
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
                + ("RUN_DIR [options]" if evaluates else "--config FILE [options]")
                + "\n\n--model.help NAME and --data.help NAME list the options of a model or a data set.",
                "description": DESCRIPTIONS.get(command, "Evaluate a run."),
                "allow_abbrev": False,
            },
            args=list(args),
            run=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--name",
            type=str | None,
            default=None,
            help="Name of the folder in log_dir that holds the run folder; default: the first file's name, or, without "
            "a file, the model's class in small letters.",
        )
        parser.add_argument("--log_dir", type=str, default="lightning_logs", help="Folder that holds all run folders.")
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Run folder itself, which must be new or empty; default: the next LOG_DIR/NAME/version_N.",
        )
        parser.add_argument("--test_after_fit", type=bool, default=True, help="Whether fit ends by testing the result.")
        parser.add_argument("--allow", type=list[str], default=[], help=_allow_help())
        parser.add_class_arguments(Objective, "objective")
        parser.add_argument(
            "--metrics",
            type=list[str],
            default=[],
            help="Names of metrics to compute at the end of each validation and test, besides loss and accuracy: "
            "balanced_accuracy, macro_f1, per_class_f1, cohen_kappa, auc, log_loss, calibration_error, or the import "
            "path of a torchmetrics.Metric. A metric that is the objective is added.",
        )
        parser.add_argument(
            "--evaluate",
            type=list[EvaluationName],
            default=[],
            help="Names of further evaluations, which choose nothing: train_eval (training samples in evaluation mode, "
            "not augmented), before (the untrained model on the validation samples), augmented_val (validation samples "
            "augmented as training samples are, but not mixed).",
        )
        parser.add_argument(
            "--evaluate_every",
            type=Literal["end", "epoch"],
            default="end",
            help="When train_eval and augmented_val are evaluated: end (of the result), or epoch (also after each).",
        )
        parser.add_class_arguments(EarlyStopping, "early_stopping")
        parser.add_class_arguments(Checkpointing, "checkpoint")
        parser.add_argument(
            "--resume",
            type=str | None,
            default=None,
            help="Run folder to resume, or auto for the newest unfinished run of this name and configuration.",
        )
        parser.add_argument(
            "--resume_changed",
            type=bool,
            default=False,
            help="Resume even if configuration, data, code or versions have changed since the run started; the changes "
            "are recorded.",
        )
        parser.add_argument(
            "--threads",
            type=int,
            default=0,
            help="Threads of the processor; 0: all for a network with convolutions, one for any other unless it is "
            "large. The number of threads moves the last digits.",
        )
        parser.add_argument(
            "--steps_per_execution",
            type=int,
            default=STEPS_PER_EXECUTION,
            help="Optimizer steps, at most, for which the Trainer's hooks are called once; changes no result. It is 1 "
            "where a callback or the model has a hook for single batches.",
        )
        parser.add_argument(
            "--cuda_graph",
            type=Literal["auto", "never"],
            default="never",
            help="Use of CUDA graphs on an NVIDIA GPU, for the steps that share hooks: auto (where a captured step "
            "gives the same numbers, bit for bit) or never.",
        )
        parser.add_argument(
            "--predictions",
            type=bool,
            default=True,
            help="Whether the predictions on validation and test samples are kept in the run folder.",
        )
        parser.add_argument(
            "--figures",
            type=Literal["none", "final", "all"],
            default="final",
            help="Figures to draw: none; final (after training); all (also the confusion matrix after each "
            "validation, figures of the predictions on the training images, and the metrics before training).",
        )
        parser.add_argument(
            "--figure_layers",
            type=list[str],
            default=[],
            help="Names of the layers whose activations are drawn, such as blocks.0.1; default: some convolutions.",
        )
        parser.add_argument(
            "--figure_channels",
            type=list[int],
            default=[],
            help="Numbers of the channels of these layers that are drawn; default: the first ones.",
        )
        for name in LINKED if self.made_data is None else ():
            check = self._accepted_shape if name == "input_shape" else None
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate", compute_fn=check)

    def _accepted_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that the data set gives, if the model takes it; the parser would refuse it in words of types."""
        kind = class_of(self.config.model)
        if issubclass(kind, Classifier):
            check_input_shape(kind, input_shape)
        return input_shape

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        printing = [word for word in args if word.startswith("--print_config")]
        if printing:  # parsing then ends with the configuration on the screen, before it can be checked
            whole = None
            with watched_parsing(lambda _: None), contextlib.suppress(UserError):  # the second parsing says it
                whole = parser.parse_args([word for word in args if word not in printing])
            for line in check_carried(self.words, whole) if whole is not None else ():
                print(line, file=sys.stderr)
        try:
            with watched_parsing(self.notes.append):
                self.config = parser.parse_args(args)
        except UnicodeDecodeError as error:
            raise UserError(f"{_not_text(args)} is not UTF-8 text ({error.reason}); save it as UTF-8.") from error
        check_values(self.config)
        self.notes.extend(check_carried(self.words, self.config))
        seed = self.config.seed_everything
        if seed is None or isinstance(seed, bool) or not 0 <= seed < 2**32:
            shown = "null" if seed is None else str(seed).lower()
            raise UserError(
                f"seed_everything is {shown}, expected an integer from 0 to 4294967295, so that the run "
                "can be repeated."
            )
        if not 0 <= self.config.threads <= MAX_THREADS:
            raise UserError(
                f"threads is {self.config.threads}, expected 1 to {MAX_THREADS}, or 0 to choose by the model."
            )
        if self.config.steps_per_execution < 1:
            raise UserError(f"steps_per_execution is {self.config.steps_per_execution}, expected 1 or more.")
        if any(channel < 0 for channel in self.config.figure_channels):
            raise UserError(f"figure_channels is {self.config.figure_channels}, expected numbers of channels from 0.")
        check_names(GUARDS, self.config.allow)

    def before_instantiate_classes(self) -> None:
        """Asks the guards of the configuration, and fills in what depends on the machine."""
        config = self.config
        model = config.model
        given = config.clone()
        if self.made_data is not None:
            given.data = _namespace(_data_spec(self.made_data))
            for name in LINKED:  # settings_from has taken them from the data module
                del given.model.init_args[name]
        self.kinds = class_of(model), class_of(given.data)
        for kind in self.kinds:
            remember_source(kind)
        scheduler = model.init_args.get("lr_scheduler")
        logs = self.kinds[0].metrics if issubclass(self.kinds[0], Classifier) else Classifier.metrics
        if model.init_args.get("l1"):
            logs = {**logs, "train/minimized": "min"}
        on_plateau = scheduler is not None and issubclass(class_of(scheduler), ReduceLROnPlateau)
        self.modes = {**logs, **self._additional_metrics(logs)}
        context = ConfigContext(given, self.modes, on_plateau)
        self.findings = guards.inspect(GUARDS, "config", context, config.allow)
        optimizer = model.init_args.get("optimizer")
        if config.trainer.gradient_clip_val is not None and optimizer and optimizer.init_args.get("fused"):
            optimizer.init_args.fused = None  # Lightning refuses to clip for a fused optimizer in mixed precision
            self.notes.append("model.optimizer.fused is turned off, because gradients are clipped")
        self.has_objective = context.has_validation or not config.objective.metric.startswith("val/")
        self.precision_reason = "as asked for"
        if config.trainer.precision is None:
            config.trainer.precision, self.precision_reason = default_precision(config.trainer.accelerator)
        if config.name is None:
            configs = config.get("config") or []
            config.name = Path(str(configs[0])).stem if configs else self.kinds[0].__name__.lower()

    def _additional_metrics(self, logs: Mapping[str, Mode]) -> dict[str, Mode]:
        """The metrics that are asked for besides those of the model, with their modes; the objective is added."""
        config = self.config
        stage, _, watched = config.objective.metric.partition("/")
        if stage == "val" and watched not in config.metrics and config.objective.metric not in logs:
            config.metrics = [*config.metrics, watched]
        names = [name for name in config.metrics if f"val/{name}" not in logs]
        # per_class_f1 stands for metrics of classes, which are not known yet; it is refused as the objective.
        modes = {name: mode_of(name) for name in names if name != EACH_CLASS_F1 or name == watched}
        return {f"{stage}/{name}": mode for stage in ("val", "test") for name, mode in modes.items()}

    def instantiate_classes(self) -> None:
        """Makes data and model; what one of them refuses is said without the parser's words around it."""
        try:
            self.config_init = self.parser.instantiate_classes(self.config)
        except (ValueError, TypeError, AttributeError) as error:
            if (refusal := first_user_error(error)) is not None:
                raise refusal from None
            cause = root_cause(error)
            if (mistake := mistake_in_making(cause, self.kinds[0])) is not None:
                raise UserError(mistake) from error
            # Of a logger or a callback whose package is not installed, for instance.
            if isinstance(error, ValueError) and isinstance(cause, ValueError | ImportError):
                raise UserError(f"Data and model cannot be made from these settings: {one_line(cause)}") from error
            raised = raised_by_class(error)
            raise raised from raised.__cause__
        self.datamodule = self.made_data if self.made_data is not None else self.config_init.data
        self.model = self.config_init.model
        if (mistake := mistake_in_parts(self.model)) is not None:
            raise UserError(mistake)

    def settings(self) -> Settings:
        """The settings that the command line gives."""
        config, init = self.config, self.config_init
        plain: dict[str, Any] = yaml.safe_load(self.parser.dump(config, skip_unset=False))
        if self.made_data is not None:
            plain["data"] = _data_spec(self.made_data)
            for name in LINKED:
                del plain["model"]["init_args"][name]
        objective = Objective(config.objective.metric, config.objective.mode or self.modes[config.objective.metric])
        return Settings(
            model=self.model,
            data=self.datamodule,
            config=plain,
            trainer=init.trainer.as_dict(),
            command=["visionbench", "fit", *self.words],
            has_objective=self.has_objective,
            objective=objective,
            early_stopping=EarlyStopping(**config.early_stopping.as_dict()),
            checkpoint=Checkpointing(**config.checkpoint.as_dict()),
            seed=config.seed_everything,
            precision_reason=self.precision_reason,
            notes=self.notes,
            findings=self.findings,
            **{
                name: config[name]
                for name in (
                    *("name", "log_dir", "run_dir", "resume", "resume_changed", "test_after_fit", "threads"),
                    *("allow", "metrics", "predictions", "figures", "figure_layers", "figure_channels"),
                    *("evaluate", "evaluate_every", "steps_per_execution", "cuda_graph"),
                )
            },
        )


class _Made(Exception):
    """A parser is made, and nothing is to be parsed.

    Args:
        parser: The parser.
    """

    def __init__(self, parser: LightningArgumentParser) -> None:
        self.parser = parser


class _ParserOnly(_SettingsCLI):
    """Ends as soon as the parser is made."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        raise _Made(parser)
