"""Training and opening runs from Python: called by the commands, by notebooks and by programs of users."""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from visionbench.config.cli import settings_from
from visionbench.console import quiet_libraries
from visionbench.data.base import VisionDataModule
from visionbench.errors import UserError
from visionbench.evaluation.measures import confusion
from visionbench.evaluation.predictions import Predictions
from visionbench.guards import Finding
from visionbench.inference.trained import TrainedRun
from visionbench.inference.trained import open_run as _open_run
from visionbench.models.base import Classifier
from visionbench.own_model import mistake_in_forward
from visionbench.processes import run_cleanly
from visionbench.runs.folder import RunFolder
from visionbench.text import counted
from visionbench.training.result import RunResult
from visionbench.training.session import Ending, Say, Session
from visionbench.training.settings import Settings

__all__ = ["RunFigures", "check", "fit", "load_data", "open_run", "train"]


def fit(
    model: str | type[Classifier] | Classifier | None = None,
    data: str | type[VisionDataModule] | VisionDataModule | None = None,
    *,
    config: str | Path | None = None,
    seed: int | None = None,
    max_epochs: int | None = None,
    run_dir: str | Path | None = None,
    figures: str = "none",
    say: Say | None = None,
    **options: Any,
) -> RunResult:
    """Trains a model, tests its best epoch once and leaves a run folder, as `visionbench fit` does.

    The same settings give the same run as the command line, with the same digest of its weights. The process is left as
    it was found.

    Args:
        model: Name of a model, its class, or a model that is made already, which no run has trained yet.
        data: Name of a data set, its class, or a data module that is made already, such as `Arrays`.
        config: YAML file with the settings of a run; the other arguments override it.
        seed: Seed of the run; 0 where neither this nor the run file gives one.
        max_epochs: Number of epochs.
        run_dir: Run folder, which must be new or empty; by default the next free one in `lightning_logs`.
        figures: Figures to draw: none, final or all.
        say: Called with each line about the run; by default nothing is printed.
        options: Further options by their dotted names, such as `**{"model.dropout": 0.5}`.

    Returns:
        The result, whose `folder` holds the run.

    Raises:
        UserError: A setting or the data are refused.
        RunFailed: The run cannot be written.
    """
    named = {"seed_everything": seed, "trainer.max_epochs": max_epochs, "figures": figures}
    named |= {"run_dir": None if run_dir is None else str(run_dir)}
    if twice := sorted(set(options) & {name for name, value in named.items() if value is not None}):
        raise UserError(f"{twice[0]} is given twice, as an argument and as an option; give it once.")
    words = [] if config is None else ["--config", str(config)]
    for part, value, made in (("model", model, Classifier), ("data", data, VisionDataModule)):
        if isinstance(value, type):
            words += [f"--{part}", _path_of(value)]
        elif isinstance(value, str):
            words += [f"--{part}", value]
        elif value is not None and not isinstance(value, made):
            arrays = "; visionbench.Arrays(images, labels) makes data of arrays" if part == "data" else ""
            raise UserError(
                f"{part} is of type {type(value).__name__}, expected a name, a class or an object of a subclass of "
                f"{made.__name__}{arrays}."
            )
    if isinstance(model, Classifier) and model.global_step:
        raise UserError(
            f"The model has been trained already, for {counted(model.global_step, 'step')}, so that this run would not "
            "start anew; make a new model or pass its class, or pass copy.deepcopy(model) to train on from its weights."
        )
    for name, value in (named | options).items():
        # An option that is None is given as null; an argument that is None is left out.
        if value is not None or name in options:
            words.append(f"--{name}={_as_word(value)}")

    def run() -> RunResult:
        with quiet_libraries():
            settings = settings_from(
                words,
                model=model if isinstance(model, Classifier) else None,
                data=data if isinstance(data, VisionDataModule) else None,
            )
            settings.command = ["visionbench.fit", *words]
            return train(settings, say)

    return run_cleanly(run)


def train(settings: Settings, say: Say | None = None, callbacks: Sequence[Callback] = ()) -> RunResult:
    """Trains by settings that are made already, and draws the figures that they ask for.

    Args:
        settings: Settings of the run.
        say: Called with each line about the run.
        callbacks: Further callbacks.

    Raises:
        UserError: A setting or the data are refused.
        RunFailed: The run cannot be written.
    """
    if say is not None:
        for note in settings.notes:
            say(note)
    with _named_layers(settings.model):
        return Session(settings, say, callbacks, RunFigures()).fit()


