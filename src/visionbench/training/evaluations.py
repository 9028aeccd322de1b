"""Further evaluations: splits that are evaluated beside training, and that leave no trace in it."""

import functools
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn import functional as F

from visionbench.data.base import VisionDataModule
from visionbench.errors import UserError
from visionbench.evaluation.metrics import Evaluator
from visionbench.evaluation.predictions import EVALUATIONS, Predictions
from visionbench.models.base import Classifier, Totals, in_evaluation
from visionbench.random_state import same_random_numbers


@dataclass(frozen=True)
class Outputs:
    """What a model gave for all samples of a split, in the split's order, on the CPU.

    Attributes:
        probabilities: Probabilities of all classes, shape (N, classes), float32.
        predicted: Predicted classes, shape (N,), int64.
        labels: True classes, shape (N,), int64.
    """

    probabilities: Tensor
    predicted: Tensor
    labels: Tensor

    def of_split(self, stage: str, names: Sequence[str]) -> Predictions:
        """The outputs as the predictions on a split.

        Args:
            stage: Name of the split.
            names: Names of the samples.
        """
        return Predictions(stage, self.probabilities.numpy(), self.predicted.numpy(), self.labels.numpy(), names)


@dataclass(frozen=True)
class Evaluation:
    """What a model gave for one further evaluation.

    Attributes:
        metrics: Value of each metric by its full name, such as `train_eval/acc`.
        count: Number of samples of all processes.
        outputs: Outputs for all samples, in the split's order; `None` where they were not asked for.
    """

    metrics: dict[str, float]
    count: int
    outputs: Outputs | None


class FurtherEvaluations:
    """Evaluates a model beside its training: no weight is changed, and no random number is taken from training.

    `train_eval` is the whole training split in evaluation mode, without augmentation; `before` is the validation split
    with the weights that training starts from; `augmented_val` is the validation split, augmented as training samples
    are, apart from mixing, by parameters that are a function of (seed, epoch, position). The last two take as many
    batches as a validation does.

    Args:
        data: Data module of the run.
        evaluator: Computes the metrics besides loss and accuracy.
    """

    def __init__(self, data: VisionDataModule, evaluator: Evaluator) -> None:
        self.data = data
        self.evaluator = evaluator

    def evaluate(self, trainer: Trainer, model: Classifier, name: str, epoch: int, keep: bool = False) -> Evaluation:
        """Evaluates a model.

        Args:
            trainer: Trainer of the run.
            model: Model; its modes are as before afterwards.
            name: Name of the evaluation: `train_eval`, `before` or `augmented_val`.
            epoch: Number of the epoch, from 0, which the random augmentations are those of.
            keep: Whether the outputs are gathered.

        Raises:
            UserError: A user's own metric cannot be computed from what the model gives.
        """
        with same_random_numbers():
            batches, limit = self._batches(trainer, name, epoch)
            totals, parts = Totals(model.device), []
            gathers = keep or bool(self.evaluator.specs)
            precision = trainer.strategy.precision_plugin
            with in_evaluation(model), torch.no_grad(), precision.forward_context():
                for batch in itertools.islice(batches, limit):
                    converted = precision.convert_input(batch)
                    images, labels = trainer.strategy.batch_to_device(converted, dataloader_idx=0)
                    outputs = model(images)
                    predicted = model.predict(outputs)
                    totals.add(model.loss(outputs, labels), predicted, labels)
                    if gathers:
                        parts.append((model.probabilities(outputs).float(), predicted, labels))
            return self._summed(trainer, model, name, totals, parts, keep)

    def _batches(self, trainer: Trainer, name: str, epoch: int) -> tuple[Iterable[Any], int | None]:
        """The batches of an evaluation, and how many of them are taken; `None` for all."""
        if name == "train_eval":
            return self.data.predict_dataloader(), None
        augmented = name == "augmented_val"
        loader = self.data.augmented_val_dataloader(epoch) if augmented else self.data.val_dataloader()
        limit = trainer.limit_val_batches
        return loader, limit if isinstance(limit, int) else int(limit * len(loader))

    def _summed(
        self,
        trainer: Trainer,
        model: Classifier,
        name: str,
        totals: Totals,
        parts: list[tuple[Tensor, Tensor, Tensor]],
        keep: bool,
    ) -> Evaluation:
        total = functools.partial(trainer.strategy.reduce, reduce_op="sum")
        count = int(total(torch.tensor(totals.count, device=model.device)))
        # As in Classifier: in double precision on the host, so that the metric is exact on every device.
        metrics = {
            f"{name}/loss": float(total(totals.loss)) / count,
            f"{name}/acc": int(total(totals.correct)) / count,
        }
        outputs = None
        if parts:
            columns = [torch.cat(part) for part in zip(*parts, strict=True)]
            if trainer.world_size > 1:
                columns = [dealt_back(trainer, part) for part in columns]
            outputs = Outputs(*(part.cpu() for part in columns))
            try:
                values = self.evaluator.compute(outputs.labels, outputs.predicted, outputs.probabilities)
            except ValueError as error:
                raise UserError(
                    f"The metrics cannot be computed from what {type(model).__name__} gives for {name}: {error}"
                ) from error
            metrics |= {f"{name}/{metric}": value for metric, value in values.items()}
        return Evaluation(metrics, count, outputs if keep else None)


def dealt_back(trainer: Trainer, part: Tensor) -> Tensor:
    """Puts together what was dealt out in turn: the first of each process, then the second, and so on."""
    sizes = trainer.strategy.all_gather(torch.tensor(len(part), device=part.device)).tolist()
    padded = F.pad(part, [0] * (2 * part.ndim - 1) + [max(sizes) - len(part)])
    gathered = trainer.strategy.all_gather(padded)  # (processes, N, ...)
    return gathered.transpose(0, 1).reshape(-1, *part.shape[1:])[: sum(sizes)]


def measured_further(row: dict[str, Any]) -> dict[str, float]:
    """The values of further evaluations among metrics."""
    return {name: value for name, value in row.items() if name.partition("/")[0] in EVALUATIONS}
