"""Several processes on a machine without GPU, which MMEngine's launcher does not provide for."""

from __future__ import annotations

from typing import Any

import torch.distributed
from mmengine.device import get_device

from lip_mmdet.errors import InputError


def join_processes_on_cpu(launcher: str) -> dict[str, Any]:
    """Join the processes that a launcher started, if there is no GPU to run them on.

    MMEngine's own launching sets a CUDA device and wraps the model for one. Where the group already
    exists it leaves both alone.

    Args:
        launcher: as MMDetection's ``--launcher``.

    Returns:
        The config options that go with it, as for ``Config.merge_from_dict``; none with a GPU or
        without a launcher.

    Raises:
        InputError: a launcher other than torchrun's (``pytorch``) without a GPU.
    """
    if launcher == 'none' or get_device() != 'cpu':
        return {}
    if launcher != 'pytorch':
        raise InputError(
            f'without a GPU, --launcher {launcher} cannot join processes: use torchrun'
        )
    torch.distributed.init_process_group('gloo')
    return {
        'env_cfg.dist_cfg.backend': 'gloo',
        'model_wrapper_cfg.type': 'MMDistributedDataParallel',
        'model_wrapper_cfg.broadcast_buffers': False,
    }
