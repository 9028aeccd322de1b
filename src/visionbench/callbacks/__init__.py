"""Duties of a run besides training: its progress, its metrics file, its checkpoints, its curves."""

from visionbench.callbacks.checkpoint import AtomicCheckpointIO, RunCheckpoints
from visionbench.callbacks.losses import StepLosses
from visionbench.callbacks.metrics import MetricsFile
from visionbench.callbacks.progress import Progress
from visionbench.callbacks.tensorboard import RunTensorBoardLogger

__all__ = ["AtomicCheckpointIO", "MetricsFile", "Progress", "RunCheckpoints", "RunTensorBoardLogger", "StepLosses"]
