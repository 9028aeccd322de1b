"""The number of threads that a run takes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from visionbench.models import CNN, MLP, PatchMLP
from visionbench.training.device import threads_for

IMAGE = (1, 28, 28)
PATCHES = {"patch_size": 7, "width": 24, "blocks": 3, "patch_hidden": 20, "feature_hidden": 36}


@pytest.mark.parametrize("model", [MLP(10, IMAGE), PatchMLP(10, IMAGE), PatchMLP(10, IMAGE, **PATCHES)])
def test_multiplications_are_those_of_a_forward_pass(model):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *IMAGE))
    assert 2 * model.multiplications == counter.get_total_flops()


@pytest.mark.parametrize(
    ("model", "batch", "threads"),
    [
        (MLP(10, IMAGE, widths=[128]), 64, 1),
        (MLP(10, IMAGE, widths=[2048, 2048]), 64, 4),
        (PatchMLP(10, IMAGE), 128, 4),  # fewer weights than the MLP above, each used for every patch
        (PatchMLP(10, IMAGE, **PATCHES), 4, 1),
        (CNN(10, IMAGE), 1, 4),
    ],
)
def test_a_network_that_computes_little_takes_one_thread(model, batch, threads):
    assert threads_for(model, batch, 4) == threads
