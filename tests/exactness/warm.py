"""Imported by the fork server alone: trains once, so that what is imported and looked up on the way is there."""

import contextlib
import io
import shlex
import tempfile

from lightning.pytorch.loggers import tensorboard  # noqa: F401
from torch.utils.tensorboard import SummaryWriter  # noqa: F401

from tests.exactness.processes import main

with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
    line = f"fit --model MLP --model.widths [4] --data Digits --data.root {folder}/data --log_dir {folder}/logs"
    line += " --trainer.max_epochs 1 --trainer.logger false"  # a logger's thread would not be in the forked processes
    main(shlex.split(line + "".join(f" --trainer.limit_{part}_batches 1" for part in ("train", "val", "test"))))
