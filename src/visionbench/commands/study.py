"""`visionbench study`: runs a published table again, and says whether it holds."""

import csv
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from visionbench.arguments import PlainParser
from visionbench.config.messages import no_value
from visionbench.console import plain_console
from visionbench.errors import Stopped, UserError

if TYPE_CHECKING:
    from visionbench.studies.runner import Runner
    from visionbench.studies.tables import Measured

USAGE = """\
usage: visionbench study COMMAND

  list                           list the studies in configs/studies, and how far they are
  new NAME [--compare | --grid]  write configs/studies/NAME.yaml, an example that runs on Digits, to be changed
  run STUDY [options]            train all runs that are missing; the same command resumes an interrupted study
  report STUDY [options]         write the page with verdicts, tables and figures
  verify STUDY                   compare the verdicts with those that were saved; trains nothing
  repeat STUDY [RUN]             train one recorded run again, and compare it with its row; without RUN, list them
  slurm STUDY [options]          write an array job for SLURM, whose tasks share the runs; --submit submits it

STUDY is a study file, or the name of one in configs/studies. `visionbench study run --help` lists the options."""

UNITS = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
VERDICTS_FILE = "verdicts.csv"
REPEATED = "lightning_logs/repeated"
# Exit status of `verify` where runs are missing.
INCOMPLETE = 3


def study(args: Sequence[str]) -> int:
    """Runs one of the commands.

    Args:
        args: Name of the command, then its arguments.

    Returns:
        The exit status: 0; 1 for `run` with failed runs, for `verify` with a verdict that got worse, and for `repeat`
        with another result under the same circumstances; 3 for `verify` with missing runs.

    Raises:
        UserError: There is no such command or study, or the study file is refused.
    """
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if args else 2
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        "list": _list,
        "new": _new,
        "run": _run,
        "report": _report,
        "verify": _verify,
        "repeat": _repeat,
        "slurm": _slurm,
    }
    if args[0] not in commands:
        raise UserError(f"There is no command study {args[0]}; the commands are {', '.join(commands)}.")
    return commands[args[0]](args[1:])


def _parser(command: str, description: str, studies: str = "lightning_logs/studies") -> PlainParser:
    parser = PlainParser(prog=f"visionbench study {command}", description=description, allow_abbrev=False)
    parser.add_argument("study", metavar="STUDY", help="Study file, or the name of one in configs/studies.")
    parser.add_argument("--studies", default=studies, metavar="DIR", help="Folder that holds the runs of all studies.")
    return parser


def _run(args: Sequence[str]) -> int:
    from visionbench.interrupts import ended_by_sigterm
    from visionbench.studies.runner import Options, Runner
    from visionbench.studies.screen import Lines, Screen
    from visionbench.studies.spec import load_study

    words, args = _free_options(args)
    parser = _parser(
        "run",
        "Trains all runs of a study that are missing, each in a process of its own with one thread. Options of fit "
        "that change no number may be given too, such as --data.source FOLDER.",
    )
    parser.add_argument("--dry_run", action="store_true", help="List the runs with their times; train nothing.")
    parser.add_argument(
        "--budget",
        metavar="TIME",
        help="Time within which runs have to end, by their estimates, such as 2h or 30min; no other run is started. "
        "Runs go seed by seed over all cells.",
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="Number of runs at once; by default one per GPU, or one per core."
    )
    parser.add_argument("--save", action="store_true", help="Write rows and verdicts to docs/results/STUDY too.")
    parser.add_argument(
        "--accept_code", action="store_true", help="Count runs that were made by other code or on other data."
    )
    parser.add_argument(
        "--keep_checkpoints",
        action="store_true",
        help="Keep all checkpoints, in later runs too; by default those that a later run or a figure needs.",
    )
    parser.add_argument(
        "--stages", metavar="LIST", help="Stages to train, separated by commas, and the runs that these need."
    )
    parser.add_argument("--protocols", metavar="LIST", help="Protocols to train, separated by commas.")
    parser.add_argument(
        "--share", metavar="K/N", help="Share of the runs to train, such as 1/4; others train the rest."
    )
    parser.add_argument(
        "--executor", choices=("local", "ray"), default="local", help="Where the runs are trained; ray needs Ray."
    )
    parser.add_argument(
        "--address", help="Address of the cluster of Ray, such as auto; by default one on this machine."
    )
    parser.add_argument("--cpus", type=float, default=1.0, metavar="N", help="Processor cores of a run, with Ray.")
    parser.add_argument("--gpus", type=float, default=0.0, metavar="N", help="GPUs of a run, with Ray, such as 0.25.")
    options = parser.parse_args(args)
    if options.workers is not None and options.workers < 1:
        raise UserError(f"workers is {options.workers}, expected 1 or more.")
    if not options.cpus > 0 or not options.gpus >= 0:
        raise UserError(
            f"cpus is {options.cpus:g} and gpus is {options.gpus:g}, expected cpus above 0 and gpus from 0."
        )
    loaded = load_study(options.study)
    console = plain_console()
    runner = Runner(
        loaded,
        Options(
            studies=Path(options.studies),
            words=words,
            workers=options.workers,
            save=options.save,
            accept_code=options.accept_code,
            budget=seconds_of(options.budget) if options.budget is not None else None,
            keep_checkpoints=options.keep_checkpoints,
            protocols=_names(options.protocols),
            stages=_names(options.stages),
            share=_share(options.share),
            executor=options.executor,
            address=options.address,
            cpus=options.cpus,
            gpus=options.gpus,
        ),
        Screen(console) if console.is_terminal else Lines(console),
    )
    if options.dry_run:
        from visionbench.studies.estimate import dry_run

        for line in dry_run(runner):
            console.print(line)
        return 0
    try:
        with ended_by_sigterm():
            complete = runner.run()
    except (KeyboardInterrupt, Stopped) as stop:
        console.print("Stopped; the same command resumes the study where it stopped.")
        return stop.status if isinstance(stop, Stopped) else 130
    if options.save:
        _save_verdicts(runner)
    for line in _verdict_lines(runner):
        console.print(line)
    failed = any((row := runner.row(run)) is not None and not row.is_finished for run in runner.every_run())
    return 1 if failed or not (complete or runner.out_of_budget) else 0


