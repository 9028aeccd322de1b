import pytest
import torch
from torch import nn

from visionbench.errors import UserError
from visionbench.models import PatchMLP
from visionbench.models.patch_mlp import Patches


class Across(nn.Module):
    """Applies an MLP to the last axis of the transposed patches."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.mlp(values[:, :, f]) for f in range(values.shape[2])], dim=2)


def mlp(outer: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(outer, hidden), nn.ReLU(), nn.Linear(hidden, outer))


@pytest.mark.parametrize("training", [False, True])
def test_the_default_is_the_coursework_s_network(training):
    model = PatchMLP(10, (1, 28, 28)).train(training)
    stem, norm, head = nn.Linear(16, 256), nn.BatchNorm1d(49), nn.Linear(256, 10)
    plain = nn.ModuleList([stem, norm, *(m for _ in range(2) for m in (Across(mlp(49, 128)), mlp(256, 128))), head])
    plain.load_state_dict(dict(zip(plain.state_dict(), model.state_dict().values(), strict=True)))
    plain.train(training)
    images = torch.randn(3, 1, 28, 28)
    cut = [images[:, 0, r : r + 4, c : c + 4].flatten(1) for r in range(0, 28, 4) for c in range(0, 28, 4)]
    values = norm(stem(torch.stack(cut, dim=1)))
    for block in plain[2:-1]:
        values = block(values)
    logits, expected = model(images), head(values.mean(dim=1))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    # Stored by the forward pass in training, and used in evaluation.
    torch.testing.assert_close(model.network.stem[2].running_mean, norm.running_mean)
    torch.testing.assert_close(model.network.stem[2].running_var, norm.running_var)
    logits.square().sum().backward()
    expected.square().sum().backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4 * float(theirs.grad.abs().max()))


def test_the_parameters_are_those_of_its_layers():
    stem, norm, head = 16 * 256 + 256, 2 * 49, 256 * 10 + 10
    block = (49 * 128 + 128) + (128 * 49 + 49) + (256 * 128 + 128) + (128 * 256 + 256)
    count = sum(p.numel() for p in PatchMLP(10, (1, 28, 28)).parameters())
    assert count == stem + norm + 2 * block + head == 164_302


def test_patches_are_cut_row_by_row_with_all_channels():
    image = torch.arange(2 * 4 * 6).reshape(1, 2, 4, 6)
    patches = Patches(2)(image)
    assert patches.shape == (6, 1, 8)
    assert patches[4, 0].tolist() == image[0, :, 2:4, 2:4].flatten().tolist()


def test_with_skip_connections_a_block_that_gives_nothing_is_the_identity():
    block = PatchMLP(10, (1, 28, 28), skip=True).network.blocks[0]
    for layer in (block.across_patches[2], block.across_features[2]):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    values = torch.randn(49, 2, 256)
    assert torch.equal(block(values), values)


def test_weights_start_from_kaiming_normal():
    weight = PatchMLP(10, (1, 28, 28), width=4096).network.stem[1].weight  # (4096, 16)
    assert float(weight.detach().std()) == pytest.approx((2 / 16) ** 0.5, rel=0.02)


def test_a_patch_size_that_does_not_divide_the_image_is_refused():
    with pytest.raises(UserError, match="28 x 28"):
        PatchMLP(10, (1, 28, 28), patch_size=5)
