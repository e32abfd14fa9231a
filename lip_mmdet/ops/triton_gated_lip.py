"""Gated LIP for GPUs, in Triton: one kernel forward and one backward, after the statistics.

Forward, each program computes some rows of outputs. Windows of neighbouring rows share a row of the
input where they overlap by one: its sums are carried over, so that a 3x3 window with stride 2
computes six weights and not nine. Backward, each program takes *cells*, as many rows and columns as
the stride each: all positions at one place of their cells gather from windows at the same offsets,
so that no position looks for its windows. Nothing is added atomically, and results repeat.

The exponents are powers of two: with ``e = 2^(-z log2(e))`` the weight is
``2^(c log2(e) (1 / (1 + e) - 1 / 2))``.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from lip_mmdet.ops.triton_blocks import (
    DTYPES,
    SIZES,
    block_shape,
    chunk_count,
    grid,
    join,
    partial_sums,
    place,
    planes_and_channels,
)
from lip_mmdet.ops.triton_instance_norm import load_figures
from lip_mmdet.ops.window import Window

LOG2_E = tl.constexpr(math.log2(math.e))
# Read off the instructions that they compile to: blocks of a contiguous map are narrow, for narrow
# maps; in channels_last each thread has two channels to load at once, and registers enough.
FORWARD_BLOCK = dict(rows=8, contiguous=64, channels_last=256)
BACKWARD_BLOCK = dict(rows=4, contiguous=64, channels_last=256)


@triton.jit
def _gate(raw, centre, scale, shift, COEFFICIENT: tl.constexpr):
    """Return the sigmoid of the normalized logit, and the weight around 1 that it gives."""
    sigmoid = 1.0 / (1.0 + tl.exp2((raw - centre) * scale + shift))
    return sigmoid, tl.exp2(sigmoid * (COEFFICIENT * LOG2_E) - COEFFICIENT * LOG2_E / 2)


@triton.jit
def _row_sums(
    x,
    raw,
    row,
    height,
    width,
    column,
    channel,
    channels,
    exists,
    centre,
    scale,
    shift,
    COEFFICIENT: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PADDING_W: tl.constexpr,
    DTYPE: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Sum weights, and weighted inputs, over one row of each window."""
    weights = tl.zeros((COLUMNS, CHANNELS), DTYPE)
    weighted = tl.zeros((COLUMNS, CHANNELS), DTYPE)
    line = row.to(tl.int64) * width * channels
    # A row of the padding has no columns.
    stop = tl.where((row >= 0) & (row < height), width, 0)
    for j in tl.static_range(KERNEL_W):
        at_column = column * STRIDE_W + (j - PADDING_W)
        member = exists & (at_column >= 0) & (at_column < stop)
        at = at_column * channels + channel
        logit = tl.load(raw + line + at, member, 0.0).to(DTYPE)
        _, weight = _gate(logit, centre, scale, shift, COEFFICIENT)
        weight = tl.where(member, weight, 0.0)
        weights += weight
        weighted += weight * tl.load(x + line + at, member, 0.0).to(DTYPE)
    return weights, weighted


