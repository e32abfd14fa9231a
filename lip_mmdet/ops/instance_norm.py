"""Instance normalization, with ReLU if one follows: statistics and one multiply-add.

PyTorch's runs through batch normalization of a (1, N * C, H, W) view, for which a channels_last map
is copied to contiguous and back. This one works on tiles of either format.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lip_mmdet.ops import formula
from lip_mmdet.ops.tiles import (
    Scratch,
    as_columns,
    as_planes,
    memory_format,
    plane_sums,
    scale_and_shift,
    tiles,
    widen,
)
from lip_mmdet.ops.window import check_affine

# Rows of each map from which its mean is guessed.
GUESS_ROWS = 4


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
        InputError: ``x`` is not 4-D and floating, or ``weight`` or ``bias`` is not (C,).
    """
    check_affine(x, weight, bias)
    if formula.is_wanted(x):
        return formula.instance_norm(x, weight, bias, eps, relu)
    return _InstanceNorm.apply(x, weight, bias, eps, relu)


class _InstanceNorm(torch.autograd.Function):
    """Keeps the input and two statistics of each map; backward finds ReLU's sign from them anew."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float, relu: bool) -> Tensor:
        layout = memory_format(x)
        planes = as_planes(x, layout)
        mean, rstd = statistics(planes, eps)
        output = torch.empty_like(x, memory_format=layout)
        normalized = as_planes(output, layout)
        scale = as_columns(weight, planes) * rstd
        shift = as_columns(bias, planes) - mean * scale
        scratch = Scratch(planes, scale.dtype)
        for tile in tiles(planes):
            values, target = widen(tile.at(planes)), tile.at(normalized)
            result = target if target.dtype == scale.dtype else scratch.like(values)
            scale_and_shift(values, tile.of(scale), tile.of(shift), out=result)
            if relu:
                result.clamp_(min=0)
            if result is not target:
                target.copy_(result)
        ctx.relu = relu
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        return output

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple:
        formula.check_first_derivative()
        x, weight, bias, mean, rstd = ctx.saved_tensors
        layout = memory_format(x)
        planes, incoming = as_planes(x, layout), as_planes(grad_output, layout)
        scale, shift = as_columns(weight, planes) * rstd, as_columns(bias, planes)
        gradient = torch.empty_like(x, dtype=mean.dtype, memory_format=layout)
        grad = as_planes(gradient, layout)
        sums = torch.zeros_like(scale), torch.zeros_like(scale)
        differences, results = Scratch(planes, mean.dtype), Scratch(planes, mean.dtype)
        for tile in tiles(planes):
            raw, target = widen(tile.at(planes)), tile.at(grad)
            centred = torch.sub(raw, tile.of(mean), out=differences.like(raw))
            target.copy_(tile.at(incoming))
            if ctx.relu:
                # Negative where ReLU was shut, by the arithmetic of forward up to rounding.
                result = results.like(raw)
                scale_and_shift(centred, tile.of(scale), tile.of(shift), out=result)
                target.mul_(torch.gt(result, 0, out=result))
            tile.of(sums[0]).add_(plane_sums(target))
            tile.of(sums[1]).add_(plane_sums(centred.mul_(target)))
        sums = sums[0], sums[1] * rstd
        normalization_gradient(planes, grad, mean, rstd, weight, sums)
        return (gradient.to(x.dtype), *affine_gradients(sums, weight, bias), None, None)


def statistics(planes: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the mean and ``1 / sqrt(variance + eps)`` of each plane, both (N, C, 1, 1).

    Of a single position the second is 0, so that it normalizes to 0 and passes no gradient on.

    Each tile is read once, for the sums of the differences ``d`` from a guess at the mean and of
    their squares: ``variance = E[d^2] - E[d]^2``. That loses digits as the guess is off by more
    than a standard deviation. The guess is some rows' mean; if off by four, all is done again.
    """
    if planes.numel() == 0:
        mean = variance = widen(planes.new_zeros(*planes.shape[:2], 1, 1))
    else:
        mean, variance, offset = _moments(planes, _guess(planes))
        if (offset.square() > 16 * (variance + eps)).any():
            mean, variance, _ = _moments(planes, mean)
    if planes.shape[2] * planes.shape[3] == 1:
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
    planes: Tensor, grad: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, sums: tuple
) -> None:
    """Turn the gradient of a normalized map into the raw map's, in place.

    ``rstd * weight * (grad - mean(grad) - normalized * mean(grad * normalized))`` is, for each
    plane, a multiple of the gradient plus a multiple of the raw map plus a constant.
    """
    scale = as_columns(weight, planes) * rstd
    positions = planes.shape[2] * planes.shape[3]
    factor = -scale * rstd * sums[1] / positions
    constant = -scale * sums[0] / positions - factor * mean
    scratch = Scratch(planes, grad.dtype)
    for tile in tiles(planes):
        raw, rest = widen(tile.at(planes)), scratch.like(tile.at(planes))
        scale_and_shift(raw, tile.of(factor), tile.of(constant), out=rest)
        tile.at(grad).mul_(tile.of(scale)).add_(rest)


def affine_gradients(sums: tuple, weight: Tensor, bias: Tensor) -> tuple:
    """Return the affine parameters' gradients, from :func:`normalization_gradient`'s sums."""
    channels = weight.numel()
    images = sums[0].numel() // max(channels, 1)
    grad_bias, grad_weight = (s.reshape(images, channels).sum(0) for s in sums)
    return grad_weight.to(weight.dtype), grad_bias.to(bias.dtype)
