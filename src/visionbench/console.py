"""What is written to a terminal, and what libraries would write there."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

from rich.console import Console


class PlainConsole(Console):
    """Writes lines as they are: brackets and colons mean themselves, and a long one is not cut."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, soft_wrap=True, stderr=stderr)

    def on_broken_pipe(self) -> None:
        """Leaves it to `cli.main`, as for what is not printed through a console."""
        raise BrokenPipeError


def plain_console(stderr: bool = False) -> Console:
    """Standard output, or standard error, with brackets and colons meaning themselves."""
    return PlainConsole(stderr)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keeps what libraries say to their developers, or say of things that are meant, off the user's screen."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*Total length of `list` across ranks is zero.*")
            # The metrics of several processes are those of the whole split before they are logged.
            warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
            # Of a function that Lightning calls.
            warnings.filterwarnings("ignore", message=".*functional.all_gather is deprecated.*")
            warnings.filterwarnings("ignore", message=".*could not find the monitored key.*")
            warnings.filterwarnings("ignore", message=".*module.s. in eval mode at the start of training.*")
            # The learning rate may follow the epochs, and OneCycleLR is then made for their number.
            warnings.filterwarnings("ignore", message=".*scheduler is using 'interval': 'epoch'.*")
            # torch of a file that is then refused as no checkpoint.
            warnings.filterwarnings("ignore", message=".*Detected pickle protocol.*")
            # Ours is, by begin_at.
            warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
            # Training notes the names of these for run.json.
            warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
            warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint.*")
            # Names of jsonargparse that LightningCLI uses and version 5 drops.
            for message in ("By default only one JsonargparseDeprecationWarning", ".+ was deprecated in v4"):
                warnings.filterwarnings("ignore", message=rf"\s*{message}")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
