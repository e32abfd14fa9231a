"""Instance normalization, with ReLU if one follows: statistics and one multiply-add.

PyTorch's runs through batch normalization of a (1, N * C, H, W) view, for which a channels_last map
is copied to contiguous and back. This one works on tiles of either format.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lip_mmdet.ops import kernels
from lip_mmdet.ops.operator import Operator, exporting, may_overwrite
from lip_mmdet.ops.reference import instance_norm_reference
from lip_mmdet.ops.tiles import (
    Scratch,
    as_columns,
    as_planes,
    dense,
    memory_format,
    plane_sums,
    scale_and_shift,
    tiles,
    widen,
)

# Rows of each map from which its mean is guessed.
GUESS_ROWS = 4


def instance_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    relu: bool = False,
    inplace: bool = False,
) -> Tensor:
    """Normalize each map of each image over its positions, scale, shift and perhaps rectify.

    Args:
        x: (N, C, H, W), any floating dtype and memory format. A single position normalizes to 0.
        weight: scale, (C,).
        bias: shift, (C,).
        eps: added to the variance.
        relu: apply ReLU to the result.
        inplace: the caller has no more use for ``x``. Where gradients are off its memory then
            takes the result, for memory that is new to a process costs more than the arithmetic.

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
    if inplace and may_overwrite(x):
        _normalize(x, weight, bias, float(eps), bool(relu), output=x)
        return x
    return _OPERATOR((x, weight, bias), (float(eps), bool(relu)))


def plain_instance_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, relu: bool = False
) -> Tensor:
    """Compute :func:`instance_norm` as arithmetic, for derivatives of any order and mode.

    PyTorch's own normalization takes its statistics for constants from the third derivative on.
    """
    weight, bias = (p.view(-1, 1, 1) for p in (weight, bias))
    centred = x - x.mean((2, 3), keepdim=True)
    variance = centred.square().mean((2, 3), keepdim=True)
    output = centred * (variance + eps).rsqrt() * weight + bias
    return output.relu() if relu else output


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


