"""What the guards of the start of training refuse: each defect as a user would write it, with its innocent twin."""

import json
import random

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.nn import functional as F

import visionbench
from visionbench.data import Arrays, Digits
from visionbench.data.augment import MixUp
from visionbench.guards import Refused
from visionbench.models import CNN, MLP
from visionbench.runs.folder import RunFolder
from visionbench.training.trial import unchanged

CLASSES = 3


@pytest.fixture
def data():
    """Images of noise, of three classes."""
    return make_data()


def make_data(classes=CLASSES, **arguments):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60, 8, 8), dtype=np.uint8)
    return Arrays(images, np.arange(60) % classes, val_size=12, test_size=12, batch_size=16, **arguments)


def fit(model, data, tmp_path, **options):
    return visionbench.fit(model, data, max_epochs=1, run_dir=tmp_path / "run", **options)


def refusal(model, data, tmp_path, **options):
    """The sentence of a refused run, which leaves no folder."""
    with pytest.raises(Refused) as error:
        fit(model, data, tmp_path, **options)
    assert not (tmp_path / "run").exists()
    return str(error.value)


def sentences(result):
    return [finding["sentence"] for finding in RunFolder(result.folder).metadata["findings"]]


class Net(MLP):
    """A small MLP, of which the tests replace single methods."""

    from_command_line = False  # other tests list the models there are


def net(kind=Net, classes=CLASSES, **arguments):
    return kind(classes, (1, 8, 8), widths=[8], **arguments)


class SoftmaxInForward(Net):
    def forward(self, images):
        return F.softmax(super().forward(images), dim=1)


class SoftmaxLayer(Net):
    def __init__(self, num_classes, input_shape, **kwargs):
        super().__init__(num_classes, input_shape, **kwargs)
        self.network = nn.Sequential(self.network, nn.Softmax(dim=1))


class HandmadeSoftmax(Net):
    def forward(self, images):
        powers = super().forward(images).exp()
        return powers / powers.sum(dim=1, keepdim=True)


class SigmoidUnderCrossEntropy(Net):
    def forward(self, images):
        return super().forward(images).sigmoid()


class Attention(Net):
    def __init__(self, num_classes, input_shape, **kwargs):
        super().__init__(num_classes, input_shape, **kwargs)
        self.query = nn.Linear(64, 64)

    def forward(self, images):
        rows = images.flatten(1)
        return self.network((self.query(rows).softmax(dim=1) * rows).view_as(images))


class LogSoftmaxInForward(Net):
    def forward(self, images):
        return F.log_softmax(super().forward(images), dim=1)


class SharedActivation(Net):
    def __init__(self, num_classes, input_shape, **kwargs):
        super().__init__(num_classes, input_shape, **kwargs)
        act = nn.Tanh()
        self.network = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 8), act, nn.Linear(8, 8), act, nn.Linear(8, num_classes)
        )


@pytest.mark.parametrize(
    ("kind", "arguments", "what"),
    [
        (SoftmaxInForward, {}, "those of a softmax, but the loss of training_step (cross_entropy) applies one itself"),
        (SoftmaxLayer, {}, "those of a softmax"),
        (HandmadeSoftmax, {}, "those of a softmax"),
        (SoftmaxLayer, {"loss": "nll"}, "those of a softmax, but the loss of training_step (nll_loss)"),
        (SoftmaxLayer, {"loss": "mse"}, "those of a softmax, but the loss of training_step (mse_loss)"),
        (SigmoidUnderCrossEntropy, {}, "those of a sigmoid, but the loss of training_step (cross_entropy)"),
    ],
)
def test_a_softmax_before_a_loss_that_applies_one_is_refused(kind, arguments, what, data, tmp_path):
    sentence = refusal(net(kind, **arguments), data, tmp_path)
    assert what in sentence
    assert sentence.endswith("or allow it with --allow '[double_softmax]'.")


def test_the_smallest_loss_of_a_double_softmax_is_the_published_one(tmp_path):
    sentence = refusal(net(SoftmaxInForward, classes=10), make_data(classes=10), tmp_path)
    assert "smallest value is 1.46 instead of 0" in sentence


