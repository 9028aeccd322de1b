"""Figures of studies: they hold the numbers of all seeds, and are legible with few cells and with many."""

import csv
import itertools
import math

import numpy as np
import pytest

from tests.test_figures import Words
from visionbench.figures.studies import (
    Panel,
    Series,
    draw_effects,
    draw_loss_and_accuracies,
    draw_panels,
    gradient,
    title_room,
    vector,
)
from visionbench.figures.study_matrices import draw_image_grid, draw_matrices
from visionbench.figures.verdicts import LOOKS, VerdictRow, draw_verdicts
from visionbench.studies.statistics import main_effects

pytestmark = pytest.mark.fast


@pytest.fixture
def words(monkeypatch):
    return Words(monkeypatch)


def series(label="training", seeds=3, epochs=5, level=50.0, color="C0"):
    values = level + np.arange(epochs) + np.arange(seeds)[:, np.newaxis]
    return Series(label, np.arange(1, epochs + 1, dtype=float), values, color)


def panels(count, unit="accuracy, %", name="width 16, Adam"):
    return [Panel(f"{name} {n}", [series(), series("validation", color="C1", level=60)], unit) for n in range(count)]


def text_of(figure):
    return [text.get_text() for axes in figure.canvas.axes for text in axes.texts]


# Curves


def test_the_band_goes_from_the_lowest_to_the_highest_seed():
    values = np.array([[10.0, 20.0], [40.0, np.nan], [25.0, 30.0]])
    figure = draw_panels("curves", [Panel("cell", [Series("training", np.array([1.0, 2.0]), values, "C0")], "loss")], 1)
    assert figure.columns == ["panel", "line", "epoch", "mean", "lowest", "highest"]
    assert figure.rows == [["cell", "training", 1.0, 25.0, 10.0, 40.0], ["cell", "training", 2.0, 25.0, 20.0, 30.0]]
    (band,) = [c for c in figure.canvas.axes[0].collections if type(c).__name__ == "PolyCollection"]
    (corners,) = band.get_paths()
    edges = {round(x, 6): [y for other, y in corners.vertices if round(other, 6) == round(x, 6)] for x, _ in
             corners.vertices}  # fmt: skip
    heights = [max(ends) - min(ends) for ends in edges.values()]
    assert heights[0] == pytest.approx(3 * heights[1])  # 10 to 40, and 20 to 30


def test_one_seed_has_no_band_and_an_epoch_without_values_no_point():
    alone = Series("training", np.array([1.0, 2.0, 3.0]), np.array([[1.0, np.nan, 3.0]]), "C0")
    figure = draw_panels("curves", [Panel("cell", [alone], "loss")], 1)
    assert not [c for c in figure.canvas.axes[0].collections if type(c).__name__ == "PolyCollection"]
    assert [row[3:] for row in figure.rows] == [[1.0, 1.0, 1.0], ["", "", ""], [3.0, 3.0, 3.0]]
    (line,) = [line for line in figure.canvas.axes[0].lines if line.get_color() == "C0"]
    assert len(line.get_xdata()) == 2


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (9, 3), (12, 4), (37, 6)])
def test_no_words_of_small_multiples_lie_on_one_another(words, count, columns):
    figure = draw_panels("curves", panels(count), columns, height=1.0 if count > 30 else 1.5)
    assert words.overlapping(figure.canvas) == []
    assert figure.is_curve is (count <= 30)  # many panels are smaller as pixels


def test_panels_of_two_units_have_their_own_numbers(words):
    both = [*panels(1, "loss"), *panels(1)]
    figure = draw_panels("curves", both, 2, width=8.6, height=2.4)
    assert words.overlapping(figure.canvas) == []
    assert {"loss", "accuracy, %"} <= set(text_of(figure))


def test_a_loss_over_thirty_decades_has_few_numbers(words):
    huge = Series("training", np.array([1.0, 2.0]), np.array([[0.5, 1e30], [0.7, 1e29]]), "C0")
    figure = draw_panels("curves", [Panel("diverges", [huge], "loss")], 1)
    assert words.overlapping(figure.canvas) == []


