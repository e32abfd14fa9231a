"""Which implementation layers compute with: the fused operators or the released composition."""

from __future__ import annotations

from torch import nn

IMPLEMENTATIONS = ('fused', 'reference')


def set_implementation(module: nn.Module, implementation: str) -> None:
    """Choose how all layers within ``module`` compute; their parameters and results stay.

    Args:
        module: a backbone, a pool, a logit module.
        implementation: ``'fused'`` for :func:`lip_mmdet.ops.gated_lip2d` and
            :func:`lip_mmdet.ops.instance_norm`, ``'reference'`` for the same composed from
            PyTorch's operators, as released.

    Raises:
        ValueError: there is no such implementation.
    """
    if implementation not in IMPLEMENTATIONS:
        known = ' and '.join(map(repr, IMPLEMENTATIONS))
        raise ValueError(f'there is no implementation {implementation!r}; there are {known}')
    for layer in module.modules():
        if hasattr(layer, 'implementation'):
            layer.implementation = implementation
