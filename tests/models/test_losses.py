"""Each loss is torch's own, on outputs of the one shape that it is meant for."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.fakes import Letters, Pairs
from tests.test_fit import report
from visionbench.errors import UserError
from visionbench.evaluation.metrics import Evaluator
from visionbench.models import MLP, Classifier

NAMES = ["cross_entropy", "nll", "binary_cross_entropy", "mse"]
CASES = [(name, classes) for name in NAMES for classes in (2, 5) if (name, classes) != ("binary_cross_entropy", 5)]


def model_of(loss, classes, **arguments):
    return MLP(classes, (1, 4, 4), widths=[6], loss=loss, **arguments)


def batch(model, size=32):
    """Raw outputs of the network, with none on the border between two classes, and labels."""
    torch.manual_seed(0)
    outputs = 3 * torch.randn(size, model.num_outputs)
    return outputs, torch.randint(model.num_classes, (size,))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_is_torch_s_on_logits_and_smoothed_in_training_only(training, smoothing):
    model = model_of("cross_entropy", 5, label_smoothing=smoothing).train(training)
    logits, labels = batch(model)
    expected = nn.CrossEntropyLoss(label_smoothing=smoothing if training else 0.0)(logits, labels)
    assert torch.equal(model.loss(logits, labels), expected)


def test_nll_is_torch_s_on_the_log_softmax_that_the_model_gives():
    model = model_of("nll", 5).eval()
    images, labels = torch.randn(8, 1, 4, 4), torch.arange(8) % 5
    outputs = model(images)
    assert torch.equal(outputs, nn.LogSoftmax(dim=1)(model.network(images)))
    assert torch.equal(model.loss(outputs, labels), nn.NLLLoss()(outputs, labels))


def test_binary_cross_entropy_is_torch_s_on_one_logit():
    model = model_of("binary_cross_entropy", 2)
    assert model.num_outputs == 1
    logits, labels = batch(model)
    assert torch.equal(model.loss(logits, labels), nn.BCEWithLogitsLoss()(logits, labels[:, None].float()))


def test_mse_of_two_classes_is_torch_s_on_one_sigmoid():
    model = model_of("mse", 2)
    assert model.num_outputs == 1
    outputs, labels = batch(model)
    assert torch.equal(model.loss(outputs, labels), nn.MSELoss()(outputs.sigmoid(), labels[:, None].float()))


def test_mse_of_more_classes_is_torch_s_on_softmax_and_one_hot():
    model = model_of("mse", 5)
    outputs, labels = batch(model)
    one_hot = torch.eye(5)[labels]
    assert torch.equal(model.loss(outputs, labels), nn.MSELoss()(outputs.softmax(dim=1), one_hot))


@pytest.mark.parametrize(("name", "classes"), CASES)
def test_the_loss_of_outputs_in_half_precision_is_computed_in_single(name, classes):
    model = model_of(name, classes)
    outputs, labels = batch(model)
    outputs = model.loss_function.activate(outputs).bfloat16()
    assert torch.equal(model.loss(outputs, labels), model.loss(outputs.float(), labels))


@pytest.mark.parametrize(("name", "classes"), CASES)
def test_probabilities_are_of_every_class_and_agree_with_the_prediction(name, classes):
    model = model_of(name, classes)
    outputs, _ = batch(model, 500)
    outputs = model.loss_function.activate(outputs)
    probabilities, predicted = model.probabilities(outputs), model.predict(outputs)
    assert probabilities.shape == (500, classes)
    assert (probabilities >= 0).all()
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(500))
    assert predicted.dtype == torch.int64
    assert torch.equal(predicted, probabilities.argmax(dim=1))
    assert set(predicted.tolist()) == set(range(classes))  # not the one column that there is, again and again


@pytest.mark.parametrize("logit", [-20.0, 16.0, 20.0, 30.0])
def test_the_logarithm_of_a_tiny_probability_is_that_of_the_loss(logit):
    """Near 1, single precision has no probability between 1 - 6e-8 and 1, but near 0 it has."""
    model, outputs = model_of("binary_cross_entropy", 2), torch.tensor([[logit]])
    wrong = torch.tensor([int(logit < 0)])
    value = Evaluator(["log_loss"], "ab").compute(wrong, model.predict(outputs), model.probabilities(outputs))
    assert value["log_loss"] == pytest.approx(float(model.loss(outputs, wrong)), rel=0.03)
    assert torch.equal(model_of("mse", 2).probabilities(outputs), model.probabilities(outputs))


@pytest.mark.parametrize("name", ["cross_entropy", "nll", "mse"])
def test_probabilities_of_several_outputs_are_their_softmax(name):
    model = model_of(name, 5)
    outputs, _ = batch(model)
    probabilities = model.probabilities(model.loss_function.activate(outputs))
    torch.testing.assert_close(probabilities, outputs.softmax(dim=1))


@pytest.mark.parametrize("name", ["binary_cross_entropy", "mse"])
def test_one_output_is_of_the_second_class_and_decided_at_a_half(name):
    model = model_of(name, 2)
    outputs = torch.tensor([[-2.0], [-0.01], [0.01], [2.0]])
    assert model.predict(outputs).tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(model.probabilities(outputs)[:, 1], outputs[:, 0].sigmoid())


def test_a_network_with_a_log_softmax_of_its_own_gives_the_same_numbers_under_nll():
    plain, own = model_of("nll", 5), model_of("nll", 5)
    own.load_state_dict(plain.state_dict())
    own.network = nn.Sequential(own.network, nn.LogSoftmax(dim=1))
    images, labels = torch.randn(16, 1, 4, 4), torch.arange(16) % 5
    torch.testing.assert_close(own(images), plain(images))
    torch.testing.assert_close(own.loss(own(images), labels), plain.loss(plain(images), labels))


@pytest.mark.parametrize(
    ("name", "classes", "outputs", "labels"),
    [
        ("cross_entropy", 5, (8,), (8,)),
        ("cross_entropy", 5, (8, 1), (8,)),
        ("cross_entropy", 5, (8, 5), (8, 1)),
        ("cross_entropy", 5, (7, 5), (8,)),
        ("cross_entropy", 5, (8, 5, 1), (8,)),
        ("nll", 5, (8, 4), (8,)),
        ("binary_cross_entropy", 2, (8,), (8,)),
        ("binary_cross_entropy", 2, (8, 2), (8,)),
        ("binary_cross_entropy", 2, (8, 1), (8, 1)),
        ("mse", 2, (8, 2), (8,)),
        ("mse", 2, (8,), (8,)),
        ("mse", 2, (8, 1), (8, 1)),  # a loss that broadcasts would take (8, 1) against (8,)
        ("mse", 5, (8, 1), (8,)),
    ],
)
def test_outputs_and_labels_of_other_shapes_are_refused(name, classes, outputs, labels):
    model = model_of(name, classes)
    with pytest.raises(UserError, match=r"gave outputs of shape .* expected \(8, \d\) for \(8,\)"):
        model.loss(torch.zeros(outputs), torch.zeros(labels, dtype=torch.int64))


WRONG_NETS = '''
from torch import nn
from visionbench.models import Classifier


class Flat(nn.Module):
    def forward(self, values):
        return values[:, 0]


class Wrong(Classifier):
    """Ends as it is told, whatever the loss asks for."""

    def __init__(self, num_classes: int, input_shape: tuple[int, int, int], outputs: int = 0, **kwargs):
        super().__init__(num_classes, input_shape, **kwargs)
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, max(outputs, 1)))
        if outputs == 0:
            self.network.append(Flat())


class Columns(Wrong):
    """Takes its labels for a column."""

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return super().training_step((images, labels[:, None]), batch_idx)
'''

REFUSED = {
    "one output for three classes": ("Letters", "Wrong --model.outputs 1", "(17, 1)", "(17, 3)"),
    "no axis of classes": ("Letters", "Wrong", "(17,)", "(17, 3)"),
    "no axis of classes for nll": ("Letters", "Wrong --model.loss nll", "(17,)", "(17, 3)"),
    "one output for nll": ("Letters", "Wrong --model.loss nll --model.outputs 1", "(17, 1)", "(17, 3)"),
    "one output for mse": ("Letters", "Wrong --model.loss mse --model.outputs 1", "(17, 1)", "(17, 3)"),
    "two outputs for one logit": (
        "Pairs",
        "Wrong --model.loss binary_cross_entropy --model.outputs 2",
        "(17, 2)",
        "(17, 1)",
    ),
    "no axis for one logit": ("Pairs", "Wrong --model.loss binary_cross_entropy", "(17,)", "(17, 1)"),
    "two outputs for mse of two classes": ("Pairs", "Wrong --model.loss mse --model.outputs 2", "(17, 2)", "(17, 1)"),
    "a column of labels": ("Letters", "Columns --model.outputs 3", "labels of shape (17, 1)", "(17,)"),
}


@pytest.mark.parametrize(("data", "model", "found", "expected"), REFUSED.values(), ids=list(REFUSED))
def test_a_network_that_ends_wrongly_is_refused_before_anything_is_kept(cli, tmp_path, data, model, found, expected):
    (tmp_path / "wrong_nets.py").write_text(WRONG_NETS)
    sentence = cli(
        f"fit --model wrong_nets.{model} --data tests.fakes.{data} --data.batch_size 11 --trainer.max_epochs 1"
    ).refusal()
    for part in (found, expected, "self.num_outputs"):
        assert part in sentence
    assert not (tmp_path / "lightning_logs").exists()


MEANINGLESS = {
    "one logit for three classes": ("--model.loss binary_cross_entropy", "for two classes", "the data set has 3"),
    "smoothing of another loss": (
        "--model.loss mse --model.label_smoothing 0.1",
        "model.loss is mse",
        "use cross_entropy",
    ),
    "unknown loss": ("--model.loss nil", "model.loss: found nil", "cross_entropy, nll"),
    "negative smoothing": ("--model.label_smoothing=-0.1", "model.label_smoothing is -0.1"),
    "negative l1": ("--model.l1=-1", "model.l1 is -1"),
}


@pytest.mark.parametrize(("options", "parts"), [(line, parts) for line, *parts in MEANINGLESS.values()])
def test_a_loss_that_makes_no_sense_is_refused(cli, tmp_path, options, parts):
    sentence = cli(f"fit --model MLP --data tests.fakes.Letters {options}").refusal()
    for part in parts:
        assert part in sentence
    assert not (tmp_path / "lightning_logs").exists()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cross_entropy", Letters),
        ("nll", Letters),
        ("mse", Letters),
        ("cross_entropy", Pairs),
        ("binary_cross_entropy", Pairs),
        ("mse", Pairs),
    ],
)
def test_the_metrics_of_a_run_are_of_the_loss_and_of_the_labels(cli, tmp_path, digits_root, name, kind):
    """The command line's test metrics, beside the same sums over the test images in plain torch."""
    run = tmp_path / "lightning_logs" / "mlp" / "version_0"
    line = f"fit --model MLP --model.loss {name} --data tests.fakes.{kind.__name__} --data.batch_size 5"
    assert cli(f"{line} --trainer.max_epochs 2 --trainer.precision 32-true").status == 0
    model: Classifier = MLP.load_from_checkpoint(
        run / "checkpoints" / "best.ckpt", weights_only=True, map_location="cpu"
    ).eval()
    data = kind(root=str(digits_root))
    data.setup()
    (images, labels), *rest = data.test_dataloader()
    assert not rest
    with torch.no_grad():
        outputs = model.network(images)
    if name in ("cross_entropy", "nll"):
        loss = F.cross_entropy(outputs, labels)
    elif name == "binary_cross_entropy":
        loss = F.binary_cross_entropy_with_logits(outputs[:, 0], labels.float())
    elif kind is Pairs:
        loss = ((outputs[:, 0].sigmoid() - labels) ** 2).mean()
    else:
        loss = ((outputs.softmax(1) - torch.eye(3)[labels]) ** 2).mean()
    predicted = outputs[:, 0].sigmoid().round() if outputs.shape[1] == 1 else outputs.argmax(1)
    metrics = report(run)["metrics"]
    assert metrics["test/loss"] == pytest.approx(float(loss), rel=1e-5)
    assert metrics["test/acc"] == pytest.approx(float((predicted == labels).double().mean()))
