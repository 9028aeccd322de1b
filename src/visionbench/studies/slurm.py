"""A study as array jobs of SLURM: each task trains its share of the runs."""

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from visionbench.errors import UserError
from visionbench.files import write_whole
from visionbench.studies.spec import Study

SCRIPT_FILE = "slurm.sh"
# Time limits of sbatch: minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S; or none.
TIME = r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}|(?i:infinite|unlimited)"
# Seconds between the signal and the end of a job, in which the runs write their checkpoints.
NOTICE = 120

SCRIPT = """\
#!/usr/bin/env bash
# Trains one share of the runs of a study. Written by: visionbench study slurm
{directives}
set -euo pipefail
cd {folder}

# Before the time of the job is over, SLURM sends USR1: the runs write checkpoints, and the task is queued again.
runner=
queue_again() {{
    trap '' USR1
    kill -TERM "$runner" 2>/dev/null || true
    wait "$runner" || true
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
    exit 0
}}
trap queue_again USR1

{command} --share "$((SLURM_ARRAY_TASK_ID + 1))/{tasks}" &
runner=$!
wait "$runner"
"""


@dataclass(frozen=True)
class SlurmOptions:
    """What the jobs ask SLURM for, and what the runner is told.

    Attributes:
        tasks: Number of tasks of the array.
        cpus: Processor cores of each task, one for each run that it trains at once.
        gpus: GPUs of each task, one for each run that it trains at once.
        time: Time limit of each task, as SLURM takes it.
        directives: Further arguments of sbatch, such as `--partition=long`.
        words: Options of `study run`.
    """

    tasks: int = 4
    cpus: int = 2
    gpus: int = 0
    time: str = "02:00:00"
    directives: Sequence[str] = ()
    words: Sequence[str] = field(default_factory=tuple)


def rounds_of(study: Study) -> int:
    """Number of array jobs, one after the other: the tasks of one do not see a cell that its results choose.

    Args:
        study: Study.
    """
    depths: dict[str, int] = {}
    for stage in study.stages.values():
        if stage.best_of is not None:
            depths[stage.name] = depths[stage.best_of] + 1
        else:
            depths[stage.name] = depths[stage.continues] if stage.continues is not None else 1
            if stage.search is not None:
                depths[stage.name] += len(stage.search.batches()) - 1
    return max(depths.values())


def write_script(study: Study, folder: Path, options: SlurmOptions) -> Path:
    """Writes the job script into the folder of the study.

    Args:
        study: Study.
        folder: Folder of the study.
        options: What the jobs ask for.

    Returns:
        The script.

    Raises:
        UserError: A number is out of range, the time is none, or the script cannot be written.
    """
    for name, value, least in (("tasks", options.tasks, 1), ("cpus", options.cpus, 1), ("gpus", options.gpus, 0)):
        if value < least:
            raise UserError(f"{name} is {value}, expected {least} or more.")
    if not re.fullmatch(TIME, options.time):
        raise UserError(
            f"time is {options.time}, expected a time as SLURM takes it: minutes, hours:minutes:seconds such as "
            "02:00:00, or days-hours such as 1-12."
        )
    folder = folder.absolute()  # sbatch may be called anywhere
    log = folder / "slurm"
    arguments = [
        f"--job-name={study.id}",
        f"--array=0-{options.tasks - 1}",
        "--ntasks=1",
        f"--cpus-per-task={options.cpus}",
        *([f"--gpus-per-task={options.gpus}"] if options.gpus else []),
        f"--time={options.time}",
        f"--signal=B:USR1@{NOTICE}",
        "--requeue",
        "--open-mode=append",
        f"--output={log}/%A_%a.log",
        *options.directives,
    ]
    workers = options.gpus or options.cpus
    command = [
        sys.executable,
        "-m",
        "visionbench",
        "study",
        "run",
        str(study.path.absolute()),
        "--studies",
        str(folder.parent),
    ]
    command += ["--workers", str(workers), *options.words]
    content = SCRIPT.format(
        directives="\n".join(f"#SBATCH {_quoted(argument)}" for argument in arguments),
        folder=shlex.quote(str(Path.cwd())),
        command=shlex.join(command),
        tasks=options.tasks,
    )
    path = folder / SCRIPT_FILE
    try:
        log.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.encode())
        path.chmod(0o755)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}); give another folder.") from error
    return path


def _quoted(argument: str) -> str:
    """An argument as a line of SBATCH holds it: with quotes around a value that needs them."""
    name, equals, value = argument.partition("=")
    return f"{name}{equals}{shlex.quote(value)}" if equals else argument


def submissions(study: Study, script: Path) -> list[list[str]]:
    """The commands that submit the jobs; `JOB` stands for the number of the one before.

    Args:
        study: Study.
        script: Job script.
    """
    first = ["sbatch", "--parsable", str(script)]
    later = ["sbatch", "--parsable", "--dependency=afterany:JOB", str(script)]
    return [first, *[later] * (rounds_of(study) - 1)]


def submit(study: Study, script: Path) -> list[str]:
    """Submits the jobs, each after the one before.

    Args:
        study: Study.
        script: Job script.

    Returns:
        The numbers of the jobs.

    Raises:
        UserError: There is no sbatch, or it refuses a job.
    """
    jobs: list[str] = []
    for command in submissions(study, script):
        words = [word.replace(":JOB", f":{jobs[-1]}") if word.startswith("--dependency=") else word for word in command]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise UserError(
                f"There is no sbatch on this machine; submit {script} where there is one, with: {shlex.join(words)}"
            ) from None
        if done.returncode:
            reason = " ".join(done.stderr.split()) or f"status {done.returncode}"
            raise UserError(f"sbatch refused the job {script}: {reason}")
        jobs.append(done.stdout.strip().partition(";")[0])
    return jobs
