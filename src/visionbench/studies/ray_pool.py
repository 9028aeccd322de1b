"""Runs of a study on a cluster of Ray: an actor for each run at once, which has a process that forks the runs."""

import contextlib
import importlib
import io
import json
import os
import shutil
import signal
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from visionbench.errors import RunFailed, UserError
from visionbench.evaluation.ledger import Ledger, Opening
from visionbench.files import put_in_place
from visionbench.runs.folder import RunFolder
from visionbench.runs.identity import code_digest
from visionbench.studies.jobs import ELSEWHERE, Job
from visionbench.studies.pool import Pool, local_pool

# Stands for the folder of a job on the machine that trains it.
FOLDER = "@FOLDER@"
# Exit status of a run whose machine or process was lost, as of one that was killed.
LOST = -signal.SIGKILL
# Folder of prepared data on a machine that does not see that of the study; all its runs share it.
DATA_VARIABLE = "VISIONBENCH_DATA"
# Read when Ray is imported: whether a study that is started by `uv run` gives each worker an environment of its own,
# which uv would make anew for it, torch included. Its workers use the environment of the machine.
UV_VARIABLE = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
LOOK = 5.0  # seconds between two looks at the machines of the cluster
STARTS = 5  # failed starts in a row after which no further actor is tried
ROOM_PATIENCE = 60.0  # seconds without a machine that is large enough for a run, after which the study ends


