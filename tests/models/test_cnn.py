import pytest
import torch
from torch import nn

from tests.models.test_mlp import same_outputs
from visionbench.errors import UserError
from visionbench.models import CNN


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
    assert torch.equal(model(images), plain(images))


def test_an_image_too_small_for_the_blocks_is_refused():
    with pytest.raises(UserError, match="28 x 28"):
        CNN(10, (1, 28, 28), filter_size=9, padding="none")


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(UserError, match="one for each block"):
        CNN(10, (1, 28, 28), dropouts=[0.3])
