"""`visionbench check`: what the guards say of a run before it is started."""

from collections.abc import Sequence

from rich.table import Table

from visionbench.config.early import check_names
from visionbench.config.run_files import with_file_named
from visionbench.config.short_help import asks_for_help, short_help, without_all
from visionbench.console import plain_console, quiet_libraries
from visionbench.errors import UserError
from visionbench.processes import run_cleanly
from visionbench.text import counted

# What a finding is called, by its severity.
WORDS = {"refusal": "refusal", "warning": "note"}


def run(args: Sequence[str]) -> int:
    """Prints what the guards find until the first step of a run, as a table.

    Args:
        args: Options of `visionbench fit`; a configuration file may stand first, without `--config`.

    Returns:
        The exit status: 0, or 1 if a guard refuses the run.

    Raises:
        UserError: The configuration or the data are refused by something else than a guard.
    """
    if asks_for_help(args):
        print(short_help("check", "Asks the guards of a run's start, trains one step, and writes no run."))
        return 0
    if any(word == "--resume" or word.startswith("--resume=") for word in args):
        raise UserError("check tries the start of a new run; leave --resume out.")
    words = with_file_named(without_all(args))
    check_names(words)
    return run_cleanly(lambda: _check(words))


def _check(words: Sequence[str]) -> int:
    # Here, since torch and Lightning come with them, for which a mistake in the command need not wait.
    from visionbench.api import check
    from visionbench.config.cli import settings_from
    from visionbench.guards import Refused

    with quiet_libraries():
        try:
            settings = settings_from(words, "check")
            if settings.resume is not None:
                raise UserError("check tries the start of a new run; leave --resume out.")
            findings = check(settings)
        except Refused as refused:  # by a guard of the configuration
            findings = list(refused.findings)
    refusals = [finding for finding in findings if finding.severity == "refusal"]
    console = plain_console()
    if findings:
        table = Table("finding", "guard", "what was found", show_lines=True)
        for finding in sorted(findings, key=lambda finding: finding.severity):
            table.add_row(WORDS[finding.severity], finding.guard or "-", finding.sentence)
        console.print(table, soft_wrap=False)
    if not refusals:
        console.print(
            f"{counted(len(findings), 'note')}, no refusal; one step was trained and one batch validated, and "
            "no run was written"
        )
        return 0
    names = sorted({finding.guard for finding in refusals if finding.guard})
    way = f"; --allow '[{', '.join(names)}]' turns those with a name into notes" if names else ""
    console.print(f"{counted(len(refusals), 'refusal')}: fit would not start this run{way}")
    return 1
