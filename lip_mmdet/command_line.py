"""How the command-line tools begin and end."""

from __future__ import annotations

import atexit
import errno
import os
import sys
import warnings
from typing import Callable, NoReturn

from lip_mmdet.errors import InputError

# What the machine refuses, whatever the program does: no defect, so no traceback.
_MACHINE = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENOTDIR,
    errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.EEXIST,
}  # fmt: skip


def run_tool(main: Callable[[], None]) -> None:
    """Run a command-line tool's ``main`` and leave the process with its exit status.

    An :class:`~lip_mmdet.errors.InputError`, and what the machine refuses such as a full disk,
    becomes one line on standard error and status 2, Ctrl-C status 130; any other exception is a
    defect of ours and keeps its traceback. What the terminal's encoding lacks is printed as a
    replacement character.
    """
    # MMEngine and mmcv import it; whoever runs a tool can do nothing about that.
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated')
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='replace')
    try:
        main()
        sys.stdout.flush()
    except InputError as error:
        _fail(str(error))
    except BrokenPipeError:  # whoever read the output, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except OSError as error:
        if error.errno not in _MACHINE:
            raise
        where = f' {error.filename}' if error.filename else ''
        _fail(f'cannot write or read{where}: {error.strerror}')
    except KeyboardInterrupt:
        print('interrupted; nothing was left half-written', file=sys.stderr)
        sys.exit(130)
    if _joined_by_gloo():
        # A thread of gloo's may abort a process that ends in order, though its work is done and
        # whether or not the group is destroyed first: end without taking the threads down.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _joined_by_gloo() -> bool:
    """Whether this process belongs to a group of CPU processes; torch is not imported for it."""
    distributed = sys.modules.get('torch.distributed')
    joined = distributed and distributed.is_available() and distributed.is_initialized()
    return bool(joined) and distributed.get_backend() == 'gloo'


def _fail(message: str) -> NoReturn:
    line = ' '.join(message.split())
    print(f'error: {line}', file=sys.stderr)
    sys.exit(2)
