"""How kernels walk over maps: one program, one block of neighbouring columns and channels.

Both memory formats take the same path. A contiguous map is seen as ``N * C`` planes of one channel,
a channels_last map as ``N`` planes of ``C`` channels that lie beside each other; either way
neighbours in a block are neighbours in memory. The figures of normalization are (N, C), which is
planes by channels in both.

Heights and widths are plain arguments that nothing is specialized on: an image of another shape
compiles nothing anew; a window, a dtype, a memory format or a number of channels may.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lip_mmdet.ops.tiles import is_channels_last

SIZES = ['all_channels', 'height', 'width', 'out_height', 'out_width', 'positions', 'chunks']
DTYPES = {torch.float32: tl.float32, torch.float64: tl.float64}
LARGEST_CHANNEL_BLOCK = 64


def planes_and_channels(x: Tensor) -> tuple[int, int]:
    """Return how many planes a map has and how many channels lie beside each other in one."""
    return (x.shape[0], x.shape[1]) if is_channels_last(x) else (x.shape[0] * x.shape[1], 1)


def block_shape(x: Tensor, rows: int, contiguous: int, channels_last: int) -> dict[str, int]:
    """Return how a kernel is launched: what a program takes on, and with how many warps.

    Args:
        x: one of the maps.
        rows: of the program's block, which it visits one after the other.
        contiguous: elements of a row of the block in this format, a power of two.
        channels_last: likewise.
    """
    channels = planes_and_channels(x)[1]
    elements = channels_last if is_channels_last(x) else contiguous
    channels = min(triton.next_power_of_2(channels), LARGEST_CHANNEL_BLOCK)
    columns = max(1, elements // channels)
    return dict(ROWS=rows, COLUMNS=columns, CHANNELS=channels, num_warps=4 if elements > 64 else 2)


def chunk_count(rows: int, columns: int, block: dict[str, int]) -> int:
    """Return into how many blocks the rows and columns of a plane are cut."""
    return triton.cdiv(rows, block['ROWS']) * triton.cdiv(columns, block['COLUMNS'])


def grid(x: Tensor, rows: int, columns: int, block: dict[str, int]) -> tuple[int]:
    """Return how many programs cover so many rows and columns of every plane."""
    planes, channels = planes_and_channels(x)
    return (planes * triton.cdiv(channels, block['CHANNELS']) * chunk_count(rows, columns, block),)


def partial_sums(x: Tensor, chunks: int, dtype: torch.dtype) -> Tensor:
    """Allocate two sums for each chunk of each plane and channel: (2, planes, chunks, channels)."""
    planes, channels = planes_and_channels(x)
    return x.new_empty((2, planes, chunks, channels), dtype=dtype)


def join(partial: Tensor, x: Tensor) -> Tensor:
    """Add up partial sums: (2, N, C)."""
    return partial.sum(2).view(2, *x.shape[:2])


@triton.jit
def place(
    channels, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Return what a program works on.

    That is the plane, which chunk of it, the first of ROWS rows (the last of them may not exist),
    the columns (COLUMNS, 1) and the channels (1, CHANNELS).
    """
    index = tl.program_id(0)
    channel_blocks = tl.cdiv(channels, CHANNELS)
    column_blocks = tl.cdiv(columns, COLUMNS)
    chunks = tl.cdiv(rows, ROWS) * column_blocks
    channel = (index % channel_blocks) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    index = index // channel_blocks
    chunk = index % chunks
    plane = (index // chunks).to(tl.int64)
    first = (chunk // column_blocks) * ROWS
    column = (chunk % column_blocks) * COLUMNS + tl.arange(0, COLUMNS)[:, None]
    return plane, chunk, first, column, channel
