"""What a run's folder holds, as far as it holds it."""

import contextlib
import re
import shlex
import sys
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from visionbench.console import quiet_libraries
from visionbench.errors import UserError, first_user_error, root_cause
from visionbench.evaluation.predictions import Predictions
from visionbench.runs.folder import RunFolder, Status
from visionbench.text import one_line

if TYPE_CHECKING:
    from visionbench.data.base import VisionDataModule
    from visionbench.figures.figure import Figure
    from visionbench.figures.images import Images


@dataclass(frozen=True)
class Picture:
    """A figure's file.

    Attributes:
        name: Without the ending.
        content: The bytes of a PNG or an SVG file.
        width: In CSS pixels, as it was drawn.
        height: In CSS pixels.
    """

    name: str
    content: bytes
    width: int
    height: int

    @property
    def media_type(self) -> str:
        """Of the content."""
        return "image/png" if self.content.startswith(b"\x89PNG") else "image/svg+xml"


@dataclass
class ReportedRun:
    """A run, finished or not.

    Attributes:
        folder: As it was given.
        config: What config.yaml says.
        status: How the run ended.
        test_openings: How often its test samples were evaluated.
        report: Content of run.json; empty where the file is absent.
        input_description: Content of input.json; empty where the file is absent.
        rows: Of metrics.csv: numbers by name.
        predictions: By split, `test` and `val`.
        pictures: The figures of its end, in their order.
        figure_numbers: What figures.json says.
        untrained: Metrics before training, where they were had.
        missing: What could be there and is not, a sentence each.
    """

    folder: Path
    config: dict[str, Any]
    status: Status
    test_openings: int
    report: dict[str, Any]
    input_description: dict[str, Any]
    rows: list[dict[str, Any]]
    predictions: dict[str, Predictions] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    figure_numbers: dict[str, Any] = field(default_factory=dict)
    untrained: dict[str, float] | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What a run is called: cnn/version_0."""
        folder = self.folder.resolve()
        return f"{folder.parent.name}/{folder.name}" if folder.name.startswith("version_") else folder.name

    @property
    def finished(self) -> bool:
        """Whether it has come to its end."""
        return self.status == "finished"

    @property
    def class_names(self) -> tuple[str, ...]:
        """One a label; empty where they are not known."""
        return tuple(self.input_description.get("class_names", ()))

    @property
    def has_images(self) -> bool:
        """Whether its samples are images, not rows of a table."""
        return len(self.input_description.get("input_shape", ())) == 3

    @property
    def item(self) -> str:
        """What a sample is called."""
        return "image" if self.has_images or not self.input_description else "row"

    @property
    def metrics(self) -> dict[str, float | None]:
        """The final ones; `None` is a value that is not a number."""
        return self.report.get("metrics") or {}

    def init_args(self, part: str) -> dict[str, Any]:
        """The arguments of its `model` or `data`."""
        return self.config[part].get("init_args") or {}

    def count(self, stage: str) -> int | None:
        """Samples of a split, where that is known."""
        if stage in self.predictions:
            return len(self.predictions[stage])
        numbers = self.figure_numbers.get(stage)
        return numbers.get("samples") if isinstance(numbers, dict) else None


def read_run(folder: Path) -> ReportedRun:
    """Reads all of a run that a report shows.

    Raises:
        UserError: It is no run, or one of its files is not as the run wrote it.
    """
    files = RunFolder(folder)
    run = ReportedRun(
        folder=folder,
        config=files.config,
        status=files.status,
        test_openings=files.test_openings,
        report=files.metadata,
        input_description=files.input,
        rows=files.rows,
    )
    run.figure_numbers = files.figure_contents
    run.untrained = files.untrained_metrics or None
    for stage in ("test", "val"):
        try:
            predictions = files.predictions(stage)
        except UserError as error:
            run.missing.append(str(error))
            continue
        if predictions is not None and len(predictions):
            run.predictions[stage] = predictions
    _read_pictures(run)
    command = f"visionbench repeat {shlex.quote(str(folder))} --figures final"
    if run.finished and not run.figure_numbers and not run.predictions:
        run.missing.append(
            f"There are neither figures nor predictions, as of a run with --figures none; {command} runs it again with "
            "both."
        )
    elif run.finished and not run.figure_numbers:
        run.missing.append(f"There are no figures; {command} runs it again with them.")
    elif run.finished and not run.predictions:
        run.missing.append(f"There are no predictions; {command} runs it again and keeps them.")
    return run


def _read_pictures(run: ReportedRun) -> None:
    files = [name for name in run.figure_numbers.get("figures", ()) if isinstance(name, str)]
    for file in files:
        path = RunFolder(run.folder).figures / Path(file).name
        try:
            content = path.read_bytes()
            width, height = _size(content)
        except (OSError, ValueError) as error:
            run.missing.append(f"The figure {file} cannot be read ({one_line(error).rstrip('.')}).")
            continue
        run.pictures.append(Picture(path.stem, content, width, height))
    for name, reason in (run.figure_numbers.get("failed") or {}).items():
        run.missing.append(f"The figures {name} could not be drawn ({str(reason).rstrip('.')}).")


def _size(content: bytes) -> tuple[int, int]:
    """Width and height of a picture in CSS pixels.

    Raises:
        ValueError: It is neither PNG nor SVG.
    """
    if content.startswith(b"\x89PNG"):
        with Image.open(BytesIO(content)) as image:
            return image.size
    head = content[:4096].decode("utf-8", "replace")
    sizes = [re.search(rf'<svg[^>]*?\s{name}="([\d.]+)pt"', head) for name in ("width", "height")]
    if sizes[0] is None or sizes[1] is None:
        raise ValueError("it is neither PNG nor SVG as matplotlib writes them")
    width, height = (round(float(size[1]) * 96 / 72) for size in sizes if size is not None)
    return width, height


def picture_of(figure: "Figure") -> Picture:
    """A figure that has just been drawn, as the file that it would be."""
    content = figure.picture()[1]
    return Picture(figure.name, content, *_size(content))


def find_images(run: ReportedRun, predictions: Predictions, root: str | None) -> "tuple[Images | None, str]":
    """The images that predictions were made of, from the run's prepared store; nothing is fetched or prepared for it.

    Args:
        run: The run.
        predictions: Of its test or validation split.
        root: Where prepared data sets lie; by default where the run had them.

    Returns:
        What gives the images, or `None` and why they cannot be had.
    """
    try:
        with quiet_libraries(), contextlib.redirect_stdout(sys.stderr):
            data = _open_data(run, root)
            if run.finished and data.data_digest() != run.report.get("data_digest"):
                return None, f"{data.title} in {data.store_folder()} is not what the run was trained on"
            split = data.splits[predictions.stage]
            images = data.open_store(check_source=False).arrays[f"{split.part}-images"]
            names = [data.sample_name(split.part, int(place)) for place in split.index[: len(predictions)]]
    except Exception as error:  # a data set may be a user's own, and the page is to come all the same: it says why
        if isinstance(error, MemoryError):
            raise
        cause = first_user_error(error) or root_cause(error)
        return None, one_line(cause).rstrip(".")
    if names != list(predictions.names):
        return None, "its samples have other names than those that were predicted"
    return lambda places: np.stack([images[place] for place in split.index[places]]), ""


def _open_data(run: ReportedRun, root: str | None) -> "VisionDataModule":
    # Here, since only the images of a prepared store need Lightning.
    from visionbench.arguments import add_data_options, make_data
    from visionbench.config.parser import Parser
    from visionbench.config.patches import watched_parsing

    parser = Parser(allow_abbrev=False)
    options = add_data_options(parser, run.config)
    with watched_parsing(lambda line: None):
        config = parser.parse_args([*options, *(["--data.root", root] if root is not None else [])])
    data = make_data(parser, config, run.config)
    data.offline = True  # what has changed is not prepared again, nothing is fetched
    if not data.store_folder().exists():
        raise UserError(f"{data.title} is not prepared in {data.root}; give the folder that holds it with --root.")
    if run.has_images and data.mean is None and data.std is None:
        # As the run found them: they are a part of the digest, and need not be computed anew.
        data.mean, data.std = run.input_description.get("mean"), run.input_description.get("std")
    data.prepare_data()
    data.setup()
    return data
