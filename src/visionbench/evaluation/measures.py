"""Numbers that the figures of predictions show: plain NumPy, and scikit-learn for curves over thresholds."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from visionbench.evaluation.intervals import wilson_interval
from visionbench.evaluation.predictions import Predictions

# Number of confidence bins of the reliability diagram, as in Guo et al., "On Calibration of Modern Neural Networks",
# 2017.
BINS = 15


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Confusion matrix, shape (classes, classes), int64, one row per true class."""
    counts: np.ndarray = np.bincount(labels * classes + predicted, minlength=classes * classes)
    matrix: np.ndarray = counts.reshape(classes, classes)
    return matrix


def shares_of_rows(counts: np.ndarray) -> np.ndarray:
    """Each row divided by its sum; NaN for a class without samples."""
    with np.errstate(invalid="ignore"):
        shares: np.ndarray = counts / counts.sum(axis=1, keepdims=True)
    return shares


def class_scores(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall, F1 and support of each class, from the confusion matrix; 0 if the denominator is 0."""
    correct = np.diag(counts).astype(float)
    support, predicted = counts.sum(axis=1), counts.sum(axis=0)

    def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
        quotient: np.ndarray = np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)
        return quotient

    return {
        "precision": divide(correct, predicted),
        "recall": divide(correct, support),
        "f1": divide(2 * correct, support + predicted),
        "support": support,
    }


def classes_with(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Whether each class has a precision, a recall and an F1, shape (classes,), bool.

    A class without samples has no recall; one that is not predicted either has no score at all.
    """
    support, predicted = counts.sum(axis=1), counts.sum(axis=0)
    in_use = support + predicted > 0
    return {"precision": in_use, "recall": support > 0, "f1": in_use}


def mean_scores(counts: np.ndarray) -> dict[str, float]:
    """Mean precision, recall and F1 of the classes that have them.

    The mean recall is the metric balanced_accuracy and the mean F1 is macro_f1: as there and in scikit-learn, a class
    that nothing was measured of counts for nothing, not as 0.
    """
    scores = class_scores(counts)
    return {name: float(scores[name][present].mean()) for name, present in classes_with(counts).items()}


def confused_pairs(counts: np.ndarray) -> list[tuple[int, int, int]]:
    """(true class, predicted class, count) of each confusion that occurs, in descending order of the count."""
    wrong = counts - np.diag(np.diag(counts))
    pairs = [(int(true), int(predicted), int(wrong[true, predicted])) for true, predicted in np.argwhere(wrong > 0)]
    return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))


def reliability(predictions: Predictions) -> tuple[list[tuple[float, float, int, float, float]], float]:
    """Accuracy by confidence, and the expected calibration error.

    Returns:
        For each confidence bin its edges, number of samples, mean confidence and accuracy (both NaN for an empty bin);
        and the expected calibration error, the mean distance of mean confidence and accuracy over all samples that have
        a confidence.
    """
    known = np.isfinite(predictions.confidence)
    confidence = predictions.confidence[known].astype(np.float64)
    correct = (predictions.predicted == predictions.labels)[known]
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)  # a bin holds its upper edge
    count = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(bins, weights=confidence, minlength=BINS) / count
        accuracy = np.bincount(bins, weights=correct, minlength=BINS) / count
    distances = np.abs(accuracy - mean_confidence)
    error = float(np.nansum(count * distances) / len(confidence)) if len(confidence) else float("nan")
    edges = np.linspace(0, 1, BINS + 1).tolist()
    rows = [
        (
            edges[n],
            edges[n + 1],
            int(count[n]),
            float(mean_confidence[n]),
            float(accuracy[n]),
        )  # a row of the figure's table
        for n in range(BINS)
    ]
    return rows, error


def threshold_curves(predictions: Predictions) -> dict[str, Any] | None:
    """ROC and precision-recall curves of the second of two classes, with the areas under them.

    Returns:
        The curves and areas by name; `None` if only one class is present, or a probability is not a number.
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    truth, score = predictions.labels, predictions.probabilities[:, 1]
    if len(np.unique(truth)) < 2 or not np.isfinite(score).all():
        return None
    return {
        "roc": roc_curve(truth, score),
        "precision_recall": precision_recall_curve(truth, score),
        "auc": float(roc_auc_score(truth, score)),
        "average_precision": float(average_precision_score(truth, score)),
    }


def best_threshold(predictions: Predictions) -> float | None:
    """The smallest threshold on the probability of the second class that gives the largest F1.

    Use it with validation predictions only: on test predictions the reported F1 would be too optimistic.
    """
    curves = threshold_curves(predictions)
    if curves is None:
        return None
    precision, recall, thresholds = curves["precision_recall"]
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[f1[:-1].argmax()])


def at_threshold(predictions: Predictions, threshold: float) -> dict[str, float]:
    """Accuracy and scores of the second class, predicted for a probability of at least `threshold`."""
    predicted = (predictions.probabilities[:, 1] >= threshold).astype(np.int64)
    counts = confusion(predictions.labels, predicted, 2)
    scores = class_scores(counts)
    of_second = {name: float(scores[name][1]) for name in ("precision", "recall", "f1")}
    false_positive_rate = counts[0, 1] / max(1, counts[0].sum())
    return (
        {"threshold": threshold, "accuracy": float(np.trace(counts) / len(predictions))}
        | of_second
        | {"false_positive_rate": float(false_positive_rate)}
    )


def summary(predictions: Predictions, class_names: Sequence[str], threshold: float | None = None) -> dict[str, Any]:
    """Summary of the predictions on a split, in plain types.

    Args:
        predictions: Predictions on the split.
        class_names: Names of the classes, in the order of the labels.
        threshold: Decision threshold for the second of two classes, chosen on another split.
    """
    counts = confusion(predictions.labels, predictions.predicted, len(class_names))
    correct = int(np.trace(counts))
    low, high = wilson_interval(correct, len(predictions))
    numbers: dict[str, Any] = {
        "samples": len(predictions),
        "correct": correct,
        "accuracy": correct / len(predictions),
        "interval": [low, high],
        "macro_f1": mean_scores(counts)["f1"],
        "expected_calibration_error": reliability(predictions)[1],
        "most_confused": [
            {"true": class_names[true], "predicted": class_names[predicted], "count": count}
            for true, predicted, count in confused_pairs(counts)[:10]
        ],
    }
    if len(class_names) == 2 and (curves := threshold_curves(predictions)) is not None:
        numbers |= {name: curves[name] for name in ("auc", "average_precision")}
        if threshold is not None:
            numbers["at_threshold"] = at_threshold(predictions, threshold)
    return numbers
