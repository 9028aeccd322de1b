"""Which runs are resumed, and which are refused, from the records in their checkpoints."""

import pytest
import torch
import yaml

from visionbench.errors import UserError
from visionbench.runs.folder import RunFolder
from visionbench.runs.identity import flat, versions
from visionbench.runs.resume import differences, newest_unfinished, open_for_resume

pytestmark = pytest.mark.fast

CONFIG = {
    "seed_everything": 0,
    "trainer": {"max_epochs": 3},
    "model": {"class_path": "MLP", "init_args": {"widths": [8]}},
    "data": {"class_path": "Digits", "init_args": {"val_size": 1}},
}


def record(start=None, paths=None, processes=1, code="code", max_epochs=3):
    """A record as `resume.record` gives it."""
    config = {**CONFIG, "trainer": {"max_epochs": max_epochs}}
    parts = {"config": flat(config), "data": "data", "start": start, "processes": processes, "code": code}
    return {
        "identity": parts,
        "starting_paths": paths or {},
        "versions": versions(),
        "machine": {"threads": 1},
    }


def old_record(**model):
    """A record of the version before, with paths in its configuration."""
    arguments = {"widths": [8], **model}
    data = {"class_path": "Digits", "init_args": {"val_size": 1, "source": "/images"}}
    config = {**CONFIG, "model": {"class_path": "MLP", "init_args": arguments}, "data": data}
    return {
        "config": flat(config),
        "data": {"digest": "data"},
        "code": {"digest": "code"},
        "versions": versions(),
        "machine": {"threads": 1},
    }


def started(parent, described, start=None):
    """A run folder with one checkpoint, after the first epoch."""
    run = RunFolder.claim(parent)
    run.write_config(yaml.safe_dump(CONFIG))
    run.checkpoints.mkdir()
    state = {"epochs": 1, "batches": 0, "all_batches": 5, "step": 5, "best_epoch": None, "improved": False}
    state |= {"described": described, "finished": False, "should_stop": False, "start": start}
    torch.save({"visionbench": state}, run.checkpoints / "last.ckpt")
    return run


@pytest.mark.parametrize("status", [None, "interrupted", "failed"])
def test_a_run_that_was_interrupted_is_resumed(tmp_path, status):
    run = started(tmp_path, record())
    if status is not None:
        run.write_metadata({"status": status})
    resumption = open_for_resume(run.path, record(), allow_changes=False)
    assert (resumption.epochs, resumption.step, resumption.changes) == (1, 5, [])
    assert newest_unfinished(tmp_path, record()) == run.path


def test_a_finished_run_is_resumed_for_more_epochs_only(tmp_path):
    run = started(tmp_path, record())
    run.write_metadata({"status": "finished"})
    with pytest.raises(UserError, match=r"is finished, after 1 epoch; to train longer, raise"):
        open_for_resume(run.path, record(), allow_changes=False)
    assert open_for_resume(run.path, record(max_epochs=4), allow_changes=False).extends
    assert newest_unfinished(tmp_path, record()) is None


def test_auto_passes_over_runs_that_diverged_or_had_other_starting_weights(tmp_path):
    started(tmp_path, record()).write_metadata({"status": "diverged"})
    started(tmp_path, record("a", {"start_from": "/a"}))
    assert newest_unfinished(tmp_path, record()) is None
    assert newest_unfinished(tmp_path, record(None, {"start_from": "/a"})).name == "version_1"


@pytest.mark.parametrize(
    ("now", "changes"),
    [
        (record(None, {"start_from": "/a"}), []),  # a resumed run does not read the starting weights
        (record("a", {"start_from": "/a"}), []),
        (record("a", {"start_from": "/moved"}), []),
        (record("b", {"start_from": "/a"}), ["the starting weights changed"]),
        (record(None, {"start_from": "/b"}), ["model.init_args.start_from was /a, is /b"]),
        (record(), ["model.init_args.start_from was /a, is None"]),
        (record("a", {"start_from": "/a"}, processes=2), ["the number of processes was 1, is 2"]),
        (record("a", {"start_from": "/a"}, code="other"), ["the source code changed"]),
        (record("a", {"start_from": "/a"}, max_epochs=2), ["trainer.max_epochs was 3, is 2"]),
        (record("a", {"start_from": "/a"}, max_epochs=4), []),
    ],
)
def test_differences_are_named(now, changes):
    assert differences(record("a", {"start_from": "/a"}), now) == changes


def test_a_checkpoint_of_the_version_before_is_resumed(tmp_path):
    run = started(tmp_path, old_record(start_from="/a"), {"weights_digest": "a"})
    now = record(None, {"start_from": "/a"}, processes=2)
    assert open_for_resume(run.path, now, allow_changes=False).changes == []


def test_a_checkpoint_of_the_version_before_is_refused_with_what_changed(tmp_path):
    run = started(tmp_path, old_record(widths=[16]))
    with pytest.raises(
        UserError, match=r"was started with other settings: model.init_args.widths was \[16\], is \[8\]"
    ):
        open_for_resume(run.path, record(), allow_changes=False)
