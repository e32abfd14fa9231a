"""LIP-DenseNet (arXiv 1908.04156, section 4.1): DenseNet whose stem and transitions pool by LIP."""

from __future__ import annotations

from typing import Sequence

from mmdet.registry import MODELS
from torch import Tensor, nn

from lip_mmdet.backbones.base import in_running_format
from lip_mmdet.backbones.checkpoints import OfficialNames
from lip_mmdet.backbones.densenet import OFFICIAL_RULES, OLDER_NAMES, DenseNet
from lip_mmdet.errors import InputError
from lip_mmdet.layers import BottleneckLogit, LIPPool2d, SimplifiedLogit, set_implementation
from lip_mmdet.layers.logit_modules import logit_class, with_gate
from lip_mmdet.layers.valid_area import mask_padding_in
from lip_mmdet.ops import to_contiguous

# Names in the state dicts of the authors' released networks, and ours.
LIP_RULES = {
    **OFFICIAL_RULES,
    'pool0.logit.conv1.': 'pool0.logit.conv.',
    'pool0.logit.bn1.': 'pool0.logit.norm.',
    'pool.logit.conv1.': 'pool.logit.trunk.conv1.',
    'pool.logit.bn1.': 'pool.logit.trunk.norm1.',
    'pool.logit.conv2.': 'pool.logit.trunk.conv2.',
    'pool.logit.bn2.': 'pool.logit.trunk.norm2.',
    'pool.logit.conv3.': 'pool.logit.head.conv.',
    'pool.logit.bn3.': 'pool.logit.head.norm.',
}


@MODELS.register_module()
class LIPDenseNet(DenseNet):
    """DenseNet with LIP for the stem's max pooling and the transitions' average pooling.

    Features at strides 4, 8, 16 and 32 as in :class:`DenseNet`: the outputs of the dense blocks,
    the last after its norm and ReLU. Each LIP has a logit module of its own; a transition's pools
    2x2 windows with stride 2 and, like the average pooling it stands for, leaves an odd last row or
    column out.

    Loads the authors' state dicts under their own names, and warm-starts from a DenseNet's: all of
    it is taken over, LIP starts close to max pooling in the stem and as exactly the average pooling
    of the transitions, and one line of the log says so. Depth 121 is the paper's network.

    Args:
        depth: 121, 161, 169 or 201.
        lip_stem: LIP instead of the stem's max pooling.
        lip_transitions: for each transition, whether it pools by LIP; default: all.
        stem_logit: config of the stem's logit module; default ``dict(type='SimplifiedLogit')``.
        transition_logit: config of the transitions' logit modules; default
            ``dict(type='BottleneckLogit', width=128)``.
        gate_coefficient: of the soft gate in all of them; None leaves the gate out. A logit config
            that has its own keeps it.
        implementation: as in :class:`LIPResNet`.
        channels_last: as in :class:`LIPResNet`; features come out contiguous either way.
        mask_padding: as in :class:`LIPResNet`.
        num_stages: number of dense blocks.
        **kwargs: as in :class:`DenseNet`.

    Raises:
        InputError: as in :class:`DenseNet`; ``lip_transitions`` is of the wrong length; there is
            no such implementation.

    Example:
        >>> import torch
        >>> from lip_mmdet.backbones import LIPDenseNet
        >>> net = LIPDenseNet(depth=121).eval()
        >>> for feature in net(torch.rand(1, 3, 64, 64)):
        ...     print(tuple(feature.shape))
        (1, 256, 16, 16)
        (1, 512, 8, 8)
        (1, 1024, 4, 4)
        (1, 1024, 2, 2)
    """

    readme = 'configs/lip/README.md'

    def __init__(
        self,
        depth: int,
        *,
        lip_stem: bool = True,
        lip_transitions: Sequence[bool] | None = None,
        stem_logit: dict | None = None,
        transition_logit: dict | None = None,
        gate_coefficient: float | None = 12.0,
        implementation: str | None = None,
        channels_last: bool | None = None,
        mask_padding: bool = False,
        num_stages: int = 4,
        **kwargs,
    ) -> None:
        if lip_transitions is None:
            lip_transitions = (True,) * (num_stages - 1)
        if len(lip_transitions) != num_stages - 1:
            raise InputError(
                f'{type(self).__name__}: num_stages={num_stages} has {num_stages - 1} transitions, '
                f'lip_transitions={tuple(lip_transitions)} does not'
            )
        self.lip_stem = lip_stem
        self.lip_transitions = tuple(lip_transitions)
        self.stem_logit = with_gate(stem_logit or dict(type='SimplifiedLogit'), gate_coefficient)
        self.transition_logit = with_gate(
            transition_logit or dict(type='BottleneckLogit'), gate_coefficient
        )
        self.channels_last = channels_last
        super().__init__(depth, num_stages=num_stages, **kwargs)
        set_implementation(self, implementation)
        if mask_padding:
            mask_padding_in(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images, (N, in_channels, H, W), to the contiguous features of ``out_indices``."""
        x = in_running_format(x, self.channels_last)
        return tuple(to_contiguous(feature) for feature in super().forward(x))

    def _make_stem_pool(self, channels: int) -> nn.Module:
        if not self.lip_stem:
            return super()._make_stem_pool(channels)
        return LIPPool2d(channels, self.stem_logit)

    def _make_transition_pool(self, transition: int, channels: int) -> nn.Module:
        if not self.lip_transitions[transition - 1]:
            return super()._make_transition_pool(transition, channels)
        return LIPPool2d(channels, self.transition_logit, kernel_size=2, stride=2, padding=0)

    def _official_names(self) -> OfficialNames:
        return OfficialNames('classifier', LIP_RULES, OLDER_NAMES)

    def official_state_dict(self) -> dict[str, Tensor]:
        """Return the state dict under the names of the authors' released code.

        Raises:
            InputError: the authors released no such network: theirs has depth 121, LIP in the stem
                and all transitions, and the default kinds of logit modules.
        """
        released = (
            self.depth == 121
            and self.lip_stem
            and all(self.lip_transitions)
            and logit_class(self.stem_logit) is SimplifiedLogit
            and logit_class(self.transition_logit) is BottleneckLogit
        )
        if not released:
            raise InputError(
                'official names exist for depth 121 with LIP in the stem and all transitions and '
                'the default kinds of logit modules only'
            )
        return super().official_state_dict()
