"""Duties of a run besides training: its progress, its metrics, checkpoints and predictions, its curves."""

from visionbench.callbacks.before_training import BeforeTraining
from visionbench.callbacks.checkpoint import AtomicCheckpointIO, RunCheckpoints
from visionbench.callbacks.losses import StepLosses
from visionbench.callbacks.metrics import MetricsFile
from visionbench.callbacks.predictions import KeptPredictions
from visionbench.callbacks.progress import Progress
from visionbench.callbacks.tensorboard import RunTensorBoardLogger
from visionbench.callbacks.throughput import Throughput

__all__ = [
    "AtomicCheckpointIO",
    "BeforeTraining",
    "KeptPredictions",
    "MetricsFile",
    "Progress",
    "RunCheckpoints",
    "RunTensorBoardLogger",
    "StepLosses",
    "Throughput",
]
