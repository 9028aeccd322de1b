"""Verdicts on printed values: their order, their rates of error, and their sentences."""

import math

import numpy as np
import pytest

from visionbench.errors import UserError
from visionbench.evaluation.intervals import wilson_interval
from visionbench.studies.statistics import Spread, pooled_spread
from visionbench.studies.verdicts import judge, printed_range, summary_sentence, worse

pytestmark = pytest.mark.fast

RUNS = [87.4, 87.9, 87.6, 88.1, 87.5]  # mean 87.7, sd 0.2915; t with 4 degrees of freedom 2.776: 87.7 ± 0.887
CHANGED = {"defect": "double_softmax", "defect_sentence": "softmax is applied twice"}


def verdict(printed, values=RUNS, spread=None, tolerance=1.0, asked_seeds=5, **others):
    return judge(printed, values, spread, tolerance, asked_seeds=asked_seeds, **others)


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("48", (47.5, 48.5)),
        ("97.80", (97.795, 97.805)),
        ("1.7", (1.65, 1.75)),
        ("0.0568", (0.05675, 0.05685)),
        ("-0.5", (-0.55, -0.45)),
        (" 92 ", (91.5, 92.5)),
        ("1.5e-3", (0.00145, 0.00155)),
    ],
)
def test_a_printed_value_stands_for_half_a_unit_of_its_last_digit_either_way(printed, expected):
    assert printed_range(printed) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("printed", ["", "about 89", "89,1", "nan", "inf", "96 %"])
def test_a_printed_value_that_is_no_number_is_refused(printed):
    with pytest.raises(UserError, match="is not a number"):
        verdict(printed)


# Order


def test_fewer_seeds_than_asked_are_incomplete_whatever_else_holds():
    found = verdict("95.00", RUNS[:4], **CHANGED)
    assert found.sentence == "incomplete: 4 of 5 seeds have finished"
    assert verdict("95.00", []).sentence == "incomplete: 0 of 5 seeds have finished"
    assert verdict("2.31", [2.3, math.nan], asked_seeds=2, unit="").kind == "incomplete"


def test_a_measure_that_a_defect_changes_is_not_compared_even_if_the_numbers_agree():
    found = verdict("87.70", **CHANGED)
    assert found.kind == "not comparable"
    assert "double_softmax" in found.sentence
    assert "softmax is applied twice" in found.sentence


def test_fewer_than_four_degrees_of_freedom_decide_nothing():
    far = verdict("20.00", RUNS[:4], asked_seeds=4)
    assert (far.kind, far.degrees_of_freedom) == ("inconclusive", 3)
    assert "3 degrees of freedom, 4 are needed" in far.sentence
    assert verdict("20.00", RUNS, Spread(0.29, 4, pooled=True)).kind == "not reproduced"
    once = verdict("87.00", [87.0], Spread(None, 0, pooled=False), asked_seeds=1)
    assert (once.kind, once.interval) == ("inconclusive", None)


def test_a_value_that_other_samples_may_explain_is_not_called_wrong():
    """Half the interval is 0.887 points; that of two cuts of 1,000 samples hypot(0.887, 1.96 * 1.406) = 2.90."""
    assert verdict("90.00", items=1000).kind == "not reproduced"
    found = verdict("90.00", items=1000, is_cut=True)
    assert found.sentence == (
        "inconclusive: 90.00 was printed, one more run would lie between 86.81 and 88.59 on the same 1,000 samples, "
        "but those of the report are others, which alone may change it by 2.8 points"
    )
    assert verdict("91.00", items=1000, is_cut=True).kind == "not reproduced"
    assert verdict("88.00", items=1000, is_cut=True).kind == verdict("88.00", items=1000).kind == "reproduced"


def test_values_of_another_cut_are_rarely_called_wrong():
    """95 % on 360 samples, of which each cut has its own share of hard ones; trainings differ by 0.3 points."""
    random = np.random.default_rng(0)
    found = {True: [], False: []}
    for _ in range(1000):
        ours, theirs = 100 * random.binomial(360, 0.95, 2) / 360
        values = random.normal(ours, 0.3, 5).tolist()
        for is_cut, kinds_found in found.items():
            printed = f"{random.normal(theirs, 0.3):.2f}"
            kinds_found.append(verdict(printed, values, items=360, is_cut=is_cut).kind == "not reproduced")
    assert np.mean(found[False]) > 0.4
    assert np.mean(found[True]) < 0.07


def test_outside_is_not_reproduced_however_wide():
    wide = [70.0, 80.0, 75.0, 85.0, 78.0]
    assert verdict("20.00", wide, tolerance=0.1).kind == "not reproduced"
    assert verdict("80.00", wide, tolerance=0.1).kind == "inconclusive"


