"""What a guard is, and how the guards of a stage are asked."""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from visionbench.errors import UserError

Stage = Literal["config", "model", "data", "start", "first batch", "epoch", "end"]


@dataclass(frozen=True)
class Finding:
    """What a guard found.

    Attributes:
        severity: `refusal` ends the run; `warning` is shown as a note and recorded.
        sentence: What was found, what was expected and what to do.
        guard: Name of the guard; empty for a guard without a name.
    """

    severity: Literal["refusal", "warning"]
    sentence: str
    guard: str = ""


class Refused(UserError):
    """A guard refuses the run; a folder without results is not kept.

    Args:
        sentence: Sentence of the first refusal, with the way to allow it.
        findings: All that the guards of the stage found.
    """

    def __init__(self, sentence: str, findings: Sequence[Finding]) -> None:
        super().__init__(sentence)
        self.findings = findings


class Guard(ABC):
    """One check at one stage of a run.

    Attributes:
        name: Word by which `--allow` turns the refusals of the guard into notes; empty for a guard whose refusals
            cannot be allowed.
        stage: Stage at which the guard is asked.
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
        context: Object that the guards of this stage check.
        allow: Names of the guards whose refusals become notes.

    Returns:
        The notes.

    Raises:
        Refused: A guard refuses the run.
    """
    allowed = set(allow)
    findings: list[Finding] = []
    for guard in guards:
        if guard.stage != stage:
            continue
        for finding in guard.check(context):
            refuses = finding.severity == "refusal" and (not guard.name or guard.name not in allowed)
            findings.append(Finding("refusal" if refuses else "warning", finding.sentence, guard.name))
    for finding in findings:
        if finding.severity == "refusal":
            way_out = f", or allow it with --allow '[{finding.guard}]'." if finding.guard else "."
            raise Refused(finding.sentence.removesuffix(".") + way_out, findings)
    return findings


def check_names(guards: Iterable[Guard], allow: Iterable[str]) -> None:
    """Checks that each name in `allow` is that of a guard.

    Args:
        guards: All guards.
        allow: Names that the user gave.

    Raises:
        UserError: There is no guard of such a name.
    """
    known = sorted({guard.name for guard in guards if guard.name})
    for name in allow:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            suggestion = f"; did you mean {close[0]}?" if close else "."
            raise UserError(f"allow: there is no guard {name}; known: {', '.join(known)}{suggestion}")
