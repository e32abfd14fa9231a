"""Operators on tensors, once differentiable and quick on the CPU. They need torch alone.

:mod:`lip_mmdet.ops.formula` has the same operators composed of PyTorch's: those may be traced,
compiled, exported and differentiated as often as one likes.
"""

from lip_mmdet.ops.gated_lip import gated_lip2d
from lip_mmdet.ops.instance_norm import instance_norm
from lip_mmdet.ops.lip import lip2d
from lip_mmdet.ops.memory_format import to_contiguous

__all__ = ['gated_lip2d', 'instance_norm', 'lip2d', 'to_contiguous']
