"""`visionbench validate` and `visionbench test`: the result of a run on one of its splits."""

from collections.abc import Sequence
from typing import Literal

from visionbench.config.cli import settings_from
from visionbench.console import plain_console, quiet_libraries
from visionbench.errors import UserError
from visionbench.processes import run_cleanly
from visionbench.runs.folder import RunFolder, folder_argument
from visionbench.text import counted
from visionbench.training.session import Session
from visionbench.training.summary import metric_lines


def evaluate(command: Literal["validate", "test"], args: Sequence[str]) -> int:
    """Evaluates the result of a run on a split; a test is counted in the run folder.

    Args:
        command: Which split: `validate` or `test`.
        args: Run folder, then options that differ from the run's.

    Returns:
        The exit status.

    Raises:
        UserError: There is no such run, or its checkpoint does not fit the options.
    """
    if args and args[0] in ("-h", "--help"):
        print(f"usage: visionbench {command} RUN_DIR [options]\n\nThe options are those of visionbench fit --help.")
        return 0
    return run_cleanly(lambda: _evaluate(command, args))


def _evaluate(command: Literal["validate", "test"], args: Sequence[str]) -> int:
    run, options = folder_argument(command, args)
    checkpoint = run.result_checkpoint()
    console = plain_console()
    stage: Literal["val", "test"] = "val" if command == "validate" else "test"
    with quiet_libraries():
        settings = settings_from(["--config", str(run.config_path), *options], command)
        for note in settings.notes:
            console.print(note)
        data = settings.data
        session = Session(settings, console.print)
        session.prepare_data()
        if not data.sizes()[stage]:
            name, other = ("validation", "test") if stage == "val" else ("test", "validate")
            why = "the official ones are the validation split" if data.test_is_watched else f"data.{stage}_size is 0"
            raise UserError(f"{run} has no {name} {data.item}s ({why}); use visionbench {other}.")
        result = session.evaluate(stage, checkpoint)
        if result.status == "interrupted":
            return 128 + (result.signal or 0)
        if run.metadata.get("data_digest", data.data_digest()) != data.data_digest():
            session.say(f"note: the {data.item}s, their split or their normalization are not those of the run")
        for line in metric_lines(stage, data, result.metrics, result.counts[stage]):
            session.say(line)
        session.say(f"checkpoint  {checkpoint}")
        if stage == "test":
            session.say(_opening(run, data.item))
    return 0


def _opening(run: RunFolder, item: str) -> str:
    """Records that the test samples were evaluated once more; gives the line that says how often in all."""
    try:
        run.add_test_opening()
    except OSError as error:  # someone else's run, which may be read but not written
        return f"note: this opening of the test {item}s could not be recorded ({error.strerror})"
    return f"openings    the test {item}s were opened {counted(run.test_openings, 'time')} by this run"
