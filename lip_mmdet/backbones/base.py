"""What the backbones share beside their forward pass: weights they take, freezing, train modes."""

from __future__ import annotations

import torch
from mmdet.models.backbones.resnet import BasicBlock, ResNet
from mmengine.model import BaseModule, constant_init
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lip_mmdet.backbones.checkpoints import (
    OfficialNames,
    check_pretrained,
    checkpoint_must_fit,
    prepare_state_dict,
)
from lip_mmdet.errors import InputError
from lip_mmdet.layers import LIPPool2d
from lip_mmdet.layers.logit_modules import build_norm


def in_running_format(x: Tensor, channels_last: bool | None) -> Tensor:
    """Return images in the memory format that a network runs in; default: channels_last on CPUs."""
    if channels_last or (channels_last is None and x.device.type == 'cpu'):
        return x.contiguous(memory_format=torch.channels_last)
    return x


class WarmStartBackbone(BaseModule):
    """A backbone whose authors released weights under names of their own.

    Stands before MMDetection's class, if there is one, among the bases. A subclass says what its
    official names are and which modules make up a stage, and sets ``depth``, ``num_stages``,
    ``frozen_stages``, ``norm_cfg`` and ``norm_eval`` with MMDetection's meanings.
    """

    # The page that says where the released weights are.
    readme = 'configs/lip/README.md'
    # Torchvision's network that it can start from, without the depth.
    plain_network = 'resnet'
    # The module that is a max pooling in the plain network.
    stem_pool = 'maxpool'

    def _official_names(self) -> OfficialNames:
        raise NotImplementedError

    def _stage_modules(self, stage: int) -> list[nn.Module]:
        """Return the modules of a stage from 1 on; 0 is the stem with its pooling."""
        raise NotImplementedError

    def replaced_convolutions(self) -> dict[str, str]:
        """Return the weights whose shape differs from the plain network's, and the norm behind."""
        return {}

    def init_weights(self) -> None:
        """Initialize as ``init_cfg`` says.

        Raises:
            InputError: a local checkpoint that ``init_cfg`` names is missing, and the message says
                where to get it and what else there is; or it has no weight that fits.
        """
        check_pretrained(self)
        with checkpoint_must_fit(self):
            super().init_weights()

    def train(self, mode: bool = True) -> WarmStartBackbone:
        """Set the mode, keep frozen stages and norms as they are, and return the network."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze_stages(self) -> None:
        if self.frozen_stages > self.num_stages:
            raise InputError(
                f'{type(self).__name__} has {self.num_stages} stages, so frozen_stages is -1 '
                f'(none), 0 (the stem) to {self.num_stages}, not {self.frozen_stages}'
            )
        for stage in range(self.frozen_stages + 1):
            for module in self._stage_modules(stage):
                # Average pooling frozen in place of max pooling would stay wrong for good.
                if isinstance(module, LIPPool2d) and not module.can_start_as_max_pooling:
                    continue
                module.eval()
                module.requires_grad_(False)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        prepare_state_dict(self, state_dict, prefix, self._official_names())
        super()._load_from_state_dict(state_dict, prefix, *args)

    def official_state_dict(self) -> dict[str, Tensor]:
        """Return the state dict under the names of the authors' released code.

        Raises:
            InputError: the released code has no such network.
        """
        if self.norm_cfg['type'] not in ('BN', 'SyncBN'):
            raise InputError(
                f'official names of {type(self).__name__} exist with batch normalization only, '
                f'not with {self.norm_cfg["type"]}'
            )
        names = self._official_names()
        return {names.to_official(name): value for name, value in self.state_dict().items()}


class WarmStartResNet(WarmStartBackbone, ResNet):
    """MMDetection's ResNet with warm starts; zeroes the residual branches when built.

    MMDetection does the latter in ``init_weights`` only, which it does again.
    """

    def __init__(self, depth: int, **kwargs) -> None:
        # One norm is built for its message; MMDetection would build it deep inside.
        build_norm(kwargs.get('norm_cfg'), kwargs.get('base_channels', 64))
        super().__init__(depth, **kwargs)
        if self.zero_init_residual and kwargs.get('init_cfg') is None:
            last = 'norm2' if self.block is BasicBlock else 'norm3'
            for layer in self.res_layers:
                for block in getattr(self, layer):
                    constant_init(getattr(block, last), 0)

    def _check_depth(self, depth: int, **only_bottleneck) -> None:
        """Check the depth, and that a basic block is not asked for what it has no place for.

        Args:
            depth: as given to the constructor, before it builds anything.
            **only_bottleneck: options that must be left out at depth 18 and 34.

        Raises:
            InputError: no such depth, or no such option at this depth.
        """
        name = type(self).__name__
        if depth not in self.arch_settings:
            depths = ', '.join(map(str, self.arch_settings))
            raise InputError(f'{name} has no depth {depth!r}; there are {depths}')
        if self.arch_settings[depth][0] is not BasicBlock:
            return
        for option, value in only_bottleneck.items():
            if value:
                raise InputError(
                    f"{name}: {option} needs MMDetection's bottleneck block; use depth 50, 101 or "
                    f'152 instead of {depth}'
                )

    def _stage_modules(self, stage: int) -> list[nn.Module]:
        if stage > 0:
            return [getattr(self, f'layer{stage}')]
        stem = [self.stem] if self.deep_stem else [self.conv1, self.norm1]
        return [*stem, self.maxpool]

    def official_state_dict(self) -> dict[str, Tensor]:
        """Return the state dict under the names of the authors' released code.

        Raises:
            InputError: the released code has no such network (depth 18 or 34, ``deep_stem``,
                ``avg_down``, norms other than batch normalization).
        """
        if self.block is BasicBlock or self.deep_stem or self.avg_down:
            raise InputError(
                'official names exist for depth 50, 101 and 152 without deep_stem and avg_down only'
            )
        return super().official_state_dict()
