"""Texts of accuracies with their intervals."""

import pytest

from visionbench.evaluation.intervals import MIN_SAMPLES, accuracy_text, wilson_interval
from visionbench.text import as_percent


@pytest.mark.parametrize("count", [1, MIN_SAMPLES - 1])
def test_very_few_samples_have_counts_and_no_interval(count):
    assert accuracy_text(1, count, "images") == f"1 of {count} correct (too few for an interval)"


@pytest.mark.parametrize("count", range(10, 200))
def test_an_interval_lies_between_0_and_1(count):
    assert wilson_interval(0, count)[0] >= 0
    assert wilson_interval(count, count)[1] <= 1


def test_an_accuracy_has_its_wilson_interval():
    # Wilson, 2 of 10: (0.2 + 0.19207) / (1 + 0.38415), plus and minus 0.22658.
    assert accuracy_text(2, 10, "10 images") == "20.00 %  (95 % interval 5.67 to 50.98, 10 images)"


@pytest.mark.parametrize(
    ("correct", "count", "text"),
    [
        (978, 1000, "97.80 %"),
        (9_999, 10_000, "99.99 %"),
        (59_999, 60_000, "99.998 %"),
        (1, 60_000, "0.002 %"),
        (60_000, 60_000, "100.00 %"),
        (0, 60_000, "0.00 %"),
    ],
)
def test_a_share_looks_like_none_or_all_only_where_it_is(correct, count, text):
    assert as_percent(correct / count) == text
    assert accuracy_text(correct, count, "images").startswith(f"{text}  (95 % interval")
