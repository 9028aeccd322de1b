"""What comes out of a session."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class RunResult:
    """What came out of a session.

    Attributes:
        folder: Run folder; `None` for a trial that wrote nothing.
        status: How the run ended.
        metrics: Metrics of the result by name, such as `val/acc`.
        counts: Samples that the metrics of each stage are computed from.
        best_epoch: Epoch of the result, from 0; `None` for a trial or an interrupted run.
        weights_digest: The sha256 of the result's weights; empty where there is no result.
        epochs: Epochs that were trained.
        seconds: Seconds of training.
        signal: Number of the signal that interrupted the run.
        figure_lines: Lines about the figures.
    """

    folder: Path | None
    status: Literal["finished", "interrupted"]
    metrics: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    best_epoch: int | None = None
    weights_digest: str = ""
    epochs: int = 0
    seconds: float = 0.0
    signal: int | None = None
    figure_lines: list[str] = field(default_factory=list)
