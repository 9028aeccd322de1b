import copy

import pytest
import torch
from torch import nn

from visionbench.errors import UserError
from visionbench.models.optimizers import ConvMuon, orthogonalized


@pytest.mark.parametrize("shape", [(8, 27), (27, 8), (8, 8)])
def test_singular_values_come_near_1_and_singular_vectors_stay(shape):
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.linspace(0.05, 1, 8)  # of a norm below 2, so that none is below 0.02 of it
    rotated = left.T @ orthogonalized(left @ values.diag() @ right) @ right.T
    torch.testing.assert_close(rotated, rotated.diag().diag(), rtol=0, atol=1e-5)
    assert rotated.diag().min() > 0.68
    assert rotated.diag().max() < 1.21


def test_a_step_scales_the_filters_and_adds_orthogonal_momentum():
    torch.manual_seed(0)
    filters = nn.Parameter(torch.randn(6, 3, 3, 3))
    optimizer = ConvMuon([filters], lr=0.1, momentum=0.5)
    expected, momentum = filters.detach().clone(), torch.zeros_like(filters)
    for _ in range(3):
        gradient = torch.randn_like(filters)
        filters.grad = gradient.clone()
        optimizer.step()
        momentum = 0.5 * momentum + gradient
        expected *= 6**0.5 / expected.norm()
        expected -= 0.1 * orthogonalized((gradient + 0.5 * momentum).flatten(1)).view_as(expected)
        torch.testing.assert_close(filters.detach(), expected)


def test_matrices_and_vectors_are_trained_as_by_sgd():
    torch.manual_seed(0)
    start = [torch.randn(4, 5), torch.randn(4)]
    ours, theirs = ([nn.Parameter(value.clone()) for value in start] for _ in range(2))
    optimizer = ConvMuon(ours, matrix_lr=0.3, vector_lr=0.02, sgd_momentum=0.8, decay=0.006)
    groups = [
        {"params": [theirs[0]], "lr": 0.3, "weight_decay": 0.006 / 0.3},
        {"params": [theirs[1]], "lr": 0.02, "weight_decay": 0.006 / 0.02},
    ]
    reference = torch.optim.SGD(groups, momentum=0.8, nesterov=True)
    for _ in range(4):
        for mine, its in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            its.grad = mine.grad.clone()
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours, theirs)


def test_the_state_is_that_of_a_checkpoint():
    torch.manual_seed(0)
    first, second = (nn.Conv2d(2, 4, 3) for _ in range(2))
    second.load_state_dict(first.state_dict())
    optimizers = [ConvMuon(layer.parameters()) for layer in (first, second)]
    images = torch.randn(2, 2, 5, 5)

    def step(layer, optimizer):
        optimizer.zero_grad()
        layer(images).square().sum().backward()
        optimizer.step()

    step(first, optimizers[0])
    second.load_state_dict(first.state_dict())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for layer, optimizer in zip((first, second), optimizers, strict=True):
        step(layer, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"lr": 0}, "lr is 0"), ({"momentum": 1}, "momentum is 1"), ({"decay": -0.1}, "decay is -0.1")],
)
def test_numbers_that_make_no_sense_are_refused(options, said):
    with pytest.raises(UserError, match=f"ConvMuon: {said}, expected"):
        ConvMuon([nn.Parameter(torch.zeros(2))], **options)
