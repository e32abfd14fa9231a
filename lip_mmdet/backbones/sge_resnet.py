"""SGE-ResNet (arXiv 1905.09646): ResNet with SGE at the end of each residual branch."""

from __future__ import annotations

from mmdet.registry import MODELS

from lip_mmdet.backbones.base import WarmStartResNet
from lip_mmdet.backbones.checkpoints import OfficialNames


@MODELS.register_module()
class SGEResNet(WarmStartResNet):
    """ResNet with Spatial Group-wise Enhance after the last norm of each residual branch.

    It is MMDetection's ``ResNet`` with the plugin
    ``dict(cfg=dict(type='SGE', groups=64), position='after_conv3')``, and loads the authors' state
    dicts as they are. A ResNet's weights warm-start it: SGE starts untrained, its one factor at the
    start is divided out of the norm before it, and the network begins as exactly that ResNet.

    Args:
        depth: 50, 101 or 152.
        groups: of each SGE.
        plugins: further plugins; they come after SGE where the position is the same.
        **kwargs: as in ``mmdet.models.ResNet``.

    Raises:
        InputError: unknown depth, or 18 or 34, whose basic block has no place for a plugin;
            channels that do not divide into the groups; ``frozen_stages`` past the last stage.

    Example:
        >>> import torch
        >>> from lip_mmdet.backbones import SGEResNet
        >>> net = SGEResNet(depth=50).eval()
        >>> for feature in net(torch.rand(1, 3, 64, 64)):
        ...     print(tuple(feature.shape))
        (1, 256, 16, 16)
        (1, 512, 8, 8)
        (1, 1024, 4, 4)
        (1, 2048, 2, 2)
    """

    readme = 'configs/sge/README.md'

    def __init__(
        self, depth: int, *, groups: int = 64, plugins: list[dict] | None = None, **kwargs
    ) -> None:
        sge = dict(cfg=dict(type='SGE', groups=groups), position='after_conv3')
        self._check_depth(depth, SGE=sge)
        super().__init__(depth, plugins=[sge, *(plugins or [])], **kwargs)

    def _official_names(self) -> OfficialNames:
        return OfficialNames(classifier='fc', rules={})
