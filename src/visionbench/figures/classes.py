"""Figures of a model's predictions on a split: confusion, scores per class, calibration, thresholds."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from visionbench.evaluation.intervals import wilson_interval
from visionbench.evaluation.measures import (
    at_threshold,
    class_scores,
    classes_with,
    confused_pairs,
    confusion,
    mean_scores,
    reliability,
    shares_of_rows,
    threshold_curves,
)
from visionbench.evaluation.predictions import SPLIT_TITLES, Predictions
from visionbench.figures.figure import WRONG, Figure, cut, new_canvas
from visionbench.text import as_percent

# Largest number of classes for which the cells of a matrix hold numbers; with more classes they have only colors.
MAX_NUMBERED_CLASSES = 25
# Largest number of rows in a figure with one row per class; of more classes, those with the lowest score are shown.
MAX_ROWS = 40
MAX_PAIRS = 15
LABEL_LENGTH = 18


def draw_classes(
    predictions: Predictions, class_names: Sequence[str], threshold: float | None = None
) -> Iterator[Figure]:
    """Draws all figures of a split's predictions that need no images.

    Args:
        predictions: Predictions on the split.
        class_names: Names of the classes, in the order of the labels.
        threshold: Decision threshold for the second of two classes, chosen on another split.
    """
    counts = confusion(predictions.labels, predictions.predicted, len(class_names))
    stage = predictions.stage
    yield draw_confusion(stage, counts, class_names)
    yield draw_confusion(stage, counts, class_names, of_rows=True)
    yield _pairs(stage, counts, class_names)
    yield _scores(stage, counts, class_names)
    yield _accuracy(stage, counts, class_names)
    yield _reliability(predictions)
    if len(class_names) == 2:
        yield from _thresholds(predictions, class_names, threshold)


def draw_confusion(stage: str, counts: np.ndarray, class_names: Sequence[str], of_rows: bool = False) -> Figure:
    """Draws the confusion matrix.

    Args:
        stage: Split: train, val or test.
        counts: Confusion matrix, shape (classes, classes), one row per true class.
        class_names: Names of the classes, in the order of the labels.
        of_rows: Whether the cells are shares of their row instead of counts.
    """
    classes = len(class_names)
    values = shares_of_rows(counts) if of_rows else counts
    has_numbers = classes <= MAX_NUMBERED_CLASSES
    # A cell has room for its number, 0.36 inches for four digits, within a limit for the whole figure.
    side = min(12.0, max(2.8, (0.36 + 0.012 * len(str(counts.max()))) * classes)) if has_numbers else 9.0
    canvas = new_canvas(side + 2.6, side + 1.6)
    axes = canvas.subplots()
    top = max(1.0, float(np.nanmax(values))) if not of_rows else 1.0
    # Color follows the square root of the count, so that rare confusions are visible beside frequent ones.
    image = axes.imshow(np.nan_to_num(values), cmap="Blues", norm=PowerNorm(0.5, 0, top), interpolation="nearest")
    canvas.colorbar(image, ax=axes, shrink=0.8, label="share of the true class" if of_rows else "samples")
    title = "Confusion matrix, shares of each true class" if of_rows else "Confusion matrix"
    canvas.suptitle(f"{title}{' in percent' if of_rows and has_numbers else ''}, {SPLIT_TITLES[stage]}", fontsize=10)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    # Names are 7 points high; if rows are narrower, only every k-th class is named.
    every = max(1, math.ceil(classes * 9 / (72 * side)))
    named = range(0, classes, every)
    labels = [cut(class_names[n], LABEL_LENGTH) for n in named]
    rotated = max(map(len, labels)) * 0.08 > side / len(labels)
    axes.set_xticks(named, labels, fontsize=7, rotation=90 if rotated else 0)
    axes.set_yticks(named, labels, fontsize=7)
    axes.tick_params(length=0 if has_numbers else 2)
    if has_numbers:
        for true, predicted in np.argwhere(counts > 0):
            value = values[true, predicted]
            text = f"{100 * value:.0f}" if of_rows else f"{value:,}"
            dark = math.sqrt(value / top) > 0.6
            axes.text(predicted, true, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    rows = [[class_names[n], *(_number(value) for value in values[n])] for n in range(classes)]
    name = f"{stage}-confusion-shares" if of_rows else f"{stage}-confusion"
    return Figure(name, canvas, ["true", *class_names], rows)


def _number(value: Any) -> Any:
    return value.item() if math.isfinite(value) else ""


def _pairs(stage: str, counts: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draws the most frequent confusions."""
    pairs = confused_pairs(counts)
    support = counts.sum(axis=1)
    shown = pairs[:MAX_PAIRS]
    canvas = new_canvas(7, 1.2 + 0.26 * max(1, len(shown)))
    axes = canvas.subplots()
    axes.set_title(f"Most confused classes, {SPLIT_TITLES[stage]}")
    if not shown:
        _show_text(axes, f"No wrong prediction among {int(counts.sum()):,}.")
    else:
        places = range(len(shown))
        axes.barh(places, [count for *_, count in shown], color=WRONG, alpha=0.75)
        length = 20
        labels = [f"true {cut(class_names[a], length)}, predicted {cut(class_names[b], length)}" for a, b, _ in shown]
        axes.set_yticks(places, labels, fontsize=8)
        axes.invert_yaxis()
        for place, (true, _, count) in enumerate(shown):
            axes.annotate(
                f"{count:,} of {support[true]:,} ({as_percent(count / support[true], 1)})",
                (count, place),
                (3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )
        axes.set_xlim(0, 1.45 * shown[0][2])
        axes.set_xlabel("samples")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    rows = [[class_names[a], class_names[b], n, n / int(support[a])] for a, b, n in pairs]
    return Figure(f"{stage}-confused-pairs", canvas, ["true", "predicted", "count", "share_of_true"], rows)


def _worst(values: np.ndarray) -> tuple[list[int], str]:
    """Classes to show, in the order of the labels, and a text for the title if these are not all classes."""
    if len(values) <= MAX_ROWS:
        return list(range(len(values))), ""
    return sorted(
        np.argsort(values, kind="stable")[:MAX_ROWS].tolist()
    ), f"\nthe {MAX_ROWS} lowest of {len(values)} classes"


def _scores(stage: str, counts: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draws precision, recall, F1 and support of each class; a score that a class does not have is left out."""
    scores, means, has = class_scores(counts), mean_scores(counts), classes_with(counts)
    scores |= {name: np.where(present, scores[name], np.nan) for name, present in has.items()}
    shown, which = _worst(scores["f1"])
    canvas = _rows_canvas(len(shown))
    axes = canvas.subplots()
    places = np.arange(len(shown))
    low = 1.0
    for name, mark in (("precision", "|"), ("recall", "x"), ("f1", "o")):
        values = scores[name][shown]
        low = min(low, float(np.nanmin(values, initial=low)))
        label = f"{'F1' if name == 'f1' else name} (mean {means[name]:.3f})"
        axes.plot(values, places, mark, label=label, markersize=9 if mark == "|" else 5, linestyle="")
    names = [f"{cut(class_names[n], LABEL_LENGTH)}  ({int(scores['support'][n]):,})" for n in shown]
    axes.set_yticks(places, names, fontsize=8)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(max(0.0, math.floor(10 * low - 0.5) / 10), 1.02)
    axes.grid(alpha=0.3)
    axes.set_title(f"Scores of each class (samples), {SPLIT_TITLES[stage]}{which}")
    canvas.legend(loc="outside lower center", ncols=3, fontsize=8)
    rows = [[class_names[n], *(_number(scores[name][n]) for name in scores)] for n in range(len(class_names))]
    return Figure(f"{stage}-scores", canvas, ["class", *scores], rows)


def _accuracy(stage: str, counts: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draws the accuracy, overall and of each class, with its 95 % interval."""
    total, correct = int(counts.sum()), int(np.trace(counts))
    support, correct_of = counts.sum(axis=1), np.diag(counts)
    present = [n for n in range(len(class_names)) if support[n]]
    rows: list[list[Any]] = [["all", correct, total, correct / total, *wilson_interval(correct, total)]]
    for n in present:
        count, of = int(correct_of[n]), int(support[n])
        rows.append([class_names[n], count, of, count / of, *wilson_interval(count, of)])
    chosen, which = _worst(np.array([row[3] for row in rows[1:]]))
    shown = [rows[0], *(rows[1 + n] for n in chosen)]
    canvas = _rows_canvas(len(shown))
    axes = canvas.subplots()
    for place, (_, _, _, share, low, high) in enumerate(shown):
        color = "black" if place == 0 else "C0"
        axes.plot([low, high], [place, place], color=color, linewidth=2 if place == 0 else 1.2)
        axes.plot(share, place, "o", color=color, markersize=5)
    axes.axvline(shown[0][3], color="black", linewidth=0.7, linestyle=":")
    names = [f"{cut(row[0], LABEL_LENGTH)}  ({row[1]:,} of {row[2]:,})" for row in shown]
    axes.set_yticks(range(len(shown)), names, fontsize=8)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(max(0.0, min(row[4] for row in shown) - 0.02), 1.005)
    axes.grid(alpha=0.3)
    _, _, _, share, low, high = rows[0]
    axes.set_title(
        f"Accuracy with its 95 % interval (Wilson), {SPLIT_TITLES[stage]}: {as_percent(share)} "
        f"({100 * low:.2f} to {100 * high:.2f}){which}"
    )
    return Figure(f"{stage}-accuracy", canvas, ["class", "correct", "samples", "accuracy", "low", "high"], rows)


def _rows_canvas(rows: int) -> Canvas:
    return new_canvas(8, 1.5 + 0.22 * max(rows, 4))


def _reliability(predictions: Predictions) -> Figure:
    """Draws the accuracy against the confidence."""
    rows, error = reliability(predictions)
    canvas = new_canvas(5, 5.4)
    upper, lower = canvas.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    known = sum(row[2] for row in rows)
    unknown = len(predictions) - known
    upper.set_title(
        f"Calibration, {SPLIT_TITLES[predictions.stage]}"
        + (f": expected calibration error {error:.4f}" if known else "")
        + (f"\n{unknown:,} predictions without a confidence" if unknown and known else "")
    )
    upper.plot([0, 1], [0, 1], color="black", linewidth=0.7, linestyle=":", label="calibrated")
    width = 1 / len(rows)
    if known:
        filled = [row for row in rows if row[2]]
        upper.bar([row[0] for row in filled], [row[4] for row in filled], width, align="edge", alpha=0.6, label="bins")
        upper.plot(
            [row[3] for row in filled], [row[4] for row in filled], "o-", color="C1", markersize=4, label="means"
        )
        lower.bar(
            [row[0] for row in rows], [row[2] / known for row in rows], width, align="edge", color="C0", alpha=0.6
        )
        upper.legend(loc="upper left", fontsize=8)
    else:
        _show_text(upper, "No prediction has a confidence that is a number.")
    upper.set_xlim(0, 1)
    upper.set_ylim(0, 1.02)
    upper.set_ylabel("accuracy")
    lower.set_xlabel("confidence")
    lower.set_ylabel("share of samples")
    columns = ["from", "to", "samples", "mean_confidence", "accuracy"]
    table = [["" if isinstance(value, float) and math.isnan(value) else value for value in row] for row in rows]
    return Figure(f"{predictions.stage}-reliability", canvas, columns, table, is_curve=True)


def _thresholds(predictions: Predictions, class_names: Sequence[str], threshold: float | None) -> Iterator[Figure]:
    """Draws ROC and precision-recall curves of the second of two classes."""
    curves = threshold_curves(predictions)
    if curves is None:
        return
    stage, positive = predictions.stage, cut(class_names[1], LABEL_LENGTH)
    marks = [(0.5, "s", "threshold 0.5")]
    if threshold is not None:
        marks.append((threshold, "D", f"threshold {threshold:.3f}, of the best F1 in validation"))
    share = float(predictions.labels.mean())

    false_positive, true_positive, thresholds = curves["roc"]
    canvas = new_canvas(5.2, 4.8)
    axes = canvas.subplots()
    axes.plot(false_positive, true_positive, label=f"area {curves['auc']:.3f}")
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.7, linestyle=":", label="chance")
    for value, mark, label in marks:
        scores = at_threshold(predictions, value)
        axes.plot(scores["false_positive_rate"], scores["recall"], mark, linestyle="", label=label)
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    axes.set_title(f"ROC curve of {positive}, {SPLIT_TITLES[stage]}")
    axes.legend(loc="lower right", fontsize=8)
    axes.grid(alpha=0.3)
    rows = np.column_stack([thresholds, false_positive, true_positive]).tolist()
    rows[0][0] = ""  # scikit-learn's infinity: nothing is given the class
    yield Figure(f"{stage}-roc", canvas, ["threshold", "false_positive_rate", "true_positive_rate"], rows, True)

    precision, recall, thresholds = curves["precision_recall"]
    canvas = new_canvas(5.2, 4.8)
    axes = canvas.subplots()
    axes.plot(recall, precision, drawstyle="steps-post", label=f"average precision {curves['average_precision']:.3f}")
    axes.axhline(share, color="black", linewidth=0.7, linestyle=":", label=f"chance, {share:.3f}")
    for value, mark, label in marks:
        scores = at_threshold(predictions, value)
        axes.plot(scores["recall"], scores["precision"], mark, linestyle="", label=label)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.set_ylim(0, 1.03)
    axes.set_title(f"Precision and recall of {positive}, {SPLIT_TITLES[stage]}")
    axes.legend(loc="lower left", fontsize=8)
    axes.grid(alpha=0.3)
    table = [*np.column_stack([thresholds, precision[:-1], recall[:-1]]).tolist(), ["", precision[-1], recall[-1]]]
    yield Figure(f"{stage}-precision-recall", canvas, ["threshold", "precision", "recall"], table, True)


def _show_text(axes: Any, text: str) -> None:
    """Writes a text into empty axes."""
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])
