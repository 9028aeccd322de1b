"""Files that are predicted, and are samples of the run's own splits."""

from collections.abc import Iterator

import numpy as np

from visionbench.data.base import VisionDataModule
from visionbench.data.store import SPLITS, digests_of_rows, sample_digests
from visionbench.inference.inputs import Sample


def with_digests(stream: Iterator[Sample], digests: list[np.ndarray]) -> Iterator[Sample]:
    """Passes samples on, and notes the digests of the pixels of those whose class is known.

    Args:
        stream: Samples.
        digests: List that the digests are added to, each of shape (1,).
    """
    for sample in stream:
        if sample.label is not None and sample.values is not None:
            digests.append(digests_of_rows(sample.values[np.newaxis]))
        yield sample


def numbers_by_split(digests: list[np.ndarray], data: VisionDataModule) -> dict[str, int]:
    """Number of predicted samples that each split has, by the bytes of their pixels; splits without one are left out.

    A sample that several splits have counts for the first of train, val and test.

    Args:
        digests: Digests of the samples, as `with_digests` notes them.
        data: Data set of the run, after `setup`.
    """
    store, left = data.open_store(check_source=False), np.concatenate(digests)
    numbers = {}
    for stage in SPLITS:
        split = data.splits[stage]
        if len(split.index):
            found = np.isin(left, sample_digests(store, split.part)[split.index])
            numbers[stage], left = int(found.sum()), left[~found]
    return {stage: number for stage, number in numbers.items() if number}
