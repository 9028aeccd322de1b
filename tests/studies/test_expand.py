"""The runs that a study consists of."""

import re

import pytest

from visionbench.errors import UserError
from visionbench.studies.expand import plan, set_option
from visionbench.studies.results import Row
from visionbench.studies.spec import load_study

TEXT = """\
title: T
source: S
seeds: [0, 1]
base:
  data: Digits
  model: {class_path: MLP, init_args: {widths: [8], optimizer: {class_path: SGD, init_args: {lr: 0.5, momentum: 0.9}}}}
grid:
  optimizer:
    SGD: {}
    Adam: {model.optimizer: {class_path: Adam, init_args: {lr: 0.001}}}
  width: {8: {}, 16: {model.widths: [16]}}
protocols:
  reported: {set: {model: some_study.SoftmaxMLP}, defects: {double_softmax: twice}, chosen: {final: {width: 16}}}
  corrected: {}
stages:
  all: {grid: [optimizer, width], result: last epoch}
  more: {continue: all, set: {trainer.max_epochs: 20}, result: last epoch}
  final: {best_of: all, by: val/acc, set: {data.val_size: 0}, test: true}
"""


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "some-study.yaml"
    path.write_text(TEXT)
    return load_study(path)


def finished(run, acc, status="finished", counts=None):
    use = run.first
    return Row(
        run.id, run.protocols, use.stage, use.cell, use.seed, use.fold, status, {"val/acc": acc}, counts or {"val": 100}
    )


def configs(plan_, protocol, stage):
    return {(tuple(use.cell.values()), use.seed, use.fold): run.config for use, run in plan_.using(protocol, stage)}


def test_a_mapping_replaces_class_and_arguments_and_a_name_the_class_alone(study):
    cells = configs(plan(study, {}), "reported", "all")
    adam = cells[("Adam", "16"), 1, None]
    assert adam["model"]["class_path"] == "some_study.SoftmaxMLP"
    assert adam["model"]["init_args"]["widths"] == [16]
    assert adam["model"]["init_args"]["optimizer"] == {"class_path": "Adam", "init_args": {"lr": 0.001}}
    assert cells[("SGD", "8"), 0, None]["model"]["init_args"]["optimizer"]["init_args"] == {"lr": 0.5, "momentum": 0.9}
    assert adam["allow"] == ["double_softmax"]
    assert adam["seed_everything"] == 1
    assert adam["checkpoint"] == {"result": "last"}
    assert adam["test_after_fit"] is False
    assert study.base["data"] == "Digits"  # the study itself is not changed


def test_options_are_set_by_the_names_of_the_command_line():
    config = {"model": "MLP", "data": {"class_path": "Digits"}}
    for name, value in (
        ("model.optimizer.lr", 0.1),
        ("data.batch_size", 32),
        ("trainer.max_epochs", 2),
        ("data.val_size", None),
    ):
        set_option(config, name, value)
    assert config == {
        "model": {"class_path": "MLP", "init_args": {"optimizer": {"init_args": {"lr": 0.1}}}},
        "data": {"class_path": "Digits", "init_args": {"batch_size": 32, "val_size": None}},
        "trainer": {"max_epochs": 2},
    }


def test_runs_go_seed_by_seed_over_all_cells(study):
    runs = list(plan(study, {}).runs.values())
    seeds = [run.first.seed for run in runs]
    assert seeds == sorted(seeds)
    first = [run.first.stage for run in runs if run.first.seed == 0]
    assert first.index("more") > max(i for i, stage in enumerate(first) if stage == "all")


def test_the_report_chooses_its_own_cell_and_corrected_the_best_one_of_its_results(study):
    before = plan(study, {})
    assert [(entry.protocol, entry.stage, entry.count) for entry in before.waiting] == [("corrected", "final", 2)]
    assert {use.cell["width"] for use, _ in before.using("reported", "final")} == {"16"}
    scores = {("SGD", "8"): 0.8, ("SGD", "16"): 0.7, ("Adam", "8"): 0.85, ("Adam", "16"): 0.6}
    rows = {run.id: finished(run, scores[tuple(use.cell.values())]) for use, run in before.using("corrected", "all")}
    after = plan(study, rows)
    assert not after.waiting
    assert [use.cell for use, _ in after.using("corrected", "final")] == [{"optimizer": "Adam", "width": "8"}] * 2
    assert [(c.protocol, c.by) for c in after.choices] == [("reported", "the report"), ("corrected", "val/acc of all")]


