"""Logit modules (arXiv 1908.04156, section 3.4 and figure 4): the networks that learn importance.

A logit module maps features to a *logit* map of the same size, whose exponential is the importance
that :func:`lip_mmdet.ops.lip2d` weighs positions with. All of the paper's end in the same *head*:
convolution, instance normalization, soft gate. They differ in what stands before it:

=================  =========================================  ==============================
module             layers                                     where the paper has it
=================  =========================================  ==============================
`SimplifiedLogit`  head with a 3x3 convolution                the stem
`BottleneckLogit`  trunk (1x1 to `width`, 3x3), 1x1 head      the stages; `width` 128
`ProjectionLogit`  head with a 1x1 convolution                ablation
`DepthwiseLogit`   head with a 3x3, each channel by itself    not in it
`IdentityLogit`    none                                       section 3.3's special cases
=================  =========================================  ==============================
"""

from __future__ import annotations

import inspect
from numbers import Integral

from mmcv.cnn import build_norm_layer
from mmdet.registry import MODELS
from mmengine.model import BaseModule, constant_init
from torch import Tensor, nn

from lip_mmdet.errors import InputError
from lip_mmdet.layers.implementation import Operators
from lip_mmdet.layers.instance_norm import InstanceNorm2d, rectified
from lip_mmdet.layers.recording import recorded
from lip_mmdet.layers.soft_gate import SoftGate

DEFAULT_WIDTH = 128
DEFAULT_GATE = 12.0


def build_norm(norm_cfg: dict | None, channels: int) -> nn.Module:
    """Build a norm; where none is configured, the instance norm of the paper's logit modules.

    Args:
        norm_cfg: its config, as mmcv builds it.
        channels: of the (N, channels, H, W) maps.

    Raises:
        InputError: there is no such norm, or none for so many channels.
    """
    if norm_cfg is None:
        return InstanceNorm2d(channels)
    try:
        return build_norm_layer(norm_cfg, channels)[1]
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        reason = f': {error}' if str(error) else ''
        raise InputError(f'no norm {norm_cfg!r} for {channels} channels{reason}') from error


def pool_by_importance(
    x: Tensor, features: Tensor | None, logit: nn.Module, window: tuple, operators: Operators
) -> Tensor:
    """Pool a map by the importance that a logit module sees in features.

    Args:
        x: (N, C, H, W) map to pool.
        features: what the logit module looks at, of the same height and width; default: ``x``.
        logit: any module that maps features to a logit of ``x``'s shape. A :class:`PoolingLogit`
            is asked to pool itself.
        window: kernel size, stride and padding as in :func:`lip_mmdet.ops.lip2d`.
        operators: what to compute with.
    """
    features = x if features is None else features
    operators = recorded(operators, logit)
    if isinstance(logit, PoolingLogit):
        return logit.pool(x, features, window, operators)
    return operators.lip2d(x, logit(features), *window)


class PoolingLogit(BaseModule):
    """A logit module that pools at once instead of writing its logit down.

    :meth:`pool` returns what ``lip2d(x, self(features), *window)`` would.
    """

    def pool(self, x: Tensor, features: Tensor, window: tuple, operators: Operators) -> Tensor:
        """Pool ``x`` by the importance of ``features``; see :func:`pool_by_importance`."""
        raise NotImplementedError


