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
    copies: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Selects a subset in which the share of each class is as close as possible to its share of the whole data set.

    Args:
        labels: Labels of all samples, shape (N,), integers.
        size: Number of samples to select, or their fraction of N (below 1).
        seed: Seed that chooses the samples.
        name: Name of the option that sets the size, for messages.
        class_names: Names of the classes, for messages.
        item: Word for one sample, for messages.
        copies: Groups of `groups_of_copies`, shape (N,): all samples of a group are selected, or none, and at least one
            group of each class that is cut, so that the number of selected samples may differ from `size`.

    Returns:
        The indices that remain and the selected indices, each sorted.

    Raises:
        UserError: The size would leave no sample of a class, or is larger than the data set; or a class that is to be
            cut consists of copies of one sample.
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
    orders = [random.permutation(np.flatnonzero(labels == label)) for label in classes]
    if copies is None:
        by_class = [order[:n] for order, n in zip(orders, counts, strict=True)]
    else:
        by_class = _whole_groups(orders, counts, copies)
    selected = np.zeros(len(labels), dtype=bool)
    selected[np.concatenate(by_class)] = True
    for label, total, n in zip(classes, totals, counts, strict=True):
        if n == total and count:
            raise UserError(
                f"{name} {size} would take all {total} training {item}s of class {_class_name(label, class_names)}; "
                "give a smaller one."
            )
        if n and not selected[labels == label].any():
            raise UserError(
                f"All {total} training {item}s of class {_class_name(label, class_names)} are copies of one, so that "
                f"{name} {size} cannot select some of them; give that class other {item}s, or set {name} to 0."
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
    copies: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Splits a data set into stratified folds, whose sizes differ by at most one, and holds one of them out.

    Args:
        labels: Labels of all samples, shape (N,), integers.
        fold: Number of the fold that is held out, from 0.
        folds: Number of folds; N for leave-one-out cross-validation.
        seed: Seed that assigns the samples to the folds.
        class_names: Names of the classes, for messages.
        item: Word for one sample, for messages.
        copies: Groups of `groups_of_copies`, shape (N,): all samples of a group are in one fold, so that the sizes of
            folds may differ by more than one.

    Returns:
        The indices that remain and the indices of the fold held out, each sorted. The folds are disjoint and together
        cover the data set.

    Raises:
        UserError: There are more folds than samples, or holding the fold out would leave no sample of a class.
    """
    random = np.random.RandomState(seed)
    order = np.concatenate([random.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)])
    groups = order if copies is None else copies[order]
    _, places, members = np.unique(groups, return_index=True, return_inverse=True)
    if folds > len(places):
        differ = f", of which {len(places)} differ" * (len(places) < len(labels))
        raise UserError(
            f"data.folds is {folds}, but there are {len(labels)} {item}s to split{differ}; give {len(places)} for "
            "leave-one-out, or fewer."
        )
    # One class after the other, each shuffled; every fold gets each `folds`-th sample of this order, and its copies.
    numbers = np.empty(len(places), dtype=np.int64)
    numbers[np.argsort(places)] = np.arange(len(places))
    held_out = np.zeros(len(labels), dtype=bool)
    held_out[order[numbers[members] % folds == fold]] = True
    if missing := sorted(set(labels[held_out].tolist()) - set(labels[~held_out].tolist())):
        copied = ", which are copies of one" * int(np.count_nonzero(labels == missing[0]) > 1)
        raise UserError(
            f"Fold {fold} of {folds} would hold out all training {item}s of class "
            f"{_class_name(missing[0], class_names)}{copied}; give that class more {item}s."
        )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def groups_of_copies(labels: np.ndarray, digests: np.ndarray) -> np.ndarray | None:
    """Finds the samples of one class that have the same bytes, which belong on one side of a cut.

    Args:
        labels: Labels of all samples, shape (N,), integers.
        digests: Digests of all samples, shape (N,), integers.

    Returns:
        For each sample, the index of the first one of its class with its digest, shape (N,); `None` where all differ.
    """
    order = np.lexsort((digests, labels))
    same = (np.diff(digests[order]) == 0) & (np.diff(labels[order]) == 0)
    if not same.any():
        return None
    # `lexsort` is stable, so that the first of equal samples in `order` has the lowest index.
    starts = np.maximum.accumulate(np.where(np.append(False, same), 0, np.arange(len(order))))
    groups = np.empty(len(order), dtype=np.int64)
    groups[order] = order[starts]
    return groups


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


def _whole_groups(orders: Sequence[np.ndarray], counts: np.ndarray, copies: np.ndarray) -> list[np.ndarray]:
    """Selects about as many samples of each class as asked for, in its order, and all copies of a sample or none.

    A class of which some are asked for gets at least one group and keeps at least one. What it gets too few, the next
    classes make up for; they never get fewer for what it gets too many, or hardly any of them might be selected.
    """
    selected, missing = [], 0
    for order, count in zip(orders, counts, strict=True):
        _, places, members, sizes = np.unique(copies[order], return_index=True, return_inverse=True, return_counts=True)
        taken = np.zeros(len(places), dtype=bool)
        room = max(count, min(count + missing, len(order) - 1)) if count else 0
        for group in np.argsort(places):
            if sizes[group] <= room:
                taken[group] = True
                room -= sizes[group]
        if count and len(sizes) > 1 and not taken.any():
            taken[np.lexsort((places, sizes))[0]] = True  # the smallest; of several, the first in the order
        selected.append(order[taken[members]])
        missing += count - len(selected[-1])
    return selected


def _class_name(label: int, class_names: Sequence[str] | None) -> str:
    return str(label) if class_names is None else class_names[label]
