"""Guards: what a run refuses, or says aloud, because it would measure something else than it seems to."""

from visionbench.guards.base import Finding, Guard, Stage, inspect
from visionbench.guards.config import CONFIG_GUARDS, ConfigContext

GUARDS: tuple[Guard, ...] = (*CONFIG_GUARDS,)
"""Every guard; a new one is a file, a row here and a test."""

__all__ = ["GUARDS", "ConfigContext", "Finding", "Guard", "Stage", "inspect"]
