"""Real processes, killed at moments drawn uniformly over their time, and gone on with: the same runs, bit for bit."""

import collections
import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.exactness import processes
from tests.exactness.processes import Run
from tests.exactness.same import DIGITS, differences, next_second, report
from tests.fakes import write_images
from visionbench.runs.folder import RunFolder

# Two validation batches; the tests' processes are slowed so that a third of their time goes into steps, a third into
# validation and a third into checkpoints.
EACH = f"{DIGITS} --data.batch_size 32 --trainer.limit_train_batches 6 --trainer.max_epochs 3"
EACH += " --checkpoint.every_n_steps 2 --objective.metric val/acc"
PLATEAU = "--model.lr_scheduler ReduceLROnPlateau --model.lr_scheduler.patience 0 --model.lr_scheduler.factor 0.5"
MODELS = {
    "MLP": f"--model MLP --model.widths [16] --model.dropout 0.3 {PLATEAU}",
    "CNN": "--model CNN --model.widths [4,8] --model.convs [1,1] --model.dropouts [0.2,0.2] "
    "--data.augment [RandomCrop] --model.lr_interval step --model.lr_scheduler OneCycleLR "
    "--model.lr_scheduler.max_lr 0.01",
    "PatchMLP": f"--model PatchMLP {PLATEAU} --data.augment [RandomCrop]",
    "FrozenResNet": "--model FrozenResNet --model.weights none --model.min_size 32 --model.hidden 16",
}


class References(dict):
    """For each model a run that nobody kills, and the seconds from its first step to its end; made when asked for."""

    def __init__(self, folder, root):
        self.folder, self.root = folder, root

    def __missing__(self, name):
        run = Run(self.folder, f"{EACH} {MODELS[name]} --name {name}", self.root, "slow")
        run.wait_for_step()
        began = time.monotonic()
        assert run.end() == 0, run.output()
        self[name] = (self.folder / "lightning_logs" / name / "version_0", time.monotonic() - began)
        return self[name]


@pytest.fixture(scope="module")
def references(tmp_path_factory, digits_root):
    return References(tmp_path_factory.mktemp("references"), digits_root)


def resume(folder, root, *hooks):
    next_second()
    return Run(folder, "fit --resume lightning_logs/x/version_0", root, *hooks)


def test_a_run_that_is_killed_in_training_and_again_in_validation_is_the_same_run(references, tmp_path, digits_root):
    run = Run(tmp_path, f"{EACH} {MODELS['MLP']} --name x", digits_root, "slow")
    run.wait_for_step(9)  # the third of an epoch, after a checkpoint within it
    assert run.end(signal.SIGKILL) == -signal.SIGKILL
    run = resume(tmp_path, digits_root, "slow")
    run.wait_for_phase(processes.VALIDATING)
    assert run.end(signal.SIGKILL) == -signal.SIGKILL
    run = resume(tmp_path, digits_root)
    assert run.end() == 0, run.output()
    assert differences(references["MLP"][0], tmp_path / "lightning_logs" / "x" / "version_0") == []


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_moment_is_the_same_run(references, tmp_path, digits_root):
    draw = random.Random(0)
    kills = collections.Counter()
    names = itertools.cycle(MODELS)
    # Each is killed again while it is gone on with, if the moment that is drawn comes before its end.
    while kills.total() < 24 or min(kills[processes.VALIDATING], kills[processes.WRITING]) < 5:
        assert kills.total() < 80, kills
        name = next(names)
        reference, seconds = references[name]
        folder = tmp_path / str(kills.total())
        folder.mkdir()
        resumed = folder / "lightning_logs" / "x" / "version_0"
        moments = []
        run = Run(folder, f"{EACH} {MODELS[name]} --name x", digits_root, "slow")
        for _ in range(2):
            run.wait_for_step()
            time.sleep(draw.uniform(0, seconds))
            status = run.end(signal.SIGKILL)
            assert status in (0, -signal.SIGKILL), (name, moments, run.output())
            if RunFolder(resumed).status == "finished":  # it came to its end, and may have been killed after it
                break
            kills[run.phase] += 1
            moments.append((run.shared[processes.STEP], run.phase))
            run = resume(folder, digits_root, "slow")
        else:
            assert run.end() == 0, (name, moments, run.output())
        assert differences(reference, resumed) == [], (name, moments)
        left = [p.name for p in resumed.rglob(".*") if p.name != ".lock"]
        assert left == [], (name, moments)
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["MLP", "CNN"])
def test_a_killed_run_that_reads_through_the_memory_map_is_the_same_run(
    references, tmp_path, digits_root, name, workers
):
    reference, seconds = references[name]
    draw = random.Random(workers)
    line = f"{EACH} {MODELS[name]} --data.memory_budget 0 --data.workers {workers} --name x"
    run = Run(tmp_path, line, digits_root, "slow", "small blocks")
    resumed = tmp_path / "lightning_logs" / "x" / "version_0"
    for _ in range(3):
        run.wait_for_step()
        time.sleep(draw.uniform(0, seconds / 3))
        run.end(signal.SIGKILL)
        if RunFolder(resumed).status == "finished":
            break
        run = resume(tmp_path, digits_root, "slow", "small blocks")
    else:
        assert run.end() == 0, run.output()
    assert "through the memory map" in run.output()
    assert differences(reference, resumed) == []


