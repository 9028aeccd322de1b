"""A trained run as a function: its model, its class names, and the recipe that turns a file into inputs.

Only the run folder is needed: neither the data set nor the weights that training started from.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from visionbench.classes import class_of
from visionbench.data.base import VisionDataModule
from visionbench.data.loader import scale_and_shift
from visionbench.data.store import SPLITS
from visionbench.data.table import Table
from visionbench.decoding import Recipe
from visionbench.errors import UserError, root_cause
from visionbench.evaluation.predictions import Predictions
from visionbench.guards.config import missing_accelerator
from visionbench.inference.inputs import batches, decoded_files
from visionbench.inference.tables import EncodeRows, TableRecipe, open_table, table_of, table_recipe
from visionbench.models.base import Classifier
from visionbench.runs.checkpoints import load_checkpoint
from visionbench.runs.folder import RunFolder
from visionbench.text import one_line, shown
from visionbench.training.device import threads_for, using_threads

# Names of the precision of 64 bits.
DOUBLE = ("64-true", "64")


@dataclass(frozen=True)
class TrainedRun:
    """A run with its trained model.

    `run.metrics` and `run.predictions("test")` are the recorded results; `run.predict(inputs)` predicts other images or
    rows.

    Attributes:
        folder: Run folder.
        checkpoint: File of the weights: the best epoch's, or the last epoch's where that is the result of the run.
        config: Content of config.yaml.
        model: Model with these weights, in evaluation mode.
        class_names: Names of the classes, in the order of the labels.
        input_shape: Channels, height and width of an image, or the number of features of a row.
        mean: Mean per channel, subtracted from pixels in [0, 1].
        std: Standard deviation per channel, of pixels in [0, 1]; divides them after the mean is subtracted.
        recipe: Recipe that turns an image file into an array; `None` for a run on a table.
        table: Recipe that turns the rows of a table into inputs; `None` for a run on images.
        described: Content of input.json.
    """

    folder: Path
    checkpoint: Path
    config: dict[str, Any]
    model: Classifier
    class_names: tuple[str, ...]
    input_shape: tuple[int, ...]
    mean: list[float]
    std: list[float]
    recipe: Recipe | None
    table: TableRecipe | None
    described: dict[str, Any]

    @property
    def precision(self) -> str:
        """Precision of the run, by Lightning's name."""
        return str(self.config["trainer"]["precision"])

    @property
    def item(self) -> str:
        """Name of one sample in messages: image or row."""
        return "image" if self.table is None else "row"

    @property
    def image_recipe(self) -> Recipe:
        """Recipe that turns an image file into an array, of a run on images."""
        if self.recipe is None:
            raise RuntimeError(f"{self.folder} was not trained on images.")
        return self.recipe

    def preprocessing(self) -> nn.Module:
        """Module that turns raw samples, pixels or rows, into inputs of the model."""
        return Normalize(self.mean, self.std) if self.table is None else EncodeRows(self.table)

    @property
    def batch_size(self) -> int:
        """Number of samples in a batch of the run; 64 for a data set without this option."""
        return int((self.config["data"].get("init_args") or {}).get("batch_size", 64))

    @property
    def metrics(self) -> dict[str, float | None]:
        """Metrics of the run, such as `test/acc`; `None` for a metric that is not finite.

        Raises:
            UserError: The run is not finished.
        """
        run = RunFolder(self.folder)
        if (status := run.status) != "finished":
            raise UserError(
                f"{self.folder} is {status}, and only a finished run has metrics; resume it with visionbench fit "
                f"--resume {self.folder}."
            )
        return dict(run.metadata["metrics"])

    @property
    def data_digest(self) -> str | None:
        """Digest of the data that the run was trained on; `None` where the run has not recorded it."""
        digest = RunFolder(self.folder).metadata.get("data_digest")
        return str(digest) if digest is not None else None

    def predictions(self, stage: str) -> Predictions:
        """The predictions that the run recorded for a split.

        Args:
            stage: Split: `train`, `val` or `test`.

        Raises:
            UserError: There is no such split, or the run recorded no predictions for it.
        """
        if stage not in SPLITS:
            raise UserError(f"There is no split {stage}; expected one of {', '.join(SPLITS)}.")
        run = RunFolder(self.folder)
        predictions = run.predictions(stage)
        if predictions is None:
            recorded = [split for split in SPLITS if (run.predictions_folder / f"{split}.csv").is_file()]
            raise UserError(
                f"{self.folder} has no recorded predictions for {stage} (recorded: {', '.join(recorded) or 'none'}); "
                f"write them with visionbench predict {self.folder} {stage}."
            )
        return predictions

    def predict(self, inputs: Any, unseen: Literal["error", "zeros"] | None = None) -> tuple[np.ndarray, list[str]]:
        """Predicts the classes of images or rows, on the device and in the precision of the run.

        Args:
            inputs: Of a run on images: pixels, uint8, shape (N, H, W, C), or (N, H, W) for grayscale images, with the
                height and width of the run's images; or a list of paths of image files of any size. Of a run on a
                table: the path of a CSV file or a list of paths, a pandas DataFrame, or a dictionary from names of
                columns to their values. The columns may have any order, and others may be among them.
            unseen: Treatment of a category that the training table does not have: error; or zeros, the encoding of a
                category that the training split does not contain; by default that of the run.

        Returns:
            Probabilities, shape (N, classes), float32, and the names of the predicted classes.

        Raises:
            UserError: The array has another type or shape, or a file or a row cannot be used.
        """
        if self.table is not None:
            raw = self._rows(inputs, self.table if unseen is None else self.table.with_unseen(unseen))
        elif isinstance(inputs, np.ndarray):
            raw = iter([self._checked(inputs)])
        elif isinstance(inputs, list | tuple) and all(isinstance(image, str | Path) for image in inputs):
            raw = self._decoded([str(image) for image in inputs])
        else:
            raise UserError(
                f"images is {_in_words(inputs)}; expected a uint8 array of shape {self._expected_shape()} or a list of "
                "paths."
            )
        size = self.batch_size
        # As `visionbench test`: another number of threads may change the last digits.
        threads = self.config.get("threads") or threads_for(self.model, size, torch.get_num_threads())
        with using_threads(threads):
            parts = [self._predictor(part[start : start + size]) for part in raw for start in range(0, len(part), size)]
        if not parts:
            return np.zeros((0, len(self.class_names)), dtype=np.float32), []
        probabilities = np.concatenate([part for part, _ in parts])
        return probabilities, [self.class_names[label] for _, labels in parts for label in labels]

    def set_up(self, data: VisionDataModule) -> None:
        """Prepares a data set and checks that its samples and classes are those of the run.

        Args:
            data: Data set before `setup`.

        Raises:
            UserError: The data cannot be read, or its images, columns or classes differ from those of the run.
        """
        data.prepare_data()
        data.setup()
        if self.table is not None and (not isinstance(data, Table) or data.schema != self.table.schema):
            raise UserError(
                f"{data.title} has other columns, categories or classes than the table that {self.folder} was trained "
                "on; give the data set of the run, or a file as the input."
            )
        if tuple(data.class_names) != self.class_names or tuple(data.input_shape) != self.input_shape:
            raise UserError(
                f"{data.title} has {data.item}s of {data.input_shape} and the classes {', '.join(data.class_names)}, "
                f"but {self.folder} was trained on {self.item}s of {self.input_shape} and "
                f"{', '.join(self.class_names)}; give the data set of the run, or files."
            )

    @cached_property
    def _predictor(self) -> "Predictor":
        return Predictor(self)

    def _expected_shape(self) -> str:
        channels, height, width = self.input_shape
        with_channels = f"(N, {height}, {width}, {channels})"
        return f"{with_channels} or (N, {height}, {width})" if channels == 1 else with_channels

    def _checked(self, images: np.ndarray) -> np.ndarray:
        channels, height, width = self.input_shape
        pixels = images[..., np.newaxis] if images.ndim == 3 and channels == 1 else images
        if images.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (height, width, channels):
            raise UserError(
                f"images is an array of type {images.dtype} and shape {images.shape}; expected type uint8 and shape "
                f"{self._expected_shape()}, or give a list of paths."
            )
        return np.ascontiguousarray(pixels)

    def _decoded(self, paths: list[str]) -> Iterator[np.ndarray]:
        """Batches of pixels, (B, H, W, C), of image files."""
        stream = decoded_files(((path, None) for path in paths), self.image_recipe, self.class_names)
        for batch in batches(stream, self.batch_size):
            for sample in batch:
                if sample.values is None:
                    raise UserError(
                        f"{shown(sample.name)} cannot be used as an image ({sample.problem}); leave it out."
                    )
            yield np.stack([sample.values for sample in batch if sample.values is not None])

    def _rows(self, inputs: Any, recipe: TableRecipe) -> Iterator[np.ndarray]:
        """Batches of raw rows, (B, columns), of tables."""
        paths = [inputs] if isinstance(inputs, str | Path) else inputs
        if isinstance(paths, list | tuple) and all(isinstance(path, str | Path) for path in paths):
            tables = [open_table(Path(path), recipe) for path in paths]
        elif hasattr(inputs, "keys") and hasattr(inputs, "__getitem__"):
            tables = [table_of(inputs, recipe)]
        else:
            raise UserError(
                f"table is {_in_words(inputs)}; expected the path of a CSV file or a list of paths, a DataFrame, or a "
                "dictionary from names of columns to their values."
            )
        for batch in batches((sample for table in tables for sample in table.samples()), self.batch_size):
            for sample in batch:
                if sample.values is None:
                    raise UserError(f"{sample.name}, {sample.problem}; correct the row, or leave it out.")
            yield np.stack([sample.values for sample in batch if sample.values is not None])


