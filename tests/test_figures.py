"""Figures: they show the numbers of the saved predictions, are legible, and never cost a run its result."""

import csv
import itertools
import json
import math
from pathlib import Path

import matplotlib.text
import numpy as np
import pytest
import torch
from sklearn import metrics
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.fakes import write_images, write_table
from tests.test_fit import report
from visionbench.evaluation.measures import at_threshold, best_threshold, summary, threshold_curves
from visionbench.evaluation.predictions import Predictions, read_predictions, save_predictions
from visionbench.figures import run_figures
from visionbench.figures.classes import draw_classes
from visionbench.figures.curves import draw_learning_curves, draw_step_losses, draw_throughput
from visionbench.figures.figure import render
from visionbench.figures.images import describe, draw_errors, draw_samples
from visionbench.figures.network import draw_activations, draw_filters, draw_grad_cam, draw_layers
from visionbench.models import CNN, MLP, FrozenResNet, PatchMLP, WhitenedCNN
from visionbench.models.base import in_evaluation

LINE = "fit --model CNN --model.widths [4,4] --model.convs [1,1] --model.dropouts [0,0] --model.dense 8"
LINE += " --trainer.max_epochs 2 --trainer.precision 32-true"


@pytest.fixture
def cli(cli_in, tmp_path):
    """Runs draw what they draw by themselves."""
    return cli_in(tmp_path, draws=True)


RUN = Path("lightning_logs", "cnn", "version_0")


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def made_up(number, count=400, seed=0, right=0.8):
    """Predictions of which about so many are right."""
    random = np.random.RandomState(seed)
    labels = random.randint(0, number, count)
    logits = random.randn(count, number)
    logits[np.arange(count), labels] += np.where(random.rand(count) < right, 4.0, 0.0)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    names = [f"test/{n}" for n in range(count)]
    return Predictions("test", probabilities.astype(np.float32), probabilities.argmax(axis=1), labels, names)


@pytest.fixture(scope="module")
def drawn(cli_in, tmp_path_factory):
    """The folder of a run on Digits that drew everything, and what it said."""
    folder = tmp_path_factory.mktemp("drawn")
    result = cli_in(folder)(f"{LINE} --data Digits --figures all --data.augment [RandomCrop]")
    assert result.status == 0, result
    return folder / RUN, result


# The numbers


def test_the_figures_of_a_run_show_what_scikit_learn_makes_of_its_predictions(drawn):
    folder, _ = drawn
    names = tuple("0123456789")
    table = rows(folder / "predictions" / "test.csv")
    assert table[0] == ["sample", "true", "predicted", "confidence"]
    true, taken = ([names.index(row[column]) for row in table[1:]] for column in (1, 2))
    probabilities = np.load(folder / "predictions" / "test-probabilities.npy")
    assert (probabilities.argmax(axis=1) == taken).all()
    assert [float(row[3]) for row in table[1:]] == pytest.approx(probabilities.max(axis=1).tolist())
    figures = folder / "figures"

    counts = [[int(cell) for cell in row[1:]] for row in rows(figures / "test-confusion.csv")[1:]]
    assert counts == metrics.confusion_matrix(true, taken, labels=range(10)).tolist()
    shares = [[float(cell) for cell in row[1:]] for row in rows(figures / "test-confusion-shares.csv")[1:]]
    assert np.allclose(shares, metrics.confusion_matrix(true, taken, labels=range(10), normalize="true"))
    scores = np.array([[float(cell) for cell in row[1:]] for row in rows(figures / "test-scores.csv")[1:]]).T
    expected = metrics.precision_recall_fscore_support(true, taken, labels=range(10), zero_division=0)
    assert np.allclose(scores, expected)
    said = json.loads((figures / "figures.json").read_text())["test"]
    assert said["accuracy"] == metrics.accuracy_score(true, taken) == report(folder)["metrics"]["test/acc"]
    assert said["macro_f1"] == pytest.approx(metrics.f1_score(true, taken, average="macro"))
    pairs = rows(figures / "test-confused-pairs.csv")[1:]
    assert [int(row[2]) for row in pairs] == sorted((n for i, r in enumerate(counts) for j, n in enumerate(r)
                                                     if i != j and n), reverse=True)  # fmt: skip
    assert len(rows(figures / "test-errors.csv")) - 1 == sum(a != b for a, b in zip(true, taken, strict=True))


