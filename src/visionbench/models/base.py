"""Base class of all classifiers: start weights, frozen parts, loss, metrics, optimizer and scheduler."""

import contextlib
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, get_args, get_type_hints

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from visionbench.errors import UserError
from visionbench.models import optimization
from visionbench.models.intervals import Interval, usual_interval
from visionbench.models.losses import LOSSES, LossName
from visionbench.models.optimization import LRSchedulerCallable, Mode, OptimizerCallable
from visionbench.models.schedulers import class_and_arguments
from visionbench.models.weights import Start, load_weights, output_layer_name, read_weights

Batch = tuple[Tensor, Tensor]
# Layers that compare the samples of a batch while they train.
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass
class Objective:
    """Metric that chooses the best epoch, and that ReduceLROnPlateau and early stopping watch.

    Args:
        metric: Name of a logged metric, such as val/loss or val/acc.
        mode: Direction of improvement: min (smaller is better) or max (larger is better); by default the direction
            that belongs to the metric.
    """

    metric: str = "val/loss"
    mode: Mode | None = None


class Totals:
    """Sums over an epoch, kept on the device, so that no training step waits for a transfer to the host."""

    def __init__(self, device: torch.device) -> None:
        # In double precision a sum of 60,000 losses keeps all digits of each loss; MPS has no double precision.
        self.loss = torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        self.minimized = torch.zeros_like(self.loss)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.count = 0
        self.minimized_count = 0  # of samples whose minimized loss is known to differ from the loss

    def add(self, loss: Tensor, predicted: Tensor, labels: Tensor, minimized: Tensor | None = None) -> None:
        """Adds a batch to the sums.

        Args:
            loss: Mean loss of the batch.
            predicted: Predicted classes, shape (B,).
            labels: True classes, shape (B,), or shares of all classes, shape (B, num_classes); the class with the
                largest share then counts as the true one.
            minimized: What the optimizer minimizes for the batch, where that is not the loss.
        """
        if labels.ndim == 2:
            labels = labels.argmax(dim=1)
        self.loss += loss.detach() * len(labels)
        self.correct += (predicted == labels).sum()
        self.count += len(labels)
        if minimized is not None:
            self.minimized += minimized.detach() * len(labels)
            self.minimized_count += len(labels)

    def state_dict(self) -> dict[str, Any]:
        """The sums, as plain types for a checkpoint."""
        sums = {"loss": self.loss, "correct": self.correct, "count": self.count}
        return sums | {"minimized": self.minimized, "minimized_count": self.minimized_count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores sums that `state_dict` returned."""
        self.loss.copy_(state["loss"])
        self.correct.copy_(state["correct"])
        self.count = state["count"]
        if "minimized" in state:  # checkpoints of earlier versions have none
            self.minimized.copy_(state["minimized"])
            self.minimized_count = state["minimized_count"]


class Classifier(LightningModule, ABC):
    """A network that classifies images or rows of a table, with its loss, metrics, optimizer and scheduler.

    A subclass builds `self.network` from `input_shape` and `self.num_outputs`, and passes its other arguments on to
    this class. For every loss, the network ends in a linear layer. Metrics are logged once an epoch, at its end.

    Args:
        num_classes: Number of classes; set by the data set.
        input_shape: Shape of one image, (C, H, W), or of one row of a table, (F,); set by the data set. A model for
            images only has the type tuple[int, int, int] here, and refuses tables.
        loss: Name of the loss to minimize: cross_entropy (on logits), nll (on the log-softmax of the network's
            outputs), binary_cross_entropy (on one logit, for two classes), or mse (of the probabilities; for two
            classes, of one sigmoid).
        optimizer: Optimizer of the parameters that are not frozen.
        lr_scheduler: Scheduler of the learning rate; none for a constant rate. ReduceLROnPlateau watches the objective
            of the run. OneCycleLR and WarmupCosineLR take the length of the run where total_steps is not set.
        lr_interval: Unit of a scheduler step: epoch or (optimizer) step; by default step for OneCycleLR and CyclicLR,
            which torch steps after each batch, and epoch for all others.
        label_smoothing: Share of the target probability that is spread over all classes, for the training loss with
            cross_entropy; validation and test losses are not smoothed, so that they can be compared.
        l1: Factor of the L1 penalty, the sum of the absolute trained weights without biases and batch norms; the
            penalty is minimized with the loss, but is not part of train/loss; train/minimized is their sum.
        start_from: Run folder, whose result training starts from, or file of weights. All names and shapes must fit
            this model, except that the last layer is reinitialized where its number of outputs differs.
        freeze: Names of the parts of the network to freeze, such as blocks.0 or head; the parameters of a frozen part
            are not trained, and its batch norms and dropouts stay in evaluation mode.
    """

    metrics: ClassVar[Mapping[str, Mode]] = {
        "train/loss": "min",
        "train/acc": "max",
        "val/loss": "min",
        "val/acc": "max",
        "test/loss": "min",
        "test/acc": "max",
    }
    """Direction of improvement of each logged metric; a subclass that logs other metrics adds them."""

    frozen_in_train_mode: ClassVar[bool] = False
    """Whether batch norms and dropouts of frozen parts stay in training mode, as in some reports.

    A subclass that repeats such a study sets this, and a run allows it by `--allow [frozen_in_train_mode]`.
    """

    network: nn.Module

    @abstractmethod
    def __init__(
        self,
        num_classes: int,
        input_shape: tuple[int, ...],
        loss: LossName = "cross_entropy",
        optimizer: OptimizerCallable = lambda params: torch.optim.Adam(params, lr=0.001, fused=True),
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: Interval | None = None,
        label_smoothing: float = 0.0,
        l1: float = 0.0,
        start_from: str | None = None,
        freeze: list[str] = [],  # noqa: B006 - never modified, and shown by --help
    ) -> None:
        super().__init__()
        check_input_shape(type(self), input_shape)
        if loss not in LOSSES:
            raise UserError(f"model.loss is {loss!r}, expected one of {', '.join(LOSSES)}.")
        if loss == "binary_cross_entropy" and num_classes != 2:
            raise UserError(
                f"model.loss is binary_cross_entropy, which is for two classes, but the data set has {num_classes}; "
                "use cross_entropy."
            )
        if label_smoothing > 0 and loss != "cross_entropy":
            raise UserError(
                f"model.label_smoothing is {label_smoothing}, but model.loss is {loss}; use cross_entropy, the only "
                "loss with label smoothing, or set model.label_smoothing to 0."
            )
        if not 0 <= label_smoothing < 1:
            raise UserError(f"model.label_smoothing is {label_smoothing}, expected at least 0 and less than 1.")
        if not 0 <= l1 < math.inf:
            raise UserError(f"model.l1 is {l1}, expected a finite number of at least 0.")
        self.num_classes = num_classes
        self.input_shape = input_shape
        self.loss_name = loss
        self.loss_function = LOSSES[loss](num_classes)
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        scheduler = class_and_arguments(lr_scheduler)[0] if lr_scheduler is not None else None
        usual = usual_interval(scheduler.__name__) if scheduler is not None else "epoch"
        self.lr_interval: Interval = lr_interval if lr_interval is not None else usual
        self.label_smoothing = label_smoothing
        self.l1 = l1
        self.start_from = start_from
        self.freeze_names = list(freeze)
        self.frozen: list[nn.Module] = []
        self.start = Start()
        self.objective = Objective()
        self.lr = 0.0
        self.batch_weight: Callable[[int], float] | None = None
        self.log_calls = 0  # of `log`, by which a loop knows whether a step has logged something
        self.evaluated: dict[str, int] = {}  # number of images in the last metrics of each stage
        self.save_hyperparameters(logger=False)
        self._make_hparams_plain()

    @property
    def num_outputs(self) -> int:
        """Number of outputs of the network for each image: one for each class, or a single one; depends on the loss."""
        return self.loss_function.num_outputs

    @property
    def multiplications(self) -> int:
        """Number of multiplications of one sample in the matrix products of the network, which chooses the threads.

        By default each weight of a matrix is used once; a network that uses its weights for each part of a sample
        overrides it.
        """
        return sum(parameter.numel() for parameter in self.network.parameters() if parameter.ndim > 1)

    def setup(self, stage: str) -> None:
        """Prepares the model for training; a model that is only evaluated needs no start weights."""
        if stage == "fit":
            self.prepare_start()

    def prepare_start(self, load: bool = True) -> None:
        """Loads the weights that training starts from, and freezes parts of the network; a second call does nothing.

        A model from `load_from_checkpoint` keeps the weights of that checkpoint.

        Args:
            load: Whether to load the weights; a resumed run needs none, because its checkpoint holds all weights.

        Raises:
            UserError: A part to freeze does not exist, or the weights cannot be read or do not fit this model.
        """
        if self.start.done:
            return
        if load and not self.start.loaded:
            self.load_start()
        self._freeze()
        self.start.done = True

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Records that a checkpoint sets all weights, so that training does not load other weights."""
        self.start.loaded = True
        kinds = {weight.dtype for weight in checkpoint["state_dict"].values() if weight.is_floating_point()}
        if kinds == {torch.float64} and (self._trainer is None or self._trainer.precision == "64-true"):
            self.double()  # or these weights would be rounded before the Trainer makes the model one of 64 bits

    def load_start(self) -> None:
        """Loads the weights that training starts from, if any; a subclass with another source of weights extends this.

        An extension records what it has loaded by `self.start.set_weights`.

        Raises:
            UserError: The weights cannot be read or do not fit this model.
        """
        if self.start_from is None:
            return
        file, weights = read_weights(Path(self.start_from).expanduser())
        output_layer = output_layer_name(self)
        kept = load_weights(self, weights, file, output_layer)
        self.start.set_weights(file, weights, reinitialized_layer=output_layer if kept else None)

    def _freeze(self) -> None:
        modules, parameters = dict(self.network.named_modules()), dict(self.network.named_parameters())
        for name in self.freeze_names:
            if name in modules and name:
                modules[name].requires_grad_(False)
                if not self.frozen_in_train_mode:
                    self.frozen.append(modules[name].eval())
            elif name in parameters:
                parameters[name].requires_grad_(False)
            else:
                known = [part for part in modules if part and part.count(".") < 2]
                raise UserError(
                    f"model.freeze names {name!r}, but the network of {type(self).__name__} has no such part; name "
                    f"one of {', '.join(known)}, or a module or parameter in one of these."
                )

    def train(self, mode: bool = True) -> Self:
        """Sets training or evaluation mode; frozen parts stay in evaluation mode.

        Args:
            mode: Whether to set training mode.
        """
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Computes the outputs that the loss takes: logits, or log-probabilities where the loss is nll.

        Args:
            images: Normalized images, shape (B, C, H, W), or rows of a table, shape (B, F), float32.

        Returns:
            Outputs, shape (B, num_outputs).
        """
        return self.loss_function.activate(self.network(images))

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Computes the mean loss of a batch.

        Args:
            outputs: Outputs of the model, shape (B, num_outputs).
            labels: True classes, shape (B,), int64; for cross_entropy also shares of all classes, shape (B,
                num_classes), float32.

        Raises:
            UserError: The shapes differ from these, and broadcasting would give a meaningless number.
        """
        expected = (len(labels), self.num_outputs)
        takes_shares = self.loss_function.takes_shares
        shares = takes_shares and labels.is_floating_point() and labels.shape == (len(labels), self.num_classes)
        if outputs.shape != expected or not (shares or labels.ndim == 1):
            raise UserError(
                f"{type(self).__name__} gave outputs of shape {tuple(outputs.shape)} for labels of shape "
                f"{tuple(labels.shape)}, expected {expected} for {(len(labels),)}; build the network's last layer with "
                "self.num_outputs."
            )
        return self.loss_function(outputs.float(), labels, self.label_smoothing if self.training else 0.0)

    def predict(self, outputs: Tensor) -> Tensor:
        """Predicts the class of each image.

        Args:
            outputs: Outputs of the model, shape (B, num_outputs).

        Returns:
            Predicted classes, shape (B,), int64.
        """
        return self.loss_function.predict(outputs)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Computes the probability of each class.

        Args:
            outputs: Outputs of the model, shape (B, num_outputs).

        Returns:
            Probabilities, shape (B, num_classes), float32.
        """
        return self.loss_function.probabilities(outputs.float())

    def on_train_epoch_start(self) -> None:  # noqa: D102
        self.train_totals = Totals(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: D102
        images, labels = batch
        outputs = self(images)
        loss = self.loss(outputs, labels)
        penalty = self.penalty()
        minimized = loss if penalty is None else loss + penalty
        self.train_totals.add(loss, self.predict(outputs.detach()), labels, minimized if penalty is not None else None)
        weight = self.batch_weight(batch_idx) if self.batch_weight is not None else 1.0
        return minimized if weight == 1 else minimized + (weight - 1) * loss

    def on_train_start(self) -> None:
        """Asks the loader for the weights of batches where several processes train, whose gradients are averaged."""
        loader = self.trainer.train_dataloader
        self.batch_weight = getattr(loader, "weight", None) if self.trainer.world_size > 1 else None

    def feature_extractor(self) -> nn.Module | None:
        """The first part of the network, where it is frozen and nothing in it or before it is random.

        The network takes what it gives, shape (B, F), in place of images, so that it can be computed once.

        Returns:
            The part; `None` where there is none, or it may not be computed once.
        """
        return None

    def penalty(self) -> Tensor | None:
        """Computes what is minimized besides the loss: the L1 penalty, if there is one.

        A subclass with another penalty extends this, and lists `train/minimized` in `metrics`.

        Returns:
            The penalty, shape (); `None` for none.
        """
        if self.l1 == 0:
            return None
        weights = (p for p in self.parameters() if p.ndim > 1 and p.requires_grad)
        return torch.as_tensor(self.l1 * sum(p.abs().sum() for p in weights))

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Records the learning rate of this step, so that the logged rate is one that was used, not the next one."""
        self.lr = optimizer.param_groups[0]["lr"]

    def on_train_epoch_end(self) -> None:  # noqa: D102
        self._log_epoch("train", self.train_totals)
        self.log("lr", torch.tensor(self.lr, dtype=torch.float64))  # a float would be rounded to single precision

    def on_validation_epoch_start(self) -> None:  # noqa: D102
        self.eval_totals = Totals(self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: D102
        return self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:  # noqa: D102
        self._log_epoch("val", self.eval_totals)

    def on_test_epoch_start(self) -> None:  # noqa: D102
        self.eval_totals = Totals(self.device)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: D102
        return self._evaluate(batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns probabilities, shape (B, num_classes), predicted classes, shape (B,), and labels, shape (B,)."""
        outputs = self(batch[0])
        return self.probabilities(outputs), self.predict(outputs), batch[1]

    def on_test_epoch_end(self) -> None:  # noqa: D102
        self._log_epoch("test", self.eval_totals)

    def _evaluate(self, batch: Batch) -> Tensor:
        images, labels = batch
        outputs: Tensor = self(images)
        self.eval_totals.add(self.loss(outputs, labels), self.predict(outputs), labels)
        return outputs

    def log(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Logs a metric, as Lightning does; the names of the test set are for the test.

        Args:
            name: Name of the metric, such as val/loss.
            args: Further arguments of Lightning's log.
            kwargs: Further arguments of Lightning's log.

        Raises:
            UserError: The name begins with test/ and the model is being trained.
        """
        trainer = self._trainer
        if name.startswith("test/") and trainer is not None and trainer.state.fn == TrainerFn.FITTING:
            raise UserError(
                f"{type(self).__name__} logs {name} during training, but names that begin with test/ are for what is "
                "measured on the test set, once, after training; log it under another name."
            )
        self.log_calls += 1
        super().log(name, *args, **kwargs)

    def _log_epoch(self, stage: str, totals: Totals) -> None:
        # The sums of all processes are added, so that the metric is that of the whole split.
        total = functools.partial(self.trainer.strategy.reduce, reduce_op="sum")
        count = int(total(torch.tensor(totals.count, device=self.device)))
        # The division is in double precision on the host, once an epoch: the metric is exact on every device.
        loss, correct = float(total(totals.loss)), int(total(totals.correct))
        self.evaluated[stage] = count
        for name, value in (("loss", loss), ("acc", correct)):
            self.log(f"{stage}/{name}", torch.tensor(value / count, dtype=torch.float64))
        if totals.count and totals.minimized_count == totals.count:
            self.log(f"{stage}/minimized", torch.tensor(float(total(totals.minimized)) / count, dtype=torch.float64))

    def configure_optimizers(self) -> Any:
        """Builds the optimizer of the parameters that are not frozen, and its scheduler.

        Raises:
            UserError: All parameters are frozen, or the scheduler does not fit the length of the run.
        """
        return optimization.configure(self, self._trainer)

    def build_lr_scheduler(self, optimizer: Optimizer, steps: float) -> LRScheduler:
        """Builds the scheduler; the length of the run and the mode of the objective are filled in where not set.

        Args:
            optimizer: Optimizer whose learning rate the scheduler changes.
            steps: Number of epochs or optimizer steps of the run, as `lr_interval` says; infinite for no limit.

        Raises:
            UserError: The scheduler needs the length of a run that has no limit, or its mode is not the objective's.
        """
        return optimization.build_lr_scheduler(self, optimizer, steps)

    def _make_hparams_plain(self) -> None:
        """Replaces functions in the hyperparameters by class path and arguments, as the command line stores them."""
        if "_instantiator" in self.hparams:  # the model comes from the command line
            return
        self.hparams.update(optimization.plain_hparams(self.make_optimizer, self.make_lr_scheduler))
        for name in set(self.hparams) - optimization.arguments_of(type(self)):
            del self.hparams[name]  # of a base, which the class fixes
        # With this entry, load_from_checkpoint builds the objects from class paths, as the command line does.
        self.hparams["_instantiator"] = "lightning.pytorch.cli.instantiate_module"


@contextlib.contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """Sets a model to evaluation mode, and afterwards restores the mode of each module.

    Args:
        model: Model to evaluate.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def check_input_shape(kind: type[Classifier], input_shape: Sequence[int]) -> None:
    """Refuses a table for a model of images, and images for a model of rows.

    The type of the model's argument `input_shape` says what the model takes.

    Args:
        kind: Class of the model.
        input_shape: Shape of one image or row of the data set.

    Raises:
        UserError: The model does not take this shape.
    """
    try:
        hints = [get_type_hints(base.__init__) for base in kind.__mro__]  # type: ignore[misc]
    except NameError:  # a type that is imported only for type checkers
        return
    lengths = get_args(next((hint["input_shape"] for hint in hints if "input_shape" in hint), None))
    if not lengths or Ellipsis in lengths or len(lengths) == len(input_shape):
        return
    shapes = {1: "rows of {} features", 3: "images of {} x {} x {} (channels, height, width)"}
    data_input = shapes.get(len(input_shape), "inputs of shape {}").format(*input_shape)
    model_input = {1: "rows of a table", 3: "images"}.get(len(lengths), f"inputs of {len(lengths)} axes")
    raise UserError(
        f"{kind.__name__} takes {model_input}, but the data set has {data_input}; choose a model that takes both, "
        "such as MLP, or another data set."
    )
