"""`visionbench compare`: the differences between two runs."""

from collections.abc import Sequence
from pathlib import Path

from visionbench.console import plain_console
from visionbench.errors import UserError
from visionbench.runs.compare import compare

USAGE = """\
usage: visionbench compare RUN_DIR RUN_DIR

Prints the differences between two runs: settings, data, code, metrics, weights. Whether the difference of two
accuracies may be chance is on the page of: visionbench report RUN_DIR RUN_DIR"""


def run(args: Sequence[str]) -> int:
    """Prints the differences between the settings and the results of two runs.

    Args:
        args: Folders of the two runs.

    Returns:
        The exit status.

    Raises:
        UserError: There are not two arguments, or one of them is not a run folder.
    """
    if {"-h", "--help"} & {*args}:
        print(USAGE)
        return 0
    if len(args) != 2:
        raise UserError(f"compare needs two run folders, found {len(args)}; give two.")
    console = plain_console()
    for line in compare(Path(args[0]), Path(args[1])):
        console.print(line)
    return 0
