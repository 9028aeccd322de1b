"""Figures with images of a split: what was taken for something else, and a sample of all."""

from collections.abc import Callable, Sequence

import numpy as np

from visionbench.evaluation.predictions import WORDS, Predictions
from visionbench.figures.figure import CORRECT, WRONG, Figure, Grid, cut

COLUMNS = 6
SHOWN = 30
# Characters of a class name in a caption, whose first line also holds "predicted" and the confidence.
CAPTION_LENGTH = 13

# Gives the images at some places of a split, (n, H, W, C), uint8.
Images = Callable[[np.ndarray], np.ndarray]


def draw_errors(predictions: Predictions, class_names: Sequence[str], images: Images) -> Figure:
    """The wrong predictions that the model was most sure of."""
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    # Not a number is the least sure of all.
    surest = wrong[np.argsort(-np.nan_to_num(predictions.confidence[wrong], nan=-1), kind="stable")]
    stage = WORDS[predictions.stage]
    title = f"Wrong predictions, {stage}: the surest {min(SHOWN, len(wrong))} of {len(wrong):,}"
    if not len(wrong):
        title = f"No wrong prediction among {len(predictions):,}, {stage}"
    return _grid("errors", title, surest, predictions, class_names, images)


def draw_samples(predictions: Predictions, class_names: Sequence[str], images: Images) -> Figure:
    """Samples spread evenly over the split, in its order."""
    count = min(SHOWN, len(predictions))
    places = np.linspace(0, len(predictions) - 1, count).round().astype(np.int64)
    return _grid("samples", f"Predictions, {WORDS[predictions.stage]}", places, predictions, class_names, images)


def _grid(
    name: str, title: str, places: np.ndarray, predictions: Predictions, class_names: Sequence[str], images: Images
) -> Figure:
    """Images with what they are called, what they are and what they were taken for; a table row for each place."""
    shown = places[:SHOWN]
    lines = max(1, -(-len(shown) // COLUMNS))
    grid = Grid(lines if len(shown) else 0, COLUMNS, 1.5, 0.5, title)
    confidence = predictions.confidence
    pictures = images(shown) if len(shown) else ()
    for number, (place, picture) in enumerate(zip(shown, pictures, strict=True)):
        true, predicted = int(predictions.labels[place]), int(predictions.predicted[place])
        words = describe(predictions, class_names, int(place))
        grid.show_picture(number, picture, words, CORRECT if true == predicted else WRONG)
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
    """The end of a sample's name, which tells it from others."""
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
