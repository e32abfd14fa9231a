"""Change of memory format at the speed of a transposition."""

from __future__ import annotations

from typing import Iterator

import torch
from torch import Tensor

from lip_mmdet.ops.operator import (
    carrying_tangents,
    compiling,
    differentiating_backward,
    exporting,
    inside_torch_func,
)
from lip_mmdet.ops.tiles import is_channels_last

# Positions transposed at once: such a block, with all its channels, should stay in the cache.
BLOCK_POSITIONS = 256


def to_contiguous(x: Tensor) -> Tensor:
    """Return a (N, C, H, W) map in the contiguous format, as ``x.contiguous()`` does.

    On the CPU PyTorch copies a 4-D channels_last map element by element across cache lines; as
    matrices, positions by channels, small enough for the cache, it is transposed several times as
    fast. Backward turns the gradient back in the same way.
    """
    if x.device.type != 'cpu' or exporting() or compiling():
        return x.contiguous()
    if inside_torch_func() or carrying_tangents() or not is_channels_last(x):
        return x.contiguous()
    return _ToContiguous.apply(x)


class _ToContiguous(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        output = torch.empty_like(x, memory_format=torch.contiguous_format)
        for image, result in zip(x, output):
            for block, target in _blocks(image, result):
                target.copy_(block.t())
        return output

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> Tensor:
        if differentiating_backward() or not grad_output.is_contiguous():
            return grad_output.contiguous(memory_format=torch.channels_last)
        grad = torch.empty_like(grad_output, memory_format=torch.channels_last)
        for image, result in zip(grad_output, grad):
            for target, block in _blocks(result, image):
                target.copy_(block.t())
        return grad


def _blocks(channels_last: Tensor, contiguous: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """View two (C, H, W) images as matrices, (positions, C) and (C, positions), in blocks."""
    positions = channels_last.permute(1, 2, 0).flatten(0, 1).split(BLOCK_POSITIONS)
    return zip(positions, contiguous.flatten(1).split(BLOCK_POSITIONS, dim=1))
