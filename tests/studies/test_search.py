"""Stages whose cells a search proposes."""

import json
import sys
from dataclasses import replace

import pytest

from visionbench.errors import UserError
from visionbench.studies.expand import plan
from visionbench.studies.results import Row
from visionbench.studies.search import Range, Search, propose
from visionbench.studies.slurm import rounds_of
from visionbench.studies.spec import load_study

pytestmark = pytest.mark.fast

TEXT = """\
title: T
source: S
seeds: [0]
base: {data: Digits, model: {class_path: MLP, init_args: {widths: [8]}}, trainer: {max_epochs: 1}}
stages:
  search:
    search:
      trials: 10
      at_once: 4
      sampler: random
      over:
        model.dropout: {low: 0, high: 0.6}
        model.optimizer.lr: {low: 1.0e-4, high: 1.0e-1, log: true}
        model.widths: {values: [[16], [32, 16]]}
        data.batch_size: {low: 16, high: 128, integer: true}
  final: {best_of: search, by: val/acc, test: true}
"""


def load(tmp_path, text=TEXT):
    path = tmp_path / "some-study.yaml"
    path.write_text(text)
    return load_study(path)


def finished(run, value, status="finished"):
    use = run.first
    metrics = {"val/acc": value} if status == "finished" else {}
    return Row(run.id, run.protocols, use.stage, use.cell, use.seed, None, status, metrics, {"val": 100})


def searched(study, value_of):
    """Plans the study again and again, with a row for each run of the search; gives the plans."""
    rows, plans = {}, []
    while True:
        plans.append(plan(study, rows))
        new = [run for run in plans[-1].runs.values() if run.id not in rows and run.first.stage == "search"]
        if not new:
            return plans
        rows |= {run.id: value_of(run) for run in new}


def dropout(run):
    return run.config["model"]["init_args"]["dropout"]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_the_cells_come_in_batches_and_the_best_one_is_trained_again(tmp_path, sampler):
    if sampler == "tpe":
        pytest.importorskip("optuna")
    study = load(tmp_path, TEXT.replace("random", sampler))
    plans = searched(study, lambda run: finished(run, 1 - abs(dropout(run) - 0.3)))
    sizes = [sum(run.first.stage == "search" for run in p.runs.values()) for p in plans]
    assert sizes == {"random": [10, 10], "tpe": [4, 8, 10, 10]}[sampler]
    waiting = [{w.stage: w.count for w in p.waiting} for p in plans]
    later = [{"search": 6, "final": 1}, {"search": 2, "final": 1}] if sampler == "tpe" else []
    assert waiting == [*later, {"final": 1}, {}]
    assert rounds_of(study) == {"random": 2, "tpe": 4}[sampler]
    runs = [run for run in plans[-1].runs.values() if run.first.stage == "search"]
    best = min(runs, key=lambda run: abs(dropout(run) - 0.3))
    (final,) = [run for run in plans[-1].runs.values() if run.first.stage == "final"]
    assert final.first.cell == best.first.cell
    assert final.config["model"] == best.config["model"]
    again = searched(study, lambda run: finished(run, 1 - abs(dropout(run) - 0.3)))
    assert list(again[-1].runs) == list(plans[-1].runs)  # the same results propose the same cells


def test_a_pruned_trial_ends_below_the_median_of_those_before_it(tmp_path):
    """The median after an epoch is of the best values so far, of the runs of earlier batches that came as far."""
    study = load(tmp_path, TEXT.replace("sampler: random", "sampler: random\n      prune_after: 2"))
    curves = {"1": [0.9, 0.1, 0.1], "2": [0.2, 0.8, 0.3], "3": [0.3, 0.4, 0.6], "4": [0.1, 0.2]}

    def ended(run):
        row = finished(run, 0.5)
        row.curves["val/acc"] = curves.get(run.first.cell["trial"], [0.5, 0.5, 0.5])
        return row

    plans = searched(study, ended)
    trials = {run.first.cell["trial"]: run.config["trainer"].get("callbacks") for run in plans[-1].runs.values()}
    assert not any(trials[number] for number in ("1", "2", "3", "4"))
    (callback,) = trials["5"]
    assert callback == trials["8"][0]
    assert callback["init_args"]["thresholds"] == [None, 0.6, None]
    assert trials["9"][0]["init_args"]["thresholds"] == [None, 0.5, 0.5]
    assert "callbacks" not in study.base["trainer"]


