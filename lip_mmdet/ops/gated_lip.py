"""Instance normalization, soft gate and LIP as one operator (arXiv 1908.04156, 3.2 and 3.4).

The head of a logit module ends in ``G = c * sigmoid(z)`` with ``z = weight * normalized + bias``,
and LIP averages each window with the weights ``exp(G)``. Together they need few passes:

- Only ratios of weights within a window count. ``exp(c * sigmoid(z) - c / 2)`` is
  ``exp(c / 2 * tanh(z / 2))``: weights around 1, between ``e^-6`` and ``e^6`` for the paper's 12. A
  gated logit is bounded, so that no window needs its own maximum, as :func:`lip_mmdet.ops.lip2d`
  does for logits of any size.
- Normalization is ``raw * scale + shift`` once each map's mean and variance are known; the half in
  ``z / 2`` goes into scale and shift.
- Everything after the statistics happens tile by tile: the raw logit and the input are read once,
  and the pooled map is all that is written.

Backward recomputes the weights from the raw logit. With ``w`` the weight, ``D`` the total of a
window, ``O`` its output and ``g`` the output's gradient::

    A = sum of g / D, B = sum of g * O / D, over the windows that cover a position
    dL/dI = w * A
    dL/dG = w * (I * A - B)
    dL/dz = dL/dG * c / 4 * (1 - tanh(z / 2)^2)

and instance normalization takes two sums of ``dL/dz`` for each map, then one more multiply-add.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lip_mmdet.ops import kernels
from lip_mmdet.ops.instance_norm import (
    affine_gradients,
    check_affine,
    instance_norm,
    normalization_gradient,
    plain_instance_norm,
    statistics,
)
from lip_mmdet.ops.lip import lip2d, softmax_pool
from lip_mmdet.ops.operator import Operator, exporting
from lip_mmdet.ops.reference import gated_lip2d_reference
from lip_mmdet.ops.tiles import (
    Scratch,
    Windows,
    as_columns,
    as_planes,
    dense,
    memory_format,
    plane_sums,
    scale_and_shift,
    widen,
)
from lip_mmdet.ops.window import IntPair, Window, check_maps

# Up to here a window's total, and its product with any sensible input, fits float32. Past it each
# window needs its own maximum after all.
LARGEST_COEFFICIENT = 64.0


def gated_lip2d(
    x: Tensor,
    raw: Tensor,
    weight: Tensor,
    bias: Tensor,
    coefficient: float = 12.0,
    eps: float = 1e-5,
    kernel_size: IntPair = 3,
    stride: IntPair = 2,
    padding: IntPair = 1,
) -> Tensor:
    """Pool ``x`` by the importance ``exp(coefficient * sigmoid(instance_norm(raw)))``.

    Args:
        x: map to pool, (N, C, H, W), any floating dtype and memory format.
        raw: output of the last convolution of a logit module, of ``x``'s shape; its floating dtype
            may differ. Work is done in its memory format.
        weight: scale of the normalization, (C,).
        bias: shift of the normalization, (C,).
        coefficient: the soft gate's, positive; 12 in the paper.
        eps: added to the variance.
        kernel_size: window, an int or (height, width).
        stride: step of the window, an int or (height, width).
        padding: positions added on each side, an int or (height, width), at most half the window.

    Returns:
        (N, C, H', W') of ``x``'s dtype, sizes as in :func:`lip_mmdet.ops.lip2d`. Arithmetic inside
        is in float32, or in float64 where the maps are.

    Raises:
        ValueError: as :func:`lip_mmdet.ops.lip2d`; or ``weight`` or ``bias`` is not (C,), or the
            coefficient not positive.
    """
    window = Window.parse(kernel_size, stride, padding)
    check_maps(x=x, raw=raw)
    check_affine(raw, weight, bias)
    window.check_fits(x)
    if not coefficient > 0:
        raise ValueError(f'the soft gate needs a positive coefficient, not {coefficient}')
    if exporting():
        return gated_lip2d_reference(x, raw, weight, bias, coefficient, eps, *window)
    if coefficient > LARGEST_COEFFICIENT:
        return lip2d(
            x, coefficient * instance_norm(widen(raw), weight, bias, eps).sigmoid(), *window
        )
    layout = memory_format(raw)
    maps = x.contiguous(memory_format=layout), raw.contiguous(memory_format=layout)
    options = (float(coefficient), float(eps), *map(list, window))
    return _OPERATOR((*maps, weight, bias), options)


def _forward(
    x: Tensor, raw: Tensor, weight: Tensor, bias: Tensor, options: tuple, training: bool
) -> tuple:
    coefficient, eps, window = _parse(options)
    x, raw, weight, bias = dense(memory_format(raw), x, raw, weight, bias)
    output, average, total, *figures = _allocate(x, raw, weight, bias, options, training)
    if kernels.has_kernels(raw):
        from lip_mmdet.ops import triton_gated_lip, triton_instance_norm

        mean, rstd = triton_instance_norm.statistics(raw, eps)
        pool = triton_gated_lip.forward
    else:
        mean, rstd = statistics(as_planes(raw, memory_format(raw)), eps)
        pool = pool_in_tiles
    pool(x, raw, mean, rstd, weight, bias, coefficient, window, output, average, total)
    if training:
        figures = mean.view(raw.shape[:2]), rstd.view(raw.shape[:2])
    return output, average, total, *figures


def pool_in_tiles(
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

    Args:
        x: (N, C, H, W) map to pool, in the memory format that all maps share.
        raw: the raw logit, of its shape.
        mean: of the raw logit's maps, (N, C) or as columns.
        rstd: likewise.
        weight: (C,).
        bias: (C,).
        coefficient: the soft gate's.
        window: geometry.
        output: (N, C, H', W').
        average: the same in float32 or float64, for backward.
        total: sums of the weights, for backward.
    """
    layout, training = memory_format(raw), average.numel() > 0
    planes, values, result = (as_planes(t, layout) for t in (raw, x, output))
    # Of z / 2, which tanh takes.
    scale = as_columns(weight, planes) * as_columns(rstd, planes) / 2
    shift = as_columns(bias, planes) / 2 - as_columns(mean, planes) * scale
    if training:
        averages, totals = as_planes(average, layout), as_planes(total, layout)
    windows = Windows(window, planes, output.shape[2:], _dtype(x, raw))
    rows = windows.padded_rows()
    for tile in windows.tiles():
        new = rows.move_to(tile)
        weights = rows.at(new)
        scale_and_shift(widen(tile.at(planes, new)), tile.of(scale), tile.of(shift), out=weights)
        weights.tanh_().mul_(coefficient / 2).exp_()
        rows.share('weights')
        sums = windows.sum(rows)
        weights.mul_(tile.at(values, new))
        rows.share('products')
        weighted = windows.sum(rows)
        _divide(weighted, sums, out=tile.at(averages if training else result))
        if training:
            tile.at(totals).copy_(sums)
            tile.at(result).copy_(tile.at(averages))