def test_titles_that_fit_are_not_cut(words):
    room = title_room(9.0, 6)
    names = ["x" * room, "y" * (room + 1)]
    figure = draw_panels("curves", [Panel(name, [series()], "loss") for name in names] * 3, 6, height=1.0)
    titles = [text for text in text_of(figure) if text[:1] in "xy" and len(text) > 5]
    assert titles[0] == names[0]
    assert "..." in titles[1]
    assert words.overlapping(figure.canvas) == []


def test_published_values_are_marked_and_named():
    figure = draw_panels("lines", [Panel("", [series("8")], "accuracy, %", [(2.0, 60.0, "C0")])], 1)
    (legend,) = figure.canvas.legends
    assert [text.get_text() for text in legend.get_texts()] == ["8", "published"]
    assert len([line for line in figure.canvas.axes[0].lines if line.get_marker() == "x"]) == 2  # on a white one


def test_a_cell_without_values_says_so():
    assert "no value" in text_of(draw_panels("curves", [Panel("empty", [], "loss")], 1))


def test_dollar_signs_are_no_formula():
    figure = draw_panels("curves", [Panel("$x_1$", [series("$a$"), series("b")], "loss", across="$r$")], 1)
    assert r"\$x_1\$" in text_of(figure)
    assert r"\$r\$" in text_of(figure)
    assert [text.get_text() for text in figure.canvas.legends[0].get_texts()] == [r"\$a\$", "b"]


def test_loss_and_accuracies_are_in_one_diagram(words):
    losses = [series("training loss", level=1.0), series("validation loss", level=2.0, color="C1")]
    accuracies = [series("training accuracy"), series("validation accuracy", color="C1")]
    figure = draw_loss_and_accuracies("both", "cell", losses, accuracies)
    assert words.overlapping(figure.canvas) == []
    left, right = figure.canvas.axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("loss", "accuracy, %")
    assert {row[0] for row in figure.rows} == {line.label for line in [*losses, *accuracies]}


def test_vectors_are_the_same_each_time_and_as_large_as_they_say():
    content, width, height = vector(draw_panels("curves", panels(2), 2, width=6.0, height=3.0))
    assert content == vector(draw_panels("curves", panels(2), 2, width=6.0, height=3.0))[0]
    assert width == 576
    assert f'viewBox="0 0 {width * 0.75:g} '.encode() in content
    assert height > 288


def test_ordered_lines_go_from_light_to_dark():
    brightness = [sum(color[:3]) for color in gradient(5, ordered=True)]
    assert all(light > dark for light, dark in itertools.pairwise(brightness))
    assert len(set(gradient(5, ordered=False))) == 5


# Main effects


def effects(axes, level=80.0):
    rows = [({}, level)]
    for axis, labels in axes.items():
        rows = [({**cell, axis: label}, value + n) for cell, value in rows for n, label in enumerate(labels)]
    return main_effects([(cell, value + seed) for cell, value in rows for seed in (0.0, 0.5)])


@pytest.mark.parametrize(
    "axes",
    [
        {"width": ["8", "16"], "dropout": ["0", "0.5"]},
        {"network": ["a long label", "another long label"], "a long name of an axis": ["a", "b"]},
        {f"axis {n}": [f"label {k}" for k in range(4)] for n in range(3)},
    ],
)
def test_no_words_of_main_effects_lie_on_one_another(words, axes):
    both = {"reported": effects(axes), "corrected": effects(axes, 90.0)}
    figure = draw_effects("effects", {"accuracy, %": both, "seconds": both}, {"reported": "C0", "corrected": "C1"})
    turned = {"a long label", "another...label"}  # their boxes overlap, but not their letters
    assert [found for found in words.overlapping(figure.canvas) if set(found) != turned] == []
    assert len(figure.rows) == 4 * sum(map(len, axes.values()))


def test_main_effects_hold_the_means_with_their_intervals():
    found = effects({"width": ["8", "16"], "dropout": ["0", "0.5"]})
    figure = draw_effects("effects", {"accuracy, %": {"reported": found}}, {"reported": "C0"})
    assert figure.columns == ["measure", "protocol", "axis", "label", "mean", "low", "high", "runs"]
    row = figure.rows[0]
    assert row[:4] == ["accuracy, %", "reported", "width", "8"]
    assert row[4] == pytest.approx(80.75)
    assert row[5:7] == pytest.approx(found["width"]["8"].interval)
    assert row[7] == 4


