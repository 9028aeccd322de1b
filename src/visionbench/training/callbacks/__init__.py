"""Duties of a run besides training: its progress, its metrics, checkpoints and predictions, its curves."""

from visionbench.runs.checkpoints import AtomicCheckpointIO
from visionbench.training.callbacks.before_training import BeforeTraining
from visionbench.training.callbacks.checkpoints import RunCheckpoints
from visionbench.training.callbacks.epoch_seed import EpochSeed
from visionbench.training.callbacks.first_batch import FirstBatch
from visionbench.training.callbacks.losses import StepLosses
from visionbench.training.callbacks.metrics import MetricsFile
from visionbench.training.callbacks.predictions import KeptPredictions
from visionbench.training.callbacks.progress import Progress
from visionbench.training.callbacks.tensorboard import RunTensorBoardLogger
from visionbench.training.callbacks.throughput import Throughput

__all__ = [
    "AtomicCheckpointIO",
    "BeforeTraining",
    "EpochSeed",
    "FirstBatch",
    "KeptPredictions",
    "MetricsFile",
    "Progress",
    "RunCheckpoints",
    "RunTensorBoardLogger",
    "StepLosses",
    "Throughput",
]
