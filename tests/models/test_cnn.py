import pytest
import torch
from torch import nn

from tests.models import test_mlp
from visionbench.errors import UserError
from visionbench.models import CNN


def same_outputs(ours, plain, training):
    # In the same memory layout, in which sums and the draws of a dropout go.
    return test_mlp.same_outputs(ours, plain.to(memory_format=torch.channels_last), training)


@pytest.mark.parametrize("training", [False, True])
def test_the_network_is_the_coursework_s(training):
    model = CNN(10, (1, 28, 28), dropouts=[0.1, 0.2, 0.3], dense_dropout=0.4)
    plain = nn.Sequential(
        nn.BatchNorm2d(1), nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.1),
        nn.BatchNorm2d(32), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.2),
        nn.BatchNorm2d(64), nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(),
        nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.3),
        nn.BatchNorm2d(128), nn.Flatten(), nn.Linear(1152, 64), nn.ReLU(), nn.Dropout(0.4), nn.Linear(64, 10),
    )  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == 315_148
    assert same_outputs(model.network, plain, training)


def test_every_part_is_configurable():
    model = CNN(
        5,
        (3, 21, 23),
        widths=[4, 6],
        convs=[2, 1],
        filter_size=5,
        padding="none",
        pool=2,
        dropouts=[0.0, 0.0],
        dense=0,
        activation="tanh",
        batch_norm=False,
    )
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 5), nn.Tanh(), nn.Conv2d(4, 4, 5), nn.Tanh(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 5), nn.Tanh(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip
    plain.load_state_dict(dict(zip(plain.state_dict(), model.network.state_dict().values(), strict=True)))
    images = torch.randn(4, 3, 21, 23)
    assert torch.equal(model(images), plain.to(memory_format=torch.channels_last)(images))


def test_an_image_too_small_for_the_blocks_is_refused():
    with pytest.raises(UserError, match="28 x 28"):
        CNN(10, (1, 28, 28), filter_size=9, padding="none")


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(UserError, match="one for each block"):
        CNN(10, (1, 28, 28), dropouts=[0.3])


TASK_1 = {
    "widths": [10, 20],
    "convs": [1, 1],
    "filter_size": 5,
    "padding": "none",
    "dropouts": [0.0, 0.5],
    "channel_dropout": True,
    "dense": 50,
    "dense_dropout": 0.5,
    "batch_norm": False,
    "loss": "nll",
}
TASK_2 = {
    "widths": [16, 16],
    "convs": [1, 1],
    "padding": "none",
    "dropouts": [0.0, 0.0],
    "dense": 128,
    "dense_dropout": 0.1,
    "batch_norm": False,
}


@pytest.mark.parametrize("training", [False, True])
def test_the_mnist_network_of_the_project_is_this_one_with_other_arguments(training):
    """Written as in its report: pooled, and channels dropped before the pool, before ReLU."""
    model = CNN(10, (1, 28, 28), **TASK_1)
    plain = nn.Sequential(
        nn.Conv2d(1, 10, 5), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(10, 20, 5), nn.Dropout2d(0.5), nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(320, 50), nn.ReLU(), nn.Dropout(0.5), nn.Linear(50, 10), nn.LogSoftmax(dim=1),
    )  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == 21_840
    assert same_outputs(model, plain, training)


def test_the_mnist_network_s_loss_and_gradients_are_those_of_the_project():
    model = CNN(10, (1, 28, 28), **TASK_1)
    plain = nn.Sequential(
        nn.Conv2d(1, 10, 5), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(10, 20, 5), nn.Dropout2d(0.5), nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(320, 50), nn.ReLU(), nn.Dropout(0.5), nn.Linear(50, 10), nn.LogSoftmax(dim=1),
    )  # fmt: skip
    plain.load_state_dict(dict(zip(plain.state_dict(), model.state_dict().values(), strict=True)))
    images, labels = torch.randn(8, 1, 28, 28), torch.arange(8)
    torch.manual_seed(3)
    model.loss(model(images), labels).backward()
    torch.manual_seed(3)
    nn.NLLLoss()(plain(images), labels).backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("padding", "side", "parameters"), [("none", 5, 55_098), ("same", 7, 104_250)])
def test_the_base_of_the_project_s_grid_is_this_one_with_other_arguments(training, padding, side, parameters):
    model = CNN(10, (1, 28, 28), **(TASK_2 | {"padding": padding}))
    border = 0 if padding == "none" else 1
    plain = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=border), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=border), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16 * side * side, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 10),
    )  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert same_outputs(model, plain, training)


@pytest.mark.parametrize(("convs", "filter_size", "fits"), [(2, 5, True), (3, 3, True), (3, 5, False)])
def test_without_padding_three_layers_of_filter_5_do_not_fit(convs, filter_size, fits):
    grid = TASK_2 | {"widths": [16] * convs, "convs": [1] * convs, "dropouts": [0.0] * convs}
    if fits:
        assert CNN(10, (1, 28, 28), **grid, filter_size=filter_size)(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    else:
        with pytest.raises(UserError, match=r"too small for 3 blocks.*padding same"):
            CNN(10, (1, 28, 28), **grid, filter_size=filter_size)
    same = grid | {"padding": "same"}
    assert CNN(10, (1, 28, 28), **same, filter_size=filter_size)(torch.randn(2, 1, 28, 28)).shape == (2, 10)
