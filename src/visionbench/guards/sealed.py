"""Guards of the test set: it measures the result once, and chooses nothing.

Two more checks lie where they are broken, and hold at every moment of training: `Classifier.log` refuses a name of the
test set, and `VisionDataModule` refuses to give its test loader.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from visionbench.guards.base import Finding, Guard
from visionbench.guards.config import ConfigContext
from visionbench.guards.start import StartContext

INSTEAD = "but the test set may choose nothing; watch a metric of the validation, such as val/loss"


class WatchedTestInConfig(Guard):
    """No callback, scheduler or argument of the model in the configuration watches a metric of the test set."""

    stage = "config"

    def check(self, context: ConfigContext) -> Iterator[Finding]:  # noqa: D102
        config = context.config
        for place, value in (("trainer", config.trainer), ("model", config.model)):
            for name, metric in _entries(place, value):
                if metric in context.metrics or name.endswith(".monitor"):
                    yield Finding("refusal", f"{name} is {metric}, {INSTEAD}.")


class WatchedTest(Guard):
    """No callback and no scheduler that code has made watches a metric of the test set, and no step logs one."""

    stage = "start"

    def check(self, context: StartContext) -> Iterator[Finding]:  # noqa: D102
        for who, metric in context.watched:
            if metric.startswith("test/"):
                yield Finding("refusal", f"{who} watches {metric}, {INSTEAD}.")
        for step in context.steps:
            for metric in step.logged:
                if step.name != "test_step" and metric.startswith("test/"):
                    yield Finding(
                        "refusal",
                        f"{step.name} logs {metric}, but names that begin with test/ are for what is measured on the "
                        "test set; log it under another name.",
                    )


def _entries(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """The texts in a configuration that begin with test/, with their names."""
    if isinstance(value, str):
        if value.startswith("test/"):
            yield name, value
    elif isinstance(value, Mapping) or hasattr(value, "items"):
        for key, entry in value.items():
            yield from _entries(f"{name}.{key}".replace(".init_args", "").replace(".dict_kwargs", ""), entry)
    elif isinstance(value, list | tuple):
        for number, entry in enumerate(value):
            yield from _entries(f"{name}.{number}", entry)
