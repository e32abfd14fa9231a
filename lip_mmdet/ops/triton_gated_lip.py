"""Gated LIP for GPUs, in Triton: one kernel forward, one backward, no atomics.

Forward, each program computes a block of outputs and reads the windows of both maps; neighbouring
windows share their rows in the GPU's caches. Backward, each program computes a block of input
positions, and each position gathers from the windows that hold it. Statistics and the two sums of
normalization's gradient stay with PyTorch. Sizes are plain arguments that nothing is specialized
on: an image of another shape compiles nothing anew; a window, a dtype or a memory format does.
"""

# Annotations are evaluated here: Triton 3.1's interpreter does not see `tl.constexpr` in strings.
from typing import Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from lip_mmdet.ops.window import Window

BLOCK = 512
SIZES = ['channels', 'height', 'width', 'out_height', 'out_width', 'count']


@triton.jit
def _locate(index, channels, height, width, CHANNELS_LAST: tl.constexpr):
    """Turn an index into a map's memory into plane, row and column."""
    if CHANNELS_LAST:
        channel = index % channels
        rest = index // channels
        column = rest % width
        rest = rest // width
        row = rest % height
        plane = (rest // height) * channels + channel
    else:
        column = index % width
        rest = index // width
        row = rest % height
        plane = rest // height
    return plane, row, column


@triton.jit
def _address(plane, row, column, channels, height, width, CHANNELS_LAST: tl.constexpr):
    """Turn plane, row and column into an index into a map's memory."""
    if CHANNELS_LAST:
        image = plane // channels
        return ((image * height + row) * width + column) * channels + plane % channels
    return (plane * height + row) * width + column


@triton.jit(do_not_specialize=SIZES)
def _forward_kernel(
    x,
    raw,
    scale,
    shift,
    output,
    average,
    total,
    channels,
    height,
    width,
    out_height,
    out_width,
    count,
    coefficient,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PADDING_H: tl.constexpr,
    PADDING_W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    TRAINING: tl.constexpr,
    DTYPE: tl.constexpr,
    SIZE: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    exists = index < count
    plane, out_row, out_column = _locate(index, channels, out_height, out_width, CHANNELS_LAST)
    a = tl.load(scale + plane, exists, 0.0).to(DTYPE)
    b = tl.load(shift + plane, exists, 0.0).to(DTYPE)
    weighted = tl.zeros((SIZE,), DTYPE)
    weights = tl.zeros((SIZE,), DTYPE)
    for i in tl.static_range(KERNEL_H):
        for j in tl.static_range(KERNEL_W):
            row = out_row * STRIDE_H - PADDING_H + i
            column = out_column * STRIDE_W - PADDING_W + j
            member = exists & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            at = _address(plane, row, column, channels, height, width, CHANNELS_LAST)
            half = tl.load(raw + at, member, 0.0).to(DTYPE) * a + b
            gate = 2.0 / (1.0 + tl.exp(-2.0 * half)) - 1.0
            weight = tl.where(member, tl.exp(gate * coefficient * 0.5), 0.0)
            weights += weight
            weighted += weight * tl.load(x + at, member, 0.0).to(DTYPE)
    value = weighted / tl.where(exists, weights, 1.0)
    tl.store(output + index, value.to(output.dtype.element_ty), exists)
    if TRAINING:
        tl.store(average + index, value, exists)
        tl.store(total + index, weights, exists)


@triton.jit(do_not_specialize=SIZES)
def _backward_kernel(
    grad_output,
    average,
    total,
    x,
    raw,
    scale,
    shift,
    grad_x,
    grad_z,
    channels,
    height,
    width,
    out_height,
    out_width,
    count,
    coefficient,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PADDING_H: tl.constexpr,
    PADDING_W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    DTYPE: tl.constexpr,
    SIZE: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    exists = index < count
    plane, row, column = _locate(index, channels, height, width, CHANNELS_LAST)
    a = tl.zeros((SIZE,), DTYPE)
    b = tl.zeros((SIZE,), DTYPE)
    for i in tl.static_range(KERNEL_H):
        for j in tl.static_range(KERNEL_W):
            # The window that holds this position at offset (i, j), if there is one.
            down = row + PADDING_H - i
            right = column + PADDING_W - j
            out_row = down // STRIDE_H
            out_column = right // STRIDE_W
            holds = exists & (down >= 0) & (down % STRIDE_H == 0) & (out_row < out_height)
            holds = holds & (right >= 0) & (right % STRIDE_W == 0) & (out_column < out_width)
            at = _address(
                plane, out_row, out_column, channels, out_height, out_width, CHANNELS_LAST
            )
            share = tl.load(grad_output + at, holds, 0.0).to(DTYPE)
            share = share / tl.load(total + at, holds, 1.0)
            a += share
            b += share * tl.load(average + at, holds, 0.0)
    half = tl.load(raw + index, exists, 0.0).to(DTYPE) * tl.load(scale + plane, exists, 0.0)
    half += tl.load(shift + plane, exists, 0.0)
    gate = 2.0 / (1.0 + tl.exp(-2.0 * half)) - 1.0
    weight = tl.exp(gate * coefficient * 0.5)
    value = tl.load(x + index, exists, 0.0).to(DTYPE)
    tl.store(grad_x + index, (weight * a).to(grad_x.dtype.element_ty), exists)
    tl.store(grad_z + index, weight * (value * a - b) * (1.0 - gate * gate), exists)


def forward(
    x: Tensor,
    raw: Tensor,
    scale: Tensor,
    shift: Tensor,
    coefficient: float,
    window: Window,
    output: Tensor,
    average: Tensor,
    total: Tensor,
) -> None:
    """Fill in ``output`` and, unless they are empty, ``average`` and ``total``.

    Args:
        x: (N, C, H, W) map to pool, in the memory format that all maps share.
        raw: the raw logit, of its shape.
        scale: of half the normalized logit ``raw * scale + shift``, one for each plane.
        shift: likewise.
        coefficient: the soft gate's.
        window: geometry.
        output: (N, C, H', W').
        average: the same in float32 or float64, for backward.
        total: sums of the weights, for backward.
    """
    if output.numel() == 0:
        return
    training = average.numel() > 0
    dtype = torch.promote_types(torch.promote_types(x.dtype, raw.dtype), torch.float32)
    _forward_kernel[(triton.cdiv(output.numel(), BLOCK),)](
        x,
        raw,
        scale.contiguous(),
        shift.contiguous(),
        output,
        average if training else output,
        total if training else output,
        *_sizes(x, output),
        output.numel(),
        coefficient,
        *_geometry(window),
        CHANNELS_LAST=_channels_last(x),
        TRAINING=training,
        DTYPE=_DTYPES[dtype],
        SIZE=BLOCK,
    )


def backward(
    grad_output: Tensor,
    average: Tensor,
    total: Tensor,
    x: Tensor,
    raw: Tensor,
    scale: Tensor,
    shift: Tensor,
    coefficient: float,
    window: Window,
    grad_x: Tensor,
    grad_z: Tensor,
) -> None:
    """Fill in ``grad_x`` and ``grad_z``, the logit's without the factor ``coefficient / 4``.

    Arguments as in :func:`forward`; ``grad_z`` is float32 or float64.
    """
    if x.numel() == 0:
        return
    _backward_kernel[(triton.cdiv(x.numel(), BLOCK),)](
        grad_output,
        average,
        total,
        x,
        raw,
        scale.contiguous(),
        shift.contiguous(),
        grad_x,
        grad_z,
        *_sizes(x, average),
        x.numel(),
        coefficient,
        *_geometry(window),
        CHANNELS_LAST=_channels_last(x),
        DTYPE=_DTYPES[grad_z.dtype],
        SIZE=BLOCK,
    )


_DTYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


def _channels_last(x: Tensor) -> bool:
    return not x.is_contiguous()


def _sizes(x: Tensor, pooled: Tensor) -> Tuple[int, ...]:
    return (*x.shape[1:], *pooled.shape[2:])


def _geometry(window: Window) -> Tuple[int, ...]:
    return tuple(v for pair in window for v in pair)