@pytest.mark.fast
def test_calibration_is_the_mean_distance_of_confidence_and_accuracy():
    said = made_up(10)
    bins = np.minimum(np.ceil(said.confidence.astype(float) * 15) - 1, 14)
    right = said.predicted == said.labels
    error = sum(
        (bins == n).mean() * abs(right[bins == n].mean() - said.confidence[bins == n].astype(float).mean())
        for n in np.unique(bins)
    )
    found = summary(said, [str(n) for n in range(10)])
    assert found["expected_calibration_error"] == pytest.approx(error)
    assert found["interval"][0] < found["accuracy"] < found["interval"][1]


@pytest.mark.fast
def test_two_classes_have_curves_over_thresholds_as_scikit_learn_draws_them():
    said = made_up(2)
    curves = threshold_curves(said)
    score = said.probabilities[:, 1]
    assert curves["auc"] == metrics.roc_auc_score(said.labels, score)
    figures = {figure.name: figure for figure in draw_classes(said, ["a", "b"], 0.3)}
    assert {"test-roc", "test-precision-recall"} <= set(figures)
    area = metrics.auc(*np.array([row[1:] for row in figures["test-roc"].rows]).T)
    assert area == pytest.approx(curves["auc"])
    here = at_threshold(said, 0.3)
    assert here["recall"] == metrics.recall_score(said.labels, score >= 0.3)
    assert here["precision"] == metrics.precision_score(said.labels, score >= 0.3)
    best = best_threshold(said)
    tried = [metrics.f1_score(said.labels, score >= value) for value in np.unique(score)]
    assert metrics.f1_score(said.labels, score >= best) == pytest.approx(max(tried))


def test_the_threshold_is_chosen_on_validation_images_alone(cli, tmp_path):
    line = f"{LINE} --data tests.fakes.Pairs --data.val_size 10 --data.batch_size 8 --model.loss binary_cross_entropy"
    assert cli(line).status == 0
    said = json.loads((tmp_path / RUN / "figures" / "figures.json").read_text())
    val = read_predictions(tmp_path / RUN / "predictions", "val", ("a", "b"))
    assert said["test"]["at_threshold"]["threshold"] == best_threshold(val)
    assert (tmp_path / RUN / "figures" / "test-roc.svg").is_file()


@pytest.mark.fast
def test_predictions_read_back_as_they_were(tmp_path):
    said = made_up(3)
    save_predictions(tmp_path, said, ("a", "b", "c"))
    again = read_predictions(tmp_path, "test", ("a", "b", "c"))
    assert (again.probabilities == said.probabilities).all()
    assert (again.predicted == said.predicted).all()
    assert (again.labels == said.labels).all()
    assert again.names == said.names
    assert read_predictions(tmp_path, "val", ("a", "b", "c")) is None


@pytest.mark.fast
def test_predictions_of_oddly_named_samples_read_back(tmp_path):
    names, classes = ["a\rb", "c\nd", 'e"f', "g,h", "\r\n"], ("x\ry", 'z"')
    labels = np.array([0, 1, 0, 1, 0])
    save_predictions(tmp_path, Predictions("test", np.eye(2, dtype=np.float32)[labels], labels, labels, names), classes)
    again = read_predictions(tmp_path, "test", classes)
    assert again.names == names
    assert (again.labels == labels).all()
    assert b"\r\n" not in (tmp_path / "test.csv").read_bytes().replace(b'"\r\n"', b"")


def test_the_saved_validation_is_that_of_the_best_epoch(cli, tmp_path):
    assert cli(f"{LINE} --data Digits --model.optimizer.lr 0.03 --trainer.max_epochs 5 --figures final").status == 0
    best = report(tmp_path / RUN)["best_epoch"]
    val = read_predictions(tmp_path / RUN / "predictions", "val", tuple("0123456789"))
    epochs = rows(tmp_path / RUN / "metrics.csv")
    assert float(epochs[best + 1][epochs[0].index("val/acc")]) == (val.predicted == val.labels).mean()


# A run


