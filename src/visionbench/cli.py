"""The command line: `visionbench COMMAND ...`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from visionbench.errors import UserError

USAGE = """\
usage: visionbench COMMAND [options]

  fit --config FILE [options]    train, then test the best epoch once
  fit --resume RUN_DIR           go on with a run that was ended
  validate RUN_DIR [options]     evaluate a run's result on its validation images
  test RUN_DIR [options]         evaluate a run's result on the test images
  predict RUN_DIR INPUT...       classes and probabilities of a split, files, folders or a list (-), as CSV
  export RUN_DIR --format FORMAT write the model for use elsewhere (onnx, torch_export, safetensors), checked
  repeat RUN_DIR [options]       run it again, and say whether it is the same
  compare RUN_DIR RUN_DIR        what two runs differ in, and what came out
  report RUN_DIR... [options]    a run, or several side by side, as one HTML file
  data list|prepare|verify|show  the data sets: what is here, whether it is whole, what it looks like

`visionbench fit --help` lists the options, `--model.help NAME` and `--data.help NAME` those of a
model or a data set; `--print_config` shows them all with the values they have."""

COMMANDS = ("fit", "validate", "test", "predict", "export", "repeat", "compare", "report", "data")
# What a process ends with that the shell has told, by SIGPIPE, that nobody reads on.
NO_READER = 141


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command; the console script, `python -m visionbench` and the tests all come in here.

    Args:
        args: The command and its options; by default those that the process was started with.

    Returns:
        The exit status: 0, 2 for a mistake in the command or configuration, 130 or 143 when interrupted,
        141 when nobody reads on what it prints.
    """
    try:
        status = _run(list(sys.argv[1:] if args is None else args))
        sys.stdout.flush()  # here, where a reader that has gone can be noticed
        return status
    except UserError as error:
        print(f"visionbench: error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("visionbench: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as of `visionbench ... | head`
        # What is still to be written goes nowhere, or Python would complain of it when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    command, *rest = words
    if str(Path.cwd()) not in sys.path:  # `python -m` puts it there, the console script does not
        sys.path.insert(0, str(Path.cwd()))
    if command not in COMMANDS:
        raise UserError(f"There is no command {command}; the commands are {', '.join(COMMANDS)}.")
    # Imported here, so that a mistyped command does not wait for torch.
    if command == "data":
        from visionbench.data_commands import data

        return data(rest)
    if command == "predict":
        from visionbench.inference.predict import predict

        return predict(rest)
    if command == "export":
        from visionbench.inference.export import export

        return export(rest)
    if command == "report":
        from visionbench.report.command import report

        return report(rest)
    if command == "fit":
        from visionbench.commands.fit import run

        return run(rest)
    if command == "repeat":
        from visionbench.commands import repeat

        return repeat.run(rest)
    if command == "compare":
        from visionbench.commands import compare

        return compare.run(rest)
    from visionbench.commands import evaluate

    return evaluate.validate(rest) if command == "validate" else evaluate.test(rest)
