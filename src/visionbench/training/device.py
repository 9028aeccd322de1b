"""The device of a run: precision, threads, and what torch cannot repeat on it."""

import contextlib
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import nn

from visionbench.models.base import Classifier

# Lightning sets this when it is imported, and every optimizer step then asks again whether there is a GPU; where there
# is none, that is a search for NVIDIA's library on the disk, a tenth of a small network's training time.
if not torch.cuda.is_available():
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"

# Of processors that multiply bfloat16 natively, in matrices (Intel) or vectors (AMD, some of Intel's).
BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}
# Multiplications of one batch above which a network without convolutions is worth more than one thread.
MANY_MULTIPLICATIONS = 10**8


def default_precision(accelerator: Any) -> tuple[str, str]:
    """The precision for the device of a run, and the reason for it.

    Args:
        accelerator: The Trainer's argument.
    """
    if is_on_cuda(accelerator):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", "this GPU computes in bfloat16"
        return "32-true", "this GPU does not compute in bfloat16"
    on_processor = accelerator in ("auto", "cpu") and not torch.backends.mps.is_available()
    if on_processor and BFLOAT16_FLAGS & _processor_flags():
        return "bf16-mixed", "this processor multiplies in bfloat16"
    return "32-true", "nothing here multiplies in bfloat16"


def is_on_cuda(accelerator: Any) -> bool:
    """Whether a run with this argument of the Trainer is trained on a GPU of NVIDIA."""
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def threads_for(model: Classifier, batch_size: int, available: int) -> int:
    """The number of threads of the processor for a model: a rule of model and batch, never of load or a stopwatch.

    A network with convolutions takes all that are available. Any other takes one, unless the multiplications of a batch
    exceed `MANY_MULTIPLICATIONS`: below that, threads wait for each other longer than they compute.

    Args:
        model: Model of the run.
        batch_size: Samples in a batch.
        available: Number of threads that the process may use.
    """
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    if any(isinstance(module, convolutions) for module in model.modules()):
        return available
    return available if model.multiplications * batch_size > MANY_MULTIPLICATIONS else 1


@contextlib.contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Computes with a number of threads of the processor, and sets the former number again.

    Args:
        count: Number of threads.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_name(trainer: Trainer) -> str:
    """The device as people name it."""
    device = trainer.strategy.root_device
    several = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
    if device.type == "cuda":
        return several + torch.cuda.get_device_name(device)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"{several}cpu, {threads} thread{'s' if threads != 1 else ''}"
    return several + device.type


def nondeterministic(trainer: Trainer, kernels: set[str]) -> list[str]:
    """What keeps the run from being repeated bit for bit, as far as torch tells.

    Args:
        trainer: Trainer after fit.
        kernels: Names of the kernels that torch warned of.
    """
    device = trainer.strategy.root_device.type
    if device == "cpu" or torch.are_deterministic_algorithms_enabled():
        return sorted(kernels)
    return [f"{device} kernels were free to add in any order; leave out --trainer.deterministic false"]


@contextlib.contextmanager
def nondeterministic_kernels() -> Iterator[set[str]]:
    """Collects the names of the kernels that torch warns of, as `--trainer.deterministic warn` tells it to."""
    names: set[str] = set()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(message: Warning | str, *place: Any, **more: Any) -> None:
            if match := re.match(r"(\S+) does not have a deterministic implementation", str(message)):
                names.add(match[1])
            else:
                show(message, *place, **more)

        warnings.filterwarnings("always", message=".*does not have a deterministic implementation.*")
        warnings.showwarning = note
        yield names


def _processor_flags() -> set[str]:
    """Capabilities of the processor, in Linux's words; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split()}
