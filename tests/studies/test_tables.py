"""What was measured beside what was published, from made-up rows."""

import json
from dataclasses import replace

import pytest

from visionbench.studies.expand import plan
from visionbench.studies.results import Row
from visionbench.studies.spec import load_study
from visionbench.studies.tables import measure_study

pytestmark = pytest.mark.fast

TEXT = """\
title: T
source: S
seeds: [0, 1]
base: {data: Digits, model: {class_path: MLP, init_args: {widths: [8]}}}
grid:
  width: {8: {model.widths: [8]}, 16: {model.widths: [16]}}
protocols:
  reported: {set: {model.dropout: 0.1}}
  corrected: {}
stages:
  networks: {grid: [width], result: last epoch}
published:
  networks: [[width, val/acc, val/loss], [8, 80, 0.50], [16, 90, "-"]]
judged: [val/acc]
tolerance: 20
"""


@pytest.fixture
def measure(tmp_path):
    """Makes a function that measures a study file.

    `row_of` gives the row of each planned run, changed from a finished one without values; `None` for no row.
    """

    def measured(row_of, text=TEXT):
        path = tmp_path / "some-study.yaml"
        path.write_text(text)
        study = load_study(path)
        made, rows = {}, {}
        planned = plan(study, rows)
        while new := [run for run in planned.runs.values() if run.id not in made]:
            for run in new:
                use = run.first
                row = Row(run.id, run.protocols, use.stage, use.cell, use.seed, use.fold, "finished")
                made[run.id] = row_of(row)
            rows = {key: row for key, row in made.items() if row is not None}
            planned = plan(study, rows)
        return measure_study(planned, rows)

    return measured


def stages(text, published="{}", judged="[]", defects=""):
    """The study file with other stages and other published values."""
    head = TEXT[: TEXT.index("stages:")].replace("reported: {", f"reported: {{{defects}")
    return f"{head}stages: {text}\npublished: {published}\njudged: {judged}\ntolerance: 20\n"


def accuracy(row, value, count=100):
    return replace(row, metrics={"val/acc": value}, counts={"val": count})


def only(entries, measure, protocol="reported", **parts):
    (entry,) = [
        entry
        for entry in entries
        if (entry.measure, entry.protocol) == (measure, protocol)
        and all(getattr(entry, name) == value for name, value in parts.items())
    ]
    return entry


def test_a_share_has_its_values_in_points_and_another_measure_in_its_unit(measure):
    entries = measure(
        lambda row: replace(row, metrics={"val/acc": 0.80 + 0.02 * row.seed, "val/loss": 0.5}, counts={"val": 100})
    )
    acc = only(entries, "val/acc", cell={"width": "8"})
    assert acc.values == pytest.approx({0: 80, 1: 82})
    assert acc.mean == pytest.approx(81)
    assert (acc.asked, acc.unfinished, acc.items, acc.label) == (2, 0, 100, "8")
    assert [row.seed for row in acc.rows] == [0, 1]
    loss = only(entries, "val/loss", cell={"width": "8"})
    assert (loss.values, loss.mean, loss.items, loss.published) == ({0: 0.5, 1: 0.5}, 0.5, None, "0.50")


def test_the_entries_are_in_the_order_of_protocols_columns_and_cells(measure):
    entries = measure(lambda row: replace(row, metrics={"val/acc": 0.8, "val/loss": 0.5}))
    assert [(entry.protocol, entry.measure, entry.cell["width"]) for entry in entries] == [
        (protocol, name, width)
        for protocol in ("reported", "corrected")
        for name in ("val/acc", "val/loss")
        for width in ("8", "16")
    ]


def test_the_protocol_of_the_published_values_is_compared_and_the_judged_columns_of_it_get_verdicts(measure):
    entries = measure(
        lambda row: replace(row, metrics={"val/acc": 0.8 if "reported" in row.protocols else 0.9, "val/loss": 0.5})
    )
    acc = only(entries, "val/acc", cell={"width": "8"})
    assert (acc.published, acc.compared, acc.judged, acc.verdict.printed) == ("80", True, True, "80")
    loss = only(entries, "val/loss", cell={"width": "8"})
    assert (loss.compared, loss.judged, loss.verdict) == (True, False, None)
    fair = only(entries, "val/acc", "corrected", cell={"width": "8"})
    assert (fair.published, fair.compared, fair.judged, fair.verdict) == ("80", False, False, None)
    assert fair.mean == pytest.approx(90)
    not_legible = only(entries, "val/loss", cell={"width": "16"})
    assert (not_legible.published, not_legible.compared) == (None, False)