def test_a_cell_with_a_failed_run_is_never_chosen(study):
    before = plan(study, {})
    rows = {}
    for use, run in before.using("corrected", "all"):
        best = tuple(use.cell.values()) == ("Adam", "16")
        failed = best and use.seed == 1
        rows[run.id] = finished(run, 0.99 if best else 0.5 + 0.01 * len(rows), "failed" if failed else "finished")
    chosen = [use.cell for use, _ in plan(study, rows).using("corrected", "final")]
    assert chosen == [{"optimizer": "Adam", "width": "8"}] * 2
    everything_failed = {run_id: finished(before.runs[run_id], 0.9, "diverged") for run_id in rows}
    waiting = plan(study, everything_failed).waiting
    assert [entry.reason for entry in waiting] == ["no cell of all has finished runs with val/acc alone"]


def test_more_seeds_of_a_cell_are_trained_after_the_others_and_choose_nothing(study):
    more = "seeds: [1], more_seeds: {seeds: [0, 2], cells: [{optimizer: Adam, width: 8}]}, "
    study.path.write_text(TEXT.replace("all: {grid", f"all: {{{more}grid"))
    study = load_study(study.path)
    before = plan(study, {})
    trained = [(use.seed, use.cell["optimizer"], use.cell["width"]) for use, _ in before.using("corrected", "all")]
    assert sorted(trained, key=lambda entry: entry[0] != 1)[4:] == [(0, "Adam", "8"), (2, "Adam", "8")]
    assert [run.first.seed for run in before.runs.values() if run.first.stage == "all"] == [1] * 8 + [0] * 2 + [2] * 2
    assert len(list(before.using("corrected", "more"))) == 6  # what is resumed has the same seeds
    rows = {}
    for use, run in before.using("corrected", "all"):
        best = tuple(use.cell.values()) == ("SGD", "8")
        rows[run.id] = finished(run, 0.9 if best else 0.8 if use.seed == 1 else 0.99)
    assert {tuple(use.cell.values()) for use, _ in plan(study, rows).using("corrected", "final")} == {("SGD", "8")}


def test_each_seed_may_choose_its_own_cell(study):
    path = study.path
    path.write_text(TEXT.replace("by: val/acc", "by: val/acc, over: each seed"))
    study = load_study(path)
    before = plan(study, {})
    rows = {}
    for use, run in before.using("corrected", "all"):
        best = ("SGD", "8") if use.seed == 0 else ("Adam", "16")
        rows[run.id] = finished(run, 0.9 if tuple(use.cell.values()) == best else 0.5)
    chosen = {use.seed: tuple(use.cell.values()) for use, _ in plan(study, rows).using("corrected", "final")}
    assert chosen == {0: ("SGD", "8"), 1: ("Adam", "16")}


def test_protocols_that_differ_in_the_test_alone_share_their_trainings(tmp_path):
    path = tmp_path / "other.yaml"
    text = TEXT.replace("set: {model: some_study.SoftmaxMLP}, defects: {double_softmax: twice}, chosen", "chosen")
    stages = "all: {grid: [width], result: last epoch}\n  same: {grid: [width], result: last epoch, test: true}"
    text = text.replace("all: {grid: [optimizer, width], result: last epoch}", stages)
    path.write_text(text.replace("best_of: all", "best_of: same"))
    planned = plan(load_study(path), {})
    shared = [run for run in planned.runs.values() if run.first.stage == "all"]
    assert len(shared) == 4
    assert all(len(run.uses) == 4 and run.config["test_after_fit"] for run in shared)


