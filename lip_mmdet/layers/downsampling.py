"""LIP in the place of a layer that downsamples: a pool, or beside a strided convolution.

The layer keeps its place, its class and its weights. A convolution goes on at stride 1, and LIP
downsamples before it (the paper's order, section 3.5) or after it. LIP's windows have the centres
that the layer's had, and are as many, for every size of the map.
"""

from __future__ import annotations

from typing import NamedTuple

import mmcv.cnn
import torch.nn.functional as F
from torch import Tensor, nn

from lip_mmdet.errors import InputError
from lip_mmdet.layers.lip_pool import LIPPool2d
from lip_mmdet.layers.recording import recorded

POOLS = (nn.MaxPool2d, nn.AvgPool2d)
# Convolutions that are told apart from one with LIP behind it, see `Conv2d` below.
_PLAIN = (nn.Conv2d, mmcv.cnn.Conv2d)


class Grid(NamedTuple):
    """Where a layer's windows lie along one axis of a map.

    Attributes:
        kernel: positions from a window's first to its last, counting the gaps of a dilation.
        stride: step of the windows.
        padding: on each side; None where it adapts to the size as TensorFlow's "same" does, so that
            a map of n positions gives ceil(n / stride).
        ceil_mode: whether a last window may reach past the padding, as in PyTorch's pools.
    """

    kernel: int
    stride: int
    padding: int | None
    ceil_mode: bool = False

    def on(self, size: int) -> tuple[int, int]:
        """Return how far before a map of ``size`` positions the windows begin, and their number."""
        if self.padding is None:
            count = -(-size // self.stride)
            return max((count - 1) * self.stride + self.kernel - size, 0) // 2, count
        span = size + 2 * self.padding - self.kernel
        count = (span + self.ceil_mode * (self.stride - 1)) // self.stride + 1
        if self.ceil_mode and (count - 1) * self.stride >= size + self.padding:
            count -= 1  # as in PyTorch, a window has to begin before the padding behind the map
        return self.padding, count


def grids_of(layer: nn.Module, adaptive: bool = False) -> tuple[Grid, Grid]:
    """Return the windows of a convolution or pool along height and width.

    Args:
        layer: with PyTorch's attributes ``kernel_size``, ``stride`` and ``padding``.
        adaptive: whether its padding adapts to the size.
    """
    dilation = _pair(getattr(layer, 'dilation', 1))
    padding = (None, None) if adaptive else _pair(layer.padding)
    sizes = zip(_pair(layer.kernel_size), dilation, _pair(layer.stride), padding)
    ceil_mode = bool(getattr(layer, 'ceil_mode', False))
    return tuple(Grid(d * (k - 1) + 1, s, p, ceil_mode) for k, d, s, p in sizes)


class AlignedLIPPool2d(LIPPool2d):
    """LIP whose windows follow another layer's, where equal padding on both sides cannot.

    Args:
        in_channels: channels of the map to pool.
        logit: config of the logit module; see :class:`~lip_mmdet.layers.LIPPool2d`.
        grids: the other layer's windows along height and width.
        centred: give windows of ``2 * stride - 1`` positions to the centres of the other layer's
            (half a position before them where its windows are even); else exactly its windows.
    """

    def __init__(
        self, in_channels: int, logit: dict, grids: tuple[Grid, Grid], centred: bool
    ) -> None:
        sizes = [2 * g.stride - 1 if centred else g.kernel for g in grids]
        super().__init__(in_channels, logit, tuple(sizes), tuple(g.stride for g in grids), 0)
        self.grids = grids
        self.centred = centred

    def forward(self, x: Tensor) -> Tensor:
        """Pool (N, in_channels, H, W) to as many windows as the other layer has."""
        padding = []
        for size, kernel, grid in zip(x.shape[2:], self.kernel_size, self.grids):
            before, count = grid.on(size)
            if self.centred:
                before += grid.stride - 1 - (grid.kernel - 1) // 2
            after = (count - 1) * grid.stride + kernel - before - size
            padding = [before, after, *padding]  # `pad` wants the last axis first
        # What is padded has no importance; what no window reaches is cut off.
        logit = F.pad(self.logit(x), padding, value=-float('inf'))
        window = self.kernel_size, self.stride, 0
        operators = recorded(self.operators(x), self.logit)
        return operators.lip2d(F.pad(x, padding), logit, *window)


def why_not(
    layer: nn.Module, size: tuple[int, int], given: tuple[int, int], order: str, convolves: bool
) -> tuple[bool, str]:
    """Return whether a layer's padding adapts to the size, and what keeps LIP from its place.

    Args:
        layer: that downsamples.
        size: height and width of a map that it took.
        given: of the map that it gave for it.
        order: see :func:`lip_for_conv`.
        convolves: whether the layer is a convolution.
    """
    kind = type(layer).__name__
    if not convolves and not isinstance(layer, POOLS):
        return False, f'is a {kind}'
    for adaptive in (False, True)[: 1 + convolves]:
        grids = grids_of(layer, adaptive)
        if given == tuple(grid.on(n)[1] for grid, n in zip(grids, size)):
            break
    else:
        return False, 'gives maps of sizes of its own'
    if not convolves:
        own = getattr(layer, 'dilation', 1) not in (1, (1, 1)) or getattr(
            layer, 'divisor_override', None
        )
        return False, f'is a {kind} with dilation or divisor' if own else ''
    if order == 'after' and isinstance(layer, nn.Conv2d) and type(layer) not in _PLAIN:
        return adaptive, f'is a {kind}, no plain convolution'
    centred = adaptive or all(map(_is_centred, grids))
    parts = len(list(layer.modules())) > 1
    if order == 'before' and not centred:
        if parts or getattr(layer, 'padding_mode', 'zeros') != 'zeros':
            return False, f'is a {kind} with padding of its own'
        if any(grid.padding > (grid.kernel - 1) // 2 + grid.stride - 1 for grid in grids):
            return False, 'looks at padding alone'
    return adaptive, ''


def _is_centred(grid: Grid) -> bool:
    return 2 * grid.padding == grid.kernel - 1


def lip_for_pool(pool: nn.Module, channels: int, logit: dict) -> LIPPool2d:
    """Return LIP with the windows of a max or average pool."""
    if pool.ceil_mode:
        lip = AlignedLIPPool2d(channels, logit, grids_of(pool), centred=False)
    else:
        lip = LIPPool2d(channels, logit, pool.kernel_size, pool.stride, pool.padding)
    lip.stands_for_max = isinstance(pool, nn.MaxPool2d)
    return lip


def lip_for_conv(conv: nn.Module, logit: dict, order: str, adaptive: bool) -> LIPPool2d:
    """Return LIP that downsamples where a strided convolution does.

    Args:
        conv: the convolution.
        logit: config of the logit module.
        order: ``'before'`` the convolution, on its input, or ``'after'`` it.
        adaptive: whether the convolution's padding adapts to the size.
    """
    grids = grids_of(conv, adaptive)
    channels = conv.in_channels if order == 'before' else conv.out_channels
    # At stride 1 the windows of a convolution begin where its first strided one does.
    if not adaptive and (order == 'after' or all(map(_is_centred, grids))):
        stride = tuple(g.stride for g in grids)
        padding = tuple(s - 1 for s in stride)
        return LIPPool2d(channels, logit, tuple(2 * s - 1 for s in stride), stride, padding)
    return AlignedLIPPool2d(channels, logit, grids, centred=True)


def downsample_by(conv: nn.Module, lip: LIPPool2d, order: str, adaptive: bool) -> None:
    """Have a strided convolution run at stride 1 and a LIP downsample, in place.

    Args:
        conv: the convolution; it gets the LIP as its child ``lip``.
        lip: from :func:`lip_for_conv`.
        order: as given there.
        adaptive: as given there.
    """
    kernels = [grid.kernel for grid in grids_of(conv)]
    for layer in conv.modules():  # convolutions within a convolution, such as SAConv2d's, too
        if hasattr(layer, 'stride'):
            layer.stride = (1, 1)
    conv.lip = lip
    if order == 'after':
        if type(conv) in _PLAIN:
            conv.__class__ = Conv2d
        conv.register_forward_hook(_pool_output)
        return
    if not adaptive:
        conv.padding = tuple((kernel - 1) // 2 for kernel in kernels)
    even = not adaptive and any(kernel % 2 == 0 for kernel in kernels)
    conv.register_forward_pre_hook(_pool_input_of_even_convolution if even else _pool_input)


class Conv2d(nn.Module):
    """A convolution before a LIP. mmcv's ``fuse_conv_bn`` leaves it alone, for LIP's logit module
    sees what the convolution gives; by its name MMEngine's ``init_cfg`` draws it as any other.
    """

    forward = nn.Conv2d.forward
    extra_repr = nn.Conv2d.extra_repr
    _conv_forward = nn.Conv2d._conv_forward


# Functions of a module's own name, for hooks are pickled with their module.
def _pool_input(conv: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (conv.lip(inputs[0]), *inputs[1:])


def _pool_input_of_even_convolution(
    conv: nn.Module, inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    # Equal padding gives an even kernel one output less.
    margins = [0 if grid.kernel % 2 else 1 for grid in reversed(grids_of(conv))]
    pooled = F.pad(conv.lip(inputs[0]), [m for margin in margins for m in (0, margin)])
    return (pooled, *inputs[1:])


def _pool_output(conv: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return conv.lip(output)


def _pair(value) -> tuple[int, int]:
    if isinstance(value, str):
        if value != 'valid':
            raise InputError(f'a strided layer has no padding {value!r}')
        return 0, 0
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)
