"""Torn, empty and foreign files of a run: one sentence names the file and what can still be done."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml

from visionbench.errors import UserError
from visionbench.evaluation.predictions import Predictions, save_predictions
from visionbench.runs.checkpoints import load_checkpoint
from visionbench.runs.compare import first_difference
from visionbench.runs.folder import RunFolder
from visionbench.training.callbacks.metrics import MetricsFile

CONFIG = {"trainer": {"max_epochs": 2}, "model": {"class_path": "nets.Own"}, "data": {"class_path": "nets.Data"}}
METRICS = "epoch,step,train/loss\n0,4,2.25\n1,8,1.5\n"
FIT = (
    "fit --seed_everything 0 --data Digits --data.train_size 200 --model MLP --model.widths [8] --trainer.max_epochs 1"
)
FIT += " --trainer.accelerator cpu --trainer.precision 32-true"


def empty(path):
    path.write_bytes(b"")


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def foreign(path):
    path.write_bytes(b"hello \xff\n")


def a_list(path):
    path.write_text("[]\n")


@pytest.fixture
def run(tmp_path):
    run = RunFolder.claim(tmp_path / "net")
    run.write_config(yaml.safe_dump(CONFIG))
    run.write_input({"class_names": ["cat", "dog"]})
    run.write_metadata({"status": "finished", "command": ["visionbench", "fit"], "epochs": 2})
    run.metrics_path.write_text(METRICS)
    return run


@pytest.mark.fast
@pytest.mark.parametrize("tear", [empty, half, foreign, a_list])
@pytest.mark.parametrize(
    ("name", "read", "otherwise"),
    [
        ("config.yaml", lambda run: run.config, "train the run again by its command, which .*run.json holds"),
        ("run.json", lambda run: run.status, "remove it and write it anew with visionbench fit --resume "),
        ("input.json", lambda run: run.input, "train the run again with visionbench repeat "),
    ],
)
def test_a_torn_file_is_named_with_what_can_still_be_done(run, name, read, otherwise, tear):
    tear(run.path / name)
    with pytest.raises(UserError, match=rf"^{run.path / name} .*; restore the file from a copy, or {otherwise}"):
        read(run)


@pytest.mark.fast
def test_a_configuration_whose_last_line_is_torn_is_not_read_with_another_value(run):
    text = run.config_path.read_text()
    run.config_path.write_text(f"{text}threads: 16\n"[:-2])
    with pytest.raises(UserError, match=r"config\.yaml is torn: its last line is not complete"):
        _ = run.config


@pytest.mark.fast
def test_a_run_whose_configuration_is_gone_is_still_called_a_run(run):
    run.config_path.unlink()
    with pytest.raises(UserError, match=r"config\.yaml is missing; .* by its command, which .*run\.json holds"):
        run.require_run()


@pytest.mark.fast
def test_a_run_without_an_ending_is_trained_again_from_its_configuration(run):
    run.metadata_path.unlink()
    empty(run.input_path)
    with pytest.raises(UserError, match=r"visionbench fit --run_dir null --config .*config\.yaml\.$"):
        _ = run.input


@pytest.mark.fast
@pytest.mark.parametrize(
    ("text", "part"),
    [
        (
            METRICS.replace(",", ";").replace("\n", "\r\n"),
            "has semicolons between its columns, as a spreadsheet writes",
        ),
        (METRICS.replace(",", ";").replace(".", ","), "has semicolons between its columns"),
        ("\ufeff" + METRICS.replace(",", ";"), "has semicolons between its columns"),
        (METRICS.replace(",", "\t"), "has tabs between its columns"),
        (METRICS.replace("2.25", "2;25"), "is not a table of numbers"),
        (METRICS.replace("2.25", '"2,25"'), "is not a table of numbers"),
        (METRICS.replace("1,8,1.5", "1,8,1.5,3"), "is not a table of numbers"),
        ("0,4,2.25\n1,8,1.5\n", "has no column epoch"),
        ("hello\n", "has no column epoch"),
    ],
)
def test_metrics_that_another_program_saved_are_named(run, text, part):
    run.metrics_path.write_text(text, encoding="utf-8", newline="")
    for read in (lambda: run.rows, lambda: MetricsFile(run.metrics_path, epochs=2)):
        with pytest.raises(UserError) as error:
            read()
        assert f"{run.metrics_path} {part}" in str(error.value)
        assert f"or train the run again with visionbench repeat {run.path}." in str(error.value)
    assert run.metrics_path.read_text(encoding="utf-8") == text.replace("\r\n", "\n")


@pytest.mark.fast
def test_metrics_with_a_byte_order_mark_alone_are_read_as_they_were_written(run):
    run.metrics_path.write_text("\ufeff" + METRICS, encoding="utf-8")
    assert run.rows == [
        {"epoch": 0, "step": 4, "train/loss": 2.25},
        {"epoch": 1, "step": 8, "train/loss": 1.5},
    ]
    MetricsFile(run.metrics_path, epochs=2)
    assert run.metrics_path.read_text(encoding="utf-8").splitlines() == METRICS.splitlines()


@pytest.mark.fast
@pytest.mark.parametrize("tear", [empty, half])
def test_metrics_of_fewer_epochs_are_not_resumed(run, tear):
    tear(run.metrics_path)
    with pytest.raises(UserError, match=r"metrics\.csv has [01] rows?, but 2 epochs are finished; restore the file"):
        MetricsFile(run.metrics_path, epochs=2)


@pytest.mark.fast
@pytest.mark.parametrize("name", ["test.csv", "test-probabilities.npy"])
@pytest.mark.parametrize("tear", [empty, half, foreign])
def test_torn_predictions_are_named(run, name, tear):
    labels = np.arange(40) % 2
    probabilities = np.full((40, 2), 0.5, dtype=np.float32)
    names = [f"{place}.png" for place in range(40)]
    save_predictions(run.predictions_folder, Predictions("test", probabilities, labels, labels, names), ("cat", "dog"))
    tear(run.predictions_folder / name)
    with pytest.raises(UserError, match=r"test\.csv or its probabilities cannot be read .*; restore both files"):
        run.predictions("test")


@pytest.mark.fast
@pytest.mark.parametrize("tear", [empty, half, foreign])
def test_a_torn_checkpoint_is_named(tmp_path, tear):
    path = tmp_path / "best.ckpt"
    torch.save({"state_dict": {"weight": torch.zeros(1000)}}, path)
    assert list(load_checkpoint(path, "train")) == ["state_dict"]
    tear(path)
    with pytest.raises(UserError, match=rf"^{path} cannot be read \(.+\); restore the file from a copy, or train\.$"):
        load_checkpoint(path, "train")


@pytest.mark.fast
def test_a_file_of_something_else_is_no_checkpoint(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "best.ckpt")
    with pytest.raises(UserError, match=r"best\.ckpt is not a checkpoint of a run"):
        load_checkpoint(tmp_path / "best.ckpt", "train")


@pytest.fixture(scope="module")
def trained(cli_in, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert cli_in(folder)(f"{FIT} --run_dir run").status == 0
    return folder / "run"


@pytest.mark.parametrize(
    ("name", "tear", "refused", "works"),
    [
        ("checkpoints/best.ckpt", empty, ["test run", "predict run test", "validate run"], ["compare run other"]),
        ("checkpoints/best.ckpt", half, ["test run", "export run --format torch_export"], ["report run"]),
        ("run.json", half, ["test run", "report run", "compare other run", "repeat run", "fit --resume run"], []),
        ("config.yaml", half, ["test run", "report run", "compare run other", "repeat run", "fit --resume run"], []),
        ("input.json", empty, ["test run", "predict run test", "report run"], ["compare run other"]),
        ("metrics.csv", foreign, ["report run", "fit --resume run --trainer.max_epochs 2"], ["test run"]),
        ("step-losses.bin", empty, ["fit --resume run --trainer.max_epochs 2"], ["test run", "report run"]),
        ("predictions/test.csv", half, [], ["test run", "report run"]),
    ],
)
def test_each_command_that_needs_a_torn_file_names_it(cli, tmp_path, trained, name, tear, refused, works):
    shutil.copytree(trained, tmp_path / "run")
    shutil.copytree(trained, tmp_path / "other")
    tear(tmp_path / "run" / name)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    for line in refused:
        sentence = cli(line).refusal()
        assert name.rpartition("/")[2] in sentence, line
        assert "restore" in sentence, line
    assert before == {path: path.read_bytes() for path in before}
    for line in works:
        result = cli(line)
        assert (result.status, "Traceback" in result.err) == (0, False), (line, result)


def test_a_best_checkpoint_that_is_gone_is_not_replaced_by_the_last_one(cli, tmp_path, trained):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run/checkpoints/best.ckpt").unlink()
    assert "run/checkpoints/best.ckpt, the result of the run, is missing" in cli("test run").refusal()


def test_run_json_that_was_removed_is_written_anew(cli, tmp_path, trained):
    shutil.copytree(trained, tmp_path / "run")
    before = json.loads((tmp_path / "run/run.json").read_text())
    (tmp_path / "run/run.json").unlink()
    assert cli("fit --resume run").status == 0
    after = json.loads((tmp_path / "run/run.json").read_text())
    assert (after["status"], after["weights_digest"], after["metrics"]) == (
        "finished",
        before["weights_digest"],
        before["metrics"],
    )


def test_a_repeated_run_without_its_metrics_is_told_in_words(tmp_path, trained):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run/metrics.csv").unlink()
    assert first_difference(trained, tmp_path / "run").endswith("run/metrics.csv is missing")


@pytest.mark.parametrize(
    ("options", "has", "lacks"),
    [
        ("--trainer.logger false", "the one that was kept and tested", "curves "),
        ("--trainer.enable_checkpointing false", "the last one and tested, without a checkpoint", "kept"),
        ("--trainer.profiler simple", "the one that was kept", "nothing"),
    ],
)
def test_the_last_lines_say_what_is_there(cli, tmp_path, options, has, lacks):
    out = cli(f"{FIT} --run_dir made {options}").out
    assert has in out
    assert lacks not in out
    assert ("curves " in out) == any((tmp_path / "made").glob("events*"))
    assert ("profiler" in options) == any((tmp_path / "made").glob("*profile*"))


def test_a_run_that_was_moved_is_named_where_it_is_now(cli, tmp_path):
    assert cli(f"{FIT} --name r").status == 0
    (tmp_path / "archive of runs").mkdir()
    shutil.move(tmp_path / "lightning_logs/r", tmp_path / "archive of runs/r")
    out = cli("fit --resume 'archive of runs/r/version_0' --trainer.max_epochs 2").out
    assert out.splitlines()[-1] == "curves      tensorboard --logdir 'archive of runs'"
