"""The report of a study: what stands on the page and in the tables, of rows that are made up."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.test_report import Page, run_folder
from visionbench.errors import UserError
from visionbench.evaluation.ledger import Ledger, Opening
from visionbench.figures.figure import cut
from visionbench.figures.verdicts import NAME_LENGTH
from visionbench.runs.folder import RunFolder
from visionbench.studies import report_images
from visionbench.studies.expand import plan
from visionbench.studies.figure_words import figure_request
from visionbench.studies.report import write_report
from visionbench.studies.report_contents import Contents, measure_words, number, signed, titles_of, with_deviation
from visionbench.studies.report_verdicts import verdict_figure
from visionbench.studies.results import Row, write_rows
from visionbench.studies.spec import load_study
from visionbench.studies.tables import CellRuns

pytestmark = pytest.mark.fast

NASTY = "<script>a_b</script> | 5 % & $c$"
TEXT = f"""\
title: "Widths <script>alert(1)</script> & $x_1$ | *100* %"
source: "A table of <b>somebody</b>"
seeds: [0, 1, 2, 3, 4]
choices: ["Choice <i>one</i>"]
base:
  data: Digits
  model: {{class_path: MLP, init_args: {{widths: [8]}}}}
grid:
  width:
    "8": {{}}
    "16": {{model.widths: [16]}}
    "{NASTY}": {{model.widths: [32]}}
protocols:
  reported: {{defects: {{double_softmax: softmax is applied twice}}, set: {{model: some_study.SoftmaxMLP}}}}
  corrected: {{}}
stages:
  widths: {{grid: [width], test: true}}
published:
  protocol: reported
  widths:
    - [width, test/acc, val/loss]
    - ["8", "80.0", "0.51"]
    - ["16", "70.0", "-"]
    - ["{NASTY}", "90.0", "0.3"]
