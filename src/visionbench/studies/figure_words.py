"""Names of the figures that a study file asks for."""

import difflib
import re
from dataclasses import dataclass

from visionbench.errors import UserError

LEARNING_CURVES, LINES, MAIN_EFFECTS = "learning-curves", "lines", "main-effects"
LOSS_AGAINST_EXAMPLES, LOSS_AND_ACCURACIES = "loss against examples", "loss and both accuracies"
ACTIVATIONS, CONFUSION, SAMPLES, PREDICTIONS = "activations", "confusion", "samples", "predictions"
SPLITS = ("test", "val", "train_eval")
WORDS = (
    *(LEARNING_CURVES, LINES, MAIN_EFFECTS, LOSS_AGAINST_EXAMPLES, LOSS_AND_ACCURACIES, ACTIVATIONS),
    *(f"{split}-{CONFUSION}" for split in SPLITS),
)
GRIDS = (SAMPLES, PREDICTIONS)
# Largest number of images in a grid.
MAX_IMAGES = 100


@dataclass(frozen=True)
class FigureRequest:
    """A figure that a study file asks for.

    Attributes:
        kind: Kind of the figure.
        split: Split of a confusion matrix.
        rows: Number of rows of a grid of images.
        columns: Number of columns of a grid of images.
    """

    kind: str
    split: str = ""
    rows: int = 0
    columns: int = 0


def figure_request(word: str) -> FigureRequest:
    """Reads the name of a figure.

    Args:
        word: Name, such as `learning-curves`, `test-confusion` or `samples 4 x 5`.

    Raises:
        UserError: There is no figure of this name.
    """
    name = " ".join(word.split())
    if name in WORDS:
        split = name.removesuffix(f"-{CONFUSION}")
        return FigureRequest(CONFUSION, split) if split != name else FigureRequest(name)
    grid = re.fullmatch(rf"({'|'.join(GRIDS)}) (\d+) ?x ?(\d+)", name)
    if grid is not None:
        rows, columns = int(grid[2]), int(grid[3])
        if not 0 < rows * columns <= MAX_IMAGES:
            raise UserError(f"{word} has {rows * columns} images, expected 1 to {MAX_IMAGES}.")
        return FigureRequest(grid[1], rows=rows, columns=columns)
    known = [*WORDS, *(f"{kind} 3 x 3" for kind in GRIDS)]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"expected some of: {', '.join(known)} (or other numbers)."
    raise UserError(f"There is no figure {word!r}; {hint}")
