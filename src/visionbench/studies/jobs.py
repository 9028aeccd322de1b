"""One run of a study, as a process that is forked for it trains it."""

import contextlib
import os
import shutil
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from visionbench.errors import RunFailed, Stopped, UserError, is_disk_error
from visionbench.runs.folder import RunFolder
from visionbench.studies.results import row_of
from visionbench.text import one_line

# Exit status of a process whose run another process is training.
ELSEWHERE = 75
# Exit status of a process that could not write its run, since the disk is full or fails.
DISK = 74
# Exit status of a process whose settings or data were refused, as they would be again.
REFUSED = 73
# Exit status of a process whose run a guard refused, which says nothing about other runs.
REFUSED_BY_GUARD = 72
LOG_FILE = "log.txt"


@dataclass(frozen=True)
class Job:
    """One run, for the process that trains it; plain types only.

    Attributes:
        id: Id of the run.
        config: Path of its run file.
        folder: Path of its run folder.
        words: Further options of `fit`, which do not change numbers.
        import_path: Folder that holds the study's own module; empty where it has none.
        resumes: Path of the run folder whose copy is trained on; empty for a run from the beginning.
        sources: Run folders whose checkpoints the run file names.
        keeps_checkpoints: Whether the checkpoints are needed after the run.
        gpu: Number of the GPU to use, among those that are visible; `None` to leave the choice to the run.
        labels: What TensorBoard shows beside the run's measures: the place of the run in its study.
        measures: Judged measures, which TensorBoard shows.
        checks: Whether the settings are only read; the sentence that refuses them is written to `refusal`.
    """

    id: str
    config: str
    folder: str
    words: list[str] = field(default_factory=list)
    import_path: str = ""
    resumes: str = ""
    sources: list[str] = field(default_factory=list)
    keeps_checkpoints: bool = True
    gpu: int | None = None
    labels: dict[str, str] = field(default_factory=dict)
    measures: list[str] = field(default_factory=list)
    checks: bool = False

    @property
    def refusal(self) -> Path:
        """Path of the sentence that refuses the settings of a run that is only checked."""
        return Path(self.folder).with_name(f".{self.id}.refused")

    @property
    def log(self) -> Path:
        """Path of what the run prints, while it is trained; then the file is in the run folder."""
        return Path(self.folder).with_name(f".{self.id}.log")

    @property
    def lock(self) -> Path:
        """Path of the lock that the run's process holds."""
        return Path(self.folder).with_name(f".{self.id}.lock")


def run_job(job: Job) -> int:
    """Trains one run in this process, which is forked for it and ends with it.

    Args:
        job: Run.

    Returns:
        The exit status: 0 for a finished run, 1 for a failed or diverged one, `ELSEWHERE`, `DISK`, or 128 plus the
        number of the signal that interrupted the run; `REFUSED` for refused settings or data, `REFUSED_BY_GUARD`.
    """
    if job.checks:
        with _output_to(Path(os.devnull)):
            return _check(job)
    try:
        with FileLock(job.lock, timeout=0):
            with _output_to(job.log):
                status = _train(job)
            if Path(job.folder).is_dir():
                _append(job.log, Path(job.folder) / LOG_FILE)
            return status
    except Timeout:
        return ELSEWHERE
    except OSError as error:
        if is_disk_error(error):
            return DISK
        raise


def _check(job: Job) -> int:
    """Reads the settings of a run as `fit` does; loads no data and trains nothing."""
    from visionbench.config.cli import settings_from

    if job.import_path:
        sys.path.append(job.import_path)
    try:
        settings_from(["--config", job.config, *job.words])
    except UserError as error:
        job.refusal.write_text(str(error), encoding="utf-8")
        return REFUSED
    return 0


def _train(job: Job) -> int:
    run = RunFolder(Path(job.folder))
    if run.metadata_path.exists() and run.is_finished:
        return 0  # by another process, meanwhile
    if job.import_path:
        sys.path.append(job.import_path)
    if job.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible_gpu(job.gpu, os.environ.get("CUDA_VISIBLE_DEVICES"))
    try:
        return _fit(job, run)
    except Stopped as stopped:
        return stopped.status
    except KeyboardInterrupt:
        return 130
    except UserError as error:  # refused, or failed for a reason outside the run
        if is_disk_error(error):
            return DISK
        from visionbench.guards.base import Refused  # here, since torch comes with it

        failed = isinstance(error, RunFailed)
        print(f"{'failed' if failed else 'refused'}: {error}", flush=True)
        _record_failure(run, one_line(error))
        if failed:
            return 1
        return REFUSED_BY_GUARD if isinstance(error, Refused) else REFUSED
    except BaseException as error:
        if is_disk_error(error):
            return DISK
        # A run that fails by a mistake in code is a result of the study too, with its traceback in its log, and no
        # score; the study itself goes on.
        traceback.print_exc()
        _record_failure(run, f"{type(error).__name__}: {one_line(error)}")
        return 1


def _fit(job: Job, run: RunFolder) -> int:
    from visionbench.api import train  # here, since the process that starts jobs does not need torch
    from visionbench.config.cli import settings_from
    from visionbench.console import quiet_libraries
    from visionbench.interrupts import ended_by_sigterm

    _copy_parent(job, run)
    if run.path.exists() and not run.has_results:
        shutil.rmtree(run.path)  # killed before its first epoch was finished
    words = ["--config", job.config, *job.words]
    words += ["--resume", job.folder] if run.path.exists() else ["--run_dir", job.folder]
    with quiet_libraries(), ended_by_sigterm():
        settings = settings_from(words)
        result = train(settings, lambda line: print(line, flush=True))
    if result.status == "interrupted":
        return 128 + (result.signal or 0)
    if result.status == "finished":
        _show_in_tensorboard(job)
    return 0 if result.status == "finished" else 1


def visible_gpu(number: int, visible: str | None) -> str:
    """What makes one GPU the only visible one.

    Args:
        number: Number of the GPU among those that are visible.
        visible: Value of `CUDA_VISIBLE_DEVICES` by now; `None` if all are visible.
    """
    names = [name.strip() for name in (visible or "").split(",") if name.strip()]
    return names[number] if names else str(number)


def _copy_parent(job: Job, run: RunFolder) -> None:
    """Copies the run that is to be resumed, as it was before its end was recorded."""
    if not job.resumes or run.path.exists():
        return
    RunFolder(Path(job.resumes)).copy_unfinished(run.path, without=[LOG_FILE])


def _show_in_tensorboard(job: Job) -> None:
    """Writes the run's row of TensorBoard's table of hyperparameters."""
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    row = row_of(RunFolder(Path(job.folder)), job.id, (), "", {}, 0, None)
    measured = {name: value for name in job.measures if (value := row.value(name)) is not None}
    with SummaryWriter(log_dir=job.folder) as writer:
        # Without the first part, which would say for all runs what this one has, the columns are those of all runs.
        _, *parts = hparams(job.labels, measured)  # type: ignore[no-untyped-call]
        for part in parts:
            writer.file_writer.add_summary(part)
        for name, value in measured.items():
            writer.add_scalar(name, value)


def _record_failure(run: RunFolder, error: str) -> None:
    """Records a failed run that has no record of its own, as one that was refused before it had a folder."""
    if run.metadata_path.exists() and run.status in ("failed", "finished"):
        return
    run.path.mkdir(exist_ok=True)
    run.write_metadata({"status": "failed", "error": error})


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Writes all that this process prints, the libraries in C included, to a file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)


def _append(source: Path, target: Path) -> None:
    with target.open("ab") as file:
        file.write(source.read_bytes())
    source.unlink()
