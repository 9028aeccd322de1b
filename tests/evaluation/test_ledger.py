"""The ledger of test openings: what it counts, and what it survives."""

import json
import multiprocessing

import numpy as np
import pytest

from visionbench.data import Arrays
from visionbench.evaluation.ledger import LEDGER_FILE, Ledger, Opening
from visionbench.runs.folder import RunFolder
from visionbench.text import counted

LINE = "fit --model MLP --model.widths [4] --data Digits --trainer.max_epochs 1 --figures none"


def opening(digest="a", run="x/version_0"):
    return Opening("2026-01-01T00:00:00+00:00", run, "best.ckpt", "fit", "Digits", 360, digest)


def entries(folder):
    return [json.loads(line) for line in (folder / LEDGER_FILE).read_text(encoding="utf-8").splitlines()]


def test_openings_of_the_same_samples_are_counted_together(tmp_path):
    ledger = Ledger(tmp_path / "logs")
    assert [ledger.add(opening(digest)) for digest in ("a", "a", "b", "a")] == [1, 2, 1, 3]
    assert [entry["test_digest"] for entry in ledger.openings()] == ["a", "a", "b", "a"]


def test_a_line_that_a_killed_process_left_unfinished_harms_no_other(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.add(opening())
    with ledger.path.open("a", encoding="utf-8") as file:
        file.write('{"time": "2026-01')
    assert ledger.add(opening()) == 2
    assert len(ledger.openings()) == 2


def _add_many(folder):
    for _ in range(20):
        Ledger(folder).add(opening())


def test_processes_that_write_at_once_lose_no_opening(tmp_path):
    processes = [multiprocessing.get_context("fork").Process(target=_add_many, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len(Ledger(tmp_path).openings()) == 60
    assert Ledger(tmp_path).add(opening()) == 61


def test_every_run_of_a_log_folder_counts_on(cli, tmp_path):
    outputs = [cli(f"{LINE} --name {name} --seed_everything {seed}").out for seed, name in enumerate("xyx")]
    for number, output in enumerate(outputs, 1):
        assert f"the test images were opened {counted(number, 'time')} in this log folder, 1 time by this run" in output
    logs = tmp_path / "lightning_logs"
    cli("report lightning_logs/x/version_1")
    page = (logs / "x/version_1/report.html").read_text(encoding="utf-8")
    assert "The test images were opened 3 times in this log folder, 1 time by this run." in page
    assert "Chosen on val/loss, epoch 1 of 1." in page
    found = [(entry["run"], entry["purpose"], entry["checkpoint"], entry["samples"]) for entry in entries(logs)]
    assert found == [(run, "fit", "best.ckpt", 360) for run in ("x/version_0", "y/version_0", "x/version_1")]


def test_a_test_by_any_command_is_an_opening(cli, tmp_path):
    assert cli(f"{LINE} --name x").status == 0
    run = "lightning_logs/x/version_0"
    assert "the test images were opened 2 times in this log folder, 2 times by this run" in cli(f"test {run}").out
    assert "the test images were opened 3 times" in cli(f"predict {run} test --output p.csv").err
    assert "opened" not in cli(f"predict {run} val --output p.csv").err
    assert "opened" not in cli(f"validate {run}").out
    assert cli(f"export {run} --format torch_export --samples 5").status == 0
    assert cli(f"export {run} --format torch_export --samples 5 --check val").status == 0
    assert cli(f"fit --resume {run} --resume_changed true --trainer.max_epochs 2").status == 0
    purposes = [entry["purpose"] for entry in entries(tmp_path / "lightning_logs")]
    assert purposes == ["fit", "test", "predict", "export", "resume"]
    assert RunFolder(tmp_path / run).opening_in_words("image") == (
        "the test images were opened 5 times in this log folder, 5 times by this run"
    )


@pytest.mark.parametrize(
    ("place", "ledger"), [("a/x", "a"), ("a/x/version_3", "a"), ("studies/s/runs/mlp-0", "studies/s")]
)
def test_a_run_writes_into_the_ledger_of_its_log_folder(tmp_path, place, ledger):
    assert RunFolder(tmp_path / place).log_folder == tmp_path / ledger


def test_a_test_set_is_known_by_its_samples_and_not_by_what_else_is_chosen():
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    labels = np.arange(60) % 3

    def digest(images=images, labels=labels, **arguments):
        data = Arrays(images, labels, **{"val_size": 12, "test_size": 12, **arguments})
        data.setup()
        return data.sealed_samples().digest

    assert digest() == digest(batch_size=7, mean=[0.5], std=[2.0], val_size=3) == digest(train_size=10)
    assert len({digest(), digest(split_seed=1), digest(test_size=9), digest(labels=(labels + 1) % 3)}) == 4
    assert digest() != digest(images=255 - images)