def test_a_run_draws_what_it_was_asked_for(drawn):
    folder, result = drawn
    there = {path.name for path in (folder / "figures").iterdir()}
    said = json.loads((folder / "figures" / "figures.json").read_text())
    assert said["failed"] == {}
    for name in said["figures"]:
        assert {name, f"{Path(name).stem}.csv"} <= there
    stages = {f"{stage}-{name}" for stage in ("train", "test") for name in ("confusion.png", "reliability.svg")}
    others = {"learning-curves.svg", "step-losses.svg", "throughput.svg", "network.png", "first-filters.png"}
    assert stages | others | {"activations.png", "grad-cam.png", "test-errors.png", "test-samples.png"} <= there
    assert "val-confusion.png" in there
    assert f"figures     {len(said['figures'])} in lightning_logs/cnn/version_0/figures (" in result.out
    assert not [name for name in there if name.startswith(".")]
    untrained = rows(folder / "figures" / "learning-curves.csv")[1]
    assert untrained[0] == "0"
    assert float(untrained[5]) < 0.3
    content = json.loads((folder / "before-training.json").read_text())
    assert set(content) == {"before/loss", "before/acc"}


def test_tensorboard_shows_the_figures_and_the_configuration(drawn):
    folder, _ = drawn
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    images = events.Tags()["images"]
    assert {"figures/test-confusion", "figures/learning-curves", "figures/grad-cam"} <= set(images)
    assert all(tag.startswith("figures/") for tag in images)
    assert len(events.Images("figures/val-confusion")) == 2  # after each validation
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "class_path: visionbench.models.CNN" in text or "CNN" in text


@pytest.mark.parametrize(("options", "name"), [("--figures none", "none"), ("", "final")])
def test_what_is_drawn_does_not_change_the_run(drawn, cli, tmp_path, options, name):
    folder, _ = drawn
    result = cli(f"{LINE} --data Digits {options} --data.augment [RandomCrop]")
    assert result.status == 0
    ours, theirs = report(tmp_path / RUN), report(folder)
    assert ours["weights_digest"] == theirs["weights_digest"]
    assert ours["config_digest"] == theirs["config_digest"]
    assert ours["metrics"] == theirs["metrics"]
    assert (tmp_path / RUN / "metrics.csv").read_bytes() == (folder / "metrics.csv").read_bytes()
    assert (tmp_path / RUN / "figures").exists() is (name == "final")
    assert ("figures" in result.out) is (name == "final")
    assert (tmp_path / RUN / "predictions" / "test.csv").is_file()


def test_a_figure_that_fails_is_told_of_and_costs_nothing(cli, tmp_path, monkeypatch):
    def fail(*arguments):
        raise ValueError("too steep")

    monkeypatch.setattr(run_figures, "draw_learning_curves", fail)
    result = cli(f"{LINE} --data Digits")
    assert result.status == 0
    assert "            learning-curves could not be drawn (ValueError: too steep)" in result.out
    assert json.loads((tmp_path / RUN / "figures" / "figures.json").read_text())["failed"] != {}
    assert (tmp_path / RUN / "figures" / "test-confusion.png").is_file()
    assert (tmp_path / RUN / "run.json").is_file()


def test_layers_and_channels_are_chosen_by_name(cli, tmp_path):
    sentence = cli(f"{LINE} --data Digits --figure_layers [blocks.9]").refusal()
    assert sentence.startswith("figure_layers names 'blocks.9', but CNN has no such layer; its convolutions are blocks")
    assert not (tmp_path / "lightning_logs").exists()
    assert cli(f"{LINE} --data Digits --figure_layers [blocks.1.1] --figure_channels [3,0]").status == 0
    table = rows(tmp_path / RUN / "figures" / "activations.csv")
    assert [row[:2] for row in table[1:]] == [["blocks.1.1", "3"], ["blocks.1.1", "0"]]


def test_a_table_has_the_figures_that_need_no_image(cli, tmp_path):
    write_table(tmp_path / "source", {"train": 60, "test": 20})
    line = "fit --model MLP --model.widths [8] --data Table --data.source source --data.target kind"
    assert cli(f"{line} --trainer.max_epochs 1").status == 0
    there = {path.name for path in (tmp_path / "lightning_logs/mlp/version_0/figures").iterdir()}
    assert {"test-confusion.png", "network.png"} <= there
    assert not {"test-errors.png", "test-samples.png", "first-filters.png"} & there


