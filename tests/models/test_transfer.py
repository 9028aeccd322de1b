"""A network for photographs that stays as it was, and a new head."""

import json
import pickle
import shutil
import sys
import urllib.error

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from torch import nn
from torch.nn import functional as F
from torchvision.models import get_model_weights, resnet18, resnet50

from tests.fakes import Letters, Tiny
from visionbench.data import Digits
from visionbench.errors import UserError
from visionbench.models import FrozenResNet

IMAGENET_FILE = get_model_weights("resnet18").DEFAULT.url.rpartition("/")[2]


def frozen_resnet(shape=(3, 64, 64), classes=10, **arguments):
    return FrozenResNet(classes, shape, **{"weights": "none", **arguments})


def count(model, trained=False):
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained)


def report_network(model):
    """torchvision's ResNet-18 with the head of the report, and the model's weights."""
    network = resnet18(weights=None)
    network.fc = nn.Sequential(nn.Linear(512, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 10))
    names = {n: n.replace("network.backbone.", "").replace("network.head.", "fc.") for n in model.state_dict()}
    network.load_state_dict({names[name]: weight for name, weight in model.state_dict().items()})
    return network


def moved(network, *, seed=1):
    """Gives batch norms statistics, and every weight a value, that are not those of a new network."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network


@pytest.fixture(scope="module")
def trained_weights():
    """The state dict of a ResNet-18 as torchvision's file holds it: with 1,000 classes."""
    return moved(resnet18(weights=None)).state_dict()


def same_weights(module, weights):
    own = module.state_dict()
    return own.keys() == weights.keys() and all(torch.equal(own[name], weights[name]) for name in own)


def without(weights, start):
    return {name: weight for name, weight in weights.items() if not name.startswith(start)}


# The network ---------------------------------------------------------------------------------------------------------


def test_the_parameters_are_the_report_s():
    model = frozen_resnet()
    model.prepare_start()
    assert count(model) == 11_310_410
    assert count(model, trained=True) == 133_898


@pytest.mark.parametrize("training", [False, True])
def test_the_outputs_are_those_of_torchvision_s_network_with_the_report_s_head(training):
    model = frozen_resnet()
    model.prepare_start()
    moved(model)
    plain = report_network(model).train(training)
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    images = torch.randn(4, 3, 64, 64)
    outputs = []
    for network in (model.train(training), plain):
        torch.manual_seed(3)  # the same dropout in both
        outputs.append(network(images))
    assert torch.equal(*outputs)
    assert training == (not torch.equal(outputs[0], model(images)))  # the head's dropout is that of the mode


@pytest.mark.parametrize(
    ("shape", "size"),
    [((1, 28, 28), (64, 64)), ((3, 28, 28), (64, 64)), ((1, 96, 80), (96, 80)), ((3, 16, 24), (64, 96))],
)
def test_gray_and_small_images_become_photographs(shape, size):
    model = frozen_resnet(shape).eval()
    images = torch.randn(2, *shape)
    photographs = F.interpolate(images, size, mode="bilinear", align_corners=False)
    photographs = torch.cat([photographs] * 3, dim=1) if shape[0] == 1 else photographs
    torch.testing.assert_close(model(images), report_network(model).eval()(photographs))


def test_another_resnet_is_chosen_by_name():
    model = frozen_resnet(architecture="resnet50", hidden=7)
    backbone = resnet50(weights=None)
    backbone.fc = nn.Identity()
    assert count(model) == count(backbone) + 2048 * 7 + 7 + 7 * 10 + 10


def test_images_of_two_channels_are_refused():
    with pytest.raises(UserError, match="2 channels"):
        frozen_resnet((2, 28, 28))


def test_an_unknown_architecture_is_refused_with_those_that_are_known(cli, tmp_path):
    sentence = cli("fit --model FrozenResNet --model.architecture resnet19 --data tests.fakes.Tiny").refusal()
    for part in ("'resnet19'", "resnet18", "resnext50_32x4d", "wide_resnet50_2", "timm/NAME"):
        assert part in sentence
    assert "fcn" not in sentence
    assert "keypoint" not in sentence


# Frozen --------------------------------------------------------------------------------------------------------------

FIT = "fit --model FrozenResNet --model.weights none --model.min_size 8 --model.hidden 4 --trainer.max_epochs 2"
RUN = "lightning_logs/frozenresnet/version_0"


def last_checkpoint(folder):
    return torch.load(folder / RUN / "checkpoints" / "last.ckpt", weights_only=True)


