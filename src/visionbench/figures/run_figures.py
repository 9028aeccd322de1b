"""All figures at the end of a run."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visionbench.data.base import VisionDataModule
from visionbench.data.loader import scale_and_shift
from visionbench.evaluation.measures import best_threshold, summary
from visionbench.evaluation.predictions import Predictions
from visionbench.figures.classes import draw_classes
from visionbench.figures.curves import draw_learning_curves, draw_step_losses, draw_throughput
from visionbench.figures.figure import Figure, escaped, has_glyph
from visionbench.figures.images import describe, draw_errors, draw_samples
from visionbench.figures.network import draw_activations, draw_filters, draw_grad_cam, draw_layers
from visionbench.files import write_json
from visionbench.models.base import Classifier, in_evaluation
from visionbench.runs.folder import SCHEMA

MAX_EXPLAINED = 8  # images in the Grad-CAM figure; at most half of them are wrong predictions, which come first


@dataclass
class RunFigures:
    """All figures at the end of a run.

    Args:
        folder: Folder for the figures.
        model: Model with the weights of the run's result, on any device.
        data: Data set of the run, after `setup`.
        log: Function that gets each figure's name and pixels, (H, W, 3), uint8, for example for TensorBoard.
        layers: Names of the layers whose activations are drawn; by default some convolutions.
        channels: Channels of these layers; by default the first ones.
    """

    folder: Path
    model: Classifier
    data: VisionDataModule
    log: Callable[[str, np.ndarray], object]
    layers: Sequence[str] = ()
    channels: Sequence[int] = ()
    files: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    without_glyph: str | None = None

    def draw(
        self,
        *,
        rows: Sequence[Mapping[str, Any]],
        best_epoch: int | None,
        before: Mapping[str, float] | None,
        losses: np.ndarray,
        batches: int,
        batch_size: int,
        throughput: Sequence[tuple[int, int, float]],
        predictions: Mapping[str, Predictions],
    ) -> None:
        """Draws all figures that the run has data for; a figure that fails is reported, and the others are drawn.

        Args:
            rows: Rows of metrics.csv.
            best_epoch: Number of the best epoch, from 0; `None` if no epoch was selected.
            before: Metrics before training, if they were computed.
            losses: Loss of each batch, shape (N,), float32.
            batches: Number of batches in an epoch.
            batch_size: Number of samples in a batch, over all processes.
            throughput: Number, samples and seconds of each epoch that this process trained.
            predictions: Predictions by split; those on validation also give the decision threshold for two classes.
        """
        start = time.monotonic()
        self.folder.mkdir(exist_ok=True)
        self._add("learning-curves", draw_learning_curves, rows, best_epoch, before)
        if len(losses):
            samples = min(self.data.sizes()["train"], batches * batch_size)
            self._add("step-losses", draw_step_losses, losses, batches, batch_size, samples)
        if throughput:
            self._add("throughput", draw_throughput, throughput, self.data.item)
        threshold = None
        if self.data.num_classes == 2 and "val" in predictions:
            threshold = best_threshold(predictions["val"])
        main = predictions.get("test", predictions.get("val"))
        for stage, split_predictions in predictions.items():
            if stage == "val" and split_predictions is not main:
                continue
            chosen = threshold if stage != "val" else None
            self.numbers[stage] = summary(split_predictions, self.data.class_names, chosen)
            self._add(stage, draw_classes, split_predictions, self.data.class_names, chosen)
        letters = "".join(self.data.class_names)
        self.without_glyph = next((letter for letter in letters if not has_glyph(letter)), None)
        self._add("network", self._of_network)
        if main is not None and len(self.data.input_shape) == 3:
            self._add("images", self._of_images, main)
            self._add("explanations", self._explanations, main)
        self.seconds = time.monotonic() - start
        content = {"schema": SCHEMA, "figures": self.files, "failed": self.failed, **self.numbers}
        write_json(self.folder / "figures.json", content)

    def _add(self, name: str, draw: Callable[..., Figure | Iterator[Figure]], *arguments: Any) -> None:
        try:
            figures = draw(*arguments)
            for figure in [figures] if isinstance(figures, Figure) else figures:
                self.log(figure.name, figure.save(self.folder))
                self.files.append(figure.file)
        except OSError:  # a full disk also affects the other files of the run
            raise
        except Exception as error:  # a figure may not fit a user's network; the run's result stays valid
            self.failed[name] = f"{type(error).__name__}: {error}"

    def _pictures(self, stage: str) -> Callable[[np.ndarray], np.ndarray]:
        split = self.data.splits[stage]
        images = self.data.open_store(check_source=False).arrays[f"{split.part}-images"]
        return lambda places: np.stack([images[place] for place in split.index[places]])

    def _of_images(self, predictions: Predictions) -> Iterator[Figure]:
        pictures = self._pictures(predictions.stage)
        yield draw_errors(predictions, self.data.class_names, pictures)
        yield draw_samples(predictions, self.data.class_names, pictures)

    def _inputs(self, pictures: np.ndarray) -> Tensor:
        """Normalized images on the model's device: (n, H, W, C) uint8 -> (n, C, H, W) float32."""
        if self.data.mean is None or self.data.std is None:
            raise RuntimeError("The data set has not been set up.")
        scale, shift = scale_and_shift(self.data.mean, self.data.std)
        return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() * scale + shift).to(self.model.device)

    def _of_network(self) -> Iterator[Figure]:
        with in_evaluation(self.model):
            layers, operations = draw_layers(self.model, torch.zeros(1, *self.data.input_shape).to(self.model.device))
        self.numbers["operations_an_input"] = operations
        yield layers
        if (filters := draw_filters(self.model, self.data.input_shape)) is not None:
            yield filters

    def _explanations(self, predictions: Predictions) -> Iterator[Figure]:
        pictures = self._pictures(predictions.stage)
        names, correct = predictions.names, predictions.predicted == predictions.labels
        with in_evaluation(self.model):
            first = pictures(np.array([0]))
            maps = draw_activations(self.model, self._inputs(first), first[0], names[0], self.layers, self.channels)
        if maps is not None:
            yield maps
        wrong = np.flatnonzero(~correct)[: MAX_EXPLAINED // 2]
        others = np.flatnonzero(correct)[: MAX_EXPLAINED - len(wrong)]
        places = np.concatenate([wrong, others])
        titles = [describe(predictions, self.data.class_names, int(place)) for place in places]
        with in_evaluation(self.model):
            shown = pictures(places)
            cam = draw_grad_cam(self.model, self._inputs(shown), shown, titles, [names[place] for place in places])
        if cam is not None:
            yield cam

    def lines(self, training_seconds: float) -> Iterator[str]:
        """Lines about the figures that were drawn and those that failed."""
        share = f", {100 * self.seconds / training_seconds:.1f} % of the training time" if training_seconds > 60 else ""
        yield f"figures     {len(self.files)} in {self.folder} ({self.seconds:.1f} s{share})"
        if letter := self.without_glyph:
            yield f"            no installed font has {letter}, which figures write as {escaped(letter)}"
        for name, reason in self.failed.items():
            yield f"            {name} could not be drawn ({reason})"
