"""Figures of training over time: loss and accuracy, loss of the steps, throughput."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from visionbench.figures.figure import Figure, new_canvas

# Largest number of learning rate changes that are marked in the curves; a schedule with more gets its own panel.
MAX_MARKED = 8
# Largest number of points of a loss curve: more would overlap.
MAX_POINTS = 500
COLORS = {"train": "C0", "val": "C1", "test": "C2", "train_eval": "C9", "augmented_val": "C6"}
LABELS = {
    "train": "training",
    "val": "validation",
    "test": "test",
    "train_eval": "training, in evaluation mode",
    "augmented_val": "validation, augmented",
}
# Curves, in this order; those of further evaluations are there where they were made after each epoch.
CURVES = ("train", "train_eval", "val", "augmented_val")


def draw_learning_curves(
    rows: Sequence[Mapping[str, Any]], best_epoch: int | None, before: Mapping[str, float] | None = None
) -> Figure:
    """Draws loss and accuracy after each epoch, with the best epoch and each change of the learning rate.

    Args:
        rows: Rows of metrics.csv.
        best_epoch: Number of the best epoch, from 0; `None` if no epoch was selected.
        before: Metrics before training, if they were computed.
    """
    epochs = np.array([row["epoch"] + 1 for row in rows])
    rates = [row.get("lr") for row in rows]
    changes = [n for n in range(1, len(rows)) if rates[n] is not None and rates[n] != rates[n - 1]]
    panels = 3 if len(changes) > MAX_MARKED else 2
    canvas = new_canvas(4.2 * panels, 3.6)
    all_axes = canvas.subplots(1, panels)
    for axes, metric in zip(all_axes, ("loss", "acc"), strict=False):
        for stage in CURVES:
            values = np.array([float(row.get(f"{stage}/{metric}", math.nan)) for row in rows])
            present = ~np.isnan(values)  # the line connects the epochs that have a validation
            if present.any():
                marker = "o-" if present.sum() < 30 else "-"
                axes.plot(
                    epochs[present], values[present], marker, markersize=3, color=COLORS[stage], label=LABELS[stage]
                )
        if before is not None:
            _mark_untrained(axes, before, metric, len(rows))
        for n in changes if len(changes) <= MAX_MARKED else []:
            axes.axvline(epochs[n] - 0.5, color="gray", linewidth=0.7, linestyle=":")
            axes.annotate(
                f"lr {rates[n]:.2g}",
                (epochs[n] - 0.5, 0.98),
                xycoords=("data", "axes fraction"),
                rotation=90,
                ha="right",
                va="top",
                fontsize=6,
                color="gray",
            )
        if best_epoch is not None:
            axes.axvline(best_epoch + 1, color="black", linewidth=0.8, linestyle="--", label=f"best, {best_epoch + 1}")
        axes.set_xlabel("epoch")
        axes.set_ylabel("accuracy" if metric == "acc" else metric)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
        if not any(math.isfinite(float(row.get(f"{stage}/{metric}", math.nan))) for row in rows for stage in LABELS):
            axes.text(0.5, 0.5, f"no {metric} is a number", ha="center", transform=axes.transAxes)
    if panels == 3:
        all_axes[2].plot(epochs, [math.nan if rate is None else rate for rate in rates], color="C3")
        all_axes[2].set_xlabel("epoch")
        all_axes[2].set_ylabel("learning rate")
        all_axes[2].grid(alpha=0.3)
        all_axes[2].xaxis.set_major_locator(MaxNLocator(integer=True))
    canvas.suptitle("Learning curves", fontsize=10)
    columns = ["epoch", "lr", "train/loss", "train/acc", "val/loss", "val/acc"]
    further = [f"{stage}/{metric}" for stage in ("train_eval", "augmented_val") for metric in ("loss", "acc")]
    columns += [name for name in further if any(name in row for row in rows)]
    table = [[row["epoch"] + 1, *(row.get(name, "") for name in columns[1:])] for row in rows]
    if before is not None:
        table.insert(0, [0, "", *(before.get(name, "") for name in columns[2:])])
    return Figure("learning-curves", canvas, columns, table, is_curve=True)


def _mark_untrained(axes: Any, before: Mapping[str, float], metric: str, epochs: int) -> None:
    """Marks the metric of the untrained model at epoch 0.

    The limits of the axis are those of the trained epochs: a value outside is a triangle at the edge, and its number
    is in the legend.

    Args:
        axes: Axes with the curves of the trained epochs.
        before: Metrics before training.
        metric: `loss` or `acc`.
        epochs: Number of trained epochs.
    """
    low, high = axes.get_ylim()
    fixed = epochs > 1  # a single epoch gives points, not a curve whose scale matters
    for stage, size in (("train", 9), ("val", 6)):  # different sizes, so that both are visible if they overlap
        value = before.get(f"{stage}/{metric}")
        if value is None or not math.isfinite(value):
            continue
        label = f"{LABELS[stage]}, untrained"
        if not fixed or low <= value <= high:
            axes.plot(0, value, "s", color=COLORS[stage], markersize=size, label=label)
            continue
        edge, marker = (1.0, "^") if value > high else (0.0, "v")
        axes.plot(
            *(0, edge, marker),
            transform=axes.get_xaxis_transform(),
            color=COLORS[stage],
            markersize=size,
            clip_on=False,
            label=f"{label}: {value:.3g}",
        )
    if fixed:
        axes.set_ylim(low, high)


def draw_step_losses(losses: np.ndarray, batches: int, batch_size: int, samples: int) -> Figure:
    """Draws the minimized loss of each batch against the number of training samples seen.

    Args:
        losses: Loss of each batch, shape (N,), float32.
        batches: Number of batches in an epoch.
        batch_size: Number of samples in a batch, over all processes.
        samples: Number of samples in an epoch.
    """
    size = max(1, -(-len(losses) // MAX_POINTS))
    edges = np.arange(0, len(losses), size)
    ends = np.append(edges[1:], len(losses))
    means = np.add.reduceat(losses.astype(np.float64), edges) / (ends - edges)
    epochs, within = np.divmod(ends, batches)
    seen = epochs * samples + np.minimum(within * batch_size, samples)
    epoch_count = -(-len(losses) // batches)
    canvas = new_canvas(7, 3.6)
    axes = canvas.subplots()
    axes.plot(seen, means, linewidth=0.9)
    for epoch in range(1, epoch_count) if epoch_count <= 40 else []:
        axes.axvline(epoch * samples, color="gray", linewidth=0.5, linestyle=":")
    finite = means[np.isfinite(means)]
    if len(finite) and finite.min() > 0 and finite.max() > 20 * finite.min():
        axes.set_yscale("log")
    if not len(finite):
        axes.text(0.5, 0.5, "no loss is a number", ha="center", transform=axes.transAxes)
    axes.set_xlabel("training samples seen" + (" (dotted: epochs)" if 1 < epoch_count <= 40 else ""))
    axes.set_ylabel("minimized loss")
    axes.set_title("Loss of the steps" + (f", means of {size}" if size > 1 else ""))
    axes.grid(alpha=0.3)
    rows = [[int(n), float(m)] for n, m in zip(seen, means, strict=True)]
    return Figure("step-losses", canvas, ["samples", "loss"], rows, is_curve=True)


def draw_throughput(epochs: Sequence[tuple[int, int, float]], item: str) -> Figure:
    """Draws the number of training samples per second in each epoch.

    Args:
        epochs: Number (from 0), samples and seconds of each epoch.
        item: Word for one sample.
    """
    canvas = new_canvas(5.5, 3)
    axes = canvas.subplots()
    speeds = [samples / max(seconds, 1e-9) for _, samples, seconds in epochs]
    numbers = [epoch + 1 for epoch, _, _ in epochs]
    axes.plot(numbers, speeds, "o-" if len(numbers) < 30 else "-", markersize=3)
    axes.set_ylim(0, 1.1 * max(speeds))
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{item}s per second")
    axes.set_title(f"Throughput of training, median {np.median(speeds):,.0f} {item}s per second")
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    rows = [
        [n, samples, round(seconds, 3), round(v, 1)]
        for n, (_, samples, seconds), v in zip(numbers, epochs, speeds, strict=True)
    ]
    return Figure("throughput", canvas, ["epoch", "samples", "seconds", "a_second"], rows, is_curve=True)
