"""What guards refuse, what `--allow` turns into a warning, and where both are recorded."""

import html
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

import visionbench
from visionbench.data import Digits
from visionbench.data.augment import CutMix, HorizontalFlip, MixUp
from visionbench.guards import (
    GUARDS,
    DataContext,
    EndContext,
    Finding,
    FirstBatchContext,
    Guard,
    ModelContext,
    Refused,
    inspect,
)
from visionbench.guards.data import DuplicateFiles
from visionbench.models import MLP
from visionbench.runs.folder import RunFolder

# Defects of published reports that can be repeated on purpose.
PUBLISHED = ("train_as_test", "augmented_validation", "unscaled_inputs", "frozen_in_train_mode", "broadcast_loss")
PUBLISHED += ("one_column_argmax", "foreign_parameters", "test_as_validation", "double_softmax")
SHORT = "--model MLP --data Digits --trainer.max_epochs 1 --name run"
WATCHED = "The official test images are the validation set, so that there is no test accuracy"


class Picky(Guard):
    """Refuses everything."""

    name = "picky"
    stage = "data"

    def check(self, context):
        yield Finding("refusal", f"{context} is wrong; change it.")


def test_a_refusal_becomes_a_warning_only_where_its_guard_is_allowed():
    with pytest.raises(Refused, match=r"^x is wrong; change it, or allow it with --allow '\[picky\]'\.$"):
        inspect([Picky()], "data", "x", ["other"])
    assert inspect([Picky()], "data", "x", ["picky"]) == [Finding("warning", "x is wrong; change it.", "picky")]
    assert inspect([Picky()], "model", "x") == []


def test_a_guard_without_a_name_cannot_be_allowed(monkeypatch):
    monkeypatch.setattr(Picky, "name", "")
    with pytest.raises(Refused, match=r"^x is wrong; change it\.$"):
        inspect([Picky()], "data", "x", ["", "picky"])


def test_names_of_guards_are_unique_and_each_guard_says_what_it_does():
    names = [guard.name for guard in GUARDS if guard.name]
    assert len(names) == len(set(names))
    assert all(guard.__doc__ and guard.__doc__ != Guard.__doc__ for guard in GUARDS)


def test_the_page_has_each_guard_and_each_name():
    page = (Path(__file__).parents[2] / "docs" / "guards.md").read_text(encoding="utf-8")
    words = " ".join(page.split())
    missing = [type(guard).__name__ for guard in GUARDS if guard.__doc__.splitlines()[0] not in words]
    assert missing == []
    headings = re.findall(r"^### `(\w+)`$", page, re.MULTILINE)
    # One that never refuses is in the table of what is reported, with its name in the text.
    assert sorted([*headings, "unscaled_inputs"]) == sorted(guard.name for guard in GUARDS if guard.name)
    assert "--allow '[unscaled_inputs]'" in page
    assert set(PUBLISHED) <= set(headings) | {"unscaled_inputs"}


def test_an_unknown_name_is_refused_with_the_known_ones(cli):
    known = sorted(guard.name for guard in GUARDS if guard.name)
    sentence = cli(f"fit {SHORT} --allow [test_as_validaton]").refusal()
    assert sentence == (
        f"allow: there is no guard test_as_validaton; known: {', '.join(known)}; did you mean test_as_validation?"
    )
    with pytest.raises(visionbench.errors.UserError, match="there is no guard x; known"):
        visionbench.fit("MLP", "Digits", **{"allow": ["x"]})


def test_an_allowed_finding_is_shown_and_recorded(cli, tmp_path):
    result = cli(f"fit {SHORT} --allow [test_as_validation]")
    assert f"note: {WATCHED}" in result.out
    (finding,) = json.loads((tmp_path / "lightning_logs/run/version_0/run.json").read_text())["findings"]
    assert (finding["guard"], finding["severity"]) == ("test_as_validation", "warning")
    assert finding["sentence"].startswith(WATCHED)


def test_python_allows_as_the_command_line_does(digits_root, tmp_path):
    run = visionbench.fit(
        "MLP",
        Digits(root=str(digits_root)),
        max_epochs=1,
        run_dir=tmp_path / "run",
        **{"allow": ["test_as_validation"]},
    )
    assert not [name for name in run.metrics if name.startswith("test/")]
    assert json.loads((run.folder / "run.json").read_text())["findings"][0]["guard"] == "test_as_validation"


