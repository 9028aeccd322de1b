"""A model's predictions on a split, and their files in a run folder."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from visionbench.files import CsvLines, write_whole

# Splits as they are written on figures and pages.
SPLIT_TITLES = {"train": "training", "val": "validation", "test": "test"}
# Evaluations besides those of validation and test, as they begin the names of metrics.
EVALUATIONS = ("train_eval", "before", "augmented_val")


@dataclass(frozen=True)
class Predictions:
    """Predictions of a model on a split.

    Attributes:
        stage: Name of the split: `train`, `val` or `test`; `train_eval` for the training split in evaluation mode.
        probabilities: Probability of each class, shape (N, classes), float32.
        predicted: Predicted classes, shape (N,), int64.
        labels: True classes, shape (N,), int64.
        names: Names of the samples.
    """

    stage: str
    probabilities: np.ndarray
    predicted: np.ndarray
    labels: np.ndarray
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the predicted class, shape (N,), float32; NaN if the model's output is not a number."""
        confidence: np.ndarray = self.probabilities[np.arange(len(self)), self.predicted]
        return confidence


def save_predictions(folder: Path, predictions: Predictions, class_names: tuple[str, ...]) -> None:
    """Writes `STAGE.csv` and `STAGE-probabilities.npy`."""
    folder.mkdir(exist_ok=True)
    table = io.StringIO()
    writer = csv.writer(CsvLines(table))
    writer.writerow(["sample", "true", "predicted", "confidence"])
    for name, label, predicted, confidence in zip(
        predictions.names, predictions.labels, predictions.predicted, predictions.confidence, strict=True
    ):
        # The shortest digits that read back as the same number.
        writer.writerow([name, class_names[label], class_names[predicted], str(confidence)])
    array = io.BytesIO()
    np.save(array, predictions.probabilities.astype(np.float32), allow_pickle=False)
    write_whole(folder / f"{predictions.stage}-probabilities.npy", array.getvalue())
    write_whole(folder / f"{predictions.stage}.csv", table.getvalue().encode("utf-8", "backslashreplace"))


def remove_predictions(folder: Path, stage: str) -> None:
    """Removes the files of `save_predictions`, where they exist."""
    for name in (f"{stage}.csv", f"{stage}-probabilities.npy"):
        (folder / name).unlink(missing_ok=True)


def read_predictions(folder: Path, stage: str, class_names: tuple[str, ...]) -> Predictions | None:
    """Reads the files of `save_predictions`; `None` if they do not exist."""
    path = folder / f"{stage}.csv"
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    number = {name: label for label, name in enumerate(class_names)}
    probabilities = np.load(folder / f"{stage}-probabilities.npy", allow_pickle=False)
    if probabilities.shape != (len(rows), len(class_names)):
        expected = f"{len(rows)} rows and {len(class_names)} classes"
        raise ValueError(f"the probabilities have the shape {probabilities.shape}, expected {expected}")
    return Predictions(
        stage,
        probabilities,
        np.array([number[row["predicted"]] for row in rows], dtype=np.int64),
        np.array([number[row["true"]] for row in rows], dtype=np.int64),
        [row["sample"] for row in rows],
    )