def _report(args: Sequence[str]) -> int:
    from visionbench.studies.report import write_report
    from visionbench.studies.runner import Options, Runner
    from visionbench.studies.spec import load_study

    parser = _parser("report", "Writes the page of a study: verdicts, tables and figures.")
    parser.add_argument(
        "--formats",
        default="html,csv",
        metavar="LIST",
        help="Files to write, separated by commas: html, csv, markdown, latex, and png, the picture of the verdicts.",
    )
    options = parser.parse_args(args)
    # Rows that other code has made are shown too: the page says so.
    runner = Runner(load_study(options.study), Options(studies=Path(options.studies), accept_code=True))
    formats = _names(options.formats)
    paths = write_report(
        runner.study, runner.plan, runner.store.rows, runner.store.folder, notes=runner.notes, formats=formats
    )
    console = plain_console()
    notes = (f"note: {note}" for note in runner.notes)
    for line in (*_verdict_lines(runner), *notes, *(f"report      {path}" for path in paths)):
        console.print(line)
    return 0


def _verify(args: Sequence[str]) -> int:
    from visionbench.studies.runner import Options, Runner
    from visionbench.studies.spec import load_study
    from visionbench.studies.verdicts import worse

    parser = _parser("verify", "Compares the verdicts with those in docs/results/STUDY; trains nothing.")
    options = parser.parse_args(args)
    runner = Runner(load_study(options.study), Options(studies=Path(options.studies), accept_code=True))
    saved = runner.saved / VERDICTS_FILE
    if not saved.exists():
        raise UserError(f"There are no saved verdicts in {saved}; visionbench study run --save writes them.")
    with saved.open(encoding="utf-8", newline="") as file:
        before = {row["value"]: row["verdict"] for row in csv.DictReader(file)}
    console = plain_console()
    for note in runner.notes:
        console.print(f"note: {note}")
    worsened = False
    for name, entry in _named(_judged(runner)).items():
        kind = entry.verdict.kind if entry.verdict is not None else "incomplete"
        old = before.pop(name, kind)
        change = ""
        if old != kind:
            got_worse = worse(old, kind)
            worsened |= got_worse
            change = f" ({'worse' if got_worse else 'not worse'} than the saved {old})"
        reason = entry.verdict.sentence.removeprefix(f"{kind}: ") if entry.verdict is not None else ""
        console.print(f"{kind}{change}: {name}: {reason}")
    for name, old in before.items():
        worsened = True
        console.print(f"not judged any more (worse than the saved {old}): {name}")
    if worsened:
        return 1
    return 0 if runner.is_complete() else INCOMPLETE


