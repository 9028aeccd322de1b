"""What a guide tells a user to write works as it stands there."""

import json
import re
import sys
from pathlib import Path

import pytest

GUIDE = (Path(__file__).parents[1] / "docs/models.md").read_text(encoding="utf-8")
(NETS,) = re.findall(r"^```python\n(# nets\.py.*?)^```$", GUIDE, flags=re.MULTILINE | re.DOTALL)
(FIT,) = re.findall(r"`visionbench (fit --model nets\.TwoLayers [^`]*)`", GUIDE)


@pytest.fixture
def own_nets(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    yield
    sys.modules.pop("nets", None)  # another folder's nets.py is another module


@pytest.mark.usefixtures("own_nets")
def test_the_model_of_your_own_trains_and_is_tested(cli, tmp_path):
    result = cli(f"{FIT} --trainer.max_epochs 2")
    assert (result.status, result.err) == (0, "")
    assert "TwoLayers, 50,890 parameters" in result.out  # 784 * 64 + 64 + 64 * 10 + 10
    run = Path("lightning_logs/twolayers/version_0")
    metrics = json.loads((tmp_path / run / "run.json").read_text())["metrics"]
    assert metrics["test/acc"] > 0.5
    tested = cli(f"test {run}")
    assert (tested.status, tested.err) == (0, "")
    assert f"Digits test accuracy {100 * metrics['test/acc']:.2f} %" in tested.out


@pytest.mark.usefixtures("own_nets")
def test_the_model_of_your_own_shows_its_options(cli):
    shown = cli("fit --model.help nets.TwoLayers")
    assert shown.status == 0
    assert re.search(r"--model\.width WIDTH\s+Nodes of the hidden layer\. \(type: int, default: 32\)", shown.out)
    for option in ("loss", "optimizer", "lr_scheduler", "lr_interval", "label_smoothing", "l1", "start_from", "freeze"):
        assert f"--model.{option} " in shown.out


@pytest.mark.usefixtures("own_nets")
def test_the_model_of_your_own_takes_what_all_models_take(cli):
    result = cli(
        f"{FIT} --trainer.max_epochs 1 --model.loss nll --model.l1 1e-5 --model.freeze \"['1']\" --model.optimizer SGD "
        "--model.lr_interval step --model.lr_scheduler OneCycleLR --model.lr_scheduler.max_lr 0.1"
    )
    assert result.status == 0
    assert "of which 650 are trained" in result.out
    assert "nll, SGD, lr 0.001, OneCycleLR (max_lr 0.1, total_steps the run's) after each optimizer step" in result.out


@pytest.mark.usefixtures("own_nets")
def test_a_misspelt_option_of_the_model_of_your_own_is_a_sentence(cli):
    assert "did you mean --model.width?" in cli(FIT.replace("--model.width", "--model.widht")).refusal()


def test_the_model_of_your_own_is_short():
    assert len([line for line in NETS.splitlines() if line]) <= 20
