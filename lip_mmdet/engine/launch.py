"""Several processes on a machine without GPU, which MMEngine's launcher does not provide for."""

from __future__ import annotations

from typing import Any

import torch.distributed
from mmengine.device import get_device
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS
from torch import nn

from lip_mmdet.errors import InputError


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """MMEngine's data-parallel wrapper for a model on the CPU.

    Args:
        module: the model.
        device_ids: ignored; MMEngine passes the rank's GPU, which PyTorch refuses here.
        **kwargs: as in ``torch.nn.parallel.DistributedDataParallel``.
    """

    def __init__(self, module: nn.Module, device_ids: list[int] | None = None, **kwargs) -> None:
        # MMEngine's own default: batch statistics stay with each process.
        kwargs.setdefault('broadcast_buffers', False)
        super().__init__(module, **kwargs)


def join_processes_on_cpu(launcher: str, find_unused_parameters: bool) -> dict[str, Any]:
    """Join the processes that a launcher started, if there is no GPU to run them on.

    MMEngine's own launching sets a CUDA device and wraps the model for one. Where the group already
    exists it leaves both alone.

    Args:
        launcher: as MMDetection's ``--launcher``.
        find_unused_parameters: the config's, which MMEngine leaves to the wrapper's own options.

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
        'model_wrapper_cfg.type': 'CPUDistributedDataParallel',
        'model_wrapper_cfg.find_unused_parameters': find_unused_parameters,
    }
