"""LIP-ResNet (arXiv 1908.04156, section 3.5): ResNet whose downsampling is LIP.

What is new stands in :mod:`lip_mmdet.backbones.lip_blocks`; the rest is MMDetection's ResNet.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np
import torch
from mmcv.cnn import build_conv_layer, build_norm_layer
from mmdet.models.backbones.resnet import BasicBlock
from mmdet.models.layers import ResLayer
from mmdet.registry import MODELS
from mmengine.model import Sequential
from torch import Tensor, nn

from lip_mmdet.backbones.base import WarmStartResNet, in_running_format
from lip_mmdet.backbones.checkpoints import OfficialNames
from lip_mmdet.backbones.lip_blocks import LIPBasicBlock, LIPBottleneck
from lip_mmdet.errors import InputError
from lip_mmdet.layers import BottleneckLogit, LIPPool2d, SimplifiedLogit, set_implementation
from lip_mmdet.layers.logit_modules import logit_class, with_gate
from lip_mmdet.layers.valid_area import checkpoint, mask_padding_in
from lip_mmdet.ops import to_contiguous

# Names in the state dicts of the authors' released networks, and ours.
OFFICIAL_RULES = {
    'maxpool.logit.bn.': 'maxpool.logit.norm.',
    'bottleneck_shared.logit.conv': 'logit_trunk.conv',
    'bottleneck_shared.logit.bn': 'logit_trunk.norm',
    'conv2.0.postprocessing.conv.': 'residual_logit.conv.',
    'conv2.0.postprocessing.bn.': 'residual_logit.norm.',
    'downsample.lip.postprocessing.conv.': 'shortcut_logit.conv.',
    'downsample.lip.postprocessing.bn.': 'shortcut_logit.norm.',
    'downsample.conv.': 'downsample.0.',
    'downsample.bn.': 'downsample.1.',
}


class CheckpointedStage(Sequential):
    """A stage whose blocks are computed again in backward instead of keeping their activations.

    Whether or not its input requires a gradient: after a frozen stage it does not.
    """

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            x = checkpoint(block, x) if torch.is_grad_enabled() else block(x)
        return x


@MODELS.register_module()
class LIPResNet(WarmStartResNet):
    """ResNet with LIP for its max pooling and in its downsampling blocks.

    Takes everything that MMDetection's ``ResNet`` takes, with the same meaning, and what is listed
    here. Depths 50, 101 and 152 are the paper's networks; 18 and 34 place LIP the same way in the
    basic block.

    Loads the authors' state dicts under their own names, and warm-starts from a ResNet's: what fits
    is taken over, LIP starts close to max pooling in the stem and as average pooling elsewhere, the
    1x1 convolutions after it hold the muted sum of the 3x3 ones' taps, as one line of the log says.
    ``frozen_stages`` freezes the stem's LIP with the stem, unless its logit module cannot start
    close to max pooling.

    Args:
        depth: 18, 34, 50, 101 or 152.
        lip_stem: LIP instead of the stem's max pooling.
        lip_stages: for each stage, whether its first block downsamples by LIP; default: each stage
            with a stride.
        stem_logit: config of the stem's logit module; default ``dict(type='SimplifiedLogit')``.
        stage_logit: config of the stages' logit modules, default
            ``dict(type='BottleneckLogit', width=128)``, whose trunk a block's two LIPs share.
        gate_coefficient: of the soft gate in all of them; None leaves the gate out. A logit config
            that has its own keeps it.
        implementation: ``'fused'``, ``'composed'`` of PyTorch's operators as released, or
            ``'compiled'``: the same numbers and parameters; default: fused on the CPU, composed on
            other devices. See :func:`lip_mmdet.layers.set_implementation`.
        channels_last: run in PyTorch's channels_last memory format inside, whatever the format of
            the input, while weights stay in theirs; default: on the CPU,
            where it is faster (``docs/performance.md``). Features come out contiguous either way,
            for mmcv's RoIAlign misreads other formats. Networks with ``dcn`` run contiguous, for so
            do mmcv's deformable convolutions.
        mask_padding: let LIP look at each image's own area only, not at what pads it to the batch's
            size, so that features do not depend on the batch (``docs/padding.md``); needs
            ``model.data_preprocessor.type='SizedDetDataPreprocessor'``, or ``x.valid_sizes`` set.
            Default: the paper's, which looks at all of it.
        style: as in ``mmdet.models.ResNet``; the paper's is ``'pytorch'``. See
            :class:`~lip_mmdet.backbones.lip_blocks.LIPBottleneck` for ours of ``'caffe'``.
        **kwargs: as in ``mmdet.models.ResNet``. In a LIP block ``avg_down`` changes nothing but the
            numbering of the shortcut's layers, for LIP stands where the average pooling would;
            ``dcn`` finds no 3x3 convolution there; ``dilations`` count in the blocks that follow.

    Raises:
        InputError: unknown depth; ``lip_stages`` of the wrong length or true for a stage without
            stride; ``channels_last=True`` with ``dcn``; ``dcn`` or ``plugins`` at depth 18 or 34,
            whose basic block has no place for them.

    Example:
        >>> import torch
        >>> from lip_mmdet.backbones import LIPResNet
        >>> net = LIPResNet(depth=50).eval()
        >>> for feature in net(torch.rand(1, 3, 64, 64)):
        ...     print(tuple(feature.shape))
        (1, 256, 16, 16)
        (1, 512, 8, 8)
        (1, 1024, 4, 4)
        (1, 2048, 2, 2)
    """

    def __init__(
        self,
        depth: int,
        *,
        lip_stem: bool = True,
        lip_stages: Sequence[bool] | None = None,
        stem_logit: dict | None = None,
        stage_logit: dict | None = None,
        gate_coefficient: float | None = 12.0,
        implementation: str | None = None,
        channels_last: bool | None = None,
        mask_padding: bool = False,
        num_stages: int = 4,
        strides: Sequence[int] = (1, 2, 2, 2),
        style: str = 'pytorch',
        dcn: dict | None = None,
        plugins: list[dict] | None = None,
        **kwargs,
    ) -> None:
        name = type(self).__name__
        self._check_depth(depth, dcn=dcn, plugins=plugins)
        if lip_stages is None:
            lip_stages = [stride > 1 for stride in strides]
        _check_stages(name, lip_stages, strides, num_stages)
        if channels_last and dcn is not None:
            raise InputError(
                f"{name}: mmcv's deformable convolutions misread channels_last maps; leave "
                'channels_last out where dcn is given'
            )
        self.channels_last = channels_last
        self.lip_stem = lip_stem
        self.lip_stages = tuple(lip_stages)
        self.stem_logit = with_gate(stem_logit or dict(type='SimplifiedLogit'), gate_coefficient)
        self.stage_logit = with_gate(stage_logit or dict(type='BottleneckLogit'), gate_coefficient)
        super().__init__(
            depth,
            num_stages=num_stages,
            strides=strides,
            style=style,
            dcn=dcn,
            plugins=plugins or None,
            **kwargs,
        )
        set_implementation(self, implementation)
        if mask_padding:
            mask_padding_in(self)

    def make_res_layer(self, **kwargs) -> nn.Module:
        """Build a stage; its first block is a LIP block where ``lip_stages`` says so."""
        stage = len(self.res_layers)
        stage_class = CheckpointedStage if kwargs['with_cp'] else Sequential
        kwargs['with_cp'] = False
        if not self.lip_stages[stage]:
            return stage_class(*super().make_res_layer(**kwargs))
        # LIP took the place of the convolution that would have fallen back.
        dcn = kwargs['dcn'] and dict(kwargs['dcn'])
        if dcn:
            dcn.pop('fallback_on_stride', None)
        kwargs['dcn'] = dcn
        first = self._make_lip_block(**kwargs)
        rest = dict(kwargs, stride=1, num_blocks=kwargs['num_blocks'] - 1)
        rest['inplanes'] = kwargs['planes'] * kwargs['block'].expansion
        return stage_class(first, *ResLayer(**rest))

    def _make_lip_block(
        self, *, block, inplanes, planes, stride, avg_down, conv_cfg, norm_cfg, plugins, **kwargs
    ) -> nn.Module:
        outplanes = planes * block.expansion
        downsample = [
            build_conv_layer(conv_cfg, inplanes, outplanes, 1, bias=False),
            build_norm_layer(norm_cfg, outplanes)[1],
        ]
        if avg_down:
            # Checkpoints of networks that pool here number the two layers 1 and 2.
            downsample.insert(0, nn.Identity())
        only_bottleneck = {}
        if block is not BasicBlock:
            only_bottleneck = dict(
                plugins=plugins,
                style=self.style,
                dilation=kwargs['dilation'],
                dcn=kwargs['dcn'],
            )
        lip_block = LIPBasicBlock if block is BasicBlock else LIPBottleneck
        return lip_block(
            inplanes,
            planes,
            stride,
            nn.Sequential(*downsample),
            logit=self.stage_logit,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            init_cfg=kwargs['init_cfg'],
            **only_bottleneck,
        )

    def _make_stem_layer(self, in_channels: int, stem_channels: int) -> None:
        super()._make_stem_layer(in_channels, stem_channels)
        if self.lip_stem:
            self.maxpool = LIPPool2d(stem_channels, self.stem_logit)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images, (N, in_channels, H, W), to the contiguous features of ``out_indices``.

        Raises:
            InputError: ``dcn`` with weights in channels_last.
        """
        if self.dcn and not next(self.parameters()).is_contiguous():
            raise InputError(
                f"{type(self).__name__}: mmcv's deformable convolutions misread channels_last "
                'maps; bring the weights back by to(memory_format=torch.contiguous_format)'
            )
        x = x.contiguous() if self.dcn else in_running_format(x, self.channels_last)
        return tuple(to_contiguous(feature) for feature in super().forward(x))

    def replaced_convolutions(self) -> dict[str, str]:
        """Return the 1x1 convolutions that, after LIP, stand for a strided 3x3, and their norms."""
        if self.block is not BasicBlock and self.style == 'caffe':
            return {}
        number = 1 if self.block is BasicBlock else 2
        norms = {
            b: getattr(self.get_submodule(b[:-1]), f'norm{number}_name') for b in self._lip_blocks()
        }
        return {f'{block}conv{number}.weight': f'{block}{norm}' for block, norm in norms.items()}

    def official_state_dict(self) -> dict[str, Tensor]:
        """Return the state dict under the names of the authors' released code.

        Raises:
            InputError: the released code has no such network: it has depth 50, 101 and 152 with LIP
                in the stem and wherever a stage has a stride, the default kinds of logit modules,
                and neither deformable convolutions nor plugins.
        """
        released = (
            self.lip_stem
            and self.lip_stages == tuple(stride > 1 for stride in self.strides)
            and logit_class(self.stem_logit) is SimplifiedLogit
            and logit_class(self.stage_logit) is BottleneckLogit
            and self.style == 'pytorch'
            and self.dcn is None
            and self.plugins is None
        )
        if not released:
            raise InputError(
                'official names exist for LIP in the stem and all strided stages, with the default '
                'kinds of logit modules, without dcn and plugins only'
            )
        return super().official_state_dict()

    def _lip_blocks(self) -> list[str]:
        return [f'layer{i + 1}.0.' for i, lip in enumerate(self.lip_stages) if lip]

    def _official_names(self) -> OfficialNames:
        # In a LIP block `conv2` is LIP and the convolution after it.
        conv2 = {f'{block}conv2.1.': f'{block}conv2.' for block in self._lip_blocks()}
        return OfficialNames(classifier='fc', rules={**OFFICIAL_RULES, **conv2})