def test_a_test_set_that_python_code_watches_is_refused_unless_it_is_allowed(digits_root, tmp_path):
    data = Digits(root=str(digits_root))
    data.watch_test()
    with pytest.raises(Refused, match=rf"{WATCHED}.*or allow it with --allow '\[test_as_validation\]'\.$"):
        visionbench.fit("MLP", data, max_epochs=1, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def older(cli, tmp_path):
    """A run whose config.yaml has `allow` where it once was, with the value given."""

    def make(allow, words=""):
        assert cli(f"fit {SHORT} {words}").status == 0
        path = tmp_path / "lightning_logs/run/version_0/config.yaml"
        config = yaml.safe_load(path.read_text())
        del config["allow"]
        config["data"]["init_args"]["allow"] = allow
        path.write_text(yaml.safe_dump(config))
        return "lightning_logs/run/version_0"

    return make


@pytest.mark.parametrize("allow", [None, []])
def test_a_run_of_the_time_of_data_allow_is_opened(cli, older, allow):
    run = older(allow)
    assert cli(f"test {run}").status == 0
    assert cli(f"predict {run} test --output rows.csv").status == 0
    assert cli(f"fit --resume {run} --trainer.max_epochs 2").status == 0
    again = cli(f"repeat {run} --figures none")
    assert (again.status, "bit for bit" in again.out) == (0, True), again


def test_a_run_that_watched_its_test_set_by_data_allow_still_does(cli, older, tmp_path):
    run = older(["test_as_validation"], "--allow [test_as_validation]")
    assert "the official ones are the validation split" in cli(f"test {run}").refusal()
    assert cli(f"validate {run}").status == 0
    assert cli(f"predict {run} val --output rows.csv").status == 0
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 1 + 360  # Digits' official test images
    assert cli(f"report {run}").status == 0
    page = (tmp_path / run / "report.html").read_text()
    assert "were the validation split" in page
    (finding,) = RunFolder(tmp_path / run).metadata["findings"]
    assert page.count(html.escape(finding["sentence"])) == 1
    assert cli(f"repeat {run} --figures none").status == 0


@pytest.mark.parametrize("words", ["--data.allow [test_as_validation]", "--config old.yaml"])
def test_data_allow_names_its_successor(cli, tmp_path, words):
    (tmp_path / "old.yaml").write_text("data: {class_path: Digits, init_args: {allow: [test_as_validation]}}")
    sentence = cli(f"fit {SHORT} {words}").refusal()
    assert sentence == "There is no option --data.allow any more; use --allow '[test_as_validation]'."


class Infinite(MLP):
    """A model whose outputs overflow."""

    def forward(self, images):
        return super().forward(images) * math.inf


def test_a_first_loss_that_is_not_finite_is_refused_and_nothing_is_left(cli, tmp_path):
    line = f"fit {SHORT} --model tests.guards.test_guards.Infinite"
    sentence = cli(line).refusal()
    assert sentence.startswith("The loss of the first batch is nan, expected a finite number; ")
    assert sentence.endswith("--allow '[non_finite_loss]'.")
    assert not (tmp_path / "lightning_logs").exists()
    allowed = cli(f"{line} --allow [non_finite_loss]")
    assert "note: The loss of the first batch is nan" in allowed.out
    assert (tmp_path / "lightning_logs/run/version_0").is_dir()


def test_only_the_first_batch_is_looked_at():
    guard = [guard for guard in GUARDS if guard.stage == "first batch"]
    for values, count in (([0.5], 0), ([0.5, math.inf], 1)):
        context = FirstBatchContext(MLP(10, (1, 8, 8)), SimpleNamespace(), None, torch.tensor(values))
        assert len(inspect(guard, "first batch", context, ["non_finite_loss"])) == count


@pytest.mark.parametrize(("loss", "refused"), [("mse", True), ("nll", True), ("cross_entropy", False)])
def test_mixed_images_need_a_loss_of_shares(loss, refused):
    model = MLP(10, (1, 28, 28), widths=[4], loss=loss)
    context = ModelContext(model, SimpleNamespace(augment=[HorizontalFlip(), MixUp(), CutMix()]))
    if refused:
        with pytest.raises(Refused, match=f"model.loss is {loss}, .* but MixUp and CutMix in data.augment make labels"):
            inspect(GUARDS, "model", context)
    else:
        assert inspect(GUARDS, "model", context) == []
    assert inspect(GUARDS, "model", ModelContext(model, SimpleNamespace(augment=[HorizontalFlip()]))) == []


def test_duplicate_files_that_were_kept_are_reported():
    store = SimpleNamespace(meta={"skipped": [{"file": "c.png", "reason": "empty"}]})
    data = SimpleNamespace(item="image", kept_copies=lambda: ["b.png"], store=store)
    (finding,) = inspect([DuplicateFiles()], "data", DataContext(data))
    assert finding.sentence.startswith("1 image has the same bytes as another, such as b.png;")
    assert finding.sentence.endswith("--data.duplicates skip --data.max_skipped 2 leaves it out.")
    assert finding.severity == "warning"


def test_a_run_is_refused_at_its_end_where_nothing_was_trained_or_warned_of_where_nothing_was_validated():
    with pytest.raises(Refused, match="Nothing was trained"):
        inspect(GUARDS, "end", EndContext([], "val/loss"))
    row = {"epoch": 0, "train/loss": 1.0}
    (finding,) = inspect(GUARDS, "end", EndContext([row], "val/loss"))
    assert finding.sentence == "No epoch was validated, so that there is no val/loss and the last epoch is the result."
    assert inspect(GUARDS, "end", EndContext([row], None)) == []
    assert inspect(GUARDS, "end", EndContext([row, row | {"val/loss": np.nan}], "val/loss")) == []
