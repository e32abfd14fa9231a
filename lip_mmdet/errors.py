"""What a user's mistake looks like: one line that says what, where and what to do."""

from __future__ import annotations

import sys
from typing import Callable


class InputError(ValueError):
    """The caller's input is at fault, not the program; the message is meant for the user.

    The message is one line: what is wrong, where, and what to do about it. Command-line tools print
    it and exit with status 2; library callers catch it as the ``ValueError`` it is.
    """


def run_tool(main: Callable[[], None]) -> None:
    """Run a command-line tool's ``main`` and leave the process with its exit status.

    An :class:`InputError` becomes one line on standard error and status 2, Ctrl-C status 130;
    any other exception is a defect of ours and keeps its traceback.
    """
    try:
        main()
    except InputError as error:
        line = ' '.join(str(error).split())
        print(f'error: {line}', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print('interrupted; nothing was left half-written', file=sys.stderr)
        sys.exit(130)