def test_a_resumed_stage_has_runs_of_its_own_with_the_settings_of_the_first(study):
    planned = plan(study, {})
    for use, run in planned.using("reported", "more"):
        parent = planned.runs[run.continues.run]
        assert (parent.first.cell, parent.first.seed, parent.first.stage) == (use.cell, use.seed, "all")
        assert run.config["trainer"]["max_epochs"] == 20
        assert run.config["model"] == parent.config["model"]


def test_an_id_changes_with_what_changes_numbers_and_with_nothing_else(study):
    ids = set(plan(study, {}).runs)

    def changed(old, new):
        study.path.write_text(TEXT.replace(old, new))
        return set(plan(load_study(study.path), {}).runs)

    assert changed("title: T", "title: Another") == ids
    assert changed("test: true", "test: false") == ids
    assert not changed("widths: [8],", "widths: [8], dropout: 0.1,") & ids
    assert len(changed("lr: 0.001", "lr: 0.002") & ids) == 18  # of 34: those of SGD
    assert not changed("data: Digits", "data: Digits\n  threads: 2") & ids
    assert changed("data: Digits", "data: {class_path: Digits, init_args: {root: elsewhere}}") == ids


def test_folds_are_pooled_by_their_numbers_of_samples(tmp_path):
    path = tmp_path / "folds.yaml"
    path.write_text(TEXT.replace("{grid: [optimizer, width], result", "{grid: [width], folds: 3, result"))
    study = load_study(path)
    before = plan(study, {})
    folds = [(use.fold, run.config["data"]["init_args"]) for use, run in before.using("corrected", "all")][:3]
    assert [fold for fold, _ in folds] == [0, 1, 2]
    assert folds[1][1] == {"folds": 3, "fold": 1, "fold_is": "val"}
    rows = {}
    for use, run in before.using("corrected", "all"):
        # Of the means, 0.7 and 0.7; by samples, 0.8 and 0.6.
        acc = {"8": (0.9, 0.9, 0.3), "16": (0.5, 0.6, 1.0)}[use.cell["width"]][use.fold]
        rows[run.id] = finished(run, acc, counts={"val": (50, 50, 20)[use.fold]})
    assert {use.cell["width"] for use, _ in plan(study, rows).using("corrected", "final")} == {"8"}


def test_of_cells_with_the_same_mean_the_first_is_chosen_and_that_is_said(study):
    rows = {}
    for use, run in plan(study, {}).using("corrected", "all"):
        # Rows have nine digits: the second cell's mean is larger by what rounding leaves.
        place = list(study.grid["optimizer"]).index(use.cell["optimizer"])
        rows[run.id] = finished(run, (0.763888889, 0.7638888892)[place] if use.cell["width"] == "8" else 0.5)
    (choice,) = [choice for choice in plan(study, rows).choices if choice.protocol == "corrected"]
    assert choice.cell == {"optimizer": "SGD", "width": "8"}
    assert choice.by == "val/acc of all, the first of 2 cells with the same mean"


@pytest.mark.parametrize("fold_is", ["", ", set: {data.fold_is: val}"])
def test_folds_do_not_choose_the_epoch_of_which_they_are_the_score(tmp_path, fold_is):
    path = tmp_path / "folds.yaml"
    head = TEXT.partition("stages:")[0].replace(", chosen: {final: {width: 16}}", "")
    path.write_text(f"{head}stages: {{all: {{grid: [width], folds: 3{fold_is}}}}}\n")
    with pytest.raises(
        UserError, match=r"stages\.all has folds of validation samples, and its result is the epoch that"
    ):
        plan(load_study(path), {})
    path.write_text(path.read_text().replace("folds: 3", "folds: 3, result: last epoch"))
    assert len(plan(load_study(path), {}).runs) == 2 * 2 * 2 * 3


def test_what_one_protocol_allows_a_protocol_with_the_same_runs_does_not_get(tmp_path):
    """A correction that was forgotten is refused by its guard, as if the protocol stood alone."""
    path = tmp_path / "some-study.yaml"
    same = "base:\n  data: Digits\n  model: some_study.SoftmaxMLP\nprotocols:\n"
    text = f"title: T\nsource: S\nseeds: [0]\n{same}  reported: {{defects: {{double_softmax: twice}}}}\n"
    for protocols, allowed in ((text, ["double_softmax"]), (f"{text}  corrected: {{}}\n", [])):
        path.write_text(f"{protocols}stages: {{all: {{}}}}\n")
        (run,) = plan(load_study(path), {}).runs.values()
        assert run.config["allow"] == allowed