def test_the_spread_of_a_column_is_pooled_over_its_cells(measure):
    values = {"8": (0.80, 0.82), "16": (0.90, 0.96)}
    entries = measure(lambda row: accuracy(row, values[row.cell["width"]][row.seed]))
    spread = only(entries, "val/acc", cell={"width": "8"}).spread
    assert spread == only(entries, "val/acc", cell={"width": "16"}).spread
    assert spread.sd == pytest.approx(((2 * 1**2 + 2 * 3**2) / 2) ** 0.5)
    assert (spread.degrees_of_freedom, spread.pooled) == (2, True)


def test_the_spread_of_cells_with_more_seeds_is_that_of_a_cell_with_one(measure):
    stage = "{networks: {grid: [width], seeds: [0], more_seeds: {seeds: [1, 2, 3, 4], cells: [{width: 8}]}}}"
    published = "{networks: [[width, val/acc], [8, 80], [16, 90]]}"
    entries = measure(
        lambda row: accuracy(row, 0.78 + 0.01 * row.seed if row.cell["width"] == "8" else 0.9, count=0),
        stages(stage, published, "[val/acc]"),
    )
    many, one = (only(entries, "val/acc", cell={"width": width}) for width in ("8", "16"))
    assert (many.asked, one.asked) == (5, 1)
    assert one.spread.sd == many.spread.sd == pytest.approx(2.5**0.5)
    assert (one.spread.degrees_of_freedom, one.spread.pooled) == (4, True)
    assert [entry.verdict.kind for entry in (many, one)] == ["reproduced", "reproduced"]
    entries = measure(
        lambda row: accuracy(row, 0.78 + 0.01 * row.seed, count=0) if row.seed < 4 else None,
        stages(stage, published, "[val/acc]"),
    )
    assert [entry.verdict.kind for entry in entries if entry.verdict] == ["incomplete", "incomplete"]
    assert "such as 8" in only(entries, "val/acc", cell={"width": "16"}).verdict.sentence


def test_a_value_is_judged_by_the_tolerance_of_its_measure(measure):
    text = TEXT.replace("seeds: [0, 1]", "seeds: [0, 1, 2, 3, 4]")

    def kinds(text):
        entries = measure(lambda row: accuracy(row, 0.78 + 0.01 * row.seed, count=0), text)
        return [entry.verdict.kind for entry in entries if entry.verdict is not None]

    for tolerance, kind in (
        ("20", "reproduced"),
        ("{val/acc: 20, val/loss: 0.1}", "reproduced"),
        ("{val/acc: 0.1, val/loss: 20}", "inconclusive"),
    ):
        assert kinds(text.replace("tolerance: 20", f"tolerance: {tolerance}")) == [kind, "not reproduced"]


@pytest.mark.parametrize("status", ["failed", "diverged", None])
def test_a_seed_without_a_finished_run_has_no_value_and_leaves_the_cell_incomplete(measure, status):
    def row_of(row):
        if (row.cell["width"], row.seed) != ("8", 1):
            return accuracy(row, 0.8)
        return replace(row, status=status, metrics={"val/acc": 0.99}) if status is not None else None

    entries = measure(row_of)
    cell = only(entries, "val/acc", cell={"width": "8"})
    assert cell.values == pytest.approx({0: 80})
    assert (cell.asked, cell.unfinished) == (2, 0 if status is None else 1)
    assert cell.verdict.kind == "incomplete"
    assert only(entries, "val/acc", cell={"width": "16"}).verdict.kind != "incomplete"


def test_a_published_value_without_any_run_is_there_and_incomplete(measure):
    entries = measure(lambda row: accuracy(row, 0.8) if row.cell["width"] == "16" else None)
    cell = only(entries, "val/acc", cell={"width": "8"})
    assert (cell.values, cell.mean, cell.spread, cell.rows, cell.items) == ({}, None, None, (), None)
    assert cell.verdict.kind == "incomplete"
    assert [entry for entry in entries if entry.measure == "val/loss" and entry.cell["width"] == "16"] == []


EPOCHS = stages(
    "{networks: {grid: [width], test: true}}",
    "{networks: [[width, epoch, val/acc, test/acc], [8, 0, 10, '-'], [8, 2, 80, '-']]}",
    "[val/acc]",
)


