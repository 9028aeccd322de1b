"""The command line: `visionbench COMMAND ...`."""

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from visionbench.errors import UserError
from visionbench.launch import is_launched
from visionbench.surroundings import OutputFailed, own_surroundings


class Command(NamedTuple):
    """A row of the table of commands.

    Attributes:
        name: First argument of the command line.
        usage: One or more pairs of the arguments and what the command does with them.
        module: Module with the function `run(args) -> int`; after a colon, the name of another function. The module is
            imported only when its command runs, so that a misspelled command does not wait for torch.
        passes_name: Whether the function takes the command's name before its arguments.
    """

    name: str
    usage: Sequence[tuple[str, str]]
    module: str
    passes_name: bool = False


COMMANDS = (
    Command(
        "fit",
        [
            ("--config FILE [options]", "train, then test the best epoch once"),
            ("--resume RUN_DIR", "resume an interrupted run"),
        ],
        "visionbench.commands.fit",
    ),
    Command(
        "check",
        [("--config FILE [options]", "ask the guards of a run's start, and try one step; no run is written")],
        "visionbench.commands.check",
    ),
    Command(
        "schema",
        [("[--output FILE]", "write a JSON Schema of run files, from which an editor completes")],
        "visionbench.commands.schema",
    ),
    Command(
        "validate",
        [("RUN_DIR [options]", "evaluate a run's checkpoint on the validation images")],
        "visionbench.commands.evaluate:evaluate",
        passes_name=True,
    ),
    Command(
        "test",
        [("RUN_DIR [options]", "evaluate a run's checkpoint on the test images")],
        "visionbench.commands.evaluate:evaluate",
        passes_name=True,
    ),
    Command(
        "predict",
        [("RUN_DIR INPUT...", "write classes and probabilities of a split, files, folders or a list (-) as CSV")],
        "visionbench.commands.predict",
    ),
    Command(
        "export",
        [("RUN_DIR --format FORMAT", "write the model as onnx, torch_export or safetensors, and check the file")],
        "visionbench.commands.export",
    ),
    Command(
        "repeat",
        [("RUN_DIR [options]", "train a finished run a second time, and compare the two results")],
        "visionbench.commands.repeat",
    ),
    Command(
        "compare",
        [("RUN_DIR RUN_DIR", "list the differences between two runs' settings and results")],
        "visionbench.commands.compare",
    ),
    Command(
        "report",
        [("RUN_DIR... [options]", "write one run, or several side by side, as one HTML file")],
        "visionbench.commands.report",
    ),
    Command(
        "data",
        [("list|prepare|verify|show", "list, prepare, check or draw data sets")],
        "visionbench.commands.data",
    ),
    Command(
        "study",
        [("list|new|run|report|...", "run a published table again, and say whether it holds")],
        "visionbench.commands.study:study",
    ),
    Command(
        "new",
        [("NAME", "write a project of your own: a model, a data set, a study and tests")],
        "visionbench.commands.new",
    ),
)

# Commands that torchrun or srun may start several times for one run.
SEVERAL_PROCESSES = ("fit", "repeat", "validate", "test")
NOTES = """\
`visionbench fit --help` lists the options, `--model.help NAME` and `--data.help NAME` those of a
model or a data set; `--print_config` prints every option with its value. `visionbench --version`
prints the version."""

# Exit status of a process whose output has no reader; shells give it to a process that SIGPIPE ended.
NO_READER = 141


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command; the console script, `python -m visionbench` and the tests all call it.

    Args:
        args: The command and its options; by default the arguments of the process.

    Returns:
        The exit status: 0, 1 for a failed or diverged run, 2 for a mistake in the command or configuration, 130 or 143
        when interrupted, 141 when the reader of the output has gone.
    """
    try:
        with own_surroundings():
            return _main(list(sys.argv[1:] if args is None else args))
    except UserError as error:  # the surroundings are no place for a command
        print(f"visionbench: error: {error}", file=sys.stderr)
        return error.status


def usage() -> str:
    """The usage text: one line for each form of each command."""
    forms = [(f"{command.name} {form}", summary) for command in COMMANDS for form, summary in command.usage]
    width = max(len(form) for form, _ in forms)
    lines = [f"  {form:<{width}} {summary}" for form, summary in forms]
    return "\n".join(["usage: visionbench COMMAND [options]", "", *lines, "", NOTES])


def _main(words: list[str]) -> int:
    try:
        status = _run(words)
        sys.stdout.flush()  # here, where a reader that has gone can be noticed
        return status
    except UserError as error:
        print(f"visionbench: error: {error}", file=sys.stderr)
        if isinstance(error, OutputFailed):
            _discard_output()
        return error.status
    except KeyboardInterrupt:
        print("visionbench: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as of `visionbench ... | head`
        _discard_output()
        return NO_READER


def _discard_output() -> None:
    """Discards the rest of the output, or Python would print an error when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    if words[0] == "--version":
        from visionbench import __version__  # here, since it is looked for among the installed packages

        print(f"visionbench {__version__}")
        return 0
    name, *args = words
    command = _find(name)
    if name not in SEVERAL_PROCESSES and is_launched(os.environ):
        raise UserError(
            f"torchrun or srun started this command as one of several, which {name} is not made for; start it once "
            f"(commands of several processes: {', '.join(SEVERAL_PROCESSES)})."
        )
    module, _, function = command.module.partition(":")
    run: Callable[..., int] = getattr(importlib.import_module(module), function or "run")
    return run(name, args) if command.passes_name else run(args)


def _find(name: str) -> Command:
    by_name = {command.name: command for command in COMMANDS}
    if name in by_name:
        return by_name[name]
    close = difflib.get_close_matches(name.lower(), by_name, n=1)
    hint = (
        f"did you mean {close[0]}?"
        if close
        else f"the commands are {', '.join(by_name)}; visionbench --help explains them."
    )
    raise UserError(f"There is no command {name}; {hint}")
