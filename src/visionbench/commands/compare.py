"""`visionbench compare`: what two runs differ in, and what came out."""

from collections.abc import Sequence
from pathlib import Path

from visionbench.console import plain_console
from visionbench.errors import UserError
from visionbench.runs.compare import compare


def run(args: Sequence[str]) -> int:
    """Says in what two runs differ.

    Args:
        args: Two run folders.

    Returns:
        The exit status.

    Raises:
        UserError: They are not two runs.
    """
    if args and args[0] in ("-h", "--help"):
        print("usage: visionbench compare RUN_DIR RUN_DIR")
        return 0
    if len(args) != 2:
        raise UserError(f"compare needs the folders of two runs, found {len(args)} words; give two.")
    console = plain_console()
    for line in compare(Path(args[0]), Path(args[1])):
        console.print(line)
    return 0
