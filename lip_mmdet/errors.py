"""What a user's mistake looks like: one line that says what, where and what to do."""

from __future__ import annotations


class InputError(ValueError):
    """The caller's input is at fault, not the program; the message is meant for the user.

    The message is one line: what is wrong, where, and what to do about it. Command-line tools print
    it and exit with status 2; library callers catch it as the ``ValueError`` it is.
    """
