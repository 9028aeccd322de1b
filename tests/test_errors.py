"""Chains of exceptions."""

import errno

import pytest

from visionbench.errors import UserError, causes, first_user_error, is_disk_error, root_cause

pytestmark = pytest.mark.fast


def circle():
    """A sentence for the user that was found in a chain of exceptions and raised from that chain."""
    try:
        try:
            raise UserError("Say this.")
        except UserError as sentence:
            raise ValueError("a library's") from sentence
    except ValueError as error:
        found = first_user_error(error)
        found.__cause__ = error
        return found


def test_a_circle_of_exceptions_has_an_end():
    error = circle()
    assert [type(cause) for cause in causes(error)] == [UserError, ValueError]
    assert not is_disk_error(error)
    assert type(root_cause(error)) is ValueError
    assert first_user_error(error) is error


def test_the_disk_is_found_behind_other_exceptions():
    error = RuntimeError("a library's")
    error.__context__ = OSError(errno.ENOSPC, "full")
    assert is_disk_error(error)
    assert not is_disk_error(OSError(errno.ENOENT, "nothing there"))
