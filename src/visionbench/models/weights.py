"""Weights to start from: another run's, or a file's."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visionbench.errors import UserError
from visionbench.runs.folder import RunFolder


def read_weights(place: Path) -> tuple[Path, dict[str, Tensor]]:
    """Reads a checkpoint's weights.

    Args:
        place: A run's folder, whose result is taken, or a file: a checkpoint, or the weights by their names alone.

    Returns:
        The file, and its weights by name.

    Raises:
        UserError: There is none, or it cannot be read.
    """
    file = RunFolder(place).result_checkpoint() if place.is_dir() else place
    if file.suffix == ".safetensors":
        load = _safetensors_reader(file)
    else:
        load = functools.partial(torch.load, map_location="cpu", weights_only=True)
    try:
        content = load(file)
    except FileNotFoundError:
        raise UserError(f"There is no file {file}; give a run's folder or a file of weights.") from None
    except Exception as error:  # a damaged file makes the readers stumble in a dozen ways, such as IndexError
        # torch's next sentence tells how to trust a file that is not to be trusted.
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        reason = ": ".join(filter(None, [type(error).__name__, reason]))
        raise UserError(
            f"{file} cannot be read as weights ({reason}); give a run's folder, or a file that torch.save wrote of "
            "tensors alone."
        ) from error
    weights = content.get("state_dict", content) if isinstance(content, dict) else None
    if not (isinstance(weights, dict) and weights and all(map(_is_weight, weights.items()))):
        raise UserError(
            f"{file} holds no weights by name; give a checkpoint, or what torch.save wrote of a state_dict."
        )
    return file, weights


def _is_weight(entry: tuple[Any, Any]) -> bool:
    return isinstance(entry[0], str) and isinstance(entry[1], Tensor)


def _safetensors_reader(file: Path) -> Callable[[Path], Any]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(
            f"{file} is to be read with safetensors, which is not installed; pip install safetensors."
        ) from None
    reader: Callable[[Path], Any] = load_file
    return reader


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], file: Path, anew: str = "") -> list[str]:
    """Loads weights into a module that must have the same names and shapes, save the outputs of one layer.

    Args:
        module: Gets the weights.
        weights: By name.
        file: Where they come from, for the error.
        anew: Name of a layer that keeps its own weights where it has another number of outputs.

    Returns:
        The names in `anew` that were not loaded.

    Raises:
        UserError: A name is missing or surplus, or a shape differs.
    """
    own = module.state_dict()
    complaints = [f"{name} is missing" for name in own if name not in weights]
    complaints += [f"{name} is surplus" for name in weights if name not in own]
    kept = []
    for name in own:
        if name in weights and own[name].shape != weights[name].shape:
            if anew and name.startswith(f"{anew}.") and own[name].shape[1:] == weights[name].shape[1:]:
                kept.append(name)
            else:
                complaints.append(f"{name} is {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}")
    if complaints:
        more = f" and {len(complaints) - 5} more" if len(complaints) > 5 else ""
        raise UserError(
            f"The weights in {file} are not of this model: {', '.join(complaints[:5])}{more}; give the model the "
            "arguments of the run that they come from."
        )
    module.load_state_dict({name: own[name] if name in kept else weights[name] for name in own})
    return kept


def last_layer(network: nn.Module) -> str:
    """The name of the last module that has parameters of its own: the one that gives the outputs."""
    names: list[str] = [name for name, module in network.named_modules() if module._parameters]
    return names[-1]
