"""One trial step of a model on a few training samples, which leaves no trace."""

import contextlib
import functools
import math
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from visionbench.data.augment import Mixing
from visionbench.data.base import VisionDataModule
from visionbench.data.loader import FeatureLoader
from visionbench.guards import FirstInput, LossCall, SilentUnits, StartContext, StepRecord
from visionbench.models.base import Batch, Classifier, in_evaluation
from visionbench.random_state import same_random_numbers

# Numbers of samples of a trial. They are prime, so that hardly any other axis has this length.
IMAGES = 17
ROWS = 509
# Number of samples for which silent units are looked for.
MANY = 128

LOSSES = (
    *("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits"),
    *("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"),
)
# Functions that compare two tensors entry by entry, by the names that torch gives functions and operators.
ELEMENTWISE = {
    *("sub", "rsub", "__sub__", "__rsub__", "mul", "__mul__", "__rmul__", "div", "true_divide", "__truediv__"),
    *("eq", "ne", "__eq__", "__ne__"),
}
ACTIVATIONS = {"SoftmaxBackward": "softmax", "LogSoftmaxBackward": "log_softmax", "SigmoidBackward": "sigmoid"}
# Operations that give the same numbers in another shape or type.
VIEWS = (
    *("View", "UnsafeView", "Squeeze", "Unsqueeze", "Reshape", "ToCopy", "Select", "Slice", "Alias", "Expand"),
    *("Permute", "Transpose", "T", "Clone", "AsStrided"),
)


