"""Operators on tensors, once differentiable, quick on the CPU; `formula` composes PyTorch's."""

from lip_mmdet.ops.gated_lip import gated_lip2d
from lip_mmdet.ops.instance_norm import instance_norm
from lip_mmdet.ops.lip import lip2d
from lip_mmdet.ops.memory_format import to_contiguous

__all__ = ['gated_lip2d', 'instance_norm', 'lip2d', 'to_contiguous']
