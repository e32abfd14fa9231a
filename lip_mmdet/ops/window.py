"""Geometry of pooling windows, and checks of the maps that they slide over."""

from __future__ import annotations

from typing import Iterator, NamedTuple, Sequence, Union

from torch import Tensor

IntPair = Union[int, Sequence[int]]


class _Slices(NamedTuple):
    """Where the members of all windows at one offset lie."""

    inputs: tuple[slice, slice]
    outputs: tuple[slice, slice]


class Window(NamedTuple):
    """Geometry of the windows, each field a (height, width) pair."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    @classmethod
    def parse(cls, kernel_size: IntPair, stride: IntPair, padding: IntPair) -> Window:
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

    def out_size(self, x: Tensor) -> tuple[int, int]:
        """Return the height and width of ``x`` after pooling."""
        return tuple(
            (n + 2 * p - k) // s + 1
            for n, k, s, p in zip(x.shape[2:], self.kernel_size, self.stride, self.padding)
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


def _pair(name: str, value: IntPair, least: int) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= least for v in pair):
        raise ValueError(
            f'{name} must be an int or a pair of ints of at least {least}, not {value!r}'
        )
    return pair


def check_maps(**maps: Tensor) -> None:
    """Check that maps of one operator belong together: 4-D, floating, one shape and device.

    Raises:
        ValueError: they do not; the message names the arguments and what they are.
    """
    names = ' and '.join(maps)
    values = list(maps.values())
    first = values[0]
    if first.dim() != 4 or any(value.shape != first.shape for value in values):
        found = ' and '.join(str(tuple(value.shape)) for value in values)
        raise ValueError(f'{names} must both be (N, C, H, W), not {found}')
    if not all(value.is_floating_point() for value in values):
        found = ' and '.join(str(value.dtype) for value in values)
        raise ValueError(f'{names} must be floating point, not {found}')
    if any(value.device != first.device for value in values):
        found = ' and '.join(str(value.device) for value in values)
        raise ValueError(f'{names} must be on one device, not {found}')
