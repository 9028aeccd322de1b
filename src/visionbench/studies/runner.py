"""Training the runs of a study: forked processes, locks, and results that are never lost or made twice."""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from dataclasses import replace as with_changes
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml
from filelock import FileLock

from visionbench.errors import RunFailed, Stopped, UserError, is_disk_error
from visionbench.files import set_aside, write_whole
from visionbench.runs.folder import RunFolder
from visionbench.runs.identity import package_digest
from visionbench.studies.expand import Plan, PlannedRun, Source, Use, Waiting, place_in_words, plan, runs_folder
from visionbench.studies.jobs import DISK, ELSEWHERE, REFUSED, REFUSED_BY_GUARD, Job
from visionbench.studies.judgment import changed_since, record, recorded
from visionbench.studies.pool import Pool, local_pool
from visionbench.studies.results import Row, read_rows, row_of, write_rows
from visionbench.studies.same_weights import same_weights
from visionbench.studies.spec import Study, load_study
from visionbench.text import counted

# Folder of the studies, and of the results that are kept in a repository.
STUDIES = Path("lightning_logs/studies")
SAVED = Path("docs/results")
RESULTS_FILE = "results.csv"
SAVED_FILE = "runs.csv"
# An empty file in the folder of a study whose checkpoints are all kept, in every later run of it too.
KEEP_FILE = ".keep_checkpoints"
# Options of a run that may be given to a study, since they change no number.
FREE_OPTIONS = ("data.source", "data.root", "data.offline", "data.memory_budget", "data.workers", "trainer.accelerator")
# A run whose process is killed is started again this often: most often there was too little memory.
KILLS = 3
# A failed or diverged run is tried once more.
ATTEMPTS = 2
# A study ends where its first runs, so many, are all refused for one reason: its file or the data are to be mended.
REFUSALS = 4
# Greatest share of a study's time that the rows of runs which have just finished are written in.
WRITING_SHARE = 0.05
# Seconds that a run takes besides training.
OVERHEAD = 1.0
# Protocol, stage and cell.
Place = tuple[str, str, tuple[tuple[str, str], ...]]
# Seconds between two looks at runs that another process trains.
PATIENCE = 1.0


@dataclass
class Options:
    """How a study is run.

    Attributes:
        studies: Folder of all studies.
        words: Options of `fit` that change no number, such as `--data.source FOLDER`.
        workers: Number of runs at once; `None` for one a GPU, or one a processor core.
        save: Whether the rows are kept in `docs/results` too.
        accept_code: Whether runs that were made by other code count.
        budget: Seconds after which no further run is started; `None` for no limit.
        epochs: Number of epochs of every run instead of the study's own, for a trial; a run that resumes another one
            gets as many more.
        keep_checkpoints: Whether all checkpoints are kept.
        protocols: Protocols whose runs are trained; all if empty.
        stages: Stages whose runs are trained, after the runs that they need; all if empty.
        executor: Where the runs are trained: on this machine, or on a cluster of Ray.
        address: Address of the cluster; `None` starts one on this machine.
        cpus: Processor cores of each run on the cluster.
        gpus: GPUs of each run on the cluster.
        share: Number of a share of the runs, from 1, and number of shares; `None` for all runs.
    """

    studies: Path = STUDIES
    words: list[str] = field(default_factory=list)
    workers: int | None = None
    save: bool = False
    accept_code: bool = False
    budget: float | None = None
    epochs: int | None = None
    keep_checkpoints: bool = False
    protocols: Sequence[str] = ()
    stages: Sequence[str] = ()
    executor: Literal["local", "ray"] = "local"
    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    share: tuple[int, int] | None = None


class Watcher(Protocol):
    """Shows how a study comes on."""

    def begin(self, runner: "Runner") -> None:
        """Is called before the first run is started."""

    def changed(self, runner: "Runner", run: PlannedRun, row: Row | None, text: str) -> None:
        """Is called when a run is started or has ended."""

    def stop(self, runner: "Runner") -> None:
        """Is called when no further run is started, also after a signal, when runs still write their checkpoints."""

    def end(self, runner: "Runner") -> None:
        """Is called after the last run."""