@triton.jit(do_not_specialize=SIZES)
def _forward_kernel(
    x,
    raw,
    mean,
    rstd,
    weight,
    bias,
    output,
    average,
    total,
    channels,
    all_channels,
    height,
    width,
    out_height,
    out_width,
    COEFFICIENT: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PADDING_H: tl.constexpr,
    PADDING_W: tl.constexpr,
    TRAINING: tl.constexpr,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    plane, _, first, column, channel = place(
        channels, out_height, out_width, ROWS, COLUMNS, CHANNELS
    )
    centre, inverse, factor, shift = load_figures(
        mean, rstd, weight, bias, plane, channel, channels, all_channels, DTYPE
    )
    scale = -LOG2_E * inverse * factor
    shift = -LOG2_E * shift
    exists = (column < out_width) & (channel < channels)
    x += plane * height * width * channels
    raw += plane * height * width * channels
    results = plane * out_height * out_width * channels
    SHARED: tl.constexpr = KERNEL_H == STRIDE_H + 1
    weights = tl.zeros((COLUMNS, CHANNELS), DTYPE)
    weighted = tl.zeros((COLUMNS, CHANNELS), DTYPE)
    if SHARED:
        weights, weighted = _row_sums(
            x, raw, first * STRIDE_H - PADDING_H, height, width,
            column, channel, channels, exists, centre, scale, shift, COEFFICIENT,
            KERNEL_W, STRIDE_W, PADDING_W, DTYPE, COLUMNS, CHANNELS,
        )  # fmt: skip
    for step in range(0, ROWS):
        out_row = first + step
        last_weights = tl.zeros((COLUMNS, CHANNELS), DTYPE)
        last_weighted = tl.zeros((COLUMNS, CHANNELS), DTYPE)
        for i in tl.static_range(1 if SHARED else 0, KERNEL_H):
            last_weights, last_weighted = _row_sums(
                x, raw, out_row * STRIDE_H - PADDING_H + i, height, width,
                column, channel, channels, exists, centre, scale, shift, COEFFICIENT,
                KERNEL_W, STRIDE_W, PADDING_W, DTYPE, COLUMNS, CHANNELS,
            )  # fmt: skip
            weights += last_weights
            weighted += last_weighted
        value = weighted / tl.where(exists, weights, 1.0)
        at = results + out_row.to(tl.int64) * out_width * channels + column * channels + channel
        wanted = column < tl.where(out_row < out_height, out_width, 0)
        wanted = wanted & (channel < channels)
        tl.store(output + at, value.to(output.dtype.element_ty), wanted)
        if TRAINING:
            tl.store(average + at, value, wanted)
            tl.store(total + at, weights, wanted)
        # What the next row's windows begin with: the row they share with these, or nothing.
        if SHARED:
            weights = last_weights
            weighted = last_weighted
        else:
            weights = tl.zeros((COLUMNS, CHANNELS), DTYPE)
            weighted = tl.zeros((COLUMNS, CHANNELS), DTYPE)


@triton.jit(do_not_specialize=SIZES)
def _backward_kernel(
    grad_output,
    average,
    total,
    x,
    raw,
    mean,
    rstd,
    weight,
    bias,
    grad_x,
    grad_z,
    sums,
    products,
    channels,
    all_channels,
    height,
    width,
    out_height,
    out_width,
    COEFFICIENT: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PADDING_H: tl.constexpr,
    PADDING_W: tl.constexpr,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    cell_rows = tl.cdiv(height, STRIDE_H)
    cell_columns = tl.cdiv(width, STRIDE_W)
    plane, chunk, first, cell_column, channel = place(
        channels, cell_rows, cell_columns, ROWS, COLUMNS, CHANNELS
    )
    centre, inverse, factor, shift = load_figures(
        mean, rstd, weight, bias, plane, channel, channels, all_channels, DTYPE
    )
    scale = -LOG2_E * inverse * factor
    shift = -LOG2_E * shift
    maps = plane * height * width * channels
    grad_output += plane * out_height * out_width * channels
    average += plane * out_height * out_width * channels
    total += plane * out_height * out_width * channels
    sum_ = tl.zeros((COLUMNS, CHANNELS), DTYPE)
    product = tl.zeros((COLUMNS, CHANNELS), DTYPE)
    for step in range(0, ROWS):
        cell_row = first + step
        for p in tl.static_range(STRIDE_H):
            for q in tl.static_range(STRIDE_W):
                a = tl.zeros((COLUMNS, CHANNELS), DTYPE)
                b = tl.zeros((COLUMNS, CHANNELS), DTYPE)
                for i in tl.static_range(KERNEL_H):
                    for j in tl.static_range(KERNEL_W):
                        # The stride leads from this place in its cell to member (i, j), or not.
                        down = p + PADDING_H - i
                        right = q + PADDING_W - j
                        if (down % STRIDE_H == 0) & (right % STRIDE_W == 0):
                            out_row = cell_row + down // STRIDE_H
                            out_column = cell_column + right // STRIDE_W
                            inside = (out_row >= 0) & (out_row < out_height)
                            holds = (out_column >= 0) & (
                                out_column < tl.where(inside, out_width, 0)
                            )
                            holds = holds & (channel < channels)
                            at = out_row.to(tl.int64) * out_width * channels
                            at = at + (out_column * channels + channel)
                            share = tl.load(grad_output + at, holds, 0.0).to(DTYPE)
                            share = share / tl.load(total + at, holds, 1.0)
                            a += share
                            b += share * tl.load(average + at, holds, 0.0)
                row = cell_row * STRIDE_H + p
                column = cell_column * STRIDE_W + q
                exists = (column < tl.where(row < height, width, 0)) & (channel < channels)
                at = maps + row.to(tl.int64) * width * channels + (column * channels + channel)
                logit = tl.load(raw + at, exists, 0.0).to(DTYPE)
                sigmoid, importance = _gate(logit, centre, scale, shift, COEFFICIENT)
                value = tl.load(x + at, exists, 0.0).to(DTYPE)
                tl.store(grad_x + at, (importance * a).to(grad_x.dtype.element_ty), exists)
                grad = importance * (value * a - b) * (COEFFICIENT * sigmoid * (1.0 - sigmoid))
                tl.store(grad_z + at, grad, exists)
                grad = tl.where(exists, grad, 0.0)
                sum_ += grad
                product += grad * ((logit - centre) * inverse)
    cuts = tl.cdiv(cell_rows, ROWS) * tl.cdiv(cell_columns, COLUMNS)
    chunk_at = (plane * cuts + chunk) * channels + channel
    tl.store(sums + chunk_at, tl.sum(sum_, 0)[None, :], channel < channels)
    tl.store(products + chunk_at, tl.sum(product, 0)[None, :], channel < channels)


def forward(
    x: Tensor,
    raw: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    bias: Tensor,
    coefficient: float,
    window: Window,
    output: Tensor,
    average: Tensor,
    total: Tensor,
) -> None:
    """Fill in ``output`` and, unless they are empty, ``average`` and ``total``.

    Arguments as in :func:`lip_mmdet.ops.gated_lip.pool_in_tiles`, all dense.
    """
    if output.numel() == 0:
        return
    training = average.numel() > 0
    dtype = torch.promote_types(torch.promote_types(x.dtype, raw.dtype), torch.float32)
    block = block_shape(x, **FORWARD_BLOCK)
    kept = (average, total) if training else (output, output)
    with torch.cuda.device_of(x):
        _forward_kernel[grid(x, *output.shape[2:], block)](
            x,
            raw,
            mean,
            rstd,
            weight,
            bias,
            output,
            *kept,
            *_sizes(x, output),
            COEFFICIENT=coefficient,
            **_geometry(window),
            TRAINING=training,
            DTYPE=DTYPES[dtype],
            **block,
        )


def backward(
    grad_output: Tensor,
    average: Tensor,
    total: Tensor,
    x: Tensor,
    raw: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    bias: Tensor,
    coefficient: float,
    window: Window,
    grad_x: Tensor,
    grad_z: Tensor,
) -> Tensor:
    """Fill in ``grad_x`` and ``grad_z``, the gradient of the normalized, scaled and shifted logit.

    Arguments as in :func:`forward`; ``grad_z`` is float32 or float64.

    Returns:
        The sums over each map of ``grad_z``, and of it times the normalized logit: (2, N, C).
    """
    rows, columns = (triton.cdiv(n, s) for n, s in zip(x.shape[2:], window.stride))
    block = block_shape(x, **BACKWARD_BLOCK)
    partial = partial_sums(x, chunk_count(rows, columns, block), grad_z.dtype)
    if x.numel() > 0:
        with torch.cuda.device_of(x):
            _backward_kernel[grid(x, rows, columns, block)](
                grad_output,
                average,
                total,
                x,
                raw,
                mean,
                rstd,
                weight,
                bias,
                grad_x,
                grad_z,
                *partial,
                *_sizes(x, average),
                COEFFICIENT=coefficient,
                **_geometry(window),
                DTYPE=DTYPES[grad_z.dtype],
                **block,
            )
    return join(partial, x)


def _sizes(x: Tensor, pooled: Tensor) -> tuple:
    return (planes_and_channels(x)[1], *x.shape[1:], *pooled.shape[2:])


def _geometry(window: Window) -> dict[str, int]:
    names = (
        'KERNEL_H', 'KERNEL_W', 'STRIDE_H', 'STRIDE_W', 'PADDING_H', 'PADDING_W',
    )  # fmt: skip
    return dict(zip(names, (v for pair in window for v in pair)))
