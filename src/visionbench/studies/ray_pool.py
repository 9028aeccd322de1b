"""Runs of a study on a cluster of Ray: an actor for each run at once, which has a process that forks the runs."""

import contextlib
import importlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from visionbench.errors import RunFailed, UserError
from visionbench.files import set_aside
from visionbench.studies.jobs import Job
from visionbench.studies.pool import Pool, local_pool

# Stands for the folder of a job on the machine that trains it.
FOLDER = "@FOLDER@"
# Exit status of a run whose machine or process was lost, as of one that was killed.
LOST = -9


class _Worker:
    """An actor: trains one run after the other, in a folder of its own.

    Args:
        working_folder: Folder in which the study was started, if this machine sees it.
    """

    def __init__(self, working_folder: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="visionbench-"))
        os.chdir(working_folder if Path(working_folder).is_dir() else self.folder)
        self._context = local_pool()
        self._pool = self._context.__enter__()

    def train(self, fields: dict[str, Any], files: dict[str, bytes]) -> tuple[int, bytes]:
        """Trains a run; gives its exit status and its run folder as a tar file."""
        folder = self.folder / fields["id"]
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.replace(FOLDER.encode(), str(folder).encode()) if name == "cell.yaml" else content)
        places: dict[str, Any] = {
            name: value.replace(FOLDER, str(folder)) if isinstance(value, str) else value
            for name, value in fields.items()
        }
        job = Job(**places)
        Path(job.folder).parent.mkdir(parents=True)
        self._pool.send(job, 0)
        answers = self._pool.answers(None)
        if answers is None:
            raise RuntimeError("The process that forks the runs has ended.")
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            if Path(job.folder).is_dir():
                tar.add(job.folder, ".", filter=None if job.keeps_checkpoints else _without_checkpoints)
        shutil.rmtree(folder)
        return int(answers[0]["status"]), archive.getvalue()


class RayPool(Pool):
    """The actors, as the runner sees them.

    Args:
        ray: The library.
        actors: Actors, one for each run at once.
    """

    def __init__(self, ray: Any, actors: list[Any]) -> None:
        self.ray, self.actors = ray, actors
        self.gpus = 0  # Ray gives each actor its own
        self.workers = len(actors)
        self.running: dict[Any, Job] = {}

    def send(self, job: Job, slot: int) -> None:  # noqa: D102
        self.running[self.actors[slot].train.remote(*packed(job))] = job

    def answers(self, timeout: float | None) -> list[dict[str, Any]] | None:  # noqa: D102
        done, _ = self.ray.wait(list(self.running), num_returns=1, timeout=timeout)
        answers = []
        for reference in done:
            job = self.running.pop(reference)
            try:
                status, archive = self.ray.get(reference)
            except self.ray.exceptions.RayError:  # its machine was lost: the runner starts it again
                status, archive = LOST, b""
            if archive:
                unpack(archive, Path(job.folder))
            answers.append({"id": job.id, "status": status})
        return answers


def packed(job: Job) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A job for another machine: its fields, with places for the folder there, and the files that it needs.

    Args:
        job: Job on this machine.
    """
    config = Path(job.config).read_text(encoding="utf-8")
    files: dict[str, bytes] = {}
    for number, source in enumerate(job.sources):
        files |= _files_of(Path(source), f"sources/{number}")
        config = config.replace(source, f"{FOLDER}/sources/{number}")
    fields = {**vars(job), "gpu": None, "sources": []}
    fields |= {"config": f"{FOLDER}/cell.yaml", "folder": f"{FOLDER}/runs/{job.id}"}
    files["cell.yaml"] = config.encode()
    if job.resumes:
        files |= _files_of(Path(job.resumes), "resumed")
        fields["resumes"] = f"{FOLDER}/resumed"
    if job.import_path:
        files |= {f"modules/{path.name}": path.read_bytes() for path in Path(job.import_path).glob("*.py")}
        fields["import_path"] = f"{FOLDER}/modules"
    return fields, files


def unpack(archive: bytes, folder: Path) -> None:
    """Puts a run folder that comes from another machine into its place, whole or not at all.

    Args:
        archive: Run folder as a tar file.
        folder: Its place.
    """
    temporary = folder.with_name(f".{folder.name}.incoming")
    shutil.rmtree(temporary, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        tar.extractall(temporary, filter="data")
    if not any(temporary.iterdir()):
        temporary.rmdir()
        return
    if folder.exists():
        set_aside(folder, "replaced")
    temporary.rename(folder)


def _files_of(folder: Path, name: str) -> dict[str, bytes]:
    return {
        f"{name}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _without_checkpoints(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "checkpoints" in Path(entry.name).parts else entry


@contextlib.contextmanager
def ray_pool(address: str | None, workers: int | None, cpus: float, gpus: float) -> Iterator[RayPool]:
    """Connects to a cluster, or starts one on this machine, and makes the actors.

    Args:
        address: Address of the cluster, such as `auto`; `None` starts one on this machine.
        workers: Number of runs at once; `None` for as many as the cluster has room for.
        cpus: Processor cores of each run.
        gpus: GPUs of each run, which may be a part of one.

    Raises:
        UserError: Ray is not installed, there is no such cluster, or it has no room for a run.
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError:
        raise UserError('Ray is not installed; install it with: pip install "visionbench[ray]"') from None
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, include_dashboard=False)
    except ConnectionError as error:
        raise UserError(f"There is no cluster of Ray at {address}; start one with: ray start --head") from error
    try:
        resources = ray.cluster_resources()
        room = int(resources.get("CPU", 0) / cpus)
        if gpus:
            room = min(room, int(resources.get("GPU", 0) / gpus))
        if room < 1:
            raise UserError(
                f"The cluster has {resources.get('CPU', 0):g} processor cores and {resources.get('GPU', 0):g} GPUs, "
                f"too few for a run with {cpus:g} and {gpus:g}; give --cpus and --gpus that it has."
            )
        kind = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=-1)(_Worker)
        actors = [kind.remote(str(Path.cwd())) for _ in range(min(room, workers or room))]
        yield RayPool(ray, actors)
    except ray.exceptions.RayError as error:
        raise RunFailed(f"The cluster of Ray failed: {' '.join(str(error).split())}") from error
    finally:
        ray.shutdown()