@pytest.mark.parametrize("kind", [Net, Attention, LogSoftmaxInForward, SharedActivation])
def test_a_softmax_elsewhere_and_a_log_softmax_are_innocent(kind, data, tmp_path):
    assert sentences(fit(net(kind), data, tmp_path)) == []


@pytest.mark.parametrize("loss", ["nll", "mse"])
def test_the_losses_of_the_package_are_innocent(loss, data, tmp_path):
    assert sentences(fit(net(loss=loss), data, tmp_path)) == []


class Sigmoid(Net):
    def forward(self, images):
        return super().forward(images).sigmoid()


def test_a_sigmoid_before_a_loss_of_logits_is_refused(tmp_path):
    data = make_data(classes=2)
    assert "(binary_cross_entropy_with_logits)" in refusal(
        net(Sigmoid, classes=2, loss="binary_cross_entropy"), data, tmp_path
    )
    assert "(mse_loss)" in refusal(net(Sigmoid, classes=2, loss="mse"), data, tmp_path)
    assert sentences(fit(net(classes=2, loss="binary_cross_entropy"), data, tmp_path)) == []


def test_an_allowed_defect_trains_and_is_recorded(data, tmp_path):
    result = fit(net(SoftmaxInForward), data, tmp_path, allow=["double_softmax"])
    assert result.status == "finished"
    (finding,) = RunFolder(result.folder).metadata["findings"]
    assert finding["guard"] == "double_softmax"


class Probabilities(Net):
    def loss(self, outputs, labels):
        return F.nll_loss(outputs.softmax(dim=1), labels)


def test_probabilities_under_a_loss_of_their_logarithms_are_refused(data, tmp_path):
    assert "takes logarithms of probabilities, but gets probabilities" in refusal(net(Probabilities), data, tmp_path)


class OneColumn(Net):
    """One output under a mean squared error of the labels, as a report had it."""

    def __init__(self, num_classes, input_shape, **kwargs):
        super().__init__(num_classes, input_shape, **kwargs)
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 1), nn.Sigmoid())

    def loss(self, outputs, labels):
        return F.mse_loss(outputs, labels.float())

    def predict(self, outputs):
        return outputs.argmax(dim=1)

    def probabilities(self, outputs):
        return torch.cat([1 - outputs, outputs], dim=1)


class OneColumnDone(OneColumn):
    """The same with equal shapes and a threshold."""

    def loss(self, outputs, labels):
        return F.mse_loss(outputs.squeeze(1), labels.float())

    def predict(self, outputs):
        return (outputs.squeeze(1) > 0.5).long()


class HandmadeBroadcast(OneColumnDone):
    def loss(self, outputs, labels):
        return ((outputs - labels) ** 2).mean()


class BroadcastAccuracy(OneColumnDone):
    def validation_step(self, batch, batch_idx):
        outputs = super().validation_step(batch, batch_idx)
        self.log("val/share", ((outputs > 0.5) == batch[1]).float().mean())
        return outputs


def test_shapes_that_broadcast_are_refused(tmp_path):
    data = make_data(classes=2)
    sentence = refusal(net(OneColumn, 2), data, tmp_path)
    assert "training_step of OneColumn broadcasts (mse_loss of outputs (17, 1) and labels (17,))" in sentence
    sentence = refusal(net(HandmadeBroadcast, 2), data, tmp_path)
    assert "training_step of HandmadeBroadcast broadcasts (sub of shapes (17, 1) and (17,))" in sentence
    assert "validation_step of BroadcastAccuracy broadcasts (eq" in refusal(net(BroadcastAccuracy, 2), data, tmp_path)
    assert sentences(fit(net(OneColumnDone, 2), data, tmp_path)) == []


def test_the_argmax_of_one_column_is_refused(tmp_path):
    data = make_data(classes=2)
    sentence = refusal(net(OneColumn, 2), data, tmp_path, allow=["broadcast_loss"])
    assert "takes the argmax of outputs with a single column, so that class 0 is predicted" in sentence
    result = fit(net(OneColumn, 2), data, tmp_path, allow=["broadcast_loss", "one_column_argmax"])
    names = [finding["guard"] for finding in RunFolder(result.folder).metadata["findings"]]
    assert names[:2] == ["broadcast_loss", "one_column_argmax"]
    assert result.metrics["test/acc"] == 0.5  # the share of class 0