def _backward(
    grad_output: Tensor,
    x: Tensor,
    raw: Tensor,
    weight: Tensor,
    bias: Tensor,
    average: Tensor,
    total: Tensor,
    mean: Tensor,
    rstd: Tensor,
    options: tuple,
) -> tuple:
    coefficient, _, window = _parse(options)
    layout = memory_format(raw)
    x, raw, weight, bias = dense(layout, x, raw, weight, bias)
    grad_x = torch.empty_like(x, memory_format=layout)
    grad_z = torch.empty_like(raw, dtype=average.dtype, memory_format=layout)
    pooled = dense(layout, grad_output, average, total)
    figures = *dense(layout, mean, rstd), weight, bias
    arguments = (*pooled, x, raw, *figures, coefficient, window, grad_x, grad_z)
    if kernels.has_kernels(raw):
        from lip_mmdet.ops import triton_gated_lip, triton_instance_norm

        sums = triton_gated_lip.backward(*arguments)
        grad_raw = torch.empty_like(raw) if raw.dtype != grad_z.dtype else grad_z
        triton_instance_norm.gradient(grad_z, raw, *figures, False, sums, grad_raw)
    else:
        sums = _differentiate_in_tiles(*arguments)
        planes, factor = as_planes(raw, layout), coefficient / 4
        normalization_gradient(planes, as_planes(grad_z, layout), *figures[:3], sums, factor)
        sums = tuple(s * factor for s in sums)
        grad_raw = grad_z.to(raw.dtype)
    return grad_x, grad_raw, *affine_gradients(sums, weight, bias)


