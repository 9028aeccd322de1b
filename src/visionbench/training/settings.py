"""All that a session is told: plain values and the objects that they describe."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from visionbench.data.base import VisionDataModule
from visionbench.errors import UserError
from visionbench.guards import Finding
from visionbench.models.base import Classifier, Objective

EvaluationName = Literal["train_eval", "before", "augmented_val"]


@dataclass
class EarlyStopping:
    """Ends training when the objective no longer improves.

    Args:
        patience: Validations without improvement to wait, one after each epoch unless the Trainer is told otherwise; by
            default training is not ended early.
        min_delta: Smallest change that counts as an improvement.
    """

    patience: int | None = None
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        """Refuses a number below 0.

        Raises:
            UserError: `patience` or `min_delta` is below 0, or `min_delta` is not finite.
        """
        if self.patience is not None and self.patience < 0:
            raise UserError(f"early_stopping.patience is {self.patience}, expected 0 or more, or null.")
        if not 0 <= self.min_delta < math.inf:
            raise UserError(f"early_stopping.min_delta is {self.min_delta}, expected a finite number of 0 or more.")


@dataclass
class Checkpointing:
    """Checkpoints besides those after each epoch, and which epoch's weights are the result.

    Args:
        every_n_steps: Optimizer steps between two checkpoints within an epoch; by default there are none.
        result: Epoch whose weights are the result of the run, and are tested: `best`, the one that the objective
            chooses; or `last`, the last one, although a validation is watched. Without a validation it is the last one.
    """

    every_n_steps: int | None = None
    result: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        """Refuses a number below 1, and an unknown epoch.

        Raises:
            UserError: `every_n_steps` is below 1, or `result` is neither `best` nor `last`.
        """
        if self.result not in ("best", "last"):
            raise UserError(f"checkpoint.result is {self.result}, expected best or last.")
        if self.every_n_steps is not None and self.every_n_steps < 1:
            raise UserError(f"checkpoint.every_n_steps is {self.every_n_steps}, expected 1 or more, or null.")


# Enough that hooks, which take some tenths of a millisecond, are a small part even of a network of one layer.
STEPS_PER_EXECUTION = 32


@dataclass
class Settings:
    """One run, ready to be started.

    Attributes:
        model: Model, with its starting weights drawn.
        data: Data module, before `setup`.
        config: Complete configuration in plain types, as `config.yaml` holds it.
        trainer: Arguments of the Trainer; callbacks, loggers and plugins are objects.
        command: Words of the command that describes the run, for `run.json`.
        has_objective: Whether the objective is measured; otherwise no epoch can be chosen, and the last is the result.
        objective: Metric that chooses the epoch, and its mode.
        metrics: Names of the metrics to compute at the end of each validation and test, besides loss and accuracy; a
            metric that is the objective is among them.
        evaluate: Names of further evaluations: `train_eval`, `before`, `augmented_val`.
        evaluate_every: When the further evaluations are made: of the result, or also after each epoch.
        early_stopping: When training ends early.
        checkpoint: Checkpoints within an epoch, and which epoch is the result.
        name: Name of the folder in `log_dir` that holds the run folder.
        log_dir: Folder that holds all run folders.
        run_dir: Run folder itself, instead of the next free one under `log_dir` and `name`.
        resume: Run folder to resume, or `auto`.
        resume_changed: Whether a run is resumed although its configuration, data, code or versions have changed.
        test_after_fit: Whether the result is tested after training.
        predictions: Whether predictions are kept in the run folder.
        allow: Names of the guards whose refusals become notes.
        findings: Warnings about the configuration.
        figures: Figures to draw.
        figure_layers: Layers whose activations are drawn.
        figure_channels: Channels of these layers.
        seed: Seed of the run.
        threads: Threads of the processor; 0 for the rule of `visionbench.training.device.threads_for`.
        steps_per_execution: Optimizer steps, at most, for which the Trainer's hooks are called once.
        cuda_graph: Whether steps are captured as CUDA graphs where that works.
        precision_reason: Why this precision was chosen.
        notes: Lines about the settings, for the screen.
    """

    model: Classifier
    data: VisionDataModule
    config: dict[str, Any]
    trainer: dict[str, Any]
    command: list[str]
    has_objective: bool = True
    objective: Objective = field(default_factory=Objective)
    metrics: list[str] = field(default_factory=list)
    evaluate: list[EvaluationName] = field(default_factory=list)
    evaluate_every: Literal["end", "epoch"] = "end"
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    checkpoint: Checkpointing = field(default_factory=Checkpointing)
    name: str = "run"
    log_dir: str = "lightning_logs"
    run_dir: str | None = None
    resume: str | None = None
    resume_changed: bool = False
    test_after_fit: bool = True
    predictions: bool = True
    allow: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    figures: Literal["none", "final", "all"] = "final"
    figure_layers: list[str] = field(default_factory=list)
    figure_channels: list[int] = field(default_factory=list)
    seed: int = 0
    threads: int = 0
    steps_per_execution: int = STEPS_PER_EXECUTION
    cuda_graph: Literal["auto", "never"] = "never"
    precision_reason: str = "as asked for"
    notes: list[str] = field(default_factory=list)

    @property
    def keeps_checkpoints(self) -> bool:
        """Whether checkpoints are written."""
        return self.trainer.get("enable_checkpointing") is not False

    @property
    def chooses_epoch(self) -> bool:
        """Whether the result is the epoch that the objective chooses; otherwise it is the last one."""
        return self.has_objective and self.keeps_checkpoints and self.checkpoint.result == "best"
