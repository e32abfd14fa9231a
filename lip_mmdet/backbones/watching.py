"""Where a backbone downsamples and what it computes, seen while it runs on one small image."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from mmcv.ops import DeformConv2d, ModulatedDeformConv2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lip_mmdet.errors import InputError
from lip_mmdet.layers.downsampling import Conv2d

CONVOLUTIONS = (nn.Conv2d, Conv2d, DeformConv2d, ModulatedDeformConv2d)
# Heights and widths of the images: an odd one shows how a layer pads. Networks that take multiples
# of their stride only get the second.
SIZES = ((128, 109), (128, 128))


@dataclass
class Downsampling:
    """A layer that brings maps to a coarser grid.

    Attributes:
        name: within the backbone.
        stride: of the maps that it gives, in pixels of the image.
        taken: shape of the map that it took.
        given: shape of the map that it gave.
        reason: why it is left alone; empty if LIP takes its place.
        extra: multiply-adds that LIP adds there, as a part of the backbone's.
    """

    name: str
    stride: int
    taken: tuple[int, ...]
    given: tuple[int, ...]
    reason: str = ''
    extra: float = 0.0


@dataclass
class Seen:
    """What a network did with (1, C, H, W) maps.

    Attributes:
        x: the maps.
        downsampling: by name, the smallest modules that gave smaller maps than they took.
        multiply_adds: of convolutions and linear layers, by name.
    """

    x: Tensor
    downsampling: dict[str, Downsampling] = field(default_factory=dict)
    multiply_adds: dict[str, int] = field(default_factory=dict)

    def note(self, name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
        """Note one call of a module; parts of a module come before it."""
        convolves = isinstance(layer, CONVOLUTIONS)
        if (convolves or isinstance(layer, nn.Linear)) and isinstance(output, Tensor):
            adds = output.numel() * layer.weight[0].numel()
            self.multiply_adds[name] = self.multiply_adds.get(name, 0) + adds
        x = inputs[0] if inputs else None
        if not name or not all(isinstance(m, Tensor) and m.dim() == 4 for m in (x, output)):
            return
        # One position is a mean over the map, such as a squeeze-and-excitation layer's.
        if not 1 < output.shape[2] < x.shape[2]:
            return
        parts = [part for part in self.downsampling if part.startswith(f'{name}.')]
        if parts and not convolves:
            return
        for part in parts:  # a convolution's own, such as the offsets of a deformable one
            del self.downsampling[part]
        stride = round(self.x.shape[2] / output.shape[2])
        one = Downsampling(name, stride, tuple(x.shape), tuple(output.shape))
        if x.shape[1] == self.x.shape[1] and x.shape[2] >= self.x.shape[2]:
            one.reason = 'reads the image'
        elif not torch.is_grad_enabled():
            one.reason = 'runs under no_grad'
        if name in self.downsampling:
            one.reason = 'runs more than once'
        self.downsampling[name] = one


def run_and_see(network: nn.Module, x: Tensor) -> Seen:
    """Run a network on (1, C, H, W) maps and return what it did."""
    seen = Seen(x)
    hooks = []
    for name, module in network.named_modules():
        hook = module.register_forward_hook(
            lambda layer, inputs, output, name=name: seen.note(name, layer, inputs, output)
        )
        # Before others, such as a LIP's that pools what a convolution gives.
        module._forward_hooks.move_to_end(hook.id, last=False)
        hooks.append(hook)
    try:
        network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def see_backbone(backbone: nn.Module, in_channels: int) -> Seen:
    """Return what a backbone does with an image; its state stays as it is.

    Args:
        backbone: maps (N, in_channels, H, W) images to features.
        in_channels: channels of the images.

    Raises:
        InputError: it does not run on images.
    """
    modes = {module: module.training for module in backbone.modules()}
    # PyTorch 1.13 runs SyncBN on GPUs only, though without training it is BN.
    synced = [module for module in modes if isinstance(module, nn.SyncBatchNorm)]
    for module in synced:
        module.forward = functools.partial(_BatchNorm.forward, module)
    backbone.eval()
    try:
        for size in SIZES:
            try:
                with torch.enable_grad():
                    return run_and_see(backbone, torch.zeros(1, in_channels, *size))
            except Exception as error:  # whatever a network says of a size that it cannot take
                failure = error
    finally:
        for module, mode in modes.items():
            module.training = mode
        for module in synced:
            del module.forward
    reason = str(failure).strip().splitlines() or ['']
    raise InputError(
        f'LIPBackbone: {type(backbone).__name__} does not run on an image of {size[0]} x {size[1]} '
        f'pixels: {type(failure).__name__}: {reason[0]}'
    ) from failure