def _differentiate_in_tiles(
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
) -> tuple[Tensor, Tensor]:
    """Fill in ``grad_x`` and ``grad_z``, the logit's without the factor ``coefficient / 4``.

    Both have ``x``'s shape. Other arguments as in :func:`pool_in_tiles`.

    Returns:
        The sums over each plane of ``grad_z``, and of it times the normalized logit.
    """
    layout = memory_format(raw)
    planes, values, z_grads, value_grads = (as_planes(t, layout) for t in (raw, x, grad_z, grad_x))
    incoming, averages, totals = (as_planes(t, layout) for t in (grad_output, average, total))
    mean, rstd = as_columns(mean, planes), as_columns(rstd, planes)
    # Of z / 2, which tanh takes.
    scale, shift = as_columns(weight, planes) * rstd / 2, as_columns(bias, planes) / 2
    sums = torch.zeros_like(scale), torch.zeros_like(scale)
    windows = Windows(window, planes, average.shape[2:], average.dtype)
    shares, gates, importances, differences, spread_a, spread_b = (
        Scratch(planes, average.dtype) for _ in range(6)
    )
    for tile in windows.tiles():
        own, reaching = windows.own(tile.rows), windows.reaching(tile.rows)
        if own[0] >= own[1]:
            continue
        total_tile, raw_tile = tile.at(totals, reaching), widen(tile.at(planes, own))
        share = shares.like(total_tile).copy_(tile.at(incoming, reaching)).div_(total_tile)
        a = windows.spread(share, reaching, own, out=spread_a)
        b = windows.spread(share.mul_(tile.at(averages, reaching)), reaching, own, out=spread_b)
        centred = torch.sub(raw_tile, tile.of(mean), out=differences.like(raw_tile))
        gate = gates.like(raw_tile)
        scale_and_shift(centred, tile.of(scale), tile.of(shift), out=gate).tanh_()
        importance = torch.mul(gate, coefficient / 2, out=importances.like(raw_tile)).exp_()
        tile.at(value_grads, own).copy_(a.mul_(importance))
        logit_grad = a.mul_(tile.at(values, own)).addcmul_(b, importance, value=-1)
        z_grad = tile.at(z_grads, own)
        torch.addcmul(logit_grad, logit_grad, gate.square_(), value=-1, out=z_grad)
        tile.of(sums[0]).add_(plane_sums(z_grad))
        tile.of(sums[1]).add_(plane_sums(centred.mul_(z_grad)))
    return sums[0], sums[1] * rstd


def _divide(dividend: Tensor, divisor: Tensor, out: Tensor) -> None:
    if out.dtype == dividend.dtype:
        torch.div(dividend, divisor, out=out)
    else:
        out.copy_(dividend.div_(divisor))


def _allocate(
    x: Tensor, raw: Tensor, weight: Tensor, bias: Tensor, options: tuple, training: bool
) -> tuple:
    _, _, window = _parse(options)
    images, channels = x.shape[:2]
    pooled = (images, channels, *window.out_size(x))
    figures = (images, channels)
    if not training:
        pooled_kept, figures = (0, 0, 0, 0), (0, 0)
    else:
        pooled_kept = pooled
    layout, dtype = memory_format(raw), _dtype(x, raw)

    def empty(shape: tuple, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=x.device, memory_format=layout)

    statistic = torch.float64 if raw.dtype == torch.float64 else torch.float32
    return (
        empty(pooled, x.dtype),
        empty(pooled_kept, dtype),
        empty(pooled_kept, dtype),
        x.new_empty(figures, dtype=statistic),
        x.new_empty(figures, dtype=statistic),
    )


def _composition(
    x: Tensor, raw: Tensor, weight: Tensor, bias: Tensor, coefficient: float, eps: float, *window
) -> Tensor:
    """As :func:`gated_lip2d`; not by the reference, for powers of its totals leave float32."""
    logit = coefficient * plain_instance_norm(raw, weight, bias, eps).sigmoid()
    return softmax_pool(x, logit, Window(*map(tuple, window)))


def _dtype(x: Tensor, raw: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(x.dtype, raw.dtype), torch.float32)


def _parse(options: tuple) -> tuple[float, float, Window]:
    coefficient, eps, *window = options
    return coefficient, eps, Window(*map(tuple, window))


_OPERATOR = Operator(
    'gated_lip2d',
    tensors=('x', 'raw', 'weight', 'bias'),
    options=(
        'float coefficient',
        'float eps',
        'int[] kernel_size',
        'int[] stride',
        'int[] padding',
    ),
    kept=('average', 'total', 'mean', 'rstd'),
    forward=_forward,
    backward=_backward,
    allocate=_allocate,
    composition=_composition,
)