def test_two_labels_that_are_one_run_are_refused(tmp_path):
    path = tmp_path / "some-study.yaml"
    path.write_text(TEXT.replace("16: {model.widths: [16]}", "16: {model.widths: [8]}").replace("[optimizer, ", "["))
    sentence = (
        r"stages\.all: the cells width 8 and width 16 are the same run in protocol reported; see whether the stage"
    )
    with pytest.raises(UserError, match=sentence):
        plan(load_study(path), {})


@pytest.mark.parametrize("number", ["1e-3", "1.0E-03", ".1e-2"])
def test_a_number_that_two_labels_write_in_two_ways_is_one_run(tmp_path, number):
    path = tmp_path / "some-study.yaml"
    rates = f"0.001: {{model.optimizer.lr: 0.001}}, {number}: {{model.optimizer.lr: {number}}}"
    base = "title: T\nseeds: [0]\nbase: {data: Digits, model: MLP}\nstages: {all: {grid: [rate]}}\n"
    path.write_text(f"{base}grid: {{rate: {{{rates}}}}}\n")
    sentence = f"the cells rate 0.001 and rate {re.escape(number)} are the same run in protocol reported"
    with pytest.raises(UserError, match=sentence):
        plan(load_study(path), {})
    path.write_text(f"{base}grid: {{rate: {{{rates.replace('0.001', '0.002')}}}}}\n")
    assert len(plan(load_study(path), {}).runs) == 2


@pytest.mark.parametrize("option", ["data.train_size", "trainer.limit_train_batches"])
def test_a_count_and_a_share_are_two_runs(tmp_path, option):
    path = tmp_path / "some-study.yaml"
    grid = f"grid: {{size: {{one: {{{option}: 1}}, all: {{{option}: 1.0}}}}}}\nstages: {{all: {{grid: [size]}}}}\n"
    path.write_text(f"title: T\nseeds: [0]\nbase: {{data: Digits, model: MLP}}\n{grid}")
    assert len(plan(load_study(path), {}).runs) == 2


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (  # the class that a label names has none of the arguments that the protocol sets
            "corrected: {}",
            "corrected: {set: {model.optimizer.momentum: 0.5}}",
            "label Adam of optimizer replaces model.optimizer, so that model.optimizer.momentum of protocol corrected "
            "is lost; set arguments of model.optimizer instead, or give model.optimizer.momentum in set of a stage "
            "that has this protocol alone.",
        ),
        (
            "{8: {}, 16: {model.widths: [16]}}\nprotocols:",
            "{8: {model.widths: [8]}, 16: {model.widths: [16]}}\nprotocols:\n  wide: {set: {model.widths: [99]}}",
            "protocols.wide.set has model.widths, which every cell sets by a label of its own, so that it has no "
            "effect; leave it out.",
        ),
        (
            "set: {trainer.max_epochs: 20}",
            "set: {trainer.max_epochs: 10}",
            "stages.more continues all, whose runs have 10 epochs, and has trainer.max_epochs 10, so that it would "
            "train nothing; give it set: {trainer.max_epochs: ...} with more epochs, counted from the first one.",
        ),
        (
            "set: {data.val_size: 0}",
            "set: {model.widths: [99]}",
            "stages.final.set has model.widths, which would undo model.widths of label 16 of width, so that the cell "
            "would not be what it is called; leave one of them out.",
        ),
        (
            "{grid: [optimizer, width], ",
            "{search: {trials: 3, over: {model.dropout: {low: 0, high: 0.5}}}, set: {model.dropout: 0.3}, ",
            "stages.all.set has model.dropout, which would undo model.dropout of label ",
        ),
        (
            "{grid: [optimizer, width], ",
            "{search: {trials: 3, over: {model.dropout: {low: 0, high: 0.5}}}, set: {model: CNN, model.dropout: 0.3}, ",
            "stages.all.set has model.dropout, which would undo model.dropout of label ",
        ),
        (
            "by: val/acc",
            "by: val/macro_f1",
            "stages.final.by is val/macro_f1, which the runs of all do not measure; write metrics: [macro_f1] in base.",
        ),
        (
            "set: {data.val_size: 0}",
            "set: {checkpoint.result: last}",
            "the runs of final have checkpoint.result: last, but the stage has the result best; write result: last "
            "epoch in the stage, and leave checkpoint.result out.",
        ),
    ],
)
def test_an_option_that_would_be_overridden_in_silence_is_refused(tmp_path, old, new, sentence):
    path = tmp_path / "some-study.yaml"
    assert old in TEXT
    path.write_text(TEXT.replace(old, new, 1).replace("base:\n", "base:\n  trainer: {max_epochs: 10}\n"))
    with pytest.raises(UserError) as refusal:
        plan(load_study(path), {})
    assert sentence in str(refusal.value)