def test_no_accuracy_is_drawn_above_100_and_no_time_below_0():
    wild = main_effects([({"a": a, "b": b}, 99.0 * (a == b)) for a in "xy" for b in "xy"])
    figure = draw_effects("effects", {"accuracy, %": {"r": wild}, "seconds": {"r": wild}}, {"r": "C0"})
    (low, high), *_, (least, _) = [axes.get_ylim() for axes in figure.canvas.axes]
    assert (low, least) == (0.0, 0.0)
    assert high <= 101


# Matrices and images


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (("0", "1"), 9),
        (("alpha", "beta", "gamma"), 1),
        (tuple("0123456789"), 4),
        (tuple(f"a class of name {n}" for n in range(24)), 2),
    ],
)
def test_no_words_of_matrices_lie_on_one_another(words, names, count):
    counts = np.eye(len(names), dtype=int) * 9 + 1
    figure = draw_matrices("confusion", [(f"cell {n}: training", counts) for n in range(count)], names, 6)
    assert words.overlapping(figure.canvas) == []


def test_matrices_show_shares_and_hold_counts():
    figure = draw_matrices("confusion", [("train", np.array([[3, 1], [0, 4]])), ("test", np.array([[1, 199], [2, 0]]))],
                           ("a", "b"), 2)  # fmt: skip
    assert figure.rows == [["train", "a", 3, 1], ["train", "b", 0, 4], ["test", "a", 1, 199], ["test", "b", 2, 0]]
    train, test = figure.canvas.axes
    assert [axes.get_title() for axes in (train, test)] == ["train", "test"]
    assert [text.get_text() for text in train.texts] == ["75", "25", "100"]
    assert [text.get_text() for text in test.texts] == ["100", "100"]  # half a percent has a color alone


def test_a_class_without_samples_has_no_share():
    figure = draw_matrices("confusion", [("test", np.array([[0, 0], [1, 1]]))], ("a", "b"), 1)
    assert [text.get_text() for text in figure.canvas.axes[0].texts] == ["50", "50"]


def test_no_words_of_a_grid_of_images_lie_on_one_another(words, tmp_path):
    images = list(np.random.RandomState(0).randint(0, 256, (20, 8, 9, 1)).astype(np.uint8))
    captions = [("predicted a long...name\ntrue another...long name", "red")] * 20
    figure = draw_image_grid("samples", "Predictions", images, captions, 5)
    assert words.overlapping(figure.canvas) == []
    figure.save(tmp_path)
    with (tmp_path / "samples.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) == 21


def test_the_last_row_of_small_multiples_may_be_short():
    figure = draw_panels("curves", panels(5), 3)
    assert text_of(figure).count("epoch") == 3
    assert math.isclose(figure.canvas.get_size_inches()[0], 9.0)


# Verdicts


@pytest.mark.parametrize("count", [1, 8, 45])
def test_verdicts_are_legible(words, count):
    kinds = list(LOOKS)
    rows = [
        VerdictRow(
            f"A cell of a long name, number {n}, epoch {n}", 80.0, (79.5, 80.5), 80.0 + (-1) ** n * n, (79, 82), kind
        )
        for n, kind in zip(range(count), itertools.cycle(kinds))
    ]
    losses = [VerdictRow("loss", 1.5, (1.45, 1.55), None, None, "incomplete")]
    figure = draw_verdicts("A title", {"points": (rows, 5.0), "training loss": (losses, 1.0)})
    assert words.overlapping(figure.canvas) == []
    assert len(figure.rows) == count + 1


def test_a_mean_outside_of_the_picture_is_an_arrow_with_its_distance():
    row = VerdictRow("cell", 80.0, (79.5, 80.5), 60.0, (59.0, 61.0), "not reproduced")
    figure = draw_verdicts("A title", {"points": ([row], 5.0)})
    assert text_of(figure) == ["\N{LEFTWARDS ARROW} \N{MINUS SIGN}20"]
