"""What verdicts depend on is recorded at the first run, and a verdict that got worse is found."""

import importlib
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from visionbench.commands.study import study as study_command
from visionbench.errors import RunFailed, UserError
from visionbench.guards.base import Refused
from visionbench.runs.folder import RunFolder
from visionbench.runs.identity import code_digest
from visionbench.studies import jobs
from visionbench.studies import runner as runner_module
from visionbench.studies.expand import plan
from visionbench.studies.jobs import REFUSED, REFUSED_BY_GUARD, Job, visible_gpu
from visionbench.studies.judgment import FILE, changed_since, record, recorded
from visionbench.studies.pool import Pool
from visionbench.studies.results import Row, read_rows, write_rows
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


def test_rows_of_older_and_newer_versions_are_read_or_refused(tmp_path):
    row = Row("0" * 16, ("reported",), "all", {}, 0, None, "finished", {"val/acc": 0.5}, date="2026-11-29")
    write_rows(tmp_path / "runs.csv", [row])
    header, line = (tmp_path / "runs.csv").read_text().splitlines()
    (tmp_path / "older.csv").write_text(f"{header.removesuffix(',date')}\n{line.removesuffix(',2026-11-29')}\n")
    assert read_rows(tmp_path / "older.csv") == [replace(row, date="")]
    (tmp_path / "newer.csv").write_text(f"{header},units\n{line},percent\n")
    with pytest.raises(UserError, match=r"newer\.csv has the column 'units', which this version of visionbench"):
        read_rows(tmp_path / "newer.csv")


def test_a_damaged_record_is_one_sentence(tmp_path):
    (tmp_path / FILE).write_text('{"recorded": ')
    with pytest.raises(UserError, match=r"judged\.json is damaged .*restore it from the repository"):
        recorded(tmp_path)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/results cannot be written \(Not a directory\); make it writable"):
        record(load(), tmp_path / "file" / "results")
    with pytest.raises(UserError, match=r"runs\.csv cannot be written \(File exists\)\. Free space"):
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
    printed = capsys.readouterr().out.replace("\n", " ")
    assert said in printed
    assert printed.count("not reproduced:") <= 2


def test_verify_finds_a_value_that_is_not_judged_any_more(capsys):
    save(load(), {"8": 70.5, "16": 90.0})
    (SAVED / "some-study" / "verdicts.csv").write_text(VERDICTS)
    study = load(TEXT.replace("[8, 70.5], ", ""))
    save(study, {"8": 70.5, "16": 90.0})
    assert study_command(["verify", "some-study"]) == 1
    assert "not judged any more (worse than the saved reproduced): all / 8 / val/acc" in capsys.readouterr().out