def test_the_tolerance_is_for_half_the_width():
    assert verdict("87.70", tolerance=0.89).kind == "reproduced"
    assert verdict("87.70", tolerance=0.88).kind == "inconclusive"


def test_the_interval_and_what_it_is_from():
    found = verdict("87.70")
    half = 2.776445 * np.std(RUNS, ddof=1) * math.sqrt(1.2)
    assert found.interval == pytest.approx((87.7 - half, 87.7 + half), rel=1e-6)
    assert (found.mean, found.n, found.degrees_of_freedom, found.printed) == (pytest.approx(87.7), 5, 4, "87.70")
    assert found.sd == pytest.approx(np.std(RUNS, ddof=1))


def test_half_a_unit_of_the_last_digit_can_decide():
    # The interval ends at 88.587.
    assert [verdict(printed).kind for printed in ("89.0", "89", "88.6", "88.60")] == [
        "not reproduced",
        "reproduced",  # 88.5 to 89.5
        "reproduced",
        "not reproduced",
    ]


def test_few_test_samples_widen_the_tolerance():
    values = [15.0, 20.0, 17.1, 18.6, 16.4]  # ± 5.9
    assert verdict("17.86", values).kind == "inconclusive"
    found = verdict("17.86", values, items=140)
    low, high = wilson_interval(round(np.mean(values) / 100 * 140), 140)
    assert (found.kind, found.tolerance) == ("reproduced", pytest.approx(50 * (high - low)))
    wide = verdict("17.86", [10.0, 25.0, 17.1, 21.6, 14.4], items=140)
    assert wide.kind == "inconclusive"
    assert "half the interval of an accuracy on 140 samples" in wide.sentence
    assert verdict("87.70", tolerance=0.5, items=10_000).kind == "inconclusive"  # Wilson: 0.64


def test_an_illegible_value_is_not_judged():
    assert verdict("-").kind == "not judged"


# Equal runs


def test_equal_runs_meet_the_printed_value_at_its_rounding():
    found = verdict("48", [47.5] * 5, tolerance=1.0)
    assert found.sentence == "reproduced: 48 was printed, all 5 runs gave 47.5 (48 stands for 47.5 to 48.5)"
    assert verdict("58", [100 * 0.575] * 5).kind == "reproduced"  # 57.49999999999999
    assert verdict("55", [100 * 0.555] * 5).kind == "reproduced"  # 55.50000000000001
    assert verdict("48", [95 / 200 * 100] * 5, pooled_spread({"a": [47.5] * 5, "b": [47.5] * 5})["a"]).kind == (
        "reproduced"
    )


def test_equal_runs_elsewhere_do_not_reproduce_the_printed_value():
    assert verdict("49", [47.5] * 5).sentence == "not reproduced: 49 was printed, all 5 runs gave 47.5"
    assert verdict("48.0", [47.5] * 5).kind == "not reproduced"


def test_equal_runs_of_too_few_seeds_decide_nothing():
    assert verdict("48", [47.5] * 3, asked_seeds=3).kind == "inconclusive"


# Rates of error, over simulated tables


def kinds(tables, cells=8, shift=0.0, seeds=5, runs_of_first=5):
    """Shares of the verdicts on a cell whose printed value is one more run, shifted by some standard deviations."""
    rng = np.random.default_rng(7)
    found = []
    for _ in range(tables):
        table = dict(enumerate(rng.normal(88, 0.4, (cells, seeds))))
        table[0] = table[0][:runs_of_first]
        printed = f"{rng.normal(88 + 0.4 * shift, 0.4):.2f}"
        found.append(verdict(printed, table[0], pooled_spread(table)[0], tolerance=2.0, asked_seeds=runs_of_first).kind)
    return {kind: found.count(kind) / tables for kind in ("reproduced", "not reproduced", "inconclusive")}


@pytest.mark.slow
@pytest.mark.parametrize("table", [{}, {"cells": 1}, {"runs_of_first": 1}, {"seeds": 3, "runs_of_first": 3}])
def test_one_more_run_of_the_same_distribution_is_rejected_in_5_percent(table):
    assert kinds(2000, **table)["not reproduced"] == pytest.approx(0.05, abs=0.015)  # three standard errors


@pytest.mark.parametrize("runs_of_first", [5, 1])
def test_one_more_run_is_mostly_reproduced(runs_of_first):
    assert kinds(200, runs_of_first=runs_of_first)["reproduced"] >= 0.9


def test_a_shift_of_three_standard_deviations_is_mostly_found():
    assert kinds(200, shift=3)["not reproduced"] >= 0.65  # 0.76 in 2,000 tables
    assert kinds(200, shift=3, runs_of_first=1)["not reproduced"] >= 0.4  # 0.52
    assert kinds(200, shift=5, runs_of_first=1)["not reproduced"] >= 0.85  # 0.93


