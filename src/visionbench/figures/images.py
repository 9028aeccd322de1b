"""Figures with images of a split: the wrong predictions, and a selection of all samples."""

from collections.abc import Callable, Sequence

import numpy as np

from visionbench.evaluation.predictions import SPLIT_TITLES, Predictions
from visionbench.figures.figure import CORRECT, WRONG, Figure, Grid, cut

COLUMNS = 6
MAX_SHOWN = 30
# Characters of a class name in a caption, whose first line also holds "predicted" and the confidence.
CAPTION_LENGTH = 13

# Function that returns the images of a split at given indices, (n, H, W, C), uint8.
Images = Callable[[np.ndarray], np.ndarray]


def draw_errors(predictions: Predictions, class_names: Sequence[str], images: Images) -> Figure:
    """Draws the wrong predictions with the highest confidence."""
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    # A confidence that is not a number counts as the lowest.
    by_confidence = wrong[np.argsort(-np.nan_to_num(predictions.confidence[wrong], nan=-1), kind="stable")]
    stage = SPLIT_TITLES[predictions.stage]
    title = f"Wrong predictions, {stage}: the {min(MAX_SHOWN, len(wrong))} most confident of {len(wrong):,}"
    if not len(wrong):
        title = f"No wrong prediction among {len(predictions):,}, {stage}"
    return _grid("errors", title, by_confidence, predictions, class_names, images)


def draw_samples(predictions: Predictions, class_names: Sequence[str], images: Images) -> Figure:
    """Draws samples spread evenly over the split, in its order."""
    count = min(MAX_SHOWN, len(predictions))
    places = np.linspace(0, len(predictions) - 1, count).round().astype(np.int64)
    return _grid("samples", f"Predictions, {SPLIT_TITLES[predictions.stage]}", places, predictions, class_names, images)


def _grid(
    name: str, title: str, places: np.ndarray, predictions: Predictions, class_names: Sequence[str], images: Images
) -> Figure:
    """Images with name, predicted class and true class; the data has one row per index in `places`."""
    shown = places[:MAX_SHOWN]
    lines = max(1, -(-len(shown) // COLUMNS))
    grid = Grid(lines if len(shown) else 0, COLUMNS, 1.5, 0.5, title)
    confidence = predictions.confidence
    pictures = images(shown) if len(shown) else ()
    for number, (place, picture) in enumerate(zip(shown, pictures, strict=True)):
        true, predicted = int(predictions.labels[place]), int(predictions.predicted[place])
        caption = describe(predictions, class_names, int(place))
        grid.show_picture(number, picture, caption, CORRECT if true == predicted else WRONG)
    rows = [
        [
            predictions.names[place],
            class_names[predictions.labels[place]],
            class_names[predictions.predicted[place]],
            str(confidence[place]),
        ]
        for place in places
    ]
    return Figure(f"{predictions.stage}-{name}", grid.canvas, ["sample", "true", "predicted", "confidence"], rows)


def short_name(name: str) -> str:
    """The end of a sample's name, which differs between samples."""
    return cut(name if len(name) <= 24 else f"...{name[-21:]}", 24)


def describe(predictions: Predictions, class_names: Sequence[str], place: int) -> str:
    """The caption of a sample: its name, its predicted class with the confidence, and its true class."""
    return "\n".join(
        [
            short_name(predictions.names[place]),
            f"predicted {predicted_class(predictions, class_names, place)}",
            f"true {cut(class_names[predictions.labels[place]], CAPTION_LENGTH)}",
        ]
    )


def predicted_class(predictions: Predictions, class_names: Sequence[str], place: int) -> str:
    """The predicted class with its confidence: Dress (99.5 %)."""
    confidence = predictions.confidence[place]
    percent = f" ({100 * confidence:.1f} %)" if np.isfinite(confidence) else ""
    return cut(class_names[predictions.predicted[place]], CAPTION_LENGTH) + percent