def fresh(kind, seed=0, **arguments):
    """The model as it was before its run."""
    torch.manual_seed(seed)
    return FrozenResNet(
        len(kind.class_names), kind.input_shape, **{"weights": "none", "min_size": 8, "hidden": 4, **arguments}
    )


def of_optimizer(checkpoint):
    (group,) = checkpoint["optimizer_states"][0]["param_groups"]
    return len(group["params"])


@pytest.mark.slow
def test_two_epochs_on_digits_leave_the_backbone_as_it_was(cli, tmp_path):
    result = cli(f"{FIT.replace('--model.min_size 8 --model.hidden 4', '')} --data Digits --model.min_size 32")
    assert (result.status, result.err) == (0, "")
    assert "FrozenResNet, 11,310,410 parameters, of which 133,898 are trained" in result.out
    checkpoint = last_checkpoint(tmp_path)
    before = fresh(Digits, min_size=32, hidden=256).state_dict()
    assert checkpoint["state_dict"].keys() == before.keys()
    for name, weight in checkpoint["state_dict"].items():
        assert torch.equal(weight, before[name]) == name.startswith("network.backbone."), name
    assert of_optimizer(checkpoint) == 4


def test_the_backbone_is_bit_identical_after_training_and_not_in_the_optimizer(cli, tmp_path):
    result = cli(f"{FIT} --data tests.fakes.Tiny --model.optimizer.weight_decay 0.1 --model.optimizer.lr 0.1")
    assert (result.status, result.err) == (0, "")
    checkpoint, before = last_checkpoint(tmp_path), fresh(Tiny).state_dict()
    assert sum("running_mean" in name for name in before) == 20
    for name, weight in checkpoint["state_dict"].items():
        assert torch.equal(weight, before[name]) == name.startswith("network.backbone."), name
    assert of_optimizer(checkpoint) == 4
    said = json.loads((tmp_path / RUN / "run.json").read_text())
    assert (said["trainable"], said["start"]) == (512 * 4 + 4 + 4 * 3 + 3, None)


def test_with_nothing_frozen_all_of_it_is_trained(cli, tmp_path):
    assert cli(f"{FIT} --data tests.fakes.Tiny --model.freeze []").status == 0
    checkpoint, before = last_checkpoint(tmp_path), fresh(Tiny).state_dict()
    assert of_optimizer(checkpoint) == len(list(fresh(Tiny).parameters()))
    assert not [n for n, weight in checkpoint["state_dict"].items() if torch.equal(weight, before[n])]


def test_a_part_and_a_parameter_are_frozen_by_name(cli, tmp_path):
    assert cli(f"{FIT} --data tests.fakes.Tiny --model.freeze [backbone.layer1,head.3.bias]").status == 0
    checkpoint, before = last_checkpoint(tmp_path), fresh(Tiny).state_dict()
    same = {name for name, weight in checkpoint["state_dict"].items() if torch.equal(weight, before[name])}
    expected = {n for n in before if n.startswith("network.backbone.layer1.")} | {"network.head.3.bias"}
    assert same == expected


def test_a_part_that_is_not_there_is_refused_with_those_that_are(cli, tmp_path):
    sentence = cli(f"{FIT} --data tests.fakes.Tiny --model.freeze [backbone.layer9]").refusal()
    for part in ("'backbone.layer9'", "FrozenResNet", "backbone.layer4", "head.0"):
        assert part in sentence
    assert not (tmp_path / "lightning_logs").exists()


def test_with_all_of_it_frozen_there_is_nothing_to_train(cli, tmp_path):
    assert "nothing to train" in cli(f"{FIT} --data tests.fakes.Tiny --model.freeze [backbone,head]").refusal()
    assert not (tmp_path / "lightning_logs").exists()


# Weights from a file -------------------------------------------------------------------------------------------------

FROM_FILE = FIT.replace("--model.weights none", "--model.weights {}") + " --data tests.fakes.Tiny"


def loaded(weights, **arguments):
    model = frozen_resnet((3, 5, 7), 3, min_size=8, weights=str(weights), **arguments)
    model.prepare_start()
    return model


