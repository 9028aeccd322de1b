"""Weights that training starts from: those of another run, or of a file."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visionbench.errors import UserError
from visionbench.runs.folder import RunFolder
from visionbench.runs.identity import weights_digest


@dataclass
class Start:
    """What training starts from, and whether the model is ready to train.

    Args:
        file: File of the loaded weights; None where training starts from randomly initialized weights.
        weights_digest: Digest of the weights in the file.
        reinitialized_layer: Name of the layer that keeps its random weights; None where the file sets all weights.
        loaded: Whether a checkpoint of this model has set all weights, so that no other weights are loaded.
        done: Whether weights have been loaded and parts frozen, so that neither is repeated.
    """

    file: str | None = None
    weights_digest: str | None = None
    reinitialized_layer: str | None = None
    loaded: bool = False
    done: bool = False

    def set_weights(self, file: Path, weights: Mapping[str, Tensor], reinitialized_layer: str | None) -> None:
        """Records which weights have been loaded.

        Args:
            file: File of the weights.
            weights: Loaded weights by name.
            reinitialized_layer: Name of the layer that keeps its random weights, or None.
        """
        self.file, self.weights_digest = str(file), weights_digest(weights)
        self.reinitialized_layer = reinitialized_layer

    def record(self) -> dict[str, Any] | None:
        """The loaded weights in plain types, for run.json and checkpoints; None where no weights were loaded."""
        if self.file is None:
            return None
        return {
            "file": self.file,
            "weights_digest": self.weights_digest,
            "reinitialized_layer": self.reinitialized_layer,
        }

    def restore(self, record: Mapping[str, Any] | None) -> None:
        """Takes over the record in the checkpoint of a run that is resumed.

        Args:
            record: Result of `record`; None where no weights were loaded.
        """
        if record is not None:
            self.file, self.weights_digest = record["file"], record["weights_digest"]
            # Checkpoints of older versions call the layer "anew".
            self.reinitialized_layer = record.get("reinitialized_layer", record.get("anew"))


def read_weights(path: Path) -> tuple[Path, dict[str, Tensor]]:
    """Reads weights from a run or a file.

    Args:
        path: Run folder, whose result is read; or a file, which holds a checkpoint or a state_dict.

    Returns:
        The file that was read, and its weights by name.

    Raises:
        UserError: The file does not exist, or it cannot be read as weights.
    """
    file = RunFolder(path).result_checkpoint() if path.is_dir() else path
    if file.suffix == ".safetensors":
        load = _safetensors_reader(file)
    else:
        load = functools.partial(torch.load, map_location="cpu", weights_only=True)
    try:
        content = load(file)
    except FileNotFoundError:
        raise UserError(f"There is no file {file}; give a run folder or a file of weights.") from None
    except Exception as error:  # readers fail at a damaged file with a dozen types of errors, such as IndexError
        # Only torch's first sentence is shown: the next one explains how to load a file without its safety check.
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        reason = ": ".join(filter(None, [type(error).__name__, reason]))
        raise UserError(
            f"{file} cannot be read as weights ({reason}); give a run folder, or a file that torch.save wrote and that "
            "holds only tensors."
        ) from error
    weights = content.get("state_dict", content) if isinstance(content, dict) else None
    if not (isinstance(weights, dict) and weights and all(map(_is_weight, weights.items()))):
        raise UserError(f"{file} holds no weights by name; give a checkpoint, or a state_dict that torch.save wrote.")
    return file, weights


def _is_weight(entry: tuple[Any, Any]) -> bool:
    return isinstance(entry[0], str) and isinstance(entry[1], Tensor)


def _safetensors_reader(file: Path) -> Callable[[Path], Any]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(
            f"{file} can only be read with safetensors, which is not installed; run: pip install safetensors."
        ) from None
    reader: Callable[[Path], Any] = load_file
    return reader


def load_weights(
    module: nn.Module, weights: Mapping[str, Tensor], file: Path, output_layer: str | None = None
) -> list[str]:
    """Loads weights into a module that has the same names and shapes; only the output layer may differ in its size.

    Args:
        module: Module that receives the weights.
        weights: Weights by name.
        file: File of the weights, for the error message.
        output_layer: Name of a layer that keeps its own weights where the number of outputs differs; None for no such
            layer.

    Returns:
        Names of the output layer's weights that were not loaded.

    Raises:
        UserError: A name is missing or surplus, or a shape differs.
    """
    own = module.state_dict()
    differences = [f"{name} is missing" for name in own if name not in weights]
    differences += [f"{name} is surplus" for name in weights if name not in own]
    kept = []
    for name in own:
        if name in weights and own[name].shape != weights[name].shape:
            is_output = output_layer is not None and name.startswith(f"{output_layer}.")
            if is_output and own[name].shape[1:] == weights[name].shape[1:]:
                kept.append(name)
            else:
                differences.append(f"{name} is {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}")
    if differences:
        more = f" and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise UserError(
            f"The weights in {file} do not fit this model: {', '.join(differences[:5])}{more}; give the model the "
            "arguments of the run that wrote the weights."
        )
    module.load_state_dict({name: own[name] if name in kept else weights[name] for name in own})
    return kept


def output_layer_name(network: nn.Module) -> str:
    """The name of the last module that has parameters of its own, which gives the outputs.

    Args:
        network: Network whose modules are registered in the order of their use.
    """
    names: list[str] = [name for name, module in network.named_modules() if module._parameters]
    return names[-1]
