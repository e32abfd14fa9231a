"""Residual blocks that downsample by LIP (arXiv 1908.04156, section 3.5 and figure 5).

A block that halves the resolution does it twice: on the residual branch, by a strided 3x3
convolution, and on the shortcut, by a strided 1x1 convolution. Both throw positions away. Here LIP
pools each of them and a 1x1 convolution with stride 1 follows. One logit trunk looks at the block's
input, at full resolution, and two heads share what it sees.
"""

from __future__ import annotations

from mmcv.cnn import build_conv_layer, build_norm_layer
from mmdet.models.backbones.resnet import BasicBlock, Bottleneck
from mmengine.model import BaseModule
from torch import Tensor, nn

from lip_mmdet.layers import BottleneckLogit, LogitHead, LogitTrunk, pool_by_importance
from lip_mmdet.layers.implementation import Implemented
from lip_mmdet.layers.logit_modules import DEFAULT_GATE, DEFAULT_WIDTH, build_logit, logit_class


class LIPBlock(Implemented, BaseModule):
    """What both LIP blocks share: the logit modules, the windows, the shortcut's convolution.

    Args:
        inplanes: channels of the block's input, which are the shortcut's.
        residual_planes: channels of the residual branch where LIP pools it.
        stride: of the downsampling.
        downsample: convolution and norm of the shortcut, after its LIP.
        logit: config of the logit module. The two LIPs share the trunk of a ``BottleneckLogit``;
            any other type is built once for each, on the map that it weighs.
        init_cfg: MMEngine's initialization config.
    """

    def __init__(
        self,
        *,
        inplanes: int,
        residual_planes: int,
        stride: int,
        downsample: nn.Module,
        logit: dict,
        init_cfg: dict | None,
    ) -> None:
        super().__init__(init_cfg)
        # Every input position lies in a window, and the output is that of the strided 3x3
        # convolution: stride 2 gives the paper's 3x3 window.
        self.window = 2 * stride - 1, stride, stride - 1
        if logit_class(logit) is BottleneckLogit:
            arguments = {key: value for key, value in logit.items() if key != 'type'}
            self.logit_trunk, self.residual_logit, self.shortcut_logit = _shared_logits(
                inplanes, residual_planes, **arguments
            )
        else:
            self.logit_trunk = None
            self.residual_logit = build_logit(logit, residual_planes)
            self.shortcut_logit = build_logit(logit, inplanes)
        self.downsample = downsample
        self.relu = nn.ReLU(inplace=True)

    def features(self, x: Tensor) -> Tensor | None:
        """Return what the shared trunk sees in a block's input; None if no trunk is shared."""
        return None if self.logit_trunk is None else self.logit_trunk(x)


