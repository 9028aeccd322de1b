"""`visionbench validate` and `visionbench test`: the result of a run on one of its splits."""

from collections.abc import Sequence
from typing import Literal

from visionbench.config.cli import settings_from
from visionbench.config.short_help import asks_for_help
from visionbench.console import plain_console, quiet_libraries
from visionbench.data.base import VisionDataModule
from visionbench.errors import UserError
from visionbench.processes import run_cleanly
from visionbench.runs.checkpoints import load_checkpoint
from visionbench.runs.folder import RunFolder, folder_argument
from visionbench.training.session import Session
from visionbench.training.summary import metric_lines, provenance_lines


def evaluate(command: Literal["validate", "test"], args: Sequence[str]) -> int:
    """Evaluates the result of a run on a split; a test is recorded in the ledger of the log folder.

    Args:
        command: Which split: `validate` or `test`.
        args: Run folder, then options that differ from the run's.

    Returns:
        The exit status.

    Raises:
        UserError: There is no such run, its checkpoint does not fit the options, or it may have been trained on samples
            of the split.
    """
    if asks_for_help(args):
        print(f"usage: visionbench {command} RUN_DIR [options]\n\nThe options are those of visionbench fit --help.")
        return 0
    return run_cleanly(lambda: _evaluate(command, args))


def _evaluate(command: Literal["validate", "test"], args: Sequence[str]) -> int:
    run, options = folder_argument(command, args)
    checkpoint = run.result_checkpoint()
    if run.status == "diverged":
        raise UserError(
            f"{run} has diverged ({run.divergence}), so that it has no result to evaluate; start a new run with other "
            "settings, such as a lower learning rate."
        )
    load_checkpoint(checkpoint, run.how_to_repeat())  # a torn one would open the test samples for nothing
    console = plain_console()
    stage: Literal["val", "test"] = "val" if command == "validate" else "test"
    with quiet_libraries():
        settings = settings_from(["--config", str(run.config_path), *options], command)
        data = settings.data
        session = Session(settings, console.print)
        for note in settings.notes:
            session.say(note)
        if (warning := run.warning()) is not None:
            session.say(warning)
        session.prepare_data()
        _check_classes(run, data)
        if not data.sizes()[stage]:
            name, other = ("validation", "test") if stage == "val" else ("test", "validate")
            why = "the official ones are the validation split" if data.test_is_watched else f"data.{stage}_size is 0"
            raise UserError(f"{run} has no {name} {data.item}s ({why}); use visionbench {other}.")
        data.check_unseen(stage, str(run), run.metadata.get("split_digests") or {})
        unrecorded: str | None = None
        if stage == "test" and session.world.is_first:
            unrecorded = run.open_test(data.sealed_samples(), "test", checkpoint)
        result = session.evaluate(stage, checkpoint)
        if result.status == "interrupted":
            return 128 + (result.signal or 0)
        if run.metadata.get("data_digest", data.data_digest()) != data.data_digest():
            session.say(f"note: the {data.item}s, their split or their normalization are not those of the run")
        for line in metric_lines(stage, data, result.metrics, result.counts[stage]):
            session.say(line)
        is_split_of_run = run.metadata.get("split_digests") == {name: data.split_digest(name) for name in data.splits}
        for line in provenance_lines(run, data.item if stage == "test" else None, is_split_of_run):
            session.say(line)
        session.say(f"checkpoint  {checkpoint}")
        if unrecorded is not None:
            session.say(unrecorded)
    return 0


def _check_classes(run: RunFolder, data: VisionDataModule) -> None:
    """Checks that each label of the data means the class that it meant when the run was trained.

    Raises:
        UserError: The classes differ from those of the run, in their names or in their order.
    """
    trained, present = tuple(run.input.get("class_names", data.class_names)), tuple(data.class_names)
    if trained == present:
        return
    added, missing = sorted(set(present) - set(trained)), sorted(set(trained) - set(present))
    changes = [f"{', '.join(added)} added"] * bool(added) + [f"{', '.join(missing)} missing"] * bool(missing)
    raise UserError(
        f"The classes of {data.title} are no longer those that {run} was trained on "
        f"({'; '.join(changes) or 'another order'}), so that its outputs would be compared with the labels of other "
        "classes; restore the classes, or use visionbench predict with a folder, which compares classes by name."
    )