class _Watch(TorchFunctionMode):
    """Notes what a step does with the samples, function by function.

    Args:
        record: Record that is filled.
        count: Number of samples.
    """

    def __init__(self, record: StepRecord, count: int) -> None:
        super().__init__()
        self.record = record
        self.count = count

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in LOSSES:
            self._note_loss(name, args, kwargs or {}, result)
        elif name in ELEMENTWISE and len(args) == 2:
            shapes = [tuple(value.shape) for value in args if isinstance(value, Tensor)]
            if sorted(shapes, key=len) == [(self.count,), (self.count, 1)] and self.count > 1:
                self.record.broadcasts.append(f"{name.strip('_')} of shapes {shapes[0]} and {shapes[1]}")
        elif name in ("argmax", "max", "topk") and isinstance(args[0], Tensor):
            self._note_maximum(name, args, kwargs or {})
        return result

    def _note_loss(self, name: str, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> None:
        outputs = args[0] if args else kwargs.get("input")
        target = args[1] if len(args) > 1 else kwargs.get("target")
        if isinstance(outputs, Tensor) and isinstance(result, Tensor):
            target = target.detach() if isinstance(target, Tensor) else None
            call = LossCall(name, outputs.detach(), target, _activations(outputs), result.detach())
            self.record.losses.append(call)

    def _note_maximum(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        values: Tensor = args[0]
        axis = kwargs.get("dim", kwargs.get("axis", args[-1] if len(args) > 1 else None))
        if isinstance(axis, int) and tuple(values.shape) == (self.count, 1) and axis in (1, -1):
            self.record.column_maxima.append(name)


def _activations(outputs: Tensor) -> tuple[str, ...]:
    """The activations whose result a tensor is, the last one first."""
    names: list[str] = []
    node: Any = outputs.grad_fn
    while node is not None:
        kind = node.name().rstrip("0123456789")
        if kind in ACTIVATIONS:
            names.append(ACTIVATIONS[kind])
        elif kind.removesuffix("Backward") not in VIEWS:
            break
        node = node.next_functions[0][0] if node.next_functions else None
    return tuple(names)


def try_step(trainer: Trainer, model: Classifier, data: VisionDataModule) -> StartContext:
    """Runs the steps of a model on a few training samples, and restores everything that they have changed.

    Weights, buffers, attributes, modes and gradients of the model, and the global random generators, are as before.
    Neither optimizer nor logger sees the trial.

    Args:
        trainer: Trainer whose training is about to start, with its optimizers.
        model: Model.
        data: Data module after `setup`.

    Returns:
        What the steps showed. They are not tried where the strategy shards the model, or there is only one sample.
    """
    context = functools.partial(
        StartContext,
        model=model,
        data=data,
        optimizers=trainer.optimizers,
        watched=_watched(trainer),
        is_new=trainer.global_step == 0,
        unvalidated=_unvalidated(trainer) if data.sizes()["val"] else 0,
    )
    batch = _samples(trainer, model, data)
    labels = batch[1]
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy) or len(labels) < 2:
        return context(labels=labels, steps=[], unused=None, has_gradient=True, first_input=None)
    steps, unused, has_gradient = [], None, False
    with unchanged(model), _without_logging(trainer, model), _first_input(model) as first, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using a target size")  # a guard says it better
        parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        if model.automatic_optimization:
            with trainer.strategy.precision_plugin.train_step_context():
                model.on_train_epoch_start()
                record, result = _recorded("training_step", model, batch)
            steps.append(record)
            loss = result.get("loss") if isinstance(result, dict) else result
            if isinstance(loss, Tensor):
                unused = list(parameters)
                if loss.requires_grad:
                    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
                    unused = [name for name, value in zip(parameters, gradients, strict=True) if value is None]
                has_gradient = len(unused) < len(parameters)
        with in_evaluation(model), torch.no_grad(), trainer.strategy.precision_plugin.forward_context():
            model.on_validation_epoch_start()
            steps.append(_recorded("validation_step", model, batch)[0])
            model.on_test_epoch_start()
            steps.append(_recorded("test_step", model, batch)[0])
    return context(
        labels=labels,
        steps=steps,
        unused=unused,
        has_gradient=has_gradient,
        first_input=first[0] if first else None,
    )


def _unvalidated(trainer: Trainer) -> int:
    """The number of batches after the last validation in the first epoch that has one; 0 where a clock tells when."""
    batches, interval = trainer.num_training_batches, trainer.val_check_batch
    if not trainer.enable_validation or interval is None or not math.isfinite(batches) or not math.isfinite(interval):
        return 0
    ends = math.ceil(interval / batches) * batches  # in several epochs where the interval is of all batches
    return int(ends % interval)


def _watched(trainer: Trainer) -> list[tuple[str, str]]:
    """The callbacks and schedulers of a run that watch a metric, each with the name of the metric."""
    schedulers = [
        (f"The scheduler {type(entry.scheduler).__name__}", entry.monitor) for entry in trainer.lr_scheduler_configs
    ]
    callbacks = [
        (f"The callback {type(callback).__name__}", getattr(callback, "monitor", None))
        for callback in trainer.callbacks  # type: ignore[attr-defined]
    ]
    return [(who, metric) for who, metric in (*schedulers, *callbacks) if isinstance(metric, str)]


def silent_units(trainer: Trainer, model: Classifier, data: VisionDataModule) -> list[SilentUnits]:
    """Counts, for each ReLU of a model outside its frozen parts, the units that are zero for all of some samples.

    Args:
        trainer: Trainer in training.
        model: Model; it is left as it is.
        data: Data module after `setup`.
    """
    loader = trainer.train_dataloader
    # Where the features of a frozen part are there, the part is not computed again.
    samples = loader.some(MANY) if isinstance(loader, FeatureLoader) else data.training_samples(MANY)
    batch = trainer.strategy.batch_to_device(trainer.strategy.precision_plugin.convert_input(samples), dataloader_idx=0)
    watch = _ReluWatch(len(batch[1]))
    frozen = {module for part in model.frozen for module in part.modules()}
    layers = [(name, module) for name, module in model.named_modules() if next(module.children(), None) is None]
    handles = [
        module.register_forward_pre_hook(functools.partial(watch.enter, None if module in frozen else name))
        for name, module in layers
    ]
    precision = trainer.strategy.precision_plugin
    try:
        with unchanged(model), in_evaluation(model), torch.no_grad(), precision.forward_context(), watch:
            model(batch[0])
    finally:
        for handle in handles:
            handle.remove()
    return watch.layers


class _ReluWatch(TorchFunctionMode):
    """Counts the silent units of each ReLU in a forward pass.

    Args:
        count: Number of samples.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.layers: list[SilentUnits] = []
        self.current: str | None = ""

    def enter(self, name: str | None, module: nn.Module, inputs: Any) -> None:
        """Remembers the layer that is computed now, whose name the next ReLU gets; `None` is a frozen one."""
        self.current = name

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.current is None or getattr(func, "__name__", "") not in ("relu", "relu_"):
            return result
        if result.ndim > 1 and len(result) == self.count:
            silent = result.amax(dim=[axis for axis in range(result.ndim) if axis != 1]) <= 0
            self.layers.append(SilentUnits(self.current, int(silent.sum()), silent.numel(), self.count))
        return result


def _samples(trainer: Trainer, model: Classifier, data: VisionDataModule) -> Batch:
    count = ROWS if len(data.input_shape) == 1 else IMAGES
    if type(data).train_dataloader is not VisionDataModule.train_dataloader:
        # A loader of the user's own may give something else than the samples of the store.
        with same_random_numbers():
            inputs, labels = next(iter(data.train_dataloader()))
        inputs, labels = inputs[:count], labels[:count]
    else:
        inputs, labels = data.training_samples(count)
        if any(isinstance(entry, Mixing) for entry in data.augment):
            labels = F.one_hot(labels, data.num_classes).float()
    batch = trainer.strategy.precision_plugin.convert_input((inputs, labels))
    moved: Batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
    return moved


def _recorded(name: str, model: Classifier, batch: Batch) -> tuple[StepRecord, Any]:
    record, step = StepRecord(name), getattr(model, name)
    vars(model)["log"] = lambda metric, *args, **kwargs: record.logged.append(metric)
    vars(model)["log_dict"] = lambda metrics, *args, **kwargs: record.logged.extend(metrics)
    takes_number = is_param_in_hook_signature(step, "batch_idx", min_args=2)  # as Lightning decides it
    with _Watch(record, len(batch[1])):
        result = step(batch, 0) if takes_number else step(batch)
    return record, result


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restores what a model's own methods change: weights, buffers, attributes and the global random generators.

    Args:
        model: Model, with its submodules.
    """
    tensors = [*model.parameters(), *model.buffers()]
    values = [tensor.detach().clone() for tensor in tensors]
    attributes = [(module, dict(vars(module)), _contents(module)) for module in model.modules()]
    with same_random_numbers():
        try:
            yield
        finally:
            for module, names, contents in attributes:
                vars(module).clear()
                vars(module).update(names)
                for holder, content in contents:
                    _refill(holder, content)
            with torch.no_grad():
                for tensor, value in zip(tensors, values, strict=True):
                    tensor.copy_(value)


def _contents(module: nn.Module) -> list[tuple[Any, Any]]:
    """The attributes of a module that its steps may change in place, each with a copy of its content."""
    contents: list[tuple[Any, Any]] = []
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            contents.append((value, value.detach().clone()))
        elif isinstance(value, list | dict | set | deque) and not name.startswith("_"):
            contents.append((value, value.copy()))
    return contents


def _refill(holder: Any, content: Any) -> None:
    if isinstance(holder, Tensor):
        with torch.no_grad():
            holder.copy_(content)
        return
    holder.clear()
    if isinstance(holder, list | deque):
        holder.extend(content)
    else:
        holder.update(content)


@contextlib.contextmanager
def _without_logging(trainer: Trainer, model: Classifier) -> Iterator[None]:
    """Lets the loggers get nothing, and the model log to nowhere; `unchanged` puts its own methods back."""
    loggers = trainer.loggers
    trainer.loggers = [DummyLogger() for _ in loggers]
    vars(model)["log"] = vars(model)["log_dict"] = lambda *args, **kwargs: None
    try:
        yield
    finally:
        trainer.loggers = loggers


@contextlib.contextmanager
def _first_input(model: nn.Module) -> Iterator[list[FirstInput]]:
    """Gathers the input of the layer with parameters that is called first."""
    first: list[FirstInput] = []

    def note(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            if not first and inputs and isinstance(inputs[0], Tensor) and inputs[0].is_floating_point():
                first.append(FirstInput(name, module, inputs[0].detach().float()))

        return hook

    layers = [(name, module) for name, module in model.named_modules() if any(True for _ in module.parameters(False))]
    handles = [module.register_forward_pre_hook(note(name)) for name, module in layers]
    try:
        yield first
    finally:
        for handle in handles:
            handle.remove()