def test_a_run_is_compared_with_those_of_its_seed_and_fold(tmp_path):
    text = TEXT.replace("sampler: random", "sampler: random\n      prune_after: 1").replace("test: true", "test: false")
    text = text.replace(
        "  search:\n    search:", "  search:\n    folds: 2\n    result: last epoch\n    seeds: [3, 5]\n    search:"
    )
    levels = {(3, 0): 0.1, (3, 1): 0.2, (5, 0): 0.3, (5, 1): 0.4}

    def ended(run):
        use = run.first
        row = finished(run, levels[use.seed, use.fold])
        return replace(row, seed=use.seed, fold=use.fold, curves={"val/acc": [levels[use.seed, use.fold]]})

    plans = searched(load(tmp_path, text), ended)
    later = [run for run in plans[-1].runs.values() if int(run.first.cell["trial"]) > 4 and run.first.stage == "search"]
    assert len(later) == 6 * 4
    for run in later:
        (callback,) = run.config["trainer"]["callbacks"]
        assert callback["init_args"]["thresholds"] == [levels[run.first.seed, run.first.fold]]


def test_a_failed_trial_proposes_nothing_while_it_is_tried_again(tmp_path):
    pytest.importorskip("optuna")
    study = load(tmp_path, TEXT.replace("random", "tpe"))
    first = list(plan(study, {}).runs.values())
    rows = {run.id: finished(run, 0.5, "failed" if run is first[0] else "finished") for run in first}
    assert len(plan(study, rows, retried=[first[0].id]).runs) == 4
    assert len(plan(study, rows).runs) == 8


def test_what_is_known_is_shown_without_optuna(tmp_path, monkeypatch):
    study = load(tmp_path, TEXT.replace("random", "tpe"))
    cells = [{"trial": str(n + 1), "model.dropout": f"0.{n + 1}", "model.optimizer.lr": "0.01", "model.widths": "[16]",
              "data.batch_size": "32"} for n in range(4)]  # fmt: skip
    rows = {str(n): Row(str(n), ("reported",), "search", cell, 0, None, "finished") for n, cell in enumerate(cells)}
    monkeypatch.setitem(sys.modules, "optuna", None)
    known = plan(study, rows)
    assert [run.first.cell for run in known.runs.values()] == cells
    assert [entry.count for entry in known.waiting] == [6, 1]
    assert "needs Optuna" in plan(study, {}).waiting[0].reason


def test_a_run_gets_what_its_label_says(tmp_path):
    for run in plan(load(tmp_path), {}).runs.values():
        cell, model = run.first.cell, run.config["model"]["init_args"]
        assert list(cell) == ["trial", "model.dropout", "model.optimizer.lr", "model.widths", "data.batch_size"]
        assert float(cell["model.dropout"]) == model["dropout"] <= 0.6
        assert 1e-4 <= model["optimizer"]["init_args"]["lr"] == float(cell["model.optimizer.lr"]) <= 0.1
        assert model["widths"] == json.loads(cell["model.widths"])
        assert 16 <= run.config["data"]["init_args"]["batch_size"] <= 128


def test_the_estimator_improves_on_chance(tmp_path):
    pytest.importorskip("optuna")
    text = TEXT.replace("trials: 10", "trials: 40")

    def best(sampler):
        plans = searched(load(tmp_path, text.replace("random", sampler)), lambda run: finished(run, -dropout(run)))
        return sorted(dropout(run) for run in plans[-1].runs.values())[:10]

    assert sum(best("tpe")) < sum(best("random"))


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_failed_trial_is_never_the_best(tmp_path, sampler):
    if sampler == "tpe":
        pytest.importorskip("optuna")
    study = load(tmp_path, TEXT.replace("random", sampler))
    plans = searched(study, lambda run: finished(run, dropout(run), "failed" if dropout(run) > 0.3 else "finished"))
    assert [dropout(run) <= 0.3 for run in plans[-1].runs.values() if run.first.stage == "final"] == [True]


