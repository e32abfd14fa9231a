"""Instance normalization, soft gate and LIP as one operator (arXiv 1908.04156, 3.2 and 3.4).

The head of a logit module ends in ``G = c * s`` with ``s = sigmoid(weight * normalized + bias)``,
and LIP averages each window with the weights ``w = exp(G)``. A gated logit is bounded, so that no
window needs its own maximum, as :func:`lip_mmdet.ops.lip2d` does for logits of any size; and once
each map's mean and variance are known everything happens tile by tile: the raw logit and the input
are read once, and the pooled map is all that is written.

Backward keeps the two maps and the two statistics, and computes the weights anew. With ``D`` the
total of a window, ``O`` its output and ``g`` the output's gradient::

    A = sum of g / D, B = sum of g * O / D, over the windows that cover a position
    dL/dI = w * A
    dL/dG = w * (I * A - B)
    dL/dz = dL/dG * c * s * (1 - s)

and instance normalization takes two sums of ``dL/dz`` for each map, then one more multiply-add.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lip_mmdet.ops import formula
from lip_mmdet.ops.instance_norm import (
    affine_gradients,
    instance_norm,
    normalization_gradient,
    statistics,
)
from lip_mmdet.ops.lip import lip2d
from lip_mmdet.ops.tiles import (
    Scratch,
    Tile,
    Windows,
    as_columns,
    as_planes,
    memory_format,
    plane_sums,
    scale_and_shift,
    widen,
)
from lip_mmdet.ops.window import IntPair, Window, check_affine, check_maps


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
        InputError: as :func:`lip_mmdet.ops.lip2d`; or ``weight`` or ``bias`` is not (C,), or the
            coefficient not positive.
    """
    window = Window.parse(kernel_size, stride, padding)
    check_maps(x=x, raw=raw)
    check_affine(raw, weight, bias)
    window.check_fits(x)
    formula.check_coefficient(coefficient)
    if formula.is_wanted(x):
        return formula.gated_lip2d(x, raw, weight, bias, coefficient, eps, *window)
    if coefficient > formula.LARGEST_COEFFICIENT:
        logit = coefficient * instance_norm(widen(raw), weight, bias, eps).sigmoid()
        return lip2d(x, logit, *window)
    return _GatedLIP2d.apply(x, raw, weight, bias, coefficient, eps, window)


class _GatedLIP2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, raw: Tensor, weight: Tensor, bias: Tensor, *options) -> Tensor:
        coefficient, eps, window = options
        layout = memory_format(raw)
        planes, values = as_planes(raw, layout), as_planes(x, layout)
        mean, rstd = statistics(planes, eps)
        size = *x.shape[:2], *window.out_size(x)
        output = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout)
        pooled = as_planes(output, layout)
        weights = _Weights(planes, values, (mean, rstd), (weight, bias), coefficient, window)
        for tile in weights.windows.tiles():
            total, weighted = weights.move_to(tile)
            result = tile.at(pooled)
            if result.dtype == total.dtype:
                torch.div(weighted, total, out=result)
            else:
                result.copy_(weighted.div_(total))
        ctx.options = coefficient, window
        ctx.save_for_backward(x, raw, weight, bias, mean, rstd)
        return output

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple:
        formula.check_first_derivative()
        x, raw, weight, bias, mean, rstd = ctx.saved_tensors
        coefficient, window = ctx.options
        layout = memory_format(raw)
        planes, values = as_planes(raw, layout), as_planes(x, layout)
        weights = _Weights(planes, values, (mean, rstd), (weight, bias), coefficient, window)
        grad_x = torch.empty_like(x, memory_format=layout)
        grad_raw = torch.empty_like(raw, dtype=weights.dtype, memory_format=layout)
        grads = (as_planes(grad, layout) for grad in (grad_x, grad_raw))
        sums = _differentiate(as_planes(grad_output, layout), planes, values, mean, weights, *grads)
        sums = sums[0], sums[1] * rstd
        scaled = weight * coefficient
        normalization_gradient(planes, as_planes(grad_raw, layout), mean, rstd, scaled, sums)
        affine = affine_gradients(tuple(coefficient * s for s in sums), weight, bias)
        return (grad_x, grad_raw.to(raw.dtype), *affine, None, None, None)