def test_class_numbers_as_quantities_are_refused(data, tmp_path):
    sentence = refusal(net(OneColumnDone), data, tmp_path)
    assert "(mse_loss) takes the numbers of 3 classes as quantities, although classes have no order" in sentence


class Mislabeled(Digits):
    def setup(self, stage=None):
        super().setup(stage)
        self.store.arrays["train-labels"] = self.store.arrays["train-labels"] * 2


def test_labels_outside_the_classes_are_refused(tmp_path):
    with pytest.raises(Refused, match=r"labels of the train split go from 0 to 18, expected 0 to 9"):
        visionbench.fit("MLP", Mislabeled(root=str(tmp_path)), max_epochs=1, run_dir=tmp_path / "run")


class ForeignOptimizer(Net):
    def configure_optimizers(self):
        return torch.optim.SGD(net().parameters(), lr=0.1)


class HalfOptimizer(Net):
    def configure_optimizers(self):
        return torch.optim.SGD(list(self.parameters())[:2], lr=0.1)


class TwiceOptimizer(Net):
    def configure_optimizers(self):
        parameters = list(self.parameters())
        return [torch.optim.SGD(parameters, lr=0.1), torch.optim.SGD(parameters[:1], lr=0.1)]

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx)


class TwoGroups(Net):
    def configure_optimizers(self):
        first, *others = self.parameters()
        return torch.optim.SGD([{"params": [first], "lr": 0.2}, {"params": others}], lr=0.1)


def test_the_optimizer_holds_each_parameter_of_the_model_once(data, tmp_path):
    sentence = refusal(net(ForeignOptimizer), data, tmp_path)
    assert "The optimizer holds 4 parameters that ForeignOptimizer does not have" in sentence
    assert sentence.endswith("or allow it with --allow '[foreign_parameters]'.")
    assert "2 parameters of HalfOptimizer that should be trained are not in the optimizer" in refusal(
        net(HalfOptimizer), data, tmp_path
    )
    assert sentences(fit(net(TwoGroups), data, tmp_path)) == []
    assert (
        sentences(fit(net(freeze=["0"] if "0" in dict(net().network.named_modules()) else []), data, tmp_path / "b"))
        == []
    )


def test_a_parameter_in_two_optimizers_is_refused(data, tmp_path):
    assert "1 parameter of TwiceOptimizer is in the optimizers more than once" in refusal(
        net(TwiceOptimizer), data, tmp_path
    )


class Hidden(Net):
    def __init__(self, num_classes, input_shape, **kwargs):
        super().__init__(num_classes, input_shape, **kwargs)
        self.networks = [nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))]  # a list hides it

    def forward(self, images):
        return self.networks[0](images)


def test_a_network_that_is_no_part_of_the_model_is_refused(data, tmp_path):
    assert "does not depend on any parameter that is trained" in refusal(net(Hidden), data, tmp_path)


class Spare(Net):
    def __init__(self, num_classes, input_shape, **kwargs):
        super().__init__(num_classes, input_shape, **kwargs)
        self.spare = nn.Linear(3, 3)


def test_an_unused_layer_is_reported(data, tmp_path):
    (sentence,) = sentences(fit(net(Spare), data, tmp_path))
    assert "2 parameters of Spare have no influence on the loss (spare.weight, spare.bias)" in sentence


class Frozen(Net):
    """Parts that are frozen by hand, as tutorials do it."""

    def __init__(self, num_classes, input_shape, **kwargs):
        super().__init__(num_classes, input_shape, **kwargs)
        body = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU())
        for parameter in body.parameters():
            parameter.requires_grad = False
        self.network = nn.Sequential(body, nn.Linear(8, num_classes))


