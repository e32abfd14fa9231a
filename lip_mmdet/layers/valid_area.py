"""Each image's own area in a padded batch, and layers that look at nothing else.

A batch is padded on the right and at the bottom to its largest image. LIP's instance norms average
over a map, and its windows reach past an image's border: what is seen in an image depends on the
batch that it is in. Here each image's area is cut out, computed by the operators as they are, and
laid on zeros, which is what an image alone has around it. Convolutions must find those zeros, too:
what leaks in at a border, an instance norm behind spreads over the image.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Callable, NamedTuple

import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn

from lip_mmdet.errors import InputError
from lip_mmdet.ops import formula
from lip_mmdet.ops.window import Window


class ValidAreas(NamedTuple):
    """The (height, width) of each image and of the batch that they were padded to, in pixels."""

    sizes: tuple[tuple[int, int], ...]
    canvas: tuple[int, int]

    def on(self, maps: Tensor) -> list[tuple[int, int]] | None:
        """Return the images' heights and widths on (N, C, h, w) maps; None: all fill them."""
        extents = [
            tuple(-(-n * m // c) for n, m, c in zip(size, maps.shape[2:], self.canvas))
            for size in self.sizes
        ]
        return None if set(extents) == {tuple(maps.shape[2:])} else extents


def areas_of(x: Tensor) -> ValidAreas | None:
    """Read the images' areas off a batch, (N, C, H, W).

    They stand in ``x.valid_sizes``, N pairs (height, width) in pixels, where
    ``SizedDetDataPreprocessor`` notes them. A program that is traced, compiled or exported looks at
    all of the batch: None.

    Raises:
        InputError: there are none, or they do not fit the batch.
    """
    if formula.is_wanted(x):
        return None
    sizes = getattr(x, 'valid_sizes', None)
    if sizes is None:
        raise InputError(
            "mask_padding=True needs the images' sizes: set model.data_preprocessor.type to "
            "'SizedDetDataPreprocessor', or x.valid_sizes = [(height, width), ...] before net(x)"
        )
    areas = ValidAreas(tuple((int(s[0]), int(s[1])) for s in sizes), tuple(x.shape[2:]))
    if len(sizes) != len(x) or any(
        not 0 < n <= most for size in areas.sizes for n, most in zip(size, areas.canvas)
    ):
        raise InputError(f'valid_sizes {areas.sizes} do not fit a batch of {tuple(x.shape)}')
    return areas


_AREAS: ContextVar[ValidAreas | None] = ContextVar('valid areas', default=None)


def mask_padding_in(network: nn.Module) -> None:
    """Have a network look at each image's own area only, in every forward pass from now on.

    Its batches need ``valid_sizes``; see :func:`areas_of`. Layers with an attribute
    ``masks_padding`` look at the areas by themselves; convolutions and plain pools find zeros
    outside of them.
    """
    for module in network.modules():
        if hasattr(module, 'masks_padding'):
            module.masks_padding = True
        elif getattr(module, 'kernel_size', 1) not in (1, (1, 1)):
            module.register_forward_pre_hook(_blank_padding)
    network.register_forward_pre_hook(_enter)
    network.register_forward_hook(_leave)


def _enter(network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    _AREAS.set(areas_of(inputs[0]))


def _leave(network: nn.Module, inputs: tuple[Tensor, ...], features: Any) -> None:
    _AREAS.set(None)


def _blank_padding(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    areas, (x, *rest) = _AREAS.get(), inputs
    extents = areas and areas.on(x)
    if not extents:
        return None
    own = x.new_zeros(len(x), 1, *x.shape[2:])
    for image, (height, width) in zip(own, extents):
        image[:, :height, :width] = 1
    return (x * own, *rest)


def checkpoint(function: Callable[..., Tensor], *args: Tensor) -> Tensor:
    """Compute a function of maps again in backward, looking at the same areas as now."""
    areas = _AREAS.get()

    def run(*args: Tensor) -> Tensor:
        now = _AREAS.set(areas)
        try:
            return function(*args)
        finally:
            _AREAS.reset(now)

    return torch.utils.checkpoint.checkpoint(run, *args, use_reentrant=False)


def by_image(operator: Callable[..., Tensor], pools: bool = False) -> Callable[..., Tensor]:
    """Return an operator on a batch's maps that looks at the current areas only.

    Args:
        operator: maps (N, C, H, W) maps, its 4-D arguments, to one.
        pools: whether its last three arguments are a window.

    Returns:
        The operator; outside the areas its result is zero.
    """

    def apply(x: Tensor, *args: Any) -> Tensor:
        areas = _AREAS.get()
        extents = areas and areas.on(x)
        if not extents:
            return operator(x, *args)
        height, width = Window.parse(*args[-3:]).out_size(x) if pools else x.shape[2:]
        results = []
        for i, (h, w) in enumerate(extents):
            own = [
                a[i : i + 1, :, :h, :w] if isinstance(a, Tensor) and a.dim() == 4 else a
                for a in (x, *args)
            ]
            result = operator(*own)
            margin = (0, width - result.shape[3], 0, height - result.shape[2])
            results.append(F.pad(result, margin))
        return torch.cat(results)

    return apply
