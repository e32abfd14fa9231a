"""Instance normalization as the logit modules use it: affine, without running statistics."""

from __future__ import annotations

from torch import Tensor, nn

from lip_mmdet.layers.implementation import Implemented


class InstanceNorm2d(Implemented, nn.InstanceNorm2d):
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

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        """Normalize each map of each image over its positions; shape and dtype stay.

        Args:
            x: (N, num_features, H, W).
            relu: apply ReLU to the result, in the same pass over the map.
        """
        return self.operators(x).instance_norm(x, self.weight, self.bias, self.eps, relu)


def rectified(norm: nn.Module, relu: nn.Module, x: Tensor) -> Tensor:
    """Return ``relu(norm(x))``, in one pass where both are the default ones."""
    if type(norm) is InstanceNorm2d and type(relu) is nn.ReLU:
        return norm(x, relu=True)
    return relu(norm(x))