def test_weights_come_from_a_file_like_torchvision_s(cli, tmp_path, trained_weights):
    torch.save(trained_weights, tmp_path / "resnet.pth")
    result = cli(FROM_FILE.format("resnet.pth"))
    assert (result.status, result.err) == (0, "")
    assert "start      resnet.pth; network.head is reinitialized" in result.out
    after = without(last_checkpoint(tmp_path)["state_dict"], "network.head.")
    assert after.keys() == {f"network.backbone.{name}" for name in without(trained_weights, "fc.")}
    for name, weight in after.items():
        assert torch.equal(weight, trained_weights[name.removeprefix("network.backbone.")])
    start = json.loads((tmp_path / RUN / "run.json").read_text())["start"]
    assert (start["file"], start["reinitialized_layer"]) == ("resnet.pth", "network.head")
    config = yaml.safe_load((tmp_path / RUN / "config.yaml").read_text())
    assert config["model"]["init_args"]["weights"] == str((tmp_path / "resnet.pth").resolve())


def test_weights_come_from_a_run(cli, tmp_path):
    assert cli(f"{FIT} --data tests.fakes.Tiny --model.freeze [head]").status == 0
    trained = torch.load(tmp_path / RUN / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    for place in (tmp_path / RUN, tmp_path / RUN / "checkpoints" / "best.ckpt"):
        model = loaded(place)
        assert same_weights(
            model.network.backbone,
            {n.removeprefix("network.backbone."): w for n, w in without(trained, "network.head.").items()},
        )


def change_missing(weights):
    del weights["layer2.0.conv1.weight"]


def change_surplus(weights):
    weights["layer5.weight"] = torch.zeros(1)


def change_shape(weights):
    weights["conv1.weight"] = torch.zeros(64, 1, 7, 7)


def change_all(weights):
    for name in list(weights):
        weights[f"module.{name}"] = weights.pop(name)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (change_missing, "layer2.0.conv1.weight is missing"),
        (change_surplus, "layer5.weight is surplus"),
        (change_shape, "conv1.weight is (64, 1, 7, 7), expected (64, 3, 7, 7)"),
        (change_all, "conv1.weight is missing"),
    ],
)
def test_a_file_with_other_weights_is_refused_by_their_name(cli, tmp_path, trained_weights, change, part):
    weights = dict(trained_weights)
    change(weights)
    torch.save(weights, tmp_path / "other.pth")
    sentence = cli(FROM_FILE.format("other.pth")).refusal()
    assert "other.pth" in sentence
    assert part in sentence
    assert len(sentence) < 400
    assert not (tmp_path / "lightning_logs").exists()


class Arbitrary:
    """Would run a command when it is unpickled by someone who trusts the file."""

    def __reduce__(self):
        return (open, ("was-run", "w"))


def write_torn(path):
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:1500])


def write_torn_in_the_old_format(path):
    torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:60])


UNREADABLE = {
    "torn": (write_torn, "cannot be read as weights"),
    "torn, of the old format": (write_torn_in_the_old_format, "cannot be read as weights"),
    "empty": (lambda path: path.touch(), "cannot be read as weights"),
    "a page": (lambda path: path.write_text("<html>Not found</html>"), "cannot be read as weights"),
    "objects": (lambda path: path.write_bytes(pickle.dumps(Arbitrary())), "cannot be read as weights"),
    "objects among weights": (lambda path: torch.save({"a": Arbitrary()}, path), "cannot be read as weights"),
    "a whole network": (lambda path: torch.save(nn.Linear(2, 2), path), "cannot be read as weights"),
    "numbers": (lambda path: torch.save({"a": 3}, path), "holds no weights by name"),
    "a tensor": (lambda path: torch.save(torch.zeros(3), path), "holds no weights by name"),
    "no names": (lambda path: torch.save({0: torch.zeros(3)}, path), "holds no weights by name"),
    "nothing": (lambda path: torch.save({}, path), "holds no weights by name"),
    "missing": (lambda path: None, "There is no file weights.pth"),
}


@pytest.mark.parametrize(("write", "part"), UNREADABLE.values(), ids=list(UNREADABLE))
@pytest.mark.parametrize("option", ["weights", "start_from"])
def test_a_file_that_cannot_be_read_is_refused(cli, tmp_path, monkeypatch, write, part, option):
    write(tmp_path / "weights.pth")
    sentence = cli(f"{FIT} --data tests.fakes.Tiny --model.{option} weights.pth").refusal()
    assert part in sentence
    assert "weights.pth" in sentence
    assert "weights_only" not in sentence  # no advice to trust the file
    assert {path.name for path in tmp_path.iterdir()} <= {"weights.pth"}  # neither a run nor what the pickle would do


