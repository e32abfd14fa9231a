"""Focal loss on soft targets, as the weighted pair of its two sides."""

from __future__ import annotations

from mmdet.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from lip_mmdet.errors import InputError


@MODELS.register_module()
class FocalPairLoss(nn.Module):
    """``T FL+ + (1 - T) FL-``: a soft target T weighs focal loss's two sides.

    ``FL+ = -alpha (1 - p)^gamma log p`` and ``FL- = -(1 - alpha) p^gamma log(1 - p)``, with p the
    sigmoid of a logit (arXiv 1708.02002). At targets 0 and 1 it is MMDetection's ``FocalLoss``;
    between them that one, which mixes inside the power, and ``QualityFocalLoss`` are others.

    Args:
        use_sigmoid: True; MMDetection's heads ask a loss for it.
        alpha: weight of the positive side.
        gamma: exponent that plays well-known priors down.
        loss_weight: factor of the loss.

    Raises:
        InputError: ``use_sigmoid`` is False.
    """

    def __init__(
        self,
        use_sigmoid: bool = True,
        alpha: float = 0.25,
        gamma: float = 2.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not use_sigmoid:
            raise InputError('FocalPairLoss is for sigmoid scores; set use_sigmoid=True')
        self.alpha = alpha
        self.gamma = gamma
        self.loss_weight = loss_weight

    def forward(
        self, logits: Tensor, targets: Tensor, weight: Tensor, avg_factor: Tensor
    ) -> Tensor:
        """Return the weighted sum over ``avg_factor``.

        Args:
            logits: (N, num_classes).
            targets: (N, num_classes), 0 to 1.
            weight: (N,), of each prior.
            avg_factor: what the sum is divided by.
        """
        p = logits.sigmoid()
        positive = -self.alpha * (1 - p) ** self.gamma * logsigmoid(logits)
        negative = -(1 - self.alpha) * p**self.gamma * logsigmoid(-logits)
        loss = targets * positive + (1 - targets) * negative
        return self.loss_weight * (loss * weight[:, None]).sum() / avg_factor