class FrozenDropout(Net):
    def __init__(self, num_classes, input_shape, **kwargs):
        super().__init__(num_classes, input_shape, **kwargs)
        body = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.5))
        self.network = nn.Sequential(body.requires_grad_(False), nn.Dropout(0.5), nn.Linear(8, num_classes))


class FrozenInEval(Frozen):
    def __init__(self, num_classes, input_shape, **kwargs):
        super().__init__(num_classes, input_shape, **kwargs)
        self.network[0].eval()


class FrozenByTrain(Frozen):
    def train(self, mode=True):
        super().train(mode)
        self.network[0].eval()
        return self


def test_frozen_parts_in_train_mode_are_refused(data, tmp_path):
    sentence = refusal(net(Frozen), data, tmp_path)
    assert "1 layer in frozen parts of Frozen is in training mode (network.0.2), so that the statistics" in sentence
    assert "(network.0.2), so that dropouts are still active" in refusal(net(FrozenDropout), data, tmp_path)
    result = fit(net(Frozen), data, tmp_path, allow=["frozen_in_train_mode"])
    assert result.status == "finished"


@pytest.mark.parametrize("kind", [FrozenInEval, FrozenByTrain])
def test_frozen_parts_in_evaluation_mode_stay_there(kind, data, tmp_path):
    model = net(kind)
    before = model.network[0][2].running_mean.clone()
    assert sentences(fit(model, data, tmp_path)) == []
    assert torch.equal(model.network[0][2].running_mean, before)


class AsReported(CNN):
    from_command_line = False
    frozen_in_train_mode = True


def test_a_subclass_may_repeat_the_defect_of_freeze_where_it_is_allowed(data, tmp_path):
    model = AsReported(CLASSES, (1, 8, 8), freeze=["blocks"])
    assert "batch norms still change" in refusal(model, data, tmp_path)
    model = AsReported(CLASSES, (1, 8, 8), freeze=["blocks"])
    assert fit(model, data, tmp_path, allow=["frozen_in_train_mode"]).status == "finished"
    assert sentences(fit(CNN(CLASSES, (1, 8, 8), freeze=["blocks"]), data, tmp_path / "other")) == []


def test_a_batch_norm_of_one_sample_is_refused(tmp_path):
    data = make_data()
    data.batch_size = 1
    assert "data.batch_size is 1, but CNN trains" in refusal(CNN(CLASSES, (1, 8, 8)), data, tmp_path)
    data = make_data()
    data.batch_size = 1
    assert sentences(fit(net(), data, tmp_path)) == []


def test_inputs_that_are_not_centered_are_reported(tmp_path):
    (sentence,) = sentences(fit(net(), make_data(mean=[0.0], std=[1.0]), tmp_path))
    assert sentence.startswith("The inputs of the first layer (network.")
    assert "are not centered: their mean is 0.49" in sentence


class Normalizing(Net):
    def __init__(self, num_classes, input_shape, **kwargs):
        super().__init__(num_classes, input_shape, **kwargs)
        self.network = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, num_classes))


def test_a_network_that_begins_with_a_batch_norm_scales_its_inputs_itself(tmp_path):
    assert sentences(fit(net(Normalizing), make_data(mean=[0.0], std=[1.0]), tmp_path)) == []


class Loud(Net):
    def forward(self, images):
        return 100 * super().forward(images)


def test_a_first_loss_far_above_guessing_is_reported(data, tmp_path):
    (sentence,) = sentences(fit(net(Loud), data, tmp_path))
    assert "but guessing among 3 classes gives 1.10" in sentence


class Counting(CNN):
    """Has state of every kind: batch norms, a counter, a list, a tensor, random numbers."""

    from_command_line = False

    def __init__(self, num_classes, input_shape, **kwargs):
        super().__init__(num_classes, input_shape, **kwargs)
        self.calls = 0
        self.seen = []
        self.total = torch.zeros(1)

    def training_step(self, batch, batch_idx):
        self.calls += 1
        self.seen.append(len(batch[1]))
        self.total += random.random() + np.random.random()
        self.log("train/calls", float(self.calls))
        return super().training_step((batch[0] + 0.01 * torch.randn_like(batch[0]), batch[1]), batch_idx)