def test_without_a_test_the_validation_is_drawn(cli, tmp_path):
    assert cli(f"{LINE} --data Digits --data.test_size 0").status == 0
    there = {path.name for path in (tmp_path / RUN / "figures").iterdir()}
    assert {"val-confusion.png", "val-errors.png", "grad-cam.png"} <= there
    assert not (tmp_path / RUN / "predictions" / "test.csv").exists()


def test_samples_of_a_folder_are_called_by_their_files(cli, tmp_path):
    write_images(tmp_path / "photos", {f"{s}/{c}": n for s, n in [("train", 9), ("test", 3)] for c in ("cat", "dog")})
    line = "fit --model MLP --model.widths [8] --data ImageFolder --data.source photos --data.size 8"
    assert cli(f"{line} --data.val_size 4 --trainer.max_epochs 1").status == 0
    table = rows(tmp_path / "lightning_logs/mlp/version_0/predictions/test.csv")
    assert [row[0] for row in table[1:]] == [f"test/{c}/0{n}.png" for c in ("cat", "dog") for n in range(3)]


# Legible


class Words:
    """Notes the place of each text instead of drawing its letters, which would take half of the time."""

    def __init__(self, monkeypatch):
        self.drawn = []

        def note(text, renderer):
            if text.get_visible() and text.get_text().strip():
                self.drawn.append((text.get_text(), text.get_window_extent(renderer)))

        monkeypatch.setattr(matplotlib.text.Text, "draw", note)

    def overlapping(self, canvas):
        """Pairs of texts that lie on one another, and texts that are cut off."""
        render(canvas)
        self.drawn.clear()
        render(canvas)  # in its final layout
        width, height = canvas.canvas.get_width_height()
        boxes = [(text, box.x0 + 1, box.y0 + 1, box.x1 - 1, box.y1 - 1) for text, box in self.drawn]
        assert boxes
        found = [text for text, a, b, c, d in boxes if a < -2 or b < -2 or c > width + 2 or d > height + 2]
        for (text, a, b, c, d), (other, e, f, g, h) in itertools.combinations(boxes, 2):
            if a < g and e < c and b < h and f < d:
                found.append((text, other))
        return found


@pytest.fixture
def words(monkeypatch):
    return Words(monkeypatch)


NAMES = {
    "short": lambda n: [str(k) for k in range(n)],
    "long": lambda n: [f"Long $name$ of a class number {k}, with\nmany words in it" for k in range(n)],
}


@pytest.mark.parametrize("names", list(NAMES))
@pytest.mark.parametrize("number", [2, 10, 40, 200])
def test_no_words_lie_on_one_another(words, number, names):
    said = made_up(number, count=1000, right=0.6)
    class_names = NAMES[names](number)
    pictures = np.random.RandomState(0).randint(0, 256, (len(said), 9, 8, 3)).astype(np.uint8)
    figures = [
        *draw_classes(said, class_names, 0.41),
        draw_errors(said, class_names, lambda places: pictures[places]),
        draw_samples(said, class_names, lambda places: pictures[places]),
    ]
    for figure in figures:
        assert words.overlapping(figure.canvas) == [], figure.name


