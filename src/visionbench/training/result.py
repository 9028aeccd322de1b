"""What comes out of a session."""

from dataclasses import dataclass, field
from pathlib import Path

from visionbench.runs.folder import Status


@dataclass(frozen=True)
class RunResult:
    """What came out of a session.

    Attributes:
        folder: Run folder; `None` for a trial that wrote nothing.
        status: Ending of the run: finished, diverged, interrupted or failed.
        metrics: Metrics of the result by name, such as `val/acc`; of an unfinished run, those of the epoch that would
            be the result so far.
        counts: Samples that the metrics of each stage are computed from.
        best_epoch: Epoch of the metrics, from 0; `None` where no epoch is finished.
        weights_digest: The sha256 of the result's weights; empty where there is no result.
        epochs: Epochs that were trained.
        seconds: Seconds of training.
        signal: Number of the signal that interrupted the run.
        figure_lines: Lines about the figures.
    """

    folder: Path | None
    status: Status
    metrics: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    best_epoch: int | None = None
    weights_digest: str = ""
    epochs: int = 0
    seconds: float = 0.0
    signal: int | None = None
    figure_lines: list[str] = field(default_factory=list)