def open_run(folder: str | Path) -> TrainedRun:
    """Opens a run with the weights of its result: its best epoch, or its last one.

    Args:
        folder: Run folder.

    Raises:
        UserError: The folder is not a run folder, it has no checkpoint, its model takes neither images nor rows of a
            table, or the class of its model cannot be loaded.
    """
    run = RunFolder(Path(folder))
    checkpoint, described, config = run.result_checkpoint(), run.input, run.config
    if not described:
        raise UserError(
            f"{folder} has no input.json, which describes its classes and inputs: the run is from a version of "
            f"visionbench that did not write this file; train it a second time with visionbench repeat {folder}."
        )
    file, table = described["file"], described.get("table")
    if file is None and table is None:
        shape = " x ".join(map(str, described["input_shape"]))
        raise UserError(
            f"{folder} was trained on {described['title']}, with inputs of {shape}, and does not record how a file "
            "becomes one; predict and export need a run on grayscale or RGB images, or on a table (a run of an earlier "
            f"version of visionbench records its table when it is repeated: visionbench repeat {folder})."
        )
    return TrainedRun(
        folder=run.path,
        checkpoint=checkpoint,
        config=config,
        model=_load_model(checkpoint, config["model"]),
        class_names=tuple(described["class_names"]),
        input_shape=tuple(described["input_shape"]),
        mean=described["mean"],
        std=described["std"],
        recipe=Recipe(**{**file, "size": (file["size"][0], file["size"][1])}) if file is not None else None,
        table=table_recipe(described) if table is not None else None,
        described=described,
    )


