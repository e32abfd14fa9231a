"""What lip_mmdet 0.1 spelled otherwise: whoever imports it so is told the new spelling."""

from __future__ import annotations

import sys

# Module or member of a package in 0.1 -> what stands for it.
MOVED = {
    'lip_mmdet.demo': 'tools/shapes.py of a checkout',
    'lip_mmdet.engine.checkpoints': 'lip_mmdet.engine.safe_loading',
    'lip_mmdet.evaluation.coco_metric': 'lip_mmdet.engine.coco_metric',
    'lip_mmdet.ops.gated_lip2d_reference': 'lip_mmdet.ops.formula.gated_lip2d',
    'lip_mmdet.ops.instance_norm_reference': 'lip_mmdet.ops.formula.instance_norm',
}


class _Refusal:
    """The finder that Python asks last, after every place where the module might be."""

    @staticmethod
    def find_spec(name: str, path=None, target=None) -> None:
        if name in MOVED:
            raise ImportError(f'{name} of lip_mmdet 0.1 is {MOVED[name]} now')


def refuse_old_names() -> None:
    """Have an import of an old name end in an ImportError that tells the new one."""
    if _Refusal not in sys.meta_path:
        sys.meta_path.append(_Refusal)
