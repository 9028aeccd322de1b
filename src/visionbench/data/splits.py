"""Splits: which images are trained on, validated on and tested on, stratified by class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from visionbench.errors import UserError


@dataclass(frozen=True)
class Split:
    """The images of one stage.

    Attributes:
        part: The part of the store they lie in: `train`, `val` or `test`.
        index: Their places in it, in order, shape (N,), int64.
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
    """Cuts a part from a data set, with each class's share of it as near to its share of the whole as can be.

    Args:
        labels: Shape (N,), integers.
        size: How many to cut: a count, or a fraction of N below 1.
        seed: Chooses which.
        name: What the size is called in messages.
        class_names: What the labels are called there.
        item: What one of the N is called there.

    Returns:
        The indices that stay and those that are cut, each sorted.

    Raises:
        UserError: Nothing would be left of a class, or more is asked for than there is.
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
    taken = np.floor(exact).astype(int)
    # Largest remainders get the rest; ties go to the lower label.
    for extra in np.argsort(taken - exact, kind="stable")[: count - taken.sum()]:
        taken[extra] += 1
    cut = [random.permutation(np.flatnonzero(labels == c))[:n] for c, n in zip(classes, taken, strict=True)]
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[np.concatenate(cut)] = True
    for label, total, n in zip(classes, totals, taken, strict=True):
        if n == total and count:
            raise UserError(
                f"{name} {size} would take all {total} training {item}s of class {_named(label, class_names)}; give "
                "a smaller one."
            )
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def stratified_fold(
    labels: np.ndarray,
    fold: int,
    folds: int,
    seed: int,
    *,
    class_names: Sequence[str] | None = None,
    item: str = "image",
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a data set into parts of which one is held out; sizes and classes of the parts differ by one at most.

    Args:
        labels: Shape (N,), integers.
        fold: The part that is held out, from 0.
        folds: How many parts there are; N of them leave one out.
        seed: Chooses what belongs together.
        class_names: What the labels are called in messages.
        item: What one of the N is called there.

    Returns:
        The indices that stay and those that are held out, each sorted. Those held out by all folds are disjoint, and
        the whole data set.

    Raises:
        UserError: There are more folds than images, or nothing would be left of a class.
    """
    if folds > len(labels):
        raise UserError(
            f"data.folds is {folds}, but there are {len(labels)} {item}s to cut; give {len(labels)} to leave one out, "
            "or fewer."
        )
    random = np.random.RandomState(seed)
    # The classes one after the other, each shuffled, dealt out in turn.
    in_turn = np.concatenate([random.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)])
    held_out = np.zeros(len(labels), dtype=bool)
    held_out[in_turn[fold::folds]] = True
    if lost := sorted(set(labels[held_out].tolist()) - set(labels[~held_out].tolist())):
        raise UserError(
            f"Fold {fold} of {folds} would hold out all training {item}s of class {_named(lost[0], class_names)}; give "
            f"that class more {item}s."
        )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def stratified_part(
    labels: np.ndarray,
    size: int | float,
    seed: int,
    class_names: Sequence[str] | None = None,
    item: str = "image",
) -> np.ndarray:
    """Chooses a part of a data set with each class's share as in the whole; a smaller part lies within a larger one.

    All images are put into one order, of which a part is the beginning: number i of a class's n, which are in random
    order, comes at (i + 1/2) / n of the way. Largest remainders, as in `stratified_holdout`, would not do: with one
    image more in all, a class may get one less.

    Args:
        labels: Shape (N,), integers.
        size: How many: a count, or a fraction of N up to 1.
        seed: Chooses which.
        class_names: What the labels are called in messages.
        item: What one of the N is called there.

    Returns:
        The indices, sorted.

    Raises:
        UserError: A class would have no image, or more is asked for than there is.
    """
    count = round(size * len(labels)) if isinstance(size, float) else size
    if count > len(labels):
        raise UserError(
            f"data.train_size asks for {count} of the {len(labels)} {item}s that are left for training; give a smaller "
            "count, or a fraction up to 1.0."
        )
    random = np.random.RandomState(seed)
    place = np.empty(len(labels))
    classes, totals = np.unique(labels, return_counts=True)
    for label, total in zip(classes, totals, strict=True):
        place[random.permutation(np.flatnonzero(labels == label))] = (np.arange(total) + 0.5) / total
    chosen: np.ndarray = np.sort(np.lexsort((labels, place))[:count])
    if missing := sorted(set(classes.tolist()) - set(labels[chosen].tolist())):
        raise UserError(
            f"data.train_size {size} leaves no {item} of class {_named(missing[0], class_names)} to train on; give a "
            "larger one."
        )
    return chosen


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
        given, value, missing = ("folds", folds, "fold") if fold is None else ("fold", fold, "folds")
        raise UserError(f"data.{given} is {value}, but data.{missing} is not given; give both, or neither.")
    if folds < 2:
        raise UserError(f"data.folds is {folds}, expected 2 or more.")
    if not 0 <= fold < folds:
        raise UserError(f"data.fold is {fold}, expected 0 to {folds - 1}, one of the {folds} data.folds.")
    if sizes[fold_is] is not None:
        raise UserError(
            f"data.{fold_is}_size is {sizes[fold_is]}, but the {fold_is} {item}s are those of data.fold {fold}; leave "
            "one of them out."
        )


def _named(label: int, class_names: Sequence[str] | None) -> str:
    return str(label) if class_names is None else class_names[label]