def epochs(count, lr=0.1, factor=0.5, every=3):
    return [
        {
            "epoch": n,
            "step": n,
            "lr": lr * factor ** (n // every),
            "train/loss": 1 / (n + 1),
            "train/acc": n / count,
            "val/loss": 2 / (n + 1),
            "val/acc": n / (count + 1),
        }
        for n in range(count)
    ]


@pytest.mark.fast
@pytest.mark.parametrize(("count", "every"), [(1, 3), (15, 3), (15, 1), (200, 60)])
def test_no_words_of_a_curve_lie_on_one_another(words, count, every):
    before = {"val/loss": 2.3, "val/acc": 0.1}
    losses = np.linspace(3, 0.1, count * 40).astype(np.float32)
    for figure in (
        draw_learning_curves(epochs(count, every=every), count // 2, before),
        draw_step_losses(losses, 40, 25, 1000),
        draw_throughput([(n, 1000, 0.5 + n % 3) for n in range(count)], "image"),
    ):
        assert words.overlapping(figure.canvas) == [], figure.name


@pytest.mark.fast
def test_the_untrained_model_does_not_squeeze_the_curves():
    limits = []
    for before in (None, {"val/loss": 50.0, "train/loss": 40.0, "val/acc": 0.5}):
        canvas = draw_learning_curves(epochs(10), 5, before).canvas
        limits.append([axes.get_ylim() for axes in canvas.axes])
    assert limits[0] == limits[1]
    labels = canvas.axes[0].get_legend_handles_labels()[1]
    assert {"validation, untrained: 50", "training, untrained: 40"} <= set(labels)
    assert "validation, untrained" in canvas.axes[1].get_legend_handles_labels()[1]  # it lies among the curves


@pytest.mark.fast
def test_a_caption_tells_the_predicted_class_from_the_true_one():
    probabilities = np.array([[0.0, 1.0], [0.25, 0.75]], dtype=np.float32)
    two = Predictions("test", probabilities, np.array([1, 1]), np.array([0, 1]), ["test/0", "test/1"])
    assert describe(two, ["T-shirt/top", "Dress"], 0) == "test/0\npredicted Dress (100.0 %)\ntrue T-shirt/top"
    assert describe(two, ["T-shirt/top", "Dress"], 1) == "test/1\npredicted Dress (75.0 %)\ntrue Dress"


@pytest.mark.fast
def test_the_time_for_figures_is_a_share_only_of_a_long_training(tmp_path):
    figures = run_figures.RunFigures(tmp_path, None, None, print)
    figures.seconds = 6.0
    assert list(figures.lines(59.0)) == [f"figures     0 in {tmp_path} (6.0 s)"]
    assert list(figures.lines(600.0)) == [f"figures     0 in {tmp_path} (6.0 s, 1.0 % of the training time)"]


# Unusual runs


@pytest.mark.fast
def test_a_run_without_a_wrong_prediction_is_drawn(words):
    said = made_up(3, right=1.1)
    perfect = Predictions("test", said.probabilities, said.labels, said.labels, said.names)
    pictures = np.zeros((len(said), 5, 5, 1), dtype=np.uint8)
    for figure in [*draw_classes(perfect, "abc"), draw_errors(perfect, "abc", lambda places: pictures[places])]:
        assert words.overlapping(figure.canvas) == [], figure.name
    assert summary(perfect, "abc")["most_confused"] == []


def test_a_run_that_diverges_before_an_epoch_is_finished_draws_nothing(cli, tmp_path):
    result = cli(f"{LINE} --data Digits --model.optimizer SGD --model.optimizer.lr 1e30 --figures all")
    assert result.status == 1
    assert report(tmp_path / RUN)["status"] == "diverged"  # which is not tested
    assert not (tmp_path / RUN / "figures" / "figures.json").exists()


@pytest.mark.fast
def test_a_class_without_a_sample_has_no_share():
    said = made_up(3)
    chosen = said.labels < 2
    some = Predictions("test", said.probabilities[chosen], said.predicted[chosen], said.labels[chosen], said.names)
    figures = {figure.name: figure for figure in draw_classes(some, "abc")}
    assert figures["test-confusion-shares"].rows[2] == ["c", "", "", ""]
    assert [row[0] for row in figures["test-accuracy"].rows] == ["all", "a", "b"]


@pytest.mark.fast
def test_a_score_that_a_class_does_not_have_is_in_no_mean():
    """Of c there is a prediction but no sample, and of d neither."""
    labels, predicted = np.array([0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 2])
    said = Predictions("test", np.full((5, 4), 0.25, np.float32), predicted, labels, list("vwxyz"))
    scores = {figure.name: figure for figure in draw_classes(said, "abcd")}["test-scores"]
    assert scores.rows[2:] == [["c", 0, "", 0, 0], ["d", "", "", "", 0]]
    means = {
        "precision": metrics.precision_score(labels, predicted, average="macro", zero_division=0),
        "recall": metrics.recall_score(labels, predicted, labels=[0, 1], average="macro"),  # the balanced accuracy
        "F1": metrics.f1_score(labels, predicted, average="macro"),
    }
    (legend,) = scores.canvas.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"{k} (mean {v:.3f})" for k, v in means.items()]
    points = [line.get_xdata() for line in scores.canvas.axes[0].lines]
    assert [np.isfinite(values).tolist() for values in points] == [[True] * n + [False] * (4 - n) for n in (3, 2, 3)]
    assert summary(said, "abcd")["macro_f1"] == pytest.approx(means["F1"])


def test_where_no_epoch_has_a_value_of_the_objective_none_is_marked(cli, tmp_path):
    """One validation sample is of one class, so that there is no AUC."""
    line = f"{LINE} --data tests.fakes.Pairs --data.val_size 1 --metrics [auc] --objective.metric val/auc"
    assert cli(line).status == 0
    assert report(tmp_path / RUN)["result"] == "last"
    assert "best, " not in (tmp_path / RUN / "figures" / "learning-curves.svg").read_text()
    assert cli(f"report {RUN} --output page.html").status == 0
    reason = "The last epoch, since val/auc was not a number after any epoch; nothing was chosen."
    assert reason in (tmp_path / "page.html").read_text()


# The network


MODELS = {
    "CNN": lambda shape: CNN(4, shape),
    "MLP": lambda shape: MLP(4, shape),
    "PatchMLP": lambda shape: PatchMLP(4, shape, patch_size=7),
    "FrozenResNet": lambda shape: FrozenResNet(4, shape, weights="none", min_size=32),
    "WhitenedCNN": lambda shape: WhitenedCNN(4, shape, widths=[8, 16]),
}


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 28, 28)])
@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_shows_its_layers_and_what_it_looks_at(words, name, shape):
    torch.manual_seed(0)
    model = MODELS[name](shape)
    model.prepare_start(load=False)
    images = torch.randn(3, *shape)
    pictures = np.zeros((3, 28, 28, shape[0]), dtype=np.uint8)
    with in_evaluation(model):
        layers, operations = draw_layers(model, images[:1])
        total = sum(parameter.numel() for parameter in model.parameters())
        assert layers.rows[-1][3] == total == sum(row[3] for row in layers.rows[:-1])
        assert operations > total
        drawn = [layers, draw_filters(model, shape)]
        if name in ("CNN", "FrozenResNet", "WhitenedCNN"):
            drawn.append(draw_activations(model, images[:1], pictures[0], "test/0", [], []))
            cam = draw_grad_cam(model, images, pictures, ["x"] * 3, ["x"] * 3)
            assert max(row[3] for row in cam.rows) > 0
            drawn.append(cam)
        else:
            assert draw_activations(model, images[:1], pictures[0], "test/0", [], []) is None
            assert draw_grad_cam(model, images, pictures, ["x"] * 3, ["x"] * 3) is None
    for figure in filter(None, drawn):
        assert words.overlapping(figure.canvas) == [], figure.name