def test_a_label_may_say_otherwise_than_a_protocol_that_other_cells_follow(tmp_path):
    path = tmp_path / "some-study.yaml"
    path.write_text(TEXT.replace("corrected: {}", "corrected: {set: {model.widths: [4]}}"))
    cells = configs(plan(load_study(path), {}), "corrected", "all")
    widths = {cell[1]: config["model"]["init_args"]["widths"] for (cell, *_), config in cells.items()}
    assert widths == {"8": [4], "16": [16]}


def test_a_metric_that_is_measured_may_choose_a_cell(tmp_path):
    path = tmp_path / "some-study.yaml"
    for by, option in (("macro_f1", "metrics: [macro_f1]"), ("f1_3", "metrics: [per_class_f1]")):
        path.write_text(TEXT.replace("by: val/acc", f"by: val/{by}").replace("base:\n", f"base:\n  {option}\n"))
        assert plan(load_study(path), {}).waiting
    path.write_text(
        TEXT.replace("by: val/acc", "by: val/auc").replace("base:\n", "base:\n  objective: {metric: val/auc}\n")
    )
    assert plan(load_study(path), {}).waiting


def test_folds_of_validation_samples_do_not_test_the_same_samples_again(tmp_path):
    path = tmp_path / "folds.yaml"
    all_of_it, tested = "{grid: [optimizer, width], result", "{grid: [width], folds: 3, test: true, result"
    path.write_text(TEXT.replace(all_of_it, tested))
    with pytest.raises(UserError, match=r"stages\.all has folds and test: true, but its folds hold out validation"):
        plan(load_study(path), {})
    path.write_text(TEXT.replace(all_of_it, tested.replace("result", "set: {data.fold_is: test}, result")))
    folds = [run.config["data"]["init_args"] for _, run in plan(load_study(path), {}).using("corrected", "all")][:3]
    assert [(fold["fold"], fold["fold_is"]) for fold in folds] == [(0, "test"), (1, "test"), (2, "test")]


def test_a_label_that_would_undo_the_defect_of_a_protocol_is_refused(study):
    study.path.write_text(TEXT.replace("SGD: {}", "SGD: {model: {class_path: CNN}}"))
    with pytest.raises(
        UserError, match=r"SGD of optimizer replaces model, which is some_study\.SoftmaxMLP in protocol"
    ):
        plan(load_study(study.path), {})


NEEDING = """\
title: T
source: S
seeds: [0, 1]
base: {data: Digits, model: {class_path: MLP, init_args: {start_from: $first}}}
needs: {first: {study: some-study, protocol: corrected, stage: more, cell: {optimizer: SGD, width: 8}}}
stages: {only: {}}
"""


