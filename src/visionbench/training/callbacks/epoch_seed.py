"""The global random numbers of each epoch."""

import random

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class EpochSeed(Callback):
    """Seeds the global random generators at the start of each epoch, from the run's seed, the epoch and the process.

    The random numbers of an epoch (dropout, for example) therefore do not depend on what was drawn before the epoch,
    so that a resumed run draws the same numbers as a run that was never interrupted.

    Args:
        seed: Seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        state = np.random.SeedSequence([self.seed, trainer.current_epoch, trainer.global_rank]).generate_state(3)
        random.seed(int(state[0]))
        np.random.seed(int(state[1]))
        torch.manual_seed(int(state[2]))
