"""Instance normalization as the logit modules use it: affine, without running statistics."""

from __future__ import annotations

from torch import Tensor, nn

from lip_mmdet.ops import instance_norm, instance_norm_reference


class InstanceNorm2d(nn.InstanceNorm2d):
    """Affine instance normalization that also takes 1x1 maps.

    PyTorch's refuses a single position, where the variance says nothing. The formula has an answer
    all the same, for the value *is* the mean: the shift alone. Small images reach it in the last
    stages.

    Args:
        num_features: channels of the (N, C, H, W) input.
        eps: added to the variance.

    Attributes:
        implementation: see :func:`lip_mmdet.layers.set_implementation`.
    """

    implementation = 'fused'

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps=eps, affine=True, track_running_stats=False)

    def forward(self, x: Tensor, relu: bool = False, inplace: bool = False) -> Tensor:
        """Normalize each map of each image over its positions; shape and dtype stay.

        Args:
            x: (N, num_features, H, W).
            relu: apply ReLU to the result, in the same pass over the map.
            inplace: ``x`` may be overwritten; see :func:`lip_mmdet.ops.instance_norm`.
        """
        if self.implementation == 'reference':
            return instance_norm_reference(x, self.weight, self.bias, self.eps, relu)
        return instance_norm(x, self.weight, self.bias, self.eps, relu, inplace)