def check(settings: Settings) -> list[Finding]:
    """Asks the guards of a run's start, trains one step and validates one batch; no run is written.

    Args:
        settings: Settings of the run.

    Returns:
        What the guards found.

    Raises:
        UserError: A setting or the data are refused by something else than a guard.
    """
    with _named_layers(settings.model):
        return Session(settings, figures=RunFigures()).check()


@contextlib.contextmanager
def _named_layers(model: Classifier) -> Iterator[None]:
    """Names the layer that was given a tensor of another shape than it takes."""
    try:
        yield
    except RuntimeError as error:
        if (mistake := mistake_in_forward(error, model)) is None:
            raise
        raise UserError(mistake) from error


def open_run(folder: str | Path) -> TrainedRun:
    """Opens a run folder: its model, its classes, its metrics and its predictions.

    Args:
        folder: Run folder.

    Raises:
        UserError: The folder holds no run with a checkpoint.
    """
    return _open_run(Path(folder))


def load_data(name: str | type[VisionDataModule], **arguments: Any) -> VisionDataModule:
    """Gives a data module whose data are prepared and split.

    Args:
        name: Name of a data set, or its class.
        arguments: Arguments of the data set.

    Raises:
        UserError: There is no such data set, or its data cannot be loaded.
    """
    from visionbench import data as package

    if isinstance(name, str):
        kind = getattr(package, name, None)
        if not (isinstance(kind, type) and issubclass(kind, VisionDataModule)):
            raise UserError(f"There is no data set {name}; visionbench data list shows those that there are.")
    else:
        kind = name
    module: VisionDataModule = kind(**arguments)
    module.prepare_data()
    module.setup()
    return module


class RunFigures:
    """The figures of a run, as a session asks for them; matplotlib is imported when the first one is drawn."""

    def check(self, session: Session) -> None:
        """Refuses names of layers that the model does not have."""
        if session.settings.figure_layers:
            from visionbench.figures.network import check_layers

            check_layers(session.model, session.settings.figure_layers)

    def after_validation(self, session: Session, predictions: Predictions) -> None:
        """Draws the confusion matrix of a validation; in the run folder only the last one stays."""
        from visionbench.figures.classes import draw_confusion

        names = session.data.class_names
        counts = confusion(predictions.labels, predictions.predicted, len(names))
        figure = draw_confusion("val", counts, names)
        session.log_figure(figure.name, figure.save(self._folder(session)))

    def at_end(self, session: Session, ending: Ending) -> list[str]:
        """Draws all figures of the result."""
        from visionbench.figures.run_figures import RunFigures as Drawing

        folder = self._folder(session)
        run = RunFolder(folder.parent)
        settings, checkpoints = session.settings, session.checkpoints
        # Where no epoch had a value of the objective, the last one is the result.
        chosen = settings.chooses_epoch and checkpoints is not None and checkpoints.best_epoch is not None
        drawing = Drawing(
            folder, session.model, session.data, session.log_figure, settings.figure_layers, settings.figure_channels
        )
        drawing.draw(
            rows=session.rows,
            best_epoch=ending.row["epoch"] if chosen else None,
            before=run.untrained_metrics or None,
            losses=run.step_losses,
            batches=int(session.trainer.num_training_batches),
            batch_size=session.data.batch_size * session.trainer.world_size,
            throughput=session.throughput.epochs,
            predictions=ending.predictions,
        )
        return list(drawing.lines(ending.seconds))

    def _folder(self, session: Session) -> Path:
        if session.run_folder is None:
            raise RuntimeError("A run without a folder has no figures.")
        folder = RunFolder(session.run_folder).figures
        folder.mkdir(exist_ok=True)
        return folder


def _as_word(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, str):
        return value
    try:
        text = yaml.safe_dump(_plain(value), default_flow_style=True, width=10**9)
    except yaml.representer.RepresenterError as error:
        raise UserError(f"An option is {value!r}, expected numbers, texts, lists or mappings of them.") from error
    return str(text).removesuffix("\n...\n").strip()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, type):
        return _path_of(value)
    if isinstance(value, np.generic | np.ndarray | Tensor):
        return value.tolist()
    return str(value) if isinstance(value, Path) else value


def _path_of(kind: type) -> str:
    """The path by which a class is named in a configuration.

    Raises:
        UserError: By this path, another class is found, or none.
    """
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    path = f"{kind.__module__}.{kind.__qualname__}"
    if found is None:
        raise UserError(
            f"{path} is not found by this name; define the class at the top of a module or of a notebook cell."
        )
    if found is not kind:
        raise UserError(
            f"{path} is another class by now than the one that is passed, as after it was defined anew; pass the new "
            "one, or give the two different names."
        )
    return path
