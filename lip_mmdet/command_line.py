"""How the command-line tools begin and end."""

from __future__ import annotations

import sys
import warnings
from typing import Callable

from lip_mmdet.errors import InputError


def run_tool(main: Callable[[], None]) -> None:
    """Run a command-line tool's ``main`` and leave the process with its exit status.

    An :class:`~lip_mmdet.errors.InputError` becomes one line on standard error and status 2, Ctrl-C
    status 130; any other exception is a defect of ours and keeps its traceback.
    """
    # MMEngine and mmcv import it; whoever runs a tool can do nothing about that.
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated')
    try:
        main()
    except InputError as error:
        line = ' '.join(str(error).split())
        print(f'error: {line}', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print('interrupted; nothing was left half-written', file=sys.stderr)
        sys.exit(130)
