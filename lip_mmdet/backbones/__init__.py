"""Backbones built on LIP, registered in MMDetection's ``MODELS``."""

from lip_mmdet.backbones.lip_resnet import LIPResNet, LIPResNetMD

__all__ = ['LIPResNet', 'LIPResNetMD']
