"""Guards of the data: asked when the data are prepared and split."""

from collections.abc import Iterator
from dataclasses import dataclass

from visionbench.data.base import VisionDataModule
from visionbench.guards.base import Finding, Guard
from visionbench.text import counted


@dataclass(frozen=True)
class DataContext:
    """The data of a run.

    Attributes:
        data: Data module after `setup`.
    """

    data: VisionDataModule


class OfficialTestAsValidation(Guard):
    """Validates on the official test set, as some published studies did; there is no test accuracy then."""

    name = "test_as_validation"
    stage = "data"

    def check(self, context: DataContext) -> Iterator[Finding]:  # noqa: D102
        if context.data.test_is_watched:
            yield Finding(
                "refusal",
                f"The official test {context.data.item}s are the validation set, so that there is no test accuracy; "
                f"cut the validation {context.data.item}s from the training {context.data.item}s.",
            )


class DuplicateFiles(Guard):
    """Reports files of a folder that were kept although another file has the same bytes."""

    stage = "data"

    def check(self, context: DataContext) -> Iterator[Finding]:  # noqa: D102
        copies = context.data.kept_copies()
        if copies:
            have = "has" if len(copies) == 1 else "have"
            yield Finding(
                "warning",
                f"{counted(len(copies), context.data.item)} {have} the same bytes as another, such as {copies[0]}; "
                "--data.duplicates skip removes duplicates.",
            )
