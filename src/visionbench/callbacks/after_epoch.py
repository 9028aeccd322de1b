"""The place of a callback that needs an epoch's training metrics."""

from lightning.pytorch.callbacks import Checkpoint


class AfterEpoch(Checkpoint):
    """A callback whose `on_train_epoch_end` comes after the model has logged the epoch's training metrics.

    Lightning calls callbacks before the model there, save those of the type Checkpoint, which it calls after it, in
    the order of the list.
    """
