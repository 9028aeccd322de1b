"""Options and seeds without an effect are found by the weights that runs end with."""

from dataclasses import replace

import pytest

from visionbench.studies.results import Row
from visionbench.studies.same_weights import same_weights

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
        "rate 1 (seed 0): the options in which they differ had no effect on the result."
    ]


def test_seeds_without_an_effect_are_named():
    rows = [row("a", 0, "1"), row("a", 1, "1"), row("b", 0, "2"), row("b", 1, "2"), row("c", 0, "3"), row("c", 1, "4")]
    assert same_weights(rows) == [
        "all: the runs of width a, rate 1, and those of 1 more cell, end with the same weights with the seeds 0 and 1, "
        "to the last bit: the seed had no effect, so that the spread over seeds says nothing about another training."
    ]
    alone = [replace(run, cell={}) for run in rows[:2]]
    assert same_weights(alone)[0].startswith("all: the runs end with the same weights with the seeds 0 and 1, ")
