"""LIP as a pooling layer with a logit module of its own (arXiv 1908.04156, section 3.2)."""

from __future__ import annotations

from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor

from lip_mmdet.layers.implementation import Implemented, set_implementation
from lip_mmdet.layers.logit_modules import LogitHead, build_logit, pool_by_importance


@MODELS.register_module()
class LIPPool2d(Implemented, BaseModule):
    """Pool by importance that a logit module learns from the map itself.

    Stands wherever a pooling layer does; the defaults are those of a ResNet stem's 3x3 max pooling.

    Args:
        in_channels: channels of the map to pool.
        logit: config of the logit module, such as ``dict(type='BottleneckLogit', width=64)``; built
            with ``in_channels``. Default: :class:`SimplifiedLogit`.
        kernel_size: window, an int or (height, width).
        stride: step of the window, an int or (height, width).
        padding: padding on each side, an int or (height, width).
        implementation: ``'fused'``, ``'composed'`` or ``'compiled'``; see
            :func:`lip_mmdet.layers.set_implementation`.
        init_cfg: MMEngine's initialization config.

    Attributes:
        stands_for_max: whether a max pooling stood there, as which weights of a network without LIP
            want it to start.

    Example:
        >>> import torch
        >>> from lip_mmdet.layers import LIPPool2d
        >>> pool = LIPPool2d(64)
        >>> tuple(pool(torch.rand(1, 64, 56, 56)).shape)
        (1, 64, 28, 28)
    """

    stands_for_max = False

    def __init__(
        self,
        in_channels: int,
        logit: dict | None = None,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 2,
        padding: int | tuple[int, int] = 1,
        implementation: str | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        logit = logit or dict(type='SimplifiedLogit')
        self.logit = build_logit(logit, in_channels)
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        set_implementation(self, implementation)

    def forward(self, x: Tensor) -> Tensor:
        """Pool (N, in_channels, H, W); windows as in :func:`lip_mmdet.ops.lip2d`."""
        window = self.kernel_size, self.stride, self.padding
        return pool_by_importance(x, None, self.logit, window, self.operators(x))

    @property
    def can_start_as_max_pooling(self) -> bool:
        """Whether the logit module ends in a head on the map itself, and starts nearly anyhow."""
        return isinstance(self.logit, LogitHead)

    def start_as_max_pooling(self) -> bool:
        """Set the logit module's weights so that the largest value of a window outweighs the rest.

        Returns:
            False if the kind of logit module cannot do so; then nothing is changed.
        """
        if self.can_start_as_max_pooling:
            self.logit.start('max')
        return self.can_start_as_max_pooling

    def extra_repr(self) -> str:
        return f'kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}'
