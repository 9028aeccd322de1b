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
        assert re.search(rf"--model\.{option}[ ,]", shown.out)  # a comma where an option has two names (Python 3.13)


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


BLOCK = """
import torch
from torch import nn
from visionbench.models import Classifier

class Net(Classifier):
    def __init__(self, num_classes, input_shape, **kwargs):
        super().__init__(num_classes, input_shape, **kwargs)
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.Linear(32, self.num_outputs))
"""
MISTAKES = {
    "another size": (
        "",
        "",
        "The layer network.2, Linear(in_features=32, out_features=10, bias=True), given a tensor of shape (N, 16), of "
        "N samples, fails: ",
    ),
    "a module of one's own": (
        "16), nn.Linear(32, self.num_outputs))",
        "10), Block())\n\nclass Block(nn.Module):\n    def forward(self, x):\n        return x + torch.zeros(3, 3)",
        "The layer network.2, Block(), given a tensor of shape (N, 10), of N samples, fails (nets.py, line 13): The",
    ),
    "no arguments for the base": (
        "super().__init__(num_classes, input_shape, **kwargs)",
        "super().__init__()",
        "Net cannot be made (nets.py, line 8): Classifier.__init__() missing 2 required positional arguments: "
        "'num_classes' and 'input_shape'; call super().__init__(num_classes, input_shape, **kwargs) first",
    ),
    "no call of the base": (
        "super().__init__(num_classes, input_shape, **kwargs)",
        "pass",
        "call super().__init__(num_classes, input_shape, **kwargs) first in its __init__.",
    ),
    "layers outside of network": (
        "self.network =",
        "self.layers =",
        "Net has no self.network; put the whole network there, from images to logits.",
    ),
}


@pytest.mark.parametrize("command", ["fit --run_dir run --trainer.max_epochs 1", "check"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_in_a_model_of_your_own_is_one_sentence(cli, tmp_path, command, mistake):
    old, new, sentence = MISTAKES[mistake]
    (tmp_path / "nets.py").write_text(BLOCK.replace(old, new) if old else BLOCK)
    try:
        assert sentence in cli(f"{command} --model nets.Net --data Digits").refusal()
    finally:
        sys.modules.pop("nets", None)


def test_a_model_that_hands_nothing_on_says_so_when_an_option_is_given(cli, tmp_path):
    (tmp_path / "nets.py").write_text(BLOCK.replace(", **kwargs", "").replace("nn.Linear(32", "nn.Linear(16"))
    try:
        refusal = cli("check --model nets.Net --model.optimizer.lr 0.01 --data Digits").refusal()
        assert (
            "has no option --model.optimizer.lr, which its base Classifier has; let its __init__ take **kwargs"
            in refusal
        )
    finally:
        sys.modules.pop("nets", None)


def test_an_argument_without_type_or_default_has_to_be_given(cli, tmp_path):
    (tmp_path / "nets.py").write_text(BLOCK.replace(", **kwargs)", ", width, **kwargs)", 1).replace("(32", "(16"))
    try:
        refusal = cli("check --model nets.Net --data Digits").refusal()
        assert refusal == "model.width: not given, and Net has no default for it; give a value."
        assert cli("check --model nets.Net --model.width 3 --data Digits").status == 0
    finally:
        sys.modules.pop("nets", None)


def test_a_class_in_a_module_of_a_package_is_found(cli, tmp_path):
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets/__init__.py").write_text("")
    (tmp_path / "nets/models.py").write_text(BLOCK)
    try:
        refusal = cli("check --model nets.Net --data Digits").refusal()
        assert "there is no class Net in nets; did you mean nets.models.Net?" in refusal
    finally:
        sys.modules.pop("nets", None)


def test_any_other_error_of_a_model_of_your_own_keeps_its_traceback(cli, tmp_path):
    (tmp_path / "nets.py").write_text(BLOCK.replace("super()", "raise RuntimeError('mine')\n        super()"))
    try:
        with pytest.raises(RuntimeError, match="mine"):
            cli("check --model nets.Net --data Digits")
    finally:
        sys.modules.pop("nets", None)


def test_the_model_of_your_own_is_short():
    assert len([line for line in NETS.splitlines() if line]) <= 20
