"""Figures of a network: layers and their cost, first filters, activations, Grad-CAM."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from visionbench.errors import UserError
from visionbench.figures.figure import DPI, Figure, Grid, cut, new_canvas
from visionbench.models.base import Classifier

# Largest number of layers in the picture; the CSV file has all of them.
MAX_LAYERS = 60
MAX_FILTERS = 64
MAX_CHANNELS = 8
MAX_MAPPED_LAYERS = 4


def layer_table(model: Classifier, example: Tensor) -> tuple[list[list[Any]], int]:
    """Table of the layers in the order of the forward pass, and the number of floating-point operations of the model.

    Args:
        model: Model in evaluation mode.
        example: One input, shape (1, ...), on the model's device.

    Returns:
        For each layer its name, type, output shape without the batch, number of parameters, number of trainable
        parameters, and number of operations (of matrix products and convolutions, as counted by torch; a multiplication
        with its addition counts as two).
    """
    rows: list[list[Any]] = []
    handles = []
    seen: set[int] = set()

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            own = list(module.parameters(recurse=False)) if id(module) not in seen else []
            seen.add(id(module))
            shape = " x ".join(map(str, output.shape[1:])) if isinstance(output, Tensor) else ""
            trained = sum(p.numel() for p in own if p.requires_grad)
            rows.append([name, type(module).__name__, shape, sum(p.numel() for p in own), trained])

        return hook

    for name, module in model.network.named_modules():
        if not any(True for _ in module.children()) or any(True for _ in module.parameters(recurse=False)):
            handles.append(module.register_forward_hook(note(name)))
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    by_module = {place: sum(counts.values()) for place, counts in counter.get_flop_counts().items()}
    prefix = f"{type(model).__name__}.network."
    for row in rows:
        row.append(by_module.get(prefix + row[0], 0))
    return rows, counter.get_total_flops()


def draw_layers(model: Classifier, example: Tensor) -> tuple[Figure, int]:
    """Draws the table of layers; also returns the number of operations per input."""
    rows, operations = layer_table(model, example)
    parameters = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    shown = rows if len(rows) <= MAX_LAYERS else rows[: MAX_LAYERS - 1]
    body = [[r[0], r[1], r[2], f"{r[3]:,}", f"{r[5]:,}"] for r in shown]
    if len(rows) > len(shown):
        body.append([f"and {len(rows) - len(shown)} more", "", "", "", ""])
    head = ["layer", "type", "output", "parameters", "operations"]
    last = ["all", type(model).__name__, "", f"{parameters:,}", f"{operations:,}"]
    widths = [max(len(line[n]) for line in [head, *body, last]) for n in range(len(head))]

    def text(line: Sequence[str]) -> str:
        names = [w.ljust(n) for w, n in zip(line[:3], widths[:3], strict=True)]
        return "  ".join([*names, *(w.rjust(n) for w, n in zip(line[3:], widths[3:], strict=True))]).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    more = f"{trained:,} of the parameters are trainable; {operations:,} floating-point operations per input"
    lines = [text(head), rule, *map(text, body), rule, text(last), "", more]
    canvas = new_canvas(8, 8)
    text_artist = canvas.text(0, 0, "\n".join(lines), family="monospace", fontsize=8, va="bottom", parse_math=False)
    extent = text_artist.get_window_extent()
    canvas.set_size_inches(extent.width / DPI + 0.3, extent.height / DPI + 0.3)
    text_artist.set_position((0.15 / canvas.get_figwidth(), 0.15 / canvas.get_figheight()))
    columns = ["layer", "type", "output", "parameters", "trained", "operations"]
    total = ["all", type(model).__name__, "", parameters, trained, operations]
    return Figure("network", canvas, columns, [*rows, total]), operations


def draw_filters(model: Classifier, input_shape: Sequence[int]) -> Figure | None:
    """Draws the weights of the first layer as images; `None` if they do not have the form of images."""
    first = next(((n, m) for n, m in model.network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)), None)
    if first is None or len(input_shape) != 3:
        return None
    name, layer = first
    weights = layer.weight.detach().float().cpu().numpy()
    if isinstance(layer, nn.Linear):
        channels, height, width = input_shape
        side = math.isqrt(weights.shape[1] // channels)
        if weights.shape[1] == channels * height * width:
            weights = weights.reshape(-1, channels, height, width)
        elif side > 1 and channels * side * side == weights.shape[1] and height % side == 0 and width % side == 0:
            weights = weights.reshape(-1, channels, side, side)  # weights of patches, channel by channel
        else:
            return None
    total = len(weights)
    rows = [[n, *_digits(kernel)] for n, kernel in enumerate(weights[:MAX_FILTERS])]
    weights = weights[:MAX_FILTERS]
    in_color = weights.shape[1] == 3
    limit = float(np.abs(np.nan_to_num(weights)).max()) or 1.0
    pictures = weights.transpose(0, 2, 3, 1) / (2 * limit) + 0.5 if in_color else weights.mean(axis=1)
    columns = 8
    lines = -(-len(pictures) // columns)
    which = f"the first {len(pictures)} of {total}" if total > len(pictures) else f"all {total}"
    mean = ", mean over channels" if weights.shape[1] not in (1, 3) else ""
    title = f"Weights of {cut(name, 30)}, {which}{mean}"
    grid = Grid(lines, columns, 0.75, 0.08, title, right=0.1 if in_color else 0.9)
    colors: dict[str, Any] = {} if in_color else {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    for number, picture in enumerate(pictures):
        shown = grid.show(number, np.nan_to_num(picture), **colors)
    if not in_color:
        inch = 1 / grid.canvas.get_figwidth()
        grid.canvas.colorbar(shown, cax=grid.canvas.add_axes((1 - 0.75 * inch, 0.1, 0.12 * inch, 0.7)))
    count = weights[0].size
    return Figure("first-filters", grid.canvas, ["filter", *(f"weight_{n}" for n in range(count))], rows)


def draw_activations(
    model: Classifier, example: Tensor, picture: np.ndarray, name: str, layers: Sequence[str], channels: Sequence[int]
) -> Figure | None:
    """Draws the activations of layers for one image.

    Args:
        model: Model in evaluation mode.
        example: Normalized image, shape (1, C, H, W).
        picture: Original image, shape (H, W, C), uint8.
        name: Name of the image.
        layers: Names of layers; by default up to four convolutions from the first to the last.
        channels: Channels of each layer, from 0; by default the first eight.

    Returns:
        The figure; `None` if the network has no convolution.

    Raises:
        UserError: A layer or channel does not exist, or the output of a layer has no spatial axes.
    """
    modules = dict(model.network.named_modules())
    if not layers:
        convolutions = [place for place, module in modules.items() if isinstance(module, nn.Conv2d)]
        if not convolutions:
            return None
        steps = np.linspace(0, len(convolutions) - 1, min(MAX_MAPPED_LAYERS, len(convolutions))).round().astype(int)
        layers = [convolutions[step] for step in steps]
    check_layers(model, layers)
    maps: dict[str, Tensor] = {}
    handles = [
        modules[place].register_forward_hook(lambda module, inputs, output, place=place: maps.update({place: output}))
        for place in layers
    ]
    try:
        with torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    chosen: dict[str, list[int]] = {}
    for place in layers:
        if place not in maps or maps[place].ndim != 4:
            raise UserError(
                f"The output of the layer {place} is not a map of the image; name a convolution in figure_layers."
            )
        channel_count = maps[place].shape[1]
        if missing := [channel for channel in channels if not 0 <= channel < channel_count]:
            raise UserError(
                f"The layer {place} has no channel {missing[0]}; figure_channels go from 0 to {channel_count - 1}."
            )
        chosen[place] = list(channels) or list(range(min(MAX_CHANNELS, channel_count)))
    columns = 1 + max(map(len, chosen.values()))
    grid = Grid(len(layers), columns, 1.0, 0.22, f"Activations of {cut(name, 60)}")
    rows = []
    for line, place in enumerate(layers):
        values = maps[place][0].float().cpu().numpy()
        grid.show_picture(line * columns, picture, cut(place, 16))
        for number, channel in enumerate(chosen[place], start=1):
            grid.show(line * columns + number, values[channel], f"channel {channel}", cmap="viridis")
            rows.append([place, channel, *(float(f(values[channel])) for f in (np.min, np.mean, np.max))])
    return Figure("activations", grid.canvas, ["layer", "channel", "lowest", "mean", "highest"], rows)


def check_layers(model: Classifier, layers: Sequence[str]) -> None:
    """Checks that the network has layers of these names.

    Raises:
        UserError: A layer does not exist.
    """
    modules = [name for name, _ in model.network.named_modules() if name]
    for place in layers:
        if place not in modules:
            known = [name for name, module in model.network.named_modules() if isinstance(module, nn.Conv2d)]
            hint = f"; its convolutions are {', '.join(known[:12])}" if known else ""
            raise UserError(f"figure_layers names {place!r}, but {type(model).__name__} has no such layer{hint}.")


def draw_grad_cam(
    model: Classifier, inputs: Tensor, pictures: np.ndarray, titles: Sequence[str], names: Sequence[str]
) -> Figure | None:
    """Draws Grad-CAM: the areas of each image that support the predicted class, from the last maps of the network.

    Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", 2017;
    computed by Captum.

    Args:
        model: Model in evaluation mode.
        inputs: Normalized images, shape (n, C, H, W).
        pictures: Original images, shape (n, H, W, C), uint8.
        titles: Captions of the images.
        names: Names of the images.

    Returns:
        The figure; `None` if the network has no convolution.
    """
    place = last_maps(model, inputs[:1])
    if place is None:
        return None
    from captum.attr import LayerGradCam

    layer = dict(model.network.named_modules())[place]

    def scores(images: Tensor) -> Tensor:
        outputs: Tensor = model(images)
        return torch.cat([-outputs, outputs], dim=1) if outputs.shape[1] == 1 else outputs

    differentiable = (
        inputs.detach().clone().requires_grad_()
    )  # so that a network whose weights are all frozen has gradients
    with torch.enable_grad():
        target = scores(differentiable).argmax(dim=1)
        maps = LayerGradCam(scores, layer).attribute(differentiable, target=target, relu_attributions=True)
    side = tuple(pictures.shape[1:3])
    large = nn.functional.interpolate(maps.detach().float(), side, mode="bilinear")[:, 0].cpu().numpy()
    columns = min(4, len(pictures))
    lines = -(-len(pictures) // columns)
    title = f"Grad-CAM at {cut(place, 40)}: areas that support the predicted class"
    grid = Grid(lines, 2 * columns, 1.3, 0.5, title)
    rows = []
    for number, heat in enumerate(large):
        top = float(heat.max())
        grid.show_picture(2 * number, pictures[number], titles[number])
        grid.show_picture(2 * number + 1, pictures[number])
        grid.show(2 * number + 1, heat / top if top > 0 else heat, cmap="jet", alpha=0.5, vmin=0, vmax=1)
        row, column = np.unravel_index(int(heat.argmax()), heat.shape)
        rows.append([names[number], int(row) if top > 0 else "", int(column) if top > 0 else "", top])
    return Figure("grad-cam", grid.canvas, ["sample", "row_of_highest", "column_of_highest", "highest"], rows)


def last_maps(model: Classifier, example: Tensor) -> str | None:
    """Finds the last layer whose output has the size of the last convolution's output, such as its activation.

    Args:
        model: Model in evaluation mode.
        example: One normalized image, shape (1, C, H, W).

    Returns:
        The name of the layer; `None` if the network has no convolution.
    """
    outputs: list[tuple[str, bool, tuple[int, ...]]] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                outputs.append((name, isinstance(module, nn.Conv2d), tuple(output.shape[2:])))

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in model.network.named_modules() if name]
    try:
        with torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    last = next((shape for _, is_convolution, shape in reversed(outputs) if is_convolution), None)
    return next((name for name, _, shape in reversed(outputs) if shape == last), None)


def _digits(kernel: np.ndarray) -> list[str]:
    return [str(value) for value in kernel.ravel()]