def statistics(planes: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the mean and ``1 / sqrt(variance + eps)`` of each plane, both (N, C, 1, 1).

    Of a single position the second is 0, so that it normalizes to 0 and passes no gradient on.

    Each tile is read once, for the sums of the differences ``d`` from a guess at the mean and of
    their squares: ``variance = E[d^2] - E[d]^2``. That loses digits as the guess is off by more
    than a standard deviation. The guess is the mean of some rows; where they are so unlike the
    others that it is off by four, all is done again from the mean that was found.
    """
    positions = planes.shape[2] * planes.shape[3]
    if planes.device.type != 'cpu':
        variance, mean = torch.var_mean(widen(planes), (2, 3), unbiased=False, keepdim=True)
    elif planes.numel() == 0:
        mean = variance = widen(planes.new_zeros(*planes.shape[:2], 1, 1))
    else:
        mean, variance, offset = _moments(planes, _guess(planes))
        if (offset.square() > 16 * (variance + eps)).any():
            mean, variance, _ = _moments(planes, mean)
    if positions == 1:
        # One position is its own mean: no difference from it may grow, nor a gradient pass.
        return mean, torch.zeros_like(mean)
    return mean, (variance + eps).rsqrt_()


def _guess(planes: Tensor) -> Tensor:
    """Return the mean over a few evenly spaced rows of each plane."""
    step = -(-planes.shape[2] // GUESS_ROWS)
    rows = widen(planes[:, :, step // 2 :: step])
    return plane_sums(rows) / (rows.shape[2] * rows.shape[3])


def _moments(planes: Tensor, guess: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance of each plane, and how far the guess at the mean was off."""
    scratch = Scratch(planes, guess.dtype)
    sums, squares = (torch.zeros_like(guess, dtype=torch.float64) for _ in range(2))
    for tile in tiles(planes):
        values = tile.at(planes)
        offsets = torch.sub(widen(values), tile.of(guess), out=scratch.like(values))
        tile.of(sums).add_(plane_sums(offsets))
        tile.of(squares).add_(plane_sums(offsets.mul_(offsets)))
    positions = planes.shape[2] * planes.shape[3]
    offset = sums.div_(positions)
    variance = squares.div_(positions).sub_(offset.square()).clamp_(min=0)
    return (guess + offset).to(guess.dtype), variance.to(guess.dtype), offset


def normalization_gradient(
    planes: Tensor,
    grad: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    sums: tuple,
    factor: float = 1.0,
) -> None:
    """Turn the gradient of a normalized map into the raw map's, in place.

    ``rstd * weight * (grad - mean(grad) - normalized * mean(grad * normalized))`` is, for each
    plane, a multiple of the gradient plus a multiple of the raw map plus a constant.

    Args:
        planes: the raw map.
        grad: gradient of the normalized, scaled and shifted map, of ``planes``'s shape.
        mean: of each plane.
        rstd: of each plane.
        weight: (C,).
        sums: over each plane, of ``grad`` and of ``grad * normalized``.
        factor: that ``grad`` and its sums lack.
    """
    mean, rstd = as_columns(mean, planes), as_columns(rstd, planes)
    scale = as_columns(weight, planes) * rstd * factor
    positions = planes.shape[2] * planes.shape[3]
    raw_factor = -scale * rstd * sums[1] / positions
    constant = -scale * sums[0] / positions - raw_factor * mean
    scratch = Scratch(planes, grad.dtype)
    for tile in tiles(planes):
        raw, rest = widen(tile.at(planes)), scratch.like(tile.at(planes))
        scale_and_shift(raw, tile.of(raw_factor), tile.of(constant), out=rest)
        tile.at(grad).mul_(tile.of(scale)).add_(rest)


def _forward(x: Tensor, weight: Tensor, bias: Tensor, options: tuple, training: bool) -> tuple:
    output, mean, rstd = _allocate(x, weight, bias, options, training)
    figures = _normalize(x, weight, bias, *options, output)
    if training:
        mean.copy_(figures[0].view_as(mean))
        rstd.copy_(figures[1].view_as(rstd))
    return output, mean, rstd


def _normalize(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, relu: bool, output: Tensor
) -> tuple[Tensor, Tensor]:
    """Fill in ``output``, which may be ``x``; return the mean and ``rstd`` of each plane."""
    if kernels.has_kernels(x):
        from lip_mmdet.ops import triton_instance_norm

        x, weight, bias = dense(memory_format(x), x, weight, bias)
        mean, rstd = triton_instance_norm.statistics(x, eps)
        triton_instance_norm.normalize(x, mean, rstd, weight, bias, relu, output)
        return mean, rstd
    layout = memory_format(x)
    planes, result = as_planes(x, layout), as_planes(output, layout)
    mean, rstd = statistics(planes, eps)
    scale = as_columns(weight, planes) * rstd
    shift = as_columns(bias, planes) - mean * scale
    scratch = Scratch(planes, scale.dtype)
    for tile in tiles(planes):
        values, target = tile.at(planes), tile.at(result)
        same = target.dtype == scale.dtype
        normalized = target if same else scratch.like(values)
        scale_and_shift(widen(values), tile.of(scale), tile.of(shift), out=normalized)
        if relu:
            normalized.clamp_(min=0)
        if not same:
            target.copy_(normalized)
    return mean, rstd


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
    if kernels.has_kernels(x):
        from lip_mmdet.ops import triton_instance_norm

        arguments = (*dense(layout, grad_output, x, mean, rstd, weight, bias), relu)
        grad_x = torch.empty_like(x, memory_format=layout)
        sums = triton_instance_norm.gradient_sums(*arguments)
        triton_instance_norm.gradient(*arguments, sums, grad_x)
        return (grad_x, *affine_gradients(sums, weight, bias))
    planes, incoming = as_planes(x, layout), as_planes(grad_output, layout)
    mean, rstd = as_columns(mean, planes), as_columns(rstd, planes)
    scale = as_columns(weight, planes) * rstd
    shift = as_columns(bias, planes)
    full = torch.empty_like(x, dtype=mean.dtype, memory_format=layout)
    grad = as_planes(full, layout)
    sums = torch.zeros_like(scale), torch.zeros_like(scale)
    differences, results = Scratch(planes, mean.dtype), Scratch(planes, mean.dtype)
    for tile in tiles(planes):
        raw, target = widen(tile.at(planes)), tile.at(grad)
        centred = torch.sub(raw, tile.of(mean), out=differences.like(raw))
        target.copy_(tile.at(incoming))
        if relu:
            # Negative where ReLU was shut, by the arithmetic of forward up to rounding.
            result = results.like(raw)
            scale_and_shift(centred, tile.of(scale), tile.of(shift), out=result)
            target.mul_(torch.gt(result, 0, out=result))
        tile.of(sums[0]).add_(plane_sums(target))
        tile.of(sums[1]).add_(plane_sums(centred.mul_(target)))
    sums = sums[0], sums[1] * rstd
    normalization_gradient(planes, grad, mean, rstd, weight, sums)
    return (full.to(x.dtype), *affine_gradients(sums, weight, bias))


def affine_gradients(sums: tuple, weight: Tensor, bias: Tensor) -> tuple:
    """Return the gradients of the affine parameters.

    Args:
        sums: over each plane, of the result's gradient and of it times the normalized map.
        weight: (C,).
        bias: (C,).
    """
    channels = weight.numel()
    images = sums[0].numel() // max(channels, 1)
    grad_bias, grad_weight = (s.view(images, channels).sum(0) for s in sums)
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
    composition=plain_instance_norm,
)
