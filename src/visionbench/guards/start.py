"""Guards of the start of training: asked of one trial step on a few training samples, before the first real step."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from visionbench.data.base import VisionDataModule
from visionbench.guards.base import Finding, Guard
from visionbench.models.base import BATCH_NORMS, Classifier
from visionbench.text import counted

OTHER_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
# Losses that compare numbers entry by entry, so that other shapes are broadcast.
ELEMENTWISE_LOSSES = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
# Losses whose value, for a model that knows nothing, is about the logarithm of the number of classes.
LOG_LOSSES = ("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits")
# A first loss above this multiple of the loss of guessing is reported.
LARGE_FIRST_LOSS = 3.0
# Columns whose ranges differ by this factor are reported as unscaled.
UNEQUAL_SCALES = 100.0
# Number of names that a sentence lists.
LISTED = 3


@dataclass(frozen=True)
class LossCall:
    """A call of one of torch's loss functions.

    Attributes:
        function: Name of the function, such as cross_entropy.
        outputs: First argument.
        target: Second argument; `None` where it is no tensor.
        activations: Names of the activations that made `outputs`, the last one first, such as (log_softmax, softmax);
            views and casts between them are left out.
        value: Result.
    """

    function: str
    outputs: Tensor
    target: Tensor | None
    activations: tuple[str, ...]
    value: Tensor


@dataclass
class StepRecord:
    """What a step of the model did with the samples.

    Attributes:
        name: Name of the method, such as training_step.
        losses: Calls of torch's loss functions.
        broadcasts: Functions that broadcast one value for each sample, shape (B, 1), against another, shape (B,).
        column_maxima: Functions that chose the largest entry of a single column.
        logged: Names of the metrics that the step logged.
    """

    name: str
    losses: list[LossCall] = field(default_factory=list)
    broadcasts: list[str] = field(default_factory=list)
    column_maxima: list[str] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FirstInput:
    """The input of the first layer with parameters.

    Attributes:
        layer: Name of the layer.
        module: The layer.
        values: Input of the layer, float32.
    """

    layer: str
    module: nn.Module
    values: Tensor


@dataclass(frozen=True)
class StartContext:
    """A model that is about to be trained, and what a trial step on a few training samples showed.

    Attributes:
        model: Model with its starting weights, in the mode in which it is trained.
        data: Data module.
        optimizers: Optimizers of the run.
        labels: Labels of the samples, shape (B,), or shares of classes, shape (B, num_classes).
        watched: Callbacks and schedulers that watch a metric, in words, each with the name of the metric.
        steps: Records of training_step, validation_step and test_step, all on the training samples; empty where the
            steps could not be tried.
        unused: Names of the parameters that are trained and on which the loss does not depend; `None` where the model
            makes its own gradients.
        has_gradient: Whether the loss depends on any parameter that is trained.
        first_input: Input of the first layer; `None` where no layer was found.
        is_new: Whether training starts now, and does not resume.
        unvalidated: Number of batches of an epoch after its last validation.
    """

    model: Classifier
    data: VisionDataModule
    optimizers: Sequence[Optimizer]
    labels: Tensor
    watched: Sequence[tuple[str, str]]
    steps: Sequence[StepRecord]
    unused: Sequence[str] | None
    has_gradient: bool
    first_input: FirstInput | None
    is_new: bool
    unvalidated: int = 0

    def losses(self) -> Iterator[tuple[str, LossCall]]:
        """Calls of loss functions, each with the name of the step."""
        for step in self.steps:
            for call in step.losses:
                yield step.name, call


class DoubleSoftmax(Guard):
    """Applies a softmax or sigmoid to outputs of which the loss takes a softmax or sigmoid itself."""

    name = "double_softmax"
    stage = "start"

    def check(self, context: StartContext) -> Iterator[Finding]:  # noqa: D102
        for step, call in context.losses():
            first, inner, *_ = (*call.activations, "", "")
            activation = None
            if call.function == "cross_entropy":
                if first in ("softmax", "sigmoid"):
                    activation = first
                elif first != "log_softmax" and are_probabilities(call.outputs):
                    activation = "softmax"
            elif call.function == "binary_cross_entropy_with_logits" and first == "sigmoid":
                activation = first
            elif first in ("softmax", "log_softmax", "sigmoid") and inner in ("softmax", "sigmoid"):
                activation = inner
            if activation is None:
                continue
            floor = ""
            if call.function == "cross_entropy" and activation == "softmax" and call.outputs.ndim > 1:
                least = math.log(1 + (call.outputs.shape[1] - 1) / math.e)
                floor = f", so that its smallest value is {least:.2f} instead of 0"
            yield Finding(
                "refusal",
                f"The outputs of {type(context.model).__name__} are those of a {activation}, but the loss of {step} "
                f"({call.function}) applies one itself{floor}; let the network end in a linear layer.",
            )
            return


class MissingLog(Guard):
    """Minimizes probabilities as if they were their logarithms."""

    name = "missing_log"
    stage = "start"

    def check(self, context: StartContext) -> Iterator[Finding]:  # noqa: D102
        for step, call in context.losses():
            if call.function == "nll_loss" and are_probabilities(call.outputs):
                yield Finding(
                    "refusal",
                    f"The loss of {step} (nll_loss) takes logarithms of probabilities, but gets probabilities, so that "
                    "it has no logarithm; use log_softmax, or cross_entropy on the outputs of a linear layer.",
                )
                return


class OneColumnArgmax(Guard):
    """Predicts the largest of a single output, which is class 0 for every sample."""

    name = "one_column_argmax"
    stage = "start"

    def check(self, context: StartContext) -> Iterator[Finding]:  # noqa: D102
        for step in context.steps:
            if step.column_maxima:
                yield Finding(
                    "refusal",
                    f"{step.name} of {type(context.model).__name__} takes the {step.column_maxima[0]} of outputs with "
                    "a single column, so that class 0 is predicted for every sample; compare the output with a "
                    "threshold (0 for a logit, 0.5 for a probability), or give the network an output for each class.",
                )
                return


class BroadcastLoss(Guard):
    """Compares each sample with the labels of all samples, since shapes (B, 1) and (B,) are broadcast to (B, B)."""

    name = "broadcast_loss"
    stage = "start"

    def check(self, context: StartContext) -> Iterator[Finding]:  # noqa: D102
        for step in context.steps:
            found = list(step.broadcasts)
            for call in step.losses:
                shapes = (call.outputs.shape, call.target.shape if call.target is not None else call.outputs.shape)
                if call.function in ELEMENTWISE_LOSSES and shapes[0] != shapes[1]:
                    found.append(f"{call.function} of outputs {tuple(shapes[0])} and labels {tuple(shapes[1])}")
            if found:
                yield Finding(
                    "refusal",
                    f"{step.name} of {type(context.model).__name__} broadcasts ({found[0]}), so that each sample is "
                    "compared with the labels of all samples; give both the same shape, for example by "
                    "outputs.squeeze(1).",
                )
                return


class RegressionLoss(Guard):
    """Treats the numbers of more than two classes as quantities, so that class 9 is farther from 0 than class 1."""

    name = "regression_loss"
    stage = "start"

    def check(self, context: StartContext) -> Iterator[Finding]:  # noqa: D102
        labels = context.labels
        if context.data.num_classes < 3 or labels.ndim != 1:
            return
        for step, call in context.losses():
            if call.function not in ELEMENTWISE_LOSSES or call.target is None:
                continue
            target = call.target
            if target.numel() == len(labels) and torch.equal(target.reshape(-1).double(), labels.double()):
                yield Finding(
                    "refusal",
                    f"The loss of {step} ({call.function}) takes the numbers of {context.data.num_classes} classes as "
                    "quantities, although classes have no order; use cross_entropy, or one-hot labels.",
                )
                return


class ForeignParameters(Guard):
    """Trains parameters that are not those of the model that is run, or leaves some of its parameters out."""

    name = "foreign_parameters"
    stage = "start"

    def check(self, context: StartContext) -> Iterator[Finding]:  # noqa: D102
        model = context.model
        kind = type(model).__name__
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        trained = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
        counts: dict[int, int] = {}
        for optimizer in context.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    counts[id(parameter)] = counts.get(id(parameter), 0) + 1
        foreign = sum(count for key, count in counts.items() if key not in names)
        missing = [name for key, name in trained.items() if key not in counts]
        twice = [names[key] for key, count in counts.items() if count > 1 and key in names]
        if foreign:
            yield Finding(
                "refusal",
                f"The optimizer holds {counted(foreign, 'parameter')} that {kind} does not have, such as those of "
                "another network; build the optimizer of self.parameters() of the model that is trained.",
            )
        if missing:
            yield Finding(
                "refusal",
                f"{counted(len(missing), 'parameter')} of {kind} that should be trained "
                f"{'is' if len(missing) == 1 else 'are'} not in the optimizer ({_listed(missing)}); add them, or "
                "freeze their part with --model.freeze.",
            )
        if twice:
            yield Finding(
                "refusal",
                f"{counted(len(twice), 'parameter')} of {kind} {'is' if len(twice) == 1 else 'are'} in the optimizers "
                f"more than once ({_listed(twice)}), so that each step changes them more than once; name them once.",
            )


class NoGradient(Guard):
    """The loss depends on a parameter that is trained."""

    stage = "start"

    def check(self, context: StartContext) -> Iterator[Finding]:  # noqa: D102
        if context.unused is not None and not context.has_gradient:
            yield Finding(
                "refusal",
                f"The loss of {type(context.model).__name__} does not depend on any parameter that is trained, so that "
                "nothing would be learned; look for detach(), no_grad(), argmax() or item() on the way to the loss, or "
                "for a network that is not a part of the model.",
            )


class UnusedParameters(Guard):
    """Reports parameters that are trained although the loss does not depend on them."""

    stage = "start"

    def check(self, context: StartContext) -> Iterator[Finding]:  # noqa: D102
        unused = context.unused or []
        if unused and context.has_gradient:
            verb = "has" if len(unused) == 1 else "have"
            yield Finding(
                "warning",
                f"{counted(len(unused), 'parameter')} of {type(context.model).__name__} {verb} no influence on the "
                f"loss ({_listed(unused)}), so that training leaves them as they are; use them in forward, or remove "
                "them.",
            )


class FrozenInTrainMode(Guard):
    """Leaves batch norms or dropouts of frozen parts in training mode, so that frozen parts still change or vary."""

    name = "frozen_in_train_mode"
    stage = "start"

    def check(self, context: StartContext) -> Iterator[Finding]:  # noqa: D102
        active = list(active_frozen_layers(context.model))
        if active:
            norms = [name for name, module in active if isinstance(module, BATCH_NORMS)]
            what = "the statistics of batch norms still change" if norms else "dropouts are still active"
            yield Finding(
                "refusal",
                f"{counted(len(active), 'layer')} in frozen parts of {type(context.model).__name__} "
                f"{'is' if len(active) == 1 else 'are'} in training mode ({_listed([name for name, _ in active])}), so "
                f"that {what}; freeze parts with model.freeze, or call eval() on them.",
            )


class SingleSampleBatchNorm(Guard):
    """Trains batch norms on batches of one sample, whose variance is 0."""

    name = "single_sample_batch_norm"
    stage = "start"

    def check(self, context: StartContext) -> Iterator[Finding]:  # noqa: D102
        if context.data.batch_size > 1:
            return
        norms = [name for name, module in context.model.named_modules() if isinstance(module, BATCH_NORMS)]
        training = [name for name in norms if context.model.get_submodule(name).training]
        if training:
            yield Finding(
                "refusal",
                f"data.batch_size is 1, but {type(context.model).__name__} trains "
                f"{counted(len(training), 'batch norm')} ({_listed(training)}), which compare the samples of a batch; "
                "use batches of 2 or more, or a model without batch norm.",
            )


class UnscaledInputs(Guard):
    """Reports inputs that are not centered, or features of very different scales, where the network does not scale."""

    name = "unscaled_inputs"
    stage = "start"

    def check(self, context: StartContext) -> Iterator[Finding]:  # noqa: D102
        first = context.first_input
        if first is None or isinstance(first.module, (*BATCH_NORMS, *OTHER_NORMS)):
            return
        values = first.values
        if len(context.data.input_shape) == 1 and values.ndim == 2:
            ranges = values.amax(dim=0) - values.amin(dim=0)
            ranges = ranges[ranges > 0]
            if len(ranges) > 1 and (ratio := float(ranges.max() / ranges.min())) > UNEQUAL_SCALES:
                yield Finding(
                    "warning",
                    f"The ranges of the features differ by a factor of {ratio:,.0f} at the first layer "
                    f"({first.layer}), so that the largest features outweigh the others; standardize the features.",
                )
            return
        mean, deviation = float(values.mean()), float(values.std())
        if abs(mean) > deviation:
            yield Finding(
                "warning",
                f"The inputs of the first layer ({first.layer}) are not centered: their mean is {mean:.2f} and their "
                f"standard deviation {deviation:.2f}; leave data.mean and data.std out, so that they are those of the "
                "training split.",
            )


class LargeFirstLoss(Guard):
    """Reports a first loss that is far above that of guessing."""

    stage = "start"

    def check(self, context: StartContext) -> Iterator[Finding]:  # noqa: D102
        classes = context.data.num_classes
        guessing = math.log(max(classes, 2))
        for step, call in context.losses():
            if step != "training_step" or call.function not in LOG_LOSSES or not context.is_new:
                continue
            value = float(call.value.detach().mean())
            if value > LARGE_FIRST_LOSS * guessing:
                yield Finding(
                    "warning",
                    f"The first loss is {value:.2f}, but guessing among {classes} classes gives {guessing:.2f}; look "
                    "at the scale of the inputs and at the initial weights.",
                )
            return


class LateBatches(Guard):
    """Reports batches of an epoch after its last validation, since the weights at its end are kept and tested."""

    stage = "start"

    def check(self, context: StartContext) -> Iterator[Finding]:  # noqa: D102
        if context.unvalidated:
            yield Finding(
                "warning",
                f"The last validation within an epoch is {counted(context.unvalidated, 'batch', 'batches')} before its "
                "end (trainer.val_check_interval), so that the validation metrics of the epoch are not those of the "
                "weights that are kept and tested; choose an interval that ends with the epoch.",
            )


def are_probabilities(outputs: Tensor) -> bool:
    """Whether each row holds the probabilities of two classes or more: no entry below 0, and a sum of 1.

    Args:
        outputs: Outputs of a model, shape (B, classes, ...).
    """
    if outputs.ndim < 2 or outputs.shape[1] < 2 or not outputs.is_floating_point():
        return False
    values = outputs.detach().float()
    # A softmax in half precision is off by some thousandths, also where its result was cast to float32 afterwards.
    return bool((values >= 0).all() and ((values.sum(dim=1) - 1).abs() < 2e-2).all())


def active_frozen_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Batch norms and dropouts in training mode within parts whose parameters are all frozen.

    Args:
        model: Model in the mode in which it is trained.
    """
    frozen = [
        f"{name}."
        for name, module in model.named_modules()
        if name and any(True for _ in module.parameters()) and not any(p.requires_grad for p in module.parameters())
    ]
    for name, module in model.named_modules():
        if not module.training or not f"{name}.".startswith(tuple(frozen)):
            continue
        changes = isinstance(module, BATCH_NORMS) and module.track_running_stats
        if changes or (isinstance(module, DROPOUTS) and module.p > 0):
            yield name, module


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