def test_a_study_without_a_published_table_says_its_best_cell(capsys):
    study = load(TEXT.partition("published:")[0])
    save(study, {"8": 70.5, "16": 80.0})
    assert study_command(["report", "some-study"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "all: by validation accuracy: Best: width 16 (80.00 ± 0.16 over 5 seeds);" in printed
    assert (
        "cannot be distinguished from width 8" in printed
    )  # each seed has the same difference, which five seeds alone cannot tell from chance
    assert "<" not in printed


@pytest.mark.parametrize(
    ("error", "status"),
    [(UserError("No data."), REFUSED), (RunFailed("No disk."), 1), (Refused("The loss is NaN.", []), REFUSED_BY_GUARD)],
)
def test_what_a_guard_refuses_is_a_result_and_other_refusals_may_end_the_study(error, status, monkeypatch, tmp_path):
    def fit(job, run):
        raise error

    monkeypatch.setattr(jobs, "_fit", fit)
    assert jobs.run_job(Job("a1", "cell.yaml", str(tmp_path / "run"))) == status
    assert RunFolder(tmp_path / "run").metadata["error"] == str(error)


@pytest.mark.parametrize(("status", "is_kept"), [(REFUSED_BY_GUARD, True), (1, False)])
def test_what_a_guard_refuses_is_not_tried_again(status, is_kept):
    runner = Runner(load(), Options())
    run = next(iter(runner.plan.runs.values()))
    runner.store.run(run.id).path.mkdir(parents=True)
    runner.store.run(run.id).write_metadata({"status": "failed", "error": "Refused.", "metrics": {}})
    runner._ended(run, status)
    assert (run.id in runner.store.rows) == is_kept


def test_the_command_takes_its_options(capsys):
    save(load(), {"8": 70.5, "16": 80.0})
    line = "run some-study --dry_run --stages all --protocols reported --share 1/1 --executor local --workers 1"
    assert study_command(line.split()) == 0
    assert "0 runs to train, 10 finished" in capsys.readouterr().out
    with pytest.raises(UserError, match="cpus is 0 and gpus is 0, expected cpus above 0"):
        study_command(["run", "some-study", "--executor", "ray", "--cpus", "0"])


SELECTING = """\
title: T
source: S
seeds: [0, 1]
base: {data: Digits, model: MLP, trainer: {max_epochs: 1}}
grid: {width: {8: {model.widths: [8]}, 16: {model.widths: [16]}}}
stages:
  candidates: {grid: [width]}
  final: {best_of: candidates, test: true}
"""


def finished(run, acc, **parts):
    use = run.first
    metrics = {"val/acc": acc, "test/acc": acc}
    row = Row(run.id, run.protocols, use.stage, use.cell, use.seed, None, "finished", metrics, evaluations=("test",))
    return replace(row, **parts)


def test_a_failed_candidate_does_not_hide_the_runs_of_the_chosen_cell():
    study = load(SELECTING)
    rows = {run.id: finished(run, int(run.first.cell["width"]) / 100) for run in plan(study, {}).runs.values()}
    failed = next(row for row in rows.values() if row.cell == {"width": "16"})
    rows[failed.id] = replace(failed, status="failed", metrics={}, error="too wide")
    finals = [run for run in plan(study, rows).runs.values() if run.first.stage == "final"]
    assert {run.first.cell["width"] for run in finals} == {"8"}
    rows |= {run.id: finished(run, 0.5) for run in finals}
    folder = Path("lightning_logs/studies/some-study")
    write_rows(folder / "results.csv", rows.values())

    again = Runner(study, Options())
    assert {row.stage for row in again.rows()} == {"candidates", "final"}
    assert [run.id for run in again.missing()] == [failed.id]  # it is tried again


def test_a_model_in_the_working_folder_is_no_other_code_by_the_next_command(monkeypatch):
    Path("own_nets_here.py").write_text("class Net:\n    pass\n")
    monkeypatch.syspath_prepend(Path.cwd())
    kind = importlib.import_module("own_nets_here").Net
    study = load(TEXT.replace("model: MLP", "model: own_nets_here.Net"))
    rows = [finished(run, 0.7, code=code_digest([kind])) for run in plan(study, {}).runs.values()]
    write_rows(SAVED / study.id / "runs.csv", rows)
    assert not Runner(study, Options()).notes
    Path("own_nets_here.py").write_text("class Net:\n    size = 2\n")
    with pytest.raises(UserError, match="10 finished runs of some-study were made by other code"):
        Runner(study, Options())


def test_no_other_cell_is_trained_while_a_failed_candidate_is_tried_again(monkeypatch):
    study = load(SELECTING)
    rows = {run.id: finished(run, int(run.first.cell["width"]) / 100) for run in plan(study, {}).runs.values()}
    failed = next(row for row in rows.values() if row.cell == {"width": "16"})
    rows[failed.id] = replace(failed, status="failed", metrics={}, error="the disk was slow")
    write_rows(Path("lightning_logs/studies/some-study/results.csv"), rows.values())
    checked, sent, answered = [], [], []

    class Failing(Pool):
        def send(self, job, slot):
            if job.checks:
                checked.append(job.id)
                return
            sent.append(job.id)
            folder = RunFolder(Path(job.folder))
            folder.path.mkdir(parents=True)
            folder.write_metadata({"status": "failed", "error": "too wide"})

        def answers(self, timeout):
            if checked:
                return [{"id": checked.pop(), "status": 0}]
            answered.append(sent[len(answered)])
            return [{"id": answered[-1], "status": 1}]

    monkeypatch.setattr(runner_module, "local_pool", lambda: nullcontext(Failing()))
    assert not Runner(study, Options(workers=2)).run()
    assert sent[:2] == [failed.id] * 2
    assert {*sent[2:]}.isdisjoint(rows)  # the chosen cell, once the other one has failed for good
    assert len({*sent[2:]}) == 2


@pytest.mark.parametrize(
    ("options", "trained"),
    [
        ({}, {"corrected candidates", "reported candidates", "reported final", "waiting corrected final"}),
        ({"protocols": ["reported"]}, {"reported candidates", "reported final"}),
        ({"stages": ["candidates"]}, {"corrected candidates", "reported candidates"}),
        # The report chose the cell of its own, so that only the corrected one needs the candidates.
        ({"stages": ["final"]}, {"corrected candidates", "reported final", "waiting corrected final"}),
        ({"stages": ["final"], "protocols": ["reported"]}, {"reported final"}),
    ],
)
def test_some_stages_and_protocols_are_trained_with_what_they_need(options, trained):
    reported = "reported: {set: {model.dropout: 0.1}, chosen: {final: {width: 8}}}"
    text = SELECTING.replace("stages:", f"protocols: {{{reported}, corrected: {{}}}}\nstages:")
    runner = Runner(load(text), Options(**options))
    found = {f"{use.protocol} {use.stage}" for run in runner.missing() for use in run.uses}
    assert found | {f"waiting {entry.protocol} {entry.stage}" for entry in runner.waiting()} == trained
    assert not runner.is_complete()
    runner.store.rows |= {run.id: finished(run, 0.5) for run in runner.missing()}
    assert runner.is_complete() == (not runner.waiting())


@pytest.mark.parametrize("option", ["stages", "protocols"])
def test_a_stage_or_protocol_that_is_not_there_is_refused(option):
    with pytest.raises(UserError, match=f"--{option} names finale, which the study does not have; known: "):
        Runner(load(SELECTING), Options(**{option: ["finale"]}))


def test_saved_rows_that_are_not_of_the_plan_stay():
    study = load(SELECTING)
    rows = [finished(run, 0.5) for run in plan(study, {}).runs.values()]
    write_rows(SAVED / study.id / "runs.csv", rows)
    smaller = load(SELECTING.replace("16: {model.widths: [16]}", "").replace("seeds: [0, 1]", "seeds: [0]"))
    runner = Runner(smaller, Options(save=True))
    runner.store.folder.mkdir(parents=True)
    runner.write()
    assert {row.id for row in read_rows(SAVED / study.id / "runs.csv")} == {row.id for row in rows}


def test_rows_of_other_data_are_refused_unless_they_are_accepted():
    study = load(SELECTING)
    rows = [finished(run, 0.5, data_digest=f"{place == 0}") for place, run in enumerate(plan(study, {}).runs.values())]
    write_rows(SAVED / study.id / "runs.csv", rows)
    with pytest.raises(UserError, match=r"have the same settings of data, but other files, .* Give --accept_code"):
        Runner(study, Options())
    assert any("other files" in note for note in Runner(study, Options(accept_code=True)).notes)
    write_rows(SAVED / study.id / "runs.csv", [replace(rows[0], processor="another one"), *rows[1:]])
    assert any("other files" in note for note in Runner(study, Options()).notes)


def test_a_finished_row_survives_a_training_that_fails():
    study = load(SELECTING)
    rows = [finished(run, 0.5) for run in plan(study, {}).runs.values()]
    write_rows(SAVED / study.id / "runs.csv", rows)
    runner = Runner(study, Options())
    run = runner.every_run()[0]
    runner.retrained[run.id] = runner.store.rows[run.id]
    runner.attempts[run.id] = 2
    folder = runner.store.run(run.id)
    folder.path.mkdir(parents=True)
    folder.write_metadata({"status": "failed", "error": "the data have moved"})
    runner._ended(run, 1)
    assert runner.store.rows[run.id].is_finished
    assert any("the data have moved" in note for note in runner.notes)
    assert run not in runner._ready({})


def test_another_study_file_with_a_mistake_stops_no_study():
    study = load(SELECTING)
    study.path.with_name("draft.yaml").write_text("title: T\nneeds: {}\n")
    runner = Runner(study, Options())
    assert runner.keeps_all
    assert any("draft.yaml" in note for note in runner.notes)


@pytest.mark.parametrize("keeps", [True, False])
def test_checkpoints_that_were_to_be_kept_are_kept_by_a_later_run_too(keeps):
    study = load()
    save(study, {"8": 70.5, "16": 80.0})
    first = Runner(study, Options())
    folders = [first.store.run(run.id).checkpoints for run in first.every_run()]
    for folder in folders:
        folder.mkdir(parents=True)
    Runner(study, Options(keep_checkpoints=keeps)).run()
    later = Runner(study, Options())
    later._trim()
    assert [folder.exists() for folder in folders] == [keeps] * len(folders)


def test_a_run_gets_one_of_the_gpus_that_are_visible():
    assert visible_gpu(1, None) == "1"
    assert visible_gpu(1, "2, 3") == "3"
    assert visible_gpu(0, "GPU-8f1c") == "GPU-8f1c"


def test_verify_without_saved_verdicts_says_how_they_are_saved():
    load()
    with pytest.raises(UserError, match=r"no saved verdicts in .*; visionbench study run --save writes them"):
        study_command(["verify", "some-study"])
