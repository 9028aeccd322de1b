"""Guards: what a run refuses, or reports, because it would measure something else than it seems to."""

from visionbench.guards.base import Finding, Guard, Refused, Stage, inspect
from visionbench.guards.config import (
    ConfigContext,
    LinkedArguments,
    NamedDevices,
    OneProcessADevice,
    PlateauInterval,
    ReachedValidation,
    RunName,
    WatchableObjective,
    WatchedValidation,
)
from visionbench.guards.data import DataContext, DuplicateFiles, OfficialTestAsValidation
from visionbench.guards.model import ModelContext, OptimizerSettings, SharesOfClasses
from visionbench.guards.run import EndContext, FirstBatchContext, NonFiniteLoss, NothingTrained, NothingValidated

GUARDS: list[Guard] = [
    LinkedArguments(),
    RunName(),
    WatchableObjective(),
    PlateauInterval(),
    WatchedValidation(),
    ReachedValidation(),
    OneProcessADevice(),
    NamedDevices(),
    OptimizerSettings(),
    SharesOfClasses(),
    OfficialTestAsValidation(),
    DuplicateFiles(),
    NonFiniteLoss(),
    NothingTrained(),
    NothingValidated(),
]
"""Every guard, in the order in which the guards of one stage are asked."""

__all__ = [
    "GUARDS",
    "ConfigContext",
    "DataContext",
    "EndContext",
    "Finding",
    "FirstBatchContext",
    "Guard",
    "ModelContext",
    "Refused",
    "Stage",
    "inspect",
]
