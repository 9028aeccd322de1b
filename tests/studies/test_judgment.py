"""What verdicts depend on is recorded at the first run, and a verdict that got worse is found."""

from pathlib import Path

import pytest

from visionbench.commands.study import study as study_command
from visionbench.errors import UserError
from visionbench.studies.expand import plan
from visionbench.studies.judgment import FILE, changed_since, record, recorded
from visionbench.studies.results import Row, write_rows
from visionbench.studies.runner import SAVED, Options, Runner
from visionbench.studies.spec import load_study

TEXT = """\
title: T
source: S
seeds: [0, 1, 2, 3, 4]
choices: [Each image is divided by 255.]
base: {data: Digits, model: MLP, trainer: {max_epochs: 1}}
grid: {width: {8: {model.widths: [8]}, 16: {model.widths: [16]}}}
protocols:
  reported: {defects: {double_softmax: The model ends with softmax.}}
stages:
  all: {grid: [width]}
published:
  all: [[width, val/acc], [8, 70.5], [16, 80.0]]
judged: [val/acc]
tolerance: 10
"""


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def load(text=TEXT):
    path = Path("configs/studies/some-study.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return load_study(path)


def save(study, values, seeds=5):
    """Keeps rows whose validation accuracy is the value of their width, and a little more or less by seed."""
    rows = []
    for run in plan(study, {}).runs.values():
        use = run.first
        if use.seed < seeds:
            share = (values[use.cell["width"]] + (use.seed - 2) / 10) / 100
            rows.append(Row(run.id, run.protocols, use.stage, use.cell, use.seed, None, "finished", {"val/acc": share}))
    write_rows(SAVED / study.id / "runs.csv", rows)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("70.5", "70.50", "published values"),
        ("judged: [val/acc]", "judged: []", "judged measures"),
        ("tolerance: 10", "tolerance: 11", "tolerance"),
        ("divided by 255", "divided by 256", "choices"),
        ("softmax.}}", "softmax.}, changes: {val/acc: double_softmax}}", "measures that a defect changes"),
    ],
)
def test_a_change_after_the_first_run_is_said(old, new, said, tmp_path):
    study = load()
    record(study, tmp_path)
    content = recorded(tmp_path)
    assert changed_since(content, study) is None
    changed = load(TEXT.replace(old, new))
    record(changed, tmp_path)  # as a second runner does: the first record stays
    assert changed_since(recorded(tmp_path), changed) == (
        f"Changed in the study file after the first run ({content['recorded']}): {said}."
    )


def test_a_change_that_no_verdict_depends_on_is_not_said(tmp_path):
    record(load(), tmp_path)
    assert changed_since(recorded(tmp_path), load(TEXT.replace("max_epochs: 1", "max_epochs: 2"))) is None


def test_the_record_of_a_clone_is_the_first_one(tmp_path):
    study = load()
    record(study, tmp_path / "kept")
    record(load(TEXT.replace("tolerance: 10", "tolerance: 20")), tmp_path / "kept", tmp_path / "here")
    assert (tmp_path / "here" / FILE).read_bytes() == (tmp_path / "kept" / FILE).read_bytes()
    assert changed_since(recorded(tmp_path / "here"), study) is None


def test_a_damaged_record_is_one_sentence(tmp_path):
    (tmp_path / FILE).write_text('{"recorded": ')
    with pytest.raises(UserError, match=r"judged\.json is damaged .*restore it from the repository"):
        recorded(tmp_path)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/results cannot be written \(Not a directory\); make it writable"):
        record(load(), tmp_path / "file" / "results")
    with pytest.raises(UserError, match=r"runs\.csv cannot be written \(File exists\); the finished runs are kept"):
        write_rows(tmp_path / "file" / "runs.csv", [])


def test_the_runner_has_the_change_among_its_notes():
    study = load()
    record(study, SAVED / study.id)
    assert Runner(study, Options()).notes == []
    runner = Runner(load(TEXT.replace("tolerance: 10", "tolerance: 20")), Options())
    assert len(runner.notes) == 1
    assert runner.notes[0].endswith(": tolerance.")


VERDICTS = (
    "value,verdict,sentence\nall / 8 / val/acc,reproduced,as it was\nall / 16 / val/acc,not reproduced,as it was\n"
)


@pytest.mark.parametrize(
    ("values", "seeds", "status", "said"),
    [
        ({"8": 70.5, "16": 90.0}, 5, 0, "not reproduced: all / 16"),
        ({"8": 70.5, "16": 80.0}, 5, 0, "reproduced (not worse than the saved not reproduced): all / 16"),
        ({"8": 75.0, "16": 90.0}, 5, 1, "not reproduced (worse than the saved reproduced): all / 8"),
        ({"8": 70.5, "16": 90.0}, 4, 3, "incomplete (not worse than the saved reproduced): all / 8"),
    ],
)
def test_verify_ends_with_the_state_of_the_verdicts(values, seeds, status, said, capsys):
    study = load()
    save(study, values, seeds)
    (SAVED / study.id / "verdicts.csv").write_text(VERDICTS)
    assert study_command(["verify", "some-study"]) == status
    assert said in capsys.readouterr().out.replace("\n", " ")


def test_verify_finds_a_value_that_is_not_judged_any_more(capsys):
    save(load(), {"8": 70.5, "16": 90.0})
    (SAVED / "some-study" / "verdicts.csv").write_text(VERDICTS)
    study = load(TEXT.replace("[8, 70.5], ", ""))
    save(study, {"8": 70.5, "16": 90.0})
    assert study_command(["verify", "some-study"]) == 1
    assert "not judged any more (worse than the saved reproduced): all / 8 / val/acc" in capsys.readouterr().out
