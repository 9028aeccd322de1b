"""Fashion-MNIST."""

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
            "train-images-idx3-ubyte.gz", "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888", 47040016
        ),
        RawFile(
            "train-labels-idx1-ubyte.gz", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9", 60008
        ),
        RawFile(
            "t10k-images-idx3-ubyte.gz", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b", 7840016
        ),
        RawFile("t10k-labels-idx1-ubyte.gz", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34", 10008),
    ),
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    ),
    system_folder=Path("/usr/share/datasets/fashion-mnist"),
    debian_package="dataset-fashion-mnist",
)


class FashionMNIST(VisionDataModule):
    """70,000 photographs of clothes from Zalando's shop, a harder replacement for MNIST.

    - Images: 28 x 28 gray levels from 0 to 255.
    - Classes: ten, with 6,000 training and 1,000 test images each.
    - Split: official, 60,000 for training and 10,000 for test; validation is cut from the 60,000.
    - Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
      Algorithms", 2017. License: MIT.
    - Files: found on this system, fetched from a mirror, or taken from a package of Debian or Ubuntu.

    Args:
        source: Folder with the four original files, used instead of a download; read only.
    """

    title = "Fashion-MNIST"
    class_names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    input_shape = (1, 28, 28)

    def __init__(self, source: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = Path(source).expanduser() if source is not None else None

    def is_stale(self, meta: Mapping[str, Any]) -> bool:  # noqa: D102
        check_source(ORIGIN, dataset=self.title, source=self.source)
        return False

    def prepare_arrays(self, downloads: Path) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:  # noqa: D102
        files, origin = fetch(ORIGIN, dataset=self.title, source=self.source, downloads=downloads, offline=self.offline)
        return idx_arrays(files), {"source": origin, "licence": "MIT", "split": "official"}
