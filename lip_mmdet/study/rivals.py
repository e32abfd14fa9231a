"""Other ways to keep what downsampling loses, as ResNets to compare LIP with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmcv.cnn import build_conv_layer, build_norm_layer
from mmdet.models.backbones.resnet import BasicBlock, ResNet
from mmdet.registry import MODELS
from torch import Tensor, nn

from lip_mmdet.errors import InputError


class BlurPool2d(nn.Module):
    """Blur by [1, 2, 1] along both axes, then take every second position.

    Zhang, "Making Convolutional Networks Shift-Invariant Again" (ICML 2019, arXiv 1904.11486),
    *Triangle-3*, with reflected borders.
    """

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer('kernel', row[:, None] * row, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, ceil(H / 2), ceil(W / 2))."""
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, 3, 3)
        padded = F.pad(x, (1, 1, 1, 1), mode='reflect')
        return F.conv2d(padded, kernel, stride=2, groups=channels)


class _DownsamplingResNet(ResNet):
    """ResNet-18 or -34 whose blocks with a stride are changed once they are built."""

    def __init__(self, depth: int, **kwargs) -> None:
        super().__init__(depth, **kwargs)
        if self.block is not BasicBlock or self.deep_stem or self.avg_down:
            raise InputError(
                f'{type(self).__name__} is for depth 18 and 34, without deep_stem and avg_down'
            )
        self._change_stem()
        for layer, stride in zip(self.res_layers, self.strides):
            if stride == 2:
                self._change_block(getattr(self, layer)[0])

    def _change_stem(self) -> None:
        raise NotImplementedError

    def _change_block(self, block: BasicBlock) -> None:
        raise NotImplementedError


@MODELS.register_module()
class BlurPoolResNet(_DownsamplingResNet):
    """ResNet that downsamples by BlurPool, its blocks' convolutions and max pooling at stride 1.

    As the author places it: after the first convolution's ReLU, before the shortcut's convolution,
    and after a 2x2 max pooling; the first convolution of the network keeps its stride.

    Args:
        depth: 18 or 34.
        **kwargs: as in ``mmdet.models.ResNet``, without ``deep_stem`` and ``avg_down``.

    Raises:
        InputError: another depth or stem.
    """

    def _change_stem(self) -> None:
        self.maxpool = nn.Sequential(nn.MaxPool2d(2, stride=1), BlurPool2d())

    def _change_block(self, block: BasicBlock) -> None:
        block.conv1.stride = block.downsample[0].stride = (1, 1)
        block.conv2 = nn.Sequential(BlurPool2d(), block.conv2)
        block.downsample = nn.Sequential(BlurPool2d(), *block.downsample)


@MODELS.register_module()
class SPDResNet(_DownsamplingResNet):
    """ResNet that downsamples by space-to-depth and convolutions at stride 1.

    Sunkara and Luo, "No More Strided Convolutions or Pooling" (ECML PKDD 2022, arXiv 2208.03641).
    Each convolution with a stride becomes one at stride 1, of the same kernel, over the four times
    as many channels of every 2x2 positions, as the paper says (their code differs in places). They
    leave the max pooling out, for their images are small; here it becomes space-to-depth and a 1x1
    convolution with norm and ReLU, which is our reading, so that the network gives maps of the same
    strides. Images have sides that 32 divides.

    Args:
        depth: 18 or 34.
        **kwargs: as in ``mmdet.models.ResNet``, without ``deep_stem`` and ``avg_down``.

    Raises:
        InputError: another depth or stem, or frozen stages.
    """

    def _change_stem(self) -> None:
        if self.frozen_stages >= 0:
            raise InputError('SPDResNet has no weights to freeze: frozen_stages is -1')
        channels = self.conv1.out_channels
        self.conv1 = self._unstrided(self.conv1)
        self.maxpool = nn.Sequential(
            nn.PixelUnshuffle(2),
            build_conv_layer(self.conv_cfg, 4 * channels, channels, 1, bias=False),
            build_norm_layer(self.norm_cfg, channels)[1],
            nn.ReLU(inplace=True),
        )

    def _change_block(self, block: BasicBlock) -> None:
        block.conv1 = self._unstrided(block.conv1)
        block.downsample[0] = self._unstrided(block.downsample[0])

    def _unstrided(self, conv: nn.Conv2d) -> nn.Sequential:
        unstrided = build_conv_layer(
            self.conv_cfg,
            4 * conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            padding=conv.padding,
            bias=False,
        )
        return nn.Sequential(nn.PixelUnshuffle(2), unstrided)