@dataclass
class Store:
    """What is known of the runs of one study: its folder and its rows.

    Attributes:
        study: Study.
        folder: Folder of the study, with `runs/`.
        rows: Rows by the ids of their runs.
    """

    study: Study
    folder: Path
    rows: dict[str, Row] = field(default_factory=dict)

    def run(self, run_id: str) -> RunFolder:
        """Run folder of a run, which may not exist."""
        return RunFolder(self.folder / "runs" / run_id)

    def read(self, planned: PlannedRun) -> Row | None:
        """Reads the row of a run from its folder; `None` where it is not finished, failed or diverged."""
        run = self.run(planned.id)
        if not run.metadata_path.exists() or run.status == "interrupted":
            return None
        use = planned.first
        return row_of(run, planned.id, planned.protocols, use.stage, use.cell, use.seed, use.fold)


class Runner:
    """Trains all runs of a study that are not finished.

    Args:
        study: Study.
        options: How it is run.
        watcher: Shows how it comes on; by default nothing is shown.

    Raises:
        UserError: The study contradicts itself, or an option is refused.
    """

    def __init__(self, study: Study, options: Options, watcher: Watcher | None = None) -> None:
        self.study, self.options, self.watcher = study, options, watcher
        _check_words(options.words)
        _check_selection("protocols", options.protocols, study.protocols)
        _check_selection("stages", options.stages, study.stages)
        self.stores: dict[str, Store] = {}
        self.store = self._store(study)
        self.plan: Plan = plan(study, {}, epochs=options.epochs)
        self._notes: list[str] = []
        self.started: dict[str, float] = {}
        self.attempts: dict[str, int] = {}
        self.kills: dict[str, int] = {}
        self.elsewhere: dict[str, float] = {}
        self.trimmed: set[str] = set()
        self.keeps_all = False
        self.retrained: dict[str, Row] = {}
        self.lost: set[str] = set()
        self.unfinished: dict[str, Row] = {}
        self.data: dict[str, Row] = {}
        self.gpus = 0
        self.at_once: int | None = None
        self.resumes = True
        self.trained = 0
        self.refused: list[str] = []
        self.begun = time.monotonic()
        self.out_of_budget = False
        self.next_write = 0.0
        self._needed_elsewhere = self._needed_by_others()
        self.gather()
        for axis in self.study.idle_axes:
            self._note(f"The grid has the axis {axis}, which no stage names, so that its labels set nothing.")

    # What is known

    def gather(self) -> None:
        """Reads the rows that are kept, and those of run folders, until no further run becomes known by them."""
        if (first := recorded(self.saved, self.store.folder)) and (change := changed_since(first, self.study)):
            self._note(change)
        saved = self.saved / SAVED_FILE
        kept: dict[str, Row] = {}
        for row in (row for path in (saved, self.store.folder / RESULTS_FILE) for row in read_rows(path)):
            kept[row.id] = _better(kept.get(row.id), row)
        searches = {name for name, stage in self.study.stages.items() if stage.search is not None}
        for row in kept.values():
            if row.is_finished or row.stage in searches:  # later trials were proposed from a failed one too
                self.store.rows.setdefault(row.id, row)
            else:
                self.unfinished.setdefault(row.id, row)
        self.replan()
        self.refresh()
        self._check_code()
        self._check_data()

    @property
    def notes(self) -> list[str]:
        """Sentences about the rows: what has changed since they were made, and what had no effect."""
        return [*self._notes, *same_weights(self.rows())]

    @property
    def saved(self) -> Path:
        """Folder of the results that are kept in a repository."""
        return SAVED / self.study.id

    def refresh(self) -> None:
        """Reads the rows of runs that are finished by now, until no further run becomes known by them."""
        while True:
            found = 0
            for run in self.every_run():
                store = self.stores[run.study.id]
                if run.id in store.rows or (row := store.read(run)) is None:
                    continue
                if row.is_finished:
                    store.rows[run.id] = row
                    found += 1
                elif run.study is self.study and self.unfinished.get(run.id) != row:
                    self.unfinished[run.id] = row
                    found += 1
            if not found or not self.plan.waiting:  # only a choice by results names runs anew
                return
            self.replan()

    def replan(self) -> None:
        """Names the runs anew, since a result may have chosen a cell."""
        # A cell with a failed run is not chosen, also while that run is tried again.
        rows = {**self.unfinished, **self.store.rows}
        retried = self.unfinished.keys() - self.store.rows.keys()
        self.plan = plan(self.study, rows, epochs=self.options.epochs, retried=retried)
        for run in self.plan.foreign.values():
            self._store(run.study)

    def every_run(self) -> list[PlannedRun]:
        """All runs that are known: first those of other studies that are needed."""
        return [*self.plan.foreign.values(), *self.plan.runs.values()]

    def row(self, run: PlannedRun) -> Row | None:
        """The row of a run, if it has one with all evaluations that the study asks for."""
        row = self.stores[run.study.id].rows.get(run.id)
        return row if row is None or not row.is_finished or run.evaluations <= set(row.evaluations) else None

    def rows(self) -> list[Row]:
        """The rows of this study, in the order of the plan."""
        return [self._placed(run) for run in self.plan.runs.values() if run.id in self.store.rows]

    def missing(self) -> list[PlannedRun]:
        """Runs to be trained: those without a row, and those whose checkpoint a later run needs and is not here."""
        by_key = {(run.study.id, run.id): run for run in self.every_run()}
        missing = {key: run for key, run in by_key.items() if self._lacks(run)}
        pending = list(missing.values())
        while pending:
            for source in pending.pop().parents:
                parent = by_key[source.study, source.run]
                key = (source.study, source.run)
                if key not in missing and self._needs_training(parent, source):
                    missing[key] = parent
                    pending.append(parent)
        return [run for key, run in by_key.items() if key in missing]

    def checkpoint(self, source: Source) -> Path:
        """Path of a checkpoint that a later run starts from."""
        return self.stores[source.study].run(source.run).checkpoints / f"{source.epoch}.ckpt"

    def estimate(self, run: PlannedRun) -> float | None:
        """Seconds that a run will take, from finished runs of its cell, or else of its stage; `None` without any."""
        rows = list(self.stores[run.study.id].rows.values())  # the screen asks from a thread of its own
        finished = [row for row in rows if row.is_finished and row.stage == run.first.stage]
        alike = [row.seconds for row in finished if row.cell == run.first.cell] or [row.seconds for row in finished]
        return sorted(alike)[len(alike) // 2] + OVERHEAD if alike else None

    # Training

    def run(self) -> bool:
        """Trains what is missing.

        Returns:
            Whether every run of the study is finished.

        Raises:
            RunFailed: The process that starts the runs cannot be kept alive.
            KeyboardInterrupt: Ctrl+C; the runs have written checkpoints by then.
        """
        if self.watcher is not None:
            self.watcher.begin(self)
        try:
            record(self.study, *([self.saved] if self.options.save else []), self.store.folder)
            if self.options.keep_checkpoints:
                (self.store.folder / KEEP_FILE).touch()
            try:
                if self.missing():
                    self._train()
            finally:
                self._stop_watching()
                self.write()
        except OSError as error:
            if not is_disk_error(error):
                raise
            raise RunFailed(
                f"The study could not be written ({error}). Free space there, and run the same command again: "
                "finished runs are kept."
            ) from error
        if self.watcher is not None:
            self.watcher.end(self)
        return self.is_complete()

    def _stop_watching(self) -> None:
        if self.watcher is not None:
            self.watcher.stop(self)
        self.started = {}

    def is_complete(self) -> bool:
        """Whether every run that is asked for is finished, and none is waiting for others."""
        asked = [run for run in self.plan.runs.values() if self._is_asked(run)]
        return not self.waiting() and all((row := self.row(run)) is not None and row.is_finished for run in asked)

    def waiting(self) -> list[Waiting]:
        """Runs that are asked for and not known yet; whose share they are is not known either."""
        if self.options.share is not None:
            return []
        return [entry for entry in self.plan.waiting if self._selects(entry.protocol, entry.stage)]

    def write(self) -> None:
        """Writes the rows of the study, and of those that it needs."""
        for store in self.stores.values():
            if not store.rows or not store.folder.exists():
                continue
            with FileLock(store.folder / f".{RESULTS_FILE}.lock"):
                mine = self.rows() if store is self.store else sorted(store.rows.values(), key=lambda row: row.id)
                _write_with_others(store.folder / RESULTS_FILE, mine)
                if self.options.save and store is self.store:
                    _write_with_others(self.saved / SAVED_FILE, mine)

    def _train(self) -> None:
        restarts = 0
        while True:
            with self._pool() as pool:
                # Not for a cluster, whose other machines may have the GPUs and the data that this one lacks.
                if self.options.executor == "local" and not restarts:
                    self._check_settings(pool)
                self.at_once = workers = pool.workers or self.options.workers or pool.gpus or _cores()
                self.resumes = pool.resumes
                try:
                    ended = self._serve(pool, workers)
                except (KeyboardInterrupt, Stopped):
                    self._stop_watching()  # before the server ends, which waits for the checkpoints
                    raise
            if ended:
                return
            restarts += 1
            if restarts > KILLS:
                raise RunFailed("The process that starts the runs was killed again and again; look at the memory.")

    def _check_settings(self, pool: Pool) -> None:
        """Reads the settings of one missing run with each label, so that none is refused in the middle of the study.

        A search is left out: its cells are proposed one after the other.

        Raises:
            UserError: Some would be refused.
        """
        chosen = self._one_with_each_label()
        if len(chosen) < 2:  # one alone is refused as early when it is trained
            return
        refused: dict[str, list[PlannedRun]] = {}
        # A folder of its own, since another runner may check the same runs.
        with tempfile.TemporaryDirectory() as folder:
            jobs = [self._checking_job(run, Path(folder)) for run in chosen]
            waiting, running = list(jobs), 0
            while waiting or running:
                while waiting and running < (self.options.workers or _cores()):
                    pool.send(waiting.pop(0), running)
                    running += 1
                answers = pool.answers(None)
                if answers is None:
                    return
                running -= len(answers)
            for run, job in zip(chosen, jobs, strict=True):
                if job.refusal.exists():
                    refused.setdefault(job.refusal.read_text(encoding="utf-8"), []).append(run)
        if not refused:
            return
        if len(refused) == 1 and sum(map(len, refused.values())) == len(chosen):
            raise UserError(f"Every run would be refused: {next(iter(refused))}")
        reasons = " ".join(f"{place_in_words(runs[0])}: {text}" for text, runs in refused.items())
        raise UserError(f"No run was started, since some would be refused: {reasons}")

    def _one_with_each_label(self) -> list[PlannedRun]:
        """Missing runs among which each label of each axis occurs, in each stage and protocol."""
        covered: set[tuple[str, ...]] = set()
        chosen = []
        for run in self.missing():
            places: set[tuple[str, ...]] = set()
            for use in run.uses:
                if run.study.stages[use.stage].search is not None:
                    continue  # a combination that is refused is a failed trial, and no other trial is proposed for it
                stage = (run.study.id, use.protocol, use.stage)
                places |= {(*stage, *entry) for entry in use.cell.items()} or {stage}
            if places - covered:
                covered |= places
                chosen.append(run)
        return chosen

    def _checking_job(self, run: PlannedRun, folder: Path) -> Job:
        paths = {word: str(self.checkpoint(source).resolve()) for word, source in run.sources.items()}
        not_yet = {f"${word}" for word, path in paths.items() if not Path(path).exists()}
        config = _with_paths(_without_words(run.config, not_yet), paths)
        path = folder / f"{run.id}.yaml"
        write_whole(path, yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode())
        return Job(
            id=run.id,
            config=str(path),
            folder=str(folder / run.id),
            words=self._words(run),
            import_path=_import_path(run),
            checks=True,
        )

    def _words(self, run: PlannedRun) -> list[str]:
        """Options of `fit` for a run."""
        return list(self.options.words) if run.study is self.study else _without_source(self.options.words)

    def _pool(self) -> AbstractContextManager[Pool]:
        if self.options.executor == "local":
            return local_pool()
        from visionbench.studies.ray_pool import ray_pool  # here, since few have Ray

        options = self.options
        return ray_pool(options.address, options.workers, options.cpus, options.gpus)

    def _serve(self, pool: Pool, workers: int) -> bool:
        """Gives runs to the server until none is left; whether the server lived that long."""
        running: dict[str, tuple[PlannedRun, int]] = {}
        self.gpus = pool.gpus
        self.started = {}
        while True:
            self.refresh()  # another runner may be at work too
            ids = {run.id for run in self.missing()}
            self.elsewhere = {run_id: until for run_id, until in self.elsewhere.items() if run_id in ids}
            for run in self._ready(running):
                if len(running) >= workers:
                    break
                if self.row(run) is not None and not self._still_needed(run):
                    continue
                if not self._affords(run):
                    self.out_of_budget = True
                    break
                slot = next(slot for slot in range(workers) if slot not in {used for _, used in running.values()})
                gpu = slot % pool.gpus if pool.gpus else None
                running[run.id] = (run, slot)
                self.started[run.id] = time.monotonic()
                if (recorded := self.stores[run.study.id].rows.get(run.id)) is not None and recorded.is_finished:
                    self.retrained[run.id] = recorded
                pool.send(self._job(run, gpu), slot)
                self._tell(run, None, "started")
            if not running and (self.out_of_budget or not self.elsewhere):
                return True
            answers = pool.answers(PATIENCE if self.elsewhere else None)
            if answers is None:
                return False
            for answer in answers:
                run, _ = running.pop(answer["id"])
                self.started.pop(run.id, None)
                self._ended(run, int(answer["status"]))

    def _ready(self, running: Mapping[str, Any]) -> list[PlannedRun]:
        """Runs that can be started now, in their order."""
        now = time.monotonic()
        ready = []
        missing = self.missing()
        keys = {(run.study.id, run.id) for run in missing}
        undecided = {
            (use.protocol, use.stage, use.seed)
            for run in missing
            if run.study is self.study and self.row(run) is None and run.id not in self.lost
            for use in run.uses
        }
        for run in missing:
            row = self.row(run)
            if run.id in running or run.id in self.lost or (row is not None and not row.is_finished):
                continue
            if self.elsewhere.get(run.id, 0.0) > now:
                continue
            if any((source.study, source.run) in keys for source in run.parents):
                continue
            if not all(self._has_checkpoint(source) for source in run.parents):
                continue
            # A failed candidate that is tried again may still win, and another cell would be trained for nothing.
            if run.study is self.study and all(undecided & self._chosen_by(use) for use in run.uses):
                continue
            ready.append(run)
        return ready

    def _chosen_by(self, use: Use) -> set[tuple[str, str, int]]:
        """Protocol, stage and seed of the candidates that have chosen the cell of a run."""
        stage = self.study.stages[use.stage]
        while stage.continues is not None:
            stage = self.study.stages[stage.continues]
        if stage.best_of is None or stage.name in self.study.protocols[use.protocol].chosen:
            return set()
        seeds = [use.seed] if stage.over == "each seed" else self.study.stages[stage.best_of].seeds
        return {(use.protocol, stage.best_of, seed) for seed in seeds}

    def _still_needed(self, run: PlannedRun) -> bool:
        """Whether the checkpoint of a finished run is needed, although another runner may just have removed it."""
        self.refresh()
        return any(missing.id == run.id for missing in self.missing())

    def _affords(self, run: PlannedRun) -> bool:
        if self.options.budget is None:
            return True
        left = self.options.budget - (time.monotonic() - self.begun)
        return left > (self.estimate(run) or 0.0)

    def _job(self, run: PlannedRun, gpu: int | None) -> Job:
        store = self.stores[run.study.id]
        config = _with_paths(run.config, {word: str(self.checkpoint(s).resolve()) for word, s in run.sources.items()})
        path = store.folder / "cells" / f"{run.id}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        (store.folder / "runs").mkdir(exist_ok=True)
        write_whole(path, yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode())
        folder = store.run(run.id)
        earlier = store.read(run)
        if earlier is not None and not earlier.is_finished:
            set_aside(folder.path, "attempt")
        elif earlier is not None and (not run.evaluations <= set(earlier.evaluations) or self.row(run) is not None):
            set_aside(folder.path, "replaced")  # an evaluation is missing, or the checkpoints
        return Job(
            id=run.id,
            config=str(path),
            folder=str(folder.path),
            words=self._words(run),
            import_path=_import_path(run),
            sources=[str(self.checkpoint(source).resolve().parent.parent) for source in run.sources.values()],
            keeps_checkpoints=self._keeps_all() or self._keeps_checkpoints(run),
            resumes=str(self.checkpoint(run.continues).parent.parent) if run.continues is not None else "",
            gpu=gpu,
            labels=_labels(run),
            measures=list(dict.fromkeys(name for names in run.study.judged.values() for name in names)),
        )

    def _ended(self, run: PlannedRun, status: int) -> None:
        store = self.stores[run.study.id]
        if status == DISK:
            raise RunFailed(
                f"The run {run.id} could not be written, since the disk of {store.folder} is full or fails. Free space "
                "there, and run the same command again: finished runs are kept."
            )
        if status == ELSEWHERE:
            self.elsewhere[run.id] = time.monotonic() + PATIENCE
            return
        self.elsewhere.pop(run.id, None)
        row = store.read(run)
        if row is None:
            self.kills[run.id] = self.kills.get(run.id, 0) + 1
            if self.kills[run.id] < KILLS:
                then = "it is resumed" if self.resumes else "it is trained from the beginning"
                self._tell(run, None, f"its process ended (status {status}); {then}")
                return
            row = self._failed(run, f"its process ended {KILLS} times (status {status}); is there enough memory?")
        if status == REFUSED:
            self._stop_where_all_are_refused(row)
        elif not row.is_finished and status != REFUSED_BY_GUARD and self.attempts.get(run.id, 1) < ATTEMPTS:
            self.attempts[run.id] = self.attempts.get(run.id, 1) + 1
            self._tell(run, row, f"{row.status}, is tried once more: {row.error}")
            return
        before = self.retrained.pop(run.id, None)
        if before is not None and not row.is_finished:
            self.lost.add(run.id)
            self._note(f"{run.id} was trained again and {row.status}; its recorded result is kept: {row.error}")
            self._tell(run, row, f"{row.status}: {row.error}")
            return
        if before is not None:
            is_complete = run.evaluations <= set(before.evaluations)
            found = (
                "the recorded weights."
                if before.weights_digest == row.weights_digest
                else f"other weights than those recorded ({before.processor}, {row.processor})."
            )
            self._note(f"{run.id} was trained again for {self._reason(run, is_complete)}, and has {found}")
            if is_complete:
                row = before
        store.rows[run.id] = row
        self.trained += row.is_finished
        if run.study is self.study and self.plan.waiting:
            self.replan()
        if (sentence := self._other_data(run)[0]) is not None:
            self._note(sentence)
        self._trim()
        # The row of a finished run is in its folder too, so that no row is lost if this one is written later.
        if not row.is_finished or time.monotonic() >= self.next_write:
            begun = time.monotonic()
            self.write()
            self.next_write = time.monotonic() + (time.monotonic() - begun) / WRITING_SHARE
        self._tell(run, row, row.status + self._same_as(run, row))

    def _same_as(self, run: PlannedRun, row: Row) -> str:
        """Words for another run that has the same weights; empty where there is none."""
        for other in self.plan.runs.values():
            found = self.store.rows.get(other.id)
            if found is not None and found.weights_digest == row.weights_digest and same_weights([found, row]):
                return f", the same weights as {place_in_words(other)}"
        return ""

    def _stop_where_all_are_refused(self, row: Row) -> None:
        self.refused.append(row.error)
        if not self.trained and len(set(self.refused)) == 1 and len(self.refused) >= min(REFUSALS, len(self.missing())):
            which = "The run was" if len(self.refused) == 1 else f"The first {len(self.refused)} runs were all"
            raise UserError(f"{which} refused: {row.error}")

    def _failed(self, run: PlannedRun, error: str) -> Row:
        use = run.first
        return Row(run.id, run.protocols, use.stage, use.cell, use.seed, use.fold, "failed", error=error)

    def _trim(self) -> None:
        """Removes checkpoints that nothing needs any more; they are the bulk of a study."""
        if self._keeps_all():
            return
        unfinished = [run for run in self.every_run() if (row := self.row(run)) is None or not row.is_finished]
        wanted = {(source.study, source.run) for run in [*unfinished, *self.missing()] for source in run.parents}
        for run in self.plan.runs.values():
            row = self.row(run)
            if run.id in self.trimmed or row is None or not row.is_finished or (run.study.id, run.id) in wanted:
                continue
            self.trimmed.add(run.id)
            if not self._is_wanted_later(run):
                shutil.rmtree(self.store.run(run.id).checkpoints, ignore_errors=True)

    def _keeps_all(self) -> bool:
        return self.keeps_all or (self.store.folder / KEEP_FILE).exists()

    def _is_wanted_later(self, run: PlannedRun) -> bool:
        """Whether a figure of the report or another study needs the checkpoints of a finished run."""
        return any(self._has_one_cell(use.stage) or _place(use) in self._needed_elsewhere for use in run.uses)

    def _has_one_cell(self, name: str) -> bool:
        stage = self.study.stages[name]
        if stage.continues is not None:
            return self._has_one_cell(stage.continues)
        return len(stage.cells) <= 1 and stage.folds is None and stage.search is None

    def _keeps_checkpoints(self, run: PlannedRun) -> bool:
        """Whether a run that is to be trained keeps its checkpoints, at least until a later run has used them."""
        if run.study is not self.study or self._is_wanted_later(run):
            return True
        return any(source.run == run.id for other in self.plan.runs.values() for source in other.parents)

    # Helpers

    def _lacks(self, run: PlannedRun) -> bool:
        """Whether a run is to be trained for itself, and not for a later one."""
        return self._is_asked(run) and self.row(run) is None

    def _reason(self, run: PlannedRun, is_complete: bool) -> str:
        """What a finished run is trained again for."""
        return "its checkpoint" if is_complete else "a further evaluation"

    def _is_asked(self, run: PlannedRun) -> bool:
        if run.study is not self.study or not any(self._selects(use.protocol, use.stage) for use in run.uses):
            return False
        if self.options.share is None:
            return True
        first = run
        while first.continues is not None:  # a run is trained where the run is that it resumes
            first = self.plan.runs[first.continues.run]
        number, count = self.options.share
        return int(first.id, 16) % count == number - 1

    def _selects(self, protocol: str, stage: str) -> bool:
        if self.options.protocols and protocol not in self.options.protocols:
            return False
        if not self.options.stages or stage in self.options.stages:
            return True
        chosen = self.study.protocols[protocol].chosen
        return any(
            self._selects(protocol, later.name)
            for later in self.study.stages.values()
            if later.best_of == stage and later.name not in chosen and protocol in later.protocols
        )

    def _needed_by_others(self) -> set[Place]:
        """Places of this study whose checkpoints other studies in the folder start from."""
        needed: set[Place] = set()
        for path in sorted(self.study.path.parent.glob("*.yaml")):
            if path.stem == self.study.id or "needs:" not in path.read_text(encoding="utf-8", errors="replace"):
                continue
            try:
                needs = load_study(path).needs.values()
            except UserError as error:  # that file is not asked for; what it needs is not known
                self.keeps_all = True
                self._note(f"All checkpoints are kept, since another study may need them: {error}")
                continue
            for need in needs:
                if need.study == self.study.id:
                    needed.add((need.protocol, need.stage, tuple(need.cell.items())))
        return needed

    def _store(self, study: Study) -> Store:
        if study.id not in self.stores:
            store = self.stores[study.id] = Store(study, runs_folder(self.options.studies, study.id).parent)
            if study is not self.study:
                saved = read_rows(SAVED / study.id / SAVED_FILE)
                store.rows |= {row.id: row for row in saved if row.is_finished}
        return self.stores[study.id]

    def _placed(self, run: PlannedRun) -> Row:
        """The row of a run under today's names of its stage, its cell and its protocols."""
        use, row = run.first, self.store.rows[run.id]
        return with_changes(
            row, protocols=run.protocols, stage=use.stage, cell=dict(use.cell), seed=use.seed, fold=use.fold
        )

    def _has_checkpoint(self, source: Source) -> bool:
        row = self.stores[source.study].rows.get(source.run)
        return row is not None and row.is_finished and self.checkpoint(source).exists()

    def _needs_training(self, run: PlannedRun, source: Source) -> bool:
        row = self.row(run)
        if row is None:
            return True
        return row.is_finished and not self.checkpoint(source).exists()

    def _check_code(self) -> None:
        """Refuses rows that were made by other code, unless they are accepted."""
        current: dict[tuple[Path, tuple[str, ...]], str] = {}
        other = []
        for run in self.every_run():
            row = self.row(run)
            if row is None or not row.code:
                continue
            key = (run.study.path.parent, tuple(sorted(set(_modules(run.config)))))
            if key not in current:
                current[key] = package_digest(key[1], key[0])
            if row.code != current[key]:
                other.append(run)
        if other and not self.options.accept_code:
            studies = list(
                dict.fromkeys(run.study.id for run in other)
            )  # this one, and others that its runs start from
            folders = [str(folder / name) for name in studies for folder in (self.store.folder.parent, SAVED)]
            raise UserError(
                f"{counted(len(other), 'finished run')} of {' and '.join(studies)} "
                f"{'was' if len(other) == 1 else 'were'} made by other code than today's; give --accept_code to count "
                f"them, which the report will say, or move {' and '.join(folders)} away to train them again."
            )
        if other:
            self._note(f"The study counts {counted(len(other), 'run')} made by other code than today's.")

    def _other_data(self, run: PlannedRun) -> tuple[str | None, bool]:
        """Compares the data of a run with those of an earlier one that has the same settings of data.

        Args:
            run: Run.

        Returns:
            A sentence where the data differ, otherwise `None`; and whether the processors are the same, since the
            last digits of a normalization may differ between two of them.
        """
        row = self.row(run)
        if row is None or not row.data_digest:
            return None, True
        settings = json.dumps([run.config["data"], "test_as_validation" in run.config["allow"]], sort_keys=True)
        first = self.data.setdefault(settings, row)
        if row.data_digest == first.data_digest:
            return None, True
        sentence = (
            f"The runs {first.id} and {run.id} of {self.study.id} have the same settings of data, but other files, "
            "splits or normalization."
        )
        return sentence, row.processor == first.processor

    def _check_data(self) -> None:
        """Refuses rows that were made on other data than rows with the same settings, unless they are accepted."""
        for run in self.plan.runs.values():
            sentence, is_certain = self._other_data(run)
            if sentence is not None and is_certain and not self.options.accept_code:
                raise UserError(
                    f"{sentence} Give --accept_code to count both, or move {self.store.folder} and {self.saved} away."
                )
            if sentence is not None:
                self._note(sentence)

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)

    def _tell(self, run: PlannedRun, row: Row | None, text: str) -> None:
        if self.watcher is not None:
            self.watcher.changed(self, run, row, text)

    def time_left(self) -> float | None:
        """Seconds that the missing runs will take on this machine; `None` where nothing tells."""
        missing = [run for run in self.missing() if (row := self.row(run)) is None or row.is_finished]
        known = [seconds for run in missing if (seconds := self.estimate(run)) is not None]
        if missing and not known:
            return None
        total = sum(known) + (len(missing) - len(known)) * (sum(known) / len(known) if known else 0.0)
        return total / self.workers()

    def workers(self) -> int:
        """Number of runs at once, as far as the options and the processor tell."""
        return self.at_once or self.options.workers or self.gpus or _cores()