def test_proposals_of_the_estimator_depend_on_the_results_before_the_batch_alone():
    pytest.importorskip("optuna")
    search = Search({"model.dropout": Range(0, 1)}, trials=12, sampler="tpe", at_once=3)
    results = [({"model.dropout": f"0.{n}"}, value) for n, value in enumerate((0.1, 0.5, None), 1)]
    second = propose(search, range(3, 6), results, "max")
    assert propose(search, range(3, 6), results, "max") == second
    assert [cell["trial"] for cell in second] == ["4", "5", "6"]
    assert [range(0, 3), range(3, 6), range(6, 9), range(9, 12)] == search.batches()


def test_labels_stay_in_their_range_and_are_the_values():
    option = Range(1e-5, 0.99999999, log=True)
    for share in (0.0, 0.3, 0.9999999999):
        assert 1e-5 <= option.value(option.at(share)) <= 0.99999999
    assert isinstance(option.value(option.at(0.0)), float)  # not the text 1e-05
    whole = Range(1, 3, integer=True)
    counts = [whole.at(n / 300) for n in range(300)]
    assert [counts.count(label) for label in ("1", "2", "3")] == [100, 100, 100]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("trials: 10", "trials: 0", "search.trials is 0, expected a whole number of 1 or more."),
        ("at_once: 4", "prune_after: 0", "search.prune_after is 0, expected a whole number of 1 or more."),
        ("at_once: 4", "at_once: 10\n      prune_after: 1", "proposes all 10 trials at once"),
        (
            "at_once: 4",
            "by: train/acc\n      prune_after: 1",
            "has prune_after, expected by to be a metric of the validation, not train/acc.",
        ),
        (
            "      trials: 10\n      at_once: 4",
            "      trials: 10\n      prune_after: 1",
            "stages.more continues search, whose prune_after ends runs early",
        ),
        ("sampler: random", "sampler: grid", "stages.search.search.sampler is 'grid'"),
        ("low: 0, high: 0.6", "low: 1, high: 0.6", "model.dropout is from 1 to 0.6, expected a low end that is below"),
        ("low: 1.0e-4", "low: 0", "is from 0 to 0.1, expected a low end that is above 0 and below the high one."),
        ("low: 0, high: 0.6", "high: 0.6", "model.dropout has no low; give it."),
        ("high: 128", "high: 12.5", "data.batch_size is from 16 to 12.5"),
        ("low: 16, high: 128", "low: 16.5, high: 128", "expected whole numbers, since integer is true."),
        ("values: [[16], [32, 16]]", "values: [[16]]", "has values, expected two or more of them and nothing else."),
        ("low: 0, high", "lower: 0, high", "has the key lower"),
        (
            "      over:",
            "      by: test/acc\n      over:",
            "search.by is test/acc, expected a metric of the validation",
        ),
        ("    search:\n", "    grid: []\n    search:\n", "stages.search has grid and search; give only one of them."),
    ],
)
def test_each_mistake_is_one_sentence(tmp_path, old, new, sentence):
    continued = "  more: {continue: search, set: {trainer.max_epochs: 2}}\n" if "stages.more" in sentence else ""
    with pytest.raises(UserError) as refusal:
        load(tmp_path, TEXT.replace(old, new, 1) + continued)
    assert sentence in str(refusal.value)


def test_trials_of_an_earlier_space_are_not_counted(tmp_path):
    """A run of other ranges or options is no trial of this search; those that still fit stay."""
    first = searched(load(tmp_path, TEXT), lambda run: finished(run, 1 - abs(dropout(run) - 0.3)))
    rows = {run.id: finished(run, dropout(run)) for run in first[-1].runs.values()}
    known = {run.first.cell["trial"]: dropout(run) for run in first[-1].runs.values() if run.first.stage == "search"}
    (old,) = [line for line in TEXT.splitlines() if "model.dropout:" in line]
    middle = sorted(known.values())[5]
    low = old[: old.index("{")] + f"{{low: {middle}, high: 0.95}}"
    again = plan(load(tmp_path, TEXT.replace(old, low)), rows)
    cells = {run.first.cell["trial"]: dropout(run) for run in again.runs.values() if run.first.stage == "search"}
    assert all(value >= middle for value in cells.values())
    assert {number: value for number, value in known.items() if value >= middle}.items() <= cells.items()
