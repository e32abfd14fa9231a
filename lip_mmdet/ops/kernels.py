"""Whether the kernels for GPUs run."""

from __future__ import annotations

import functools
import os
from importlib import metadata

from torch import Tensor

# Older ones miscompute blocks of two dimensions in their interpreter, so that nothing is tested.
LEAST_TRITON = (3, 3)


def has_kernels(x: Tensor) -> bool:
    """Whether to run the kernels: on a GPU, with Triton 3.3 or later, and only if asked for.

    They equal the formulas in Triton's interpreter and compile for GPUs, but have not run on one.
    """
    return x.is_cuda and os.environ.get('LIP_MMDET_TRITON') == '1' and has_triton()


@functools.lru_cache(maxsize=None)
def has_triton() -> bool:
    """Whether a Triton that the kernels are tested with is installed."""
    try:
        version = metadata.version('triton')
    except metadata.PackageNotFoundError:
        return False
    return tuple(int(part) for part in version.split('.')[:2]) >= LEAST_TRITON
