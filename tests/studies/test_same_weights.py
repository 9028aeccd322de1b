"""Options and seeds without an effect are found by the weights that runs end with."""

from dataclasses import replace

import pytest

from visionbench.studies.expand import plan
from visionbench.studies.report_comparison import best_cells, single_lines
from visionbench.studies.report_contents import Contents
from visionbench.studies.report_figures import tests_of_axes as axis_table  # no test of its own
from visionbench.studies.results import Row
from visionbench.studies.same_weights import same_weights
from visionbench.studies.spec import load_study
from visionbench.studies.tables import distinct

pytestmark = pytest.mark.fast


def row(cell, seed, weights, stage="all", **changes):
    run = Row(f"{cell}{seed}{stage}", ("reported",), stage, {"width": cell, "rate": "1"}, seed, None, "finished")
    return replace(run, weights_digest=weights, **changes)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row("a", 0, "1"), row("b", 0, "2"), row("a", 1, "3"), row("b", 1, "4")],
        [row("a", 0, "1"), row("b", 0, "1", status="failed")],
        [row("a", 0, ""), row("b", 0, "")],
        [row("a", 0, "1"), row("b", 0, "1", stage="final")],
        [row("a", 0, "1"), row("b", 0, "1", fold=1)],
        [row("a", 0, "1"), row("b", 0, "1", protocols=("corrected",))],
    ],
)
def test_runs_that_may_be_the_same_are_not_named(rows):
    assert same_weights(rows) == []


def test_cells_whose_options_have_no_effect_are_counted():
    rows = [row("a", 0, "1"), row("b", 0, "2"), row("c", 0, "1"), row("a", 1, "3"), row("c", 1, "3"), row("d", 0, "1")]
    assert same_weights(rows) == [
        "all: 3 cells end with the same weights as another cell, to the last bit, such as width a, rate 1 and width c, "
        "rate 1 (seed 0): the options in which they differ had no effect on the result, and such "
        "cells count once where cells are compared."
    ]


def test_seeds_without_an_effect_are_named():
    rows = [row("a", 0, "1"), row("a", 1, "1"), row("b", 0, "2"), row("b", 1, "2"), row("c", 0, "3"), row("c", 1, "4")]
    assert same_weights(rows) == [
        "all: the runs of width a, rate 1, and those of 1 more cell, end with the same weights with the seeds 0 and 1, "
        "to the last bit: the seed had no effect, so that the spread over seeds says nothing about another training."
    ]
    alone = [replace(run, cell={}) for run in rows[:2]]
    assert same_weights(alone)[0].startswith("all: the runs end with the same weights with the seeds 0 and 1, ")


TEXT = """\
title: An axis without effect
seeds: [0, 1, 2]
base: {data: Digits, model: {class_path: MLP, init_args: {widths: [8]}}, trainer: {max_epochs: 1}}
grid:
  width: {8: {model.widths: [8]}, 16: {model.widths: [16]}}
  dropout: {none: {}, some: {model.dropout: 0.3}}
  patience: {2: {early_stopping.patience: 2}, 3: {early_stopping.patience: 3}}
stages: {all: {grid: [width, dropout, patience]}}
"""


@pytest.fixture
def with_copies(tmp_path):
    """A study whose runs differ by width, dropout and seed, but not by patience."""
    path = tmp_path / "copies.yaml"
    path.write_text(TEXT)
    study = load_study(path)
    planned, rows = plan(study, {}), {}
    for run in planned.runs.values():
        use = run.first
        trained = (use.cell["width"], use.cell["dropout"], use.seed)
        value = 0.8 + 0.02 * (trained[0] == "16") + 0.003 * ((use.seed * 7 + len(trained[1]) + int(trained[0])) % 5)
        rows[run.id] = replace(
            Row(run.id, run.protocols, use.stage, use.cell, use.seed, None, "finished", {"val/acc": value}),
            weights_digest=str(trained),
            counts={"val": 144},
        )
    return Contents(study, plan(study, rows), rows, tmp_path)


def test_copies_of_runs_count_once_in_spreads(with_copies):
    accuracies = [entry for entry in with_copies.measured if entry.measure == "val/acc"]
    assert len(accuracies) == 8
    assert {entry.spread.degrees_of_freedom for entry in accuracies} == {4 * (3 - 1)}


def test_copies_of_runs_count_once_in_rankings_and_tests_of_axes(with_copies):
    text = "".join(map(str, best_cells(with_copies)))
    assert "patience 2" in text
    assert "patience 3" not in text
    table = "".join(map(str, axis_table(with_copies)))
    assert "degrees of freedom of the residual: 8." in table
    assert ">width<" in table
    assert ">patience<" not in table


def test_cells_with_other_values_or_without_runs_are_no_copies(with_copies):
    (group,) = with_copies.groups["all"]
    assert len(distinct(group.cells, "val/acc")) == 4
    for number, row in enumerate(group.cells[1].rows):
        group.cells[1].seeds[number] = [replace(row, metrics={"val/acc": 0.1 * number})]
    assert len(distinct(group.cells, "val/acc")) == 5
    for cell in group.cells:
        cell.seeds.clear()
    assert len(distinct(group.cells, "val/acc")) == 8


def test_the_value_of_a_single_cell_is_given_for_the_terminal(tmp_path):
    path = tmp_path / "one-cell.yaml"
    path.write_text(TEXT.partition("grid:")[0] + "stages: {all: {result: last epoch}}\n")
    study = load_study(path)
    planned, rows = plan(study, {}), {}
    for run in planned.runs.values():
        metrics = {"val/acc": 0.8 + 0.01 * run.first.seed}
        row = Row(run.id, run.protocols, "all", {}, run.first.seed, None, "finished", metrics, {"val": 144})
        rows[run.id] = replace(row, weights_digest=str(run.first.seed))
    (line,) = single_lines(Contents(study, plan(study, rows), rows, tmp_path))
    assert line == "all: validation accuracy 81.00 ± 1.00 over 3 seeds, 144 samples"