def test_a_column_has_the_values_of_the_epochs_that_are_published(measure):
    def row_of(row):
        curve = [0.5, 0.8 + 0.01 * row.seed, 0.9]
        return replace(row, metrics={"val/acc": 0.9, "before/acc": 0.1, "test/acc": 0.7}, curves={"val/acc": curve})

    entries = [
        entry for entry in measure(row_of, EPOCHS) if entry.protocol == "reported" and entry.cell["width"] == "8"
    ]
    assert [(entry.measure, entry.epoch, entry.published) for entry in entries] == [
        ("val/acc", 0, "10"),
        ("val/acc", 2, "80"),
        ("test/acc", None, None),  # of the result, whatever the epochs of the table
    ]
    before, second, tested = entries
    assert before.values == pytest.approx({0: 10, 1: 10})
    assert second.values == pytest.approx({0: 80, 1: 81})
    assert tested.values == pytest.approx({0: 70, 1: 70})
    assert (before.verdict, tested.verdict) == (None, None)  # before training nothing is judged
    assert second.verdict is not None
    assert second.label == "8 epoch 2"


def test_an_epoch_that_a_run_has_not_reached_has_no_value(measure):
    entries = measure(lambda row: replace(row, curves={"val/acc": [0.5] * (1 + row.seed)}), EPOCHS)
    assert only(entries, "val/acc", cell={"width": "8"}, epoch=2).values == pytest.approx({1: 50})


def test_extremes_the_last_full_batch_the_minimized_loss_and_the_time_are_measures(measure):
    measures = ["max val/acc", "min val/loss", "step train/loss", "minimized", "seconds"]
    text = stages("{one: {}}", f"{{one: [[{', '.join(measures)}], [90, 0.2, 0.3, 1.5, 60]]}}", "[max val/acc]")

    def row_of(row):
        return replace(
            row,
            metrics={"val/acc": 0.6, "val/loss": 0.9, "train/loss": 0.7, "train/minimized": 1.0 + row.seed},
            curves={"val/acc": [0.5, None, 0.9, 0.6], "val/loss": [0.4, 0.2, 0.9]},
            losses=[0.5, 0.25, 0.125],
            counts={"val": 50},
            seconds=60.0,
        )

    entries = measure(row_of, text)
    values = {entry.measure: entry.values for entry in entries if entry.protocol == "reported"}
    assert list(values) == measures
    assert values["max val/acc"] == pytest.approx({0: 90, 1: 90})
    assert values["min val/loss"] == {0: 0.2, 1: 0.2}
    assert values["step train/loss"] == {0: 0.125, 1: 0.125}
    assert values["minimized"] == {0: 1.0, 1: 2.0}
    assert values["seconds"] == {0: 60.0, 1: 60.0}
    items = {entry.measure: entry.items for entry in entries}
    assert items == {**dict.fromkeys(measures), "max val/acc": 50}


def test_what_is_printed_after_an_epoch_is_not_compared_with_the_end_of_training(measure):
    measures = ["max val/acc", "step train/loss", "seconds"]
    text = stages(
        "{one: {result: last epoch}}",
        f"{{one: [[epoch, {', '.join(measures)}], [1, 50, 0.3, 20], [3, 90, 0.1, 60]]}}",
        "[max val/acc]",
    )

    def row_of(row):
        return replace(row, curves={"val/acc": [0.5, 0.9, 0.6]}, losses=[0.5, 0.125], seconds=60.0, epochs=3)

    entries = measure(row_of, text)
    first, last = ({e.measure: e.values for e in entries if e.epoch == n and e.protocol == "reported"} for n in (1, 3))
    assert first == {"max val/acc": pytest.approx({0: 50, 1: 50}), "step train/loss": {}, "seconds": {}}
    assert last["max val/acc"] == pytest.approx({0: 90, 1: 90})
    assert (last["step train/loss"][0], last["seconds"][0]) == (0.125, 60.0)


@pytest.mark.parametrize(
    ("name", "defects", "stage", "cut"),
    [
        ("val/acc", "", "", True),
        ("val/acc", "defects: {test_as_validation: chosen on test images}, ", "", False),
        ("val/acc", "", "folds: 2, result: last epoch", False),
        ("test/acc", "", "test: true", False),  # the official test samples, which the report had too
        ("test/acc", "", "test: true, set: {data.test_size: 100}", True),
    ],
)
def test_samples_that_are_cut_at_random_are_others_than_those_of_the_report(measure, name, defects, stage, cut):
    text = stages(f"{{one: {{{stage}}}}}", f"{{one: [[{name}], [80]]}}", f"[{name}]", defects)
    entries = measure(lambda row: replace(row, metrics={name: 0.8}, counts={"val": 9, "test": 9}), text)
    assert only(entries, name).is_cut == cut


