"""The files of a new project, as they are written; NAME stands for its name, and DEPENDENCY for visionbench."""

FILES = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling>=1.26"]
build-backend = "hatchling.build"

[project]
name = "NAME"
version = "0.1.0"
description = "Image-classification studies with visionbench."
requires-python = ">=3.11,<3.14"
dependencies = ["DEPENDENCY"]

[dependency-groups]
dev = ["pytest>=8.4"]

[tool.hatch.metadata]
# The dependency may be a folder (visionbench @ file:///...), which is there on one machine alone, or a repository
# (visionbench @ git+https://HOST/visionbench.git), which is right in a project that others get.
allow-direct-references = true

[tool.pytest.ini_options]
testpaths = ["tests"]
""",
    "README.md": """\
# NAME

Train, in this folder (`deactivate` another environment first, or uv warns of it):

```
python3 -m venv .venv && .venv/bin/pip install uv && .venv/bin/uv run visionbench fit --config configs/net.yaml
```

Test, which trains the model once and takes about a minute:

```
python3 -m venv .venv && .venv/bin/pip install uv && .venv/bin/uv run pytest
```

| file | what it holds |
|---|---|
| `src/NAME/models.py` | a model |
| `src/NAME/data.py` | a data set |
| `configs/net.yaml` | a run: the model on the data set |
| `configs/studies/net-width.yaml` | a study: a table, run again with five seeds, and a verdict for each value |
| `tests/test_NAME.py` | what must hold |
| `lightning_logs/`, `data/` | what runs write, not part of the project |

A study, and its page (`source .venv/bin/activate` first):

```
visionbench study run net-width --save
visionbench study report net-width
```

To begin: change `class Net`, or add a class below it and name it in `configs/net.yaml`, as `class_path` of `model`; the
same goes for the data set. `pyproject.toml` says where visionbench comes from. Where that is a folder,
visionbench is copied from there: after a change in that folder, `.venv/bin/uv sync --reinstall-package visionbench`
copies it again. Changes in this project count at once. `visionbench check configs/net.yaml` finds mistakes in a minute.
""",
    ".gitignore": """\
.venv/
__pycache__/
/data/
/lightning_logs/
uv.lock
""",
    ".dockerignore": """\
.git
.venv
**/__pycache__
data
lightning_logs
uv.lock
""",
    "src/NAME/__init__.py": '''\
"""Models and data sets of NAME."""
''',
    "src/NAME/models.py": '''\
"""Models."""

from typing import Any

from torch import nn
from visionbench.models import Classifier


class Net(Classifier):
    """A small convolutional network.

    Args:
        width: Number of filters.
    """

    def __init__(self, num_classes: int, input_shape: tuple[int, int, int], width: int = 16, **kwargs: Any) -> None:
        super().__init__(num_classes, input_shape, **kwargs)
        self.network = nn.Sequential(
            nn.Conv2d(input_shape[0], width, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(16 * width, self.num_outputs),
        )
''',
    "src/NAME/data.py": '''\
"""Data sets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from visionbench.data import VisionDataModule


class Bars(VisionDataModule):
    """1,200 images of a horizontal or a vertical bar in noise.

    - Images: 16 x 16 gray levels, drawn from a fixed seed.
    - Classes: horizontal, vertical.
    - Split: 1,000 for training and 200 for test.
    - Source: made by this class.
    - Files: none.
    """

    title = "Bars"
    class_names = ("horizontal", "vertical")
    input_shape = (1, 16, 16)

    def prepare_arrays(self, downloads: Path) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:
        """Makes the images, which are kept in the prepared store."""
        random = np.random.default_rng(0)
        labels = np.arange(1200) % 2
        images = random.integers(0, 160, (1200, 16, 16))
        for image, label, place in zip(images, labels, random.integers(1, 14, 1200), strict=True):
            bar = image[place : place + 2] if label == 0 else image[:, place : place + 2]
            bar += 95
        images = images.astype(np.uint8)[..., np.newaxis]
        arrays = {
            "train-images": images[:1000],
            "train-labels": labels[:1000],
            "test-images": images[1000:],
            "test-labels": labels[1000:],
        }
        return arrays, {"source": "made up"}
''',
    "configs/net.yaml": """\
# visionbench fit --config configs/net.yaml
model:
  class_path: NAME.models.Net
  init_args:
    width: 16
    optimizer: {class_path: Adam, init_args: {lr: 0.003}}
data:
  class_path: NAME.data.Bars
  init_args: {batch_size: 64}
trainer: {max_epochs: 15}
""",
    "configs/studies/net-width.yaml": """\
# visionbench study run net-width
title: Width of a small network on images of bars
source: Invented; replace the table with a published one, or remove published, judged and tolerance
seeds: [0, 1, 2, 3, 4]
base:
  data: {class_path: NAME.data.Bars, init_args: {batch_size: 64}}
  model: {class_path: NAME.models.Net, init_args: {optimizer: {class_path: Adam, init_args: {lr: 0.003}}}}
  trainer: {max_epochs: 15}
grid:
  width:
    8: {model.width: 8}
    32: {model.width: 32}
stages:
  widths: {grid: [width], test: true}
published:
  widths:
    - [width, test/acc]
    - [8, 100]
    - [32, 100]
judged: [test/acc]
tolerance: 10.0
figures: {widths: [learning-curves, test-confusion]}
""",
    "tests/test_NAME.py": '''\
"""What must hold in NAME."""

import visionbench


def test_the_network_tells_the_bars_apart(tmp_path):
    options = {"data.root": str(tmp_path / "data")}
    result = visionbench.fit(config="configs/net.yaml", run_dir=tmp_path / "run", **options)
    assert result.metrics["test/acc"] > 0.9
''',
    "Dockerfile": """\
# docker build -t NAME . - after docker build -t visionbench . in the folder of visionbench.
FROM visionbench
COPY . /NAME
WORKDIR /NAME
USER root
RUN pip install --no-cache-dir --no-deps . && install -d -m 1777 data lightning_logs
USER 1000:1000
""",
}
