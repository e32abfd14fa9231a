"""How the CPU walks over maps larger than its cache.

The operators of this package do little arithmetic on each position: their time is the time to move
maps between memory and processor. A composition of elementwise operators moves the whole map once
or more for each of them. Here all of them are applied to one tile, a piece of the map small enough
for the cache, before the next tile is touched: the map is read once.

Both memory formats take the same path. A contiguous map is seen as one image of ``N * C`` channels
and cut into groups of whole channels; a channels_last map is cut into rows of one image. In both a
tile is one dense stretch of memory.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple

import torch
from torch import Tensor

from lip_mmdet.ops.window import Range, Window

# 2 MB of float32: the few tiles that an operator works on at once stay in the caches of the
# processor, and its dozen passes over each cost more than the calls. Half as many or twice as many
# elements take up to a tenth more time.
TILE_ELEMENTS = 1 << 19


class Tile(NamedTuple):
    """A piece of a map: all columns of some rows (first, last + 1) of some channels of an image."""

    image: int
    channels: Range
    rows: Range

    def of(self, values: Tensor) -> Tensor:
        """Pick the tile's channels of an (N, C, 1, 1) tensor."""
        return values[self.image : self.image + 1, slice(*self.channels)]

    def at(self, maps: Tensor, rows: Range | None = None) -> Tensor:
        """View the tile of a map, or other rows of the same channels."""
        return self.of(maps)[:, :, slice(*(rows or self.rows))]


