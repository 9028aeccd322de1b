"""Guards of the data: asked when the data are prepared and split."""

from collections.abc import Iterator
from dataclasses import dataclass

from visionbench.data.base import VisionDataModule
from visionbench.guards.base import Finding, Guard
from visionbench.text import counted, quoted


@dataclass(frozen=True)
class DataContext:
    """The data of a run.

    Attributes:
        data: Data module after `setup`.
    """

    data: VisionDataModule


class OfficialTestAsValidation(Guard):
    """Validates on the official test set, as some published reports did; there is no test accuracy then."""

    name = "test_as_validation"
    stage = "data"

    def check(self, context: DataContext) -> Iterator[Finding]:  # noqa: D102
        if context.data.test_is_watched:
            yield Finding(
                "refusal",
                f"The official test {context.data.item}s are the validation set, so that there is no test accuracy; "
                f"cut the validation {context.data.item}s from the training {context.data.item}s.",
            )


class TrainAsTest(Guard):
    """Validates or tests on samples that are trained on, as some published reports did."""

    name = "train_as_test"
    stage = "data"

    def check(self, context: DataContext) -> Iterator[Finding]:  # noqa: D102
        data = context.data
        for stage, count in data.trained_on().items():
            words = "validation" if stage == "val" else stage
            yield Finding(
                "refusal",
                f"{counted(count, f'{words} {data.item}')} of {data.title} {'is' if count == 1 else 'are'} also "
                f"trained on, so that the {words} accuracy says nothing about other {data.item}s; cut the {words} "
                f"{data.item}s from the training {data.item}s.",
            )


class AugmentedValidation(Guard):
    """Augments validation samples, as some published reports did, so that other images are measured."""

    name = "augmented_validation"
    stage = "data"

    def check(self, context: DataContext) -> Iterator[Finding]:  # noqa: D102
        data = context.data
        if data.augments_validation():
            yield Finding(
                "refusal",
                f"The validation {data.item}s of {data.title} are augmented, so that the validation accuracy is not "
                f"that of the {data.item}s themselves; augment training {data.item}s only.",
            )


class CopiesOfTraining(Guard):
    """Reports validation and test samples that have the same bytes as a training sample."""

    stage = "data"

    def check(self, context: DataContext) -> Iterator[Finding]:  # noqa: D102
        data = context.data
        for stage, count in data.copies_of_training().items():
            if count:
                words, size = "validation" if stage == "val" else stage, data.sizes()[stage]
                yield Finding(
                    "warning",
                    f"{count:,} of {counted(size, f'{words} {data.item}')} ({count / size:.2%}) "
                    f"{'has' if count == 1 else 'have'} the same {'bytes' if data.item == 'image' else 'values'} as a "
                    f"training {data.item}, so that the {words} accuracy is too high for new {data.item}s; visionbench "
                    f"data verify {type(data).__name__}, with the options --data... of this run, lists them.",
                )


class TellingColumns(Guard):
    """Reports a column of a table that alone tells the class of each training row, as a copy of the target does."""

    stage = "data"

    def check(self, context: DataContext) -> Iterator[Finding]:  # noqa: D102
        data = context.data
        if columns := data.telling_columns():
            names, is_one = " and ".join(map(quoted, columns)), len(columns) == 1
            them = "it" if is_one else "them"
            yield Finding(
                "warning",
                f"{'Column' if is_one else 'Columns'} {names} alone {'tells' if is_one else 'each tell'} the class of "
                f"all {counted(data.sizes()['train'], 'training row')}, as a copy of the target would, or row numbers "
                f"of a file that is sorted by class; "
                f"{f'add {them} to data.ignore' if 'ignore' in data.specific_arguments else f'remove {them}'}, unless "
                f"{'its value is' if is_one else 'their values are'} known before the class of a new row is.",
            )


class FixedOrderOfTraining(Guard):
    """Reports that the training samples have the same order in every epoch."""

    stage = "data"

    def check(self, context: DataContext) -> Iterator[Finding]:  # noqa: D102
        if not context.data.shuffle:
            yield Finding(
                "warning",
                f"The training {context.data.item}s have the same order in every epoch (data.shuffle false), which "
                "usually makes the result worse.",
            )


class DuplicateFiles(Guard):
    """Reports files of a folder that were kept although another file has the same bytes."""

    stage = "data"

    def check(self, context: DataContext) -> Iterator[Finding]:  # noqa: D102
        copies = context.data.kept_copies()
        if copies:
            have = "has" if len(copies) == 1 else "have"
            they = "it" if len(copies) == 1 else "them"
            unused = len(copies) + (len(context.data.store.meta.get("skipped", [])) if context.data.store else 0)
            yield Finding(
                "warning",
                f"{counted(len(copies), context.data.item)} {have} the same bytes as another, such as {copies[0]}; "
                f"--data.duplicates skip --data.max_skipped {unused} leaves {they} out.",
            )


class LabelRange(Guard):
    """Labels are numbers of classes."""

    stage = "data"

    def check(self, context: DataContext) -> Iterator[Finding]:  # noqa: D102
        data = context.data
        for split, (smallest, largest) in data.label_ranges().items():
            if smallest < 0 or largest >= data.num_classes:
                yield Finding(
                    "refusal",
                    f"The labels of the {split} split go from {smallest} to {largest}, expected 0 to "
                    f"{data.num_classes - 1}, one for each class name; correct the labels, or name all classes.",
                )
