"""Soft gate (arXiv 1908.04156, section 3.4): bounds the logit so that no weight explodes."""

from __future__ import annotations

from torch import Tensor, nn

from lip_mmdet.errors import InputError


class SoftGate(nn.Module):
    """``coefficient * sigmoid(x)``, so that an importance lies in ``1 .. e^coefficient``.

    Args:
        coefficient: the largest logit; 12 in the paper.

    Raises:
        InputError: the coefficient is not positive.
    """

    def __init__(self, coefficient: float = 12.0) -> None:
        super().__init__()
        if not coefficient > 0:
            raise InputError(f'the soft gate needs a positive coefficient, not {coefficient}')
        self.coefficient = coefficient

    def forward(self, x: Tensor) -> Tensor:
        """Gate a map of any shape and floating dtype; shape and dtype stay."""
        return x.sigmoid() * self.coefficient

    def extra_repr(self) -> str:
        return f'coefficient={self.coefficient}'
