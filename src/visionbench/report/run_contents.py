"""Contents of a run folder for a report; every part may be absent."""

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
from visionbench.text import counted, one_line

if TYPE_CHECKING:
    from visionbench.data.base import VisionDataModule
    from visionbench.figures.figure import Figure
    from visionbench.figures.images import Images


@dataclass(frozen=True)
class Picture:
    """File of a figure.

    Attributes:
        name: File name without its suffix.
        content: Content of the PNG or SVG file.
        width: Width of the picture in CSS pixels.
        height: Height of the picture in CSS pixels.
    """

    name: str
    content: bytes
    width: int
    height: int

    @property
    def media_type(self) -> str:
        """Media type of the content."""
        return "image/png" if self.content.startswith(b"\x89PNG") else "image/svg+xml"


@dataclass
class ReportedRun:
    """A run, finished or not.

    Attributes:
        folder: Run folder as the user wrote it.
        config: Content of config.yaml.
        status: Ending of the run.
        divergence: What was not finite first, and where; `None` where all losses are numbers.
        provenance: How the weights of the result were chosen, such as: on val/loss, epoch 17 of 20.
        choosing_metric: Metric that chose the epoch of the result; `None` where the last epoch is the result.
        allowed_defects: Names of the guards that have found something which the run allows.
        openings: How often the test samples were opened, in words; `None` where they never were.
        copies: How many test samples are also training samples, in words; `None` where it is not known.
        report: Content of run.json; empty if the file is absent.
        input_description: Content of input.json; empty if the file is absent.
        rows: Rows of metrics.csv: numbers by name.
        predictions: Predictions by split, `test` and `val`.
        pictures: Figures drawn after training, in their order.
        figure_numbers: Content of figures.json.
        untrained: Metrics before training, if they were computed.
        missing: Sentences about parts of the report that the run folder does not hold.
    """

    folder: Path
    config: dict[str, Any]
    status: Status
    divergence: str | None
    provenance: str
    choosing_metric: str | None
    allowed_defects: list[str]
    openings: str | None
    copies: str | None
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
        """Name of the run: cnn/version_0."""
        folder = self.folder.resolve()
        return f"{folder.parent.name}/{folder.name}" if folder.name.startswith("version_") else folder.name

    @property
    def marked_name(self) -> str:
        """Name of the run, with the defects that it allows, wherever its numbers stand beside those of other runs."""
        return f"{self.name} ({', '.join(self.allowed_defects)})" if self.allowed_defects else self.name

    @property
    def finished(self) -> bool:
        """Whether the run has the status finished."""
        return self.status == "finished"

    @property
    def chosen_on_validation(self) -> bool:
        """Whether the epoch of the result was chosen on the validation samples."""
        return self.choosing_metric is not None and self.choosing_metric.startswith("val/")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels; empty if they are not known."""
        return tuple(self.input_description.get("class_names", ()))

    @property
    def has_images(self) -> bool:
        """Whether the samples are images, not rows of a table."""
        return len(self.input_description.get("input_shape", ())) == 3

    @property
    def item(self) -> str:
        """Word for one sample: image or row."""
        return _item(self.input_description)

    @property
    def metrics(self) -> dict[str, float | None]:
        """Final metrics; `None` stands for a value that is not a number."""
        return self.report.get("metrics") or {}

    def init_args(self, part: str) -> dict[str, Any]:
        """Arguments of the `model` or the `data` of the run."""
        return self.config[part].get("init_args") or {}

    def count(self, stage: str) -> int | None:
        """Number of samples of a split, if it is known."""
        if (count := (self.report.get("counts") or {}).get(stage)) is not None:
            return int(count)
        if stage in self.predictions:
            return len(self.predictions[stage])
        numbers = self.figure_numbers.get(stage)
        return numbers.get("samples") if isinstance(numbers, dict) else None


def read_run(folder: Path) -> ReportedRun:
    """Reads everything that a report shows of a run.

    Raises:
        UserError: The folder is not a run folder, or one of its files is damaged.
    """
    files = RunFolder(folder)
    run = ReportedRun(
        folder=folder,
        config=files.config,
        status=files.status,
        divergence=files.divergence,
        provenance=files.provenance,
        choosing_metric=files.choosing_metric,
        allowed_defects=files.allowed_defects,
        openings=files.opening_in_words(_item(files.input)),
        copies=files.copies_in_words(_item(files.input)),
        report=files.metadata,
        input_description=files.input,
        rows=files.rows,
    )
    try:
        run.figure_numbers = files.figure_contents
        run.untrained = files.untrained_metrics or None
    except UserError as error:
        run.missing.append(str(error))
    epochs = run.report.get("epochs") or 0
    if run.finished and len(run.rows) < epochs:
        rows, count = counted(len(run.rows), "row"), counted(epochs, "epoch")
        run.missing.append(f"{files.metrics_path} has {rows} of {count}; restore the file, or {files.how_to_repeat()}.")
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
        run.missing.append(f"The run has neither figures nor predictions; {command} repeats the run with both.")
    elif run.finished and not run.figure_numbers:
        run.missing.append(f"The run has no figures; {command} repeats the run with figures.")
    elif run.finished and not run.predictions:
        run.missing.append(f"The run has no predictions; {command} repeats the run and keeps its predictions.")
    return run


def _item(description: dict[str, Any]) -> str:
    """Word for one sample of a run, from its input.json."""
    is_image = not description or len(description.get("input_shape", ())) == 3
    return "image" if is_image else "row"


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
        ValueError: The picture is neither PNG nor SVG.
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
    """Picture of a figure that is not written to a file."""
    content = figure.picture()[1]
    return Picture(figure.name, content, *_size(content))


def find_images(run: ReportedRun, predictions: Predictions, root: str | None) -> "tuple[Images | None, str]":
    """Finds the images of predictions in the prepared store of the run; nothing is fetched or prepared.

    Args:
        run: Run that made the predictions.
        predictions: Predictions on the test or validation split.
        root: Folder of prepared data sets; by default the one that the run used.

    Returns:
        A function that returns the images and an empty text, or `None` and the reason why there are no images.
    """
    try:
        with quiet_libraries(), contextlib.redirect_stdout(sys.stderr):
            data = _open_data(run, root)
            if run.finished and data.data_digest() != run.report.get("data_digest"):
                return None, f"{data.title} in {data.store_folder()} is not the data of the run"
            split = data.splits[predictions.stage]
            images = data.open_store(check_source=False).arrays[f"{split.part}-images"]
            names = [data.sample_name(split.part, int(place)) for place in split.index[: len(predictions)]]
    except (
        Exception
    ) as error:  # for example of a user's data set; the page is written without images and gives the reason
        if isinstance(error, MemoryError):
            raise
        cause = first_user_error(error) or root_cause(error)
        return None, one_line(cause).rstrip(".")
    if names != list(predictions.names):
        return None, "the names of its samples are not those of the predictions"
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
    data.offline = True  # a changed source is not prepared again, and nothing is fetched
    if not data.store_folder().exists():
        raise UserError(f"{data.title} is not prepared in {data.root}; give the folder that holds it with --root.")
    if run.has_images and data.mean is None and data.std is None:
        # The values of the run, which are part of the digest and need not be computed again.
        data.mean, data.std = run.input_description.get("mean"), run.input_description.get("std")
    data.prepare_data()
    data.setup()
    return data
