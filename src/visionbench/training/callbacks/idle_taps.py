"""Convolutions whose weights would get gradients of uninitialized memory."""

import functools
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class IdleTapsIn32Bits(Callback):
    """Trains a convolution in 32 bits where a tap of its filters meets no pixel, as on feature maps of a single pixel.

    On a processor, torch 2.15 computes the gradients of such weights in bfloat16 from memory that nobody has written:
    they differ from run to run, and some are no numbers. Evaluation needs no gradients and stays as it is.
    """

    def __init__(self) -> None:
        self.contexts: list[torch.autocast] = []
        self.handles: list[RemovableHandle] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if trainer.precision != "bf16-mixed" or trainer.strategy.root_device.type != "cpu":
            return
        for layer in pl_module.modules():
            if isinstance(layer, nn.Conv2d) and layer.weight.requires_grad and layer.padding_mode == "zeros":
                self.handles.append(layer.register_forward_pre_hook(self._before))
                self.handles.append(layer.register_forward_hook(self._after, always_call=True))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def _before(self, layer: nn.Conv2d, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        images = inputs[0]
        is_trained = torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
        if not (is_trained and _has_idle_taps(tuple(images.shape[-2:]), _geometry(layer))):
            return None
        context = torch.autocast("cpu", enabled=False)
        context.__enter__()  # type: ignore[no-untyped-call]
        self.contexts.append(context)
        return (images.float(),)

    def _after(self, layer: nn.Conv2d, inputs: Any, outputs: Any) -> None:
        if self.contexts:  # of this layer, since a convolution holds no other
            self.contexts.pop().__exit__(None, None, None)


def _geometry(layer: nn.Conv2d) -> tuple[tuple[int, int, int, int, int], ...]:
    """Size, stride, padding before and after, and dilation of the filters, by axis."""
    axes = []
    for axis, (size, stride, dilation) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)):
        if layer.padding == "same":
            before, both = dilation * (size - 1) // 2, dilation * (size - 1)
        else:
            before = 0 if isinstance(layer.padding, str) else int(layer.padding[axis])
            both = 2 * before
        axes.append((size, stride, before, both - before, dilation))
    return tuple(axes)


@functools.cache
def _has_idle_taps(sizes: tuple[int, ...], geometry: tuple[tuple[int, int, int, int, int], ...]) -> bool:
    """Whether there is a place in the filters that lies beside the image, wherever they are put.

    Args:
        sizes: Height and width of the image.
        geometry: As of `_geometry`.
    """
    for length, (size, stride, before, after, dilation) in zip(sizes, geometry, strict=True):
        places = (length + before + after - dilation * (size - 1) - 1) // stride + 1
        for tap in range(size):
            if not any(0 <= place * stride + tap * dilation - before < length for place in range(places)):
                return True
    return False
