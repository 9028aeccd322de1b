"""What a guard is, and how the guards of a stage are asked."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from visionbench.errors import UserError

Stage = Literal["config", "data", "model", "first batch", "end"]


@dataclass(frozen=True)
class Finding:
    """What a guard found.

    Attributes:
        severity: `refusal` ends the run before it measures anything; `warning` is said aloud and recorded.
        sentence: What was found, what was expected and what to do.
        guard: Name of the guard.
    """

    severity: Literal["refusal", "warning"]
    sentence: str
    guard: str = ""


class Guard(ABC):
    """One check, at one stage of a run.

    Attributes:
        name: Word that `--allow` takes to let the run go on all the same; empty where nothing would come of it.
        stage: When the guard is asked.
    """

    name: ClassVar[str] = ""
    stage: ClassVar[Stage]

    @abstractmethod
    def check(self, context: Any) -> Iterator[Finding]:
        """Gives what is wrong with the context, which is the stage's own class, such as `ConfigContext`."""


def inspect(guards: Iterable[Guard], stage: Stage, context: Any, allow: Iterable[str] = ()) -> list[Finding]:
    """Asks the guards of a stage.

    Args:
        guards: All guards.
        stage: Stage that the run has reached.
        context: What the guards of this stage look at.
        allow: Names of guards whose refusals are turned into warnings.

    Returns:
        The warnings.

    Raises:
        UserError: A guard refuses the run.
    """
    allowed = set(allow)
    warnings: list[Finding] = []
    for guard in guards:
        if guard.stage != stage:
            continue
        for finding in guard.check(context):
            if finding.severity == "refusal" and (not guard.name or guard.name not in allowed):
                raise UserError(finding.sentence)
            warnings.append(Finding("warning", finding.sentence, guard.name))
    return warnings