def _in_words(inputs: Any) -> str:
    """What was given instead of inputs."""
    if isinstance(inputs, list | tuple):
        other = next(value for value in inputs if not isinstance(value, str | Path))
        return f"a {type(inputs).__name__} with an element of type {type(other).__name__}"
    return f"of type {type(inputs).__name__}"


def _load_model(checkpoint: Path, spec: dict[str, Any]) -> Classifier:
    """The model with the weights of a checkpoint, which also holds the model's arguments."""
    name = spec["class_path"]
    try:
        kind = class_of(spec)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"The run's model {name} cannot be imported ({one_line(error).rstrip('.')}); run the command in the folder "
            "where it was trained."
        ) from error
    if not issubclass(kind, Classifier):
        raise UserError(f"The run's model {name} is no longer a Classifier; make it a subclass of Classifier again.")
    load_checkpoint(checkpoint, RunFolder(checkpoint.parents[1]).how_to_repeat())
    try:
        model: Classifier = kind.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file or a changed class fails in many ways
        if isinstance(error, MemoryError):
            raise
        raise UserError(
            f"{checkpoint} cannot be loaded into {name} ({one_line(root_cause(error)).rstrip('.')}); restore the file "
            "and the class of the time when the run was trained."
        ) from error
    return model.eval()


