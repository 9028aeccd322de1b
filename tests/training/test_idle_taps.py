"""Convolutions of which torch computes wrong gradients in bfloat16 on a processor."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from visionbench.training.callbacks.idle_taps import IdleTapsIn32Bits, _geometry, _has_idle_taps

CPU = SimpleNamespace(precision="bf16-mixed", strategy=SimpleNamespace(root_device=torch.device("cpu")))


# Side of the image, and size, stride and padding of the filters, as far as torch has such a convolution.
CASES = [
    (side, size, stride, padding)
    for side, size, stride, padding in itertools.product([1, 2, 3, 5, 8], [1, 2, 3, 5, 7], [1, 2, 3], [0, 1, 2, "same"])
    if (stride == 1 if padding == "same" else side + 2 * padding >= size)
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(("side", "size", "stride", "padding"), CASES)
def test_idle_taps_are_those_that_no_gradient_reaches(side, size, stride, padding):
    layer = nn.Conv2d(1, 1, size, stride, padding, bias=False)
    layer(torch.ones(1, 1, side, side)).sum().backward()
    assert _has_idle_taps((side, side), _geometry(layer)) == bool((layer.weight.grad == 0).any())


def test_a_layer_with_idle_taps_is_trained_in_32_bits_and_evaluated_as_the_others():
    torch.manual_seed(0)
    layer = nn.Conv2d(128, 256, 3, 2, 1)
    kind = lambda side: layer(torch.randn(2, 128, side, side)).dtype  # noqa: E731
    callback = IdleTapsIn32Bits()
    callback.on_fit_start(CPU, layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert kind(1) == torch.float32
        assert kind(8) == torch.bfloat16
        with torch.no_grad():
            assert kind(1) == torch.bfloat16
    callback.on_fit_end(CPU, layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert kind(1) == torch.bfloat16


def test_a_run_in_bfloat16_trains_such_layers_alike_each_time(cli_in, tmp_path):
    line = (
        "fit --model FrozenResNet --model.weights none --model.min_size 8 --model.hidden 4 --trainer.max_epochs 2 "
        "--data tests.fakes.Tiny --model.freeze [backbone.layer1] --trainer.precision bf16-mixed --threads 1"
    )
    found = set()
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        cli = cli_in(tmp_path / str(number))
        assert cli(line).status == 0
        (path,) = (tmp_path / str(number)).glob("lightning_logs/*/version_0/run.json")
        found.add(path.read_text().partition('"weights_digest"')[2][:70])
    assert len(found) == 1
