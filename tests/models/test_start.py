"""A run that starts from another run's result, with parts of it frozen."""

import shutil
import sys

import pytest
import torch
import yaml

from tests.fakes import Letters
from tests.test_fit import listing, report
from visionbench.models import CNN, MLP
from visionbench.models.weights import Start
from visionbench.runs.identity import weights_digest

MLP_LINE = "--model MLP --model.widths [8] --model.batch_norm true --model.dropout 0.5"
CNN_LINE = (
    "--model CNN --model.widths [4,6] --model.convs [1,1] --model.dropouts [0,0.5] --model.channel_dropout true "
    "--model.dense 5 --model.dense_dropout 0.5"
)
LINES = {"mlp": MLP_LINE, "cnn": CNN_LINE}
ARGUMENTS = {
    "mlp": (MLP, {"widths": [8], "batch_norm": True, "dropout": 0.5}),
    "cnn": (
        CNN,
        {
            "widths": [4, 6],
            "convs": [1, 1],
            "dropouts": [0, 0.5],
            "channel_dropout": True,
            "dense": 5,
            "dense_dropout": 0.5,
        },
    ),
}
STILL = "--model.optimizer SGD --model.optimizer.lr 0 --trainer.max_epochs 1"  # only batch norms' statistics move
SHORT = "--trainer.precision 32-true --trainer.limit_train_batches 6"


