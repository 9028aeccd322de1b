"""Run folders: reading and writing their files, also torn, damaged and absent ones."""

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml

from visionbench.errors import UserError
from visionbench.evaluation.predictions import Predictions, save_predictions
from visionbench.runs.folder import RunFolder
from visionbench.runs.identity import processor

pytestmark = pytest.mark.fast

CONFIG = {"trainer": {"max_epochs": 2}, "model": {"class_path": "nets.Own"}, "data": {"class_path": "nets.Data"}}


@pytest.fixture
def run(tmp_path):
    run = RunFolder.claim(tmp_path / "net")
    run.write_config(yaml.safe_dump(CONFIG))
    return run


def test_neither_torch_nor_lightning_is_imported():
    modules = "import sys, visionbench.runs.folder, visionbench.runs.compare\n"
    code = modules + "print([name for name in ('torch', 'lightning', 'pytorch_lightning') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


@pytest.mark.parametrize(
    "names", [("before/loss", "before/acc"), ("before/val/loss", "before/val/acc"), ("val/loss", "val/acc")]
)
def test_metrics_before_training_are_read_with_and_without_their_prefix(run, names):
    run.untrained_path.write_text(json.dumps(dict(zip(names, (2.3, 0.1), strict=True))))
    assert run.untrained_metrics == {"val/loss": 2.3, "val/acc": 0.1}


def test_a_run_without_an_ending_is_interrupted_and_has_nothing_but_its_configuration(run):
    assert run.path.name == "version_0"
    assert run.config == CONFIG
    assert (run.metadata, run.input, run.rows, run.figure_contents, run.untrained_metrics) == ({}, {}, [], {}, {})
    assert (run.status, run.is_finished, run.has_results) == ("interrupted", False, False)
    assert len(run.step_losses) == 0
    assert run.step_losses.dtype == np.float32
    assert run.predictions("test") is None
    assert run.events == []


@pytest.mark.parametrize("status", ["finished", "diverged", "interrupted", "failed"])
def test_the_status_is_that_of_the_metadata(run, status):
    run.write_metadata({"status": status, "seed": 0})
    assert run.metadata == {"status": status, "seed": 0, "schema": 2, "processor": processor()}
    run.write_metadata({**run.metadata, "processor": "that of another machine"})  # as after a test elsewhere
    run.write_metadata(run.metadata)
    assert run.metadata["processor"] == "that of another machine"
    assert run.status == status
    assert run.is_finished is (status == "finished")


def test_a_run_of_schema_1_is_finished(run):
    run.metadata_path.write_text('{"schema": 1, "seed": 0}')
    assert run.is_finished


@pytest.mark.parametrize("content", [{}, {"status": "unfinished"}, {"status": "done"}])
def test_metadata_with_an_unknown_status_is_not_written(run, content):
    with pytest.raises(ValueError, match="expected one of finished, diverged"):
        run.write_metadata(content)
    assert not run.metadata_path.exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"schema": 3, "status": "finished"}', "has schema 3, expected 1 or 2"),
        ('{"schema": 2, "status": "done"}', "has status done, expected one of finished, diverged"),
        ('{"schema": 2', "cannot be read"),
        ("[1]", "holds no names with values"),
    ],
)
def test_damaged_metadata_is_named(run, content, sentence):
    run.metadata_path.write_text(content)
    with pytest.raises(UserError, match=sentence) as error:
        _ = run.status
    assert str(error.value).startswith(str(run.metadata_path))


def test_input_is_written_with_its_schema(run):
    run.write_input({"class_names": ["cat", "dog"]})
    assert json.loads(run.input_path.read_text()) == {"schema": 1, "class_names": ["cat", "dog"]}
    assert run.input["class_names"] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("finished", None),
        ("interrupted", "is interrupted, or still being trained; its checkpoint is that of the best"),
        ("failed", "has failed; its checkpoint is that of the best of the epochs so far, and no result"),
    ],
)
def test_a_run_without_a_result_says_what_its_checkpoint_is(run, status, words):
    run.write_metadata({"status": status})
    assert run.warning() is None if words is None else words in run.warning()