def test_trials_that_are_the_same_runs_count_once_in_the_spread(measure):
    search = "{trials: 6, over: {data.batch_size: {values: [16, 32]}}}"
    entries = measure(
        lambda row: accuracy(row, 0.8 + 0.01 * row.seed + 0.001 * int(json.loads(row.cell["data.batch_size"]) > 20)),
        stages(f"{{one: {{search: {search}}}}}"),
    )
    found = [entry for entry in entries if entry.protocol == "reported"]
    assert len(found) == 6
    assert {entry.spread.degrees_of_freedom for entry in found} == {2}  # two cells of two seeds


def test_metrics_of_the_confusion_matrix_are_those_of_all_folds_together(measure):
    """A fold without a class has no F1 of it, so that the mean of the folds would be another number."""
    folds = FOLDS.replace("[[val/acc], [80]]", "[[val/macro_f1, val/f1_b, val/auc], [80, 80, 80]]")
    matrices = ([[11, 1], [0, 0]], [[0, 0], [4, 8]])

    def row_of(row):
        metrics = {"val/macro_f1": 0.5, "val/f1_b": 0.25, "val/auc": 0.5 + row.fold / 4}
        return replace(
            accuracy(row, 0.5, 12), metrics=metrics, confusion={"val": matrices[row.fold]}, classes=("a", "b")
        )

    entries = measure(row_of, folds.replace("[val/acc]", "[val/f1_b]"))
    values = {entry.measure: entry.values[0] for entry in entries if entry.protocol == "reported"}
    f1_a, f1_b = 2 * 11 / (12 + 15), 2 * 8 / (12 + 9)
    assert values["val/f1_b"] == pytest.approx(100 * f1_b)
    assert values["val/macro_f1"] == pytest.approx(100 * (f1_a + f1_b) / 2)
    assert values["val/auc"] == pytest.approx(62.5)


def test_without_a_penalty_the_loss_is_what_is_minimized(measure):
    text = stages("{one: {}}", "{one: [[minimized], [1.5]]}")
    entries = measure(lambda row: replace(row, metrics={"train/loss": 0.7}), text)
    assert only(entries, "minimized").values == {0: 0.7, 1: 0.7}


FOLDS = stages("{one: {folds: 2, result: last epoch}}", "{one: [[val/acc], [80]]}", "[val/acc]")


def test_folds_are_pooled_by_their_numbers_of_samples(measure):
    acc, counts = (0.9, 0.3), (50, 10)
    entry = only(measure(lambda row: accuracy(row, acc[row.fold], counts[row.fold]), FOLDS), "val/acc")
    assert entry.values == pytest.approx({0: 80, 1: 80})
    assert (entry.items, entry.asked, len(entry.rows), entry.label) == (60, 2, 4, "one")


@pytest.mark.parametrize("status", ["failed", None])
def test_a_seed_with_a_fold_that_is_not_finished_has_no_value(measure, status):
    def row_of(row):
        if (row.seed, row.fold) != (1, 0):
            return accuracy(row, 0.8)
        return replace(row, status=status) if status is not None else None

    entry = only(measure(row_of, FOLDS), "val/acc")
    assert entry.values == pytest.approx({0: 80})
    assert (entry.unfinished, entry.verdict.kind) == (0 if status is None else 1, "incomplete")


@pytest.mark.parametrize("status", ["failed", None])
def test_the_number_of_samples_is_that_of_a_seed_whose_folds_are_all_finished(measure, status):
    def row_of(row):
        if (row.seed, row.fold) != (0, 1):
            return accuracy(row, 0.8, 30)
        return replace(row, status=status) if status is not None else None

    entry = only(measure(row_of, FOLDS), "val/acc")
    assert (entry.values, entry.items) == (pytest.approx({1: 80}), 60)


def test_the_f1_of_a_class_with_a_slash_in_its_name_is_a_share(measure):
    name = "val/f1_T-shirt/top"
    entries = measure(
        lambda row: replace(row, metrics={name: 0.8}, counts={"val": 100}),
        stages("{one: {}}", f"{{one: [[{name}], [80]]}}", f"[{name}]"),
    )
    assert (only(entries, name).values, only(entries, name).items) == (pytest.approx({0: 80, 1: 80}), 100)