# Sentences


def test_sentences_name_the_printed_value_and_the_interval():
    assert verdict("89.69").sentence == (
        "not reproduced: 89.69 was printed, one more run would lie between 86.81 and 88.59"
    )
    assert verdict("87.57").sentence == "reproduced: 87.57 was printed, one more run would lie between 86.81 and 88.59"
    assert verdict("87.57", tolerance=0.5).sentence == (
        "inconclusive: 87.57 was printed, one more run would lie between 86.81 and 88.59: ± 0.887 is wider than the "
        "tolerance of 0.5 points; no number of seeds makes it so narrow"
    )


def test_losses_have_no_points_and_enough_digits():
    found = verdict("0.06", [0.0701, 0.0702, 0.0703, 0.0702, 0.0701], tolerance=0.01, unit="")
    assert found.sentence == "not reproduced: 0.06 was printed, one more run would lie between 0.06993 and 0.07043"
    times = verdict("700", [1.0, 1.0, 1.0, 1.0, 400.0], tolerance=10, unit="s")
    assert times.sentence == "not reproduced: 700 was printed, one more run would lie between 0 and 624"
    wide = verdict("0.07", [0.05, 0.09, 0.07, 0.06, 0.08], tolerance=0.01, unit="")
    assert wide.sentence.endswith("is wider than the tolerance of 0.01; no number of seeds makes it so narrow")


@pytest.mark.parametrize("printed", ["88.59", "88.6", "89"])
def test_a_value_that_only_its_rounding_brings_inside_says_so(printed):
    found = verdict(printed)
    assert found.kind == "reproduced"
    assert f"({printed} stands for" in found.sentence


# Comparison with recorded verdicts


def test_verdicts_from_best_to_worst():
    order = ["reproduced", "inconclusive", "not reproduced"]
    for place, old in enumerate(order):
        assert [worse(old, new) for new in order] == [number > place for number in range(3)]


def test_a_value_that_is_no_longer_judged_is_worse_than_reproduced_alone():
    for new in ("not comparable", "not judged"):
        assert worse("reproduced", new)
        assert not worse("inconclusive", new)
        assert not worse("not reproduced", new)
        assert worse(new, "not reproduced")
        assert not worse(new, "reproduced")


def test_an_incomplete_verdict_is_not_compared():
    for kind in ("reproduced", "not reproduced", "inconclusive", "not comparable", "not judged", "incomplete"):
        assert not worse(kind, "incomplete")
        assert not worse("incomplete", kind)


def test_an_unknown_verdict_is_refused():
    with pytest.raises(UserError, match="no verdict 'fine'"):
        worse("fine", "reproduced")


# Counts


def several(**counts):
    examples = {
        "reproduced": verdict("87.70"),
        "wrong": verdict("20.00"),
        "open": verdict("87.70", tolerance=0.1),
        "changed": verdict("87.70", **CHANGED),
        "incomplete": verdict("87.70", []),
        "illegible": verdict("-"),
    }
    return [examples[kind] for kind, count in counts.items() for _ in range(count)]


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        (
            {"reproduced": 14, "wrong": 1, "open": 1},
            "14 of 16 judged values are reproduced, 1 is not, 1 is inconclusive",
        ),
        ({"reproduced": 16}, "all 16 judged values are reproduced"),
        ({"reproduced": 1}, "the judged value is reproduced"),
        ({"reproduced": 1, "wrong": 2}, "1 of 3 judged values is reproduced, 2 are not"),
        ({"wrong": 2}, "none of 2 judged values is reproduced, 2 are not"),
        ({"wrong": 1}, "the judged value is not reproduced"),
        ({"open": 1}, "the judged value is inconclusive"),
        (
            {"reproduced": 2, "changed": 3, "incomplete": 1},
            "both judged values are reproduced; of the others, 3 are not comparable, 1 is incomplete",
        ),
        ({"incomplete": 4, "illegible": 1}, "no value has a verdict, 4 are incomplete, 1 is not judged"),
        ({}, "no value has a verdict"),
    ],
)
def test_the_counts_in_one_sentence(counts, sentence):
    assert summary_sentence(several(**counts)) == sentence


def test_no_accuracy_above_100_percent_is_named():
    verdict = judge("100", [100.0, 96.3, 100.0, 100.0, 100.0], None, 9, asked_seeds=5)
    assert verdict.interval[1] > 100
    assert "would lie between 94 and 100" in verdict.sentence
    loss = judge("100", [100.0, 96.3, 100.0, 100.0, 100.0], None, 9, asked_seeds=5, unit="")
    assert "and 104" in loss.sentence
