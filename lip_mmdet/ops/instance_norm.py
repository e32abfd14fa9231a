"""Instance normalization, with ReLU if one follows: statistics and one multiply-add.

PyTorch's runs through batch normalization of a (1, N * C, H, W) view, for which a channels_last map
is copied to contiguous and back. This one works on tiles of either format.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lip_mmdet.ops.operator import Operator, exporting
from lip_mmdet.ops.reference import instance_norm_reference
from lip_mmdet.ops.tiles import (
    as_columns,
    as_planes,
    memory_format,
    statistics,
    tiles,
    widen,
)


def instance_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, relu: bool = False
) -> Tensor:
    """Normalize each map of each image over its positions, scale, shift and perhaps rectify.

    Args:
        x: (N, C, H, W), any floating dtype and memory format. A single position normalizes to 0.
        weight: scale, (C,).
        bias: shift, (C,).
        eps: added to the variance.
        relu: apply ReLU to the result.

    Returns:
        The shape and dtype of ``x``, and its memory format if that is a dense one. Arithmetic
        inside is in float32 or float64.

    Raises:
        ValueError: ``x`` is not 4-D and floating, or ``weight`` or ``bias`` is not (C,).
    """
    check_affine(x, weight, bias)
    if exporting():
        return instance_norm_reference(x, weight, bias, eps, relu)
    x = x.contiguous(memory_format=memory_format(x))
    return _OPERATOR((x, weight, bias), (float(eps), bool(relu)))


def check_affine(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Check that a map can be normalized with these parameters.

    Raises:
        ValueError: it cannot; the message names shapes or dtype.
    """
    if x.dim() != 4 or weight.shape != (x.shape[1],) or bias.shape != weight.shape:
        raise ValueError(
            'weight and bias must be (C,) for a map of (N, C, H, W), not '
            f'{tuple(weight.shape)} and {tuple(bias.shape)} for {tuple(x.shape)}'
        )
    if not x.is_floating_point():
        raise ValueError(f'the map to normalize must be floating point, not {x.dtype}')


def normalization_gradient(
    planes: Tensor, grad: Tensor, mean: Tensor, rstd: Tensor, scale: Tensor, sums: tuple
) -> Tensor:
    """Turn the gradient of a normalized map into the raw map's, in place.

    ``rstd * weight * (grad - mean(grad) - normalized * mean(grad * normalized))`` is, for each
    plane, a multiple of the gradient plus a multiple of the raw map plus a constant.

    Args:
        planes: the raw map.
        grad: gradient of the normalized, scaled and shifted map, of ``planes``'s shape.
        mean: of each plane.
        rstd: of each plane.
        scale: ``rstd * weight``.
        sums: over each plane, of ``grad`` and of ``grad * (raw - mean)``.
    """
    positions = planes.shape[2] * planes.shape[3]
    raw_factor = -scale * rstd.square() * sums[1] / positions
    constant = -scale * sums[0] / positions - raw_factor * mean
    for tile in tiles(planes):
        target = tile.at(grad)
        rest = torch.addcmul(tile.of(constant), widen(tile.at(planes)), tile.of(raw_factor))
        torch.addcmul(rest, target, tile.of(scale), out=target)
    return grad


def _forward(x: Tensor, weight: Tensor, bias: Tensor, options: tuple, training: bool) -> tuple:
    eps, relu = options
    output, mean, rstd = _allocate(x, weight, bias, options, training)
    layout = memory_format(x)
    planes, result = as_planes(x, layout), as_planes(output, layout)
    centre, factor = statistics(planes, eps)
    scale = as_columns(weight, planes) * factor
    shift = as_columns(bias, planes) - centre * scale
    for tile in tiles(planes):
        target = tile.at(result)
        if target.dtype == scale.dtype:
            torch.addcmul(tile.of(shift), tile.at(planes), tile.of(scale), out=target)
        else:
            target.copy_(torch.addcmul(tile.of(shift), widen(tile.at(planes)), tile.of(scale)))
        if relu:
            target.clamp_(min=0)
    if training:
        mean.copy_(centre.view_as(mean))
        rstd.copy_(factor.view_as(rstd))
    return output, mean, rstd


def _backward(
    grad_output: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    options: tuple,
) -> tuple:
    _, relu = options
    layout = memory_format(x)
    planes, incoming = as_planes(x, layout), as_planes(grad_output, layout)
    mean, rstd = as_columns(mean, planes), as_columns(rstd, planes)
    scale = as_columns(weight, planes) * rstd
    shift = as_columns(bias, planes)
    full = torch.empty_like(x, dtype=mean.dtype, memory_format=layout)
    grad = as_planes(full, layout)
    sums = torch.zeros_like(scale), torch.zeros_like(scale)
    for tile in tiles(planes):
        target = tile.at(grad)
        centred = widen(tile.at(planes)) - tile.of(mean)
        target.copy_(tile.at(incoming))
        if relu:
            # Negative where ReLU was shut, by the arithmetic of forward up to rounding.
            value = torch.addcmul(tile.of(shift), centred, tile.of(scale))
            target.mul_(value > 0)
        tile.of(sums[0]).add_(target.sum((2, 3), keepdim=True))
        tile.of(sums[1]).add_(centred.mul_(target).sum((2, 3), keepdim=True))
    normalization_gradient(planes, grad, mean, rstd, scale, sums)
    return (full.to(x.dtype), *affine_gradients(sums, rstd, weight, bias))


def affine_gradients(sums: tuple, rstd: Tensor, weight: Tensor, bias: Tensor) -> tuple:
    """Return the gradients of the affine parameters from the sums over each plane."""
    channels = weight.numel()
    images = sums[0].numel() // max(channels, 1)
    grad_weight = (sums[1] * rstd).view(images, channels).sum(0)
    grad_bias = sums[0].view(images, channels).sum(0)
    return grad_weight.to(weight.dtype), grad_bias.to(bias.dtype)


def _allocate(x: Tensor, weight: Tensor, bias: Tensor, options: tuple, training: bool) -> tuple:
    output = torch.empty_like(x, memory_format=memory_format(x))
    figures = tuple(x.shape[:2]) if training else (0, 0)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return output, x.new_empty(figures, dtype=dtype), x.new_empty(figures, dtype=dtype)


_OPERATOR = Operator(
    'instance_norm',
    tensors=('x', 'weight', 'bias'),
    options=('float eps', 'bool relu'),
    kept=('mean', 'rstd'),
    forward=_forward,
    backward=_backward,
    allocate=_allocate,
)
