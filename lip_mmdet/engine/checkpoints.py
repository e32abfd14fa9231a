"""Loading checkpoints that MMEngine's Runner saved without giving up torch's ``weights_only``.

Since torch 2.6 a checkpoint may hold only tensors and plain containers, unless a class is declared
harmless. A Runner's checkpoint also holds its log: ``HistoryBuffer`` objects with numpy arrays, and
their statistics methods, which pickle as ``getattr(HistoryBuffer, 'mean')``. These are declared
here, and ``getattr`` itself is not: what stands in for it hands out those few methods only, for
with the real one a file could reach any function of any module.
"""

from __future__ import annotations

import os
import pickle
import struct

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from lip_mmdet.errors import InputError

# `HistoryBuffer._set_default_statistics` registers these.
_STATISTICS = ('min', 'max', 'current', 'mean')


# How torch words that a file wants to call what it may not.
_SIGNS_OF_FOREIGN_CODE = (
    'Unsupported global',
    'Unsupported class',
    'Unsupported attribute',
    'unrecognized function',
)
# What unpickling part of a file may end in.
_SIGNS_OF_DAMAGE = (
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


def allow_runner_checkpoints() -> None:
    """Declare what a Runner's checkpoint holds beside weights; ``weights_only`` stays on.

    Counts for every ``torch.load`` of the process. Before torch 2.6, where a load checks nothing
    unless told to, there is nothing to declare.
    """
    if not _can_declare():
        return
    allowed = [
        (_LogInFile, f'{HistoryBuffer.__module__}.{HistoryBuffer.__qualname__}'),
        (_statistics_method, 'builtins.getattr'),
        np.ndarray,
        np.dtype,
        *{type(np.dtype(code)) for code in '?bBhHiIlLqQefd'},
    ]
    # What arrays and scalars are rebuilt with. numpy 2 renamed its module, and files outlive that.
    for rebuild in (np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]):
        for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
            allowed.append((rebuild, f'{module}.{rebuild.__name__}'))
    torch.serialization.add_safe_globals(allowed)


def check_checkpoint(path: str | os.PathLike) -> None:
    """Check that a local checkpoint is there, whole, and free of foreign code.

    On torch >= 2.6 nothing in the file is run. Addresses such as ``https://`` are left to MMEngine.

    Args:
        path: as MMEngine takes it.

    Raises:
        InputError: the file is missing, cannot be read, or holds what is neither weights nor a
            Runner's log.
    """
    path = os.path.expanduser(os.fspath(path))
    if '://' in path:
        return
    if not os.path.isfile(path):
        raise InputError(f'no checkpoint at {path}; check the path')
    # Earlier versions cannot be told what is harmless, and would refuse any Runner's file.
    options = dict(weights_only=True) if _can_declare() else {}
    try:
        torch.load(path, map_location='cpu', **options)
    except pickle.UnpicklingError as error:
        if not any(sign in str(error) for sign in _SIGNS_OF_FOREIGN_CODE):
            raise _unreadable(path) from error
        raise InputError(
            f'{path} was refused: it holds {_foreign(path)}, which could run code of its author '
            'when loaded; nothing was run. Use a file with weights only, or one you saved yourself'
        ) from error
    except _SIGNS_OF_DAMAGE as error:
        raise _unreadable(path) from error


class _LogInFile(HistoryBuffer):
    """What a HistoryBuffer in a file becomes: one with the statistics it always has.

    A HistoryBuffer restores its class's table of statistics from its state, so that a file could
    change what every log of the process computes.
    """

    def __setstate__(self, state: dict) -> None:
        self._set_default_statistics()
        self.__dict__.update({k: v for k, v in state.items() if k != 'statistics_methods'})
        self.__class__ = HistoryBuffer


def _can_declare() -> bool:
    """Whether torch lets a name stand for another function, which came with 2.6."""
    return hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint')


def _statistics_method(owner: type, name: str):
    """Stand in for ``getattr`` in checkpoints, for HistoryBuffer's own statistics alone."""
    if owner is not _LogInFile or name not in _STATISTICS:
        raise pickle.UnpicklingError(f'Unsupported attribute {name!r} of {owner!r} in a checkpoint')
    return getattr(HistoryBuffer, name)


def _unreadable(path: str) -> InputError:
    return InputError(
        f'{path} is not a whole PyTorch checkpoint, it may be cut short: fetch or save it again'
    )


def _foreign(path: str) -> str:
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # files of torch < 1.6 cannot be listed
        names = []
    allowed = {
        g[1] if isinstance(g, tuple) else f'{g.__module__}.{g.__qualname__}'
        for g in torch.serialization.get_safe_globals()
    }
    foreign = sorted(set(names) - allowed)
    return ', '.join(foreign) if foreign else 'more than weights'
