"""The settings of a study, read before its first run."""

from contextlib import contextmanager
from pathlib import Path

import pytest

from visionbench.errors import UserError
from visionbench.studies import runner as runner_module
from visionbench.studies.jobs import run_job
from visionbench.studies.pool import Pool
from visionbench.studies.runner import Options, Runner
from visionbench.studies.spec import load_study

TEXT = """\
title: Two widths
source: A course
seeds: [0, 1, 2]
base:
  data: Digits
  model: {class_path: MLP, init_args: {widths: [8]}}
  trainer: {max_epochs: 2}
grid:
  width: {8: {model.widths: [8]}, 16: {model.widths: [16]}}
  dropout: {none: {}, some: {model.dropout: 0.3}}
stages:
  candidates: {grid: [width, dropout], result: last epoch}
  more: {continue: candidates, set: {trainer.max_epochs: 4}, result: last epoch}
published:
  candidates: [[width, dropout, val/acc], [8, none, 72.5]]
judged: [val/acc]
tolerance: 10
"""


class TrainingStartsError(Exception):
    """The study would train a run."""


class Here(Pool):
    """Checks jobs in this process, and trains none."""

    def __init__(self):
        self.ended = []
        self.checked = 0

    def send(self, job, slot):
        if not job.checks:
            raise TrainingStartsError
        self.checked += 1
        self.ended.append({"id": job.id, "status": run_job(job)})

    def answers(self, timeout):
        ended, self.ended = self.ended, []
        return ended


@pytest.fixture
def pool(monkeypatch):
    here = Here()

    @contextmanager
    def local_pool():
        yield here

    monkeypatch.setattr(runner_module, "local_pool", local_pool)
    return here


def run(text: str) -> None:
    path = Path("configs/studies/two-widths.yaml")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    Runner(load_study(path), Options()).run()


def test_one_run_with_each_label_is_read_before_the_first_is_trained(pool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainingStartsError):
        run(TEXT)
    # Of each of the two stages: the first cell has two of the four labels, and two more cells have one of the others.
    assert pool.checked == 6
    assert not [path for path in Path("lightning_logs").rglob("*") if path.suffix == ".refused"]


@pytest.mark.parametrize(
    ("old", "new", "sentences"),
    [
        (
            "some: {model.dropout: 0.3}",
            "some: {model.dropot: 0.3}",
            [
                "No run was started, since some would be refused: candidates · 8, some · seed 0: ",
                "model.dropout?",
            ],
        ),
        (
            "16: {model.widths: [16]}",
            "16: {model.widths: sixteen}",
            ["No run was started, since some would be refused: candidates · 16, none · seed 0: ", "sixteen"],
        ),
        ("data: Digits", "data: Digit", ["Every run would be refused: ", "Digits?"]),
        (
            "some: {model.dropout: 0.3}",
            "some: {trainer.max_epochs: 0}",
            ["candidates · 8, some · seed 0: trainer.max_epochs is 0, expected 1 or more"],
        ),
    ],
)
def test_a_mistake_under_one_label_ends_the_study_before_it_begins(pool, tmp_path, monkeypatch, old, new, sentences):
    monkeypatch.chdir(tmp_path)
    assert old in TEXT
    with pytest.raises(UserError) as refusal:
        run(TEXT.replace(old, new))
    for sentence in sentences:
        assert sentence in str(refusal.value)
    assert not list(Path("lightning_logs/studies/two-widths").glob("*/*"))