class LIPBasicBlock(LIPBlock):
    """Basic block: LIP, then a 1x1 convolution, stand in for the strided first convolution.

    The paper has LIP in bottlenecks only; this places it the same way in the block of ResNet-18
    and -34. Arguments as in :class:`LIPBottleneck`, but for ``style``, ``dilation``, ``dcn`` and
    ``plugins``.
    """

    expansion = BasicBlock.expansion

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int,
        downsample: nn.Module,
        *,
        logit: dict,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            inplanes=inplanes,
            residual_planes=inplanes,
            stride=stride,
            downsample=downsample,
            logit=logit,
            init_cfg=init_cfg,
        )
        norm_cfg = norm_cfg or dict(type='BN')
        self.conv1 = build_conv_layer(conv_cfg, inplanes, planes, 1, bias=False)
        self.norm1_name, norm1 = build_norm_layer(norm_cfg, planes, postfix=1)
        self.add_module(self.norm1_name, norm1)
        self.conv2 = build_conv_layer(conv_cfg, planes, planes, 3, padding=1, bias=False)
        self.norm2_name, norm2 = build_norm_layer(norm_cfg, planes, postfix=2)
        self.add_module(self.norm2_name, norm2)

    norm1 = BasicBlock.norm1
    norm2 = BasicBlock.norm2

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inplanes, H, W) to (N, planes, ceil(H / stride), ceil(W / stride)).

        The residual branch is LIP - conv1x1 - norm - ReLU - conv3x3 - norm.
        """
        features, operators = self.features(x), self.operators(x)
        out = pool_by_importance(x, features, self.residual_logit, self.window, operators)
        out = self.relu(self.norm1(self.conv1(out)))
        out = self.norm2(self.conv2(out))
        shortcut = pool_by_importance(x, features, self.shortcut_logit, self.window, operators)
        out += self.downsample(shortcut)
        return self.relu(out)


class LIPBottleneck(LIPBlock):
    """Bottleneck: LIP, then a 1x1 convolution, stand in for the strided 3x3 convolution.

    That is the paper's, for ``style='pytorch'``. In MMDetection's ``style='caffe'`` the first 1x1
    convolution is the strided one. Our reading of LIP there: it pools the block's input, and all
    three convolutions follow with their weights, at stride 1.

    Args:
        inplanes: channels of the (N, inplanes, H, W) input.
        planes: channels inside; the output has ``4 * planes``.
        stride: of the downsampling.
        downsample: convolution and norm of the shortcut, which follow its LIP.
        logit: config of the logit module; see :class:`LIPBlock`.
        conv_cfg: config of the convolutions outside the logit module.
        norm_cfg: config of the norms outside the logit module; default ``dict(type='BN')``.
        style: ``'pytorch'`` or ``'caffe'``, where the plain block has its stride.
        dilation: of the 3x3 convolution, which is left with ``style='caffe'`` only.
        dcn: config of the deformable convolution in its place.
        plugins: MMDetection's block plugins, ``after_conv1`` (before LIP), ``after_conv2`` and
            ``after_conv3``.
        init_cfg: MMEngine's initialization config.
    """

    expansion = Bottleneck.expansion

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int,
        downsample: nn.Module,
        *,
        logit: dict,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        style: str = 'pytorch',
        dilation: int = 1,
        dcn: dict | None = None,
        plugins: list[dict] | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            inplanes=inplanes,
            residual_planes=inplanes if style == 'caffe' else planes,
            stride=stride,
            downsample=downsample,
            logit=logit,
            init_cfg=init_cfg,
        )
        self.pools_first = style == 'caffe'
        norm_cfg = norm_cfg or dict(type='BN')
        outplanes = planes * self.expansion
        self.conv1 = build_conv_layer(conv_cfg, inplanes, planes, 1, bias=False)
        self.norm1_name, norm1 = build_norm_layer(norm_cfg, planes, postfix=1)
        self.add_module(self.norm1_name, norm1)
        middle, window = conv_cfg, dict(kernel_size=1)
        if self.pools_first:
            middle, window = dcn or conv_cfg, dict(kernel_size=3, padding=dilation)
            window['dilation'] = dilation
        self.conv2 = build_conv_layer(middle, planes, planes, **window, bias=False)
        self.norm2_name, norm2 = build_norm_layer(norm_cfg, planes, postfix=2)
        self.add_module(self.norm2_name, norm2)
        self.conv3 = build_conv_layer(conv_cfg, planes, outplanes, 1, bias=False)
        self.norm3_name, norm3 = build_norm_layer(norm_cfg, outplanes, postfix=3)
        self.add_module(self.norm3_name, norm3)
        self.after_conv1_plugin_names = self._plugin_names(plugins, 'after_conv1', planes)
        self.after_conv2_plugin_names = self._plugin_names(plugins, 'after_conv2', planes)
        self.after_conv3_plugin_names = self._plugin_names(plugins, 'after_conv3', outplanes)

    norm1 = Bottleneck.norm1
    norm2 = Bottleneck.norm2
    norm3 = Bottleneck.norm3
    make_block_plugins = Bottleneck.make_block_plugins
    forward_plugin = Bottleneck.forward_plugin

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inplanes, H, W) to (N, 4 * planes, ceil(H / stride), ceil(W / stride)).

        The residual branch is conv1x1 - norm - ReLU - LIP - conv1x1 - norm - ReLU - conv1x1 - norm;
        with ``style='caffe'`` LIP comes first, and the second convolution is 3x3.
        """
        features, operators, out = self.features(x), self.operators(x), x
        if self.pools_first:
            out = pool_by_importance(out, features, self.residual_logit, self.window, operators)
        out = self.relu(self.norm1(self.conv1(out)))
        out = self.forward_plugin(out, self.after_conv1_plugin_names)
        if not self.pools_first:
            out = pool_by_importance(out, features, self.residual_logit, self.window, operators)
        out = self.relu(self.norm2(self.conv2(out)))
        out = self.forward_plugin(out, self.after_conv2_plugin_names)
        out = self.norm3(self.conv3(out))
        out = self.forward_plugin(out, self.after_conv3_plugin_names)
        shortcut = pool_by_importance(x, features, self.shortcut_logit, self.window, operators)
        out += self.downsample(shortcut)
        return self.relu(out)

    def _plugin_names(self, plugins: list[dict] | None, position: str, channels: int) -> list[str]:
        here = [plugin['cfg'] for plugin in plugins or [] if plugin['position'] == position]
        return self.make_block_plugins(channels, here)


def _shared_logits(
    inplanes: int,
    residual_planes: int,
    width: int = DEFAULT_WIDTH,
    gate_coefficient: float | None = DEFAULT_GATE,
    norm_cfg: dict | None = None,
) -> tuple[LogitTrunk, LogitHead, LogitHead]:
    """Build the trunk on the block's input and its two heads, for the residual and the shortcut."""
    return (
        LogitTrunk(inplanes, width, norm_cfg),
        LogitHead(width, residual_planes, 1, gate_coefficient, norm_cfg=norm_cfg),
        LogitHead(width, inplanes, 1, gate_coefficient, norm_cfg=norm_cfg),
    )
