"""By which implementation layers compute: fused operators, their composition, or that compiled."""

from __future__ import annotations

import functools
import logging
from typing import Callable, NamedTuple

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from lip_mmdet import ops
from lip_mmdet.errors import InputError
from lip_mmdet.layers.valid_area import by_image
from lip_mmdet.ops import formula

# Where the fused operators are the fastest. On a GPU (H200) they take 1.2 to 2.1 times the
# composition's time, for each is a dozen kernels. `meta` has no values to compute.
FUSED_DEVICES = ('cpu', 'meta')


class Operators(NamedTuple):
    """The three operators, with the arguments of those in :mod:`lip_mmdet.ops`."""

    lip2d: Callable[..., Tensor]
    gated_lip2d: Callable[..., Tensor]
    instance_norm: Callable[..., Tensor]


FUSED = Operators(ops.lip2d, ops.gated_lip2d, ops.instance_norm)
COMPOSED = Operators(formula.lip2d, formula.gated_lip2d, formula.instance_norm)
IMPLEMENTATIONS = ('fused', 'composed', 'compiled')


class Implemented(nn.Module):
    """A layer that computes by one of the implementations.

    Attributes:
        implementation: see :func:`set_implementation`.
        masks_padding: see :func:`lip_mmdet.layers.valid_area.mask_padding_in`.
    """

    implementation: str | None = None
    masks_padding = False

    def operators(self, x: Tensor) -> Operators:
        """Return the operators for a map like ``x``."""
        operators = choose_operators(self.implementation, x)
        if not self.masks_padding:
            return operators
        lip2d, gated_lip2d, instance_norm = operators
        return Operators(
            by_image(lip2d, pools=True), by_image(gated_lip2d, pools=True), by_image(instance_norm)
        )


def set_implementation(module: nn.Module, implementation: str | None) -> None:
    """Choose how all layers within ``module`` compute; their parameters and results stay.

    Args:
        module: a backbone, a pool, a logit module.
        implementation: ``'fused'`` for the operators of :mod:`lip_mmdet.ops`; ``'composed'`` for
            PyTorch's operators as released, which can be differentiated twice; ``'compiled'`` for
            these under ``torch.compile``, meant for GPUs, which run as composed, with a warning,
            where no compiler works. Default: fused on the CPU, composed on other devices.

    Raises:
        InputError: there is no such implementation.
    """
    if implementation == 'reference':
        print_log(
            "implementation='reference' is now called 'composed'; please change it",
            'current',
            logging.WARNING,
        )
        implementation = 'composed'
    if implementation is not None and implementation not in IMPLEMENTATIONS:
        known = ', '.join(map(repr, IMPLEMENTATIONS))
        raise InputError(f'there is no implementation {implementation!r}; there are {known}')
    for layer in module.modules():
        if isinstance(layer, Implemented):
            layer.implementation = implementation


def choose_operators(implementation: str | None, x: Tensor) -> Operators:
    """Return the operators of an implementation for maps like ``x``."""
    if formula.is_wanted(x):
        return COMPOSED
    kind = x.device.type
    if implementation is None:
        implementation = 'fused' if kind in FUSED_DEVICES else _composed(kind)
    if implementation == 'compiled' and has_compiler(kind):
        return compiled_operators()
    return FUSED if implementation == 'fused' else COMPOSED


@functools.lru_cache(maxsize=None)
def compiled_operators() -> Operators:
    """Return the composed operators, each compiled once for all layers and sizes."""
    return Operators(*map(_compiled, COMPOSED))


def _compiled(operator: Callable[..., Tensor]) -> Callable[..., Tensor]:
    run = torch.compile(operator, dynamic=True)

    def call(*arguments) -> Tensor:
        # To the compiler a parameter's size never varies: each number of channels would be a graph
        # of its own, and from the ninth on none. A view of it is a tensor like others.
        return run(*(a.view_as(a) if isinstance(a, nn.Parameter) else a for a in arguments))

    return call


@functools.lru_cache(maxsize=None)
def has_compiler(kind: str) -> bool:
    """Whether ``torch.compile`` works for a kind of device: one small function is compiled."""
    try:
        torch.compile(lambda x: x.exp() + 1, dynamic=True)(torch.ones(4, device=kind))
    except Exception as error:  # whatever the compiler of this machine lacks
        reason = str(error).strip().splitlines() or [type(error).__name__]
        print_log(
            f"implementation='compiled' runs as 'composed', for torch.compile fails here: "
            f'{reason[0]}',
            'current',
            logging.WARNING,
        )
        return False
    return True


@functools.lru_cache(maxsize=None)
def _composed(kind: str) -> str:
    print_log(
        f"LIP runs by PyTorch's operators on {kind!r}, where its fused ones are slower or never "
        "ran; implementation='compiled' compiles them",
        'current',
    )
    return 'composed'
