"""Duties of a run besides training: its metrics, checkpoints and predictions, its curves."""

from visionbench.runs.checkpoints import AtomicCheckpointIO
from visionbench.training.callbacks.before_training import BeforeTraining
from visionbench.training.callbacks.below_median import EndBelowMedian
from visionbench.training.callbacks.checkpoints import RunCheckpoints
from visionbench.training.callbacks.epoch_seed import EpochSeed
from visionbench.training.callbacks.epochs import EndOfEpoch
from visionbench.training.callbacks.evaluations import EvaluatedEpochs
from visionbench.training.callbacks.finite import Diverged, FiniteLosses
from visionbench.training.callbacks.first_batch import FirstBatch
from visionbench.training.callbacks.idle_taps import IdleTapsIn32Bits
from visionbench.training.callbacks.losses import StepLosses
from visionbench.training.callbacks.metrics import MetricsFile
from visionbench.training.callbacks.outputs import SplitOutputs
from visionbench.training.callbacks.predictions import KeptPredictions
from visionbench.training.callbacks.start import StartOfTraining
from visionbench.training.callbacks.tensorboard import RunTensorBoardLogger
from visionbench.training.callbacks.throughput import Throughput

__all__ = [
    "AtomicCheckpointIO",
    "BeforeTraining",
    "Diverged",
    "EndBelowMedian",
    "EndOfEpoch",
    "EpochSeed",
    "EvaluatedEpochs",
    "FiniteLosses",
    "FirstBatch",
    "IdleTapsIn32Bits",
    "KeptPredictions",
    "MetricsFile",
    "RunCheckpoints",
    "RunTensorBoardLogger",
    "SplitOutputs",
    "StartOfTraining",
    "StepLosses",
    "Throughput",
]