def _repeat(args: Sequence[str]) -> int:
    from visionbench.interrupts import ended_by_sigterm
    from visionbench.studies.repeat import Repeater, recorded_lines
    from visionbench.studies.runner import Options, Runner
    from visionbench.studies.screen import Lines
    from visionbench.studies.spec import load_study

    words, args = _free_options(args)
    parser = _parser(
        "repeat",
        "Trains one run again that study run --save has recorded, in a folder of its own, and compares it with its "
        "row. Options of fit that change no number may be given too, such as --data.source FOLDER.",
        studies=REPEATED,
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        nargs="?",
        help="Id of the run in docs/results/STUDY/runs.csv, or its first digits; without it, the runs are listed with "
        "the time that each took.",
    )
    options = parser.parse_args(args)
    console = plain_console()
    study, settings = load_study(options.study), Options(studies=Path(options.studies), words=words, accept_code=True)
    if options.run is None:
        for line in recorded_lines(Runner(study, settings)):
            console.print(line)
        return 0
    runner = Repeater(study, options.run, settings, Lines(console))
    try:
        with ended_by_sigterm():
            repeated = runner.run()
    except (KeyboardInterrupt, Stopped) as stop:
        console.print("Stopped; the same command resumes the run.")
        return stop.status if isinstance(stop, Stopped) else 130
    if not repeated:
        return 1
    differences, circumstances = runner.differences(), runner.circumstances()
    if not differences:
        console.print("Weights, metrics, curves and confusion matrices are those recorded, digit for digit.")
        return 0
    for line in differences:
        console.print(line)
    console.print(f"other circumstances: {'; '.join(circumstances) or 'none that is known'}")
    return 0 if circumstances else 1


def _slurm(args: Sequence[str]) -> int:
    import shlex

    from visionbench.studies.runner import Options, Runner
    from visionbench.studies.slurm import SlurmOptions, submissions, submit, write_script
    from visionbench.studies.spec import load_study

    words, args = _free_options(args)
    parser = _parser(
        "slurm",
        "Writes an array job for SLURM, whose tasks share the runs of the study. Options of fit that change no number "
        "may be given too, such as --data.source FOLDER. The folder of the studies must be seen by all nodes.",
    )
    parser.add_argument("--tasks", type=int, default=4, metavar="N", help="Number of tasks of the array (4).")
    parser.add_argument(
        "--cpus", type=int, default=2, metavar="N", help="Processor cores of each task, one per run (2)."
    )
    parser.add_argument("--gpus", type=int, default=0, metavar="N", help="GPUs of each task, one per run (0).")
    parser.add_argument(
        "--time", default="02:00:00", help="Time limit of each task, which is then queued again (02:00:00)."
    )
    parser.add_argument(
        "--sbatch", action="append", default=[], metavar="ARGUMENT", help="Further argument of sbatch; may be repeated."
    )
    parser.add_argument("--submit", action="store_true", help="Submit the jobs too.")
    options = parser.parse_args(args)
    study = load_study(options.study)
    Runner(study, Options(studies=Path(options.studies), words=words))  # refuses what the tasks would refuse
    slurm = SlurmOptions(options.tasks, options.cpus, options.gpus, options.time, options.sbatch, words)
    script = write_script(study, Path(options.studies) / study.id, slurm)
    console = plain_console()
    console.print(f"wrote {script}")
    if options.submit:
        console.print(f"submitted: {', '.join(submit(study, script))}")
    else:
        for command in submissions(study, script):
            console.print(f"submit with: {shlex.join(command)}")
    console.print(f"when all jobs have ended: visionbench study run {options.study} --save")
    return 0


def _list(args: Sequence[str]) -> int:
    from visionbench.studies.runner import Options, Runner
    from visionbench.studies.spec import load_study

    parser = PlainParser(prog="visionbench study list", description="Lists the studies in configs/studies.")
    parser.add_argument("--studies", default="lightning_logs/studies", metavar="DIR", help="Folder of all studies.")
    options = parser.parse_args(args)
    console = plain_console()
    paths = sorted(Path("configs/studies").glob("*.yaml"))
    if not paths:
        console.print("There is no study in configs/studies; visionbench study new NAME writes an example.")
    for path in paths:
        try:
            runner = Runner(load_study(path), Options(studies=Path(options.studies), accept_code=True))
        except UserError as error:  # the other studies are listed all the same
            console.print(f"{path.stem:<28} {error}")
            continue
        planned = len(runner.plan.runs) + sum(entry.count for entry in runner.plan.waiting)
        finished = sum(row.is_finished for row in runner.rows())
        console.print(f"{path.stem:<28} {finished:>4}/{planned:<4} runs  {runner.study.title}")
        if finished:
            console.print(f"{'':<39}{_summary(runner)}")
    return 0


