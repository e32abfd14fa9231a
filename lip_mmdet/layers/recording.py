"""What LIP looks at: logit and selectivity of every LIP layer that runs, without changing it."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import Iterator, NamedTuple

import torch
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from lip_mmdet.layers.implementation import Operators
from lip_mmdet.ops import formula
from lip_mmdet.ops.formula import members
from lip_mmdet.ops.window import IntPair, Window, check_maps


class ImportanceMap(NamedTuple):
    """What a LIP layer weighs a map by.

    Attributes:
        logit: (N, C, H, W), after the gate; its exponential is the importance.
        selectivity: (N, h, w) on the layer's output grid, in nats: 0 where LIP averages,
            ``largest`` where it takes one position; see :func:`selectivity`.
        largest: logarithm of the number of positions in a window.
    """

    logit: Tensor
    selectivity: Tensor
    largest: float


class _Recorder(NamedTuple):
    names: dict[nn.Module, str]
    maps: dict[str, ImportanceMap]


_recorders: list[_Recorder] = []  # those at work


@contextmanager
def record_importance(model: nn.Module) -> Iterator[dict[str, ImportanceMap]]:
    """Record what every LIP layer within ``model`` that runs in the block weighs by.

    Outputs and gradients stay as they are to the last bit; outside of the block nothing is computed
    or kept. A layer that runs again replaces its maps.

    Args:
        model: a backbone, a detector, a pool; also within ``DistributedDataParallel``.

    Yields:
        Maps by the name of the module, in the order of running: ``'maxpool'`` for a
        :class:`~lip_mmdet.layers.LIPPool2d`, ``'layer2.0.residual_logit'`` and
        ``'layer2.0.shortcut_logit'`` for the two LIPs of a residual block. They are detached, on
        the model's device, in float32 (float64 for such maps).

    Example:
        >>> import torch
        >>> from lip_mmdet.layers import LIPPool2d, record_importance
        >>> net = torch.nn.Sequential(LIPPool2d(8))
        >>> with record_importance(net) as maps:
        ...     output = net(torch.rand(1, 8, 16, 16))
        >>> tuple(maps['0'].selectivity.shape)
        (1, 8, 8)
    """
    while is_model_wrapper(model):
        model = model.module
    names = {module: name for name, module in model.named_modules()}
    for name, module in model.named_modules():
        if isinstance(getattr(module, 'logit', None), nn.Module):
            names[module.logit] = name  # a pool's own logit module goes by the pool's name
    recorder = _Recorder(names, {})
    _recorders.append(recorder)
    try:
        yield recorder.maps
    finally:
        # By identity, for two that recorded nothing are equal.
        _recorders[:] = [other for other in _recorders if other is not recorder]


def recorded(operators: Operators, logit: nn.Module) -> Operators:
    """Return operators that note what a logit module says before they pool by it.

    Where nobody records the module they are those given.
    """
    if not _recorders:
        return operators
    maps = [(r.maps, r.names[logit]) for r in _recorders if logit in r.names]
    if not maps:
        return operators

    def note(values: Tensor, *window) -> None:
        size = Window.parse(*window).kernel_size
        seen = ImportanceMap(values, selectivity(values, *window), math.log(size[0] * size[1]))
        for to, name in maps:
            to.pop(name, None)
            to[name] = seen

    def lip2d(x, values, *window):
        note(_copy(values), *window)
        return operators.lip2d(x, values, *window)

    def gated_lip2d(x, raw, weight, bias, coefficient, eps, *window):
        normalized = formula.instance_norm(*map(_copy, (raw, weight, bias)), eps)
        note(normalized.sigmoid() * coefficient, *window)
        return operators.gated_lip2d(x, raw, weight, bias, coefficient, eps, *window)

    return operators._replace(lip2d=lip2d, gated_lip2d=gated_lip2d)


def selectivity(
    logit: Tensor, kernel_size: IntPair = 3, stride: IntPair = 2, padding: IntPair = 1
) -> Tensor:
    """Measure how much of a choice LIP makes in each window: 0 where it averages.

    The logarithm of the number of the window's positions, without padding, minus the entropy of
    their shares, mean over channels: ``log k^2`` where one position of a ``k x k`` window has it
    all. Windows at borders, which have fewer positions, are as cold as others where LIP averages.

    Args:
        logit: (N, C, H, W), floating point.
        kernel_size, stride, padding: of the windows, as in :func:`lip_mmdet.ops.lip2d`.

    Returns:
        (N, H', W') in nats, float32, or float64 for such a logit.
    """
    window = Window.parse(kernel_size, stride, padding)
    check_maps(logit=logit)
    window.check_fits(logit)
    logit = logit if logit.dtype == torch.float64 else logit.float()
    # Importance of exactly nothing is the padding of whoever pads by themselves.
    positions = members((logit[:1, :1] > -float('inf')).to(logit), window, 0.0).sum(0)
    total = torch.zeros((), dtype=logit.dtype, device=logit.device)
    for channels in logit.split(8, dim=1):  # members take a window's size times the memory
        shares = members(channels, window, -float('inf')).softmax(0)
        total = total + torch.xlogy(shares, shares * positions).sum((0, 2))
    return (total / logit.shape[1]).clamp_min(0)  # rounding may fall below zero


def _copy(values: Tensor) -> Tensor:
    """Return a copy of its own, for what follows may overwrite the map."""
    dtype = torch.float64 if values.dtype == torch.float64 else torch.float32
    return values.detach().to(dtype, copy=True)