class _Worker:
    """An actor: trains one run after the other, in a folder of its own.

    Args:
        working_folder: Folder in which the study was started, if this machine sees it.
        code: Digest of the package's code where the study was started.
    """

    def __init__(self, working_folder: str, code: str) -> None:
        if code_digest([]) != code:
            raise RuntimeError("the code of visionbench on this machine is not that where the study was started")
        self.folder = Path(tempfile.mkdtemp(prefix="visionbench-"))
        if Path(working_folder).is_dir():
            os.chdir(working_folder)
        else:
            os.chdir(self.folder)
            os.environ.setdefault(DATA_VARIABLE, str(Path(tempfile.gettempdir()) / "visionbench-data"))
        self._context = local_pool()
        self._pool = self._context.__enter__()

    def ready(self) -> None:
        """Ends when the actor can train."""

    def train(self, fields: dict[str, Any], files: dict[str, bytes]) -> tuple[int, bytes, list[dict[str, Any]]]:
        """Trains a run; gives its exit status, its run folder as a tar file, and its test openings."""
        folder = self.folder / fields["id"]
        shutil.rmtree(folder, ignore_errors=True)
        try:
            for name, content in files.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            places = _replaced(fields, FOLDER, str(folder))
            job = Job(**places)
            config = yaml.safe_load(Path(job.config).read_text(encoding="utf-8"))
            content = yaml.safe_dump(_replaced(config, FOLDER, str(folder)), sort_keys=False, allow_unicode=True)
            Path(job.config).write_text(content, encoding="utf-8")
            Path(job.folder).parent.mkdir(parents=True)
            self._pool.send(job, 0)
            answers = self._pool.answers(None)
            if answers is None:
                os._exit(1)  # the process that forks the runs has ended: Ray reports a lost actor, and gets a new one
            archive = io.BytesIO()
            with tarfile.open(fileobj=archive, mode="w:gz") as tar:
                if Path(job.folder).is_dir():
                    tar.add(job.folder, ".", filter=None if job.keeps_checkpoints else _without_checkpoints)
            return (
                int(answers[0]["status"]),
                archive.getvalue(),
                Ledger(RunFolder(Path(job.folder)).log_folder).openings(),
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass
class _Training:
    """A run that an actor was given."""

    job: Job
    lock: FileLock
    actor: Any
    begun: Any  # reference that is ready when the actor has come to the run


class RayPool(Pool):
    """The actors, as the runner sees them; one that is lost is replaced as soon as a machine has room for another.

    A run that is sent takes the next actor that is free, whatever its slot, so that none waits for the place of a
    machine that does not come back.

    Args:
        ray: The library.
        kind: Class of the actors.
        workers: Number of actors.
        has_room: Tells whether some machine of the cluster is large enough for a run.
    """

    resumes = False

    def __init__(self, ray: Any, kind: Any, workers: int, has_room: Callable[[], bool]) -> None:
        self.ray, self.kind, self.has_room = ray, kind, has_room
        self.workers = workers
        self.starting: dict[Any, Any] = {}  # new actors, by a reference that is ready when they are
        self.asked: dict[Any, Any] = {}  # actors that may be lost, by a reference that tells
        self.free: list[Any] = []
        self.waiting: list[tuple[Job, FileLock]] = []
        self.running: dict[Any, _Training] = {}
        self.elsewhere: list[str] = []
        self.to_start = workers
        self.starts_failed = 0  # in a row
        self.next_start = self.room_seen = time.monotonic()
        self._start_actors()

    def _start_actors(self) -> None:
        for _ in range(self.to_start):
            actor = self.kind.remote(str(Path.cwd()), code_digest([]))
            self.starting[actor.ready.remote()] = actor
        self.to_start = 0
        self.next_start = time.monotonic() + LOOK

    def send(self, job: Job, slot: int) -> None:  # noqa: D102
        lock = FileLock(job.lock, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            self.elsewhere.append(job.id)
            return
        self.waiting.append((job, lock))
        self._train_waiting()

    def _train_waiting(self) -> None:
        while self.free and self.waiting:
            actor, (job, lock) = self.free.pop(0), self.waiting.pop(0)
            begun = actor.ready.remote()
            self.running[actor.train.remote(*packed(job))] = _Training(job, lock, actor, begun)

    def answers(self, timeout: float | None) -> list[dict[str, Any]] | None:  # noqa: D102
        if self.elsewhere:
            answers = [{"id": run, "status": ELSEWHERE} for run in self.elsewhere]
            self.elsewhere = []
            return answers
        if not self.running and not self.waiting:
            self.room_seen = time.monotonic()
            time.sleep(timeout or 0.0)
            return []
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._look_for_room()
            left = LOOK if deadline is None else max(0.0, min(LOOK, deadline - time.monotonic()))
            if references := [*self.running, *self.starting, *self.asked]:
                done, _ = self.ray.wait(references, num_returns=1, timeout=left)
            else:
                time.sleep(left)
                done = []
            answers = []
            for reference in done:
                if reference in self.running:
                    answers += self._answer(reference)
                elif reference in self.starting:
                    self._started(reference)
                else:
                    self._found(reference)
            self._train_waiting()
            if answers or (deadline is not None and time.monotonic() >= deadline):
                return answers

    def _look_for_room(self) -> None:
        """Starts the actors that are missing, and ends the study where there is no machine for them any more."""
        now = time.monotonic()
        if self.to_start and now >= self.next_start:
            self._start_actors()
        if self.running or self.free or not self.waiting or self.has_room():
            self.room_seen = now
        elif now - self.room_seen > ROOM_PATIENCE:
            raise RunFailed(
                "No machine of the cluster of Ray has room for a run any more; start machines, and run the same "
                "command again: finished runs are kept."
            )

    def _started(self, reference: Any) -> None:
        actor = self.starting.pop(reference)
        errors = self.ray.exceptions
        try:
            self.ray.get(reference)
        except errors.RayError as error:
            self._lose(actor)
            self.starts_failed += 1
            fails_anywhere = isinstance(error, errors.ActorUnschedulableError) or getattr(
                error, "actor_init_failed", False
            )
            if self.running or self.free or self.starting or self.asked:
                if self.starts_failed > STARTS:
                    self.to_start = 0  # the others do the work
            elif fails_anywhere or self.starts_failed > STARTS:
                raise RunFailed(f"A worker of Ray could not be started: {_one_line(error)}") from error
            return
        self.starts_failed = 0
        self.free.append(actor)

    def _found(self, reference: Any) -> None:
        actor = self.asked.pop(reference)
        try:
            self.ray.get(reference)
        except self.ray.exceptions.RayError:
            self._lose(actor)
        else:
            self.free.append(actor)

    def _answer(self, reference: Any) -> list[dict[str, Any]]:
        """The answer about a run; none where its actor was lost before it came to the run, which then waits again."""
        training = self.running.pop(reference)
        job, actor = training.job, training.actor
        try:
            status, archive, openings = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            training.lock.release()
            raise RunFailed(f"A worker of Ray failed outside of its run: {_one_line(error)}") from error
        except self.ray.exceptions.RayError:
            # Where one is lost, others of the same machine may be: they are asked before they get a run.
            self.asked |= {other.ready.remote(): other for other in self.free}
            self.free = []
            self._lose(actor)
            if not self._has_begun(training):
                self.waiting.insert(0, (job, training.lock))
                return []
            training.lock.release()
            return [{"id": job.id, "status": LOST}]
        try:
            unpack(archive, Path(job.folder), openings)
        finally:
            training.lock.release()
        self.free.append(actor)
        return [{"id": job.id, "status": status}]

    def _lose(self, actor: Any) -> None:
        self.ray.kill(actor)  # one that cannot be reached would train on, for nobody
        self.to_start += 1

    def _has_begun(self, training: _Training) -> bool:
        try:
            self.ray.get(training.begun, timeout=0)
        except self.ray.exceptions.RayError:
            return False
        return True


def packed(job: Job) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A job for another machine: its fields, with places for the folder there, and the files that it needs.

    Args:
        job: Job on this machine.
    """
    config = yaml.safe_load(Path(job.config).read_text(encoding="utf-8"))
    files: dict[str, bytes] = {}
    for number, source in enumerate(job.sources):
        files |= _files_of(Path(source), f"sources/{number}")
        config = _replaced(config, source, f"{FOLDER}/sources/{number}")
    fields = {**vars(job), "gpu": None, "sources": []}
    fields |= {"config": f"{FOLDER}/cell.yaml", "folder": f"{FOLDER}/runs/{job.id}"}
    files["cell.yaml"] = yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()
    if job.resumes:
        files |= _files_of(Path(job.resumes), "resumed")
        fields["resumes"] = f"{FOLDER}/resumed"
    if job.import_path:
        files |= {f"modules/{path.name}": path.read_bytes() for path in Path(job.import_path).glob("*.py")}
        fields["import_path"] = f"{FOLDER}/modules"
    return fields, files


def unpack(archive: bytes, folder: Path, openings: list[dict[str, Any]]) -> None:
    """Puts a run folder that comes from another machine into its place, whole or not at all.

    A run without an end is left out: it is trained again from its beginning.

    Args:
        archive: Run folder as a tar file.
        folder: Its place.
        openings: Openings of the test samples, which are added to the ledger here.
    """
    temporary = folder.with_name(f".{folder.name}.incoming")
    shutil.rmtree(temporary, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        tar.extractall(temporary, filter="data")
    run = RunFolder(temporary)
    if not run.metadata_path.exists() or run.status == "interrupted":
        shutil.rmtree(temporary)
        return
    ledger = Ledger(RunFolder(folder).log_folder)
    numbers = [ledger.add(Opening(**opening)) for opening in openings]
    if numbers:
        run.metadata_path.write_text(json.dumps({**run.metadata, "opening": numbers[-1]}, indent=2) + "\n")
    put_in_place(temporary, folder, "replaced")


def _replaced(content: Any, old: str, new: str) -> Any:
    """Content of YAML in which a text stands for another one, wherever it stands."""
    if isinstance(content, str):
        return content.replace(old, new)
    if isinstance(content, dict):
        return {key: _replaced(value, old, new) for key, value in content.items()}
    if isinstance(content, list):
        return [_replaced(value, old, new) for value in content]
    return content


def _files_of(folder: Path, name: str) -> dict[str, bytes]:
    return {
        f"{name}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _without_checkpoints(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if RunFolder(Path()).checkpoints.name in Path(entry.name).parts else entry


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


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
    os.environ.setdefault(UV_VARIABLE, "0")
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError:
        raise UserError('Ray is not installed; install it with: pip install "visionbench[ray]"') from None
    handler = signal.getsignal(signal.SIGTERM)
    try:
        options = {"log_to_driver": False, "configure_logging": False, "include_dashboard": False}
        ray.init(address=address or "local", **options)
    except (ConnectionError, ValueError) as error:
        raise UserError(
            f"There is no cluster of Ray at {address} ({_one_line(error)}); see: ray start --help"
        ) from error
    signal.signal(signal.SIGTERM, handler)  # Ray's own would end the process without a word
    try:

        def room_now() -> int:
            return sum(_room(node.get("Resources", {}), cpus, gpus) for node in ray.nodes() if node.get("Alive"))

        room = room_now()
        if room < 1:
            raise UserError(
                f"No machine of the cluster has {cpus:g} processor cores and {gpus:g} GPUs for a run; give --cpus and "
                "--gpus that it has."
            )
        kind = ray.remote(num_cpus=cpus, num_gpus=gpus)(_Worker)
        yield RayPool(ray, kind, min(room, workers or room), lambda: room_now() > 0)
    finally:
        ray.shutdown()


def _room(resources: dict[str, float], cpus: float, gpus: float) -> int:
    """Number of runs that a machine has room for."""
    room = int(resources.get("CPU", 0) / cpus)
    return min(room, int(resources.get("GPU", 0) / gpus)) if gpus else room