@MODELS.register_module()
class LIPResNetMD(LIPResNet):
    """LIP-ResNet with modulated deformable convolutions (DCNv2) in stages 2 to 4.

    The paper does not spell *MD* out. This reads it as MMDetection's ``mdconv`` c3-c5: every 3x3
    convolution of the last three stages is a ``ModulatedDeformConv2d``. Blocks that downsample have
    none left. The offsets start at zero and the modulation at one half, as mmcv has them; in a warm
    start from a ResNet or a plain LIP-ResNet the weights are doubled, so that nothing is halved.

    Args:
        depth: 50, 101 or 152.
        dcn: config of the deformable convolution; default
            ``dict(type='DCNv2', deform_groups=1, fallback_on_stride=False)``.
        stage_with_dcn: stages that have it; default: all but the first.
        **kwargs: as in :class:`LIPResNet`.
    """

    def __init__(
        self,
        depth: int,
        *,
        dcn: dict | None = None,
        stage_with_dcn: Sequence[bool] | None = None,
        num_stages: int = 4,
        **kwargs,
    ) -> None:
        super().__init__(
            depth,
            num_stages=num_stages,
            dcn=dcn or dict(type='DCNv2', deform_groups=1, fallback_on_stride=False),
            stage_with_dcn=stage_with_dcn or (False, True, True, True)[:num_stages],
            **kwargs,
        )


def _check_stages(
    name: str, lip_stages: Sequence[bool], strides: Sequence[int], num_stages: int
) -> None:
    if not np.shape(lip_stages) == np.shape(strides) == (num_stages,):
        raise InputError(
            f'{name}: num_stages={num_stages} needs as many lip_stages and strides, not '
            f'{lip_stages!r} and {tuple(strides)}'
        )
    for stage, (lip, stride) in enumerate(zip(lip_stages, strides)):
        if lip and stride == 1:
            raise InputError(
                f'{name}: lip_stages[{stage}] asks for LIP where strides[{stage}] is 1 and nothing '
                'is downsampled; set it to False'
            )
