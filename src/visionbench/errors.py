"""The one exception that is a message to the user."""


class UserError(Exception):
    """Something the user can mend: the command, the configuration, or missing data.

    The message is one sentence: what was found, what was expected, what to do. The command line prints it without a
    traceback and leaves with exit status 2.
    """

    status = 2


class RunFailed(UserError):
    """A run failed for a reason outside it, such as a full disk; exit status 1."""

    status = 1
