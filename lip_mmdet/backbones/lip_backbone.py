"""LIP in any convolutional backbone, wherever it downsamples.

The paper's placement, LIP on the input of a strided convolution that goes on at stride 1 (arXiv
1908.04156, section 3.5), taken to all networks. Where they downsample is found by watching them.
"""

from __future__ import annotations

import logging
from typing import Any, Iterator, Sequence

import torch
from mmdet.registry import MODELS
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn

from lip_mmdet.backbones.checkpoints import checkpoint_must_fit
from lip_mmdet.backbones.watching import CONVOLUTIONS, Downsampling, run_and_see, see_backbone
from lip_mmdet.errors import InputError
from lip_mmdet.layers import LIPPool2d, LogitHead, set_implementation
from lip_mmdet.layers.downsampling import (
    AlignedLIPPool2d,
    downsample_by,
    lip_for_conv,
    lip_for_pool,
    why_not,
)
from lip_mmdet.layers.valid_area import mask_padding_in

# What LIP adds at a layer is named from this part of the backbone's multiply-adds on.
_NOTABLE = 0.1


@MODELS.register_module()
class LIPBackbone(BaseModule):
    """Any convolutional backbone, downsampling by LIP.

    All else is the given backbone's: ``init_cfg``, ``frozen_stages``, attributes, features, names
    of weights. Weights of the plain network are a warm start: LIP begins close to max pooling where
    it stands for that, and as average pooling elsewhere.

    A max or average pooling with a stride becomes LIP over its windows. A convolution with a stride
    keeps its weights and runs at stride 1, and LIP downsamples for it, by windows of ``2 * stride -
    1`` positions around the centres that it had (half a position before them where its kernel is
    even). Left alone, and named in the log, are convolutions that read the image, layers that run
    twice or under ``no_grad``, and whatever else downsamples.

    Args:
        backbone: config of the backbone.
        stem: LIP where maps of stride 4 and less are made.
        stages: strides, in pixels of the image, of the other maps that LIP makes; default: all.
        logit: config of the logit modules; default ``dict(type='ProjectionLogit')``.
        order: where LIP stands at a convolution: ``'before'`` it, as in the paper, or ``'after'``
            it, on what it gives at stride 1, for more multiply-adds.
        max_extra: leave layers alone where LIP would add more than this part of the backbone's
            multiply-adds.
        implementation: see :func:`lip_mmdet.layers.set_implementation`.
        mask_padding: as in :class:`~lip_mmdet.backbones.LIPResNet`.

    Attributes:
        backbone: the backbone.
        downsampling: a :class:`~lip_mmdet.backbones.watching.Downsampling` for each layer found.

    Raises:
        InputError: LIP has no place in the backbone, the backbone does not run on images,
            ``order`` or ``stages`` are none of the above, or ``mask_padding`` with a layer whose
            padding adapts to the size.

    Example:
        >>> import torch
        >>> from lip_mmdet.backbones import LIPBackbone
        >>> net = LIPBackbone(dict(type='mmdet.ResNeXt', depth=50, groups=32, base_width=4)).eval()
        >>> for feature in net(torch.rand(1, 3, 64, 64)):
        ...     print(tuple(feature.shape))
        (1, 256, 16, 16)
        (1, 512, 8, 8)
        (1, 1024, 4, 4)
        (1, 2048, 2, 2)
    """

    def __init__(
        self,
        backbone: dict,
        *,
        stem: bool = True,
        stages: Sequence[int] | None = None,
        logit: dict | None = None,
        order: str = 'before',
        max_extra: float | None = None,
        implementation: str | None = None,
        mask_padding: bool = False,
    ) -> None:
        if order not in ('before', 'after'):
            raise InputError(f"LIPBackbone: order is 'before' or 'after', not {order!r}")
        super().__init__()
        self.backbone = MODELS.build(backbone)
        seen = see_backbone(self.backbone, backbone.get('in_channels', 3))
        self.downsampling = list(seen.downsampling.values())
        strides = sorted({one.stride for one in self.downsampling if one.stride > 4})
        listed = isinstance(stages, (list, tuple))
        if stages is not None and not (listed and set(stages) <= set(strides)):
            raise InputError(f'LIPBackbone: stages are strides out of {strides}, not {stages!r}')
        for one in self.downsampling:
            wanted = stem if one.stride <= 4 else stages is None or one.stride in stages
            if not one.reason and not wanted:
                one.reason = 'left out'
            if not one.reason:
                logit = logit or dict(type='ProjectionLogit')
                self._replace(one, logit, order, max_extra, seen.multiply_adds)
        if all(one.reason for one in self.downsampling):
            raise InputError(f'LIPBackbone has no place for LIP in {self._summary()}')
        set_implementation(self, implementation)
        self.backbone._register_load_state_dict_pre_hook(_warm_start, with_module=True)
        self._register_load_state_dict_pre_hook(_add_own_name)
        self._register_state_dict_hook(_drop_own_name)
        if mask_padding:
            self._mask_padding()
        # Frozen stages froze without the LIP in them; DistributedDataParallel, which looks before a
        # training freezes them again, would wait for its gradients.
        self.backbone.train(self.backbone.training)
        print_log(f'LIP in {self._summary()}', 'current')

    def _replace(
        self,
        one: Downsampling,
        logit: dict,
        order: str,
        max_extra: float | None,
        multiply_adds: dict[str, int],
    ) -> None:
        """Put LIP in the place of a layer, or note the reason why not."""
        layer = self.backbone.get_submodule(one.name)
        convolves = isinstance(layer, CONVOLUTIONS)
        sizes = one.taken[2:]
        adaptive, one.reason = why_not(layer, sizes, one.given[2:], order, convolves)
        if one.reason:
            return
        shape, own = one.taken, multiply_adds.get(one.name, 0)
        if convolves:
            lip = lip_for_conv(layer, logit, order, adaptive)
        else:
            lip = lip_for_pool(layer, shape[1], logit)
        extra = 0
        if convolves and order == 'after':
            extra = own * (sizes[0] * sizes[1] / (one.given[2] * one.given[3]) - 1)
            shape = (1, layer.out_channels, *sizes)
        with torch.no_grad():
            logit_adds = run_and_see(lip.logit, torch.zeros(shape)).multiply_adds
        one.extra = (extra + sum(logit_adds.values())) / sum(multiply_adds.values())
        if max_extra is not None and one.extra > max_extra:
            one.reason = f'LIP would add {one.extra:.0%}'
        elif convolves:
            downsample_by(layer, lip, order, adaptive)
        else:
            parent, _, name = one.name.rpartition('.')
            setattr(self.backbone.get_submodule(parent), name, lip)

    def _mask_padding(self) -> None:
        odd = [n for n, lip in _lips(self.backbone) if isinstance(lip, AlignedLIPPool2d)]
        if odd:
            raise InputError(
                f'LIPBackbone: mask_padding does not go with the padding of {_some(odd)}'
            )
        mask_padding_in(self)

    def _summary(self) -> str:
        kind = type(self.backbone).__name__
        done = [one for one in self.downsampling if not one.reason]
        left = [f'{one.name} {one.reason}' for one in self.downsampling if one.reason]
        costly = [f'{one.name} {one.extra:+.0%}' for one in done if one.extra > _NOTABLE]
        parts = []
        if done:
            parts.append(f'{sum(one.extra for one in done):+.0%} multiply-adds')
        for stride in sorted({one.stride for one in done}):
            parts.append(
                f'to stride {stride} {_some([d.name for d in done if d.stride == stride])}'
            )
        if costly:
            parts.append(f'the most at {_some(costly)} (max_extra leaves such out)')
        if left:
            parts.append(f'left alone: {_some(left)}')
        if kind == 'ResNet':
            parts.append("LIPResNet has the paper's placement")
        return f'{kind}: ' + ('; '.join(parts) or 'nothing in it downsamples by a layer')

    def init_weights(self) -> None:
        """Initialize the backbone as its ``init_cfg`` says.

        Raises:
            InputError: it names a checkpoint without any weight that fits.
        """
        if not hasattr(self.backbone, 'init_weights'):
            return  # a plain module of PyTorch's, which drew its weights when it was built
        with checkpoint_must_fit(self.backbone) as loaded:
            self.backbone.init_weights()
        # Without a checkpoint, which says how LIP starts, every convolution was drawn, those of
        # logit modules too.
        if not loaded:
            for _, lip in _lips(self.backbone):
                _start_anew(lip)

    def forward(self, x: Tensor) -> Any:
        """Map images, (N, in_channels, H, W), to the backbone's features."""
        return self.backbone(x)

    def __getattr__(self, name: str) -> Any:
        """Return what the backbone has, such as ``feat_dim``, as its own."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == 'backbone':
                raise
        return getattr(self.backbone, name)

    def extra_repr(self) -> str:
        return self._summary()


def _some(names: list[str]) -> str:
    return ', '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')


def _lips(backbone: nn.Module) -> Iterator[tuple[str, LIPPool2d]]:
    return ((n, m) for n, m in backbone.named_modules() if isinstance(m, LIPPool2d))


def _start_anew(lip: LIPPool2d) -> None:
    for module in lip.logit.modules():
        if isinstance(module, LogitHead):
            module.start(module.init)


# Names of weights are the plain backbone's. These are functions, for hooks are pickled.
def _drop_own_name(module: nn.Module, state_dict: dict, prefix: str, *_: Any) -> None:
    own = f'{prefix}backbone.'
    for key in [key for key in state_dict if key.startswith(own)]:
        state_dict[prefix + key[len(own) :]] = state_dict.pop(key)


def _add_own_name(state_dict: dict, prefix: str, *_: Any) -> None:
    for key in [key for key in state_dict if key.startswith(prefix)]:
        state_dict[f'{prefix}backbone.{key[len(prefix) :]}'] = state_dict.pop(key)


def _warm_start(module: nn.Module, state_dict: dict, prefix: str, *_: Any) -> None:
    """Complete the weights of a plain backbone by those that LIP starts with."""
    lips = dict(_lips(module))
    added = {f'{prefix}{name}.{key}' for name, lip in lips.items() for key in lip.state_dict()}
    own = {prefix + key for key in module.state_dict()}
    given = own.intersection(state_dict)
    if not given or given & added:
        return  # there is nothing to start from, or LIP's weights are there
    like_max = []
    for name, lip in lips.items():
        _start_anew(lip)
        if lip.stands_for_max and lip.start_as_max_pooling():
            like_max.append(name)
        for key, value in lip.state_dict().items():
            state_dict[f'{prefix}{name}.{key}'] = value.detach().clone()
    frozen = [n for n, lip in lips.items() if not all(p.requires_grad for p in lip.parameters())]
    note = f'close to max pooling at {", ".join(like_max)}, elsewhere ' if like_max else ''
    print_log(
        f'LIPBackbone warm start: {len(given)} tensors of a plain {type(module).__name__}; LIP is '
        f'untrained: it starts {note}as average pooling'
        + (f' (frozen so: {", ".join(frozen)})' if frozen else ''),
        'current',
        logging.WARNING,
    )
