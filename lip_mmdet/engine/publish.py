"""A checkpoint without what only its training needs."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import torch
from mmengine.runner import CheckpointLoader

from lip_mmdet.errors import InputError
from lip_mmdet.files import replace_on_success, write_bytes


def publish(checkpoint: str | os.PathLike, prefix: str | os.PathLike) -> Path:
    """Write the weights of a checkpoint with the classes they were trained for.

    Averaged weights, where a run kept them, are its ``state_dict`` already. What stays is tensors
    and plain values, so that ``torch.load(..., weights_only=True)`` reads it anywhere.

    Args:
        checkpoint: as MMEngine's Runner saved it.
        prefix: path and beginning of the name; the file's SHA-256 gives the rest, as MMDetection's
            files have it: ``PREFIX-1a2b3c4d.pth``.

    Returns:
        The file.

    Raises:
        InputError: the checkpoint is missing, unusable, or holds no ``state_dict``.
    """
    content = CheckpointLoader.load_checkpoint(str(checkpoint), map_location='cpu')
    if not content.get('state_dict'):
        raise InputError(f'{checkpoint} holds no state_dict with weights; name a checkpoint')
    meta = content.get('meta') or {}
    kept = {key: meta[key] for key in ('dataset_meta', 'cfg', 'epoch', 'iter') if key in meta}
    buffer = io.BytesIO()
    torch.save(dict(meta=kept, state_dict=dict(content['state_dict'])), buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    path = Path(f'{prefix}-{digest[:8]}.pth')
    with replace_on_success(path) as temporary:
        write_bytes(temporary, buffer.getvalue(), path)
    return path