class State(Callback):
    """Notes what the trial may have changed, before and after it."""

    def __init__(self):
        self.states = []

    def note(self, model):
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        numbers = (random.random(), np.random.random(), torch.rand(1).item())
        gradients = [parameter.grad for parameter in model.parameters()]
        self.states.append((weights, model.calls, list(model.seen), model.total.item(), numbers, gradients))


def test_the_trial_leaves_no_trace(data, tmp_path, monkeypatch):
    """Compares a run with the guards to one in which the trial is left out, and the model around the trial itself."""
    from visionbench.training.callbacks import start

    def run(folder):
        torch.manual_seed(0)
        model = Counting(CLASSES, (1, 8, 8))
        return visionbench.fit(model, make_data(), max_epochs=2, run_dir=folder), model

    with_trial, model = run(tmp_path / "with")
    monkeypatch.setattr(start.StartOfTraining, "on_train_start", lambda *_: None)
    without, other = run(tmp_path / "without")
    assert with_trial.weights_digest == without.weights_digest
    assert (model.calls, model.seen) == (other.calls, other.seen)
    assert (tmp_path / "with/metrics.csv").read_bytes() == (tmp_path / "without/metrics.csv").read_bytes()


def test_unchanged_restores_a_model_whose_step_changes_everything():
    model = Counting(CLASSES, (1, 8, 8))
    model.on_train_epoch_start()
    state, numbers = State(), torch.get_rng_state()
    state.note(model)
    torch.set_rng_state(numbers)
    random_state = random.getstate()
    with unchanged(model):
        model.calls, model.total = 5, model.total + 1
        model.seen.append(1)
        model.new = 1
        model.eval()
        with torch.no_grad():
            for value in (*model.parameters(), *model.buffers()):
                value.add_(1)
        torch.rand(3), random.random(), np.random.random()
    assert random.getstate() == random_state
    assert torch.equal(torch.get_rng_state(), numbers)
    assert model.training
    assert not hasattr(model, "new")
    assert (model.calls, model.seen, model.total.item()) == (0, [], 0)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state.states[0][0][name])


def test_mixed_labels_are_tried_too(tmp_path):
    data = make_data(augment=[MixUp()])
    assert fit(net(), data, tmp_path).status == "finished"


def test_a_refused_run_leaves_neither_its_folder_nor_the_next_number(cli, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from visionbench.models import MLP\n\n\nclass Soft(MLP):\n"
        "    def forward(self, images):\n        return super().forward(images).softmax(1)\n"
    )
    line = "fit --model mine.Soft --data Digits --trainer.max_epochs 1 --name run"
    assert "double_softmax" in cli(line).err
    assert not (tmp_path / "lightning_logs").exists()
    result = cli(f"{line} --allow [double_softmax]")
    assert result.status == 0
    assert "note: The outputs of Soft are those of a softmax" in result.out
    run = tmp_path / "lightning_logs/run/version_0/run.json"
    assert json.loads(run.read_text())["findings"][0]["guard"] == "double_softmax"


@pytest.mark.parametrize(
    ("options", "late"),
    [
        ({"trainer.val_check_interval": 2}, "1 batch before its end (trainer.val_check_interval)"),
        ({"trainer.val_check_interval": 2, "trainer.check_val_every_n_epoch": None}, "1 batch before its end"),
        ({"trainer.val_check_interval": 4, "trainer.check_val_every_n_epoch": None}, "2 batches before its end"),
        ({"trainer.val_check_interval": 3}, None),
        ({"trainer.val_check_interval": 0.34}, None),
        ({"trainer.val_check_interval": 6, "trainer.check_val_every_n_epoch": None}, None),
        ({}, None),
    ],
)
def test_batches_after_the_last_validation_of_an_epoch_are_said(options, late, data, tmp_path):
    """Of three batches."""
    options = {"trainer.max_epochs": 2, **options}
    said = sentences(visionbench.fit(net(), data, run_dir=tmp_path / "run", **options))
    assert len(said) == (late is not None)
    assert late is None or late in said[0]
