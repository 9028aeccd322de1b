"""The private names of Lightning that visionbench uses, apart from those of its loop, which `epoch_loop` extends."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor


def restore_callback_metrics(trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
    """Puts metrics into `trainer.callback_metrics`, where plateau schedulers and early stopping read them.

    The public property can only be read.

    Args:
        trainer: Trainer that resumes a run.
        metrics: Metrics by name, on the training device.
    """
    trainer._logger_connector._callback_metrics.update(metrics)


def end_fit_restart(trainer: Trainer) -> None:
    """Declares the restart of the fit loop over, but not that of the loop of batches in it.

    A fit loop that restarts leaves out the plateau scheduler at the end of its first epoch. The public property
    `restarting` also changes the loop of batches, and the fit loop sets itself again where max_steps is given.

    Args:
        trainer: Trainer that resumes a run.
    """
    trainer.fit_loop._restarting = False


def is_resumable_after_batch(trainer: Trainer) -> bool:
    """Whether training could resume from a checkpoint that is written now, in `on_train_batch_end`.

    It could not where the epoch or training ends with this batch, where a validation comes next, or where gradients
    are being accumulated.

    Args:
        trainer: Trainer in training.
    """
    loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
    if fetcher is None or loop._is_training_done or loop._should_check_val_fx(fetcher):
        return False
    return not loop._should_accumulate()


def open_writer(logger: TensorBoardLogger) -> Any:
    """The logger's event writer, or `None` where nothing has been written yet; `logger.experiment` would open one.

    Args:
        logger: Logger of a run.
    """
    return logger._experiment


def forget_writer(logger: TensorBoardLogger) -> None:
    """Lets go of a closed event writer, whose next entry would open another event file.

    Args:
        logger: Logger of a run.
    """
    logger._experiment = None