def _write_with_others(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows; other rows stay: another runner's, and those of cells that the study file does not have now.

    A finished row stays too where the same run has failed here, or has been measured less.
    """
    others = {row.id: row for row in read_rows(path)}
    written = [_better(others.pop(row.id, None), row) for row in rows]
    write_rows(path, [*written, *others.values()])


def _better(known: Row | None, row: Row) -> Row:
    """Of two rows of one run, the one that is finished and has more evaluations; the second where they are alike."""
    if known is None or not known.is_finished:
        return row
    is_less = not row.is_finished or set(row.evaluations) < set(known.evaluations)
    return known if is_less else row


def _modules(config: Any) -> Iterator[str]:
    """Names of the modules of the classes that a configuration names, and of what else looks like a class path."""
    if isinstance(config, Mapping):
        config = list(config.values())
    if isinstance(config, list | tuple):
        for entry in config:
            yield from _modules(entry)
    elif isinstance(config, str) and all(part.isidentifier() for part in config.split(".")):
        module, _, _ = config.rpartition(".")
        if module:
            yield module


def _check_words(words: Sequence[str]) -> None:
    for word in words:
        name = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and name not in FREE_OPTIONS:
            raise UserError(
                f"--{name} cannot be given to a study, whose file says all that changes numbers; known: "
                f"{', '.join(f'--{option}' for option in FREE_OPTIONS)}."
            )


def _check_selection(option: str, names: Sequence[str], known: Mapping[str, Any]) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"--{option} names {name}, which the study does not have; known: {', '.join(known)}.")


def _labels(run: PlannedRun) -> dict[str, str]:
    """Place of a run in its study: stage and fold where the study has several, axes, seed and protocol."""
    use, stages = run.first, run.study.stages.values()
    stage = {"stage": use.stage} if len(stages) > 1 else {}
    fold = {"fold": str(use.fold)} if use.fold is not None else {}
    return {**stage, **use.cell, "seed": str(use.seed), **fold, "protocol": "+".join(run.protocols)}


def _without_source(words: Sequence[str]) -> list[str]:
    """Options of a study for a run of another one, whose data are other files."""
    kept = list(words)
    for place in reversed([n for n, word in enumerate(kept) if word.partition("=")[0] == "--data.source"]):
        del kept[place : place + (1 if "=" in kept[place] else 2)]
    return kept


def _place(use: Use) -> Place:
    return (use.protocol, use.stage, tuple(use.cell.items()))


def _import_path(run: PlannedRun) -> str:
    """Folder of the module of a run's study; empty where it has none."""
    return str(run.study.path.parent.resolve()) if run.study.module.exists() else ""


def _with_paths(value: Any, paths: Mapping[str, str]) -> Any:
    """Puts paths in the place of `$WORD`."""
    if isinstance(value, Mapping):
        return {key: _with_paths(entry, paths) for key, entry in value.items()}
    if isinstance(value, list):
        return [_with_paths(entry, paths) for entry in value]
    return paths[value[1:]] if isinstance(value, str) and value.startswith("$") else value


def _without_words(value: Any, words: set[str]) -> Any:
    """Leaves out the options whose value is one of some `$WORD`."""
    if not isinstance(value, Mapping):
        return value
    return {
        key: _without_words(entry, words)
        for key, entry in value.items()
        if not (isinstance(entry, str) and entry in words)
    }


def _cores() -> int:
    from visionbench.data.memory import processor_cores

    return processor_cores()
