"""Figures of a study's page that need the images and weights of a run: grids of images, maps of channels."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from visionbench.console import quiet_libraries
from visionbench.errors import UserError
from visionbench.evaluation.predictions import Predictions
from visionbench.report import page
from visionbench.report.page import Html, tag
from visionbench.report.run_contents import ReportedRun, find_images, picture_of, read_run
from visionbench.runs.folder import RunFolder
from visionbench.studies.figure_words import ACTIVATIONS, PREDICTIONS, SAMPLES, FigureRequest
from visionbench.studies.report_commands import run_commands
from visionbench.studies.report_contents import (
    SPLITS,
    Contents,
    Group,
    capitalized,
    cell_name,
    listed,
    validated_instead,
)
from visionbench.studies.results import Row
from visionbench.studies.spec import Study
from visionbench.text import one_line

if TYPE_CHECKING:
    from visionbench.figures.figure import Figure

HEADINGS = {SAMPLES: "Samples", PREDICTIONS: "Predictions", ACTIVATIONS: "Activation maps"}


@dataclass(frozen=True)
class _RunImages:
    """A run with the images that it predicted.

    Attributes:
        run: Run.
        split: Split of the predictions.
        predictions: Predictions on the split.
        pictures: Function that gives the images at some places of the predictions.
    """

    run: ReportedRun
    split: str
    predictions: Predictions
    pictures: Callable[[np.ndarray], np.ndarray]

    @property
    def samples(self) -> str:
        """Words for the samples of the split."""
        instead = validated_instead(self.run.allowed_defects) if self.split == "val" else ""
        return f"{capitalized(SPLITS[self.split])} samples{f', which are {instead}' if instead else ''}"


def images(contents: Contents) -> Iterator[Html]:
    """Draws what needs images and weights, where the run folders are; else gives the command that makes them.

    Args:
        contents: Contents of the report.
    """
    for stage in contents.study.stages.values():
        requests = [request for request in contents.study.figures.get(stage.name, ()) if request.kind in HEADINGS]
        groups = [group for group in contents.groups[stage.name] if group.finished]
        if not requests or not groups:
            continue
        yield tag("h3", stage.name)
        cards, absent = _cards(contents, groups, requests)
        if cards:
            yield page.figures(cards)
        if absent:
            items = [_absent(contents, run, reason, names) for (run, reason), names in absent.items()]
            yield page.note(tag("p", "Not in this report:"), tag("ul", *items))


def _cards(
    contents: Contents, groups: list[Group], requests: Sequence[FigureRequest]
) -> tuple[list[Html], dict[tuple[str, str], list[str]]]:
    """Figures of some groups, and the names of those that cannot be made, by the id of the run and the reason."""
    cards = []
    absent: dict[tuple[str, str], list[str]] = {}
    for group in groups:
        row = _row_with_folder(contents, group)
        for request in requests:
            heading = f"{HEADINGS[request.kind]}, {group.name}"
            try:
                with _importable(contents.study), quiet_libraries(), contextlib.redirect_stdout(sys.stderr):
                    cards.append(_card(contents, row, request, heading, group))
            except UserError as error:
                absent.setdefault((row.id, one_line(error)), []).append(heading)
    return cards, absent


def _row_with_folder(contents: Contents, group: Group) -> Row:
    """The first finished row whose run folder is here; the first one where none is."""
    here = [row for row in group.finished if RunFolder(contents.folder / "runs" / row.id).config_path.exists()]
    return (here or group.finished)[0]


def _absent(contents: Contents, run: str, reason: str, headings: list[str]) -> Html:
    commands = run_commands(contents, contents.plan.runs[run], "--figures final")
    codes = page.join(tag("code", command) for command in commands)
    return tag("li", f"{listed(headings)}: {reason} ", codes, " trains the run again and draws figures of its images.")


def _card(contents: Contents, row: Row, request: FigureRequest, heading: str, group: Group) -> Html:
    """Makes one figure.

    Raises:
        UserError: The run folder, its images or its checkpoint are not here.
    """
    found = _images_of(contents, row)
    where = f"{cell_name(row.cell, group.stage.name)}, seed {row.seed}"
    if request.kind == ACTIVATIONS:
        text = f"Output of layers for one image. {found.samples}; {where}."
        return page.figure(picture_of(_activations(found)), heading, text, alone=True)
    figure = _grid(found, request, f"{group.stage.name}-{request.kind}")
    if request.kind == SAMPLES:
        text = f"Images with their true class. {found.samples}; {where}."
    else:
        text = f"Images with their predicted class, and the true one if it differs. {found.samples}; {where}."
    return page.figure(picture_of(figure), heading, text)


def _images_of(contents: Contents, row: Row) -> _RunImages:
    folder = RunFolder(contents.folder / "runs" / row.id)
    if not folder.config_path.exists():
        raise UserError("The run folder is not here.")
    run = read_run(folder.path)
    split = next((split for split in ("test", "val") if split in run.predictions), None)
    if split is None:
        raise UserError("The run has no predictions.")
    predictions = run.predictions[split]
    pictures, reason = find_images(run, predictions, None)
    if pictures is None:
        raise UserError(f"{reason}.")
    return _RunImages(run, split, predictions, pictures)


def _activations(found: _RunImages) -> "Figure":
    import torch  # here, as the modules below, since it takes seconds

    from visionbench.figures.network import draw_activations
    from visionbench.inference.trained import Normalize, open_run

    trained = open_run(found.run.folder)
    image = found.pictures(np.array([0]))
    inputs = Normalize(trained.mean, trained.std)(torch.tensor(image))
    layers, channels = (found.run.config.get(name) or () for name in ("figure_layers", "figure_channels"))
    figure = draw_activations(trained.model, inputs, image[0], found.predictions.names[0], layers, channels)
    if figure is None:
        raise UserError("The network has no convolution.")
    return figure


def _grid(found: _RunImages, request: FigureRequest, name: str) -> "Figure":
    """Grid of images, evenly spaced over the split, each with its true or its predicted class."""
    from visionbench.figures.figure import CORRECT, WRONG, cut
    from visionbench.figures.study_matrices import draw_image_grid

    predictions, names = found.predictions, found.run.class_names
    count = min(request.rows * request.columns, len(predictions))
    places = np.linspace(0, len(predictions) - 1, count).round().astype(np.int64)
    captions = []
    for place in places:
        true, predicted = names[predictions.labels[place]], names[predictions.predicted[place]]
        if request.kind == SAMPLES:
            captions.append((cut(true, 18), "black"))
        elif predicted == true:
            captions.append((f"predicted {cut(predicted, 12)}", CORRECT))
        else:
            captions.append((f"predicted {cut(predicted, 12)}\ntrue {cut(true, 16)}", WRONG))
    return draw_image_grid(name, HEADINGS[request.kind], list(found.pictures(places)), captions, request.columns)


@contextlib.contextmanager
def _importable(study: Study) -> Iterator[None]:
    """Makes the study's own module importable."""
    place = str(study.path.parent.resolve())
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)