def test_a_folder_that_is_no_run_is_refused(cli, tmp_path):
    (tmp_path / "some").mkdir()
    assert "some is not a run folder" in cli(FROM_FILE.format("some")).refusal()


# ImageNet weights ----------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder for torchvision's files, and no network."""

    def fail(url, *arguments, **keywords):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    return tmp_path / "hub" / "checkpoints"


IMAGENET = FIT.replace("--model.weights none", "") + " --data tests.fakes.Tiny"


def test_imagenet_weights_that_cannot_be_fetched_are_asked_for_in_a_sentence(cli, tmp_path, hub):
    sentence = cli(IMAGENET).refusal()
    for part in (IMAGENET_FILE, str(hub), "--model.weights", "no network"):
        assert part in sentence
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not (tmp_path / "lightning_logs").exists()


def test_a_download_that_breaks_leaves_nothing(cli, tmp_path, monkeypatch):
    """torch's own download of a file that is not what its name says."""
    (tmp_path / "served").write_bytes(b"not the weights")
    fetch = torch.hub.download_url_to_file
    local = (tmp_path / "served").as_uri()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, *args, **kwargs: fetch(local, *args, **kwargs))
    result = cli(IMAGENET)
    sentence = result.err.splitlines()[-1]
    assert result.status == 2
    for part in ("invalid hash value", IMAGENET_FILE, "--model.weights"):
        assert part in sentence
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["served"]


def test_imagenet_weights_that_lie_in_the_folder_are_used_and_not_needed_again(cli, tmp_path, hub, trained_weights):
    hub.mkdir(parents=True)
    torch.save(trained_weights, hub / IMAGENET_FILE)
    result = cli(IMAGENET)
    assert (result.status, result.err) == (0, "")
    assert f"start      {hub / IMAGENET_FILE}" in result.out
    weights = last_checkpoint(tmp_path)["state_dict"]
    assert torch.equal(
        weights["network.backbone.layer4.1.bn2.running_var"], trained_weights["layer4.1.bn2.running_var"]
    )
    shutil.rmtree(hub)
    for command in ("test", "validate"):
        assert cli(f"{command} {RUN}").status == 0
    tested = json.loads((tmp_path / RUN / "run.json").read_text())["metrics"]["test/loss"]
    assert f"test loss   {tested:.4f}" in cli(f"test {RUN}").out
    model = FrozenResNet.load_from_checkpoint(
        tmp_path / RUN / "checkpoints" / "last.ckpt", weights_only=True, map_location="cpu"
    )
    assert same_weights(model, weights)


def test_a_folder_called_imagenet_does_not_stand_for_the_weights(cli, tmp_path, hub, trained_weights):
    (tmp_path / "imagenet").mkdir()
    hub.mkdir(parents=True)
    torch.save(trained_weights, hub / IMAGENET_FILE)
    assert cli(IMAGENET).status == 0
    assert yaml.safe_load((tmp_path / RUN / "config.yaml").read_text())["model"]["init_args"]["weights"] == "imagenet"


def test_a_damaged_file_in_the_folder_is_named(cli, hub):
    hub.mkdir(parents=True)
    (hub / IMAGENET_FILE).write_bytes(b"half")
    sentence = cli(IMAGENET).refusal()
    assert f"{hub / IMAGENET_FILE} cannot be read as weights" in sentence


@pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training")  # frozen batch norms are
def test_a_model_from_a_checkpoint_trains_on_from_that(tmp_path, digits_root, hub, trained_weights):
    """Not from ImageNet once more, whose weights are not even there."""
    hub.mkdir(parents=True)
    torch.save(trained_weights, hub / IMAGENET_FILE)
    data = Letters(root=str(digits_root))
    model = FrozenResNet(3, (1, 28, 28), min_size=8, hidden=4, freeze=["backbone.conv1"])
    arguments = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": tmp_path,
    }
    trainer = Trainer(**arguments, max_epochs=1)
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    shutil.rmtree(hub)
    model = FrozenResNet.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True, map_location="cpu")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    Trainer(**arguments, max_epochs=1, limit_train_batches=0).fit(model, datamodule=data)
    assert same_weights(model, before)
    Trainer(**arguments, max_epochs=1).fit(model, datamodule=data)
    same = {name for name, weight in model.state_dict().items() if torch.equal(weight, before[name])}
    assert same == {"network.backbone.conv1.weight"}  # what was frozen still is


# timm ----------------------------------------------------------------------------------------------------------------


