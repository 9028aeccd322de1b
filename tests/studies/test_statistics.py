"""Statistics over the runs of a study, against SciPy, statsmodels, values by hand and simulations."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from visionbench.evaluation.intervals import wilson_interval
from visionbench.studies.statistics import (
    Spread,
    analysis_of_variance,
    best_and_indistinguishable,
    difference_interval,
    fold_test,
    holm,
    main_effects,
    mcnemar,
    paired_test,
    pool_folds,
    pooled_spread,
    prediction_interval,
    seeds_to_separate,
    summarize,
)

pytestmark = pytest.mark.fast

ACCURACIES = [87.57, 87.91, 87.12, 88.03, 87.44]


def by_seed(*values):
    return dict(enumerate(values))


# Summaries


def test_a_summary_is_that_of_scipy():
    summary = summarize(ACCURACIES)
    assert (summary.n, summary.mean, summary.sd) == (
        5,
        pytest.approx(87.614),
        pytest.approx(np.std(ACCURACIES, ddof=1)),
    )
    expected = stats.ttest_1samp(ACCURACIES, 0).confidence_interval(0.95)
    assert summary.t_interval == pytest.approx((expected.low, expected.high))
    expected = stats.bootstrap((ACCURACIES,), np.mean, method="BCa", rng=np.random.default_rng(0)).confidence_interval
    # Means of five drawn values lie on a grid; rounding decides between two neighbors.
    assert summary.bootstrap_interval == pytest.approx((expected.low, expected.high), abs=0.03)


def test_a_summary_is_the_same_at_each_call_and_follows_the_unit():
    assert summarize(ACCURACIES) == summarize(ACCURACIES)
    shares = summarize([value / 100 for value in ACCURACIES])
    assert shares.bootstrap_interval == pytest.approx([end / 100 for end in summarize(ACCURACIES).bootstrap_interval])


def test_a_single_value_has_no_spread():
    summary = summarize([88.0])
    assert (summary.mean, summary.sd, summary.t_interval, summary.bootstrap_interval) == (88.0, None, None, None)


@pytest.mark.parametrize("values", [[47.5] * 5, [0.1 + 0.2, 0.3], [0.0, 0.0]])
def test_equal_values_have_intervals_of_width_zero(values):
    summary = summarize(values)
    assert summary.sd == 0
    assert summary.t_interval == summary.bootstrap_interval == (summary.mean, summary.mean)


@pytest.mark.parametrize("values", [[1, 2], [1, 1, 1, 1, 2], [0, 1e-160], [1e8, 1e8 + 1]])
def test_few_and_tied_values_have_finite_intervals(values):
    summary = summarize(values)  # a warning would fail the test
    assert np.isfinite([*summary.t_interval, *summary.bootstrap_interval]).all()


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[1.0], [2.0]]])
def test_values_that_are_no_runs_are_refused(values):
    with pytest.raises(ValueError, match="finite numbers"):
        summarize(values)


# Spread


def test_the_spread_is_pooled_by_degrees_of_freedom():
    spreads = pooled_spread({"two": [1.0, 3.0], "three": [10.0, 11.0, 12.0], "one": [5.0]})
    # Squared deviations 2 and 2, degrees of freedom 1 and 2.
    assert spreads["two"] == spreads["three"] == spreads["one"]
    assert spreads["one"].sd == pytest.approx(math.sqrt(4 / 3))
    assert (spreads["one"].degrees_of_freedom, spreads["one"].pooled) == (3, True)


def test_a_cell_alone_is_not_pooled():
    assert pooled_spread({"cell": [1.0, 3.0]})["cell"] == Spread(math.sqrt(2), 1, pooled=False)


def test_single_runs_alone_have_no_spread():
    assert pooled_spread({"a": [1.0], "b": [2.0]}) == dict.fromkeys("ab", Spread(None, 0, pooled=False))


def test_constant_cells_have_spread_zero_and_count():
    assert pooled_spread({"a": [47.5] * 5, "b": [48.0] * 5, "c": [47.5]})["c"] == Spread(0.0, 8, pooled=True)


def test_a_cell_whose_spread_clearly_differs_keeps_its_own():
    rng = np.random.default_rng(0)
    groups = {cell: list(rng.normal(88, 0.3, 5)) for cell in range(8)} | {"wild": [70.0, 95.0, 62.0, 90.0, 81.0]}
    groups["once"] = [88.0]
    spreads = pooled_spread(groups)
    assert spreads["wild"] == Spread(pytest.approx(np.std(groups["wild"], ddof=1)), 4, pooled=False)
    assert spreads["once"] == spreads[0]
    assert spreads[0].degrees_of_freedom == 8 * 4
    assert spreads[0].sd < 0.5


@pytest.mark.parametrize("factor", [1, 3, 9])
def test_cells_are_set_apart_when_levenes_test_says_so_or_the_f_test_of_the_widest(factor):
    rng = np.random.default_rng(3)
    for _ in range(30):
        groups = rng.normal(0, 1, (3, 10)) * np.array([[1], [1], [factor]])
        variances = np.sort(groups.var(axis=1, ddof=1))
        far = 3 * stats.f.sf(variances[-1] / variances[:-1].mean(), 9, 18) < 0.001
        differs = far or stats.levene(*groups, center="median").pvalue < 0.05
        assert any(not spread.pooled for spread in pooled_spread(dict(enumerate(groups))).values()) == differs


def test_a_cell_with_an_outlier_does_not_widen_the_intervals_of_the_others():
    # Levene's test alone has p = 0.16 here.
    groups = {"small": [89, 89, 88.5, 89, 89], "deep": [86.5, 82, 73.5, 52.5, 82], "long": [85.5, 86, 84, 86, 83.5]}
    spreads = pooled_spread(groups)
    assert not spreads["deep"].pooled
    assert spreads["small"] == spreads["long"]
    assert spreads["small"].sd < 1


def test_two_cells_that_differ_each_keep_their_own_and_leave_none_for_a_single_run():
    groups = {"a": [1.0, 1.1, 0.9, 1.05, 0.95, 1.0], "b": [1.0, 9.0, -7.0, 5.0, -6.0, 8.0], "c": [2.0]}
    spreads = pooled_spread(groups)
    assert (spreads["a"].pooled, spreads["b"].pooled) == (False, False)
    assert spreads["c"] == Spread(None, 0, pooled=False)


def test_equal_spreads_are_rarely_taken_for_different_ones():
    rng = np.random.default_rng(1)
    tables = [pooled_spread(dict(enumerate(rng.normal(0, 1, (8, 5))))) for _ in range(300)]
    assert sum(any(not spread.pooled for spread in table.values()) for table in tables) <= 9  # 3 %


def test_the_prediction_interval_covers_one_more_run_in_95_percent():
    assert prediction_interval(87.0, 0.5, 5, 4) == pytest.approx(
        (87 - 2.776445 * 0.5 * math.sqrt(1.2), 87 + 2.776445 * 0.5 * math.sqrt(1.2))
    )
    rng = np.random.default_rng(2)
    runs = rng.normal(88, 0.4, (2000, 6))
    intervals = [prediction_interval(row[:5].mean(), row[:5].std(ddof=1), 5, 4) for row in runs]
    covered = [low <= row[5] <= high for (low, high), row in zip(intervals, runs, strict=True)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)  # three standard errors


# Comparisons


def test_the_paired_t_test_is_that_of_scipy():
    first, second = ACCURACIES, [88.0, 88.1, 87.9, 88.2, 87.6]
    test = paired_test(first, second)
    assert test.p_value == pytest.approx(stats.ttest_rel(second, first).pvalue)
    assert test.difference == pytest.approx(np.mean(second) - np.mean(first))
    assert (test.method, test.n) == ("t", 5)


@pytest.mark.parametrize("n", [2, 5, 9])
def test_the_permutation_test_is_exact(n):
    rng = np.random.default_rng(n)
    first, second = rng.normal(0, 1, n), rng.normal(1, 1, n)
    expected = stats.permutation_test(
        (second - first,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert paired_test(first, second, "permutation").p_value == pytest.approx(expected.pvalue)


def test_the_permutation_test_of_many_pairs_agrees_with_t():
    rng = np.random.default_rng(0)
    first = rng.normal(0, 1, 40)
    second = first + rng.normal(0.3, 1, 40)
    by_signs = paired_test(first, second, "permutation").p_value
    assert by_signs == pytest.approx(paired_test(first, second).p_value, abs=0.01)


def test_equal_cells_have_p_value_one():
    assert paired_test([0.1 + 0.2, 0.5], [0.3, 0.5]).p_value == 1


def test_equal_differences_do_not_prove_more_than_their_signs():
    # Each accuracy is 0.1 points better: t would be infinite, with p of 0 from three seeds.
    test = paired_test([47.4, 47.5, 47.6], [47.5, 47.6, 47.7])
    assert (test.p_value, test.method) == (0.25, "permutation")


def test_unequal_numbers_of_values_are_no_pairs():
    with pytest.raises(ValueError, match="pairs"):
        paired_test([1.0, 2.0], [1.0, 2.0, 3.0])


def test_mcnemar_counts_pairs_of_samples():
    first = np.array([True] * 80 + [True] * 15 + [False] * 4 + [False])
    second = np.array([True] * 80 + [False] * 15 + [True] * 4 + [False])
    paired = mcnemar(first, second)
    assert (paired.both, paired.only_first, paired.only_second, paired.neither) == (80, 15, 4, 1)
    assert paired.p_value == pytest.approx(stats.binomtest(4, 19).pvalue)


def test_mcnemar_takes_truth_values_alone():
    with pytest.raises(ValueError, match="truth values"):
        mcnemar([1, 0], [1, 1])


def test_holm_by_hand():
    # In order 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1, each at least the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_holm_is_that_of_statsmodels():
    p_values = [0.02, 0.3, 0.02, 0.7, 0.0, 1.0, 0.01]
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


# The best cell


def test_the_best_cell_and_those_it_cannot_be_told_from():
    cells = {
        "far": by_seed(80.0, 81.0, 80.4, 80.9, 80.2),
        "near": by_seed(88.0, 88.9, 88.1, 88.8, 88.4),
        "best": by_seed(88.1, 88.8, 88.3, 88.9, 88.3),
    }
    found = best_and_indistinguishable(cells, "max")
    assert (found.best, found.ties, found.undecided) == ("best", ("near",), ())
    by_scipy = [
        stats.ttest_rel(list(cells["best"].values()), list(cells[other].values())).pvalue for other in ("far", "near")
    ]
    assert [found.p_values["far"], found.p_values["near"]] == pytest.approx(holm(by_scipy))
    assert best_and_indistinguishable(cells, "min").best == "far"
    assert best_and_indistinguishable(cells, "min").ties == ()


def test_cells_are_compared_on_the_seeds_they_share():
    cells = {"a": {0: 90.0, 1: 91.0, 2: 95.0}, "b": {1: 90.5, 2: 93.0, 7: 10.0}}
    found = best_and_indistinguishable(cells, "max")
    assert found.p_values["b"] == pytest.approx(stats.ttest_rel([91.0, 95.0], [90.5, 93.0]).pvalue)


def test_cells_with_one_seed_are_undecided_without_a_spread():
    found = best_and_indistinguishable({"a": by_seed(90.0), "b": by_seed(80.0)}, "max")
    assert (found.best, found.ties, found.undecided, found.p_values) == ("a", (), ("b",), {})
    alone = pooled_spread({"a": [90.0], "b": [80.0]})  # with nothing to pool
    assert best_and_indistinguishable({"a": by_seed(90.0), "b": by_seed(80.0)}, "max", alone).undecided == ("b",)


def test_cells_with_one_seed_are_compared_by_the_pooled_spread():
    cells = {"a": by_seed(90.0), "b": by_seed(89.8), "c": by_seed(80.0)}
    found = best_and_indistinguishable(cells, "max", dict.fromkeys(cells, Spread(0.5, 20, pooled=True)))
    assert (found.ties, found.undecided) == (("b",), ())
    assert found.p_values["b"] == pytest.approx(2 * stats.t.sf(0.2 / (0.5 * math.sqrt(2)), 20))


def test_cells_with_different_spreads_are_compared_by_welchs_test():
    rng = np.random.default_rng(0)
    first, second = rng.normal(90, 0.3, 6), rng.normal(85, 4, 5)
    cells = {"a": dict(zip(range(6), first, strict=True)), "b": dict(zip(range(10, 15), second, strict=True))}
    spreads = {key: Spread(float(np.std(v, ddof=1)), len(v) - 1, False) for key, v in (("a", first), ("b", second))}
    found = best_and_indistinguishable(cells, "max", spreads)
    assert found.p_values["b"] == pytest.approx(stats.ttest_ind(first, second, equal_var=False).pvalue)


def test_a_truly_best_cell_is_rarely_left_out():
    rng = np.random.default_rng(4)
    left_out = 0
    for _ in range(150):
        values = rng.normal(0, 1, (4, 5)) + rng.normal(0, 1, 5)
        found = best_and_indistinguishable({cell: by_seed(*row) for cell, row in enumerate(values)}, "max")
        left_out += 0 not in {found.best, *found.ties}
    assert left_out <= 9  # 6 %; about 2 % are expected


# Seeds


def test_the_further_seeds_give_the_power_and_one_fewer_does_not():
    first, second = [0.0, 0.3, -0.2, 0.1], [0.4, 0.2, 0.3, 0.6]
    more = seeds_to_separate(first, second)
    differences = np.subtract(second, first)
    size = differences.mean() / differences.std(ddof=1)
    powers = [TTestPower().power(size, nobs=4 + seeds, alpha=0.05) for seeds in (more - 1, more)]
    assert powers[0] < 0.8 <= powers[1]


def test_the_number_of_seeds_by_simulation():
    n = 1 + seeds_to_separate([0.0], [1.0], sd=1.0)
    assert n == 10  # as tables of the paired t-test say
    rng = np.random.default_rng(0)
    pairs = rng.normal(1, 1, (2000, n))
    assert (stats.ttest_1samp(pairs, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.03)


def test_no_number_of_seeds_where_nothing_differs_or_no_spread_is_known():
    assert seeds_to_separate([1.0, 2.0], [2.0, 1.0]) is None
    assert seeds_to_separate([1.0], [2.0]) is None
    assert seeds_to_separate([0.0], [1e-9], sd=1.0) is None


def test_enough_seeds_need_no_further_ones():
    assert seeds_to_separate([0.0, 0.1, 0.2, 0.1], [9.0, 9.2, 9.1, 9.0]) == 0
    assert seeds_to_separate([47.4, 47.5, 47.6], [47.5, 47.6, 47.7]) == 0
    assert seeds_to_separate([0.0, 1e-9], [1.0, 1.0]) == 0
    assert seeds_to_separate([47.4], [47.5], sd=0.0) == 1


# Main effects


def grid(**axes):
    return [dict(zip(axes, labels, strict=True)) for labels in itertools.product(*axes.values())]


def test_effects_of_a_balanced_grid_are_plain_means():
    cells = grid(optimizer=["Adam", "SGD"], dropout=["0", "0.2", "0.5"])
    values = [90.0, 91.0, 89.0, 85.0, 86.5, 83.0]
    effects = main_effects(list(zip(cells, values, strict=True)))
    assert {label: effect.mean for label, effect in effects["optimizer"].items()} == pytest.approx(
        {"Adam": 90.0, "SGD": 254.5 / 3}
    )
    assert effects["dropout"]["0.5"].mean == pytest.approx(86)
    assert (effects["dropout"]["0.5"].n, effects["dropout"]["0.5"].adjusted) == (2, True)


def test_intervals_of_effects_are_those_of_the_linear_model():
    rng = np.random.default_rng(0)
    cells = grid(a=["x", "y"], b=["1", "2", "3"]) * 2
    rows = [(cell, float(rng.normal(90, 1))) for cell in cells][:-3]  # three combinations once
    effects = main_effects(rows)
    # The same model with dummy columns; the mean of label x with each label of b weighted alike.
    design = np.array([[1.0, c["a"] == "y", c["b"] == "2", c["b"] == "3"] for c, _ in rows], dtype=float)
    reference = OLS(np.array([value for _, value in rows]), design).fit().t_test(np.array([1, 0, 1 / 3, 1 / 3]))
    assert effects["a"]["x"].mean == pytest.approx(reference.effect[0])
    assert effects["a"]["x"].interval == pytest.approx(tuple(reference.conf_int()[0]))


def test_a_label_is_not_credited_with_its_combinations():
    # Adam is 5 better than SGD and dropout costs 10; Adam mostly ran with dropout.
    truth = {("Adam", "no"): 90.0, ("Adam", "yes"): 80.0, ("SGD", "no"): 85.0, ("SGD", "yes"): 75.0}
    labels = [("Adam", "no")] + [("Adam", "yes")] * 4 + [("SGD", "no")] * 4 + [("SGD", "yes")]
    rows = [({"optimizer": one, "dropout": other}, truth[one, other]) for one, other in labels]
    effects = main_effects(rows)["optimizer"]
    assert {label: effect.mean for label, effect in effects.items()} == pytest.approx({"Adam": 85, "SGD": 80})
    assert effects["Adam"].interval == pytest.approx((85, 85))


def test_axes_that_always_change_together_have_plain_means():
    rows = [({"a": label, "b": label}, value) for label, value in (("x", 1.0), ("x", 2.0), ("y", 5.0))]
    effect = main_effects(rows)["a"]["x"]
    assert (effect.mean, effect.adjusted) == (pytest.approx(1.5), False)


def test_a_table_without_spare_runs_has_effects_without_intervals():
    effects = main_effects([({"a": "x"}, 1.0), ({"a": "y"}, 2.0)])
    assert (effects["a"]["y"].mean, effects["a"]["y"].interval) == (pytest.approx(2.0), None)
    assert main_effects([]) == {}


@pytest.mark.parametrize("left_out", [(), (3, 11), (0, 1, 16, 20, 35)], ids=["balanced", "unbalanced", "more"])
def test_the_analysis_of_variance_is_that_of_statsmodels(left_out):
    import pandas
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm
    from statsmodels.stats.multitest import multipletests

    noise = np.random.default_rng(0).normal(0, 0.4, 36)
    cells = [{"w": w, "d": d, "r": r} for w in "abc" for d in "xy" for r in "pq" for _ in range(3)]
    effect = {"a": 0.0, "b": 0.3, "c": 0.9, "x": 0.0, "y": -0.5, "p": 0.0, "q": 0.0}
    rows = [
        (cell, sum(effect[label] for label in cell.values()) + 0.8 * (cell["w"] + cell["d"] == "cy") + noise[n])
        for n, cell in enumerate(cells)
        if n not in left_out
    ]
    frame = pandas.DataFrame([{**cell, "value": value} for cell, value in rows])
    expected = anova_lm(ols("value ~ C(w) + C(d) + C(r) + C(w):C(d) + C(w):C(r) + C(d):C(r)", frame).fit(), typ=2)
    sources, degrees = analysis_of_variance(rows)
    assert degrees == expected["df"].iloc[-1]
    assert [" x ".join(source.axes) for source in sources] == ["w", "d", "r", "w x d", "w x r", "d x r"]
    assert [source.degrees for source in sources] == list(expected["df"][:-1])
    assert [source.f for source in sources] == pytest.approx(list(expected["F"][:-1]), rel=1e-6)
    corrected = multipletests(expected["PR(>F)"][:-1], method="holm")[1]
    assert [source.p_value for source in sources] == pytest.approx(list(corrected), rel=1e-6)


def test_in_half_of_a_grid_each_axis_is_tested_beside_the_other_axes():
    noise = np.random.default_rng(0).normal(0, 0.1, 12)
    cells = [{"a": str(a), "b": str(b), "c": str(a ^ b)} for a in (0, 1) for b in (0, 1) for _ in range(3)]
    rows = [(cell, float(cell["a"]) + value) for cell, value in zip(cells, noise, strict=True)]
    sources, degrees = analysis_of_variance(rows)  # each axis has the same columns as the interaction of the others
    assert ([source.axes for source in sources], degrees) == ([("a",), ("b",), ("c",)], 8)
    assert sources[0].p_value < 1e-6 < 0.05 < sources[1].p_value


@pytest.mark.parametrize(
    ("values", "degrees"), [([1, 2, 3, 4], 0), ([1, 1, 2, 2, 3, 3, 4, 4], 4)], ids=["one run a cell", "no spread"]
)
def test_without_a_residual_nothing_is_tested(values, degrees):
    cells = [{"a": a, "b": b} for a in "xy" for b in "pq" for _ in range(len(values) // 4)]
    assert analysis_of_variance(list(zip(cells, values, strict=True))) == ([], degrees)
    assert analysis_of_variance([]) == ([], 0)


def test_rows_of_different_tables_are_refused():
    with pytest.raises(ValueError, match="same axes"):
        main_effects([({"a": "x"}, 1.0), ({"b": "x"}, 1.0)])


# Folds


def test_folds_that_share_training_samples_are_no_independent_values():
    first, second = [0.90, 0.92, 0.91, 0.94, 0.93], [0.93, 0.94, 0.95, 0.95, 0.97]
    differences = np.subtract(second, first)
    statistic = differences.mean() / np.sqrt((1 / 5 + 1 / 4) * differences.var(ddof=1))
    assert fold_test(first, second) == pytest.approx(2 * stats.t.sf(statistic, 4))
    assert fold_test(second, first) == fold_test(first, second) > stats.ttest_rel(first, second).pvalue


def test_a_small_training_set_beside_the_fold_makes_a_difference_less_clear():
    first, second = [0.90, 0.92, 0.91, 0.94, 0.93], [0.93, 0.94, 0.95, 0.95, 0.97]
    differences = np.subtract(second, first)
    statistic = differences.mean() / np.sqrt((1 / 5 + 200 / 100) * differences.var(ddof=1))
    assert fold_test(first, second, 200 / 100) == pytest.approx(2 * stats.t.sf(statistic, 4))
    assert fold_test(first, second, 1 / 4) == fold_test(first, second)


def test_the_best_mean_is_not_better_than_a_cell_that_beats_it_on_the_same_seeds():
    cells = {"more": {0: 80.0, 1: 80.1, **dict.fromkeys(range(2, 10), 95.0)}, "other": {0: 81.0, 1: 81.2}}
    found = best_and_indistinguishable(cells, "max")
    assert (found.best, found.ties) == ("more", ("other",))


def test_equal_folds_differ_by_nothing_or_for_certain():
    assert fold_test([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]) == 1
    # As the permutation of signs: three folds that all differ alike are no proof.
    assert fold_test([0.1, 0.2, 0.3], [0.2, 0.3, 0.4]) == 0.25
    with pytest.raises(ValueError, match="two or more folds"):
        fold_test([0.1], [0.2])


def test_the_difference_of_pairs_has_the_interval_of_the_t_test():
    first, second = [1.0, 2.0, 4.0], [2.0, 2.5, 6.0]
    interval = stats.ttest_rel(second, first).confidence_interval(0.95)
    assert difference_interval(first, second) == pytest.approx((interval.low, interval.high))


def test_folds_are_pooled_to_one_interval():
    pooled = pool_folds([(1, 1)] * 26 + [(0, 1)])
    assert (pooled.correct, pooled.n, pooled.accuracy) == (26, 27, pytest.approx(26 / 27))
    assert pooled.interval == wilson_interval(26, 27)


def test_larger_folds_count_more():
    assert pool_folds([(10, 10), (0, 30)]).accuracy == 0.25


def test_no_folds_are_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        pool_folds([])