def test_input_of_a_newer_version_is_refused(run):
    run.input_path.write_text('{"schema": 2, "class_names": []}')
    with pytest.raises(UserError, match=r"input\.json has schema 2, expected 1; use the version of visionbench that"):
        _ = run.input


@pytest.mark.parametrize("content", ["trainer: {}\nmodel: {}\n", "just words", "trainer: [\n"])
def test_a_damaged_configuration_is_named(run, content):
    run.config_path.write_text(content)
    with pytest.raises(
        UserError, match=r"config\.yaml .*restore the file from a copy, or train the run again with its options\.$"
    ):
        _ = run.config


def test_a_folder_without_a_configuration_is_not_a_run(tmp_path):
    for use in (lambda run: run.config, RunFolder.require_run, RunFolder.result_checkpoint):
        with pytest.raises(UserError, match="is not a run folder"):
            use(RunFolder(tmp_path))


def test_what_is_given_for_a_run_folder_is_told_from_it(run):
    for path, words in {
        run.path / "nowhere": "(there is no such folder); give one like lightning_logs/cnn/version_0.",
        run.config_path: f"(it is a file in one); give {run.path}.",
    }.items():
        with pytest.raises(UserError) as refused:
            RunFolder(path).require_run()
        assert str(refused.value) == f"{path} is not a run folder {words}"
    runs = run.path / "runs"
    for number in (0, 9, 10):
        (runs / f"version_{number}").mkdir(parents=True)
        (runs / f"version_{number}" / "config.yaml").touch()
    with pytest.raises(
        UserError, match=r"\(it is the folder above its runs\); give one of them, such as .*version_10\.$"
    ):
        RunFolder(runs).require_run()


def test_a_torn_last_row_is_left_out(run):
    run.metrics_path.write_text("epoch,step,val/loss,val/acc\n0,3,0.5,\n1,6,nan,0.75\n2,9,0.1,0.")
    rows = run.rows
    assert rows[0] == {"epoch": 0, "step": 3, "val/loss": 0.5}
    assert np.isnan(rows[1].pop("val/loss"))
    assert rows[1:] == [{"epoch": 1, "step": 6, "val/acc": 0.75}]
    run.metrics_path.write_text("epoch,step\n0,words\n")
    with pytest.raises(UserError, match="is not a table of numbers"):
        _ = run.rows


def test_step_losses_are_read_as_they_were_written(run):
    losses = np.array([0.5, np.nan, 0.25], dtype=np.float32)
    run.losses_path.write_bytes(losses.tobytes())
    np.testing.assert_array_equal(run.step_losses, losses)


def test_predictions_have_the_classes_of_the_input(run):
    run.write_input({"class_names": ["cat", "dog"]})
    probabilities = np.array([[0.25, 0.75], [0.5, 0.5]], dtype=np.float32)
    predictions = Predictions("test", probabilities, np.array([1, 0]), np.array([1, 1]), ["a", "b"])
    save_predictions(run.predictions_folder, predictions, ("cat", "dog"))
    read = run.predictions("test")
    np.testing.assert_array_equal(read.predicted, [1, 0])
    np.testing.assert_array_equal(read.probabilities, probabilities)
    run.write_input({"class_names": ["cat", "cow"]})
    with pytest.raises(UserError, match="there is no class 'dog'"):
        run.predictions("test")


def test_the_result_is_the_best_checkpoint_or_else_the_last(run):
    run.checkpoints.mkdir()
    (run.checkpoints / "last.ckpt").touch()
    assert run.result_checkpoint().name == "last.ckpt"
    (run.checkpoints / "best.ckpt").touch()
    assert run.result_checkpoint() == run.checkpoints / "best.ckpt"


def test_a_locked_run_is_refused_until_the_lock_is_released(run):
    lock = run.lock()
    with pytest.raises(UserError, match="is being trained by another process"):
        RunFolder(run.path).lock()
    lock.release()
    RunFolder(run.path).lock().release()


def test_all_runs_of_a_folder_come_newest_first(tmp_path):
    for name in ("version_2", "version_10", "version_x", "other"):
        (tmp_path / name).mkdir()
    assert [run.path.name for run in RunFolder.all_in(tmp_path)] == ["version_10", "version_2"]