def timm_model(name, **arguments):
    return pytest.importorskip("timm").create_model(name, pretrained=False, **arguments)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_model_of_timm_takes_its_weights_file(cli, tmp_path, suffix):
    network = moved(timm_model("resnet18"))
    if suffix == "safetensors":
        pytest.importorskip("safetensors.torch").save_file(network.state_dict(), tmp_path / "model.safetensors")
    else:
        torch.save(network.state_dict(), tmp_path / "model.pth")
    result = cli(f"{FROM_FILE.format(f'model.{suffix}')} --model.architecture timm/resnet18")
    assert (result.status, result.err) == (0, "")
    after = last_checkpoint(tmp_path)["state_dict"]
    for name, weight in without(network.state_dict(), "fc.").items():
        assert torch.equal(after[f"network.backbone.{name}"], weight)
    assert of_optimizer(last_checkpoint(tmp_path)) == 4


def test_a_model_of_timm_gives_what_it_gives_by_itself():
    network = timm_model("resnet18", num_classes=0)
    model = frozen_resnet(architecture="timm/resnet18").eval()
    network.load_state_dict(model.network.backbone.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(images), model.network.head(network.eval()(images)))


def test_a_torn_safetensors_file_is_refused(cli, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({"a": torch.zeros(100)}, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:200])
    assert "model.safetensors cannot be read as weights" in cli(FROM_FILE.format("model.safetensors")).refusal()


def test_safetensors_that_is_not_installed_is_said(cli, tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").touch()
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    assert "safetensors, which is not installed" in cli(FROM_FILE.format("model.safetensors")).refusal()


def test_a_missing_safetensors_file_is_said(cli):
    pytest.importorskip("safetensors")
    assert "There is no file model.safetensors" in cli(FROM_FILE.format("model.safetensors")).refusal()


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_the_classifiers_of_a_transformer_are_left_out(tmp_path, name):
    network = timm_model(name)
    torch.save(network.state_dict(), tmp_path / "model.pth")
    model = frozen_resnet((1, 28, 28), architecture=f"timm/{name}", min_size=224, weights=str(tmp_path / "model.pth"))
    model.prepare_start()
    assert torch.equal(model.network.backbone.cls_token, network.cls_token)
    assert model.network.head[0].in_features == 192


def test_a_transformer_at_a_size_that_it_does_not_take_is_refused(cli, tmp_path):
    timm_model("resnet18")
    sentence = cli(f"{FIT} --model.architecture timm/vit_tiny_patch16_224 --data tests.fakes.Letters").refusal()
    assert "does not take images of 28 x 28 pixels" in sentence
    assert not (tmp_path / "lightning_logs").exists()
    with pytest.raises(UserError, match=r"vit_tiny_patch16_224 does not take images of 64 x 64 .*224.*model\.min_size"):
        frozen_resnet((1, 28, 28), architecture="timm/vit_tiny_patch16_224")


def test_an_unknown_model_of_timm_is_refused_with_some_near_it(cli):
    timm_model("resnet18")
    with pytest.raises(UserError, match="timm has no model vit_tiny_patch; similar names are vit_tiny_patch16_224"):
        frozen_resnet(architecture="timm/vit_tiny_patch")
    with pytest.raises(UserError, match=r"timm has no model nonsense; timm\.list_models\(\) lists all models"):
        frozen_resnet(architecture="timm/nonsense")
    assert "no model nonsense" in cli(f"{FIT} --model.architecture timm/nonsense --data tests.fakes.Tiny").refusal()


def test_timm_that_is_not_installed_is_said(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"timm is not installed; run: pip install 'visionbench\[timm\]'"):
        frozen_resnet(architecture="timm/resnet18")
    assert "not installed" in cli(f"{FIT} --model.architecture timm/resnet18 --data tests.fakes.Tiny").refusal()


def test_weights_of_timm_that_cannot_be_fetched_are_asked_for_in_a_sentence(cli, tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    create = timm.create_model

    def no_network(name, pretrained, **arguments):
        if pretrained:
            raise OSError("no network\nand a page of advice")
        return create(name, pretrained=False, **arguments)

    monkeypatch.setattr(timm, "create_model", no_network)
    sentence = cli(f"{IMAGENET} --model.architecture timm/resnet18").refusal()
    for part in ("no network", "model.safetensors", "timm/resnet18", "--model.weights"):
        assert part in sentence
    assert not (tmp_path / "lightning_logs").exists()
