"""Local importance-based pooling (arXiv 1908.04156, section 3.2, equation 2).

``O = sum_{i in W} exp(G_i) I_i / sum_{i in W} exp(G_i)`` over the window ``W`` of each output
position, one channel at a time. ``I`` is the input and ``G`` its *logit*, so that ``exp(G)`` is the
importance of a position. Positions of the padding are in no window.

Two things make the textbook form fail: ``exp`` overflows (in float16 from 11.1 on, below the soft
gate's 12), and subtracting one maximum for the whole map underflows in windows far below it. Here
each window subtracts its own maximum, in float32 or wider: the largest weight of a window is 1, and
any finite logit gives a finite output. Windows are visited one offset at a time, on strided views
of the input, so in float32 the forward pass allocates nothing of the input's size.
"""

from __future__ import annotations

from typing import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from lip_mmdet.ops import formula
from lip_mmdet.ops.window import IntPair, Window, check_maps


def lip2d(
    x: Tensor,
    logit: Tensor,
    kernel_size: IntPair = 3,
    stride: IntPair = 2,
    padding: IntPair = 1,
) -> Tensor:
    """Pool ``x`` by the local importance ``exp(logit)`` (section 3.2, equation 2).

    A constant logit gives average pooling that leaves the padding out, ``logit = x`` SoftPool, and
    ``logit = c * x`` tends to max pooling as ``c`` grows (section 3.3).

    Args:
        x: input, (N, C, H, W), any floating dtype and memory format.
        logit: ``G(x)``, of ``x``'s shape; its floating dtype may differ from ``x``'s, as it does
            under autocast.
        kernel_size: window, an int or (height, width).
        stride: step of the window, an int or (height, width).
        padding: positions added on each side, an int or (height, width), at most half the window as
            in PyTorch's pools, so that each window holds at least one position of the input.

    Returns:
        (N, C, H', W') of ``x``'s dtype with ``H' = (H + 2 * padding - kernel_size) // stride + 1``.
        Arithmetic inside is in float32, or in float64 if either input is.

    Raises:
        InputError: the tensors are not 4-D, not floating or of different shapes or devices; or the
            window is empty, not covered by the padded input, or padded by more than half.
    """
    window = Window.parse(kernel_size, stride, padding)
    check_maps(x=x, logit=logit)
    window.check_fits(x)
    if formula.is_wanted(x):
        return formula.lip2d(x, logit, *window)
    return _LIP2d.apply(x, logit, window)


class _LIP2d(torch.autograd.Function):
    """LIP with the gradients written out: ``dO/dI_i = w_i`` and ``dO/dG_i = w_i (I_i - O)``.

    ``w_i`` is the normalized importance of a position in its window. Beside the inputs, three maps
    of the output's size, a quarter of the input's at stride 2, are kept: the output, each window's
    maximum and its total. Maximum and total stay apart because ``G_i - max`` is exact where the
    weight matters; subtracting their log-sum-exp would round each weight anew.
    """

    @staticmethod
    def forward(ctx, x: Tensor, logit: Tensor, window: Window) -> Tensor:
        values, g = _widen(x, logit)
        maximum = F.max_pool2d(g, *window)
        weighted = torch.zeros_like(maximum)
        total = torch.zeros_like(maximum)
        for inputs, outputs in _offsets(window, x, maximum):
            weight = (_at(g, inputs) - _at(maximum, outputs)).exp_()
            _at(total, outputs).add_(weight)
            _at(weighted, outputs).add_(weight.mul_(_at(values, inputs)))
        output = weighted.div_(total)
        ctx.window = window
        if not ctx.needs_input_grad[1]:
            ctx.save_for_backward(x, logit, None, maximum, total)
            return output.to(x.dtype)
        ctx.save_for_backward(x, logit, output, maximum, total)
        # A copy, for an in-place ReLU that follows would overwrite what backward needs.
        return output.to(x.dtype, copy=True)

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        formula.check_first_derivative()
        x, logit, output, maximum, total = ctx.saved_tensors
        values, g = _widen(x, logit)
        grad = grad_output.to(g.dtype) / total
        grad_x = torch.zeros_like(values) if ctx.needs_input_grad[0] else None
        grad_logit = torch.zeros_like(g) if ctx.needs_input_grad[1] else None
        for inputs, outputs in _offsets(ctx.window, x, maximum):
            share = (_at(g, inputs) - _at(maximum, outputs)).exp_().mul_(_at(grad, outputs))
            if grad_x is not None:
                _at(grad_x, inputs).add_(share)
            if grad_logit is not None:
                share.mul_(_at(values, inputs) - _at(output, outputs))
                _at(grad_logit, inputs).add_(share)
        return (
            None if grad_x is None else grad_x.to(x.dtype),
            None if grad_logit is None else grad_logit.to(logit.dtype),
            None,
        )


def _offsets(window: Window, x: Tensor, pooled: Tensor) -> Iterator[tuple]:
    """Yield, for each offset in a window, its positions in the map and the windows they are in."""
    rows, columns = (
        list(window.taps(axis, (0, x.shape[axis + 2]), (0, pooled.shape[axis + 2])))
        for axis in (0, 1)
    )
    for row_inputs, row_outputs in rows:
        for column_inputs, column_outputs in columns:
            yield (row_inputs, column_inputs), (row_outputs, column_outputs)


def _at(tensor: Tensor, slices: tuple[slice, slice]) -> Tensor:
    """View the positions of a map that the two slices pick."""
    return tensor[:, :, slices[0], slices[1]]


def _widen(x: Tensor, logit: Tensor) -> tuple[Tensor, Tensor]:
    """Take both to the dtype of the arithmetic: float64 if either has it, float32 otherwise."""
    dtype = torch.float64 if torch.float64 in (x.dtype, logit.dtype) else torch.float32
    return x.to(dtype), logit.to(dtype)
