"""MNIST."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from visionbench.data.base import VisionDataModule
from visionbench.data.idx import idx_arrays
from visionbench.data.sources import Origin, RawFile, check_source, fetch

ORIGIN = Origin(
    files=(
        RawFile(
            "train-images-idx3-ubyte.gz", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db", 47040016
        ),
        RawFile(
            "train-labels-idx1-ubyte.gz", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5", 60008
        ),
        RawFile(
            "t10k-images-idx3-ubyte.gz", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7", 7840016
        ),
        RawFile("t10k-labels-idx1-ubyte.gz", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2", 10008),
    ),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
)


class MNIST(VisionDataModule):
    """70,000 handwritten digits of some 500 writers, clerks and pupils, scanned and centered.

    - Images: 28 x 28 gray levels from 0 to 255, white on black, the digit's center of mass in the middle.
    - Classes: the ten digits, 5,421 to 6,742 training and 892 to 1,135 test images each.
    - Split: official, 60,000 for training and 10,000 for test, by different writers; validation is cut from the 60,000.
    - Source: LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998.
      License: CC BY-SA 3.0.
    - Files: fetched from a mirror.

    Args:
        source: Folder with the four original files, used instead of a download; read only.
    """

    title = "MNIST"
    class_names = tuple("0123456789")
    input_shape = (1, 28, 28)

    def __init__(self, source: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = Path(source).expanduser() if source is not None else None

    def is_stale(self, meta: Mapping[str, Any]) -> bool:  # noqa: D102
        check_source(ORIGIN, dataset=self.title, source=self.source)
        return False

    def prepare_arrays(self, downloads: Path) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:  # noqa: D102
        files, origin = fetch(ORIGIN, dataset=self.title, source=self.source, downloads=downloads, offline=self.offline)
        return idx_arrays(files), {"source": origin, "licence": "CC BY-SA 3.0", "split": "official"}