judged: [test/acc]
tolerance: 2.0
figures: {{widths: [samples 2 x 2, test-confusion, learning-curves]}}
"""
LEVELS = {"8": 0.80, "16": 0.85, NASTY: 0.899}


class StudyPage(Page):
    """A page whose tables can be read, row by row, and whose sections can be told apart."""

    def __init__(self, path):
        self.rows, self.section, self.by_section = [], "", {}
        super().__init__(path)

    def handle_starttag(self, tag, attrs):
        super().handle_starttag(tag, attrs)
        if tag == "section":
            self.section = dict(attrs)["id"]
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        super().handle_data(data)
        self.by_section[self.section] = self.by_section.get(self.section, "") + data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def row(self, *start):
        """The only row whose cells begin so."""
        (found,) = [row for row in self.rows if row[: len(start)] == list(start)]
        return found


def study_of(tmp_path, text=TEXT, name="some-study"):
    (tmp_path / f"{name}.yaml").write_text(text)
    return load_study(tmp_path / f"{name}.yaml")


def made_up(run, **changes):
    """The row of a finished run: corrected runs are better by 5 points, and seeds differ by 0.2."""
    use = run.first
    acc = LEVELS.get(next(iter(use.cell.values()), ""), 0.9) + 0.05 * (use.protocol == "corrected") + 0.002 * use.seed
    row = Row(
        run.id,
        run.protocols,
        use.stage,
        use.cell,
        use.seed,
        use.fold,
        "finished",
        {"test/acc": acc, "val/acc": acc, "val/loss": 1 - acc, "train/loss": 0.1},
        {"test": 200, "val": 100, "train": 1000},
        epochs=3,
        classes=("cat", "dog"),
        parameters=1234,
        trainable=1200,
        processor="cpu",
        versions={"torch": "2.11"},
        findings=("double_softmax",) if use.protocol == "reported" else (),
        seconds=3.0 + use.seed,
        cpu_seconds=2.0,
        date=f"2026-11-2{7 + use.seed % 2}",
    )
    return replace(row, **changes)


def with_course(run, row):
    """The row with curves and a confusion matrix, which take half a second to be drawn."""
    acc = row.metrics["test/acc"]
    curve = [acc - 0.2, acc - 0.1, acc]
    curves = {"train/loss": [0.9, 0.5, 0.1], "val/loss": [0.9, 0.5, 1 - acc], "val/acc": curve, "train/acc": curve}
    return replace(row, curves=curves, confusion={"test": [[90, 10], [20, 80]]})


def failed(run, error="The loss is not finite."):
    return replace(made_up(run), status="failed", error=error, metrics={"test/acc": 0.1234}, seconds=98765.0)


def rows_of(study, change=lambda run, row: row):
    """Rows of all runs by id, changed by a function; none where it gives none."""
    found = {}
    while len(runs := plan(study, found).runs) > len(found):
        new = {run.id: row for run in runs.values() if (row := change(run, made_up(run))) is not None}
        if new.keys() <= found.keys():
            break
        found |= new
    return found


def reported(tmp_path, study=None, rows=None, formats=("html",), **others):
    """Writes a report; gives the text of its last file."""
    study = study or study_of(tmp_path)
    rows = rows_of(study) if rows is None else rows
    paths = write_report(study, plan(study, rows), rows, tmp_path / "logs", formats=formats, **others)
    assert all(path.is_file() for path in paths)
    return paths[-1].read_text(encoding="utf-8")


def page_of(tmp_path, *args, **others):
    reported(tmp_path, *args, **others)
    return StudyPage(tmp_path / "logs" / "report.html")


# Verdicts


def test_the_page_begins_with_one_sentence_and_the_verdicts(tmp_path):
    page = page_of(tmp_path)
    sentence = "2 of 3 judged values are reproduced, 1 is not."
    assert re.search(f'<main><section id="verdicts"><h2>Verdicts</h2><p class="lead">{sentence}</p>', page.source)
    first = page.by_section["verdicts"]
    assert "reproduced 2" in first
    assert "not reproduced 1" in first
    assert "80.0 printed, 80.40 measured" in first
    assert (
        "does not reach the gray is not reproduced, or inconclusive where other samples alone may explain it." in first
    )
    assert "70.0 printed, 85.40 measured" in first
    assert re.search(r'class="range" style="left: [\d.]+%; width: [\d.]+%; color: var\(--reproduced\)"', page.source)
    assert "This study is not complete" not in page.text


def test_the_picture_shows_the_interval_around_the_printed_value(tmp_path):
    page = page_of(tmp_path)
    start, width = map(
        float, re.search(r'class="range" style="left: ([\d.]+)%; width: ([\d.]+)%', page.source).groups()
    )
    low, high = (float(end) for end in page.row("width 8", "80.0")[3].split(" to "))
    (limit,) = {float(text) for text in re.findall(r">\+([\d.]+)</span></span>", page.source)}
    assert start == pytest.approx(50 + 50 * (low - 80) / limit, abs=0.5)  # the table has two decimals
    assert width == pytest.approx(50 * (high - low) / limit, abs=0.5)


def test_an_outlier_does_not_flatten_the_picture_of_the_others(tmp_path):
    page = page_of(tmp_path, study_of(tmp_path, TEXT.replace('"70.0"', '"5.0"')))
    assert "+80.4 \N{RIGHTWARDS ARROW}" in page.text
    (limit,) = {float(text) for text in re.findall(r">\+([\d.]+)</span></span>", page.source)}
    assert limit < 5


def test_printed_values_stand_beside_those_of_both_protocols(tmp_path):
    page = page_of(tmp_path)
    assert page.row("cell", "printed") == [
        *("cell", "printed", "reported", "95 % interval for one more run", "corrected", "verdict")
    ]
    cell, printed, measured, interval, corrected, verdict = page.row("width 8", "80.0")
    assert measured.startswith("80.40 ± 0.32")
    assert corrected.startswith("85.40 ± 0.32")
    assert re.fullmatch(r"79\.\d\d to 81\.\d\d", interval)
    assert verdict.startswith("reproduced80.0 was printed, one more run would lie between")
    assert verdict.endswith("Measured minus printed: +0.40.")
    assert (cell, printed) == ("width 8", "80.0")
    assert page.row("width 16", "70.0")[-1].startswith("not reproduced")
    assert page.row("width 8", "0.51")[2].startswith("0.1960 ± 0.0032")  # shown, not judged
    assert page.row("width 8", "0.51")[-1] == "\N{EN DASH}"
    assert page.row("width 16", "\N{EN DASH}")[2].startswith("0.1460")


def test_no_time_is_below_0(tmp_path):
    text = TEXT.replace("[width, test/acc, val/loss]", "[width, test/acc, seconds]")
    study = study_of(tmp_path, text)
    rows = rows_of(study, lambda run, row: replace(row, seconds=1000.0 if run.first.seed == 4 else 1.0))
    page = page_of(tmp_path, study, rows)
    assert re.fullmatch(r"0\.00 to [\d.]+", page.row("width 8", "0.51")[3])


def test_an_accuracy_on_few_samples_has_its_interval(tmp_path):
    page = page_of(tmp_path)
    assert page.row("width 8", "80.0")[2].replace("\N{NO-BREAK SPACE}", " ").endswith("Wilson: 74.5 to 85.4")
    assert "200 test samples" in page.text
    few = rows_of(study_of(tmp_path), lambda run, row: replace(row, counts={"test": 5}))
    assert "5 samples: too few for an interval" in page_of(tmp_path, rows=few).text.replace("\N{NO-BREAK SPACE}", " ")
    many = rows_of(study_of(tmp_path), lambda run, row: replace(row, counts={"test": 10_000}))
    assert "Wilson" not in page_of(tmp_path, rows=many).text


def test_a_study_without_published_values_is_shown_without_verdicts(tmp_path):
    text = re.sub(r"published:.*?judged: \[test/acc\]\n", "", TEXT, flags=re.DOTALL)
    page = page_of(tmp_path, study_of(tmp_path, text))
    assert page.source.index('id="best"') < page.source.index('id="about"')  # what is asked is which cell is best
    assert "Verdicts" not in page.text
    assert page.row("cell", "reported") == ["cell", "reported", "95 % interval for one more run", "corrected"]
    assert page.row("width 8", "80.40 ± 0.32Wilson:\N{NO-BREAK SPACE}74.5\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}85.4")


def test_a_comparison_names_no_protocol(tmp_path):
    text = re.sub(r"protocols:.*?stages:", "stages:", TEXT.partition("published:")[0], flags=re.DOTALL)
    page = page_of(tmp_path, study_of(tmp_path, text))
    assert page.row("cell", "measured") == ["cell", "measured", "95 % interval for one more run"]
    assert "no defect" not in page.text


def test_a_study_without_runs_has_a_page(tmp_path):
    page = page_of(tmp_path, rows={})
    assert "This study is not complete: 0 of 30 runs are finished." in page.text
    assert page.by_section["verdicts"].count("80.0 printed, no run") == 1
    assert "No run is finished." in page.text


# Failed runs


def failing(study):
    run = next(run for run in plan(study, {}).runs.values() if run.first.cell["width"] == "8" and run.first.seed == 2)
    return run, rows_of(study, lambda other, row: failed(other) if other.id == run.id else row)


def test_a_failed_run_is_listed_and_its_number_is_in_no_table(tmp_path):
    study = study_of(tmp_path)
    run, rows = failing(study)
    page = page_of(tmp_path, study, rows)
    start = "widths, 8, seed 2 (reported)"
    assert page.row(start)[1:] == [
        "failed",
        "The loss is not finite.",
        str(tmp_path / "logs/runs" / run.id / "log.txt"),
    ]
    assert "29 of 30 runs are finished and 1 run failed or diverged" in page.text
    assert page.row("width 8", "80.0")[-1].startswith("incomplete4 of 5 seeds have finished")
    assert "4 of 5 seeds, 1 run failed or diverged" in page.row("width 8", "80.0")[2]
    others = page.text.replace(page.by_section["failed"], "")
    assert not re.search(r"12\.34|0\.1234|98,?765", others)
    assert not re.search(r"12\.34|0\.1234", reported(tmp_path, study, rows, ("csv",)))


def test_failed_runs_are_read_from_the_folder_too(tmp_path):
    """A runner does not count them as rows, since it tries them again."""
    study = study_of(tmp_path)
    run, rows = failing(study)
    del rows[run.id]
    assert "failed" not in page_of(tmp_path, study, rows).by_section
    folder = tmp_path / "logs" / "runs" / run.id
    folder.mkdir(parents=True)
    RunFolder(folder).write_metadata({"status": "failed", "error": "refused: <b>no</b> such layer."})
    assert page_of(tmp_path, study, rows).row("widths, 8, seed 2 (reported)")[2] == "refused: <b>no</b> such layer."
    RunFolder(folder).metadata_path.unlink()
    write_rows(tmp_path / "logs" / "results.csv", [failed(run, "its process was killed 3 times.")])
    assert page_of(tmp_path, study, rows).row("widths, 8, seed 2 (reported)")[2] == "its process was killed 3 times."
    rows[run.id] = made_up(run)
    assert "failed" not in page_of(tmp_path, study, rows).by_section  # meanwhile it is finished


# The page as a file


def test_the_page_is_whole_and_loads_nothing(tmp_path):
    study = study_of(tmp_path)
    page = page_of(tmp_path, study, rows_of(study, with_course))  # which fails where elements do not nest
    assert page.loaded() == []
    assert "http" not in re.sub(r'src="data:[^"]*"', "", page.source).replace("http-equiv", "")
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert {f"#{name}" for name in names} == set(links)
    assert len(page.images()) > 3
    assert all(content.startswith((b"\x89PNG", b"<?xml")) for content in page.images().values())


def test_text_is_escaped(tmp_path):
    page = page_of(tmp_path, notes=["A note with <em>markup</em>"])
    assert not {"script", "b", "i", "em"} & {tag for tag, _ in page.elements} - {"b"}
    assert "Widths <script>alert(1)</script> & $x_1$ | *100* %" in page.text
    assert "A table of <b>somebody</b>" in page.text
    assert "Choice <i>one</i>" in page.text
    assert "A note with <em>markup</em>" in page.text
    assert page.row(NASTY, "90.0")
    assert "<script" not in page.source


def test_an_unknown_figure_is_refused_with_one_sentence(tmp_path):
    with pytest.raises(UserError) as refusal:
        study_of(tmp_path, TEXT.replace("test-confusion", "test-confuson"))
    path = tmp_path / "some-study.yaml"
    assert str(refusal.value) == (
        f"{path}: figures.widths: There is no figure 'test-confuson'; did you mean test-confusion?"
    )
    with pytest.raises(UserError, match=r"There is no figure 'pie'; expected some of: .* \(or other numbers\)\.$"):
        figure_request("pie")
    with pytest.raises(UserError, match="has 900 images, expected 1 to 100"):
        figure_request("samples 30 x 30")


def test_figures_are_known_by_their_words():
    assert figure_request("train_eval-confusion").split == "train_eval"
    assert figure_request("learning-curves").kind == "learning-curves"
    grid = figure_request("predictions 3x4")
    assert (grid.kind, grid.rows, grid.columns) == ("predictions", 3, 4)


@pytest.mark.parametrize("formats", [("html", "pdf"), ()])
def test_an_unknown_format_is_refused(tmp_path, formats):
    with pytest.raises(UserError, match="html, csv, markdown, latex"):
        reported(tmp_path, rows={}, formats=formats)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    study = study_of(tmp_path)
    with pytest.raises(UserError, match=r"report.csv cannot be written \(.*\); give another folder\.$"):
        write_report(study, plan(study, {}), {}, tmp_path / "file" / "logs", formats=["csv"])


def test_the_picture_of_the_verdicts_has_each_judged_value(tmp_path):
    study = study_of(tmp_path)
    rows = rows_of(study, lambda run, row: None if run.first.cell["width"] == "16" else row)
    contents = Contents(study, plan(study, rows), rows, tmp_path)
    figure = verdict_figure(contents)
    drawn = [dict(zip(figure.columns, row, strict=True)) for row in figure.rows]
    assert [(row["unit"], row["printed"], row["verdict"]) for row in drawn] == [
        ("points", 80.0, "reproduced"),
        ("points", 70.0, "incomplete"),
        ("points", 90.0, "reproduced"),
    ]
    (first, *_) = [verdict for _, verdict in contents.judged]
    assert (drawn[0]["mean"], drawn[0]["low"], drawn[0]["high"]) == (first.mean, *first.interval)
    assert (drawn[1]["mean"], drawn[1]["low"]) == ("", "")
    path = write_report(study, plan(study, rows), rows, tmp_path / "logs", formats=["png"])[0]
    assert path.read_bytes().startswith(b"\x89PNG")


STUDIES = sorted((Path(__file__).parents[2] / "configs/studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_names_in_the_picture_of_the_verdicts_are_not_cut_to_the_same(path, tmp_path):
    study = load_study(path)
    others = {other.stem: other for other in STUDIES}
    contents = Contents(study, plan(study, {}, others=lambda name: load_study(others[name])), {}, tmp_path)
    names = [cut(row[1], NAME_LENGTH) for row in verdict_figure(contents).rows]
    assert len(set(names)) == len(names)


def test_without_a_judged_value_there_is_no_picture(tmp_path):
    study = replace(study_of(tmp_path), judged={})
    with pytest.raises(UserError, match="judges no value, so that there is no picture of verdicts"):
        write_report(study, plan(study, {}), {}, tmp_path / "logs", formats=["png"])


# Tables


def test_the_csv_file_holds_full_precision(tmp_path):
    study = study_of(tmp_path)
    rows = rows_of(study)
    found = list(csv.DictReader(io.StringIO(reported(tmp_path, study, rows, ("csv",)))))
    entries = Contents(study, plan(study, rows), rows, tmp_path).measured
    assert [float(row["mean"]) for row in found] == [entry.mean for entry in entries]  # exactly
    row = next(row for row in found if (row["protocol"], row["width"], row["measure"]) == ("reported", "8", "test/acc"))
    values = [100 * (0.80 + 0.002 * seed) for seed in range(5)]
    assert float(row["sd"]) == pytest.approx(np.std(values, ddof=1), rel=1e-12)
    assert float(row["low"]) < 80 < float(row["high"])
    assert (row["published"], row["seeds"], row["seeds_asked"], row["samples"]) == ("80.0", "5", "5", "200")
    assert row["verdict"] == "reproduced"
    assert {row["width"] for row in found} == set(LEVELS)


def test_markdown_escapes_what_is_markup(tmp_path):
    text = reported(tmp_path, formats=("markdown",))
    assert text.startswith(r"# Widths \<script\>alert(1)\</script\> \& \$x\_1\$ \| \*100\* %")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    columns = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    assert columns == {9}
    (row,) = [
        line for line in lines if line.startswith(r"| reported | \<script\>a\_b\</script\> \| 5 % \& \$c\$ | test/acc")
    ]
    assert "| 90.0 | 90.30 ± 0.32 |" in row
    assert row.endswith("| 5 seeds | reproduced |")


def test_latex_escapes_what_is_markup(tmp_path):
    text = reported(tmp_path, formats=("latex",))
    assert text.splitlines()[0].startswith("% Widths <script>")
    body = [line for line in text.splitlines() if not line.startswith("%")]
    label = r"\textless{}script\textgreater{}a\_b\textless{}/script\textgreater{} \textbar{} 5 \% \& \$c\$"
    (row,) = [line for line in body if line.startswith(f"reported & {label} & test/acc")]
    assert r"& 90.0 & 90.30 $\pm$ 0.32 & " in row
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body if line.endswith(r"\\")} == {7}
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1


def test_a_line_break_does_not_end_a_comment_or_a_row(tmp_path):
    study = replace(study_of(tmp_path), title="One\n\\input{two}", source="three\nfour")
    assert reported(tmp_path, study, formats=("latex",)).splitlines()[0] == "% One \\input{two}: three four"
    assert reported(tmp_path, study, formats=("markdown",)).startswith("# One \\\\input\\{two\\}\n\nthree four\n")


# Comparisons


def test_the_best_cell_and_those_that_it_cannot_be_told_from(tmp_path):
    def noisy(run, row):
        seed, width = run.first.seed, run.first.cell["width"]
        change = {"8": -0.1 + 0.001 * seed**2, "16": 0.04 + 0.03 * (-1) ** seed, NASTY: 0.0}[width]
        return replace(row, metrics={"test/acc": row.metrics["test/acc"] + change})

    study = study_of(tmp_path)
    page = page_of(tmp_path, study, rows_of(study, noisy))
    text = page.by_section["best"].split("corrected: by")[0]
    assert f"Best: {NASTY} (90.30 ± 0.32 over 5 seeds); cannot be distinguished from width 16. Its " in text
    assert re.search(
        r"Its mean is better than that of width 16, the next one, by 0\.30 points "
        r"\(95 % interval .3\.\d\d to 4\.\d\d\)\. "
        r"If this difference is as large as it looks, about \d{2,3} more seeds would show it;",
        text,
    )
    same, other = page.row("width 16", "90.00 ± 3.30"), page.row("width 8", "71.00 ± 0.97")
    assert (same[2:4], other[2:4]) == (["5", "\N{MINUS SIGN}0.30"], ["5", "\N{MINUS SIGN}19.30"])
    assert same[4].startswith("\N{MINUS SIGN}3.")
    assert "seeds make a weak test" not in text
    three = study_of(tmp_path, TEXT.replace("[0, 1, 2, 3, 4]", "[0, 1, 2]", 1))
    text = page_of(tmp_path, three, rows_of(three, noisy)).by_section["best"]
    assert "3 seeds make a weak test, in which the larger of two differences may have the larger p. " in text
    assert float(same[5]) > 0.05 > float(other[5].removeprefix("< "))


def test_a_cell_behind_one_that_is_told_from_the_best_is_not_the_next_one(tmp_path):
    def noisy(run, row):
        seed = run.first.seed
        change = {"8": 0.0001 * (seed % 2), "16": 0.02, NASTY: -0.1 + 0.15 * (-1) ** seed}[run.first.cell["width"]]
        return replace(row, metrics={"test/acc": 0.8 + change + 0.001 * seed})

    study = study_of(tmp_path, TEXT.partition("published:")[0])
    text = page_of(tmp_path, study, rows_of(study, noisy)).by_section["best"].split("corrected: by")[0]
    assert f"Best: width 16 (82.20 ± 0.16 over 5 seeds); cannot be distinguished from {NASTY}. Its " in text
    assert f"Its mean is better than that of {NASTY} by " in text


def test_the_best_cell_is_better_by_a_difference_with_an_interval(tmp_path):
    def noisy(run, row):
        seed = run.first.seed
        better = {"8": 0.001 * (-1) ** seed, "16": 0.05, NASTY: 0.01 + 0.001 * (seed - 2)}[run.first.cell["width"]]
        return replace(row, metrics={"test/acc": 0.8 + better + 0.002 * seed})

    study = study_of(tmp_path, TEXT.partition("published:")[0])
    sentence = page_of(tmp_path, study, rows_of(study, noisy)).by_section["best"]
    differences = [4 - 0.1 * (seed - 2) for seed in range(5)]
    half = stats.t.ppf(0.975, 4) * np.std(differences, ddof=1) / 5**0.5
    assert f"by 4.00 points (95 % interval {4 - half:.2f} to {4 + half:.2f})" in sentence
    assert "better on these samples than every other cell (p = " in sentence
    assert "other samples, by" not in sentence  # which nothing tells without folds


@pytest.mark.parametrize(("spread", "turns"), [(0.002, False), (0.1, True)])
def test_folds_say_what_holds_for_other_samples(tmp_path, spread, turns):
    text = TEXT.partition("published:")[0].replace("test: true}", "test: true, folds: 4, set: {data.fold_is: test}}")
    study = study_of(tmp_path, re.sub(r'    "16".*\n', "", text))

    def noisy(run, row):
        use = run.first
        of_fold = spread * (use.fold - 1.5) * (use.cell["width"] == "8")
        better = (0.05 + 1e-3 * use.seed) * (use.cell["width"] != "8")
        return replace(row, metrics={"test/acc": 0.8 + better + of_fold})

    page = page_of(tmp_path, study, rows_of(study, noisy))
    assert "the t-test over 4 folds gives p = " in page.text
    assert ("For other samples of the same kind it is not shown" in page.text) == turns
    assert ("For other samples of the same kind this is shown too" in page.text) == (not turns)
    assert "p, other samples" in page.text


def test_cells_whose_labels_are_alike_have_the_names_of_their_axes(tmp_path):
    axes = "grid:\n  batch norm: {with: {model.batch_norm: true}}\n  skip: {with: {model.widths: [9]}, without: {}}\n"
    cells = "cells: [{batch norm: with}, {skip: with}, {skip: without}]"
    text = (
        TEXT.partition("grid:")[0]
        + axes
        + f"protocols: {{corrected: {{}}}}\nstages: {{widths: {{{cells}, test: true}}}}\n"
    )
    levels = {"batch norm": 0.9, "skip": 0.8}

    def of_cell(run, row):
        axis, label = next(iter(run.first.cell.items()))
        return replace(
            row,
            metrics={
                "test/acc": levels[axis] - 0.1 * (label == "without") + 0.001 * (run.first.seed + 1) ** (axis == "skip")
            },
        )

    study = study_of(tmp_path, text)
    sentence = page_of(tmp_path, study, rows_of(study, of_cell)).by_section["best"]
    assert "Best: batch norm with (90.10 ± 0.00 over 5 seeds); better on these samples than every other" in sentence
    assert "than the next one, skip with (80.30 ± 0.16), by 9.80 points" in sentence


def test_where_some_cells_have_more_seeds_the_best_one_goes_by_those_of_all(tmp_path):
    more = "seeds: [0, 1], more_seeds: {seeds: [2, 3, 4], cells: [{width: '8'}]}"
    study = study_of(tmp_path, TEXT.partition("published:")[0].replace("grid: [width]", f"grid: [width], {more}"))

    def of_cell(run, row):
        use = run.first
        level = 0.99 if use.seed > 1 else {"8": 0.8, "16": 0.85}.get(use.cell["width"], 0.7)
        return replace(row, metrics={"test/acc": level + 0.001 * use.seed})

    sentence = page_of(tmp_path, study, rows_of(study, of_cell)).by_section["best"]
    assert "Best: width 16 (85.05 ± 0.07 over 2 seeds)" in sentence
    further = rows_of(study, lambda run, row: of_cell(run, row) if run.first.seed > 1 else None)
    assert "Best:" not in page_of(tmp_path, study, further).by_section.get("best", "")  # nothing to compare with yet


def test_equal_cells_have_no_best_one(tmp_path):
    rows = rows_of(study_of(tmp_path), lambda run, row: replace(row, metrics={"test/acc": 0.475}))
    text = page_of(tmp_path, rows=rows).by_section["best"]
    assert "No cell is best: every run of every cell gave 47.50." in text
    assert "All comparisons" not in text


def test_one_seed_decides_nothing(tmp_path):
    rows = rows_of(study_of(tmp_path), lambda run, row: row if run.first.seed == 0 else None)
    text = page_of(tmp_path, rows=rows).by_section["best"]
    assert f"Best: {NASTY} (89.90 over 1 seed). Not compared, for lack of runs: width 8 and width 16." in text


def test_the_effect_of_the_defects_is_the_difference_in_the_same_cells(tmp_path):
    page = page_of(tmp_path)
    row = page.row("widths: test accuracy")
    assert row[1:4] == ["85.37", "90.37", "\N{MINUS SIGN}5.00"]
    assert row[5] in ("0 of 3", "3 of 3")
    assert page.by_section["defects"].count("double_softmax: softmax is applied twice.") == 1
    other = study_of(tmp_path, TEXT.replace("set: {model: some_study.SoftmaxMLP}", "set: {model.loss: mse}"))
    page = page_of(tmp_path, other)
    assert "Losses are not compared" in page.text
    assert "mse in reported" in page.text
    assert "widths: validation loss" not in page.text


WATCHED = (
    TEXT.replace(
        "{double_softmax: softmax is applied twice}, set: {model: some_study.SoftmaxMLP}", "{test_as_validation: x}"
    )
    .replace("test/acc", "val/acc")
    .replace("val/loss", "minimized")
)


def test_validation_on_the_test_samples_is_compared_with_the_test(tmp_path):
    """Not with the validation of the corrected protocol, whose samples are others."""

    def measured(run, row):
        is_watched = run.first.protocol == "reported"
        counts = {"val": 360 if is_watched else 144, "test": 360}
        metrics = {"val/acc": 0.9} if is_watched else {"val/acc": 0.95, "test/acc": 0.88}
        return replace(row, metrics=metrics, counts=counts)

    study = study_of(tmp_path, WATCHED)
    page = page_of(tmp_path, study, rows_of(study, measured))
    row = page.row("widths: validation accuracy of the test samples; test accuracy")
    assert row[1:4] == ["90.00", "88.00", "+2.00"]
    assert "95.00" not in page.by_section["defects"]
    assert (
        "reported: 360 validation samples, which are the test samples (test_as_validation); corrected: 144 validation "
        "samples; corrected: 360 test samples."
    ) in page.text
    by_epoch = study_of(
        tmp_path,
        WATCHED.replace("[width, val/acc, minimized]", "[width, epoch, val/acc]")
        .replace('"80.0", "0.51"', '3, "80.0"')
        .replace('"70.0", "-"', '2, "70.0"')
        .replace('"90.0", "0.3"', '3, "90.0"')
        .replace("test: true", "test: true, result: last epoch"),
    )
    curves = {"val/acc": [0.5, 0.7, 0.9]}
    page = page_of(tmp_path, by_epoch, rows_of(by_epoch, lambda run, row: replace(measured(run, row), curves=curves)))
    assert page.row("widths: validation accuracy of the test samples; test accuracy")[1:4] == [
        "90.00",
        "88.00",
        "+2.00",
    ]
    trained = WATCHED.replace("minimized", "train_eval/acc").replace("test: true", "test: true, evaluate: [train_eval]")
    trained = trained.replace('"0.51"', '"51"').replace('"0.3"', '"30"')
    study = study_of(tmp_path, trained)
    shares = {"reported": 0.9, "corrected": 0.8}
    values = rows_of(study, lambda run, row: replace(row, metrics={"train_eval/acc": shares[run.first.protocol]}))
    row = page_of(tmp_path, study, values).row("widths: accuracy on training samples in evaluation mode")
    assert row[1:4] == ["90.00", "80.00", "+10.00"]
    study = study_of(tmp_path, WATCHED.replace(", test: true", ""))
    untested = page_of(tmp_path, study, rows_of(study, lambda run, row: replace(row, metrics={"val/acc": 0.9})))
    assert "only a test of corrected can be compared with it; no cell has both" in untested.by_section["defects"]


def test_defects_that_change_no_number_are_said_to(tmp_path):
    study = study_of(tmp_path)
    equal = rows_of(study, lambda run, row: replace(row, metrics={"test/acc": 0.8, "val/loss": 0.1}))
    page = page_of(tmp_path, study, equal)
    assert "All values of reported and corrected are equal: the defects changed no number." in page.text


def test_protocols_that_share_their_trainings_say_nothing_of_defects(tmp_path):
    page = page_of(tmp_path, study_of(tmp_path, TEXT.replace(", set: {model: some_study.SoftmaxMLP}", "")))
    said = "reported and corrected share all these trainings, so that the same measure has the same value in both."
    assert said in page.text
    assert "changed no number" not in page.text
    assert page.row("cell", "printed")[2] == "reported and corrected"


GRID = """\
grid:
  width: {"8": {}, "16": {model.widths: [16]}}
  dropout: {"0": {}, "0.5": {model.dropout: 0.5}}
  activation: {relu: {}, tanh: {model.activation: tanh}}
