"""Study files: what they mean, and the sentence for each mistake."""

import re

import pytest

from visionbench.commands.study import study as command
from visionbench.errors import UserError
from visionbench.studies.expand import plan
from visionbench.studies.runner import Options, Runner
from visionbench.studies.spec import Protocol, load_study

TEXT = """\
title: T
source: S
seeds: [0, 1]
base: {data: Digits, model: {class_path: MLP, init_args: {widths: [8]}}}
grid:
  width: {8: {model.widths: [8]}, no: {model.widths: [4]}, 0.20: {model.widths: [2]}}
protocols:
  reported: {defects: {double_softmax: two of them}, changes: {val/loss: double_softmax}}
  corrected: {}
stages:
  all: {grid: [width]}
  final: {best_of: all, test: true}
published:
  all:
    - [width, val/acc, val/loss]
    - [8, 97.80, 1.50]
    - [no, "-", 1.7]
  final: [[test/acc], [88]]
judged: [val/acc, test/acc]
tolerance: {val/acc: 2, "": 0.5}
"""


def load(tmp_path, text):
    path = tmp_path / "some-study.yaml"
    path.write_text(text, encoding="utf-8")
    return load_study(path)


def test_an_axis_that_no_stage_names_is_idle(tmp_path):
    assert load(tmp_path, TEXT).idle_axes == []
    text = TEXT.replace("grid:\n", "grid:\n  rate: {fast: {model.optimizer.lr: 0.1}}\n")
    assert load(tmp_path, text).idle_axes == ["rate"]
    assert load(tmp_path, text.replace("{grid: [width]}", "{grid: [width, rate]}")).idle_axes == []