def _differentiate(
    incoming: Tensor,
    planes: Tensor,
    values: Tensor,
    mean: Tensor,
    weights: _Weights,
    grad_values: Tensor,
    grad_z: Tensor,
) -> tuple[Tensor, Tensor]:
    """Fill in the gradients of the map and, but for the coefficient, of the normalized logit.

    Return the sums over each plane of the latter, and of it times ``raw - mean``.
    """
    windows, dtype = weights.windows, weights.dtype
    sums = torch.zeros_like(mean), torch.zeros_like(mean)
    shares, products, spread_a, spread_b, differences, results = (
        Scratch(planes, dtype) for _ in range(6)
    )
    for tile in windows.tiles():
        total, weighted = weights.move_to(tile)
        reaching, width = windows.reaching(tile), total.shape[3]
        share, new = shares.slide(tile, reaching, width)
        product, _ = products.slide(tile, reaching, width)
        first = new[0] - reaching[0]
        torch.div(widen(tile.at(incoming)), total, out=share[:, :, first:])
        torch.mul(share[:, :, first:], weighted.div_(total), out=product[:, :, first:])
        a = windows.spread(share, tile, spread_a)
        b = windows.spread(product, tile, spread_b)
        own = windows.own(tile)
        importance, gate = weights.at(own)
        x, raw, target = tile.at(values, own), tile.at(planes, own), tile.at(grad_values, own)
        grad = torch.mul(a, importance, out=a if target.dtype != dtype else target)
        if grad is not target:
            target.copy_(grad)
        result = torch.mul(grad, x, out=results.like(a)).addcmul_(b, importance, value=-1)
        z_grad = tile.at(grad_z, own)
        torch.ops.aten.sigmoid_backward.grad_input(result, gate, grad_input=z_grad)
        centred = torch.sub(widen(raw), tile.of(mean), out=differences.like(a))
        tile.of(sums[0]).add_(plane_sums(z_grad))
        tile.of(sums[1]).add_(plane_sums(centred.mul_(z_grad)))
    return sums


class _Weights:
    """The weights of the positions, ``exp(coefficient * gate)``, tile after tile.

    Rows that the windows of two tiles share are computed once.
    """

    def __init__(
        self, planes: Tensor, values: Tensor, figures: tuple, affine: tuple, coefficient, window
    ) -> None:
        (mean, rstd), (weight, bias) = figures, affine
        self.dtype = torch.promote_types(values.dtype, mean.dtype)
        self.planes, self.values = planes, values
        self.scale = as_columns(weight, planes) * rstd
        self.shift = as_columns(bias, planes) - mean * self.scale
        # PyTorch's exp2 and sigmoid take a third of the time of its exp, a sixth of its tanh.
        self.exponent = coefficient / math.log(2)
        self.windows = Windows(window, planes, window.out_size(planes), self.dtype)
        self._gates, self._weights, self._products, self._totals, self._weighted = (
            Scratch(planes, self.dtype) for _ in range(5)
        )

    def move_to(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """Go on to a tile; return its windows' totals and weighted sums, which may be changed."""
        covered, own = self.windows.covered(tile), self.windows.own(tile)
        rows = covered[0], max(covered[1], own[1])
        width = self.planes.shape[3]
        self._first = rows[0]
        self._gate, new = self._gates.slide(tile, rows, width)
        self._weight, _ = self._weights.slide(tile, rows, width)
        gate, weight = (t[:, :, new[0] - rows[0] :] for t in (self._gate, self._weight))
        raw = widen(tile.at(self.planes, new))
        scale_and_shift(raw, tile.of(self.scale), tile.of(self.shift), out=gate).sigmoid_()
        torch.mul(gate, self.exponent, out=weight).exp2_()
        weight, _ = self.at(covered)
        product = torch.mul(weight, tile.at(self.values, covered), out=self._products.like(weight))
        return (
            self.windows.sum(weight, tile, self._totals),
            self.windows.sum(product, tile, self._weighted),
        )

    def at(self, rows: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """View weights and gates of rows of the map that the tile covers or owns."""
        some = slice(rows[0] - self._first, rows[1] - self._first)
        return self._weight[:, :, some], self._gate[:, :, some]
