"""LIP-ResNet, fused and as released, against MMDetection's ResNet; in onnxruntime too."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Callable

import torch
from torch import nn

from lip_mmdet.benchmark.measure import measure
from lip_mmdet.errors import InputError

EVAL_SHAPE = (1, 3, 800, 1344)
TRAIN_SHAPE = (2, 3, 480, 640)
BACKBONES = ('ResNet', 'LIP composed', 'LIP fused')
COMPILED = ('LIP compiled',)
EXPORTED = ('ResNet onnxruntime', 'LIP onnxruntime')


def measure_backbones(
    depth: int = 50,
    training: bool = False,
    layout: str = 'contiguous',
    dtype: torch.dtype = torch.float32,
    device: str = 'cpu',
    repeats: int = 5,
    memory: bool = False,
    shape: tuple[int, int, int, int] | None = None,
    exported: bool = False,
    compiled: bool = False,
) -> list[dict]:
    """Time the backbones in turn.

    Args:
        depth: of the ResNet.
        training: time forward and backward in training mode; else the forward pass in eval mode.
        layout: memory format of the images and inside, or ``'defaults'``: contiguous
            images and default options.
        dtype: float32, or a half precision for autocast.
        device: ``'cpu'`` or ``'cuda'``.
        repeats: timed runs of each.
        memory: measure peak memory too.
        shape: of the images; default: those of the targets.
        exported: time both networks as ONNX files in onnxruntime, too; eval on the CPU only.
        compiled: time the composition under ``torch.compile``, too.

    Returns:
        One row for each: milliseconds, ratio to ResNet, peak memory and its ratio.
    """
    shape = shape or (TRAIN_SHAPE if training else EVAL_SHAPE)
    options = (depth, training, layout, dtype, device, shape)
    names = BACKBONES + COMPILED * compiled + EXPORTED * exported
    rows = measure(build, names, options, repeats, device, memory)
    for row in rows:
        row.update(
            depth=depth,
            shape='x'.join(map(str, shape)),
            layout=layout,
            dtype=str(dtype).replace('torch.', ''),
            what='training step' if training else 'eval forward',
        )
    return rows


def build(
    name: str,
    depth: int,
    training: bool,
    layout: str,
    dtype: torch.dtype,
    device: str,
    shape: tuple[int, int, int, int],
) -> Callable[[], object]:
    """Build one of the backbones, and its images; return what runs it once.

    Raises:
        InputError: onnxruntime is missing, or asked for a training step.
    """
    torch.manual_seed(0)
    if name in EXPORTED:
        return _exported(name, depth, training, shape)
    net = _network(name, depth, layout).to(device)
    images = torch.rand(shape, device=device)
    if layout == 'channels_last':
        images = images.contiguous(memory_format=torch.channels_last)
        net.to(memory_format=torch.channels_last)  # its weights
    return caller(net, images, training, dtype)


def caller(
    net: nn.Module, images: torch.Tensor, training: bool, dtype: torch.dtype = torch.float32
) -> Callable[[], None]:
    """Return what runs a backbone once, forward in eval mode or forward and backward in training.

    Args:
        net: the backbone.
        images: (N, 3, H, W), where ``net`` is.
        training: which of the two.
        dtype: float32, or a half precision for autocast.
    """
    half = dtype if dtype != torch.float32 else None

    def run() -> None:
        net.train(training)
        with torch.autocast(images.device.type, dtype=half, enabled=half is not None):
            features = net(images)
        if training:
            net.zero_grad(set_to_none=True)
            features = [f for f in features if f.requires_grad]  # those of frozen stages do not
            torch.autograd.backward(features, [torch.ones_like(f) for f in features])

    return run if training else torch.no_grad()(run)


def _exported(
    name: str, depth: int, training: bool, shape: tuple[int, int, int, int]
) -> Callable[[], object]:
    from lip_mmdet.engine.export import export_onnx, onnx_runner

    if training:
        raise InputError('onnxruntime runs no training step; add --mode eval')
    net = _network(name.replace('LIP', 'LIP composed'), depth, 'contiguous')
    net.eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'net.onnx')
        export_onnx(net, path)
        run = onnx_runner(path, threads=torch.get_num_threads())
    images = torch.rand(shape).numpy()
    return lambda: run(images)


def _network(name: str, depth: int, layout: str) -> nn.Module:
    from mmdet.models import ResNet

    from lip_mmdet.backbones import LIPResNet
    from lip_mmdet.layers import LogitHead

    if name.startswith('ResNet'):
        return ResNet(depth, norm_eval=False)
    channels_last = {'contiguous': False, 'channels_last': True}.get(layout)
    implementation = name.split()[1]
    net = LIPResNet(
        depth, norm_eval=False, implementation=implementation, channels_last=channels_last
    )
    for head in net.modules():
        if isinstance(head, LogitHead):  # at its zero start LIP would have no gates to compute
            nn.init.normal_(head.conv.weight, std=0.05)
    return net
