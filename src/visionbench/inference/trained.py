"""A run as something to use: its model, the names of its classes, and how an image file becomes its input.

Nothing but the run's folder is needed for it: neither the data set nor the weights that training started from.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from visionbench.classes import class_of
from visionbench.data.loader import scale_and_shift
from visionbench.decoding import Recipe
from visionbench.errors import UserError, root_cause
from visionbench.models.base import Classifier
from visionbench.runs.folder import RunFolder
from visionbench.text import one_line


@dataclass(frozen=True)
class TrainedRun:
    """A run's result.

    Attributes:
        folder: The run's.
        checkpoint: The file of its weights: the best epoch's, or the last's where nothing was watched.
        config: What config.yaml says.
        model: With these weights, on the processor, in evaluation mode.
        class_names: One a label, in the order of the labels.
        input_shape: Channels, height and width.
        mean: Subtracted from pixels in [0, 1], one a channel.
        std: Then divided by, one a channel.
        recipe: How an image file becomes an array.
        described: All that input.json says.
    """

    folder: Path
    checkpoint: Path
    config: dict[str, Any]
    model: Classifier
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    mean: list[float]
    std: list[float]
    recipe: Recipe
    described: dict[str, Any]

    @property
    def precision(self) -> str:
        """What the run computes in, in Lightning's words."""
        return str(self.config["trainer"]["precision"])

    @property
    def batch_size(self) -> int:
        """Images in a batch of the run; a data set that takes no such option has a number of its own."""
        return int((self.config["data"].get("init_args") or {}).get("batch_size", 64))


def open_run(folder: Path) -> TrainedRun:
    """Opens a run, with the weights of its best epoch.

    Raises:
        UserError: It is no run, has no checkpoint, does not take images, or its model's class cannot be made.
    """
    run = RunFolder(folder)
    checkpoint, described, config = run.result_checkpoint(), run.input, run.config
    if not described:
        raise UserError(
            f"{folder} has no input.json, which says what its classes are and how a file becomes an input: the run was "
            f"made before visionbench wrote one; visionbench repeat {folder} makes it again."
        )
    file = described["file"]
    if file is None:
        shape = " x ".join(map(str, described["input_shape"]))
        raise UserError(
            f"{folder} was trained on {described['title']}, with inputs of {shape}, which image files do not become; "
            "predict and export take runs on grey or RGB images."
        )
    channels, height, width = described["input_shape"]
    return TrainedRun(
        folder=folder,
        checkpoint=checkpoint,
        config=config,
        model=_load_model(checkpoint, config["model"]),
        class_names=tuple(described["class_names"]),
        input_shape=(channels, height, width),
        mean=described["mean"],
        std=described["std"],
        recipe=Recipe(**{**file, "size": (file["size"][0], file["size"][1])}),
        described=described,
    )


def _load_model(checkpoint: Path, spec: dict[str, Any]) -> Classifier:
    """The model with a checkpoint's weights; its arguments, the data set's among them, are in the checkpoint too."""
    name = spec["class_path"]
    try:
        kind = class_of(spec)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"The run's model {name} cannot be imported ({one_line(error).rstrip('.')}); run the command in the folder "
            "that it was trained in."
        ) from error
    if not issubclass(kind, Classifier):
        raise UserError(f"The run's model {name} is no Classifier any more; put back its class as it was.")
    try:
        model: Classifier = kind.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn file, or a class that is not what it was, fails in a dozen ways
        if isinstance(error, MemoryError):
            raise
        raise UserError(
            f"{checkpoint} cannot be loaded into {name} ({one_line(root_cause(error)).rstrip('.')}); put back the file "
            "and the class as they were when the run was made."
        ) from error
    return model.eval()


class Normalise(nn.Module):
    """Pixels as they are stored become what a model takes: (B, H, W, C) uint8 -> (B, C, H, W) float32.

    Args:
        mean: Subtracted from pixels in [0, 1], one a channel.
        std: Then divided by, one a channel.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        scale, shift = scale_and_shift(mean, std)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, pixels: Tensor) -> Tensor:  # noqa: D102
        # In the layout that the loader's batches have: another one would take other kernels, with other last bits.
        images = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return images * self.scale + self.shift


class Predictor:
    """What a run's model says of images, computed as `visionbench test` computes it.

    Args:
        run: The run; its model is moved to the device.
        accelerator: Lightning's name of a kind of device; the run's, if not given.
        precision: Lightning's name of a precision; the run's, if not given.

    Raises:
        UserError: There is no such device, or it has no such precision.
    """

    def __init__(self, run: TrainedRun, accelerator: str | None = None, precision: str | None = None) -> None:
        self.model = run.model
        self.precision = precision if precision is not None else run.precision
        wanted: Any = self.precision  # which Lightning checks
        try:
            fabric = Fabric(
                accelerator=accelerator if accelerator is not None else run.config["trainer"]["accelerator"],
                devices=1,
                precision=wanted,
            )
        except (MisconfigurationException, ValueError, RuntimeError) as error:
            raise UserError(
                f"The run's device or precision cannot be had here ({one_line(error).rstrip('.')}); give others with "
                "--accelerator or --precision."
            ) from error
        self.device = fabric.device
        if self.device.type == "cuda" and run.config["trainer"].get("deterministic") is not False:
            # As the Trainer does for a run, so that the same comes out each time.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
        self.module = fabric.setup_module(self.model).eval()
        self.normalise = Normalise(run.mean, run.std).to(fabric.device)

    @torch.inference_mode()
    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities, (B, num_classes) float32, and classes, (B,) int64, of images (B, H, W, C) uint8."""
        outputs = self.module(self.normalise(torch.from_numpy(pixels).to(self.device)))
        probabilities, classes = self.model.probabilities(outputs), self.model.predict(outputs)
        return probabilities.cpu().numpy(), classes.cpu().numpy()
