"""DenseNet (Huang et al., arXiv 1608.06993) for detection, the plain twin of LIP-DenseNet.

Each layer of a dense block sees the outputs of all layers before it. Between the blocks a
*transition* halves channels and resolution.
"""

from __future__ import annotations

from typing import Sequence

import torch
from mmcv.cnn import build_conv_layer
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from lip_mmdet.backbones.base import WarmStartBackbone
from lip_mmdet.backbones.checkpoints import OfficialNames
from lip_mmdet.errors import InputError
from lip_mmdet.layers.logit_modules import build_norm
from lip_mmdet.layers.valid_area import checkpoint

# Torchvision's names, and ours. Its first files have a dot where it has none today.
OFFICIAL_RULES = {'features.': ''}
OLDER_NAMES = {'norm.1.': 'norm1.', 'norm.2.': 'norm2.', 'conv.1.': 'conv1.', 'conv.2.': 'conv2.'}


class DenseLayer(BaseModule):
    """norm - ReLU - conv1x1 - norm - ReLU - conv3x3 on all that stands before it.

    Args:
        in_channels: channels of the maps before it, together.
        growth_rate: channels that it adds.
        width: channels between its convolutions.
        conv_cfg: config of the convolutions.
        norm_cfg: config of the norms.
        with_cp: recompute the layer in backward instead of keeping its activations.
    """

    def __init__(
        self,
        in_channels: int,
        growth_rate: int,
        width: int,
        *,
        conv_cfg: dict | None,
        norm_cfg: dict,
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.norm1 = build_norm(norm_cfg, in_channels)
        self.conv1 = build_conv_layer(conv_cfg, in_channels, width, 1, bias=False)
        self.norm2 = build_norm(norm_cfg, width)
        self.conv2 = build_conv_layer(conv_cfg, width, growth_rate, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, *features: Tensor) -> Tensor:
        """Map several (N, C_i, H, W), in_channels together, to (N, growth_rate, H, W)."""
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(self._grow, *features)
        return self._grow(*features)

    def _grow(self, *features: Tensor) -> Tensor:
        x = torch.cat(features, 1)
        x = self.conv1(self.relu(self.norm1(x)))
        return self.conv2(self.relu(self.norm2(x)))


class DenseBlock(BaseModule):
    """Dense layers, named ``denselayer1`` and so on, whose outputs gather in one map.

    Args:
        num_layers: of the block.
        in_channels: channels of its input.
        growth_rate: channels that each layer adds.
        width: channels inside each layer.
        **layer: options of :class:`DenseLayer`.
    """

    def __init__(
        self, num_layers: int, in_channels: int, growth_rate: int, width: int, **layer
    ) -> None:
        super().__init__()
        for i in range(num_layers):
            self.add_module(
                f'denselayer{i + 1}',
                DenseLayer(in_channels + i * growth_rate, growth_rate, width, **layer),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, in_channels + num_layers * growth_rate, H, W)."""
        features = [x]
        for layer in self.children():
            features.append(layer(*features))
        return torch.cat(features, 1)


class Transition(BaseModule):
    """norm - ReLU - conv1x1 - pooling, from one dense block to the next.

    Args:
        in_channels: channels of the (N, in_channels, H, W) input.
        out_channels: channels of the output.
        pool: pools (N, out_channels, H, W) to half of the resolution.
        conv_cfg: config of the convolution.
        norm_cfg: config of the norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        pool: nn.Module,
        *,
        conv_cfg: dict | None,
        norm_cfg: dict,
    ) -> None:
        super().__init__()
        self.norm = build_norm(norm_cfg, in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = build_conv_layer(conv_cfg, in_channels, out_channels, 1, bias=False)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H // 2, W // 2)."""
        return self.pool(self.conv(self.relu(self.norm(x))))


@MODELS.register_module()
class DenseNet(WarmStartBackbone):
    """DenseNet as a backbone: features at strides 4, 8, 16 and 32.

    The features are the outputs of the dense blocks. Those of the first three are the plain
    gathered maps, before the norm and ReLU of the transition; the fourth's have gone through the
    network's last norm, ``norm5``, and a ReLU.

    Loads torchvision's state dicts as they are, the older ones with names such as
    ``denselayer1.norm.1`` too.

    =====  ======================  ===========
    depth  channels of features    growth rate
    =====  ======================  ===========
    121    256, 512, 1024, 1024    32
    161    384, 768, 2112, 2208    48
    169    256, 512, 1280, 1664    32
    201    256, 512, 1792, 1920    32
    =====  ======================  ===========

    Args:
        depth: 121, 161, 169 or 201.
        in_channels: of the image.
        stem_channels: of the stem; default: twice the growth rate.
        growth_rate: channels that each layer adds; default: that of the depth.
        bn_size: a dense layer has ``bn_size * growth_rate`` channels inside.
        num_stages: number of dense blocks.
        out_indices: blocks whose features are returned, 0 being the first.
        frozen_stages: stages without training, -1 for none. 0 is the stem with its pooling; stage i
            is dense block i with the transition that feeds it, and ``norm5`` goes with stage 4. So
            the features up to the frozen stage's stay as they are.
        conv_cfg: config of the convolutions.
        norm_cfg: config of the norms.
        norm_eval: keep the running statistics of batch normalization as they are.
        with_cp: recompute dense layers in backward instead of keeping their activations.
        init_cfg: MMEngine's initialization config; default: Kaiming's.

    Raises:
        InputError: an option has no such value. In the forward pass: the image is smaller than
            29 x 29 pixels, so that a transition would halve a single position.

    Example:
        >>> import torch
        >>> from lip_mmdet.backbones import DenseNet
        >>> net = DenseNet(depth=121).eval()
        >>> for feature in net(torch.rand(1, 3, 64, 64)):
        ...     print(tuple(feature.shape))
        (1, 256, 16, 16)
        (1, 512, 8, 8)
        (1, 1024, 4, 4)
        (1, 1024, 2, 2)
    """

    # Growth rate and number of layers of each dense block (table 1 of the paper).
    arch_settings = {
        121: (32, (6, 12, 24, 16)),
        161: (48, (6, 12, 36, 24)),
        169: (32, (6, 12, 32, 32)),
        201: (32, (6, 12, 48, 32)),
    }
    readme = 'configs/densenet/README.md'
    plain_network = 'densenet'
    stem_pool = 'pool0'

    def __init__(
        self,
        depth: int,
        *,
        in_channels: int = 3,
        stem_channels: int | None = None,
        growth_rate: int | None = None,
        bn_size: int = 4,
        num_stages: int = 4,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        norm_eval: bool = True,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        self._check_options(depth, num_stages, out_indices)
        super().__init__(
            init_cfg
            or [
                dict(type='Kaiming', layer='Conv2d'),
                dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
            ]
        )
        self.depth = depth
        self.num_stages = num_stages
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_cfg = norm_cfg or dict(type='BN')
        self.norm_eval = norm_eval
        default_growth, num_layers = self.arch_settings[depth]
        growth_rate = growth_rate or default_growth
        layer = dict(conv_cfg=conv_cfg, norm_cfg=self.norm_cfg)

        channels = stem_channels or 2 * growth_rate
        self.conv0 = build_conv_layer(
            conv_cfg, in_channels, channels, 7, stride=2, padding=3, bias=False
        )
        self.norm0 = build_norm(self.norm_cfg, channels)
        self.relu = nn.ReLU(inplace=True)
        self.pool0 = self._make_stem_pool(channels)
        for stage in range(1, num_stages + 1):
            if stage > 1:
                pool = self._make_transition_pool(stage - 1, channels // 2)
                transition = Transition(channels, channels // 2, pool, **layer)
                self.add_module(f'transition{stage - 1}', transition)
                channels //= 2
            block = DenseBlock(
                num_layers[stage - 1],
                channels,
                growth_rate,
                bn_size * growth_rate,
                with_cp=with_cp,
                **layer,
            )
            self.add_module(f'denseblock{stage}', block)
            channels += num_layers[stage - 1] * growth_rate
        if num_stages == 4:
            self.norm5 = build_norm(self.norm_cfg, channels)
        self._freeze_stages()

    def _check_options(self, depth: int, num_stages: int, out_indices: Sequence[int]) -> None:
        name = type(self).__name__
        if depth not in self.arch_settings:
            depths = ', '.join(map(str, self.arch_settings))
            raise InputError(f'{name} has no depth {depth!r}; there are {depths}')
        if num_stages not in (1, 2, 3, 4):
            raise InputError(f'{name} has 1 to 4 stages, not {num_stages!r}')
        if not out_indices or not set(out_indices) <= set(range(num_stages)):
            raise InputError(
                f'{name}: out_indices are among 0 to {num_stages - 1}, not {tuple(out_indices)}'
            )

    def _make_stem_pool(self, channels: int) -> nn.Module:
        return nn.MaxPool2d(3, stride=2, padding=1)

    def _make_transition_pool(self, transition: int, channels: int) -> nn.Module:
        """Build the pooling of a transition, of which 1 is the first."""
        return nn.AvgPool2d(2, stride=2)

    def _stage_modules(self, stage: int) -> list[nn.Module]:
        if stage == 0:
            return [self.conv0, self.norm0, self.pool0]
        names = [f'transition{stage - 1}', f'denseblock{stage}', 'norm5' if stage == 4 else '']
        return [module for name, module in self.named_children() if name in names]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map (N, in_channels, H, W) images to the features of the stages in ``out_indices``.

        Raises:
            InputError: the images are too small for the number of transitions.
        """
        self._check_size(x)
        x = self.pool0(self.relu(self.norm0(self.conv0(x))))
        features = []
        for stage in range(1, self.num_stages + 1):
            if stage > 1:
                x = getattr(self, f'transition{stage - 1}')(x)
            x = getattr(self, f'denseblock{stage}')(x)
            if stage == 4:
                x = self.relu(self.norm5(x))
            if stage - 1 in self.out_indices:
                features.append(x)
        return tuple(features)

    def _check_size(self, x: Tensor) -> None:
        # The stem rounds up, twice; a transition rounds down and needs two positions.
        transitions = self.num_stages - 1
        least = 4 * (2**transitions - 1) + 1
        if min(x.shape[2:]) < least:
            raise InputError(
                f'{type(self).__name__}: images of {x.shape[2]} x {x.shape[3]} pixels are too '
                f'small to be halved in {transitions} transitions; they need at least '
                f'{least} x {least}'
            )

    def _official_names(self) -> OfficialNames:
        return OfficialNames('classifier', OFFICIAL_RULES, OLDER_NAMES)
