"""Everything MMDetection gets to know of this package, by importing this module.

In a config: ``custom_imports = dict(imports=['lip_mmdet.plugin'])``. That registers the backbones,
layers, the dense head, the metric and the hooks, and lets checkpoints that MMEngine's Runner saved
be loaded on torch >= 2.6.

Raises:
    DependencyError: torch, mmcv, mmengine or mmdet is missing or out of range.
"""

from lip_mmdet.dependencies import NEEDED, require

require(*NEEDED)

from lip_mmdet import backbones, dense_heads, layers  # noqa: E402
from lip_mmdet.engine import (  # noqa: E402
    coco_metric,
    data_hook,
    importance,
    launch,
    padding,
    resume,
)
from lip_mmdet.engine.safe_loading import make_loading_safe  # noqa: E402

make_loading_safe()

__all__ = [
    'backbones',
    'coco_metric',
    'data_hook',
    'dense_heads',
    'importance',
    'launch',
    'layers',
    'padding',
    'resume',
]
