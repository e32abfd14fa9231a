"""Change of memory format at the speed of a transposition."""

from __future__ import annotations

from typing import Iterator

import torch
from torch import Tensor

from lip_mmdet.ops import formula
from lip_mmdet.ops.tiles import is_channels_last

# Positions transposed at once: such a block, with all its channels, should stay in the cache.
BLOCK_POSITIONS = 256


def to_contiguous(x: Tensor) -> Tensor:
    """Return a (N, C, H, W) map in the contiguous format, as ``x.contiguous()`` does.

    On the CPU PyTorch copies a 4-D channels_last map element by element across cache lines; as
    matrices, positions by channels, small enough for the cache, it is transposed several times as
    fast. Backward turns the gradient back in the same way.
    """
    if x.device.type != 'cpu' or formula.is_wanted(x) or not is_channels_last(x):
        return x.contiguous()
    return _ToContiguous.apply(x)


class _ToContiguous(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        output = torch.empty_like(x, memory_format=torch.contiguous_format)
        for block, target in _blocks(x, output):
            target.copy_(block.t())
        return output

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> Tensor:
        if torch.is_grad_enabled() or not grad_output.is_contiguous():
            return grad_output.contiguous(memory_format=torch.channels_last)
        grad = torch.empty_like(grad_output, memory_format=torch.channels_last)
        for target, block in _blocks(grad, grad_output):
            target.copy_(block.t())
        return grad


def _blocks(channels_last: Tensor, contiguous: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """View two maps image by image as matrices, (positions, C) and (C, positions), in blocks."""
    for one, other in zip(channels_last.permute(0, 2, 3, 1).flatten(1, 2), contiguous.flatten(2)):
        yield from zip(one.split(BLOCK_POSITIONS), other.split(BLOCK_POSITIONS, dim=1))
