"""Operators on tensors. They need torch and nothing else.

One backward pass is written out, for speed. Second and higher derivatives, forward mode and nested
transforms of ``torch.func`` are right too, in the time and memory of PyTorch's own operators.
"""

from lip_mmdet.ops.gated_lip import gated_lip2d
from lip_mmdet.ops.instance_norm import instance_norm
from lip_mmdet.ops.lip import lip2d
from lip_mmdet.ops.memory_format import to_contiguous
from lip_mmdet.ops.reference import gated_lip2d_reference, instance_norm_reference

__all__ = [
    'gated_lip2d',
    'gated_lip2d_reference',
    'instance_norm',
    'instance_norm_reference',
    'lip2d',
    'to_contiguous',
]