"""
# Four of the eight combinations of three axes, in which each two labels of two axes meet.
HALF = """cells:
    - {width: "8", dropout: "0", activation: relu}
    - {width: "8", dropout: "0.5", activation: tanh}
    - {width: "16", dropout: "0", activation: tanh}
    - {width: "16", dropout: "0.5", activation: relu}
"""


@pytest.mark.parametrize(
    ("cells", "drawn"),
    [
        ("grid: [width, dropout]", True),
        ('cells: [{width: "8", dropout: "0"}, {width: "16", dropout: "0"}, {width: "16", dropout: "0.5"}]', False),
        (HALF, True),
        (HALF.replace("tanh", "relu", 1), False),
    ],
)
def test_main_effects_are_of_all_combinations_or_of_a_balanced_part(tmp_path, cells, drawn):
    text = re.sub(r"grid:.*?protocols:", f"{GRID}protocols:", TEXT, flags=re.DOTALL)
    text = re.sub(r"stages:.*", f"stages:\n  widths:\n   {cells}\n", text, flags=re.DOTALL)
    page = page_of(tmp_path, study_of(tmp_path, text))
    alts = [alt for alt in page.images() if alt.startswith("Main effects, widths.")]
    assert bool(alts) is drawn
    assert ("Axes and interactions, widths" in page.text) is drawn
    if cells.startswith("grid"):
        axes = ("width", "dropout", "width x dropout")
        assert [page.row(axis, "reported")[3] for axis in axes] == ["1", "1", "1"]
        assert page.row("width x dropout", "corrected")[2] == "\u2013"
    if cells == HALF:
        assert " x " not in page.text  # an interaction of two axes is the effect of the third
        assert "4 of 8 combinations; axes are taken to add up." in alts[0]


# Figures


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "Accuracy after each epoch. Line: mean over 5 seeds; band: from the lowest to the highest seed."),
        ({"findings": ("test_as_validation",)}, "seed; validation is on the test samples (test_as_validation)."),
        ({"findings": ("train_as_test",)}, "seed; validation is on the training samples (train_as_test)."),
        ({"curves": {"train/acc": [0.1, 0.2]}}, "Training accuracy after each epoch. Line: mean over 5 seeds;"),
        ({"epochs": range(3, 8)}, "seed; after the last epoch of a seed, of the seeds that are left."),
        ({"seeds": 1}, "Accuracy after each epoch. One seed."),
    ],
)
def test_learning_curves_say_what_line_and_band_are(tmp_path, change, words):
    def changed(run, row):
        if run.first.seed >= change.get("seeds", 5):
            return None
        fields = {name: value for name, value in change.items() if name not in ("seeds", "epochs")}
        epochs = change["epochs"][run.first.seed] if "epochs" in change else 3
        return replace(with_course(run, row), epochs=epochs, **fields)

    study = study_of(tmp_path, TEXT.replace("test-confusion, ", ""))
    rows = rows_of(study, changed)
    (alt,) = {alt for alt in page_of(tmp_path, study, rows).images() if alt.startswith("Accuracy of every cell")}
    assert words in alt


def test_lines_over_a_ratio_are_drawn_with_what_was_published(tmp_path, monkeypatch):
    from visionbench.figures import studies as figures

    text = (
        TEXT.replace("samples 2 x 2, ", "")
        .replace(f'"{NASTY}"', '"32"')
        .replace("[width, test/acc, val/loss]", "[width, epoch, val/acc]")
    )
    text = (
        text.replace("80.0", "3").replace("0.51", "80").replace("70.0", "3").replace("90.0", "1").replace('0.3"', '60"')
    )
    text = text.replace("judged: [test/acc]", "judged: [val/acc]")
    panels = []
    draw = figures.draw_panels
    monkeypatch.setattr(
        figures,
        "draw_panels",
        lambda name, found, *args, **kw: panels.append((name, found)) or draw(name, found, *args, **kw),
    )
    study = study_of(tmp_path, text)
    page = page_of(tmp_path, study, rows_of(study, with_course))
    by_name = dict(panels)
    (panel,) = by_name["widths-reported-lines"]
    assert [line.label for line in panel.series] == ["width 8", "width 16", "width 32"]
    assert sorted(mark[:2] for mark in panel.marks) == [(1.0, 60.0), (3.0, 80.0)]
    (panel,) = by_name["widths-reported-over-width"]
    assert panel.series[0].places.tolist() == [8.0, 16.0, 32.0]
    assert panel.series[0].values.shape == (5, 3)
    assert "Crosses: published values." in " ".join(page.images())


def test_train_and_test_matrices_stand_side_by_side(tmp_path, monkeypatch):
    from visionbench.figures import study_matrices

    drawn = []
    draw = study_matrices.draw_matrices
    monkeypatch.setattr(study_matrices, "draw_matrices", lambda *args: drawn.append(args[1]) or draw(*args))
    text = TEXT.replace("[samples 2 x 2, test-confusion,", "[test-confusion, train_eval-confusion,")
    both = {"test": [[90, 10], [20, 80]], "train_eval": [[99, 1], [2, 98]]}
    study = study_of(tmp_path, text)
    page = page_of(tmp_path, study, rows_of(study, lambda run, row: replace(row, confusion=both)))
    titles = [title for title, _ in drawn[0]]
    assert titles[:4] == ["8: training", "8: test", "16: training", "16: test"]  # "width" does not fit
    assert drawn[0][0][1].tolist() == [[495, 5], [10, 490]]  # of five seeds
    assert "Training samples in evaluation mode and test samples" in " ".join(page.images())


def test_too_many_lines_are_said_to_be(tmp_path):
    grid = "\n".join(f'    "{n}": {{model.widths: [{n}]}}' for n in range(1, 13))
    text = re.sub(r"  width:\n.*?protocols:", f"  width:\n{grid}\nprotocols:", TEXT, flags=re.DOTALL)
    text = re.sub(r"published:.*", "figures: {widths: [lines]}\n", text, flags=re.DOTALL)
    text = text.replace("seeds: [0, 1, 2, 3, 4]", "seeds: [0]").replace("  corrected: {}\n", "")
    study = study_of(tmp_path, text)
    page = page_of(tmp_path, study, rows_of(study, with_course))
    assert "12 cells are too many for lines in one diagram, which holds 10." in page.text


def test_the_curves_of_a_resumed_stage_are_drawn_once(tmp_path):
    text = TEXT.replace("test: true}\n", "}\n  more: {continue: widths}\n").replace("  corrected: {}\n", "")
    text = text.replace("judged: [test/acc]", "judged: []")
    study = study_of(tmp_path, text.replace("test-confusion, ", "").replace("samples 2 x 2, ", ""))
    assert page_of(tmp_path, study, rows_of(study, with_course)).by_section["curves"].count("Loss of every cell") == 1
    rows = rows_of(study, lambda run, row: with_course(run, row) if run.first.stage == "widths" else None)
    assert "widths, reported" in page_of(tmp_path, study, rows).by_section["curves"]


def test_cells_with_other_classes_have_a_figure_of_their_own(tmp_path):
    def changed(run, row):
        if run.first.cell["width"] == "8":
            return replace(row, confusion={"test": np.eye(3, dtype=int).tolist()}, classes=("a", "b", "c"))
        return replace(row, confusion={"test": [[1, 2], [3, 4]]})

    study = study_of(tmp_path, TEXT.replace("  corrected: {}\n", ""))
    page = page_of(tmp_path, study, rows_of(study, changed))
    assert len([alt for alt in page.images() if alt.startswith("Confusion matrices")]) == 2


@pytest.mark.parametrize(
    ("room", "title", "sentence"),
    [
        (33, "width 8, dropout 0.5, same", ""),
        (25, "8, 0.5", " Titles: width, dropout."),
        (5, "8 0.5", " Titles: width, dropout."),
        (1, "8 0.5", " Titles: width, dropout."),
    ],
)
def test_titles_of_small_diagrams_are_as_short_as_need_be(room, title, sentence):
    cells = [{"width": w, "dropout": d, "loss": "same"} for w in ("8", "9") for d in ("0.5", "x")]
    titles, found = titles_of([CellRuns("reported", "s", cell) for cell in cells], "s", room)
    assert (titles[0], found) == (title, sentence)
    assert len(set(titles)) == 4


# Images


def test_without_run_folders_the_command_stands_instead_of_the_images(tmp_path):
    study = study_of(tmp_path)
    page = page_of(tmp_path, study)
    runs = plan(study, {}).runs.values()
    first = next(run.id for run in runs if run.first.protocol == "reported")
    corrected = next(run.id for run in runs if run.first.protocol == "corrected")
    text = page.by_section["images"]
    assert "Not in this report:" in text
    assert "Samples, reported: The run folder is not here." in text
    config = tmp_path / "logs" / "cells"
    assert f"PYTHONPATH={tmp_path} visionbench fit --config {config}/{first}.yaml --figures final" in text
    assert f"here. visionbench fit --config {config}/{corrected}.yaml --figures final trains the run again" in text
    assert not any(alt.startswith("Samples") for alt in page.images())


def test_an_expected_reason_is_said_and_an_unexpected_error_is_not_hidden(tmp_path, monkeypatch):
    study = study_of(tmp_path)
    rows = rows_of(study)
    run = next(run for run in plan(study, rows).runs.values() if run.first.protocol == "reported")
    run_folder(tmp_path / "logs" / "runs" / run.id, kept=False)
    assert "Samples, reported: The run has no predictions." in page_of(tmp_path, study, rows).text

    def fail(folder):
        raise ValueError("a mistake in code")

    monkeypatch.setattr(report_images, "read_run", fail)
    with pytest.raises(ValueError, match="a mistake in code"):
        reported(tmp_path, study, rows)


# Circumstances


def test_time_parameters_environment_and_openings(tmp_path):
    (tmp_path / "logs").mkdir()
    ledger = Ledger(tmp_path / "logs")
    for n in range(3):
        ledger.add(Opening("2026-01-01", f"runs/{n % 2}", "last.ckpt", "fit", "Digits", 360, "d" * 64))
    page = page_of(tmp_path)
    assert page.row("widths: width 8", "reported", "1,234")[3:] == ["1,200", "3", "5.0 ± 1.6", "2.0 ± 0.0", "5"]
    text = page.by_section["runs"]
    assert "30 finished runs measured test samples after training." in text
    assert "the 360 test samples of Digits were opened 3 times, by 2 runs." in text
    assert "double_softmax: 15 of 30 finished runs" in text
    assert "30 runs: torch 2.11." in text
    assert "Days of training: 2026-11-27 to 2026-11-28." in text


def test_the_commands_train_each_run(tmp_path):
    text = TEXT + "  # the last stage\n"
    text = text.replace("test: true}\n", "test: true}\n  more: {continue: widths, set: {trainer.max_epochs: 9}}\n", 1)
    study = study_of(tmp_path, text)
    page = page_of(tmp_path, study)
    lines = re.findall(r"<code>([^<]*visionbench fit[^<]*)</code>", page.source)
    runs = plan(study, rows_of(study)).runs
    assert len(runs) == 60
    for run in runs.values():
        own = [line for line in lines if f"cells/{run.id}.yaml" in line]
        assert own
        if run.continues is not None:
            assert own[0].endswith(f"--resume my-{run.id}")
            before = lines[lines.index(own[0]) - 1]
            assert before.endswith(f"cells/{run.continues.run}.yaml --run_dir my-{run.id}")
            assert before.startswith("PYTHONPATH=") is (run.first.protocol == "reported")


# Words


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        ("test/acc", "test accuracy"),
        ("train_eval/acc", "accuracy on training samples in evaluation mode"),
        ("max val/acc", "greatest validation accuracy of all epochs"),
        ("step train/loss", "training loss of one batch, the last full one"),
        ("val/macro_f1", "validation macro F1"),
        ("seconds", "seconds of training"),
    ],
)
def test_measures_in_words(measure, words):
    assert measure_words(measure) == words


def test_numbers_have_the_decimals_of_the_printed_one():
    assert number("val/acc", 97.8) == "97.80"
    assert number("val/loss", 0.25, "0.255010") == "0.250000"
    assert number("train/loss", 8.4e29) == "8.4e+29"
    assert number("train/loss", 0.0000123) == "1.23e\N{MINUS SIGN}05"
    assert signed("val/acc", -0.001) == "0.00"
    assert signed("val/acc", 0.5) == "+0.50"
    assert with_deviation("val/loss", 0.25, 0.0002) == "0.2500 ± 0.0002"


def test_rows_are_plain_enough_for_json(tmp_path):
    json.dumps([vars(row) for row in rows_of(study_of(tmp_path)).values()])
