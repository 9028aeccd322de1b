"""The actors of a cluster of Ray as the runner sees them, with a cluster that loses what it is told to lose."""

from types import SimpleNamespace

import pytest

from visionbench.errors import RunFailed
from visionbench.studies import ray_pool
from visionbench.studies.jobs import Job

pytestmark = pytest.mark.fast


class RayError(Exception):
    actor_init_failed = False


class InitError(RayError):
    actor_init_failed = True


class RayTaskError(RayError):
    pass


class Unschedulable(RayError):
    pass


class Reference:
    """What an actor's method gives at once."""

    def __init__(self, actor, what):
        self.actor, self.what, self.failed = actor, what, not actor.alive


class Actor:
    """Answers at once, unless its machine is lost or has no room."""

    def __init__(self, cluster):
        self.cluster, self.alive = cluster, True
        self.ready = SimpleNamespace(remote=lambda: self.answer("ready"))
        self.train = SimpleNamespace(remote=lambda fields, files: self.answer(fields["id"]))
        self.fault = cluster.faults.pop(0) if cluster.faults else None

    def answer(self, what):
        reference = Reference(self, what)
        if what != "ready" and what in self.cluster.kills:
            self.cluster.kills.remove(what)
            self.alive, reference.failed = False, True
        return reference


class Cluster:
    """What the pool uses of Ray."""

    def __init__(self):
        self.exceptions = SimpleNamespace(
            RayError=RayError, RayTaskError=RayTaskError, ActorUnschedulableError=Unschedulable
        )
        self.faults, self.kills, self.made, self.room = [], [], [], True

    def remote(self, folder, code):
        self.made.append(Actor(self))
        return self.made[-1]

    def wait(self, references, num_returns, timeout):
        ready = [each for each in references if each.failed or each.actor.fault != "no room"]
        return ready[:num_returns], []

    def get(self, reference, timeout=None):
        if isinstance(reference.actor.fault, RayError):
            raise reference.actor.fault
        if reference.failed:
            raise RayError("lost")
        return None if reference.what == "ready" else (0, b"", [])

    def kill(self, actor):
        actor.alive = False


@pytest.fixture
def cluster(monkeypatch):
    now = [0.0]

    def sleep(seconds):
        now[0] += max(seconds, 1.0)

    def look():
        now[0] += 1.0  # each look at the clock takes a second, so that waiting ends
        return now[0]

    monkeypatch.setattr(ray_pool, "time", SimpleNamespace(monotonic=look, sleep=sleep))
    monkeypatch.setattr(ray_pool, "packed", lambda job: ({"id": job.id}, {}))
    monkeypatch.setattr(ray_pool, "unpack", lambda archive, folder, openings: None)
    return Cluster()


@pytest.fixture
def pool_of(cluster, tmp_path):
    def make(workers):
        return ray_pool.RayPool(cluster, cluster, workers, lambda: cluster.room)

    return make


@pytest.fixture
def job(tmp_path):
    def make(name):
        return Job(id=name, config="", folder=str(tmp_path / name), words=[], import_path="", sources=[])

    return make


def ended(pool, count, timeout=None):
    """The answers about so many runs."""
    found = []
    while len(found) < count:
        found += pool.answers(timeout)
    return {answer["id"]: answer["status"] for answer in found}


def test_runs_are_trained_by_the_actors_that_are_free(pool_of, job, cluster):
    pool = pool_of(2)
    for name in "abc":
        pool.send(job(name), 0)
    assert ended(pool, 3) == {"a": 0, "b": 0, "c": 0}
    assert len(cluster.made) == 2


def test_a_lost_actor_costs_its_run_and_is_replaced(pool_of, job, cluster):
    pool = pool_of(2)
    cluster.kills.append("a")
    pool.send(job("a"), 0)
    assert ended(pool, 1) == {"a": ray_pool.LOST}
    for name in "ab":
        pool.send(job(name), 0)
    assert ended(pool, 2) == {"a": 0, "b": 0}


def test_a_machine_with_idle_actors_that_is_lost_costs_no_run(pool_of, job, cluster):
    """The runs that are sent to its actors have not begun there, and wait for others."""
    pool = pool_of(6)
    pool.send(job("first"), 0)
    ended(pool, 1)
    for reference in list(pool.starting):
        pool._started(reference)
    for actor in cluster.made[:5]:
        actor.alive = False
    for name in "abcd":
        pool.send(job(name), 0)
    assert ended(pool, 4) == {"a": 0, "b": 0, "c": 0, "d": 0}


def test_a_run_does_not_wait_for_an_actor_without_a_machine(pool_of, job, cluster):
    cluster.faults = ["no room", None]
    pool = pool_of(2)
    pool.send(job("a"), 0)
    pool.send(job("b"), 1)
    assert ended(pool, 2) == {"a": 0, "b": 0}


@pytest.mark.parametrize(
    ("fault", "most"),
    [
        (RayError("out of memory"), 2 * ray_pool.STARTS),  # another try may be better, but not for ever
        (InitError("the code is another"), 2),  # no other try would be
    ],
)
def test_a_study_ends_where_no_actor_can_be_made(pool_of, job, cluster, fault, most):
    cluster.faults = [fault] * 100
    pool = pool_of(2)
    pool.send(job("a"), 0)
    with pytest.raises(RunFailed, match=f"could not be started: {fault}"):
        ended(pool, 1)
    assert len(cluster.made) <= most


def test_other_code_on_one_machine_leaves_the_others(pool_of, job, cluster):
    cluster.faults = [InitError("the code is another"), None, *[InitError("the code is another")] * 100]
    pool = pool_of(2)
    for name in "abcdefghij":
        pool.send(job(name), 0)
    assert set(ended(pool, 10).values()) == {0}


def test_a_cluster_without_any_machine_ends_the_study(pool_of, job, cluster):
    cluster.faults = ["no room"] * 2
    cluster.room = False
    pool = pool_of(2)
    pool.send(job("a"), 0)
    with pytest.raises(RunFailed, match="No machine of the cluster of Ray has room for a run any more"):
        ended(pool, 1, timeout=1.0)  # as the runner waits while another one trains some run
