"""What all classifiers share: loss, metrics, optimisation."""

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from visionbench.errors import UserError

OptimizerCallable = Callable[[Iterable[Any]], Optimizer]
LRSchedulerCallable = Callable[[Optimizer], LRScheduler]
Mode = Literal["min", "max"]
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

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch: its mean loss, logits (B, classes) and labels (B,)."""
        self.loss += loss.detach() * len(labels)
        self.correct += (logits.detach().argmax(dim=1) == labels).sum()
        self.count += len(labels)


class Classifier(LightningModule, ABC):
    """A network that gives one logit a class, trained on cross-entropy.

    A subclass builds `self.network` from `num_classes` and `input_shape`, which the data set gives, passes the other
    arguments on to this class. An epoch's metrics are logged once, at its end.

    Args:
        num_classes: Logits given; comes from the data set.
        input_shape: Channels, height and width of an image; comes from the data set.
        optimizer: Optimiser of the parameters that are not frozen.
        lr_scheduler: Changes the learning rate; ReduceLROnPlateau follows the run's objective.
        lr_interval: Whether the scheduler is stepped after each epoch or after each optimiser step.
        label_smoothing: Share of the target probability that is spread over all classes in training; validation and
            test losses are without it, so that they can be compared.
        l1: Weight of the sum of the absolute weights (biases and batch norms are left alone) in what is minimised;
            train/loss is without it.
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
        input_shape: tuple[int, int, int],
        optimizer: OptimizerCallable = lambda params: torch.optim.Adam(params, lr=0.001, fused=True),
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
        label_smoothing: float = 0.0,
        l1: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UserError(f"model.label_smoothing is {label_smoothing}, expected 0 or more and below 1.")
        if l1 < 0:
            raise UserError(f"model.l1 is {l1}, expected 0 or more.")
        self.num_classes = num_classes
        self.input_shape = input_shape
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.lr_interval = lr_interval
        self.label_smoothing = label_smoothing
        self.l1 = l1
        self.objective = Objective()
        self.lr = 0.0
        self.evaluated: dict[str, int] = {}  # images that each stage's last metrics are of
        self.save_hyperparameters(logger=False)
        self._make_hparams_plain()

    def forward(self, images: Tensor) -> Tensor:
        """Gives the logits.

        Args:
            images: Normalised, shape (B, C, H, W), float32.

        Returns:
            Shape (B, num_classes).
        """
        logits: Tensor = self.network(images)
        return logits

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch.

        Args:
            logits: Shape (B, num_classes).
            labels: Shape (B,), int64.

        Raises:
            ValueError: The shapes are others; broadcasting them would give a number that means nothing.
        """
        if logits.shape != (len(labels), self.num_classes):
            raise ValueError(
                f"{type(self).__name__} gave outputs of shape {tuple(logits.shape)}, expected "
                f"{(len(labels), self.num_classes)}: one logit a class for each image."
            )
        smoothing = self.label_smoothing if self.training else 0.0
        return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)

    def on_train_epoch_start(self) -> None:  # noqa: D102
        self.train_totals = Totals(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: D102
        images, labels = batch
        logits = self(images)
        loss = self.loss(logits, labels)
        self.train_totals.add(loss, logits, labels)
        if self.l1 > 0:
            return loss + self.l1 * sum(p.abs().sum() for p in self.parameters() if p.ndim > 1)
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Notes the learning rate of this step: what is logged is a rate that was used, not the next epoch's."""
        self.lr = optimizer.param_groups[0]["lr"]

    def on_train_epoch_end(self) -> None:  # noqa: D102
        self._log_epoch("train", self.train_totals)
        self.log("lr", torch.tensor(self.lr, dtype=torch.float64))  # a float would be rounded to single precision

    def on_validation_epoch_start(self) -> None:  # noqa: D102
        self.eval_totals = Totals(self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: D102
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:  # noqa: D102
        self._log_epoch("val", self.eval_totals)

    def on_test_epoch_start(self) -> None:  # noqa: D102
        self.eval_totals = Totals(self.device)

    def test_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: D102
        self._evaluate(batch)

    def on_test_epoch_end(self) -> None:  # noqa: D102
        self._log_epoch("test", self.eval_totals)

    def _evaluate(self, batch: Batch) -> None:
        images, labels = batch
        logits = self(images)
        self.eval_totals.add(self.loss(logits, labels), logits, labels)

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
        """Builds the optimiser of the parameters that are not frozen, and its scheduler.

        Raises:
            UserError: All parameters are frozen.
        """
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if not trained:
            raise UserError(f"All parameters of {type(self).__name__} are frozen, so there is nothing to train.")
        optimizer = self.make_optimizer(trained)
        if self.make_lr_scheduler is None:
            return optimizer
        scheduler = self.make_lr_scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau) and scheduler.mode != self._objective_mode():
            if not isinstance(self.make_lr_scheduler, functools.partial):
                raise UserError(
                    f"The scheduler's mode is {scheduler.mode}, but {self.objective.metric} is to be "
                    f"{self._objective_mode()}imised; make it with mode={self._objective_mode()!r}."
                )
            scheduler = self.make_lr_scheduler(optimizer, mode=self._objective_mode())
        settings: dict[str, Any] = {"scheduler": scheduler, "interval": self.lr_interval}
        if isinstance(scheduler, ReduceLROnPlateau):
            settings["monitor"] = self.objective.metric
            if self.objective.metric.startswith("val/") and self._trainer is not None:
                # In the epochs between two validations there is nothing new to look at.
                settings["frequency"] = self.trainer.check_val_every_n_epoch or 1
        return {"optimizer": optimizer, "lr_scheduler": settings}

    def _objective_mode(self) -> Mode:
        return self.objective.mode if self.objective.mode is not None else self.metrics[self.objective.metric]

    def _make_hparams_plain(self) -> None:
        """Replaces functions in the hyperparameters by what they make, as class path and arguments.

        The command line stores plain values already. A model built in Python may be given any function; stored as it
        is, it would make the checkpoint one that `torch.load(weights_only=True)` refuses.
        """
        if "_instantiator" in self.hparams:
            return
        optimizer = self.make_optimizer([nn.Parameter(torch.zeros(1))])
        self.hparams["optimizer"] = _spec(optimizer)
        if self.make_lr_scheduler is not None:
            self.hparams["lr_scheduler"] = _spec(self.make_lr_scheduler(optimizer))
        # Tells load_from_checkpoint to build the class from these as the command line does.
        self.hparams["_instantiator"] = "lightning.pytorch.cli.instantiate_module"


def _spec(made: Optimizer | LRScheduler) -> dict[str, Any] | None:
    """Class path and arguments that make such an optimiser or scheduler again, or `None` where it does not tell."""
    kind = type(made)
    values = made.defaults if isinstance(made, Optimizer) else vars(made)
    plain = (bool, int, float, str, list, tuple, type(None))
    # `last_epoch` has moved on when the scheduler has been made; given again it would mean a resumed one.
    names = [n for n in inspect.signature(kind).parameters if n not in ("params", "optimizer", "last_epoch")]
    if not all(name in values and isinstance(values[name], plain) for name in names):
        return None
    arguments = {name: values[name] for name in names}
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}
