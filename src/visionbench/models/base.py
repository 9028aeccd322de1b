"""What all classifiers share: where their weights begin, loss, metrics, optimisation."""

import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, get_args, get_type_hints

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from visionbench.errors import UserError
from visionbench.models import optimization
from visionbench.models.losses import LOSSES, LossName
from visionbench.models.optimization import Interval, LRSchedulerCallable, Mode, OptimizerCallable
from visionbench.models.weights import last_layer, load_strictly, read_weights
from visionbench.runs.identity import weights_digest

Batch = tuple[Tensor, Tensor]


@dataclass
class Objective:
    """What a run is judged by while it trains: it picks the best epoch and lowers the learning rate on a plateau.

    Args:
        metric: A logged metric, such as val/loss or val/acc.
        mode: Whether small (min) or large (max) is good; by default what is good for this metric.
    """

    metric: str = "val/loss"
    mode: Mode | None = None


class Totals:
    """Sums over an epoch, kept on the device, so that no step has to wait for it."""

    def __init__(self, device: torch.device) -> None:
        # In double precision a sum of 60,000 losses keeps all the digits that each of them has; MPS has none.
        self.loss = torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.count = 0

    def add(self, loss: Tensor, predicted: Tensor, labels: Tensor) -> None:
        """Adds a batch: its mean loss, the classes predicted, (B,), and the labels.

        Labels are (B,), or shares of classes, (B, num_classes), of which the largest is the one to be predicted.
        """
        if labels.ndim == 2:
            labels = labels.argmax(dim=1)
        self.loss += loss.detach() * len(labels)
        self.correct += (predicted == labels).sum()
        self.count += len(labels)

    def state_dict(self) -> dict[str, Any]:
        """The sums, in a checkpoint's plain types."""
        return {"loss": self.loss, "correct": self.correct, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from sums that `state_dict` gave."""
        self.loss.copy_(state["loss"])
        self.correct.copy_(state["correct"])
        self.count = state["count"]


class Classifier(LightningModule, ABC):
    """A network with one output a class (one in all, where the loss asks for one), and how it is trained.

    A subclass builds `self.network` from `input_shape`, which the data set gives, and `self.num_outputs`; it ends in a
    linear layer, whatever the loss. The other arguments are passed on to this class. An epoch's metrics are logged
    once, at its end.

    Args:
        num_classes: Of the data set, which gives it.
        input_shape: Channels, height and width of an image, or the number of a table's features; comes from the data
            set. A model for images alone says so by the type tuple[int, int, int], and then refuses tables.
        loss: What is minimised: cross_entropy on logits, nll on the log-softmax of the network's outputs,
            binary_cross_entropy on one logit (two classes), or mse of the probabilities (two classes: of one sigmoid).
        optimizer: Optimiser of the parameters that are not frozen.
        lr_scheduler: Changes the learning rate; ReduceLROnPlateau follows the run's objective, and one that needs the
            steps of the whole run (OneCycleLR, WarmupCosineLR) is told them.
        lr_interval: Whether the scheduler is stepped after each epoch or after each optimiser step.
        label_smoothing: Share of the target probability that is spread over all classes in training, for
            cross_entropy; validation and test losses are without it, so that they can be compared.
        l1: Weight of the sum of the absolute weights (biases, batch norms and what is frozen are left alone) in what is
            minimised; train/loss is without it.
        start_from: A run's folder, whose result training starts from, or a file of weights. All names and shapes must
            be this model's; only the last layer starts anew where it has another number of outputs.
        freeze: Parts of the network that stay as they are, by name, such as blocks.0 or head: their parameters are not
            trained, their batch norms and dropouts are as in evaluation.
    """

    metrics: ClassVar[Mapping[str, Mode]] = {
        "train/loss": "min",
        "train/acc": "max",
        "val/loss": "min",
        "val/acc": "max",
        "test/loss": "min",
        "test/acc": "max",
    }
    """Every metric that is logged, and which way is good; a subclass that logs more adds them here."""

    network: nn.Module

    @abstractmethod
    def __init__(
        self,
        num_classes: int,
        input_shape: tuple[int, ...],
        loss: LossName = "cross_entropy",
        optimizer: OptimizerCallable = lambda params: torch.optim.Adam(params, lr=0.001, fused=True),
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: Interval = "epoch",
        label_smoothing: float = 0.0,
        l1: float = 0.0,
        start_from: str | None = None,
        freeze: list[str] = [],  # noqa: B006 - never changed, and shown by --help
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
                f"model.label_smoothing is {label_smoothing}, but model.loss is {loss}; only cross_entropy is smoothed."
            )
        if not 0 <= label_smoothing < 1:
            raise UserError(f"model.label_smoothing is {label_smoothing}, expected 0 or more and below 1.")
        if l1 < 0:
            raise UserError(f"model.l1 is {l1}, expected 0 or more.")
        self.num_classes = num_classes
        self.input_shape = input_shape
        self.loss_name = loss
        self.loss_function = LOSSES[loss](num_classes)
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.lr_interval: Interval = lr_interval
        self.label_smoothing = label_smoothing
        self.l1 = l1
        self.start_from = start_from
        self.freeze_names = list(freeze)
        self.frozen: list[nn.Module] = []
        self.started: dict[str, Any] | None = None  # what start() loaded, for run.json
        self.has_started = False
        self.is_loaded = False
        self.objective = Objective()
        self.lr = 0.0
        self.evaluated: dict[str, int] = {}  # images that each stage's last metrics are of
        self.save_hyperparameters(logger=False)
        self._make_hparams_plain()

    @property
    def num_outputs(self) -> int:
        """Outputs of the network for each image: one a class, or one in all, as the loss asks."""
        return self.loss_function.num_outputs

    def setup(self, stage: str) -> None:
        """Freezes and, before training, loads what training starts from."""
        if stage == "fit":
            self.start()

    def start(self, load: bool = True) -> None:
        """Freezes what is to be frozen and loads what training starts from; what was done is not done again.

        A model that is only evaluated does not do this: its checkpoint holds all weights. One that was made by
        `load_from_checkpoint` goes on from those.

        Args:
            load: Whether to load it; a run that is gone on with has a checkpoint that holds all weights.

        Raises:
            UserError: There is no such part, or the weights cannot be read or are not this model's.
        """
        if self.has_started:
            return
        if load and not self.is_loaded:
            self.load_start()
        self._freeze()
        self.has_started = True

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Notes that the weights are a checkpoint's, which training is to go on from."""
        self.is_loaded = True

    def load_start(self) -> None:
        """Loads what training starts from; a subclass that knows another place extends this, and sets `started`.

        Raises:
            UserError: The weights cannot be read or are not this model's.
        """
        if self.start_from is None:
            return
        file, weights = read_weights(Path(self.start_from).expanduser())
        layer = last_layer(self)
        anew = load_strictly(self, weights, file, anew=layer)
        self.started = {"file": str(file), "weights_digest": weights_digest(weights), "anew": layer if anew else None}

    def _freeze(self) -> None:
        modules, parameters = dict(self.network.named_modules()), dict(self.network.named_parameters())
        for name in self.freeze_names:
            if name in modules and name:
                modules[name].requires_grad_(False).eval()
                self.frozen.append(modules[name])
            elif name in parameters:
                parameters[name].requires_grad_(False)
            else:
                known = [part for part in modules if part and part.count(".") < 2]
                raise UserError(
                    f"model.freeze names {name!r}, which is no part of {type(self).__name__}'s network; its parts are "
                    f"{', '.join(known)}, and what is in them."
                )

    def train(self, mode: bool = True) -> Self:
        """Sets training or evaluation mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Gives the outputs that the loss is computed from: logits, or log-probabilities where the loss is nll.

        Args:
            images: Normalised, shape (B, C, H, W), float32; or a table's rows, (B, F).

        Returns:
            Shape (B, num_outputs).
        """
        return self.loss_function.activate(self.network(images))

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch.

        Args:
            outputs: What the model gave, shape (B, num_outputs).
            labels: Shape (B,), int64; for cross_entropy also each class's share, shape (B, num_classes), float32.

        Raises:
            UserError: The shapes are others; broadcasting them would give a number that means nothing. Or the labels
                are shares, and the loss takes one class an image.
        """
        expected = (len(labels), self.num_outputs)
        shares = labels.is_floating_point() and labels.shape == (len(labels), self.num_classes)
        if shares and not self.loss_function.takes_shares:
            raise UserError(
                f"model.loss is {self.loss_name}, which takes one class an image, but the labels are shares of "
                "classes, as MixUp and CutMix make them; use cross_entropy, or leave these out of data.augment."
            )
        if outputs.shape != expected or not (shares or labels.ndim == 1):
            raise UserError(
                f"{type(self).__name__} gave outputs of shape {tuple(outputs.shape)} for labels of shape "
                f"{tuple(labels.shape)}, expected {expected} for {(len(labels),)}; build the network's last layer with "
                "self.num_outputs."
            )
        return self.loss_function(outputs.float(), labels, self.label_smoothing if self.training else 0.0)

    def predict(self, outputs: Tensor) -> Tensor:
        """The class of each image: (B, num_outputs) -> (B,), int64."""
        return self.loss_function.predict(outputs)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """The probability of each class: (B, num_outputs) -> (B, num_classes)."""
        return self.loss_function.probabilities(outputs.float())

    def on_train_epoch_start(self) -> None:  # noqa: D102
        self.train_totals = Totals(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: D102
        images, labels = batch
        outputs = self(images)
        loss = self.loss(outputs, labels)
        self.train_totals.add(loss, self.predict(outputs.detach()), labels)
        if self.l1 > 0:
            return loss + self.l1 * sum(p.abs().sum() for p in self.parameters() if p.ndim > 1 and p.requires_grad)
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Notes the learning rate of this step: what is logged is a rate that was used, not the next epoch's."""
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
        """Probabilities, (B, num_classes), predicted classes and labels, (B,)."""
        outputs = self(batch[0])
        return self.probabilities(outputs), self.predict(outputs), batch[1]

    def on_test_epoch_end(self) -> None:  # noqa: D102
        self._log_epoch("test", self.eval_totals)

    def _evaluate(self, batch: Batch) -> Tensor:
        images, labels = batch
        outputs: Tensor = self(images)
        self.eval_totals.add(self.loss(outputs, labels), self.predict(outputs), labels)
        return outputs

    def _log_epoch(self, stage: str, totals: Totals) -> None:
        # Sums over all processes, so that the metric is that of the whole set.
        total = functools.partial(self.trainer.strategy.reduce, reduce_op="sum")
        count = int(total(torch.tensor(totals.count, device=self.device)))
        # Divided in double precision on the host, once an epoch: the metric is exact on every device.
        loss, correct = float(total(totals.loss)), int(total(totals.correct))
        self.evaluated[stage] = count
        for name, value in (("loss", loss), ("acc", correct)):
            self.log(f"{stage}/{name}", torch.tensor(value / count, dtype=torch.float64))

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
        # With this entry, load_from_checkpoint builds the objects from class paths, as the command line does.
        self.hparams["_instantiator"] = "lightning.pytorch.cli.instantiate_module"


@contextlib.contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """Batch norms and dropouts as in evaluation, and afterwards as they were."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def check_input_shape(kind: type[Classifier], input_shape: Sequence[int]) -> None:
    """Refuses a table for a model of images, and images for a model of rows, by the type of its `input_shape`.

    Args:
        kind: The model's class.
        input_shape: What the data set gives.

    Raises:
        UserError: They do not go together.
    """
    try:
        hints = [get_type_hints(base.__init__) for base in kind.__mro__]  # type: ignore[misc]
    except NameError:  # of a type that is imported for type checkers alone
        return
    lengths = get_args(next((hint["input_shape"] for hint in hints if "input_shape" in hint), None))
    if not lengths or Ellipsis in lengths or len(lengths) == len(input_shape):
        return
    shapes = {1: "rows of {} features", 3: "images of {} x {} x {} (channels, height, width)"}
    given = shapes.get(len(input_shape), "inputs of shape {}").format(*input_shape)
    wanted = {1: "rows of a table", 3: "images"}.get(len(lengths), f"inputs of {len(lengths)} axes")
    raise UserError(
        f"{kind.__name__} is for {wanted}, but the data set gives {given}; take a model that is for both, such as MLP, "
        "or another data set."
    )
