"""Runs and studies on two machines: network namespaces of this one, each with an address of its own."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.exactness.same import report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("ip") is None,
        reason="network namespaces need root and the command ip",
    ),
]

FIRST, SECOND = "10.231.0.1", "10.231.0.2"
FIT = (
    "fit --model MLP --model.widths [16] --data Digits --trainer.accelerator cpu --trainer.precision 32-true "
    "--threads 1 --figures none --data.batch_size 32 --trainer.max_epochs 20"
)
STUDY = """\
title: Forty runs
source: None
seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
base:
  data: Digits
  model: MLP
  trainer: {max_epochs: 10, precision: 32-true}
grid:
  width: {8: {model.widths: [8]}, 16: {model.widths: [16]}, 32: {model.widths: [32]}, 64: {model.widths: [64]}}
stages: {all: {grid: [width], test: true}}
"""


class Machines:
    """Two machines and the cable between them."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        self.started: list[subprocess.Popen] = []
        self.names = [f"machine{os.getpid()}{letter}" for letter in "ab"]
        self.ports = [f"eth{os.getpid()}{letter}"[-15:] for letter in "ab"]

    def connect(self) -> None:
        """Makes both, and gives them their addresses."""
        for name in self.names:
            self._ip("netns", "add", name)
        self._ip("link", "add", self.ports[0], "type", "veth", "peer", "name", self.ports[1])
        for name, port, address in zip(self.names, self.ports, (FIRST, SECOND), strict=True):
            self._ip("link", "set", port, "netns", name)
            self._ip("-n", name, "addr", "add", f"{address}/24", "dev", port)
            self._ip("-n", name, "link", "set", "lo", "up")
            self._ip("-n", name, "link", "set", port, "up")

    def start(self, number: int, words: list[str], **more: str) -> subprocess.Popen:
        """Starts a command on one of them."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.names[number], *words],
            cwd=self.folder,
            env=self.environment | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def kill(self, number: int) -> None:
        """Ends all processes of one of them at once."""
        pids = subprocess.run(["ip", "netns", "pids", self.names[number]], capture_output=True, text=True, check=False)
        for pid in pids.stdout.split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue

    def cut(self, seconds: float) -> None:
        """Pulls the cable out for a while."""
        self._ip("-n", self.names[0], "link", "set", self.ports[0], "down")
        time.sleep(seconds)
        self._ip("-n", self.names[0], "link", "set", self.ports[0], "up")

    def remove(self) -> None:
        """Ends what still runs, and removes both."""
        for number, name in enumerate(self.names):
            self.kill(number)
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        for process in self.started:
            process.wait()
            process.stdout.close()

    @staticmethod
    def _ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def machines(digits_root, tmp_path):
    made = Machines(tmp_path, {**os.environ, "VISIONBENCH_DATA": str(digits_root)})
    try:
        made.connect()
    except subprocess.CalledProcessError as error:
        made.remove()
        pytest.skip(f"no network namespaces here: {error.stderr}")
    yield made
    made.remove()


def torchrun(machines: Machines, line: str) -> list[subprocess.Popen]:
    """Starts one process of a run on each machine."""
    started = []
    for number, address in enumerate((FIRST, SECOND)):
        words = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        words += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{FIRST}:29500", "--local-addr", address]
        words += ["--rdzv-conf", f"is_host={1 - number}", "-m", "visionbench", *line.split()]
        started.append(machines.start(number, words, GLOO_SOCKET_IFNAME=machines.ports[number]))
    return started


def wait_for(path: Path, lines: int, process: subprocess.Popen) -> None:
    """Waits until a file has so many lines, for two minutes at most."""
    end = time.monotonic() + 120
    while (
        process.poll() is None
        and time.monotonic() < end
        and not (path.exists() and path.read_text().count("\n") >= lines)
    ):
        time.sleep(0.05)


def run_alone(tmp_path: Path, digits_root: Path, line: str) -> None:
    """Trains the same run with two processes on one machine."""
    subprocess.run(
        [sys.executable, "-m", "visionbench", *line.split(), "--trainer.devices", "2"],
        cwd=tmp_path,
        env=os.environ | {"VISIONBENCH_DATA": str(digits_root)},
        check=True,
        capture_output=True,
    )


def test_a_run_on_two_machines_is_that_of_one_although_the_network_fails(machines, digits_root, tmp_path):
    first, second = torchrun(machines, f"{FIT} --run_dir two")
    wait_for(tmp_path / "two/metrics.csv", 4, first)
    machines.cut(20)
    printed = first.communicate(timeout=120)[0]
    assert first.returncode == 0, printed
    second.communicate(timeout=60)
    run_alone(tmp_path, digits_root, f"{FIT} --run_dir one")
    assert report(tmp_path / "two")["weights_digest"] == report(tmp_path / "one")["weights_digest"]
    assert (tmp_path / "two/metrics.csv").read_bytes() == (tmp_path / "one/metrics.csv").read_bytes()


def test_a_lost_machine_ends_the_run_which_is_resumed(machines, digits_root, tmp_path):
    first, _ = torchrun(machines, f"{FIT} --run_dir two")
    wait_for(tmp_path / "two/metrics.csv", 4, first)
    machines.kill(1)
    begun = time.monotonic()
    printed = first.communicate(timeout=90)[0]
    assert time.monotonic() - begun < 60
    assert first.returncode != 0
    assert "has lost the others" in printed, printed
    for process in torchrun(machines, "fit --resume two"):
        printed = process.communicate(timeout=120)[0]
        assert process.returncode == 0, printed
    run_alone(tmp_path, digits_root, f"{FIT} --run_dir one")
    assert report(tmp_path / "two")["weights_digest"] == report(tmp_path / "one")["weights_digest"]


def rows(folder: Path) -> list[tuple[str, ...]]:
    """What the table of a study says of each run, but for times."""
    with (folder / "lightning_logs/studies/forty/results.csv").open() as file:
        return sorted((row["id"], row["status"], row["metrics"], row["weights_digest"]) for row in csv.DictReader(file))


@pytest.mark.parametrize("accident", ["kill", "cut"])
def test_a_study_on_two_machines_has_the_right_table_after_an_accident(machines, digits_root, tmp_path, accident):
    pytest.importorskip("ray")
    (tmp_path / "forty.yaml").write_text(STUDY)
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--num-cpus", "1", "--disable-usage-stats"]
    # A token that an earlier cluster of this machine left in the home folder would be asked for.
    start = {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_AUTH_MODE": "disabled"}
    head = ["--head", "--port", "6379", "--include-dashboard", "false", "--node-ip-address", FIRST]
    for number, words in enumerate((head, ["--address", f"{FIRST}:6379", "--node-ip-address", SECOND])):
        ready = machines.start(number, [*ray, *words], **start)
        assert ready.wait(timeout=90) == 0, ready.stdout.read()
    study = [sys.executable, "-m", "visionbench", "study", "run", "forty.yaml", "--executor", "ray"]
    runner = machines.start(0, [*study, "--address", f"{FIRST}:6379"], **start)
    printed = []
    watch = threading.Timer(400, machines.kill, [0])  # a study that hangs ends as one that was killed
    watch.start()
    for line in runner.stdout:
        printed.append(line)
        if line.startswith("[10/40]"):
            break
    if accident == "kill":
        machines.kill(1)
    else:
        machines.cut(20)
    printed.append(runner.communicate()[0])
    watch.cancel()
    assert runner.returncode == 0, "".join(printed)
    here = tmp_path / "here"
    here.mkdir()
    subprocess.run(
        [*study[:5], "../forty.yaml"],
        cwd=here,
        env=machines.environment,
        check=True,
        capture_output=True,
    )
    assert rows(tmp_path) == rows(here)
    assert len(rows(here)) == 40