def tiles(planes: Tensor, row_count: int | None = None, rows_each: int = 1) -> Iterator[Tile]:
    """Cut the planes of a map into tiles; off the CPU, an image's whole map is one."""
    images, channels, height, width = planes.shape
    rows = height if row_count is None else row_count
    if planes.numel() == 0:
        return
    if planes.device.type != 'cpu':  # where each call costs a launch, and there is no such cache
        step, group = rows, channels
    elif is_channels_last(planes):
        step, group = max(1, TILE_ELEMENTS // (channels * width * rows_each)), channels
    else:
        step, group = rows, max(1, TILE_ELEMENTS // (height * width))
    for image in range(images):
        for channel in range(0, channels, group):
            for row in range(0, rows, step):
                some = channel, min(channel + group, channels)
                yield Tile(image, some, (row, min(row + step, rows)))


def is_channels_last(x: Tensor) -> bool:
    """Whether a (N, C, H, W) map lies in channels_last; where both formats agree, it does not."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def memory_format(x: Tensor) -> torch.memory_format:
    """Return the format in which a map is worked on: its own, or contiguous if it has neither."""
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


def as_planes(x: Tensor, layout: torch.memory_format) -> Tensor:
    """View a map so that its tiles are dense: contiguous ones as (1, N * C, H, W)."""
    x = x.contiguous(memory_format=layout)
    return x if layout == torch.channels_last else x.view(1, -1, *x.shape[2:])


def as_columns(values: Tensor, planes: Tensor) -> Tensor:
    """View (C,) figures beside the planes of a map, as float32 or float64: (N, C, 1, 1)."""
    images, channels = planes.shape[:2]
    columns = widen(values).repeat(channels // max(values.numel(), 1))
    return columns.view(1, channels, 1, 1).expand(images, channels, 1, 1)


def widen(tensor: Tensor) -> Tensor:
    """Take half precision to float32, where the arithmetic is done."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def scale_and_shift(part: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> Tensor:
    """Write ``part * scale + shift`` to ``out``, with one scale and shift for each plane.

    PyTorch's fused operator works in vectors where all its operands do. Along the rows of a
    contiguous plane scale and shift stand still, and two operators take a third of the time.
    """
    if is_channels_last(part):
        return torch.addcmul(shift, part, scale, out=out)
    return torch.mul(part, scale, out=out).add_(shift)


def plane_sums(part: Tensor) -> Tensor:
    """Sum a part of a map over its positions: (N, C, 1, 1).

    Rows first: each thread then sums rows that it wrote, and in channels_last whole vectors of
    channels, which PyTorch does only where the result lies as the map does.
    """
    if not is_channels_last(part):
        return part.sum(3, keepdim=True).sum(2, keepdim=True)
    return part.permute(0, 2, 3, 1).sum(2).sum(1)[:, :, None, None]


class Scratch:
    """A buffer for one thing at each tile, in the memory format of the map that tiles are cut from.

    Memory that is new to a process costs more than the arithmetic on it, so all tiles share it.
    """

    def __init__(self, planes: Tensor, dtype: torch.dtype) -> None:
        self._options = dict(dtype=dtype, device=planes.device)
        self._channels_last = is_channels_last(planes)
        self._buffer = torch.empty(0, **self._options)
        self._held = self._first = None

    def like(self, part: Tensor) -> Tensor:
        """View the buffer in the shape of a part of a map; what it held is lost."""
        return self.shaped(*part.shape[1:])

    def shaped(self, channels: int, rows: int, width: int) -> Tensor:
        """View the buffer as (1, channels, rows, width), dense; what it held is lost."""
        size = channels * rows * width
        if self._buffer.numel() < size:
            self._buffer = torch.empty(size, **self._options)
        if self._channels_last:
            return self._buffer[:size].view(1, rows, width, channels).permute(0, 3, 1, 2)
        return self._buffer[:size].view(1, channels, rows, width)

    def slide(self, tile: Tile, rows: Range, width: int) -> tuple[Tensor, Range]:
        """Go on to a tile's rows, keeping what is there of them; return the rest's range too."""
        kept = None
        if tile.rows[0] > 0:
            kept = self._held[:, :, rows[0] - self._first :].clone()
        self._held = self.shaped(tile.channels[1] - tile.channels[0], rows[1] - rows[0], width)
        self._first = rows[0]
        if kept is None:
            return self._held, rows
        self._held[:, :, : kept.shape[2]].copy_(kept)
        return self._held, (rows[0] + kept.shape[2], rows[1])


class Windows:
    """Sums over the windows of a tile, and their transpose, one axis after the other."""

    def __init__(
        self, window: Window, planes: Tensor, out_size: tuple[int, int], dtype: torch.dtype
    ) -> None:
        self.window = window
        self.planes = planes
        self.out_size = out_size
        self._by_axis = Scratch(planes, dtype)

    def tiles(self) -> Iterator[Tile]:
        """Cut the map into tiles by rows of the pooled map."""
        return tiles(self.planes, self.out_size[0], self.window.stride[0])

    def covered(self, tile: Tile) -> Range:
        """Return the rows of the map that a tile's windows cover."""
        kernel, stride, padding = (pair[0] for pair in self.window)
        first, stop = tile.rows[0] * stride, (tile.rows[1] - 1) * stride + kernel
        return max(0, first - padding), min(self.planes.shape[2], stop - padding)

    def own(self, tile: Tile) -> Range:
        """Return the rows of the map that fall to a tile: each row to one.

        They begin where :meth:`covered` does. No later tile's windows cover them.
        """
        height, first = self.planes.shape[2], self.covered(tile)[0]
        last = tile.rows[1] == self.out_size[0]
        stop = height if last else tile.rows[1] * self.window.stride[0] - self.window.padding[0]
        return first, max(first, min(height, stop))

    def reaching(self, tile: Tile) -> Range:
        """Return the rows of windows that hold any of the rows of :meth:`own`."""
        shared = self.window.kernel_size[0] - self.window.stride[0]
        return max(0, tile.rows[0] + min(0, -shared // self.window.stride[0])), tile.rows[1]

    def sum(self, part: Tensor, tile: Tile, out: Scratch) -> Tensor:
        """Sum each window of a tile over the rows of :meth:`covered`: (1, channels, rows, W')."""
        channels, width, count = part.shape[1], part.shape[3], tile.rows[1] - tile.rows[0]
        by_rows = self._by_axis.shaped(channels, count, width).zero_()
        for positions, windows in self.window.taps(0, self.covered(tile), tile.rows):
            by_rows[:, :, windows].add_(part[:, :, positions])
        sums = out.shaped(channels, count, self.out_size[1]).zero_()
        for positions, windows in self.window.taps(1, (0, width), (0, self.out_size[1])):
            sums[..., windows].add_(by_rows[..., positions])
        return sums

    def spread(self, pooled: Tensor, tile: Tile, out: Scratch) -> Tensor:
        """Give each position of :meth:`own` the sum of its windows, those of :meth:`reaching`."""
        channels, count, rows = pooled.shape[1], pooled.shape[2], self.own(tile)
        width = self.planes.shape[3]
        by_columns = self._by_axis.shaped(channels, count, width)
        self._scatter(pooled, 1, (0, width), (0, self.out_size[1]), by_columns)
        positions = out.shaped(channels, rows[1] - rows[0], width)
        self._scatter(by_columns, 0, rows, self.reaching(tile), positions)
        return positions

    def _scatter(self, source: Tensor, axis: int, inputs: Range, outputs: Range, out: Tensor):
        stride, padding = self.window.stride[axis], self.window.padding[axis]
        # The first offsets, as many as the stride, reach each position up to here once: it need
        # not be cleared before.
        once = stride if self.window.kernel_size[axis] >= stride else 0
        reached = min(max(inputs[0], outputs[1] * once - padding), inputs[1]) - inputs[0]
        source, target = source.transpose(0, axis + 2), out.transpose(0, axis + 2)
        target[reached:].zero_()
        for offset, (positions, windows) in enumerate(self.window.taps(axis, inputs, outputs)):
            if offset < once:
                target[positions].copy_(source[windows])
            else:
                target[positions].add_(source[windows])
