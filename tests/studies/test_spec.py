"""Study files: what they mean, and the sentence for each mistake."""

import pytest

from visionbench.errors import UserError
from visionbench.studies.spec import load_study

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
        ("grid: [width]", "grid: [depth]", "stages.all.grid names depth, which is no axis of grid."),
        ("best_of: all", "best_of: al", "stages.final.best_of is al, which is no stage above it."),
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
            "column val/acc is '97.8O', expected a number; - where none is legible.",
        ),
        (
            "two of them",
            "two, of them",
            "protocols.reported.defects.of them is None, expected a text; a text with a comma",
        ),
        ("val/loss: double_softmax", "val/loss: softmax", "which is not among the defects there."),
        ("judged: [val/acc", "judged: [val/f1", "judged names val/f1, of which nothing is published."),
        ("8: {model.widths: [8]}", "8: {model.widths: [8]}, 8: {}", "8 stands twice in one mapping (line 6)."),
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
        ('tolerance: {val/acc: 2, "": 0.5}', "tolerance: 0", "tolerance is not above 0."),
        ("model: {class_path: MLP", "modell: {class_path: MLP", "base has no model"),
        ("title: T", "title: [T", "is not YAML"),
    ],
)
def test_each_mistake_is_one_sentence(tmp_path, old, new, sentence):
    assert old in TEXT
    with pytest.raises(UserError) as refusal:
        load(tmp_path, TEXT.replace(old, new, 1))
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert "some-study.yaml" in str(refusal.value)


def test_a_study_that_is_not_there_gets_the_nearest_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs/studies").mkdir(parents=True)
    (tmp_path / "configs/studies/heart-mlp.yaml").write_text(TEXT)
    assert load_study("heart-mlp").id == "heart-mlp"
    with pytest.raises(UserError, match=r"did you mean heart-mlp\?"):
        load_study("heart-mpl")