def test_where_each_seed_chooses_its_own_cell_the_values_of_all_seeds_are_one_entry(measure):
    text = stages(
        "{all: {grid: [width]}, final: {best_of: all, over: each seed, set: {data.batch_size: 32}, test: true}, "
        "longer: {continue: final}}",
        "{final: [[test/acc], [85]]}",
        "[test/acc]",
    )
    best = {0: "8", 1: "16"}

    def row_of(row):
        if row.stage == "all":
            return accuracy(row, 0.9 if row.cell["width"] == best[row.seed] else 0.5)
        assert row.cell["width"] == best[row.seed]
        return replace(row, metrics={"test/acc": 0.8 + 0.1 * row.seed, "val/acc": 0.9})

    entries = measure(row_of, text)
    final = only(entries, "test/acc", stage="final")
    assert final.values == pytest.approx({0: 80, 1: 90})
    assert (final.cell, final.label, final.published, final.asked) == ({}, "final", "85", 2)
    # A stage that resumes these runs is one entry too.
    resumed = only(entries, "val/acc", stage="longer")
    assert (resumed.cell, resumed.asked, len(resumed.values)) == ({}, 2, 2)
    # Nothing is published of the other stage, of which its choosing measure is shown.
    assert {entry.measure for entry in entries if entry.stage == "all"} == {"val/acc"}


def test_a_measure_that_a_defect_makes_another_thing_is_not_comparable(measure):
    defects = "defects: {single_batch: the loss is that of one batch}, changes: {train/loss: single_batch}, "
    text = stages("{one: {}}", "{one: [[train/loss, val/acc], [0.5, 80]]}", "[train/loss, val/acc]", defects)
    text = text.replace("tolerance: 20", "tolerance: {train/loss: 0.1}")
    entries = measure(lambda row: replace(row, metrics={"train/loss": 0.5, "val/acc": 0.8}), text)
    verdict = only(entries, "train/loss").verdict
    assert verdict.kind == "not comparable"
    assert "the loss is that of one batch" in verdict.sentence
    assert only(entries, "val/acc").verdict.kind != "not comparable"
    assert only(entries, "train/loss", "corrected").verdict is None


def test_a_judged_value_of_a_cell_that_is_not_trained_is_incomplete(measure):
    text = stages("{networks: {grid: [width]}}", "{networks: [[width, val/acc], [8, 80], [16, 90]]}", "[val/acc]")
    text = text.replace("networks: {grid: [width]}", "networks: {cells: [{width: 8}]}")
    entries = measure(lambda row: accuracy(row, 0.8), text)
    entry = only(entries, "val/acc", cell={"width": "16"})
    assert entry.verdict.sentence == "incomplete: no run of this cell is planned by now"
    assert only(entries, "val/acc", cell={"width": "8"}).verdict.kind == "inconclusive"


def test_a_judged_measure_that_no_run_has_is_named(measure):
    text = stages("{networks: {grid: [width]}}", "{networks: [[width, val/macro_f1], [8, 80]]}", "[val/macro_f1]")
    entry = only(measure(lambda row: accuracy(row, 0.8), text), "val/macro_f1", cell={"width": "8"})
    assert entry.verdict.sentence == "incomplete: no run has val/macro_f1"
    text = stages("{networks: {grid: [width]}}", "{networks: [[width, epoch, val/acc], [8, 99, 80]]}", "[val/acc]")
    entry = only(measure(lambda row: accuracy(row, 0.8), text), "val/acc", cell={"width": "8"}, epoch=99)
    assert entry.verdict.sentence == "incomplete: no run has val/acc after epoch 99"


def test_before_training_only_validation_samples_are_measured():
    row = Row("id", (), "s", {}, 0, None, "finished", {"before/loss": 2.3}, curves={"train/loss": [0.5]})
    assert row.value("val/loss", 0) == 2.3
    assert row.value("train/loss", 0) is None
    assert row.value("train/loss", 1) == 0.5


def test_a_cell_that_the_report_chose_has_its_verdict_where_other_protocols_choose_by_seed(measure):
    text = stages(
        "{networks: {grid: [width]}, final: {best_of: networks, over: each seed}}",
        "{final: [[width, val/acc], [16, 90]]}",
        "[val/acc]",
        defects="chosen: {final: {width: 16}}, ",
    )
    entry = only(measure(lambda row: accuracy(row, 0.9), text), "val/acc", stage="final", cell={"width": "16"})
    assert entry.values == {0: 90, 1: 90}
    assert entry.verdict.printed == "90"


def test_beside_augmented_validation_samples_stand_the_samples_themselves(measure):
    text = stages(
        "{networks: {grid: [width], evaluate: [augmented_val]}}",
        "{networks: [[width, augmented_val/acc], [8, 80], [16, 90]]}",
        "[augmented_val/acc]",
    )
    values = {"augmented_val/acc": 0.8, "val/acc": 0.85}
    entries = measure(lambda row: replace(row, metrics=values, counts={"val": 100, "augmented_val": 100}), text)
    for width in ("8", "16"):
        assert only(entries, "augmented_val/acc", cell={"width": width}).mean == pytest.approx(80)
        plain = only(entries, "val/acc", cell={"width": width})
        assert plain.mean == pytest.approx(85)
        assert plain.verdict is None
