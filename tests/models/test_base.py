import inspect

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

import visionbench.models
from visionbench.errors import UserError
from visionbench.models import MLP, Classifier, Objective
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
    assert kind(7, (3, 24, 32))(torch.randn(2, 3, 24, 32)).shape == (2, 7)


def test_the_base_cannot_be_chosen_as_a_model():
    with pytest.raises(TypeError, match="abstract"):
        Classifier(10, (1, 28, 28))


def test_totals_are_those_of_the_whole_set_whatever_the_batches():
    logits, labels = torch.randn(10, 3), torch.randint(3, (10,))
    totals = Totals(torch.device("cpu"))
    for part in (slice(0, 7), slice(7, 10)):
        totals.add(torch.nn.functional.cross_entropy(logits[part], labels[part]), logits[part], labels[part])
    assert totals.count == 10
    assert totals.correct == (logits.argmax(1) == labels).sum()
    assert float(totals.loss / 10) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-6)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 9), (3, 10)])
def test_outputs_of_another_shape_are_refused_not_broadcast(shape):
    with pytest.raises(ValueError, match="one logit a class"):
        MLP(10, (1, 28, 28), widths=[4]).loss(torch.zeros(shape), torch.zeros(4, dtype=torch.int64))


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
    minimised = model.training_step(batch, 0)
    weights = [layer.weight for layer in model.network if isinstance(layer, torch.nn.Linear)]
    penalty = 0.01 * sum(w.abs().sum() for w in weights)
    logged = model.train_totals.loss / 8
    assert float(minimised.detach()) == pytest.approx(float(logged + penalty.detach()), rel=1e-5)


def test_frozen_parameters_stay_out_of_the_optimiser():
    model = MLP(10, (1, 28, 28), widths=[4])
    model.network[1].requires_grad_(False)
    (group,) = model.configure_optimizers().param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in model.network[3].parameters()}


def test_a_model_that_is_all_frozen_is_refused():
    model = MLP(10, (1, 28, 28), widths=[4])
    model.requires_grad_(False)
    with pytest.raises(UserError, match="nothing to train"):
        model.configure_optimizers()


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
