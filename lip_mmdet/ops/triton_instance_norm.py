"""Instance normalization for GPUs, in Triton.

Statistics take one read: each program finds mean and squared differences of a chunk of a plane, and
a second, small kernel puts the chunks of each plane together (Chan, Golub and LeVeque, "Algorithms
for computing the sample variance", 1983). Another read applies them. Backward reads twice, for the
two sums over each plane and then for the gradient, and keeps nothing at full resolution.

Positions are walked over as they lie in memory, in steps of so many: a plane has one row for each
step and, in a row, the columns of the block. They are counted from the program's first, for those
of a whole plane, times its channels, may not fit 32 bits.
"""

from __future__ import annotations

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

# A row is a step. More of them leave fewer partial sums, and fewer programs.
BLOCK = dict(rows=8, contiguous=1024, channels_last=1024)
# Chunks and channels that are put together at once.
CHUNKS, CHUNK_CHANNELS = 1024, 4


@triton.jit(do_not_specialize=SIZES)
def _moments_kernel(
    raw,
    means,
    squares,
    channels,
    positions,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    steps = tl.cdiv(positions, COLUMNS)
    plane, chunk, first, column, channel = place(channels, steps, COLUMNS, ROWS, COLUMNS, CHANNELS)
    start = first * COLUMNS
    raw += (plane * positions + start) * channels
    # Differences from the first step's mean keep the digits that sums of squares would lose.
    member = (column < positions - start) & (channel < channels)
    values = tl.load(raw + column * channels + channel, member, 0.0).to(DTYPE)
    guess = tl.sum(values, 0)[None, :] / tl.minimum(positions - start, COLUMNS).to(DTYPE)
    offsets = tl.zeros((COLUMNS, CHANNELS), DTYPE)
    offset_squares = tl.zeros((COLUMNS, CHANNELS), DTYPE)
    for step in range(0, ROWS):
        position = step * COLUMNS + column
        member = (position < positions - start) & (channel < channels)
        values = tl.load(raw + position * channels + channel, member, 0.0).to(DTYPE)
        offset = tl.where(member, values - guess, 0.0)
        offsets += offset
        offset_squares += offset * offset
    size = tl.minimum(positions - start, ROWS * COLUMNS).to(DTYPE)
    offset = tl.sum(offsets, 0)[None, :] / size
    chunk_at = (plane * tl.cdiv(steps, ROWS) + chunk) * channels + channel
    tl.store(means + chunk_at, guess + offset, channel < channels)
    square = tl.sum(offset_squares, 0)[None, :] - offset * offset * size
    # Of equal values the difference may round to less than nothing.
    tl.store(squares + chunk_at, tl.maximum(square, 0.0), channel < channels)


@triton.jit(do_not_specialize=SIZES)
def _join_kernel(
    means,
    squares,
    mean,
    rstd,
    channels,
    positions,
    chunks,
    EPS: tl.constexpr,
    DTYPE: tl.constexpr,
    SIZE: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    blocks = tl.cdiv(channels, CHANNELS)
    plane = (tl.program_id(0) // blocks).to(tl.int64)
    channel = (tl.program_id(0) % blocks) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    means += plane * chunks * channels
    squares += plane * chunks * channels
    total = tl.zeros((CHUNKS, CHANNELS), DTYPE)
    # Before Triton 3.9 its interpreter knows no `range` up to an argument.
    first = chunks * 0
    while first < chunks:
        chunk = first + tl.arange(0, CHUNKS)[:, None]
        member = (chunk < chunks) & (channel < channels)
        count = tl.minimum(positions - chunk * SIZE, SIZE).to(DTYPE)
        total += count * tl.load(means + chunk * channels + channel, member, 0.0)
        first += CHUNKS
    average = tl.sum(total, 0)[None, :] / positions.to(DTYPE)
    total = tl.zeros((CHUNKS, CHANNELS), DTYPE)
    first = chunks * 0
    while first < chunks:
        chunk = first + tl.arange(0, CHUNKS)[:, None]
        member = (chunk < chunks) & (channel < channels)
        count = tl.minimum(positions - chunk * SIZE, SIZE).to(DTYPE)
        offset = tl.load(means + chunk * channels + channel, member, 0.0) - average
        square = tl.load(squares + chunk * channels + channel, member, 0.0)
        total += tl.where(member, square + count * offset * offset, 0.0)
        first += CHUNKS
    variance = tl.sum(total, 0)[None, :] / positions.to(DTYPE)
    # One position is its own mean: no difference from it may grow, nor a gradient pass.
    inverse = tl.where(positions > 1, 1.0 / tl.sqrt(variance + EPS), 0.0)
    at = plane * channels + channel
    tl.store(mean + at, average, channel < channels)
    tl.store(rstd + at, inverse, channel < channels)


@triton.jit
def load_figures(
    mean, rstd, weight, bias, plane, channel, channels, all_channels, DTYPE: tl.constexpr
):
    """Return mean, ``rstd``, weight and bias of a program's channels, (1, CHANNELS)."""
    at = plane * channels + channel
    member = channel < channels
    return (
        tl.load(mean + at, member, 0.0).to(DTYPE),
        tl.load(rstd + at, member, 0.0).to(DTYPE),
        tl.load(weight + at % all_channels, member, 0.0).to(DTYPE),
        tl.load(bias + at % all_channels, member, 0.0).to(DTYPE),
    )


@triton.jit(do_not_specialize=SIZES)
def _normalize_kernel(
    raw,
    mean,
    rstd,
    weight,
    bias,
    output,
    channels,
    all_channels,
    positions,
    RELU: tl.constexpr,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    steps = tl.cdiv(positions, COLUMNS)
    plane, _, first, column, channel = place(channels, steps, COLUMNS, ROWS, COLUMNS, CHANNELS)
    centre, inverse, factor, shift = load_figures(
        mean, rstd, weight, bias, plane, channel, channels, all_channels, DTYPE
    )
    start = first * COLUMNS
    raw += (plane * positions + start) * channels
    output += (plane * positions + start) * channels
    for step in range(0, ROWS):
        position = step * COLUMNS + column
        member = (position < positions - start) & (channel < channels)
        values = tl.load(raw + position * channels + channel, member, 0.0).to(DTYPE)
        values = (values - centre) * (inverse * factor) + shift
        if RELU:
            # Not `tl.maximum`, which makes a zero of NaN.
            values = tl.where(values < 0, 0.0, values)
        tl.store(output + position * channels + channel, values.to(output.dtype.element_ty), member)


@triton.jit
def _load_gradient(
    grad_output,
    raw,
    member,
    centre,
    inverse,
    factor,
    shift,
    RELU: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Return the normalized map and its gradient, 0 where ReLU was shut."""
    normalized = (tl.load(raw, member, 0.0).to(DTYPE) - centre) * inverse
    grad = tl.load(grad_output, member, 0.0).to(DTYPE)
    if RELU:
        grad = tl.where(normalized * factor + shift > 0, grad, 0.0)
    return normalized, grad


@triton.jit(do_not_specialize=SIZES)
def _sums_kernel(
    grad_output,
    raw,
    mean,
    rstd,
    weight,
    bias,
    sums,
    products,
    channels,
    all_channels,
    positions,
    RELU: tl.constexpr,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    steps = tl.cdiv(positions, COLUMNS)
    plane, chunk, first, column, channel = place(channels, steps, COLUMNS, ROWS, COLUMNS, CHANNELS)
    centre, inverse, factor, shift = load_figures(
        mean, rstd, weight, bias, plane, channel, channels, all_channels, DTYPE
    )
    start = first * COLUMNS
    raw += (plane * positions + start) * channels
    grad_output += (plane * positions + start) * channels
    sum_ = tl.zeros((COLUMNS, CHANNELS), DTYPE)
    product = tl.zeros((COLUMNS, CHANNELS), DTYPE)
    for step in range(0, ROWS):
        position = step * COLUMNS + column
        member = (position < positions - start) & (channel < channels)
        at = position * channels + channel
        normalized, grad = _load_gradient(
            grad_output + at, raw + at, member, centre, inverse, factor, shift, RELU, DTYPE
        )
        sum_ += grad
        product += grad * normalized
    chunk_at = (plane * tl.cdiv(steps, ROWS) + chunk) * channels + channel
    tl.store(sums + chunk_at, tl.sum(sum_, 0)[None, :], channel < channels)
    tl.store(products + chunk_at, tl.sum(product, 0)[None, :], channel < channels)


@triton.jit(do_not_specialize=SIZES)
def _gradient_kernel(
    grad_output,
    raw,
    mean,
    rstd,
    weight,
    bias,
    sums,
    products,
    grad_raw,
    channels,
    all_channels,
    positions,
    RELU: tl.constexpr,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    steps = tl.cdiv(positions, COLUMNS)
    plane, _, first, column, channel = place(channels, steps, COLUMNS, ROWS, COLUMNS, CHANNELS)
    centre, inverse, factor, shift = load_figures(
        mean, rstd, weight, bias, plane, channel, channels, all_channels, DTYPE
    )
    map_at = plane * channels + channel
    count = positions.to(DTYPE)
    average = tl.load(sums + map_at, channel < channels, 0.0).to(DTYPE) / count
    slope = tl.load(products + map_at, channel < channels, 0.0).to(DTYPE) / count
    start = first * COLUMNS
    raw += (plane * positions + start) * channels
    grad_output += (plane * positions + start) * channels
    grad_raw += (plane * positions + start) * channels
    for step in range(0, ROWS):
        position = step * COLUMNS + column
        member = (position < positions - start) & (channel < channels)
        at = position * channels + channel
        normalized, grad = _load_gradient(
            grad_output + at, raw + at, member, centre, inverse, factor, shift, RELU, DTYPE
        )
        grad = (grad - average - normalized * slope) * (inverse * factor)
        tl.store(grad_raw + at, grad.to(grad_raw.dtype.element_ty), member)


def statistics(raw: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the mean and ``1 / sqrt(variance + eps)`` of each map, (N, C); 0 of one position.

    Args:
        raw: (N, C, H, W), dense in either memory format.
        eps: added to the variance.
    """
    block, steps = _block(raw)
    chunks = chunk_count(steps, block['COLUMNS'], block)
    planes, channels = planes_and_channels(raw)
    dtype = _wide(raw)
    means, squares = partial_sums(raw, chunks, dtype)
    mean, rstd = (raw.new_zeros(raw.shape[:2], dtype=dtype) for _ in range(2))
    if raw.numel() == 0:
        return mean, rstd
    sizes = channels, raw.shape[2] * raw.shape[3]
    joined = min(block['CHANNELS'], CHUNK_CHANNELS)
    with torch.cuda.device_of(raw):
        _moments_kernel[grid(raw, steps, block['COLUMNS'], block)](
            raw, means, squares, *sizes, DTYPE=DTYPES[dtype], **block
        )
        _join_kernel[(planes * triton.cdiv(channels, joined),)](
            means,
            squares,
            mean,
            rstd,
            *sizes,
            chunks,
            EPS=eps,
            DTYPE=DTYPES[dtype],
            SIZE=block['ROWS'] * block['COLUMNS'],
            CHUNKS=CHUNKS,
            CHANNELS=joined,
        )
    return mean, rstd


def normalize(
    raw: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    bias: Tensor,
    relu: bool,
    output: Tensor,
) -> None:
    """Fill in ``output``, which may be ``raw``.

    Args:
        raw: (N, C, H, W), dense in the memory format that all maps share.
        mean: (N, C), as :func:`statistics` gives it.
        rstd: likewise.
        weight: (C,).
        bias: (C,).
        relu: rectify the result.
        output: of ``raw``'s shape.
    """
    _walk(_normalize_kernel, raw, mean, rstd, weight, bias, output, like=raw, relu=relu)


def gradient_sums(
    grad_output: Tensor,
    raw: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    bias: Tensor,
    relu: bool,
) -> Tensor:
    """Return the sums over each map of the gradient, and of it times the normalized map: (2, N, C).

    Arguments as in :func:`normalize`; ``grad_output`` lies in the memory format of ``raw``.
    """
    block, steps = _block(raw)
    partial = partial_sums(raw, chunk_count(steps, block['COLUMNS'], block), _wide(raw))
    maps = grad_output, raw, mean, rstd, weight, bias
    _walk(_sums_kernel, *maps, *partial, like=raw, relu=relu)
    return join(partial, raw)


def gradient(
    grad_output: Tensor,
    raw: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    bias: Tensor,
    relu: bool,
    sums: Tensor,
    grad_raw: Tensor,
) -> None:
    """Fill in ``grad_raw``, which may be ``grad_output``.

    It is ``rstd * weight * (grad - mean(grad) - normalized * mean(grad * normalized))``. Arguments
    as in :func:`gradient_sums`, whose result ``sums`` is.
    """
    maps = grad_output, raw, mean, rstd, weight, bias
    _walk(_gradient_kernel, *maps, *sums, grad_raw, like=raw, relu=relu)


def _walk(kernel, *tensors: Tensor, like: Tensor, relu: bool) -> None:
    """Run a kernel over all positions of maps of one shape."""
    if like.numel() == 0:
        return
    block, steps = _block(like)
    channels = planes_and_channels(like)[1]
    sizes = channels, like.shape[1], like.shape[2] * like.shape[3]
    with torch.cuda.device_of(like):
        kernel[grid(like, steps, block['COLUMNS'], block)](
            *tensors, *sizes, RELU=relu, DTYPE=DTYPES[_wide(like)], **block
        )


def _block(x: Tensor) -> tuple[dict[str, int], int]:
    """Return the block of a program, and how many steps a plane takes."""
    block = block_shape(x, **BLOCK)
    return block, triton.cdiv(x.shape[2] * x.shape[3], block['COLUMNS'])


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