class LogitHead(PoolingLogit):
    """Convolution, instance normalization, soft gate: features to logit.

    The convolution starts at zero, as in the paper, so that every position is equally important and
    LIP starts as average pooling; or as the identity, so that a channel weighs by its own value.

    Args:
        in_channels: channels of the features.
        out_channels: channels of the logit, which are those of the map to pool.
        kernel_size: odd size of the convolution.
        gate_coefficient: the soft gate's; None leaves the gate out (an ablation).
        init: ``'average'`` or ``'max'``, the pooling that LIP starts as or close to.
        norm_cfg: config of the norm; default: :class:`~lip_mmdet.layers.InstanceNorm2d`.
        groups: of the convolution.

    Raises:
        InputError: another ``init``, or ``'max'`` where the features are not the map to pool.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        gate_coefficient: float | None = DEFAULT_GATE,
        init: str = 'average',
        norm_cfg: dict | None = None,
        groups: int = 1,
    ) -> None:
        super().__init__()
        if init not in ('average', 'max') or (init == 'max' and in_channels != out_channels):
            raise InputError(
                f"{type(self).__name__}: init is 'average', or 'max' where features and map have "
                f'the same channels, not {init!r} for {in_channels} and {out_channels} channels'
            )
        padding = kernel_size // 2
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, padding=padding, groups=groups, bias=False
        )
        self.norm = build_norm(norm_cfg, out_channels)
        self.gate = nn.Identity() if gate_coefficient is None else SoftGate(gate_coefficient)
        self.init = init
        self.start(init)

    def start(self, init: str) -> None:
        """Set the weights that LIP starts from; ``init`` as given to the constructor."""
        nn.init.zeros_(self.conv.weight)
        if init == 'max':
            nn.init.dirac_(self.conv.weight, self.conv.groups)
        constant_init(self.norm, 1)

    def init_weights(self) -> None:
        """Start anew, for a backbone's own ``init_cfg`` has drawn every convolution."""
        super().init_weights()
        self.start(self.init)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) features to the (N, out_channels, H, W) logit."""
        return self.gate(self.norm(self.conv(x)))

    def pool(self, x: Tensor, features: Tensor, window: tuple, operators: Operators) -> Tensor:
        """Pool ``x`` by the importance of ``features``; see :func:`pool_by_importance`."""
        norm, gate = self.norm, self.gate
        if not (type(norm) is InstanceNorm2d and type(gate) is SoftGate):
            return operators.lip2d(x, self(features), *window)
        raw = self.conv(features)
        return operators.gated_lip2d(
            x, raw, norm.weight, norm.bias, gate.coefficient, norm.eps, *window
        )


class LogitTrunk(BaseModule):
    """The part of a bottleneck logit module that heads can share: 1x1 and 3x3 at `width` channels.

    Args:
        in_channels: channels of the input.
        width: channels of the features; 64, 128 and 256 in the paper, 128 in the released networks.
        norm_cfg: config of the norms; default: :class:`~lip_mmdet.layers.InstanceNorm2d`.

    Raises:
        InputError: the width is not a positive int.
    """

    def __init__(
        self, in_channels: int, width: int = DEFAULT_WIDTH, norm_cfg: dict | None = None
    ) -> None:
        super().__init__()
        if not (isinstance(width, Integral) and width > 0):
            raise InputError(f'the width of a logit module is a positive int, not {width!r}')
        self.width = width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.norm1 = build_norm(norm_cfg, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = build_norm(norm_cfg, width)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, width, H, W) features."""
        x = rectified(self.norm1, self.relu, self.conv1(x))
        return rectified(self.norm2, self.relu, self.conv2(x))


@MODELS.register_module()
class SimplifiedLogit(LogitHead):
    """A head with a 3x3 convolution, as in the stem of LIP-ResNet.

    Args:
        in_channels: channels of the map to pool, (N, in_channels, H, W).
        gate_coefficient: the soft gate's; None leaves the gate out.
        init: ``'average'`` or ``'max'``, the pooling that LIP starts as or close to.
        norm_cfg: config of the norm; default: :class:`~lip_mmdet.layers.InstanceNorm2d`.
    """

    def __init__(
        self,
        in_channels: int,
        gate_coefficient: float | None = DEFAULT_GATE,
        init: str = 'average',
        norm_cfg: dict | None = None,
    ) -> None:
        super().__init__(in_channels, in_channels, 3, gate_coefficient, init, norm_cfg)


@MODELS.register_module()
class ProjectionLogit(LogitHead):
    """A head with a 1x1 convolution, the paper's smallest logit module.

    Arguments as in :class:`SimplifiedLogit`.
    """

    def __init__(
        self,
        in_channels: int,
        gate_coefficient: float | None = DEFAULT_GATE,
        init: str = 'average',
        norm_cfg: dict | None = None,
    ) -> None:
        super().__init__(in_channels, in_channels, 1, gate_coefficient, init, norm_cfg)


