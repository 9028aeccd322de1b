"""`visionbench report`: what stands on the page, of whatever runs."""

import base64
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml

from visionbench.evaluation.intervals import wilson_interval
from visionbench.evaluation.paired import Paired, disagreements, pair, reordered
from visionbench.evaluation.predictions import Predictions, save_predictions

NAMES = ("cat", "dog", "eel")
VOID = {"img", "meta", "link", "br"}


class Page(HTMLParser):
    """A page's text, its elements, and what a browser would load for it; fails where elements do not nest."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    def loaded(self) -> list[str]:
        """All addresses in the page besides those within it."""
        names = ("src", "href", "srcset", "action", "data", "poster")
        found = [a[name] or "" for _, a in self.elements for name in names if name in a]
        styles = [a.get("style") or "" for _, a in self.elements]
        found += re.findall(r"url\((.*?)\)|@import (.*?);", " ".join([*styles, self.source]))
        return [address for address in found if not str(address).startswith(("data:", "#"))]

    def images(self) -> dict[str, bytes]:
        """The content of each picture by its alternative text."""
        sources = [(a["alt"], a["src"]) for tag, a in self.elements if tag == "img"]
        return {str(alt): base64.b64decode(str(src).partition(",")[2]) for alt, src in sources}


def run_folder(
    folder: Path,
    *,
    predicted: list[int] | None = None,
    labels: list[int] | None = None,
    names: list[str] | None = None,
    class_names: tuple[str, ...] = NAMES,
    stage: str = "test",
    shape: tuple[int, ...] = (3, 5, 7),
    finished: bool = True,
    kept: bool = True,
    data_class: str = "nets.Gone",
    losses: tuple[float, float] = (0.9, 0.5),
    **config: object,
) -> Path:
    """Writes what a run leaves, without figures, checkpoints and data; by default it was right on 4 of 6 samples."""
    folder.mkdir(parents=True)
    truth = np.array([0, 1, 2, 0, 1, 2] if labels is None else labels)
    said = np.array([0, 1, 2, 0, 2, 1] if predicted is None else predicted)
    settings = {
        "seed_everything": 0,
        "trainer": {"max_epochs": 2, "precision": "32-true"},
        "model": {"class_path": "nets.Own", "init_args": {"loss": "cross_entropy", "lr_scheduler": None}},
        "data": {"class_path": "nets.Gone", "init_args": {"root": str(folder / "nowhere"), "batch_size": 4}},
        "objective": {"metric": "val/loss", "mode": None},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings | config))
    input_description = {
        "data": data_class,
        "title": "Animals",
        "class_names": list(class_names),
        "input_shape": list(shape),
    }
    (folder / "input.json").write_text(json.dumps(input_description))
    first, last = losses
    (folder / "metrics.csv").write_text(
        "epoch,step,lr,train/loss,train/acc,val/loss,val/acc\n"
        f"0,3,0.1,{first},0.5,{first},0.5\n1,6,0.1,{last},0.7,{last},0.75\n"
    )
    if finished:
        accuracy = float(np.mean(truth == said))
        final = last if np.isfinite(last) else None
        metrics = {"val/loss": final, "val/acc": 0.75, "train/loss": final, "train/acc": 0.7}
        if stage == "test":
            metrics |= {"test/loss": final, "test/acc": accuracy}
        report = {"seed": 0, "epochs": 2, "best_epoch": 1, "seconds": 65.2, "parameters": 1234, "metrics": metrics}
        report |= {
            "device": "cpu, 1 thread",
            "precision": "32-true",
            "data_digest": "0" * 64,
            "versions": {"torch": "2"},
        }
        (folder / "run.json").write_text(json.dumps(report))
    if kept:
        probabilities = np.full((len(said), len(class_names)), 0.1, dtype=np.float32)
        probabilities[np.arange(len(said)), said] = np.linspace(0.5, 0.9, len(said))
        called = names if names is not None else [f"{stage}/{n}" for n in range(len(said))]
        save_predictions(folder / "predictions", Predictions(stage, probabilities, said, truth, called), class_names)
    return folder


def predictions(predicted: list[int], labels: list[int], names: str) -> Predictions:
    return Predictions("test", np.full((len(labels), 3), 1 / 3), np.array(predicted), np.array(labels), list(names))


def test_exact_mcnemar_is_twice_the_smaller_tail():
    # Of 14 samples that one alone gets right, 2 or fewer are the first's: (1 + 14 + 91) / 2 ** 14, and as many at the
    # other end.
    assert Paired(36, 2, 12, 0).p_value == pytest.approx(2 * 106 / 2**14, rel=1e-12)
    assert Paired(36, 12, 2, 0).p_value == pytest.approx(2 * 106 / 2**14, rel=1e-12)
    assert Paired(10, 3, 3, 1).p_value == 1.0
    assert Paired(10, 0, 0, 1).p_value == 1.0


def test_the_interval_of_the_difference_is_the_published_one():
    # Newcombe 1998, the table's first example: 36, 12, 2 and 0 of 50; method 10 gives 0.0569 to 0.3404.
    paired = Paired(36, 2, 12, 0)
    assert paired.difference == pytest.approx(0.2)
    assert paired.interval() == pytest.approx((0.0569, 0.3404), abs=5e-5)
    low, high = Paired(36, 12, 2, 0).interval()
    assert (low, high) == pytest.approx((-0.3404, -0.0569), abs=5e-5)


def test_the_interval_is_narrower_where_the_models_agree_beyond_chance():
    # 40 and 10 on the diagonal, 3 and 7 beside it: phi is (40 * 10 - 3 * 7 - 60 / 2) / sqrt(43 * 17 * 47 * 13).
    phi = 349 / (43 * 17 * 47 * 13) ** 0.5
    (first_low, first_high), (low, high) = wilson_interval(43, 60), wilson_interval(47, 60)
    below, above = 47 / 60 - low, first_high - 43 / 60
    expected = 4 / 60 - (below**2 - 2 * phi * below * above + above**2) ** 0.5
    assert Paired(40, 3, 7, 10).interval()[0] == pytest.approx(expected, rel=1e-12)
    below, above = 43 / 60 - first_low, high - 47 / 60
    expected = 4 / 60 + (below**2 - 2 * phi * below * above + above**2) ** 0.5
    assert Paired(40, 3, 7, 10).interval()[1] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("counts", [(5, 0, 0, 0), (0, 0, 0, 5), (0, 5, 0, 0), (3, 0, 0, 2)])
def test_the_interval_holds_the_difference_at_every_edge(counts):
    paired = Paired(*counts)
    low, high = paired.interval()
    assert low <= paired.difference <= high


def test_pairs_are_counted_sample_by_sample():
    first = predictions([0, 1, 0, 0, 1], [0, 1, 2, 0, 1], "abcde")  # right, right, wrong, right, right
    second = predictions([0, 0, 2, 1, 0], [0, 1, 2, 0, 1], "abcde")  # right, wrong, right, wrong, wrong
    assert pair(first, second) == Paired(1, 3, 1, 0)
    assert disagreements(first, second).tolist() == [1, 3, 4]
    assert disagreements(second, first).tolist() == [2]


def test_samples_are_paired_by_name_and_only_where_labels_agree():
    first = predictions([0, 1, 2], [0, 1, 2], "abc")
    turned = reordered(first, predictions([2, 0, 0], [2, 0, 1], "cab"))
    assert turned is not None
    assert turned.predicted.tolist() == [0, 0, 2]
    assert reordered(first, predictions([0, 1, 2], [0, 1, 1], "abc")) is None
    assert reordered(first, predictions([0, 1, 2], [0, 1, 2], "abd")) is None
    assert reordered(first, predictions([0, 1], [0, 1], "ab")) is None
    assert reordered(first, predictions([0, 1, 2], [0, 1, 2], "aab")) is None


def test_a_trained_run_is_one_file_with_all_its_figures(cli_in, tmp_path):
    cli = cli_in(tmp_path, draws=True)
    line = (
        "fit --model MLP --model.widths [8] --data Digits --trainer.max_epochs 1 --trainer.accelerator cpu --name tiny"
    )
    assert cli(line).status == 0
    run = Path("lightning_logs/tiny/version_0")
    result = cli(f"report {run}")
    assert (result.status, result.err) == (0, "")
    assert re.fullmatch(rf"report      {run}/report.html \(\d+ kB\)\n", result.out)
    page = Page(tmp_path / run / "report.html")
    assert page.loaded() == []
    assert "script" not in {tag for tag, _ in page.elements}
    said = json.loads((tmp_path / run / "run.json").read_text())
    assert f"{100 * said['metrics']['test/acc']:.2f} %" in page.text
    assert "of 360 test images are correct" in page.text
    assert f"Parameters {said['parameters']:,}" in page.text
    assert "cross entropy, Adam, lr 0.001" in page.text
    figures = tmp_path / run / "figures"
    drawn = [(figures / name).read_bytes() for name in json.loads((figures / "figures.json").read_text())["figures"]]
    assert drawn
    assert set(drawn) == set(page.images().values())
    assert (tmp_path / run / "report.html").stat().st_size < 2e6
    before = (tmp_path / run / "report.html").read_bytes()
    assert cli(f"report {run}").status == 0  # over the first one, with the same bytes
    assert (tmp_path / run / "report.html").read_bytes() == before


def test_runs_on_the_same_images_are_tested_pairwise_and_shown_where_they_part(cli_in, tmp_path):
    cli = cli_in(tmp_path, draws=True)
    line = "fit --model MLP --model.widths [8] --data Digits --trainer.max_epochs 1 --trainer.accelerator cpu"
    for seed in (0, 1):
        assert cli(f"{line} --name seed{seed} --seed_everything {seed}").status == 0
    result = cli("report lightning_logs/seed0/version_0 lightning_logs/seed1/version_0")
    assert (result.status, result.err) == (0, "")
    page = Page(tmp_path / "report.html")
    assert page.loaded() == []
    rows = [
        (tmp_path / f"lightning_logs/seed{seed}/version_0/predictions/test.csv").read_text().splitlines()[1:]
        for seed in (0, 1)
    ]
    right = [[row.split(",")[1] == row.split(",")[2] for row in part] for part in rows]
    came = Counter(zip(*right, strict=True))
    counts = Paired(came[True, True], came[True, False], came[False, True], came[False, False])
    assert counts.only_first
    assert counts.only_second
    assert f"A correct {counts.both} {counts.only_first} A wrong {counts.only_second} {counts.neither}" in page.text
    meaning = f"Only A is correct on {counts.only_first} images, only B on {counts.only_second}"
    assert meaning in page.text
    runs = "A           lightning_logs/seed0/version_0\nB           lightning_logs/seed1/version_0\n"
    assert f"{runs}A and B     Test images: {meaning}" in result.out
    assert "not the methods: another seed gives another model." in result.out
    assert "not the methods" in page.text
    assert "seed_everything 0 1" in page.text
    pictures = [alt.partition(".")[0] for alt in page.images()]
    assert pictures == [
        *("Test accuracy", "Loss", "Accuracy", "Difference of the confusion matrices"),
        *(f"A correct, B wrong: {counts.only_first}", f"B correct, A wrong: {counts.only_second}"),
    ]
    assert cli("report lightning_logs/seed0/version_0 lightning_logs/seed1/version_0 --root empty").status == 0
    page = Page(tmp_path / "report.html")
    assert (
        "Digits is not prepared in empty; give the folder that holds it with --root. The samples are named."
        in page.text
    )
    assert not any("correct" in alt.partition(".")[0] for alt in page.images())
    assert not (tmp_path / "empty").exists()


def test_without_the_data_the_samples_are_named(cli, tmp_path):
    run_folder(tmp_path / "one", predicted=[0, 1, 2, 0, 2, 1])
    run_folder(tmp_path / "two", predicted=[0, 1, 0, 0, 1, 1])
    assert cli("report one two").status == 0
    page = Page(tmp_path / "report.html")
    assert "The images are not shown, since the data cannot be opened" in page.text
    assert "A correct 3 1 A wrong 1 1" in page.text
    head = "sample true, predicted by {} confidence predicted by {} confidence"
    assert f"A correct, B wrong: 1 {head.format(*'AB')} test/2 eel" in page.text
    assert f"B correct, A wrong: 1 {head.format(*'BA')} test/4 dog" in page.text


def test_rows_of_a_table_are_named_without_a_word_about_images(cli, tmp_path):
    run_folder(tmp_path / "one", shape=(4,))
    run_folder(tmp_path / "two", shape=(4,), predicted=[0, 1, 0, 0, 1, 1])
    assert cli("report one two").status == 0
    text = Page(tmp_path / "report.html").text
    assert "A correct, B wrong: 1" in text
    assert "image" not in text


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"names": [f"other/{n}" for n in range(6)]}, "different test samples (other data, names or labels)"),
        ({"labels": [0, 1, 2, 0, 1, 1]}, "different test samples (other data, names or labels)"),
        ({"data_class": "nets.Other"}, "different test samples (other data, names or labels)"),
        ({"class_names": ("cat", "dog", "owl")}, "The runs have different classes"),
        ({"kept": False}, "The runs have no predictions on the same split"),
    ],
)
def test_runs_on_other_samples_are_not_tested_pairwise(cli, tmp_path, other, sentence):
    run_folder(tmp_path / "one")
    run_folder(tmp_path / "two", **other)
    assert "A and B     There is no paired test" in cli("report one two").out
    page = Page(tmp_path / "report.html")
    assert sentence in page.text
    assert "McNemar" not in page.text
    assert {"Loss", "Accuracy"} <= {alt.partition(".")[0] for alt in page.images()}


@pytest.mark.parametrize(
    ("digest", "described", "is_paired"),
    [
        ("b", {"mean": [0.5], "title": "a copy"}, False),
        ("b", {"file": {"size": [9, 9]}}, True),  # the same images in another size have another digest
        ("a", {"mean": [0.5]}, True),
    ],
)
def test_samples_with_the_same_names_and_other_content_are_not_tested_pairwise(
    cli, tmp_path, digest, described, is_paired
):
    for name, own, more in (("one", "a", {}), ("two", digest, described)):
        folder = run_folder(tmp_path / name)
        for file, entries in (("run.json", {"split_digests": {"test": own}}), ("input.json", more)):
            (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | entries))
    out = cli("report one two").out
    assert ("A and B     There is no paired test" in out) is not is_paired
    assert ("McNemar" in Page(tmp_path / "report.html").text) is is_paired


def test_validation_stands_in_where_there_is_no_test(cli, tmp_path):
    for name in ("one", "two"):
        run_folder(tmp_path / name, stage="val")
    assert cli("report one two").status == 0
    text = Page(tmp_path / "report.html").text
    assert "validation predictions are compared. The epochs were selected on validation" in text
    assert "McNemar, exact p = 1.000" in text
    assert "Both runs are correct on the same images" in text


def test_a_run_without_a_wrong_prediction_is_reported(cli, tmp_path):
    run_folder(tmp_path / "perfect", predicted=[0, 1, 2, 0, 1, 2])
    run_folder(tmp_path / "too", predicted=[0, 1, 2, 0, 1, 2])
    assert cli("report perfect").status == 0
    text = Page(tmp_path / "perfect" / "report.html").text
    assert "Test accuracy 6 of 6 Too few samples" in text
    assert "No wrong prediction among the 6 test images." in text
    assert cli("report perfect too").status == 0
    assert "A correct 6 0 A wrong 0 0" in Page(tmp_path / "report.html").text


def test_a_diverged_run_is_reported(cli, tmp_path):
    run_folder(tmp_path / "nan", losses=(0.9, float("nan")))
    run_folder(tmp_path / "fine")
    assert cli("report nan").status == 0
    text = Page(tmp_path / "nan" / "report.html").text
    assert (
        "The run has diverged; not a number: the training loss first in epoch 2, the validation loss first in epoch 2."
        in text
    )
    assert "Test loss not a number" in text
    assert cli("report nan fine").status == 0
    assert "A has diverged; not a number: the training loss first in epoch 2" in Page(tmp_path / "report.html").text


def test_a_run_without_figures_and_predictions_says_how_to_get_them(cli, tmp_path):
    run_folder(tmp_path / "none", kept=False)
    assert cli("report none").status == 0
    page = Page(tmp_path / "none" / "report.html")
    assert "visionbench repeat none --figures final repeats the run with both" in page.text
    assert "No interval, since the number of test samples is not known" in page.text
    assert [alt.partition(".")[0] for alt in page.images()] == ["Learning curves"]


def test_a_class_without_samples_has_no_recall_and_no_part_in_the_mean(cli, tmp_path):
    run_folder(tmp_path / "one", labels=[0, 0, 1, 1, 1], predicted=[0, 0, 1, 1, 2])
    assert cli("report one").status == 0
    text = Page(tmp_path / "one" / "report.html").text
    assert "eel 0 0 0.000 \N{EN DASH} 0.000 no sample" in text
    # (1 + 2/3) / 2 is the balanced accuracy, and (1 + 0.8 + 0) / 3 the macro F1.
    assert "all (means) 5 4 0.667 0.833 0.600" in text
    assert "the mean over the classes that have the score, test." in text


def test_a_run_that_did_not_test_is_not_said_to_be_untested_after_a_test(cli, tmp_path):
    run = run_folder(tmp_path / "one", stage="val")
    assert cli("report one").status == 0
    assert "The run was not tested; visionbench test one tests it." in Page(run / "report.html").text
    report = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(report | {"test_openings": 1, "opening": 4}))
    assert cli("report one").status == 0
    text = Page(run / "report.html").text
    assert "The run was not tested" not in text
    assert "opened 4 times in this log folder, 1 time by this run. visionbench test one shows the number" in text
    init_args = {"root": "nowhere", "test_size": 0}
    run = run_folder(tmp_path / "none", stage="val", data={"class_path": "nets.Gone", "init_args": init_args})
    assert cli("report none").status == 0
    assert "The run has no test split (data.test_size is 0)." in Page(run / "report.html").text


def test_a_run_that_is_not_finished_is_reported_as_far_as_it_is(cli, tmp_path):
    run = run_folder(tmp_path / "open", kept=False, finished=False)
    with (run / "metrics.csv").open("a") as file:
        file.write("2,9,0.1,0.4")  # torn
    assert cli("report open").status == 0
    page = Page(run / "report.html")
    assert "This run is interrupted, with 2 finished epochs; visionbench fit --resume open resumes it" in page.text
    assert "Validation accuracy 75.00 % After epoch 2" in page.text
    assert [alt.partition(".")[0] for alt in page.images()] == ["Learning curves"]
    (run / "metrics.csv").unlink()
    (run / "report.html").unlink()
    assert cli("report open").status == 0
    assert "No epoch is finished." in Page(run / "report.html").text
    run_folder(tmp_path / "done")
    assert cli("report done open").status == 0
    assert "B is interrupted." in Page(tmp_path / "report.html").text


def test_what_is_text_stays_text(cli, tmp_path):
    bad = "<script>alert(1)</script>"
    quote = '" onload="x'
    run = run_folder(tmp_path / "<b>one", class_names=(bad, quote, "&amp;"), seed_everything=bad)
    assert cli("report '<b>one'").status == 0
    page = Page(run / "report.html")
    assert {"script", "b"}.isdisjoint(tag for tag, _ in page.elements)
    assert not any("onload" in attributes for _, attributes in page.elements)
    for text in (bad, quote, "&amp;", "<b>one"):
        assert text in page.text


def test_a_figure_of_ones_own_and_one_that_is_gone(cli, tmp_path):
    run = run_folder(tmp_path / "one")
    (run / "figures").mkdir()
    svg = b'<?xml version="1.0"?>\n<svg width="72pt" height="36pt" xmlns="http://www.w3.org/2000/svg"></svg>'
    (run / "figures" / "my-own.svg").write_bytes(svg)
    content = {
        "figures": ["my-own.svg", "test-errors.png", "../config.yaml"],
        "failed": {"network": "ValueError: odd."},
    }
    (run / "figures" / "figures.json").write_text(json.dumps(content))
    assert cli("report one").status == 0
    page = Page(run / "report.html")
    assert page.images()["My own."] == svg
    assert [(a["width"], a["height"]) for _, a in page.elements if a.get("alt") == "My own."] == [("96", "48")]
    assert "The figure test-errors.png cannot be read" in page.text
    assert "The figure ../config.yaml cannot be read" in page.text
    assert "The figures network could not be drawn (ValueError: odd)." in page.text


def test_nothing_but_a_report_is_written_over(cli, tmp_path):
    run_folder(tmp_path / "one")
    (tmp_path / "notes.html").write_text("<p>mine</p>")
    assert "notes.html exists and is not a report of visionbench" in cli("report one --output notes.html").refusal()
    assert (tmp_path / "notes.html").read_text() == "<p>mine</p>"
    assert cli("report one --output=new.html").status == 0
    assert cli("report one --output new.html").status == 0
    assert "one is a folder" in cli("report one --output one").refusal()
    assert "There is no folder nowhere" in cli("report one --output nowhere/a.html").refusal()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("report", "report needs at least one run folder"),
        ("report nowhere", "nowhere is not a run folder (there is no such folder)"),
        ("report one one", "one is given twice"),
        ("report one ./one", "one is given twice"),
        ("report one --color red", "There is no option --color"),
        ("report torn", "torn/run.json cannot be read"),
        ("report odd", "odd/config.yaml has no trainer, model and data"),
        ("report " + " ".join(f"r{n}" for n in range(11)), "report found 11 runs; give at most 10"),
    ],
)
def test_what_is_no_run_is_said_in_a_sentence(cli, tmp_path, line, sentence):
    run_folder(tmp_path / "one")
    (run_folder(tmp_path / "torn") / "run.json").write_text("{")
    (run_folder(tmp_path / "odd") / "config.yaml").write_text("just words")
    assert sentence in cli(line).refusal()
    assert not list(tmp_path.rglob("*.html"))


def test_help(cli):
    result = cli("report --help")
    assert result.status == 0
    assert "visionbench report RUN_DIR..." in result.out
