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

from typing import Iterator, NamedTuple, Sequence, Union

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

IntPair = Union[int, Sequence[int]]


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
        ValueError: the tensors are not 4-D, not floating or of different shapes or devices; or the
            window is empty, not covered by the padded input, or padded by more than half.
    """
    window = _Window.parse(kernel_size, stride, padding)
    _check_tensors(x, logit)
    window.check_fits(x)
    return _LIP2d.apply(x, logit, window)


class _Slices(NamedTuple):
    """Where the members of all windows at one offset lie."""

    inputs: tuple[slice, slice]
    outputs: tuple[slice, slice]


class _Window(NamedTuple):
    """Geometry of the windows, each field a (height, width) pair."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    @classmethod
    def parse(cls, kernel_size: IntPair, stride: IntPair, padding: IntPair) -> _Window:
        window = cls(
            _pair('kernel_size', kernel_size, least=1),
            _pair('stride', stride, least=1),
            _pair('padding', padding, least=0),
        )
        if any(p > k // 2 for p, k in zip(window.padding, window.kernel_size)):
            raise ValueError(
                f'padding {window.padding} is more than half of kernel_size {window.kernel_size}: '
                'some windows would hold padding only'
            )
        return window

    def check_fits(self, x: Tensor) -> None:
        padded = tuple(n + 2 * p for n, p in zip(x.shape[2:], self.padding))
        if min(x.shape[2:]) < 1 or any(n < k for n, k in zip(padded, self.kernel_size)):
            raise ValueError(
                f'kernel_size {self.kernel_size} does not fit input of shape {tuple(x.shape)} with '
                f'padding {self.padding}'
            )

    def offsets(self, size: Sequence[int], out_size: Sequence[int]) -> Iterator[_Slices]:
        """Yield, for each offset in the window, its input positions and the outputs they go to."""
        rows, columns = (
            [self._axis(axis, k, size[axis], out_size[axis]) for k in range(self.kernel_size[axis])]
            for axis in (0, 1)
        )
        for row_inputs, row_outputs in rows:
            for column_inputs, column_outputs in columns:
                yield _Slices((row_inputs, column_inputs), (row_outputs, column_outputs))

    def _axis(self, axis: int, offset: int, size: int, out_size: int) -> tuple[slice, slice]:
        stride, shift = self.stride[axis], offset - self.padding[axis]
        first = max(0, -(shift // stride))  # first output whose member is not left of the input
        last = min(out_size - 1, (size - 1 - shift) // stride)  # last one not right of it
        stop = max(first, last + 1)
        start = first * stride + shift
        return slice(start, start + (stop - first) * stride, stride), slice(first, stop)


class _LIP2d(torch.autograd.Function):
    """LIP with the gradients written out: ``dO/dI_i = w_i`` and ``dO/dG_i = w_i (I_i - O)``.

    ``w_i`` is the normalized importance of a position in its window. Beside the inputs, three maps
    of the output's size, a quarter of the input's at stride 2, are kept: the output, each window's
    maximum and its total. Maximum and total stay apart because ``G_i - max`` is exact where the
    weight matters; subtracting their log-sum-exp would round each weight anew.
    """

    @staticmethod
    def forward(ctx, x: Tensor, logit: Tensor, window: _Window) -> Tensor:
        values, g = _widen(x, logit)
        maximum = F.max_pool2d(g, *window)
        weighted = torch.zeros_like(maximum)
        total = torch.zeros_like(maximum)
        for inputs, outputs in window.offsets(x.shape[2:], maximum.shape[2:]):
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
    @once_differentiable
    def backward(ctx, grad_output: Tensor):
        x, logit, output, maximum, total = ctx.saved_tensors
        values, g = _widen(x, logit)
        grad = grad_output.to(g.dtype) / total
        grad_x = torch.zeros_like(values) if ctx.needs_input_grad[0] else None
        grad_logit = torch.zeros_like(g) if ctx.needs_input_grad[1] else None
        for inputs, outputs in ctx.window.offsets(x.shape[2:], maximum.shape[2:]):
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


def _at(tensor: Tensor, slices: tuple[slice, slice]) -> Tensor:
    """View the positions of a map that the two slices pick."""
    return tensor[:, :, slices[0], slices[1]]


def _widen(x: Tensor, logit: Tensor) -> tuple[Tensor, Tensor]:
    """Take both to the dtype of the arithmetic: float64 if either has it, float32 otherwise."""
    dtype = torch.float64 if torch.float64 in (x.dtype, logit.dtype) else torch.float32
    return x.to(dtype), logit.to(dtype)


def _pair(name: str, value: IntPair, least: int) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= least for v in pair):
        raise ValueError(
            f'{name} must be an int or a pair of ints of at least {least}, not {value!r}'
        )
    return pair


def _check_tensors(x: Tensor, logit: Tensor) -> None:
    if x.dim() != 4 or x.shape != logit.shape:
        raise ValueError(
            f'x and logit must both be (N, C, H, W), not {tuple(x.shape)} and {tuple(logit.shape)}'
        )
    if not (x.is_floating_point() and logit.is_floating_point()):
        raise ValueError(f'x and logit must be floating point, not {x.dtype} and {logit.dtype}')
    if x.device != logit.device:
        raise ValueError(f'x and logit must be on one device, not {x.device} and {logit.device}')
