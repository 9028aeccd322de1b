"""Mistakes in a model of the user's own, as one sentence instead of a traceback through Lightning and jsonargparse."""

import re
import sys
import sysconfig
import traceback
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from visionbench.errors import causes
from visionbench.text import one_line

if TYPE_CHECKING:
    from torch import nn

# What torch says of tensors that do not fit; any other error keeps its traceback.
SHAPES = re.compile(r"shape|size|dimension|channels", re.IGNORECASE)
# Errors of a class that does not call the `__init__` of its base, or too late.
NOT_STARTED = re.compile(
    r"before Module\.__init__\(\) call|has no attribute '(num_outputs|_modules|_parameters|hparams)'"
)
PASSED_ON = "call super().__init__(num_classes, input_shape, **kwargs) first in its __init__"
PACKAGE = Path(__file__).parent


def mistake_in_making(error: BaseException, kind: type) -> str | None:
    """Says what is wrong with the `__init__` of a model; `None` where that is not known.

    Args:
        error: Exception that its `__init__` raised.
        kind: Class of the model.
    """
    text = one_line(error).rstrip(".")
    is_missing = isinstance(error, TypeError) and re.match(r"Classifier\.__init__\(\) missing", text)
    if is_missing or (isinstance(error, AttributeError) and NOT_STARTED.search(text)):
        return f"{kind.__name__} cannot be made{_place(error)}: {text}; {PASSED_ON}."
    return None


def raised_by_class(error: BaseException) -> BaseException:
    """The exception that a class raised, without those of jsonargparse around it, which list all types that it tried.

    Args:
        error: Exception of jsonargparse, or one that it let through.
    """
    for cause in causes(error):
        frames = [frame for frame, _ in traceback.walk_tb(cause.__traceback__)]
        if frames and not str(frames[-1].f_globals.get("__name__")).startswith("jsonargparse"):
            return cause
    return error


def mistake_in_parts(model: Any) -> str | None:
    """Says what a model that was made lacks; `None` if it lacks nothing.

    Args:
        model: Model.
    """
    from torch import nn

    if isinstance(getattr(model, "network", None), nn.Module):
        return None
    return (
        f"{type(model).__name__} has no self.network; put the whole network there, from images to logits. A forward of "
        "your own belongs into an nn.Module of its own, of which self.network is made."
    )


def mistake_in_forward(error: RuntimeError, model: "nn.Module") -> str | None:
    """Says which layer of a model was given a tensor that it does not take; `None` for any other error.

    Args:
        error: Exception of a training or validation step.
        model: Model.
    """
    text = one_line(error).rstrip(".")
    layer = _innermost_layer(error, model) if SHAPES.search(text) else None
    if layer is None:
        return None
    name, module, given = layer
    words = type(module).__name__ if next(module.children(), None) is not None else repr(module)
    shape = f", given a tensor of shape {given}, of N samples" if given else ""
    return f"The layer {name}, {words}{shape}, fails{_place(error)}: {text}; change it, or what comes before it."


def _innermost_layer(error: BaseException, model: "nn.Module") -> "tuple[str, nn.Module, str] | None":
    names = {id(module): name for name, module in model.named_modules() if name}
    found: tuple[str, nn.Module, str] | None = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module: Any = frame.f_locals.get("self")
        if frame.f_code.co_name == "_call_impl" and id(module) in names:
            found = names[id(module)], module, _shape(frame)
    return found


def _shape(frame: FrameType) -> str:
    """Shape of the tensor that a layer is called with, without the number of samples."""
    given: Any = next(iter(frame.f_locals.get("args") or ()), None)
    return f"({', '.join(['N', *map(str, given.shape[1:])])})" if getattr(given, "shape", None) else ""


def _place(error: BaseException) -> str:
    """Line of the user's own code that an exception comes from; empty where there is none."""
    others = (PACKAGE, sys.prefix, sysconfig.get_path("stdlib"))
    for entry in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(entry.filename)
        if path.exists() and not any(path.is_relative_to(folder) for folder in others):
            return f" ({path.name}, line {entry.lineno})"
    return ""
