"""Digests, intervals, JSON and run folders."""

import json
import math
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from visionbench.errors import UserError
from visionbench.evaluation.intervals import wilson_interval
from visionbench.files import replacing, write_json
from visionbench.runs.folder import RunFolder
from visionbench.runs.identity import config_digest, weights_digest

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    [(25, 140, 0.1240, 0.2503), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_the_interval_is_wilsons(correct, count, low, high):
    assert wilson_interval(correct, count) == pytest.approx((low, high), abs=5e-5)


def test_the_weights_digest_sees_any_weight_name_type_and_shape():
    state = {"a": torch.arange(4.0), "b": torch.tensor(3)}
    others = [
        {**state, "a": torch.tensor([0.0, 1.0, 2.0, 3.0000002])},
        {**state, "b": torch.tensor(4)},
        {**state, "a": state["a"].view(torch.int32)},
        {**state, "a": state["a"].reshape(2, 2)},
        {"aa": state["a"], "b": state["b"]},
        {"a": state["a"]},
    ]
    digests = [weights_digest(each) for each in (state, *others)]
    assert len(set(digests)) == len(digests)


def test_the_weights_digest_is_of_the_weights_alone():
    state = {"a": torch.arange(4.0).reshape(2, 2), "b": torch.tensor(3)}
    same = {"b": torch.tensor(3), "a": torch.tensor([[0.0, 2.0], [1.0, 3.0]], requires_grad=True).T}
    assert weights_digest(same) == weights_digest(state)


def config(**changes):
    trainer = {"max_epochs": 3, "default_root_dir": changes.get("folder")}
    return {
        "seed_everything": changes.get("seed", 0),
        "name": changes.get("name"),
        "log_dir": changes.get("log_dir", "lightning_logs"),
        "trainer": trainer,
        "model": {"class_path": "MLP", "init_args": {"optimizer": {"init_args": {"lr": changes.get("lr", 0.1)}}}},
        "data": {"class_path": "Digits", "init_args": {"root": changes.get("root"), "val_size": changes.get("val", 1)}},
    }


@pytest.mark.parametrize("change", [{"log_dir": "x"}, {"name": "x"}, {"root": "/x"}, {"folder": "/x"}])
def test_the_config_digest_ignores_where_things_lie(change):
    assert config_digest(config(**change)) == config_digest(config())


@pytest.mark.parametrize("change", [{"lr": 0.2}, {"seed": 1}, {"val": 2}])
def test_the_config_digest_sees_what_changes_the_run(change):
    assert config_digest(config(**change)) != config_digest(config())


def test_json_has_null_where_a_number_is_not_finite(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, {"loss": math.nan, "deep": {"values": [math.inf, 1.5]}, "name": "é"})
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "loss": None,
        "deep": {"values": [None, 1.5]},
        "name": "é",
    }
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_file_is_replaced_only_after_its_block_and_is_on_the_disk_by_then(tmp_path, monkeypatch):
    path, order = tmp_path / "table.csv", []
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", lambda descriptor: order.append(path.read_text()))
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert order == ["old"]
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_whose_writing_fails_stays_and_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def write_half(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), replacing(path, tmp_path / ".part") as temporary:
        write_half(temporary)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_runs_that_begin_at_once_get_different_folders(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda _: RunFolder.claim(tmp_path / "runs").path, range(64)))
    assert sorted(folder.name for folder in folders) == sorted(f"version_{n}" for n in range(64))
    assert all(folder.is_dir() for folder in folders)


def test_a_new_run_comes_after_all_others(tmp_path):
    (tmp_path / "version_7").mkdir()
    (tmp_path / "version_x").mkdir()
    assert RunFolder.claim(tmp_path).path.name == "version_8"


def test_a_run_without_a_checkpoint_cannot_be_evaluated(tmp_path):
    (tmp_path / "config.yaml").write_text("{trainer: {}, model: {}, data: {}}\n")
    with pytest.raises(UserError, match="no checkpoint yet"):
        RunFolder(tmp_path).result_checkpoint()
