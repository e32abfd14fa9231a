"""A training step of Faster R-CNN with LIP-ResNet, by each implementation, beside ResNet's."""

from __future__ import annotations

from typing import Callable, Sequence

import torch

from lip_mmdet.benchmark.measure import measure

SHAPE = (2, 3, 800, 1344)
DETECTORS = ('ResNet', 'LIP composed', 'LIP fused', 'LIP compiled')
_CONFIG = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
_OBJECTS = 20  # in each image
_QUEUED = 4  # steps of a timed run on a GPU, for which MMDetection itself waits now and then


def measure_detectors(
    depth: int = 50,
    dtype: torch.dtype = torch.float32,
    device: str = 'cpu',
    repeats: int = 5,
    memory: bool = False,
    names: Sequence[str] = DETECTORS,
    shape: tuple[int, int, int, int] = SHAPE,
) -> list[dict]:
    """Time whole training steps in turn: forward, losses, backward, SGD.

    MMDetection's Faster R-CNN with FPN and its defaults (stage 1 frozen, batch statistics too), on
    random images with random boxes, from random weights.

    Args:
        depth: of the backbone.
        dtype: float32, or a half precision for autocast.
        device: ``'cpu'`` or ``'cuda'``.
        repeats: timed runs of each.
        memory: measure peak memory too.
        names: which of :data:`DETECTORS`; ``'ResNet'`` among them.
        shape: (N, 3, H, W) of the images.

    Returns:
        One row for each: milliseconds, ratio to ResNet's step, peak memory and its ratio.
    """
    options = (depth, dtype, device, shape)
    rows = measure(build, names, options, repeats, device, memory, _QUEUED)
    for row in rows:
        row.update(
            depth=depth,
            shape='x'.join(map(str, shape)),
            dtype=str(dtype).replace('torch.', ''),
            what='training step of Faster R-CNN',
        )
    return rows


def build(
    name: str, depth: int, dtype: torch.dtype, device: str, shape: tuple[int, int, int, int]
) -> Callable[[], None]:
    """Build one of :data:`DETECTORS` and a batch; return what trains it for one step."""
    from mmdet.registry import MODELS
    from mmengine.hub import get_config
    from mmengine.registry import init_default_scope

    import lip_mmdet.backbones  # noqa: F401, registers LIPResNet

    torch.manual_seed(0)
    init_default_scope('mmdet')
    config = get_config(_CONFIG).model
    backbone = dict(depth=depth, init_cfg=None)
    if depth < 50:
        config.neck.in_channels = [64, 128, 256, 512]
    if name != 'ResNet':
        backbone.update(type='LIPResNet', implementation=name.split()[1])
    config.backbone.update(backbone)
    detector = MODELS.build(config).to(device).train()
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-5, momentum=0.9)
    images, samples = _batch(shape, device)
    half = dtype if dtype != torch.float32 else None

    def run() -> None:
        with torch.autocast(device, dtype=half, enabled=half is not None):
            losses = detector.loss(images, samples)
        total, _ = detector.parse_losses(losses)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()

    return run


def _batch(shape: tuple[int, int, int, int], device: str) -> tuple[torch.Tensor, list]:
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    images, size = torch.randn(shape, device=device), tuple(shape[2:])
    samples = []
    for _ in range(shape[0]):
        corners = torch.rand(_OBJECTS, 2) * 0.8
        sides = 0.02 + torch.rand(_OBJECTS, 2) * 0.18
        boxes = torch.cat((corners, corners + sides), 1) * torch.tensor([*size[::-1]] * 2)
        sample = DetDataSample(
            metainfo=dict(
                img_shape=size,
                ori_shape=size,
                pad_shape=size,
                batch_input_shape=size,
                scale_factor=(1.0, 1.0),
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=boxes.to(device), labels=torch.randint(80, (_OBJECTS,), device=device)
        )
        samples.append(sample)
    return images, samples
