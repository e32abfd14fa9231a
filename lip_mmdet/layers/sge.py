"""Spatial Group-wise Enhance (Li, Hu and Yang, arXiv 1905.09646): attention over positions.

Each group of channels weighs its positions by how similar they are to what the group sees on
average: ``x_p * sigmoid(weight * (s_p - mean(s)) / (std(s) + eps) + bias)`` with
``s_p = <x_p, mean(x)>``, mean and standard deviation over the positions ``p`` of one map.
"""

from __future__ import annotations

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from lip_mmdet.errors import InputError
from lip_mmdet.layers.valid_area import by_image


# In MMEngine's own registry, where mmcv has its plugin layers: MMDetection's plugins find it there
# under any default scope.
@MODELS.register_module()
class SGE(nn.Module):
    """Spatial Group-wise Enhance, two parameters a group.

    As a plugin of any MMDetection ResNet with bottleneck blocks:
    ``plugins=[dict(cfg=dict(type='SGE', groups=64), position='after_conv3')]``.

    Starts with weight 0 and bias 1, that is with one factor, ``sigmoid(1)``, for all positions. A
    map whose positions are all alike, as one of a single position is, keeps ``sigmoid(bias)``.

    Args:
        in_channels: channels of the (N, in_channels, H, W) map.
        groups: number of groups, 64 in the paper.
        eps: added to the standard deviation.

    Raises:
        InputError: the channels do not divide into the groups.

    Example:
        >>> import torch
        >>> from lip_mmdet.layers import SGE
        >>> tuple(SGE(256)(torch.rand(1, 256, 14, 14)).shape)
        (1, 256, 14, 14)
    """

    masks_padding = False  # set where the backbone's is
    _abbr_ = 'sge'  # as a plugin its name in the state dict, which is the official one

    def __init__(self, in_channels: int, groups: int = 64, eps: float = 1e-5) -> None:
        super().__init__()
        if not (isinstance(groups, int) and groups > 0 and in_channels % groups == 0):
            raise InputError(
                f'SGE: {in_channels} channels do not divide into {groups!r} groups; set groups'
            )
        self.groups = groups
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(1, groups, 1, 1))
        self.bias = nn.Parameter(torch.ones(1, groups, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the positions of a (N, in_channels, H, W) map; shape and dtype stay.

        Similarities are sums of products, past float16's range on ordinary maps: the arithmetic is
        in float32, or in float64 for such a map.
        """
        return (by_image(self._enhance) if self.masks_padding else self._enhance)(x)

    def _enhance(self, x: Tensor) -> Tensor:
        grouped = x.unflatten(1, (self.groups, -1))
        gate = torch.sigmoid(self._similarity(grouped) * self.weight + self.bias)
        output = grouped * gate.unsqueeze(2).to(x.dtype)
        if torch.jit.is_tracing():  # which would write the shape of `_unsafe_view` down
            return output.flatten(1, 2)
        # Not `view`: MMDetection's checkpointed blocks add to this in place, which PyTorch forbids
        # on a view that was made without gradients. Nothing else refers to the memory.
        return torch.ops.aten._unsafe_view(output, x.shape)

    def _similarity(self, grouped: Tensor) -> Tensor:
        """Map (N, groups, C, H, W) to the normalized similarities, (N, groups, H, W)."""
        features = grouped if grouped.dtype == torch.float64 else grouped.float()
        mean = features.mean((3, 4), keepdim=True)
        # Counted from the first position's, which the normalization takes out again: where all
        # positions are alike this is 0 to the bit. The rounding of a large product, or of the mean,
        # would pass for a difference there.
        difference = features - features[..., :1, :1].detach()
        similarity = (difference * mean).sum(2)
        similarity = similarity - similarity.mean((2, 3), keepdim=True)
        if similarity.shape[-2:].numel() == 1:
            return similarity  # zero; one position has no standard deviation
        return similarity / (similarity.std((2, 3), keepdim=True) + self.eps)

    def extra_repr(self) -> str:
        return f'groups={self.groups}, eps={self.eps}'
