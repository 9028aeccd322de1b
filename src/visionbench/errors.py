"""The one exception that is a message to the user."""

import errno
from collections.abc import Iterator

# The disk's fault, not the program's: full, over its quota, read-only, or broken.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class UserError(Exception):
    """Something the user can mend: the command, the configuration, or missing data.

    The message is one sentence: what was found, what was expected, what to do. The command line prints it without a
    traceback and leaves with exit status 2.
    """

    status = 2


class RunFailed(UserError):
    """A run failed for a reason outside it, such as a full disk; exit status 1."""

    status = 1


class MetricFailed(RunFailed):
    """A user's own metric failed on the samples of a split."""


class Stopped(BaseException):  # so that no library takes it for an error of its own, as with KeyboardInterrupt
    """A signal ended a run: training after a checkpoint was written, anything else at once.

    Args:
        status: The exit status.
    """

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that it was raised from, the outermost first, each once.

    A chain may be a circle: an exception that is taken out of a chain and raised from that chain.

    Args:
        error: Exception; none has no causes.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def first_user_error(error: BaseException | None) -> UserError | None:
    """The outermost message to the user in a chain of exceptions: what it was raised from is said in it."""
    return next((cause for cause in causes(error) if isinstance(cause, UserError)), None)


def root_cause(error: BaseException) -> BaseException:
    """The exception that the others in a chain were raised from."""
    return list(causes(error))[-1]


def is_disk_error(error: BaseException) -> bool:
    """Whether the disk is why an exception was raised: it is full, over its quota, read-only, or broken."""
    return any(isinstance(cause, OSError) and cause.errno in DISK_ERRORS for cause in causes(error))
