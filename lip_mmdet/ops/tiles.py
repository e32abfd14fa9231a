"""Walk over maps in tiles that stay in the cache, and what is done to one tile.

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
import torch.nn.functional as F
from torch import Tensor

from lip_mmdet.ops.window import Window

# 2 MB of float32: the few tiles that an operator works on at once stay in the caches of the
# processor, and its dozen passes over each cost more than the calls. Half as many or twice as many
# elements take up to a tenth more time.
TILE_ELEMENTS = 1 << 19


class Tile(NamedTuple):
    """A piece of a map: all columns of some rows of some channels of one image.

    Attributes:
        image: index of the image.
        channels: first channel and the one after the last.
        rows: first row and the one after the last, of whichever map the tiles were cut for.
    """

    image: int
    channels: tuple[int, int]
    rows: tuple[int, int]

    def of(self, values: Tensor) -> Tensor:
        """Pick the tile's channels of an (N, C, 1, 1) tensor."""
        return values[self.image : self.image + 1, slice(*self.channels)]

    def at(self, maps: Tensor, rows: tuple[int, int] | None = None) -> Tensor:
        """View the tile of a map, or other rows of the same channels."""
        return self.of(maps)[:, :, slice(*(rows or self.rows))]


def is_channels_last(x: Tensor) -> bool:
    """Whether a (N, C, H, W) map lies in channels_last; where both formats agree, it does not."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def memory_format(x: Tensor) -> torch.memory_format:
    """Return the format in which a map is worked on: its own, or contiguous if it has neither."""
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


def dense(layout: torch.memory_format, *tensors: Tensor) -> list[Tensor]:
    """Lay out maps in a memory format, and figures, (N, C) or (C,), one after the other."""
    return [t.contiguous(memory_format=layout) if t.dim() == 4 else t.contiguous() for t in tensors]


def as_planes(x: Tensor, layout: torch.memory_format) -> Tensor:
    """View a map so that its tiles are dense: contiguous ones as (1, N * C, H, W)."""
    x = x.contiguous(memory_format=layout)
    if layout == torch.channels_last:
        return x
    return x.view(1, x.shape[0] * x.shape[1], *x.shape[2:])


def as_columns(values: Tensor, planes: Tensor) -> Tensor:
    """View (N, C) or (C,) figures beside the planes of a map, as float32 (or float64)."""
    values = widen(values)
    images, channels = planes.shape[:2]
    if values.dim() == 1 and images == 1:
        values = values.repeat(channels // max(values.numel(), 1))
    rows = 1 if values.dim() == 1 or images == 1 else images
    return values.reshape(rows, channels, 1, 1).expand(images, channels, 1, 1)


def widen(tensor: Tensor) -> Tensor:
    """Take half precision to float32, where the arithmetic is done."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def tiles(planes: Tensor, row_count: int | None = None, rows_each: int = 1) -> Iterator[Tile]:
    """Cut the planes of a map into tiles.

    Args:
        planes: as :func:`as_planes` gives them.
        row_count: rows to cut, if these are not the map's but those of its pooled version.
        rows_each: rows of the map that one of these stands for.
    """
    images, channels, height, width = planes.shape
    rows = height if row_count is None else row_count
    if planes.numel() == 0:
        return
    limit = TILE_ELEMENTS if planes.device.type == 'cpu' else planes.numel()
    if is_channels_last(planes):
        step = max(1, limit // (channels * width * rows_each))
        group = channels
    else:
        step = rows
        group = max(1, limit // (height * width))
    for image in range(images):
        for channel in range(0, channels, group):
            for row in range(0, rows, step):
                yield Tile(
                    image,
                    (channel, min(channel + group, channels)),
                    (row, min(row + step, rows)),
                )


def scale_and_shift(part: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> Tensor:
    """Write ``part * scale + shift`` to ``out``, with one scale and shift for each plane.

    On the CPU, PyTorch's fused operator works in vectors where all its operands do. Along the rows
    of a contiguous plane scale and shift stand still, and two operators take a third of the time.
    """
    if is_channels_last(part) or part.device.type != 'cpu':
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

    Args:
        planes: the map.
        dtype: of the buffer.
    """

    def __init__(self, planes: Tensor, dtype: torch.dtype) -> None:
        self._options = dict(dtype=dtype, device=planes.device)
        self._channels_last = is_channels_last(planes)
        self._buffer = torch.empty(0, **self._options)

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


class Windows:
    """Sums over windows, and their transpose, tile by tile.

    Args:
        window: geometry.
        planes: the map whose tiles are pooled.
        out_size: height and width of the pooled map.
        dtype: of the sums.
    """

    def __init__(
        self, window: Window, planes: Tensor, out_size: tuple[int, int], dtype: torch.dtype
    ) -> None:
        self.kernel_size, self.stride, self.padding = window
        self.height, self.width = planes.shape[2:]
        self.out_size = out_size
        self.planes = planes
        self.dtype = dtype
        self._sum_by_axis = _sums_faster_by_axis(planes)
        self._by_columns = Scratch(planes, dtype)
        # Rows that the last windows of a tile share with the first of the next.
        self.shared_rows = max(0, self.kernel_size[0] - self.stride[0])

    def tiles(self) -> Iterator[Tile]:
        """Cut the map into tiles by rows of the pooled map."""
        return tiles(self.planes, self.out_size[0], self.stride[0])

    def covered(self, rows: tuple[int, int]) -> tuple[int, int]:
        """Return the rows of the map, some of them padding, that rows of windows span."""
        kernel, stride, padding = self.kernel_size[0], self.stride[0], self.padding[0]
        return rows[0] * stride - padding, (rows[1] - 1) * stride - padding + kernel

    def own(self, rows: tuple[int, int]) -> tuple[int, int]:
        """Return the rows of the map that fall to rows of windows: each row to one tile."""
        stride, padding = self.stride[0], self.padding[0]
        first = 0 if rows[0] == 0 else rows[0] * stride - padding
        stop = self.height if rows[1] == self.out_size[0] else rows[1] * stride - padding
        return max(0, first), max(0, stop)

    def reaching(self, rows: tuple[int, int]) -> tuple[int, int]:
        """Return the rows of windows that hold any of the map's rows of :meth:`own`."""
        shared = self.kernel_size[0] - self.stride[0]
        return max(0, rows[0] + min(0, -shared // self.stride[0])), rows[1]

    def padded_rows(self) -> PaddedRows:
        """Make a buffer for the rows that the windows of a tile cover."""
        return PaddedRows(self)

    def sum(self, rows: PaddedRows) -> Tensor:
        """Sum each window of the tile that a buffer stands at: (1, channels, rows, W')."""
        if not self._sum_by_axis:
            return F.avg_pool2d(rows.values, self.kernel_size, self.stride, divisor_override=1)
        by_rows = _gather(rows.values, 2, self.kernel_size[0], self.stride[0], rows.window_count)
        return _gather(by_rows, 3, self.kernel_size[1], self.stride[1], self.out_size[1])

    def spread(
        self, pooled: Tensor, rows: tuple[int, int], own: tuple[int, int], out: Scratch
    ) -> Tensor:
        """Give each position the sum of its windows' values: the transpose of :meth:`sum`.

        Args:
            pooled: (1, channels, rows, W') values of the windows.
            rows: which rows of windows these are.
            own: rows of the map to return.
            out: where the result may lie.

        Returns:
            (1, channels, rows, W), which the caller may overwrite.
        """
        channels, width = pooled.shape[1], self.width + 2 * self.padding[1]
        by_columns = self._by_columns.shaped(channels, pooled.shape[2], width)
        _scatter(pooled, 3, self.kernel_size[1], self.stride[1], by_columns)
        first, stop = self.covered(rows)
        full = out.shaped(channels, max(stop, own[1]) - first, width)
        _scatter(by_columns, 2, self.kernel_size[0], self.stride[0], full)
        left = self.padding[1]
        return full[:, :, own[0] - first : own[1] - first, left : left + self.width]


def _sums_faster_by_axis(planes: Tensor) -> bool:
    """Whether windows are summed faster along one axis after the other than by PyTorch's pool.

    The pool needs one pass, but over a contiguous map on the CPU it adds number by number. As many
    additions of strided views as the window is wide run on dense vectors, at least over rows.
    """
    return planes.device.type == 'cpu' and not is_channels_last(planes)


class PaddedRows:
    """The rows that the windows of one tile cover, with zeros for padding.

    Windows of neighbouring tiles share rows. What is computed once is kept for the next tile.

    Attributes:
        values: (1, channels, covered rows, padded width) for the tile that it stands at.
        window_count: rows of windows in it.
    """

    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        self._buffer = Scratch(windows.planes, windows.dtype)
        self._first = 0
        self._tile = None
        self._kept = {}
        self.values = None
        self.window_count = 0

    def move_to(self, tile: Tile) -> tuple[int, int]:
        """Go on to a tile; return the rows of the map that are to be filled in anew."""
        windows = self._windows
        first, stop = windows.covered(tile.rows)
        channels = tile.channels[1] - tile.channels[0]
        left, width = windows.padding[1], windows.width
        self._tile = tile
        self._first = first
        self.values = self._buffer.shaped(channels, stop - first, width + 2 * left)
        self.window_count = tile.rows[1] - tile.rows[0]
        self.values[:, :, : max(0, -first)].zero_()
        self.values[:, :, max(0, windows.height - first) :].zero_()
        self.values[:, :, :, :left].zero_()
        self.values[:, :, :, left + width :].zero_()
        new = first if tile.rows[0] == 0 else first + windows.shared_rows
        new = min(max(new, 0), windows.height)
        return new, max(new, min(stop, windows.height))

    def at(self, rows: tuple[int, int]) -> Tensor:
        """View rows of the map, without the padding."""
        left = self._windows.padding[1]
        return self.values[
            :, :, rows[0] - self._first : rows[1] - self._first, left : left + self._windows.width
        ]

    def share(self, name: str) -> None:
        """Take the rows shared with the tile before, and keep those shared with the next.

        Args:
            name: of what the buffer holds, for it may hold one thing after another at each tile.
        """
        count, tile = self._windows.shared_rows, self._tile
        if count == 0:
            return
        if tile.rows[0] > 0:
            self.values[:, :, :count].copy_(self._kept[name])
        if tile.rows[1] < self._windows.out_size[0]:
            if name not in self._kept:
                self._kept[name] = torch.empty_like(self.values[:, :, -count:])
            self._kept[name].copy_(self.values[:, :, -count:])


def _taps(x: Tensor, dim: int, start: int, stride: int, count: int) -> Tensor:
    """View every ``stride``-th position of a dimension."""
    index = [slice(None)] * x.dim()
    index[dim] = slice(start, start + (count - 1) * stride + 1, stride)
    return x[tuple(index)]


def _gather(x: Tensor, dim: int, kernel: int, stride: int, count: int) -> Tensor:
    """Sum ``count`` windows along one dimension."""
    first = _taps(x, dim, 0, stride, count)
    if kernel == 1:
        return first.clone()
    total = first + _taps(x, dim, 1, stride, count)
    for tap in range(2, kernel):
        total.add_(_taps(x, dim, tap, stride, count))
    return total


def _scatter(x: Tensor, dim: int, kernel: int, stride: int, out: Tensor) -> None:
    """Write to ``out`` the transpose of :func:`_gather`; what no window covers becomes zero."""
    count = x.shape[dim]
    written = count * stride if kernel >= stride else 0
    written = min(written, out.shape[dim])
    out.narrow(dim, written, out.shape[dim] - written).zero_()
    for tap in range(kernel):
        target = _taps(out, dim, tap, stride, count)
        if tap < stride and kernel >= stride:  # the first to reach these positions
            target.copy_(x)
        else:
            target.add_(x)
