"""Instance normalization as the logit modules use it: affine, without running statistics."""

from __future__ import annotations

from torch import Tensor, nn


class InstanceNorm2d(nn.InstanceNorm2d):
    """Affine instance normalization that also takes 1x1 maps.

    PyTorch's refuses a single position, where the variance says nothing. The formula has an answer
    all the same, for the value *is* the mean: the shift alone. Small images reach it in the last
    stages.

    Args:
        num_features: channels of the (N, C, H, W) input.
        eps: added to the variance.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps=eps, affine=True, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each map of each image over its positions; shape and dtype stay."""
        if x.shape[-2:].numel() == 1:
            shift = self.bias.to(x.dtype).view(1, -1, 1, 1)
            # Zero times the weight keeps it in the graph, as DDP wants of every parameter.
            return (x - x) * self.weight.to(x.dtype).view(1, -1, 1, 1) + shift
        return super().forward(x)
