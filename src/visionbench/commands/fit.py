"""`visionbench fit`: trains, tests the result once and leaves a run folder."""

from collections.abc import Sequence
from pathlib import Path

from visionbench.config.early import check_names
from visionbench.config.run_files import with_file_named
from visionbench.config.short_help import asks_for_help, short_help, without_all
from visionbench.console import plain_console, quiet_libraries
from visionbench.interrupts import ended_by_sigterm
from visionbench.processes import World, run_cleanly
from visionbench.runs.folder import RunFolder


def run(args: Sequence[str]) -> int:
    """Trains as the options say.

    Args:
        args: Options of `visionbench fit`; a configuration file may stand first, without `--config`.

    Returns:
        The exit status: 0 for a finished run, 1 for a diverged one, 130 or 143 for an interrupted one.

    Raises:
        UserError: The command, the configuration or the data are refused.
    """
    if asks_for_help(args):
        print(short_help("fit", "Trains a model, then tests the best epoch once; leaves a run folder."))
        return 0
    args = _with_run_config(with_file_named(without_all(args)))
    check_names(args)
    return run_cleanly(lambda: _fit(args))


def _fit(args: Sequence[str]) -> int:
    # Here, since torch and Lightning come with them, for which a mistake in the command need not wait.
    from visionbench.api import train
    from visionbench.config.cli import settings_from
    from visionbench.progress import Progress
    from visionbench.training.summary import closing_lines

    console = plain_console()
    with quiet_libraries():
        first = World.detect().is_first
        settings = settings_from(args)
        bar = [] if settings.trainer.get("enable_progress_bar") is False else [Progress(console)]
        with ended_by_sigterm():
            result = train(settings, console.print if first else None, bar)
        if result.status == "interrupted":
            return 128 + (result.signal or 0)
        if result.folder is not None and first:
            for line in closing_lines(settings, result):
                console.print(line)
        return 1 if result.status == "diverged" else 0


def _with_run_config(args: Sequence[str]) -> list[str]:
    """`--resume RUN_DIR` alone means the run's own configuration, with the options beside it on top."""
    words = list(args)
    if any(word == "--config" or word.startswith("--config=") for word in words):
        return words
    for word, following in zip(words, [*words[1:], ""], strict=False):
        folder = following if word == "--resume" else word.removeprefix("--resume=") if "=" in word else ""
        if word.startswith("--resume") and not word.startswith("--resume_") and folder not in ("", "auto", "null"):
            run = RunFolder(Path(folder))
            _ = run.config  # which says in its own words what is wrong with it
            return ["--config", str(run.config_path), *words]
    return words