def test_a_run_of_another_study_is_found_by_its_seed(study):
    path = study.path.with_name("needing.yaml")
    path.write_text(NEEDING)
    planned = plan(load_study(path), {})
    assert len(planned.foreign) == 4  # two that are needed, and the two that these resume
    for run in planned.runs.values():
        source = planned.foreign["some-study", run.sources["first"].run]
        assert (source.first.stage, source.first.seed) == ("more", run.first.seed)
    ids = set(planned.runs)
    study.path.write_text(TEXT.replace("max_epochs: 20", "max_epochs: 21"))
    assert not set(plan(load_study(path), {}).runs) & ids  # other starting weights make another run


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("width: 8}", "width: 9}", "some-study has no run of protocol corrected, stage more"),
        ("$first", "$second", "$second stands for a run of another study, but needs has no second."),
    ],
)
def test_a_run_of_another_study_that_is_not_there_is_refused(study, old, new, sentence):
    path = study.path.with_name("needing.yaml")
    path.write_text(NEEDING.replace(old, new))
    with pytest.raises(UserError) as refusal:
        plan(load_study(path), {})
    assert sentence in str(refusal.value)


def test_in_a_trial_a_run_that_resumes_another_one_gets_as_many_more_epochs(study):
    planned = plan(study, {}, epochs=2)
    epochs = {(use.stage, run.config["trainer"]["max_epochs"]) for run in planned.runs.values() for use in run.uses}
    assert epochs == {("all", 2), ("more", 4), ("final", 2)}


@pytest.mark.parametrize(
    ("by", "best"),
    [("val/cohen_kappa", "16"), ("val/macro_f1", "16"), ("val/loss", "8"), ("val/calibration_error", "8")],
)
def test_the_best_cell_is_the_best_one_by_the_mode_of_its_measure(tmp_path, by, best):
    path = tmp_path / "other.yaml"
    text = TEXT.replace("[optimizer, width]", "[width]").replace("by: val/acc", f"by: {by}")
    path.write_text(text.replace("base:\n", "base:\n  metrics: [cohen_kappa, macro_f1, calibration_error]\n"))
    study = load_study(path)
    rows = {}
    for run in plan(study, {}).runs.values():
        use = run.first
        value = 0.9 if use.cell["width"] == "16" else 0.1
        metrics = {by: value}
        rows[run.id] = Row(run.id, run.protocols, use.stage, use.cell, use.seed, None, "finished", metrics)
    choices = [choice for choice in plan(study, rows).choices if choice.protocol == "corrected"]
    assert [choice.cell["width"] for choice in choices] == [best]


def test_the_best_cell_of_runs_that_were_resumed_is_found(tmp_path):
    path = tmp_path / "other.yaml"
    path.write_text(TEXT.replace("best_of: all", "best_of: more").replace("[optimizer, width]", "[width]"))
    study = load_study(path)
    planned = plan(study, {})
    rows = {run.id: finished(run, 0.5 + 0.01 * int(run.first.cell["width"])) for run in planned.runs.values()}
    assert [c.cell for c in plan(study, rows).choices if c.protocol == "corrected"] == [{"width": "16"}]


@pytest.mark.parametrize("option", ["data.source", "model.start_from", "model.weights"])
def test_labels_that_differ_in_a_path_alone_are_runs_of_their_own(tmp_path, option):
    path = tmp_path / "other.yaml"
    axis = f"  file: {{one: {{{option}: ./one.ckpt}}, other: {{{option}: ./other.ckpt}}}}\n"
    text = TEXT.replace("grid:\n", f"grid:\n{axis}").replace("[optimizer, width]", "[file]")
    path.write_text(text)
    cells = {cell[:1] for cell in configs(plan(load_study(path), {}), "corrected", "all")}
    assert len(cells) == 2
    runs = {run.id for _, run in plan(load_study(path), {}).using("corrected", "all")}
    assert len(runs) == 2 * 2


def test_a_metric_that_is_added_to_a_study_is_asked_for(tmp_path):
    path = tmp_path / "other.yaml"
    path.write_text(TEXT.replace("base:\n", "base:\n  metrics: [macro_f1]\n"))
    study = load_study(path)
    assert all("macro_f1" in run.evaluations for run in plan(study, {}).runs.values())
    path.write_text(TEXT.replace("all: {grid", "all: {evaluate: [train_eval], every: epoch, grid"))
    run = next(iter(plan(load_study(path), {}).runs.values()))
    assert run.evaluations == {"train_eval", "train_eval each epoch"}
