"""`visionbench check`: what it finds, and that it leaves nothing behind."""

import pytest

LINE = "check --model MLP --model.widths [4] --data Digits"

SOFTMAX = """
from torch import nn
from visionbench.models import MLP

class Softmax(MLP):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.network = nn.Sequential(self.network, nn.Softmax(dim=1))
"""


@pytest.fixture
def mistaken(tmp_path):
    (tmp_path / "mistaken_nets.py").write_text(SOFTMAX)
    return "check --model mistaken_nets.Softmax --model.widths [4] --data Digits"


def text_of(result):
    """What a table says, without its lines and line breaks."""
    return " ".join(result.out.replace("│", " ").split())


def test_a_run_without_mistakes(cli, tmp_path):
    result = cli(LINE)
    assert (result.status, result.out) == (
        0,
        "0 notes, no refusal; one step was trained and one batch validated, and no run was written\n",
    )
    assert list(tmp_path.iterdir()) == []


def test_the_file_may_stand_first(cli, tmp_path):
    (tmp_path / "mine.yaml").write_text("model: {class_path: MLP, init_args: {widths: [4]}}\ndata: Digits\n")
    assert cli("check mine.yaml").status == 0


def test_all_that_a_stage_refuses_and_warns_of_is_in_the_table(cli, tmp_path, mistaken):
    result = cli(f"{mistaken} --data.mean [-1.0] --data.std [1.0]")
    assert result.status == 1
    text = text_of(result)
    assert "refusal double_softmax The outputs of Softmax are those of a softmax" in text
    assert "note unscaled_inputs The inputs of the first layer" in text
    assert "1 refusal: fit would not start this run; --allow '[double_softmax]'" in text
    assert not (tmp_path / "lightning_logs").exists()


def test_an_allowed_refusal_is_a_note(cli, mistaken):
    result = cli(f"{mistaken} --allow [double_softmax]")
    assert result.status == 0
    assert "note double_softmax" in text_of(result)
    assert "1 note, no refusal" in text_of(result)


def test_a_refusal_of_the_configuration_is_in_the_table(cli):
    result = cli(f"{LINE} --objective.metric test/loss")
    assert result.status == 1
    assert "refusal - objective.metric is test/loss" in text_of(result)


def test_a_callback_that_needs_a_logger_gets_one_that_writes_nothing(cli, tmp_path):
    assert cli(f"{LINE} --trainer.callbacks+=LearningRateMonitor").status == 0
    assert list(tmp_path.iterdir()) == []


def test_mistakes_of_the_command_are_sentences(cli):
    assert "No data is given" in cli("check").refusal()
    assert "the file missing.yaml does not exist" in cli("check missing.yaml").refusal()
    assert "leave --resume out" in cli(f"{LINE} --resume auto").refusal()
    assert "widhts" in cli(f"{LINE} --model.widhts [4]").refusal()


def test_defaults_of_a_users_class_for_what_the_data_set_gives_are_not_taken(cli, tmp_path):
    (tmp_path / "default_nets.py").write_text(
        "from visionbench.models import MLP\n"
        "class Defaults(MLP):\n"
        "    def __init__(self, num_classes: int = 3, input_shape: tuple[int, ...] = (1, 2, 2), **kwargs):\n"
        "        super().__init__(num_classes, input_shape, **kwargs)\n"
    )
    assert cli("check --model default_nets.Defaults --model.widths [4] --data Digits").status == 0
    given = cli("fit --model default_nets.Defaults --data Digits --model.num_classes 7")
    assert "model.num_classes is set to 7" in given.refusal()