def of_session(number):
    """The processes of a session that have not ended, by their ids."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(session) == number and state != "Z":
                found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("moment", ["preparing", "training"])
def test_nothing_is_left_of_a_run_that_was_ended(tmp_path, moment, number, status):
    """Neither of those that decode nor of those that read ahead."""
    write_images(tmp_path / "photos", {"a": 300, "b": 300})
    line = "fit --model MLP --data ImageFolder --data.source photos --data.size 32 --trainer.max_epochs 1000 "
    line += "--data.memory_budget 0 --data.workers 2"
    process = subprocess.Popen(
        [sys.executable, "-m", "visionbench", *line.split()],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    said = [process.stdout.readline()]
    if moment == "preparing":
        assert said[0].startswith("preparing")
        while len(of_session(process.pid)) < 3:
            time.sleep(0.01)
    else:
        while not said[-1].startswith("epoch 2"):
            said.append(process.stdout.readline())
            assert said[-1], said
    process.send_signal(number)
    rest, _ = process.communicate(timeout=60)
    if moment == "training":  # before it, a signal ends the process as it ends any
        assert process.returncode == status, rest
    for _ in range(500):
        if not of_session(process.pid):
            break
        time.sleep(0.01)
    assert of_session(process.pid) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hook", "differing"),
    [("without order", {"step-losses.bin", "last state_dict"}), ("without random state", {"step-losses.bin"})],
)
@pytest.mark.slow
def test_without_order_or_random_state_it_is_another_run(hook, differing, references, tmp_path, digits_root):
    run = Run(tmp_path, f"{EACH} {MODELS['MLP']} --name x", digits_root, "slow")
    run.wait_for_step(9)  # the third of an epoch, after a checkpoint within it
    assert run.end(signal.SIGKILL) == -signal.SIGKILL
    run = resume(tmp_path, digits_root, hook)
    assert run.end() == 0, run.output()
    assert "batches" in run.output()
    assert differing <= set(differences(references["MLP"][0], tmp_path / "lightning_logs" / "x" / "version_0"))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("phase", ["training", "validating", "validating at last", "testing"])
def test_a_signal_ends_a_run_with_the_command_to_go_on(number, status, phase, references, tmp_path, digits_root):
    run = Run(tmp_path, f"{EACH} {MODELS['CNN']} --name x", digits_root, "slow")
    run.wait_for_step({"training": 8, "validating": 6, "validating at last": 18, "testing": 18}[phase])
    if phase != "training":
        run.wait_for_phase(processes.TESTING if phase == "testing" else processes.VALIDATING)
    assert run.end(number) == status, run.output()
    folder = tmp_path / "lightning_logs" / "x" / "version_0"
    command = "resume with: visionbench fit --resume lightning_logs/x/version_0"
    assert run.output().splitlines()[-1].endswith(command), run.output()
    assert RunFolder(folder).status == report(folder)["status"] == "interrupted"
    assert report(folder)["test_openings"] == (phase == "testing")
    run = resume(tmp_path, digits_root)
    assert run.end() == 0, run.output()
    if phase == "training":  # in the midst of an epoch: a step that was made is not made again
        assert "resumed    after 1 epoch and" in run.output()
    assert differences(references["CNN"][0], folder) == []
    assert report(folder)["test_openings"] == (2 if phase == "testing" else 1)


@pytest.mark.slow
def test_a_second_signal_ends_a_run_at_once(references, tmp_path, digits_root):
    run = Run(tmp_path, f"{EACH} {MODELS['MLP']} --name x", digits_root, "slow", "endless validation")
    run.wait_for_phase(processes.VALIDATING)
    run.send(signal.SIGINT)
    run.process.join(1)
    assert run.process.is_alive()
    assert run.end(signal.SIGINT) == 130, run.output()


@pytest.mark.slow
def test_two_runs_that_begin_in_the_same_second_do_not_mix(tmp_path, digits_root):
    line = f"{EACH} {MODELS['MLP']}"
    alone = [Run(tmp_path, f"{line} --seed_everything {seed} --name alone{seed}", digits_root) for seed in (0, 1)]
    assert [run.end() for run in alone] == [0, 0]
    next_second()
    together = [Run(tmp_path, f"{line} --seed_everything {seed} --name both", digits_root) for seed in (0, 1)]
    assert [run.end() for run in together] == [0, 0], together[1].output()
    both = sorted((tmp_path / "lightning_logs" / "both").iterdir(), key=lambda run: report(run)["seed"])
    assert sorted(run.name for run in both) == ["version_0", "version_1"]
    for seed, run in enumerate(both):
        assert differences(tmp_path / "lightning_logs" / f"alone{seed}" / "version_0", run) == []
