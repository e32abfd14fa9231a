"""What becomes of freed memory where the CPU trains or scores."""

from __future__ import annotations

import ctypes
import os
import platform

from mmengine.device import get_device

# Parameters of glibc's mallopt(3).
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
NEVER = -1


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees for what it allocates next.

    By default glibc gives blocks above 32 MB back to the system when they are freed. The system
    then clears the next one page by page, at every operator on every map: at the size of COCO's
    images a third of a backbone's time (``docs/performance.md``). Kept instead, memory stays with
    the process until it ends.

    Nothing changes where there is a GPU, where another C library or allocator is used, or where
    the environment tunes glibc's already (``MALLOC_TRIM_THRESHOLD_``, ``GLIBC_TUNABLES``).

    Returns:
        Whether anything was changed.
    """
    tuned = any(name.startswith(('MALLOC_', 'GLIBC_TUNABLES', 'LD_PRELOAD')) for name in os.environ)
    if tuned or platform.libc_ver()[0] != 'glibc' or get_device() != 'cpu':
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER))
