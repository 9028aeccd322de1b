"""Runs whose processes torchrun or srun starts: the same run as one that starts them itself."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.exactness.same import checkpoint, report

pytestmark = pytest.mark.slow

FIT = (
    "fit --model MLP --model.widths [16] --data Digits --trainer.accelerator cpu --trainer.precision 32-true "
    "--threads 1 --figures none"
)
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node"]
# Starts the processes of a job step as srun does.
SRUN = """\
for rank in $(seq 0 $(($1 - 1))); do
    SLURM_JOB_ID=4711 SLURM_JOB_NAME=run SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=$1 SLURM_STEP_NUM_NODES=1 \\
        SLURM_NTASKS=$1 SLURM_NNODES=1 SLURM_NODELIST=localhost SLURM_NODEID=0 \\
        SLURM_PROCID=$rank SLURM_LOCALID=$rank "${@:2}" &
done
status=0
for child in $(jobs -p); do wait "$child" || status=$?; done
exit $status
"""


@pytest.fixture
def run(digits_root, tmp_path):
    """Makes a function that trains with a number of processes, and gives what they printed."""

    def call(program, size, line, check=True):
        words = ["-m", "visionbench", *line.split()]
        command = {
            "torchrun": [*TORCHRUN, str(size), *words],
            "srun": ["bash", "-c", SRUN, "srun", str(size), sys.executable, *words],
            "itself": [sys.executable, *words, "--trainer.devices", str(size)],
        }[program]
        environment = os.environ | {"VISIONBENCH_DATA": str(digits_root)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return call


def folder(tmp_path: Path, name: str) -> Path:
    return tmp_path / "lightning_logs" / name / "version_0"


@pytest.mark.parametrize("program", ["torchrun", "srun"])
def test_a_run_is_the_same_whoever_starts_its_processes(run, tmp_path, program):
    line = f"{FIT} --model.dropout 0.2 --data.batch_size 32 --trainer.max_epochs 3"
    printed = run(program, 2, f"{line} --name started").stdout
    assert printed.count("test accuracy") == 1  # of the first process alone
    run("itself", 2, f"{line} --name own")
    own, started = (folder(tmp_path, name) for name in ("own", "started"))
    assert report(started)["weights_digest"] == report(own)["weights_digest"]
    assert report(started)["identity"] == report(own)["identity"]
    assert (started / "metrics.csv").read_bytes() == (own / "metrics.csv").read_bytes()
    assert (started / "predictions/test.csv").read_bytes() == (own / "predictions/test.csv").read_bytes()
    left = sorted(path.name for path in (tmp_path / "lightning_logs").iterdir())
    assert [name for name in left if "ledger" not in name] == ["own", "started"]


def test_the_weights_do_not_depend_on_the_number_of_processes(run, tmp_path):
    """At the same global batch, up to the order in which floats are added: the MLP has no batch norm and no dropout."""
    found = {}
    for size in (1, 2, 4):
        line = f"{FIT} --data.batch_size {64 // size} --trainer.max_epochs 2 --name of{size}"
        run("itself" if size == 1 else "torchrun", size, line)
        found[size] = (
            checkpoint(folder(tmp_path, f"of{size}"), "last")["state_dict"],
            report(folder(tmp_path, f"of{size}")),
        )
    for size in (2, 4):
        for name, weights in found[1][0].items():
            torch.testing.assert_close(found[size][0][name], weights, rtol=1e-4, atol=1e-5)
        for name, value in found[1][1]["metrics"].items():
            assert found[size][1]["metrics"][name] == pytest.approx(value, rel=1e-4), name
        assert found[size][1]["counts"] == found[1][1]["counts"]


@pytest.mark.parametrize("program", ["torchrun", "itself"])
def test_a_killed_process_ends_the_run_which_is_resumed(run, digits_root, tmp_path, program):
    line = f"{FIT} --data.batch_size 32 --trainer.max_epochs 8"
    run(program, 2, f"{line} --name undisturbed")
    environment = os.environ | {"VISIONBENCH_DATA": str(digits_root), "OMP_NUM_THREADS": "1"}
    words = ["-m", "visionbench", *line.split(), "--name", "killed"]
    command = [*TORCHRUN, "2", *words] if program == "torchrun" else [sys.executable, *words, "--trainer.devices", "2"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, stderr=subprocess.STDOUT
    )
    metrics = folder(tmp_path, "killed") / "metrics.csv"
    while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") > 3):
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    begun = time.monotonic()
    printed = process.communicate(timeout=60)[0]
    assert process.returncode not in (0, None)
    assert time.monotonic() - begun < 45  # torchrun gives the others 30 seconds
    if program == "itself":  # Lightning ends the others itself where they have not noticed within five seconds
        ways = ("Process 0 of 2 has lost the others: process 1 ended with status -9", "terminated with code -9")
        assert any(way in printed for way in ways), printed
    run("torchrun", 2, f"fit --resume {folder(tmp_path, 'killed')}")
    killed, undisturbed = (folder(tmp_path, name) for name in ("killed", "undisturbed"))
    assert (killed / "metrics.csv").read_bytes() == (undisturbed / "metrics.csv").read_bytes()
    assert report(killed)["weights_digest"] == report(undisturbed)["weights_digest"]


@pytest.mark.parametrize("program", ["torchrun", "srun"])
def test_what_the_first_process_alone_refuses_ends_all(run, tmp_path, program):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "something").touch()
    begun = time.monotonic()
    done = run(program, 2, f"{FIT} --run_dir there --trainer.max_epochs 1", check=False)
    assert done.returncode != 0
    assert "run_dir is there, which is there already" in done.stderr
    assert time.monotonic() - begun < 60


def test_a_run_of_several_processes_is_tested_by_one(run, tmp_path):
    run("torchrun", 2, f"{FIT} --data.batch_size 32 --trainer.max_epochs 1 --name several")
    place = folder(tmp_path, "several")
    tested = subprocess.run(
        [sys.executable, "-m", "visionbench", "test", str(place)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert tested.returncode == 0, tested.stderr
    assert f"test accuracy {100 * report(place)['metrics']['test/acc']:.2f} %" in tested.stdout
