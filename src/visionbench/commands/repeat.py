"""`visionbench repeat`: a finished run again, and whether the same came out."""

import shlex
from collections.abc import Sequence

from visionbench.api import train
from visionbench.config.cli import settings_from
from visionbench.config.short_help import asks_for_help
from visionbench.console import plain_console, quiet_libraries
from visionbench.errors import UserError
from visionbench.interrupts import ended_by_sigterm
from visionbench.processes import World, run_cleanly
from visionbench.progress import Progress
from visionbench.runs.compare import compare, first_difference
from visionbench.runs.folder import folder_argument
from visionbench.training.summary import closing_lines

USAGE = """\
usage: visionbench repeat RUN_DIR [options]

Trains a finished run again in a new folder beside it, and prints whether the results are the same.
The options are those of visionbench fit --help. Exit status: 0 the same, 1 different."""


def run(args: Sequence[str]) -> int:
    """Trains a finished run a second time, in a new folder beside it, and prints whether the results are the same.

    Args:
        args: Run folder, then options that differ from the run's.

    Returns:
        The exit status: 0 where the results are the same bit for bit, 1 where they differ; 130 or 143 if the second
        training is interrupted.

    Raises:
        UserError: There is no such run, or it is not finished.
    """
    if asks_for_help(args):
        print(USAGE)
        return 0
    return run_cleanly(lambda: _repeat(args))


def _repeat(args: Sequence[str]) -> int:
    first, options = folder_argument("repeat", args)
    if (status := first.status) != "finished":
        raise UserError(
            f"{first} is {status}, not finished; visionbench fit --resume {shlex.quote(str(first))} resumes it."
        )
    _ = first.config  # which says in its own words what is wrong with it
    # Beside the first run, also where that one was named by --run_dir, which would be taken.
    words = ["--config", str(first.config_path), "--run_dir", "null"]
    # A folder such as run, or ../run, has no name of a parent in its path.
    beside = first.path.parent if first.path.parent.name not in ("", "..") else first.path.resolve().parent
    words += ["--log_dir", str(beside.parent), "--name", beside.name, *options]
    console = plain_console()
    with quiet_libraries():
        world = World.detect()
        settings = settings_from(words)
        bar = [] if settings.trainer.get("enable_progress_bar") is False else [Progress(console)]
        with ended_by_sigterm():
            result = train(settings, console.print if world.is_first else None, bar)
        if result.status == "interrupted":
            return 128 + (result.signal or 0)
        if result.folder is None or not world.is_first:
            return 0
        for line in closing_lines(settings, result):
            console.print(line)
    difference = first_difference(first.path, result.folder)
    if difference is None:
        console.print(f"same        every loss, metric and weight is that of {first}, bit for bit")
        return 0
    console.print(f"different   {difference}")
    for line in compare(first.path, result.folder):
        console.print(f"            {line}")
    return 1