def test_a_study_with_a_mistake_does_not_hide_the_others(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "configs" / "studies"
    folder.mkdir(parents=True)
    (folder / "broken.yaml").write_text("title: [", encoding="utf-8")
    (folder / "whole.yaml").write_text(TEXT, encoding="utf-8")
    assert command(["list"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^broken +configs/studies/broken\.yaml, line 1: ", printed, re.MULTILINE)
    assert re.search(r"^whole +0/", printed, re.MULTILINE)


def test_an_idle_axis_is_noted_beside_the_runs(tmp_path):
    study = load(tmp_path, TEXT.replace("grid:\n", "grid:\n  rate: {fast: {model.optimizer.lr: 0.1}}\n"))
    sentence = "The grid has the axis rate, which no stage names, so that its labels set nothing."
    assert Runner(study, Options(studies=tmp_path)).notes == [sentence]


def test_printed_values_and_labels_are_kept_as_they_are_written(tmp_path):
    study = load(tmp_path, TEXT)
    assert study.id == "some-study"
    assert study.module.name == "some_study.py"
    assert list(study.grid["width"]) == ["8", "no", "0.20"]
    rows = study.published["all"]
    assert rows[0].values == {"val/acc": "97.80", "val/loss": "1.50"}
    assert rows[1].cell == {"width": "no"}
    assert study.published["final"][0].values == {"test/acc": "88"}
    assert study.judged == {"all": ("val/acc",), "final": ("test/acc",)}
    assert (study.tolerance_of("val/acc"), study.tolerance_of("test/acc")) == (2.0, 0.5)
    assert study.stages["all"].cells == ({"width": "8"}, {"width": "no"}, {"width": "0.20"})


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("title: T", "titel: T", "the key titel, which a study file does not have there; did you mean title?"),
        ("title: T\n", "", "title is missing; give it."),
        ("seeds: [0, 1]", "seeds: [0, 0]", "seeds is [0, 0], expected one or more different seeds."),
        ("seeds: [0, 1]", "seeds: [true]", "seeds has True, expected integers from 0 to 4294967295."),
        ("  final: [[test/acc], [88]]", "  final:", "published.final is '', expected a list, such as [a, b]."),
        ("grid:\n  width: {", "grid:\n  depth:\n  width: {", "grid.depth is empty, expected a mapping (name: value)."),
        (
            "grid: [width]",
            "grid: [depth]",
            "stages.all.grid names depth, which is no axis of grid; did you mean width?",
        ),
        ("best_of: all", "best_of: al", "stages.final.best_of is al, which is no stage above it; did you mean all?"),
        (
            "{best_of: all",
            "{by: test/acc, best_of: all",
            "stages.final.by is test/acc, expected a metric of the validation",
        ),
        ('[no, "-", 1.7]', '[off, "-", 1.7]', "published.all, width is 'off', which is not known there"),
        (
            "[8, 97.80, 1.50]",
            "[8, 97.80]",
            "has 2 values, expected 3, as the header has; a text with a comma needs quotes.",
        ),
        (
            "[8, 97.80, 1.50]",
            "[8, 97.8O, 1.50]",
            "column val/acc is '97.8O', expected a finite number; - where none is legible.",
        ),
        (
            "two of them",
            "two, of them",
            "protocols.reported.defects.of them is empty, expected a text; a text with a comma",
        ),
        (
            "double_softmax: two",
            "double_softmx: two",
            "double_softmx, which no guard knows, so that it would change no run; did you mean double_softmax?",
        ),
        (
            "double_softmax: two of them",
            "double_softmax: two of them, test_as_validation: chosen on test images",
            "but protocol reported, whose values are published, has test_as_validation: its runs",
        ),
        ("[width, val/acc", "[width, valid/acc", "the column valid/acc is of valid, expected one of: train, val, test"),
        (
            "[width, val/acc",
            "[width, val/accuracy",
            "column val/accuracy: There is no metric 'accuracy'; did you mean acc?",
        ),
        ("val/loss: double_softmax", "val/loss: softmax", "which is not among the defects there."),
        (
            "[8, 97.80, 1.50]",
            "[8, 0.9780, 1.50]",
            "val/acc has 0.9780, a fraction, expected percent; write 0.9780 as 97.80,",
        ),
        (
            "[8, 97.80, 1.50]",
            "[8, 97.80, 1.50]\n    - [8, 99.00, 1.40]",
            "the row ['8', '99.00', '1.40'] is of a cell that a row above it has; leave one out.",
        ),
        (
            "[width, val/acc, val/loss]",
            "[width, val/acc, val/acc]",
            "the column val/acc is there twice; leave one out.",
        ),
        (
            "[width, val/acc, val/loss]",
            "[width, val/acc, step val/loss]",
            "the column step val/loss is of a batch, of which the training loss alone is known; write step train/loss.",
        ),
        (
            "{best_of: all",
            "{by: max test/acc, best_of: all",
            "stages.final.by is max test/acc, expected a metric of the validation",
        ),
        (
            "judged: [val/acc",
            "judged: [val/loss, val/acc",
            "judged names val/loss, which is no share of samples, so that a tolerance in points does not fit it; write "
            "tolerance: {val/loss: ...}, in its own unit.",
        ),
        ("judged: [val/acc", "judged: [val/f1", "judged names val/f1, of which nothing is published."),
        (
            "8: {model.widths: [8]}",
            "8: {model.widths: [8]}, 8: {}",
            "8 stands twice in one mapping (line 6); rename or remove one.",
        ),
        ("8: {model.widths: [8]}", "8: {model.widths:}", "grid.width.8.model.widths has no value; write null to unset"),
        (
            "{grid: [width]}",
            "{grid: [width], cells: [{width: 8}]}",
            "stages.all has grid and cells; give only one of them.",
        ),
        ("{grid: [width]}", "{grid: [width], folds: 1}", "stages.all.folds is 1, expected an integer of 2 or more."),
        (
            "{grid: [width]}",
            "{grid: [width], result: last}",
            "stages.all.result is 'last', which is not known there; expected one of: best, last epoch.",
        ),
        (
            "{grid: [width]}",
            "{grid: [width]}\n  more: {continue: all, result: last epoch}",
            "it continues all, whose result is best; give both the same.",
        ),
        ('tolerance: {val/acc: 2, "": 0.5}', "tolerance: 0", "tolerance is 0, expected numbers above 0."),
        ("model: {class_path: MLP", "modell: {class_path: MLP", "base has no model"),
        ("title: T", "title: [T", "line 2: this is no YAML ("),
        (
            "no: {model.widths: [4]}",
            "[32, 16]: {model.widths: [4]}",
            "line 6 has the list [32, 16] as a key, expected a text; quote it.",
        ),
        (
            "corrected: {}",
            "{corrected: 1}: {}",
            "line 9 has the mapping {corrected: 1} as a key, expected a text; quote it.",
        ),
        (
            "{best_of: all,",
            "{best_of: all, over: each seed, seeds: [0, 2],",
            "stages.final has over: each seed and the seeds [0, 2], but all, whose best cells it takes, has the seeds "
            "[0, 1]; give both the same seeds, or write over: seeds.",
        ),
        (
            "grid:\n",
            "needs: {first: {study: some-study, protocol: reported, stage: all}}\ngrid:\n",
            "needs.first.study is some-study, which is this study itself, expected another one; use continue or",
        ),
        (
            "[8, 97.80, 1.50]",
            "[8, nan, 1.50]",
            "column val/acc is 'nan', expected a finite number; - where none is legible.",
        ),
        ("[8, 97.80, 1.50]", "[8, 97.80, -inf]", "column val/loss is '-inf', expected a finite number; - where none"),
        ("[8, 97.80, 1.50]", "[8, ninety, 1.50]", "column val/acc is 'ninety', expected a finite number; - where none"),
        ("[8, 97.80, 1.50]", "[8, 1e999, 1.50]", "column val/acc is '1e999', expected a finite number; - where none"),
        ("val/acc: 2", "val/acc: .nan", "tolerance is nan, expected a finite number."),
        (
            "{best_of: all, test: true}",
            "{best_of: all}",
            "judged names test/acc, which is published of the stage final, but that is not tested; give stages.final "
            "test: true, or do not judge test/acc there.",
        ),
        (
            "[[test/acc], [88]]",
            "[[epoch, test/acc], [2, 88]]",
            "published.final, column test/acc is 88 at epoch 2, but a test is of the result alone; write - there, or "
            "remove the column epoch.",
        ),
        (
            "[[test/acc], [88]]",
            "[[epoch, test/acc], [2, '-']]",
            "judged names test/acc, but published.final has the column epoch, and a test is of the result alone; do "
            "not judge test/acc there, or remove the column epoch.",
        ),
        (
            "changes: {val/loss:",
            "changes: {val/los:",
            "protocols.reported.changes names val/los, of which nothing is published; did you mean val/loss?",
        ),
        ("{val/acc: 2", "{va/acc: 2", "tolerance names va/acc, of which nothing is published; did you mean val/acc?"),
        (
            "{val/acc: 2",
            "{seconds: 2",
            "tolerance names seconds, of which nothing is published; published: val/acc, val/loss, test/acc.",
        ),
        (
            "0.20: {model.widths: [2]}",
            "0.20: {model.dropout: }",
            "grid.width.0.20.model.dropout has no value; write null to unset the option.",
        ),
        ("[8, 97.80, 1.50]", "[8, 9780, 1.50]", "column val/acc has 9780, expected percent, from 0 to 100."),
        ("[8, 97.80, 1.50]", "[8, -97.80, 1.50]", "column val/acc has -97.80, expected percent, from 0 to 100."),
        ("{grid: [width]}", "{grid: [width, width]}", "stages.all.grid has width twice; leave one out."),
        ("{grid: [width]}", "{cells: [{width: 8}, {width: 8}]}", "stages.all.cells has {'width': '8'} twice;"),
        ("{grid: [width]}", "{cells: []}", "stages.all.cells has no cell; give one or more."),
        ("{grid: [width]}", "{grid: [width], protocols: [reported, reported]}", "protocols has reported twice;"),
        ("{grid: [width]}", "{grid: [width], over: each seed}", "stages.all has over, but no best_of, whose cell it"),
        ("{grid: [width]}", "{grid: [width], every: epoch}", "stages.all has every, but no evaluate, whose"),
        (
            "{grid: [width]}",
            "{by: val/loss, search: {over: {model.dropout: {low: 0, high: 1}}}}",
            "stages.all has by beside search; the search improves the by in its own mapping: move it there.",
        ),
        (
            "{grid: [width]}",
            "{search: {over: {seed_everything: {low: 0, high: 9, integer: true}}}}",
            "stages.all.search.over names seed_everything, which a study sets by seeds; remove it there.",
        ),
        (
            "{grid: [width]}",
            "{search: {by: val/accuracy, over: {model.dropout: {low: 0, high: 1}}}}",
            "stages.all.search.by, measure val/accuracy: There is no metric 'accuracy'; did you mean acc?",
        ),
        (
            "{best_of: all,",
            "{best_of: all, by: valid/acc,",
            "stages.final.by: the measure valid/acc is of valid, expected one of: train, val,",
        ),
        (
            "{best_of: all,",
            "{best_of: all, set: {test_after_fit: false},",
            "stages.final.set names test_after_fit, which a study sets by test of the stage; remove it there.",
        ),
        (
            "corrected: {}",
            "corrected: {set: {seed_everything: 7}}",
            "protocols.corrected.set names seed_everything, which a study sets by seeds; remove it there.",
        ),
        (
            """  width: {8: {model.widths: [8]}, no: {model.widths: [4]}, 0.20: {model.widths: [2]}}
""",
            """  width: {8: {model.widths: [8]}, no: {model.widths: [4]}}
  dropout: {with: {model.dropout: 0.5}, without: {}}
""",
            "published.all: the row of {'width': '8'} fits 2 cells, such as {'width': '8', 'dropout': 'with'} and "
            "{'width': '8', 'dropout': 'without'}; give the column dropout.",
        ),
    ],
)
def test_each_mistake_is_one_sentence(tmp_path, old, new, sentence):
    assert old in TEXT
    text = TEXT.replace(old, new, 1)
    if "\n  dropout:" in new:
        text = text.replace("{grid: [width]}", "{grid: [width, dropout]}")
    with pytest.raises(UserError) as refusal:
        load(tmp_path, text)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert "some-study.yaml" in str(refusal.value)


@pytest.mark.parametrize("empty", ["protocols:\n", "protocols: null\n", "protocols: {}\n", ""])
def test_without_protocols_there_is_the_reported_one(tmp_path, empty):
    start, end = TEXT.index("protocols:"), TEXT.index("stages:")
    study = load(tmp_path, TEXT[:start] + empty + TEXT[end:])
    assert list(study.protocols) == ["reported"]
    assert study.published_protocol == "reported"


@pytest.mark.parametrize("empty", ["", " null", " {}", " {chosen: }", " {chosen: null, set: null}"])
def test_a_protocol_may_be_empty(tmp_path, empty):
    study = load(tmp_path, TEXT.replace("corrected: {}", f"corrected:{empty}"))
    assert study.protocols["corrected"] == Protocol("corrected")


def test_labels_of_axes_and_epochs_are_no_values(tmp_path):
    text = TEXT.replace("8: {model.widths: [8]}", "nan: {model.widths: null}").replace("[8, 97.80", "[nan, 97.80")
    assert load(tmp_path, text).published["all"][0].cell == {"width": "nan"}
    text = TEXT.replace("[[test/acc], [88]]", "[[epoch, val/acc, test/acc], [2, 88, '-']]")
    final = load(tmp_path, text.replace("judged: [val/acc, test/acc]", "judged: [val/acc]")).published["final"]
    assert (final[0].epoch, final[0].values) == (2, {"val/acc": "88", "test/acc": "-"})


def test_each_seed_may_choose_where_both_stages_have_the_same_seeds(tmp_path):
    text = TEXT.replace("{best_of: all,", "{best_of: all, over: each seed, seeds: [1, 0],")
    assert load(tmp_path, text).stages["final"].over == "each seed"


def test_the_example_names_the_file_beside_it_as_python_does(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(["new", "my-study"]) == 0
    assert "wrote configs/studies/my-study.yaml" in capsys.readouterr().out
    written = (tmp_path / "configs/studies/my-study.yaml").read_text()
    assert "# set: {model: my_study.MyModel} #" in written
    assert "visionbench study run configs/studies/my-study.yaml" in written
    assert "NAME" not in written
    study = load_study("my-study")
    assert study.module.stem == "my_study"


def test_the_example_of_a_comparison_has_no_source_and_no_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(["new", "mine", "--compare"]) == 0
    study = load_study("mine")
    assert (study.source, study.published, study.stages["networks"].folds) == ("", {}, 5)
    runs = plan(study, {}).runs.values()
    assert len(runs) == 50  # as its comment says
    assert "NAME" not in study.path.read_text()


def test_the_example_of_a_grid_search_tests_the_best_cell_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(["new", "mine", "--grid"]) == 0
    study = load_study("mine")
    assert (study.source, study.published) == ("", {})
    runs = plan(study, {}).runs.values()
    assert len(runs) == 24  # as its comment says
    assert not any(run.config["test_after_fit"] for run in runs)
    assert study.stages["final"].best_of == "candidates"
    assert "NAME" not in study.path.read_text()


MORE = "all: {grid: [width], seeds: [0], more_seeds: {seeds: [1, 2], cells: [{width: 0.20}]}}"


def test_some_cells_have_more_seeds(tmp_path):
    stage = load(tmp_path, TEXT.replace("all: {grid: [width]}", MORE)).stages["all"]
    assert [stage.seeds_of(cell) for cell in stage.cells] == [(0,), (0,), (0, 1, 2)]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("seeds: [1, 2]", "seeds: [0]", "more_seeds.seeds has 0, which is among the seeds of all cells; remove it."),
        ("{seeds: [1, 2], cells", "{cells", "stages.all.more_seeds has no seeds; give them."),
        (", cells: [{width: 0.20}]", "", "stages.all.more_seeds has no cells; give them."),
        ("width: 0.20}]", "width: 0.2}]", "'0.2', which is not known there; did you mean 0.20?"),
        ("[{width: 0.20}]", "[{}]", "cells has {}, which is no cell of the stage; name one with all its axes."),
        ("cells: [{", "cell: [{", "has the key cell, which a study file does not have there; did you mean cells?"),
        ("test: true", "more_seeds: {seeds: [7], cells: []}, test: true", "the stage has one cell, that of best_of;"),
    ],
)
def test_each_mistake_of_more_seeds_is_one_sentence(tmp_path, old, new, sentence):
    with pytest.raises(UserError) as refusal:
        load(tmp_path, TEXT.replace("all: {grid: [width]}", MORE).replace(old, new, 1))
    assert sentence in str(refusal.value)


def test_a_study_that_is_not_there_gets_the_nearest_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs/studies").mkdir(parents=True)
    (tmp_path / "configs/studies/heart-mlp.yaml").write_text(TEXT)
    assert load_study("heart-mlp").id == "heart-mlp"
    with pytest.raises(UserError, match=r"did you mean heart-mlp\?"):
        load_study("heart-mpl")
