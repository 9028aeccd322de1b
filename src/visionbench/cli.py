"""The command line: `visionbench COMMAND ...`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from visionbench.errors import UserError

USAGE = """\
usage: visionbench COMMAND [options]

  fit --config FILE [options]    train, then test the best epoch once
  validate RUN_DIR [options]     evaluate a run's result on its validation images
  test RUN_DIR [options]         evaluate a run's result on the test images

`visionbench fit --help` lists the options, `--model.help NAME` and `--data.help NAME` those of a
model or a data set; `--print_config` shows them all with the values they have."""

COMMANDS = ("fit", "validate", "test")


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command; the console script, `python -m visionbench` and the tests all come in here.

    Args:
        args: The command and its options; by default those that the process was started with.

    Returns:
        The exit status: 0, 2 for a mistake in the command or configuration, 130 or 143 when interrupted.
    """
    words = list(sys.argv[1:] if args is None else args)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    command, *rest = words
    if str(Path.cwd()) not in sys.path:  # `python -m` puts it there, the console script does not
        sys.path.insert(0, str(Path.cwd()))
    try:
        if command not in COMMANDS:
            raise UserError(f"There is no command {command}; the commands are {', '.join(COMMANDS)}.")
        from visionbench import commands  # here, so that a mistyped command does not wait for torch

        if command == "fit":
            return commands.fit(rest)
        return commands.evaluate(command, rest)
    except UserError as error:
        print(f"visionbench: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("visionbench: interrupted", file=sys.stderr)
        return 130
