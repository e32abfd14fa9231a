"""Change of memory format at the speed of a transposition."""

from __future__ import annotations

import torch
from torch import Tensor

from lip_mmdet.ops.operator import exporting
from lip_mmdet.ops.tiles import is_channels_last


def to_contiguous(x: Tensor) -> Tensor:
    """Return a (N, C, H, W) map in the contiguous format, as ``x.contiguous()`` does.

    On the CPU PyTorch copies a 4-D channels_last map element by element across cache lines; as a
    matrix, positions by channels, it is transposed in blocks, two to four times as fast. Backward
    turns the gradient back in the same way.
    """
    compiling = getattr(getattr(torch, 'compiler', None), 'is_compiling', lambda: False)
    if x.device.type != 'cpu' or not is_channels_last(x) or exporting() or compiling():
        return x.contiguous()
    return _ToContiguous.apply(x)


class _ToContiguous(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        output = torch.empty_like(x, memory_format=torch.contiguous_format)
        for image, result in zip(x, output):
            result.flatten(1).copy_(image.permute(1, 2, 0).flatten(0, 1).t())
        return output

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> Tensor:
        if not grad_output.is_contiguous():
            return grad_output.contiguous(memory_format=torch.channels_last)
        grad = torch.empty_like(grad_output, memory_format=torch.channels_last)
        for image, result in zip(grad_output, grad):
            result.permute(1, 2, 0).flatten(0, 1).copy_(image.flatten(1).t())
        return grad
