"""Operators on tensors. They need torch and nothing else."""

from lip_mmdet.ops.lip import lip2d

__all__ = ['lip2d']
