"""Change of memory format at the speed of a transposition."""

from __future__ import annotations

import torch
from torch import Tensor

from lip_mmdet.ops import formula
from lip_mmdet.ops.tiles import is_channels_last

# Positions transposed at once: such a block, with all its channels, should stay in the cache.
BLOCK_POSITIONS = 256


def to_contiguous(x: Tensor) -> Tensor:
    """Return a (N, C, H, W) map in the contiguous format, as ``x.contiguous()`` does.

    On the CPU PyTorch copies a channels_last map element by element across cache lines; matrices of
    positions by channels, small enough for the cache, are transposed several times as fast.
    """
    if x.device.type != 'cpu' or formula.is_wanted(x) or not is_channels_last(x):
        return x.contiguous()
    blocks = x.permute(0, 2, 3, 1).flatten(1, 2).split(BLOCK_POSITIONS, dim=1)
    output = torch.cat([block.transpose(1, 2) for block in blocks], dim=2)
    return torch.ops.aten._unsafe_view(output, x.shape)  # no view: users may change it in place
