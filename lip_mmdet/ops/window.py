"""Geometry of pooling windows, the one walk over them, and checks of the maps they slide over."""

from __future__ import annotations

import numbers
from typing import Iterator, NamedTuple, Sequence, Union

from torch import Tensor

from lip_mmdet.errors import InputError

IntPair = Union[int, Sequence[int]]
Range = tuple  # the first position and the one after the last


class Window(NamedTuple):
    """Geometry of the windows, each field a (height, width) pair; axis 0 is the height."""

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
            raise InputError(
                f'padding {window.padding} is more than half of kernel_size {window.kernel_size}: '
                'some windows would hold padding only'
            )
        return window

    def check_fits(self, x: Tensor) -> None:
        padded = tuple(n + 2 * p for n, p in zip(x.shape[2:], self.padding))
        if min(x.shape[2:]) < 1 or any(n < k for n, k in zip(padded, self.kernel_size)):
            raise InputError(
                f'kernel_size {self.kernel_size} does not fit input of shape {tuple(x.shape)} with '
                f'padding {self.padding}'
            )

    def out_size(self, x: Tensor) -> tuple[int, int]:
        """Return the height and width of ``x`` after pooling."""
        return tuple(
            (n + 2 * p - k) // s + 1
            for n, k, s, p in zip(x.shape[2:], self.kernel_size, self.stride, self.padding)
        )

    def taps(self, axis: int, inputs: Range, outputs: Range) -> Iterator[tuple[slice, slice]]:
        """Walk over the offsets in a window along one axis.

        Args:
            axis: 0 or 1.
            inputs: positions at hand; others, as the padding's, are left out.
            outputs: windows at hand.

        Yields:
            For each offset the positions there, counted from the first of ``inputs``, and the
            windows that they are in, counted from the first of ``outputs``.
        """
        stride = self.stride[axis]
        for offset in range(-self.padding[axis], self.kernel_size[axis] - self.padding[axis]):
            first = max(outputs[0], -((offset - inputs[0]) // stride))
            stop = max(first, min(outputs[1], (inputs[1] - 1 - offset) // stride + 1))
            start = first * stride + offset - inputs[0]
            yield (
                slice(start, start + (stop - first) * stride, stride),
                slice(first - outputs[0], stop - outputs[0]),
            )


def _pair(name: str, value: IntPair, least: int) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(isinstance(v, numbers.Integral) and v >= least for v in pair):
        raise InputError(
            f'{name} must be an int or a pair of ints of at least {least}, not {value!r}'
        )
    return int(pair[0]), int(pair[1])


def check_maps(**maps: Tensor) -> None:
    """Check that maps of one operator are 4-D and floating, of one shape and device, or raise."""
    names = ' and '.join(maps)
    values = list(maps.values())
    first = values[0]
    checks = (
        ('both be (N, C, H, W)', lambda v: tuple(v.shape), lambda v: v.dim() == 4),
        ('be floating point', lambda v: v.dtype, lambda v: v.is_floating_point()),
        ('be on one device', lambda v: v.device, lambda v: v.device == first.device),
    )
    for what, found, holds in checks:
        if not all(holds(v) and v.shape == first.shape for v in values):
            raise InputError(
                f'{names} must {what}, not ' + ' and '.join(str(found(v)) for v in values)
            )


def check_affine(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Check that a map can be normalized with these parameters, or raise an InputError."""
    if x.dim() != 4 or weight.shape != (x.shape[1],) or bias.shape != weight.shape:
        raise InputError(
            'weight and bias must be (C,) for a map of (N, C, H, W), not '
            f'{tuple(weight.shape)} and {tuple(bias.shape)} for {tuple(x.shape)}'
        )
    if not x.is_floating_point():
        raise InputError(f'the map to normalize must be floating point, not {x.dtype}')