def _new(args: Sequence[str]) -> int:
    from visionbench.studies.example import COMPARISON, EXAMPLE, GRID

    parser = PlainParser(prog="visionbench study new", description="Writes an example of a study file.")
    parser.add_argument("name", metavar="NAME", help="Name of the study: small letters, digits and hyphens.")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--compare",
        action="store_true",
        help="Write an example that compares models of your own, without a published table.",
    )
    kinds.add_argument(
        "--grid",
        action="store_true",
        help="Write an example of a grid search, whose best cell is tested once, without a published table.",
    )
    options = parser.parse_args(args)
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", options.name):
        raise UserError(f"The name is {options.name}, expected small letters, digits and hyphens, such as my-study.")
    path = Path("configs/studies") / f"{options.name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    module = options.name.replace("-", "_")
    try:
        with path.open("x", encoding="utf-8") as file:
            example = COMPARISON if options.compare else GRID if options.grid else EXAMPLE
            file.write(example.replace("NAME_with_underscores", module).replace("NAME", options.name))
    except FileExistsError:
        raise UserError(f"{path} is there already; give another name.") from None
    console = plain_console()
    console.print(f"wrote {path}; try it as it is with: visionbench study run {options.name}")
    return 0


def seconds_of(text: str) -> float:
    """Seconds of a time such as 90s, 30min or 2h.

    Args:
        text: Number and unit.

    Raises:
        UserError: It is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)", text.strip())
    if match is None:
        raise UserError(f"budget is {text}, expected a number and a unit, such as 90s, 30min or 2h.")
    return float(match[1]) * UNITS[match[2]]


def _free_options(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates options of `fit` from those of the study.

    Raises:
        UserError: An option of `fit` has no value.
    """
    free: list[str] = []
    rest: list[str] = []
    words = iter(args)
    for word in words:
        if word.startswith("--") and "." in word.partition("=")[0]:
            free.append(word)
            if "=" not in word:
                value = next(words, "--")
                if value.startswith("--"):
                    raise UserError(no_value(word))
                free.append(value)
        else:
            rest.append(word)
    return free, rest


def _judged(runner: "Runner") -> list["Measured"]:
    from visionbench.studies.tables import measure_study

    return [entry for entry in measure_study(runner.plan, runner.store.rows) if entry.judged]


def _names(text: str | None) -> tuple[str, ...]:
    """Names that are separated by commas."""
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def _share(text: str | None) -> tuple[int, int] | None:
    """Number of a share and number of shares."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"share is {text}, expected a number from 1 to N and N, such as 1/4.")
    return int(match[1]), int(match[2])


def _named(entries: "Sequence[Measured]") -> "dict[str, Measured]":
    """Judged values by their names, which have the names of axes where two would be alike."""
    short = Counter(map(_name, entries))
    return {_name(entry, with_axes=short[_name(entry)] > 1): entry for entry in entries}


def _name(entry: "Measured", with_axes: bool = False) -> str:
    label = entry.label
    if with_axes:
        epoch = [f"epoch {entry.epoch}"] * (entry.epoch is not None)
        label = " ".join([", ".join(f"{axis} {value}" for axis, value in entry.cell.items()), *epoch])
    return f"{entry.stage} / {label} / {entry.measure}"


def _summary(runner: "Runner") -> str:
    from visionbench.studies.verdicts import summary_sentence

    return summary_sentence([entry.verdict for entry in _judged(runner) if entry.verdict is not None])


def _verdict_lines(runner: "Runner") -> list[str]:
    named = _named(_judged(runner))
    lines = [f"{name}: {entry.verdict.sentence}" for name, entry in named.items() if entry.verdict is not None]
    if lines:
        return [*lines, _summary(runner)]
    from visionbench.studies.report_comparison import best_lines, single_lines
    from visionbench.studies.report_contents import Contents

    contents = Contents(runner.study, runner.plan, runner.store.rows, runner.store.folder, ())
    return [*best_lines(contents), *single_lines(contents)] or [_summary(runner)]


def _save_verdicts(runner: "Runner") -> None:
    from io import StringIO

    from visionbench.files import write_whole

    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("value", "verdict", "sentence"))
    for name, entry in _named(_judged(runner)).items():
        if entry.verdict is not None:
            writer.writerow((name, entry.verdict.kind, entry.verdict.sentence))
    write_whole(runner.saved / VERDICTS_FILE, text.getvalue().encode())
