"""The place of a callback that needs an epoch's training metrics."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint


class AfterEpoch(Checkpoint):
    """A callback whose `on_train_epoch_end` comes after the model has logged the epoch's training metrics.

    Lightning calls callbacks before the model there, save those of the type Checkpoint, which it calls after it, in
    the order of the list.
    """

    def __init__(self) -> None:
        self.validated = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self.validated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self.validated = True

    def epoch_metrics(self, trainer: Trainer) -> dict[str, float]:
        """What was logged in this epoch; the Trainer also remembers the last validation of an earlier one."""
        logged = trainer.callback_metrics.items()
        return {name: value.item() for name, value in logged if self.validated or not name.startswith("val/")}