@MODELS.register_module()
class DepthwiseLogit(LogitHead):
    """A head with a 3x3 convolution of each channel by itself, ours; the cheapest with weights.

    For :class:`~lip_mmdet.backbones.LIPBackbone` where a ``ProjectionLogit`` costs much: on wide
    maps of networks whose own convolutions are depthwise. What it brings in AP is not known.

    Arguments as in :class:`SimplifiedLogit`.
    """

    def __init__(
        self,
        in_channels: int,
        gate_coefficient: float | None = DEFAULT_GATE,
        init: str = 'average',
        norm_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            in_channels, in_channels, 3, gate_coefficient, init, norm_cfg, groups=in_channels
        )


@MODELS.register_module()
class BottleneckLogit(PoolingLogit):
    """Trunk and head, the logit module of the stages (*Bottleneck-128* at the default width).

    Args:
        in_channels: channels of the map to pool, (N, in_channels, H, W).
        width: channels of the trunk.
        gate_coefficient: the soft gate's; None leaves the gate out.
        norm_cfg: config of the norms; default: :class:`~lip_mmdet.layers.InstanceNorm2d`.

    Raises:
        InputError: the width is not a positive int.
    """

    def __init__(
        self,
        in_channels: int,
        width: int = DEFAULT_WIDTH,
        gate_coefficient: float | None = DEFAULT_GATE,
        norm_cfg: dict | None = None,
    ) -> None:
        super().__init__()
        self.trunk = LogitTrunk(in_channels, width, norm_cfg)
        self.head = LogitHead(width, in_channels, 1, gate_coefficient, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """Map the (N, in_channels, H, W) map to pool to its logit, of the same shape."""
        return self.head(self.trunk(x))

    def pool(self, x: Tensor, features: Tensor, window: tuple, operators: Operators) -> Tensor:
        """Pool ``x`` by the importance of ``features``; see :func:`pool_by_importance`."""
        return self.head.pool(x, self.trunk(features), window, operators)


@MODELS.register_module()
class IdentityLogit(nn.Module):
    """``G(I) = scale * I``, without weights: the special cases of section 3.3.

    Scale 0 is average pooling, 1 is SoftPool, and a large one tends to max pooling.

    Args:
        in_channels: unused; every logit module is built with it.
        scale: the factor.
    """

    def __init__(self, in_channels: int | None = None, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Scale a map; its shape and dtype stay."""
        return x * self.scale

    def extra_repr(self) -> str:
        return f'scale={self.scale}'


def with_gate(logit: dict, gate_coefficient: float | None) -> dict:
    """Give a logit config the gate that a network has everywhere.

    Args:
        logit: config of a logit module, its type a name or a class. One that has a gate of its own
            keeps it, and a module that takes no ``gate_coefficient`` is given none.
        gate_coefficient: of the soft gate; None leaves the gate out.
    """
    if 'gate_coefficient' not in inspect.signature(logit_class(logit)).parameters:
        return dict(logit)
    return {'gate_coefficient': gate_coefficient, **logit}


def logit_class(logit: dict) -> type:
    """Return the class that a logit config names, whatever MMEngine's default scope is.

    Args:
        logit: config whose type is a class, a registered name, or one with its scope.

    Raises:
        InputError: no such config, nothing registered by that name, or not with these arguments.
    """
    if not (isinstance(logit, dict) and 'type' in logit):
        raise InputError(f"a logit module is given as dict(type='ProjectionLogit'), not {logit!r}")
    arguments = dict(logit, in_channels=1)
    kind = found = arguments.pop('type')
    if isinstance(kind, str):
        with MODELS.switch_scope_and_registry(None) as registry:
            found = MODELS.get(kind) or registry.get(kind)
    if found is None:
        raise InputError(f'no logit module {kind!r} is registered; import the module that has it')
    try:
        inspect.signature(found).bind(**arguments)
    except TypeError as error:
        raise InputError(f'logit module {found.__name__}: {error}') from error
    return found


def build_logit(logit: dict, in_channels: int) -> nn.Module:
    """Build the logit module of a config, see :func:`logit_class`, for ``in_channels`` channels."""
    return MODELS.build(dict(logit, type=logit_class(logit), in_channels=in_channels))
