"""The start of training, as the guards see it."""

from collections.abc import Callable

from lightning.pytorch import Callback, LightningModule, Trainer

from visionbench.data.base import VisionDataModule
from visionbench.guards import StartContext
from visionbench.models.base import Classifier
from visionbench.training.trial import try_step


class StartOfTraining(Callback):
    """Tries a step of the model just before training, and shows what the trial found to a function.

    A model with a `train()` of its own, such as one that keeps a part in evaluation mode, gets it called here, since
    Lightning never calls it; after a validation, Lightning restores the mode of each layer.

    Args:
        data: Data module of the run.
        ask: Function of what the trial found.
    """

    def __init__(self, data: VisionDataModule, ask: Callable[[StartContext], None]) -> None:
        self.data = data
        self.ask = ask

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if not isinstance(pl_module, Classifier) or trainer.fit_loop.done:  # trained already, and only tested
            return
        if type(pl_module).train is not Classifier.train:
            pl_module.train()
        self.ask(try_step(trainer, pl_module, self.data))
