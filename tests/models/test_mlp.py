import pytest
import torch
from torch import nn

from visionbench.errors import UserError
from visionbench.models import MLP


def same_outputs(ours: nn.Module, theirs: nn.Module, training: bool) -> bool:
    """Copies the weights in the order of the layers, so that another order of layers shows."""
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    images = torch.randn(8, 1, 28, 28)
    outputs = []
    for network in (ours, theirs):
        torch.manual_seed(3)  # the same dropout in both
        outputs.append(network.train(training)(images))
    return torch.equal(*outputs)


def test_the_default_is_the_lab_report_s_network():
    model = MLP(10, (1, 28, 28))
    plain = nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 256), nn.Tanh(),
        nn.Linear(256, 128), nn.Tanh(),
        nn.Linear(128, 64), nn.Tanh(),
        nn.Linear(64, 10),
    )  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == 242_762
    assert same_outputs(model.network, plain, training=False)


def test_batch_norm_stands_between_linear_and_activation():
    model = MLP(10, (1, 28, 28), batch_norm=True)
    plain = nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 256), nn.BatchNorm1d(256), nn.Tanh(),
        nn.Linear(256, 128), nn.BatchNorm1d(128), nn.Tanh(),
        nn.Linear(128, 64), nn.BatchNorm1d(64), nn.Tanh(),
        nn.Linear(64, 10),
    )  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == 243_658
    assert same_outputs(model.network, plain, training=True)


def test_dropout_after_the_second_activation_only():
    model = MLP(10, (1, 28, 28), dropout=0.4, dropout_after=[2])
    plain = nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 256), nn.Tanh(),
        nn.Linear(256, 128), nn.Tanh(), nn.Dropout(0.4),
        nn.Linear(128, 64), nn.Tanh(),
        nn.Linear(64, 10),
    )  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == 242_762
    assert same_outputs(model.network, plain, training=True)


def test_dropout_is_after_every_hidden_layer_unless_said_otherwise():
    network = MLP(10, (1, 28, 28), widths=[8, 8], dropout=0.4, activation="relu").network
    kinds = [type(layer).__name__ for layer in network.modules() if not list(layer.children())]
    assert kinds == ["Flatten", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]


def test_dropout_after_a_layer_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="1 to 2"):
        MLP(10, (1, 28, 28), widths=[8, 8], dropout=0.4, dropout_after=[3])


def test_no_hidden_layer_is_a_linear_classifier_of_any_shape():
    model = MLP(3, (3, 5, 7), widths=[])
    assert model(torch.randn(2, 3, 5, 7)).shape == (2, 3)
    assert sum(p.numel() for p in model.parameters()) == 3 * 5 * 7 * 3 + 3
