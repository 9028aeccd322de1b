"""The TensorBoard event file in the run folder."""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger

from visionbench.classes import class_of
from visionbench.runs.identity import DATA_ASIDE
from visionbench.training.lightning_private import forget_writer, open_writer

TRAINER_HYPERPARAMETERS = ("max_epochs", "max_steps", "precision", "accumulate_grad_batches", "gradient_clip_val")


class RunTensorBoardLogger(TensorBoardLogger):
    """Lightning's logger with one event file for a whole run, and without `hparams.yaml`, which repeats `config.yaml`.

    Lightning finalizes its loggers after fit and again after test, which would close the event file each time and open
    another one for what follows. Whoever makes this logger calls `close` at the end of the run.
    """

    def save(self) -> None:  # noqa: D102
        if (writer := open_writer(self)) is not None:
            writer.flush()

    def finalize(self, status: str) -> None:
        """Writes what is pending to the disk; the event file stays open."""
        self.save()

    def close(self) -> None:
        """Closes the event file and ends its thread; a logger that has written nothing has neither."""
        if (writer := open_writer(self)) is not None:
            forget_writer(self)
            writer.close()

    def log_hyperparams(self, params: Any, metrics: dict[str, Any] | None = None, step: int | None = None) -> None:
        """Writes the HPARAMS entry with its final metrics; without metrics nothing, since the tab would show none."""
        if metrics:
            super().log_hyperparams(params, metrics, step)

    def log_figure(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Adds a figure, (H, W, 3), uint8, under `figures/`."""
        self.experiment.add_image(f"figures/{name}", pixels, step, dataformats="HWC")

    def log_config(self, text: str) -> None:
        """Adds the configuration, in YAML, under the tab of texts."""
        self.experiment.add_text("config", f"```yaml\n{text}\n```", 0)


def hyperparameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that runs are compared by, such as `model.optimizer.lr: 0.001`.

    Settings without a value are omitted, as are those of optimizers and schedulers that equal the default of their
    class; the learning rate is always listed.

    Args:
        config: Complete configuration of the run, in plain types.
    """
    data = dict(config["data"])
    data["init_args"] = {k: v for k, v in (data.get("init_args") or {}).items() if k not in DATA_ASIDE}
    if data["init_args"].get("folds") is None:
        data["init_args"].pop("fold_is", None)  # has no effect without folds
    trainer = {name: config["trainer"][name] for name in TRAINER_HYPERPARAMETERS}
    if trainer["max_steps"] == -1:  # Lightning's value for no limit
        del trainer["max_steps"]
    return {"seed": config["seed_everything"], **_flat({"model": config["model"], "data": data, "trainer": trainer})}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = prefix + key.removesuffix("init_args").removesuffix("class_path")
        if isinstance(value, dict):
            flat |= _flat(_without_defaults(value), f"{name}." if not name.endswith(".") and name else name)
        elif value not in (None, "", []):
            flat[name.rstrip(".")] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat


def _without_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a class of torch without those that equal the class's defaults; other settings unchanged."""
    if not str(settings.get("class_path")).startswith("torch."):
        return settings
    parameters = inspect.signature(class_of(settings)).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items() if name != "lr"}
    defaults = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
    arguments = settings.get("init_args") or {}
    chosen = {name: value for name, value in arguments.items() if name not in defaults or value != defaults[name]}
    return settings | {"init_args": chosen}
