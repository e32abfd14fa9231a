"""Loading checkpoints through MMEngine without running code that a file carries.

Since torch 2.6 a checkpoint may hold only tensors and plain containers, unless a class is declared
harmless. A Runner's checkpoint also holds its log: ``HistoryBuffer`` objects with numpy arrays, and
their statistics methods, which pickle as ``getattr(HistoryBuffer, 'mean')``. These are declared
here, and ``getattr`` itself is not: what stands in for it hands out those few methods only, for
with the real one a file could reach any function of any module.

Two roads of MMEngine lead around that check, and both are shut here: what comes from an address is
loaded with ``weights_only=False`` by torch's hub, and OneDL's MMEngine loads so whatever the check
refused, after a first try with the real ``getattr`` allowed.
"""

from __future__ import annotations

import os
import pickle
import struct
from contextlib import contextmanager
from typing import Any, Iterator

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader, checkpoint

from lip_mmdet.errors import InputError

# `HistoryBuffer._set_default_statistics` registers these.
_STATISTICS = ('min', 'max', 'current', 'mean')
# How torch is told to check. The second is people's way around the check, needed no more.
_SWITCHES = {'TORCH_FORCE_WEIGHTS_ONLY_LOAD': '1', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD': '0'}
# How torch words that a file wants to call what it may not.
_SIGNS_OF_FOREIGN_CODE = (
    'Unsupported global',
    'unsupported GLOBAL',  # of a module that torch never allows, such as os
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


def make_loading_safe() -> None:
    """Have every load through MMEngine check what it loads, and take what a Runner saved.

    What is declared harmless counts for every ``torch.load`` of the process. The Runner's
    ``load_checkpoint``, ``load_from`` and ``resume``, ``init_cfg``, ``init_detector`` and
    ``DetInferencer`` all load through ``CheckpointLoader``; in each of them a file with foreign
    code, one cut short and one that is missing end in an :class:`InputError`. Before torch 2.6,
    which cannot be told what is harmless, nothing is checked but whether the file is whole.
    """
    _declare_harmless()
    load = CheckpointLoader.load_checkpoint
    if getattr(load, 'checks_files', False):
        return

    def load_checkpoint(
        cls, filename: str, map_location: Any = None, logger: Any = 'current'
    ) -> dict[str, Any]:
        with _checked(filename):
            content = load(filename, map_location, logger)
        if not isinstance(content, dict) or not isinstance(content.get('state_dict', {}), dict):
            raise InputError(f'{filename} holds no state_dict: name a file of weights')
        return content

    load_checkpoint.__doc__ = load.__doc__
    load_checkpoint.checks_files = True
    CheckpointLoader.load_checkpoint = classmethod(load_checkpoint)
    if hasattr(checkpoint, '_safe_torch_load'):  # OneDL's
        checkpoint._safe_torch_load = _load_once


def check_checkpoint(path: str | os.PathLike) -> None:
    """Check in a moment that a local checkpoint is there, whole, and free of foreign code.

    Only the names in it are read, not the weights: what remains is found when it is loaded, with
    the same words. Addresses such as ``https://`` are left to that moment altogether.

    Args:
        path: as MMEngine takes it.

    Raises:
        InputError: the file is missing, cut short, or holds what is neither weights nor a Runner's
            log.
    """
    path = os.path.expanduser(os.fspath(path))
    if '://' in path:
        return
    if not os.path.isfile(path):
        raise InputError(f'no checkpoint at {path}; check the path')
    if not _can_declare():
        return
    _declare_harmless()
    try:
        foreign = _foreign(path)
    except _SIGNS_OF_DAMAGE as error:
        # Files of torch < 1.6, which are no archives, cannot be listed.
        if _is_archive(path):
            raise _unreadable(path) from error
        return
    if foreign:
        raise _refused(path)


@contextmanager
def _checked(path: str | os.PathLike) -> Iterator[None]:
    """Load with ``weights_only`` inside the block, and say in one line why a load fails."""
    path = os.path.expanduser(os.fspath(path))
    local = '://' not in path
    if local and not os.path.isfile(path):
        raise InputError(f'no checkpoint at {path}; check the path')
    try:
        with _weights_only():
            yield
    except pickle.UnpicklingError as error:
        if any(sign in str(error) for sign in _SIGNS_OF_FOREIGN_CODE):
            raise _refused(path) from error
        raise _unreadable(path) from error
    except _SIGNS_OF_DAMAGE as error:
        if not local and isinstance(error, OSError):
            raise InputError(
                f'{path} cannot be fetched ({error}): name the path of a copy in its place'
            ) from error
        if not local or _is_whole(path):  # the fault lies elsewhere, such as with the device
            raise
        raise _unreadable(path) from error


@contextmanager
def _weights_only() -> Iterator[None]:
    """Have every ``torch.load`` in the block check its file, whatever its arguments say."""
    if not _can_declare():
        yield
        return
    # Others may have withdrawn what they declared, and with it what we both did.
    _declare_harmless()
    before = {name: os.environ.get(name) for name in _SWITCHES}
    os.environ.update(_SWITCHES)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _load_once(file: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
    """Stand in for OneDL's loading: one try, by what is declared harmless here."""
    return torch.load(file, map_location=map_location)


def _declare_harmless() -> None:
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


def _refused(path: str) -> InputError:
    try:
        foreign = _foreign(path)
    except Exception:  # an address, or a file that cannot be listed
        foreign = []
    what = ', '.join(foreign) if foreign else 'more than weights'
    return InputError(
        f'{path} was refused: it holds {what}, which could run code of its author when loaded; '
        'nothing was run. Use a file with weights only, or one you saved yourself'
    )


def _unreadable(path: str) -> InputError:
    if path.endswith('.safetensors'):
        return InputError(
            f'{path} is in a format that MMEngine does not load: write what '
            'safetensors.torch.load_file gives with torch.save, and name that file'
        )
    return InputError(
        f'{path} is not a whole PyTorch checkpoint, it may be cut short: fetch or save it again'
    )


def _foreign(path: str) -> list[str]:
    """List what a file wants to call and may not."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    allowed = {
        g[1] if isinstance(g, tuple) else f'{g.__module__}.{g.__qualname__}'
        for g in torch.serialization.get_safe_globals()
    }
    return sorted(set(names) - allowed)


def _is_archive(path: str) -> bool:
    with open(path, 'rb') as file:
        return file.read(4) == b'PK\x03\x04'


def _is_whole(path: str) -> bool:
    """Whether a local file loads where neither network nor GPU has a part."""
    try:
        torch.load(path, map_location='cpu')
    except Exception:
        return False
    return True