class Normalize(nn.Module):
    """Turns stored pixels, (B, H, W, C) uint8, into inputs of a model, (B, C, H, W) float32.

    Args:
        mean: Mean per channel, subtracted from pixels in [0, 1].
        std: Standard deviation per channel, of pixels in [0, 1]; divides them after the mean is subtracted.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        scale, shift = scale_and_shift(mean, std)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, pixels: Tensor) -> Tensor:  # noqa: D102
        # In the memory layout of the loader's batches: another layout uses other kernels, which round differently.
        images = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return images * self.scale + self.shift


class Predictor:
    """Predicts with a run's model, with the same computation as `visionbench test`.

    Args:
        run: Trained run, whose model is moved to the device.
        accelerator: Kind of device, by Lightning's name; by default the run's.
        precision: Precision of the computation, by Lightning's name; by default the run's.

    Raises:
        UserError: The device is not available, or it does not support the precision.
    """

    def __init__(self, run: TrainedRun, accelerator: str | None = None, precision: str | None = None) -> None:
        self.model = run.model
        self.precision = precision if precision is not None else run.precision
        name: Any = self.precision  # Lightning checks the value
        asked = accelerator if accelerator is not None else run.config["trainer"]["accelerator"]
        if (sentence := missing_accelerator("accelerator", asked)) is not None:
            raise UserError(sentence)
        try:
            fabric = Fabric(
                accelerator=asked,
                devices=1,
                precision=name,
            )
        except (MisconfigurationException, ValueError, RuntimeError) as error:
            raise UserError(
                f"The run's device or precision is not available here ({one_line(error).rstrip('.')}); give others "
                "with --accelerator or --precision."
            ) from error
        self.device = fabric.device
        if self.device.type == "cuda" and run.config["trainer"].get("deterministic") is not False:
            # As the Trainer sets it for a run, so that the results are reproducible.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
        if run.precision in DOUBLE and self.precision not in DOUBLE:
            self.model.float()  # Lightning leaves weights of 64 bits as they are
        self.module = fabric.setup_module(self.model).eval()
        # Rows are encoded in 64 bits, which not every device has.
        self.raw_device = fabric.device if run.table is None else torch.device("cpu")
        self.preprocess = run.preprocessing().to(self.raw_device)

    @torch.inference_mode()
    def __call__(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predicts a batch.

        Args:
            raw: Pixels of images, shape (B, H, W, C), uint8, or raw rows, shape (B, columns), float64.

        Returns:
            Probabilities, shape (B, num_classes), float32, and predicted labels, shape (B,), int64.
        """
        # Copied, since stored samples are read-only and torch would share their memory.
        inputs = self.preprocess(torch.tensor(raw, device=self.raw_device))
        outputs = self.module(inputs.to(self.device))
        probabilities, classes = self.model.probabilities(outputs), self.model.predict(outputs)
        return probabilities.cpu().numpy(), classes.cpu().numpy()