def weights_of(run, name="best"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def differing(weights, others):
    assert weights.keys() == others.keys()
    return {n for n in weights if weights[n].shape != others[n].shape or not torch.equal(weights[n], others[n])}


@pytest.fixture(scope="module")
def earlier(cli_in, tmp_path_factory):
    """The folders of a run of each kind on Digits."""
    folder = tmp_path_factory.mktemp("earlier")
    for line in LINES.values():
        result = cli_in(folder)(f"fit {line} {SHORT} --data Digits --trainer.max_epochs 2 --seed_everything 5")
        assert result.status == 0, result
    return {name: folder / "lightning_logs" / name / "version_0" for name in LINES}


@pytest.fixture(params=list(LINES))
def name(request):
    return request.param


@pytest.fixture
def run(name, tmp_path):
    """The folder of the run that starts."""
    return tmp_path / "lightning_logs" / name / "version_0"


def test_all_weights_are_those_of_the_run_when_training_starts(cli, earlier, name, run):
    frozen = "--model.freeze [hidden]" if name == "mlp" else "--model.freeze [blocks,dense]"  # for the batch norms
    result = cli(f"fit {LINES[name]} {SHORT} {STILL} {frozen} --data Digits --model.start_from {earlier[name]}")
    assert (result.status, "error" in result.err) == (0, False)
    assert not differing(weights_of(run, "last"), weights_of(earlier[name]))


def test_the_run_says_what_it_started_from(cli, earlier, name, run):
    result = cli(f"fit {LINES[name]} {SHORT} {STILL} --data Digits --model.start_from {earlier[name]}")
    checkpoint = earlier[name] / "checkpoints" / "best.ckpt"
    assert f"start      {checkpoint}\n" in result.out
    assert report(run)["start"] == {
        "file": str(checkpoint),
        "weights_digest": report(earlier[name])["weights_digest"],
        "reinitialized_layer": None,
    }
    assert report(earlier[name])["start"] is None
    for command in ("test", "validate"):  # the earlier run is not asked again
        assert "start  " not in cli(f"{command} {run}").out


def test_the_best_epoch_is_what_is_started_from(cli, earlier, tmp_path):
    folder = shutil.copytree(earlier["mlp"], tmp_path / "copy")
    checkpoint = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    checkpoint["state_dict"]["network.head.bias"] += 1
    torch.save(checkpoint, folder / "checkpoints" / "best.ckpt")
    assert cli(f"fit {MLP_LINE} {SHORT} {STILL} --data Digits --model.start_from copy").status == 0
    after = weights_of(tmp_path / "lightning_logs" / "mlp" / "version_0", "last")
    assert torch.equal(after["network.head.bias"], checkpoint["state_dict"]["network.head.bias"])


def test_a_checkpoint_file_and_bare_weights_are_taken_too(cli, earlier, tmp_path):
    torch.save(weights_of(earlier["mlp"], "last"), tmp_path / "weights.pt")
    for version, place in enumerate((earlier["mlp"] / "checkpoints" / "last.ckpt", "weights.pt")):
        line = f"fit {MLP_LINE} {SHORT} {STILL} --model.freeze [hidden] --data Digits --model.start_from {place}"
        assert cli(line).status == 0
        run = tmp_path / "lightning_logs" / "mlp" / f"version_{version}"
        assert not differing(weights_of(run, "last"), weights_of(earlier["mlp"], "last"))


def test_only_the_last_layer_is_reinitialized_for_another_number_of_classes(cli, earlier, name, run):
    frozen = "[hidden]" if name == "mlp" else "[blocks,dense]"
    result = cli(
        f"fit {LINES[name]} {SHORT} {STILL} --model.freeze {frozen} --data tests.fakes.Letters "
        f"--data.batch_size 5 --model.start_from {earlier[name]}"
    )
    assert (result.status, result.err) == (0, "")
    after, before = weights_of(run, "last"), weights_of(earlier[name])
    assert differing(after, before) == {"network.head.weight", "network.head.bias"}
    assert after["network.head.weight"].shape[0] == 3
    kind, arguments = ARGUMENTS[name]
    torch.manual_seed(0)
    fresh = kind(3, Letters.input_shape, **arguments).state_dict()
    assert torch.equal(after["network.head.weight"], fresh["network.head.weight"])  # as a new network's
    assert "best.ckpt; network.head is reinitialized\n" in result.out
    assert report(run)["start"]["reinitialized_layer"] == "network.head"


def test_the_frozen_rest_is_bit_identical_after_training(cli, earlier, name, run):
    frozen = "[hidden]" if name == "mlp" else "[blocks,dense]"
    result = cli(
        f"fit {LINES[name]} --model.freeze {frozen} --data tests.fakes.Letters --data.batch_size 5 "
        f"--model.optimizer SGD --model.optimizer.lr 0.5 --model.optimizer.weight_decay 0.1 --model.l1 0.1 "
        f"--trainer.max_epochs 3 --model.start_from {earlier[name]}"
    )
    assert result.status == 0
    trained = report(run)["trainable"]
    assert f" parameters, of which {trained:,} are trained" in result.out
    assert trained == (8 * 3 + 3 if name == "mlp" else 5 * 3 + 3)
    assert differing(weights_of(run, "last"), weights_of(earlier[name])) == {"network.head.weight", "network.head.bias"}
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert len(checkpoint["optimizer_states"][0]["param_groups"][0]["params"]) == 2


def test_what_is_not_frozen_is_trained_on(cli, earlier, name, run):
    frozen = "[hidden.0.0.weight]" if name == "mlp" else "[blocks.0]"
    line = f"fit {LINES[name]} {SHORT} --model.freeze {frozen} --data Digits --trainer.max_epochs 1"
    assert cli(f"{line} --model.start_from {earlier[name]}").status == 0
    after, before = weights_of(run, "last"), weights_of(earlier[name])
    part = "network.hidden.0.0.weight" if name == "mlp" else "network.blocks.0."
    assert {n for n in after if n not in differing(after, before)} == {n for n in after if n.startswith(part)}


WATCHED_NETS = '''
import torch
from torch import nn

from visionbench.models import CNN

MODES = []
OUTPUTS = []


class Watched(CNN):
    """Records, in every training step, the modes of frozen modules and whether equal images give equal outputs."""

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        self.train()  # as many a library does to the whole model

    def training_step(self, batch, batch_idx):
        parts = [self.network.blocks, self.network.dense]
        MODES.append({
            type(module).__name__: module.training
            for part in parts
            for module in part.modules()
            if isinstance(module, nn.Dropout | nn.Dropout2d | nn.BatchNorm2d)
        })
        MODES[-1]["model"] = self.training
        with torch.no_grad():
            once, again = (self.network.dense(self.network.blocks(batch[0])) for _ in range(2))
        OUTPUTS.append(torch.equal(once, again))
        return super().training_step(batch, batch_idx)
'''


@pytest.mark.parametrize(("frozen", "mode"), [("[blocks,dense]", False), ("[]", True)])
def test_what_is_frozen_is_in_evaluation_while_the_rest_trains(cli, earlier, tmp_path, frozen, mode):
    (tmp_path / "watched_nets.py").write_text(WATCHED_NETS)
    line = CNN_LINE.replace("--model CNN", "--model watched_nets.Watched")
    try:
        result = cli(
            f"fit {line} {SHORT} --model.freeze {frozen} --data Digits --trainer.max_epochs 2 "
            f"--model.start_from {earlier['cnn']}"
        )
        assert result.status == 0, result
        nets = sys.modules["watched_nets"]
        assert len(nets.MODES) == 13  # the first call is that of the trial before training
        for modes in nets.MODES:
            assert modes == {"BatchNorm2d": mode, "Dropout2d": mode, "Dropout": mode, "model": True}
        assert set(nets.OUTPUTS) == {not mode}
    finally:
        sys.modules.pop("watched_nets", None)


WRONG = {
    "another width": (
        "--model MLP --model.widths [9] --model.batch_norm true",
        "network.hidden.0.0.weight is (8, 784), expected (9, 784)",
    ),
    "a layer less": ("--model MLP --model.widths [] --model.batch_norm true", "network.hidden.0.0.weight is surplus"),
    "a layer more": (
        "--model MLP --model.widths [8,8] --model.batch_norm true",
        "network.hidden.1.0.weight is missing",
    ),
    "no batch norm": ("--model MLP --model.widths [8]", "network.hidden.0.1.running_mean is surplus"),
    "another model": (CNN_LINE, "network.blocks.0.0.weight is missing", "and "),
}


@pytest.mark.parametrize(("model", "parts"), [(m, parts) for m, *parts in WRONG.values()], ids=list(WRONG))
def test_a_run_of_another_model_is_refused_by_the_names_that_differ(cli, earlier, tmp_path, model, parts):
    sentence = cli(f"fit {model} --data Digits --model.start_from {earlier['mlp']}").refusal()
    for part in (*parts, str(earlier["mlp"] / "checkpoints" / "best.ckpt"), "arguments of the run"):
        assert part in sentence
    assert not (tmp_path / "lightning_logs").exists()


def test_a_last_layer_of_other_inputs_is_another_model_s(cli, earlier, tmp_path):
    """The layer is not reinitialized: its bias would come from the other run."""
    weights = weights_of(earlier["mlp"])
    weights["network.head.weight"] = torch.zeros(10, 5)
    torch.save(weights, tmp_path / "weights.pt")
    sentence = cli(f"fit {MLP_LINE} --data Digits --model.start_from weights.pt").refusal()
    assert "network.head.weight is (10, 5), expected (10, 8)" in sentence


def test_data_of_another_size_are_another_model_s(cli, earlier):
    sentence = cli(f"fit {MLP_LINE} --data tests.fakes.Tiny --model.start_from {earlier['mlp']}").refusal()
    assert "network.hidden.0.0.weight is (8, 784), expected (8, 105)" in sentence


@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_a_run_that_is_not_there_is_refused(cli, tmp_path, place):
    (tmp_path / "empty").mkdir()
    sentence = cli(f"fit {MLP_LINE} --data Digits --model.start_from {place}").refusal()
    assert place in sentence
    assert not (tmp_path / "lightning_logs").exists()


def test_a_run_without_a_checkpoint_is_refused(cli, tmp_path):
    (tmp_path / "young").mkdir()
    (tmp_path / "young" / "config.yaml").write_text("trainer: {}\nmodel: {}\ndata: {}\n")
    assert "no checkpoint yet" in cli(f"fit {MLP_LINE} --data Digits --model.start_from young").refusal()


def test_the_run_can_be_run_again_from_another_folder(cli, cli_in, earlier, tmp_path, tmp_path_factory):
    shutil.copytree(earlier["mlp"], tmp_path / "first")
    line = f"fit {MLP_LINE} {SHORT} --model.freeze [hidden] --data Digits --trainer.max_epochs 2"
    assert cli(f"{line} --model.start_from first").status == 0
    run = tmp_path / "lightning_logs" / "mlp" / "version_0"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["init_args"]["start_from"] == str((tmp_path / "first").resolve())
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert cli_in(elsewhere)(f"fit --config {run / 'config.yaml'} --name again").status == 0
    again = elsewhere / "lightning_logs" / "again" / "version_0"
    assert (again / "metrics.csv").read_bytes() == (run / "metrics.csv").read_bytes()
    for key in ("weights_digest", "config_digest", "data_digest", "parameters", "trainable"):
        assert report(again)[key] == report(run)[key]
    assert report(again)["start"]["weights_digest"] == report(run)["start"]["weights_digest"]


def test_evaluating_a_run_needs_what_it_started_from_no_more(cli, cli_in, earlier, tmp_path, tmp_path_factory):
    first = tmp_path_factory.mktemp("gone") / "first"
    shutil.copytree(earlier["mlp"], first)
    line = f"fit {MLP_LINE} {SHORT} --data Digits --trainer.max_epochs 1"
    assert cli(f"{line} --model.start_from {first}").status == 0
    shutil.rmtree(first)
    run = tmp_path / "lightning_logs" / "mlp" / "version_0"
    shown = cli_in(tmp_path_factory.mktemp("empty"))(f"test {run}")
    assert (shown.status, shown.err) == (0, "")
    assert f"test loss   {report(run)['metrics']['test/loss']:.4f}" in shown.out


def test_the_earlier_run_is_left_as_it_was(cli, earlier):
    before = listing(earlier["mlp"])
    assert cli(f"fit {MLP_LINE} {SHORT} {STILL} --data Digits --model.start_from {earlier['mlp']}").status == 0
    assert listing(earlier["mlp"]) == before


def test_the_digest_of_the_start_is_of_the_weights_that_were_loaded(cli, earlier, tmp_path):
    weights = weights_of(earlier["mlp"], "last")
    torch.save(weights, tmp_path / "weights.pt")
    line = f"fit {MLP_LINE} {SHORT} {STILL} --data Digits --model.start_from weights.pt"
    assert cli(line).status == 0
    start = report(tmp_path / "lightning_logs" / "mlp" / "version_0")["start"]
    assert start["weights_digest"] == weights_digest(weights)


def test_the_record_of_a_start_is_restored_when_a_run_is_resumed(tmp_path):
    start, resumed = Start(), Start()
    assert start.record() is None
    resumed.restore(None)
    assert resumed == Start()
    start.set_weights(tmp_path / "w.pt", {"a": torch.ones(2)}, reinitialized_layer="network.head")
    resumed.restore(start.record())
    assert resumed == start
    assert resumed.record() == {
        "file": str(tmp_path / "w.pt"),
        "weights_digest": weights_digest({"a": torch.ones(2)}),
        "reinitialized_layer": "network.head",
    }


def test_the_record_of_an_older_version_is_restored():
    start = Start()
    start.restore({"file": "w.pt", "weights_digest": "0", "anew": "network.head"})
    assert start.reinitialized_layer == "network.head"
