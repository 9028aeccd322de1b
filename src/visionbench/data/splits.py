"""Splits into training, validation and test images, stratified by class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from visionbench.errors import UserError


@dataclass(frozen=True)
class Split:
    """Images of one split.

    Attributes:
        part: Part of the store that holds the images: `train`, `val` or `test`.
        index: Indices of the images in that part, in order, shape (N,), int64.
    """

    part: str
    index: np.ndarray


def stratified_holdout(
    labels: np.ndarray,
    size: int | float,
    seed: int,
    *,
    name: str = "data.val_size",
    class_names: Sequence[str] | None = None,
    item: str = "image",
) -> tuple[np.ndarray, np.ndarray]:
    """Selects a subset in which the share of each class is as close as possible to its share of the whole data set.

    Args:
        labels: Labels of all samples, shape (N,), integers.
        size: Number of samples to select, or their fraction of N (below 1).
        seed: Seed that chooses the samples.
        name: Name of the option that sets the size, for messages.
        class_names: Names of the classes, for messages.
        item: Word for one sample, for messages.

    Returns:
        The indices that remain and the selected indices, each sorted.

    Raises:
        UserError: The size would leave no sample of a class, or is larger than the data set.
    """
    count = round(size * len(labels)) if isinstance(size, float) else size
    if count == 0 and size > 0:
        raise UserError(f"{name} {size} of {len(labels)} {item}s is not one {item}; give a larger one, or 0 for none.")
    if count >= len(labels):
        raise UserError(
            f"{name} asks for {count} of the {len(labels)} training {item}s, so that none is left to train on; "
            "give a smaller count or a fraction."
        )
    # RandomState's stream is frozen for good (NEP 19), so a split does not change with NumPy's version.
    random = np.random.RandomState(seed)
    classes, totals = np.unique(labels, return_counts=True)
    exact = totals * (count / len(labels))
    counts = np.floor(exact).astype(int)
    # The classes with the largest remainders get one sample more; ties go to the lower label.
    for extra in np.argsort(counts - exact, kind="stable")[: count - counts.sum()]:
        counts[extra] += 1
    by_class = [random.permutation(np.flatnonzero(labels == c))[:n] for c, n in zip(classes, counts, strict=True)]
    selected = np.zeros(len(labels), dtype=bool)
    selected[np.concatenate(by_class)] = True
    for label, total, n in zip(classes, totals, counts, strict=True):
        if n == total and count:
            raise UserError(
                f"{name} {size} would take all {total} training {item}s of class {_class_name(label, class_names)}; "
                "give a smaller one."
            )
    return np.flatnonzero(~selected), np.flatnonzero(selected)


def stratified_fold(
    labels: np.ndarray,
    fold: int,
    folds: int,
    seed: int,
    *,
    class_names: Sequence[str] | None = None,
    item: str = "image",
) -> tuple[np.ndarray, np.ndarray]:
    """Splits a data set into stratified folds, whose sizes differ by at most one, and holds one of them out.

    Args:
        labels: Labels of all samples, shape (N,), integers.
        fold: Number of the fold that is held out, from 0.
        folds: Number of folds; N for leave-one-out cross-validation.
        seed: Seed that assigns the samples to the folds.
        class_names: Names of the classes, for messages.
        item: Word for one sample, for messages.

    Returns:
        The indices that remain and the indices of the fold held out, each sorted. The folds are disjoint and together
        cover the data set.

    Raises:
        UserError: There are more folds than samples, or holding the fold out would leave no sample of a class.
    """
    if folds > len(labels):
        raise UserError(
            f"data.folds is {folds}, but there are {len(labels)} {item}s to split; give {len(labels)} for "
            "leave-one-out, or fewer."
        )
    random = np.random.RandomState(seed)
    # One class after the other, each shuffled; every fold gets each `folds`-th sample of this order.
    order = np.concatenate([random.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)])
    held_out = np.zeros(len(labels), dtype=bool)
    held_out[order[fold::folds]] = True
    if missing := sorted(set(labels[held_out].tolist()) - set(labels[~held_out].tolist())):
        raise UserError(
            f"Fold {fold} of {folds} would hold out all training {item}s of class "
            f"{_class_name(missing[0], class_names)}; give that class more {item}s."
        )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def stratified_part(
    labels: np.ndarray,
    size: int | float,
    seed: int,
    class_names: Sequence[str] | None = None,
    item: str = "image",
) -> np.ndarray:
    """Selects a stratified subset; a smaller subset lies within every larger one.

    All samples are sorted by a key, and a subset is the beginning of this order: the i-th of n samples of a class, in
    random order, has the key (i + 1/2) / n. Largest remainders, as in `stratified_holdout`, would not give nested
    subsets: with one sample more in total, a class may get one sample less.

    Args:
        labels: Labels of all samples, shape (N,), integers.
        size: Number of samples to select, or their fraction of N (up to 1).
        seed: Seed that chooses the samples.
        class_names: Names of the classes, for messages.
        item: Word for one sample, for messages.

    Returns:
        The selected indices, sorted.

    Raises:
        UserError: A class would have no sample, or the size is larger than the data set.
    """
    count = round(size * len(labels)) if isinstance(size, float) else size
    if count > len(labels):
        raise UserError(
            f"data.train_size asks for {count} of the {len(labels)} {item}s that are left for training; give a smaller "
            "count, or a fraction up to 1.0."
        )
    random = np.random.RandomState(seed)
    key = np.empty(len(labels))
    classes, totals = np.unique(labels, return_counts=True)
    for label, total in zip(classes, totals, strict=True):
        key[random.permutation(np.flatnonzero(labels == label))] = (np.arange(total) + 0.5) / total
    selected: np.ndarray = np.sort(np.lexsort((labels, key))[:count])
    if missing := sorted(set(classes.tolist()) - set(labels[selected].tolist())):
        raise UserError(
            f"data.train_size {size} leaves no {item} of class {_class_name(missing[0], class_names)} to train on; "
            "give a larger one."
        )
    return selected


def check_folds(
    folds: int | None, fold: int | None, fold_is: str, sizes: Mapping[str, int | float | None], item: str
) -> None:
    """Checks the options that choose a fold.

    Args:
        folds: Number of folds, or `None`.
        fold: Number of the fold that is held out, or `None`.
        fold_is: Split that the fold becomes: `test` or `val`.
        sizes: Sizes of the splits `test` and `val`, as the user set them.
        item: Name of one sample in messages.

    Raises:
        UserError: The options contradict each other, or a number is out of range.
    """
    if folds is None and fold is None:
        return
    if folds is None or fold is None:
        present, value, missing = ("folds", folds, "fold") if fold is None else ("fold", fold, "folds")
        raise UserError(f"data.{present} is {value}, but data.{missing} is not given; give both, or neither.")
    if folds < 2:
        raise UserError(f"data.folds is {folds}, expected 2 or more.")
    if not 0 <= fold < folds:
        raise UserError(f"data.fold is {fold}, expected 0 to {folds - 1}, one of the {folds} data.folds.")
    if sizes[fold_is] is not None:
        raise UserError(
            f"data.{fold_is}_size is {sizes[fold_is]}, but the {fold_is} {item}s are those of data.fold {fold}; give "
            "only one of them."
        )


def _class_name(label: int, class_names: Sequence[str] | None) -> str:
    return str(label) if class_names is None else class_names[label]