@pytest.mark.fast
def test_operations_are_two_for_each_multiplication():
    model = MLP(10, (1, 28, 28), widths=[5])
    assert draw_layers(model, torch.zeros(1, 1, 28, 28))[1] == 2 * (784 * 5 + 5 * 10)


@pytest.mark.fast
def test_grad_cam_points_at_what_decides():
    # The network's last maps are the image itself; the head looks at one corner for class 0, at another for class 1.
    model = CNN(2, (1, 8, 8), widths=[1], convs=[1], dropouts=[0.0], pool=1, dense=0, batch_norm=False)
    with torch.no_grad():
        convolution, head = model.network.blocks[0][0], model.network.head
        convolution.weight.zero_()
        convolution.weight[0, 0, 1, 1] = 1
        convolution.bias.zero_()
        head.weight.zero_()
        head.bias.zero_()
        head.weight[0] = 0.1
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 6, 1] = 1
    with in_evaluation(model):
        cam = draw_grad_cam(model, image, np.zeros((1, 8, 8, 1), dtype=np.uint8), ["x"], ["x"])
    assert cam.rows[0][1:3] == [6, 1]


@pytest.mark.fast
def test_step_losses_are_means_of_all_batches_at_the_samples_seen():
    losses = np.arange(1003, dtype=np.float32)
    figure = draw_step_losses(losses, 100, 10, 995)  # the last batch of an epoch holds five
    assert figure.rows[0] == [30, 1.0]
    assert figure.rows[33][0] == 995 + 2 * 10
    assert figure.rows[-1] == [9950 + 30, 1002.0]
    assert not any(math.isnan(value) for _, value in figure.rows)
