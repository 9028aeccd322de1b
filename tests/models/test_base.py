import functools
import inspect

import pytest
import torch
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR, ReduceLROnPlateau, StepLR

import visionbench.models
from visionbench.errors import UserError
from visionbench.models import MLP, Classifier, FrozenResNet, Objective
from visionbench.models.base import Totals

MODELS = [
    getattr(visionbench.models, name)
    for name in visionbench.models.__all__
    if isinstance(getattr(visionbench.models, name), type)
    and issubclass(getattr(visionbench.models, name), Classifier)
    and not inspect.isabstract(getattr(visionbench.models, name))
]


@pytest.mark.parametrize("kind", MODELS)
def test_every_model_takes_what_the_data_set_gives(kind):
    assert {"num_classes", "input_shape"} <= set(inspect.signature(kind).parameters)
    own = {"weights": "none"} if kind is FrozenResNet else {}
    assert kind(7, (3, 24, 32), **own)(torch.randn(2, 3, 24, 32)).shape == (2, 7)


def test_the_base_cannot_be_chosen_as_a_model():
    with pytest.raises(TypeError, match="abstract"):
        Classifier(10, (1, 28, 28))


def test_totals_are_those_of_the_whole_set_whatever_the_batches():
    logits, labels = torch.randn(10, 3), torch.randint(3, (10,))
    totals = Totals(torch.device("cpu"))
    for part in (slice(0, 7), slice(7, 10)):
        totals.add(torch.nn.functional.cross_entropy(logits[part], labels[part]), logits[part].argmax(1), labels[part])
    assert totals.count == 10
    assert totals.correct == (logits.argmax(1) == labels).sum()
    assert float(totals.loss / 10) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-6)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 9), (3, 10)])
def test_outputs_of_another_shape_are_refused_not_broadcast(shape):
    with pytest.raises(UserError, match="num_outputs"):
        MLP(10, (1, 28, 28), widths=[4]).loss(torch.zeros(shape), torch.zeros(4, dtype=torch.int64))


def test_shares_of_classes_are_labels_too():
    logits, shares = torch.randn(8, 10), torch.rand(8, 10).softmax(1)
    model = MLP(10, (1, 28, 28), widths=[4])
    expected = -(shares * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(model.loss(logits, shares), expected)
    hard = torch.arange(8)
    torch.testing.assert_close(model.loss(logits, torch.eye(10)[hard]), model.loss(logits, hard))


def test_totals_count_the_class_with_the_largest_share():
    totals = Totals(torch.device("cpu"))
    shares = torch.tensor([[0.7, 0.3, 0.0], [0.4, 0.6, 0.0], [0.0, 0.45, 0.55], [1.0, 0.0, 0.0]])
    totals.add(torch.tensor(0.5), torch.tensor([0, 0, 2, 1]), shares)
    assert (totals.count, int(totals.correct), float(totals.loss)) == (4, 2, 2.0)


@pytest.mark.parametrize("loss", ["nll", "mse", "binary_cross_entropy"])
def test_shares_are_refused_by_a_loss_that_takes_one_class(loss):
    model = MLP(2, (1, 28, 28), widths=[4], loss=loss)
    with pytest.raises(UserError, match=r"for labels of shape \(4, 2\)"):
        model.loss(torch.zeros(4, model.num_outputs), torch.full((4, 2), 0.5))


@pytest.mark.parametrize("labels", [torch.full((4, 9), 0.1), torch.zeros(4, 10, dtype=torch.int64), torch.zeros(3, 10)])
def test_shares_of_another_shape_are_refused(labels):
    with pytest.raises(UserError, match="labels of shape"):
        MLP(10, (1, 28, 28), widths=[4]).loss(torch.zeros(4, 10), labels)


def test_label_smoothing_reaches_the_training_loss_alone():
    logits, labels = torch.randn(4, 10), torch.arange(4)
    model = MLP(10, (1, 28, 28), widths=[4], label_smoothing=0.2)
    assert torch.equal(
        model.loss(logits, labels), torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.2)
    )
    assert torch.equal(model.eval().loss(logits, labels), torch.nn.functional.cross_entropy(logits, labels))


def test_l1_adds_the_absolute_weights_but_not_to_the_logged_loss():
    model = MLP(10, (1, 28, 28), widths=[4], batch_norm=True, l1=0.01)
    batch = torch.randn(8, 1, 28, 28), torch.arange(8)
    model.train_totals = Totals(torch.device("cpu"))
    minimized = model.training_step(batch, 0)
    weights = [layer.weight for layer in model.network.modules() if isinstance(layer, torch.nn.Linear)]
    penalty = 0.01 * sum(w.abs().sum() for w in weights)
    logged = model.train_totals.loss / 8
    assert float(minimized.detach()) == pytest.approx(float(logged + penalty.detach()), rel=1e-5)


def test_frozen_parameters_stay_out_of_the_optimizer():
    model = MLP(10, (1, 28, 28), widths=[4])
    model.network.hidden.requires_grad_(False)
    (group,) = model.configure_optimizers().param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in model.network.head.parameters()}


def test_a_model_that_is_all_frozen_is_refused():
    model = MLP(10, (1, 28, 28), widths=[4])
    model.requires_grad_(False)
    with pytest.raises(UserError, match="nothing to train"):
        model.configure_optimizers()


@pytest.mark.parametrize(
    ("scheduler", "given", "interval"),
    [
        (functools.partial(OneCycleLR, max_lr=0.1, total_steps=9), None, "step"),
        (functools.partial(CyclicLR, base_lr=0.1, max_lr=0.2), None, "step"),
        (functools.partial(OneCycleLR, max_lr=0.1, total_steps=9), "epoch", "epoch"),
        (functools.partial(StepLR, step_size=3), None, "epoch"),
        (functools.partial(StepLR, step_size=3), "step", "step"),
        (lambda optimizer: OneCycleLR(optimizer, 0.1, total_steps=9), None, "epoch"),
        (None, None, "epoch"),
    ],
)
def test_cycles_step_after_each_batch_unless_it_is_set(scheduler, given, interval):
    model = MLP(10, (1, 28, 28), widths=[4], lr_scheduler=scheduler, lr_interval=given)
    assert model.lr_interval == interval


def test_the_scheduler_is_stepped_as_asked():
    model = MLP(10, (1, 28, 28), widths=[4], lr_scheduler=lambda o: StepLR(o, 3), lr_interval="step")
    assert model.configure_optimizers()["lr_scheduler"]["interval"] == "step"


def test_the_plateau_scheduler_follows_the_objective():
    import functools

    model = MLP(10, (1, 28, 28), widths=[4], lr_scheduler=functools.partial(ReduceLROnPlateau, patience=3))
    model.objective = Objective("val/acc")
    made = model.configure_optimizers()["lr_scheduler"]
    assert (made["scheduler"].mode, made["scheduler"].patience, made["monitor"]) == ("max", 3, "val/acc")


def test_hyperparameters_of_a_model_built_in_python_are_plain():
    model = MLP(
        10,
        (1, 28, 28),
        widths=[4],
        optimizer=lambda params: torch.optim.SGD(params, lr=0.3, momentum=0.9),
        lr_scheduler=lambda optimizer: StepLR(optimizer, step_size=3, gamma=0.5),
    )
    optimizer, scheduler = model.hparams["optimizer"], model.hparams["lr_scheduler"]
    assert optimizer["class_path"] == "torch.optim.sgd.SGD"
    assert (optimizer["init_args"]["lr"], optimizer["init_args"]["momentum"]) == (0.3, 0.9)
    assert scheduler["init_args"] == {"step_size": 3, "gamma": 0.5}
