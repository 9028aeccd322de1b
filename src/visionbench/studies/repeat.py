"""Training one finished run of a study again, to compare it with what is recorded."""

import shlex
from collections.abc import Iterator

from visionbench.errors import UserError
from visionbench.studies.expand import PlannedRun, place_in_words
from visionbench.studies.results import Row, read_rows
from visionbench.studies.runner import SAVED_FILE, Options, Runner, Watcher
from visionbench.studies.screen import result_in_words
from visionbench.studies.spec import Study, is_share
from visionbench.text import counted

# What is compared besides the metrics, in words.
PARTS = {
    "curves": "the curves",
    "losses": "the losses of the last batches",
    "confusion": "the confusion matrices",
    "best_epoch": "the numbers of the best epochs",
    "weights_digest": "the weights",
}
# Digits of a digest that a person compares.
DIGITS = 8


def recorded_rows(runner: Runner) -> dict[str, Row]:
    """The recorded rows of a study's finished runs, by id.

    Args:
        runner: Runner of the study.

    Raises:
        UserError: There are none.
    """
    saved, name = runner.saved / SAVED_FILE, runner.study.id
    rows = {row.id: row for row in read_rows(saved) if row.id in runner.plan.runs and row.is_finished}
    if not rows:
        raise UserError(
            f"{saved} has no finished run of {name}; save the study's runs with visionbench study run {name} --save, "
            "or give the folder of a run to visionbench repeat."
        )
    return rows


def recorded_lines(runner: Runner) -> Iterator[str]:
    """Lists the runs that can be repeated, each with the time that it took, the shortest first.

    Args:
        runner: Runner of the study.

    Raises:
        UserError: There are none.
    """
    rows = recorded_rows(runner)
    shortest_first = sorted(rows, key=lambda name: rows[name].seconds)
    for name in shortest_first:
        run = runner.plan.runs[name]
        yield f"{name}  {place_in_words(run)}: {result_in_words(run, rows[name])}"
    words = shlex.join(["visionbench", "study", "repeat", runner.study.id, shortest_first[0], *runner.options.words])
    yield f"{counted(len(rows), 'run')} recorded, each with its wall time; {words} trains one again"


class Repeater(Runner):
    """Trains one run that has a recorded result, and the runs that it starts from, in a folder of their own.

    Args:
        study: Study.
        run_id: Id of the run, or its first digits.
        options: How it is run; `studies` is the folder of repeated runs.
        watcher: Shows how it comes on; by default nothing is shown.

    Attributes:
        asked: Id of the run.
        recorded: Its recorded row.
        outcome: Its row after it was trained again; `None` before.

    Raises:
        UserError: There is no such run, or it has no recorded result.
    """

    def __init__(self, study: Study, run_id: str, options: Options, watcher: Watcher | None = None) -> None:
        self.asked = ""
        self.outcome: Row | None = None
        super().__init__(study, options, watcher)
        recorded = recorded_rows(self)
        found = [name for name in recorded if name.startswith(run_id)]
        if len(found) != 1:
            ids = f"an id of {self.saved / SAVED_FILE}, such as {next(iter(recorded))}"
            if not found:
                raise UserError(f"No recorded run of {study.id} has an id that begins with {run_id}; give {ids}.")
            raise UserError(
                f"{len(found)} recorded runs of {study.id} have ids that begin with {run_id}; give all digits of {ids}."
            )
        self.asked = found[0]
        self.recorded = recorded[self.asked]

    def differences(self) -> list[str]:
        """Lines that say in what the result differs from the recorded one; none where nothing differs."""
        if self.outcome is None:
            return []
        one, other = self.outcome, self.recorded
        lines = [
            f"{name}: {_text(name, one.metrics.get(name))} here, {_text(name, other.metrics.get(name))} recorded"
            for name in dict.fromkeys((*other.metrics, *one.metrics))
            if one.metrics.get(name) != other.metrics.get(name)
        ]
        lines += [
            f"{word} are other ones" for name, word in PARTS.items() if getattr(one, name) != getattr(other, name)
        ]
        return lines

    def circumstances(self) -> list[str]:
        """What is other than when the result was recorded: processor, code, data, versions."""
        if self.outcome is None:
            return []
        here, there = (
            {
                "processor": row.processor,
                "precision": row.precision,
                "code": row.code[:DIGITS],
                "data": row.data_digest[:DIGITS],
                **row.versions,
            }
            for row in (self.outcome, self.recorded)
        )
        return [
            f"{name} {here.get(name, 'none')} here, {there.get(name, 'none')} recorded"
            for name in dict.fromkeys((*here, *there))
            if here.get(name) != there.get(name)
        ]

    def write(self) -> None:
        """Writes nothing: the recorded rows stay as they are, and are compared with the next time too."""

    def _lacks(self, run: PlannedRun) -> bool:
        return run.id == self.asked and self.outcome is None

    def _reason(self, run: PlannedRun, is_complete: bool) -> str:
        return "comparison" if run.id == self.asked else super()._reason(run, is_complete)

    def _ended(self, run: PlannedRun, status: int) -> None:
        super()._ended(run, status)
        if run.id == self.asked:
            row = self.store.read(run)
            self.outcome = row if row is not None and row.is_finished else None

    def is_complete(self) -> bool:
        """Whether the run was trained again."""
        return self.outcome is not None


def _text(name: str, value: float | None) -> str:
    if value is None:
        return "none"
    return f"{100 * value:.4f} %" if is_share(name) else f"{value:.9g}"
