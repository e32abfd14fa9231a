"""Backbones built on LIP and their relatives, registered in MMDetection's ``MODELS``."""

from lip_mmdet.backbones.densenet import DenseNet
from lip_mmdet.backbones.lip_backbone import LIPBackbone
from lip_mmdet.backbones.lip_densenet import LIPDenseNet
from lip_mmdet.backbones.lip_resnet import LIPResNet, LIPResNetMD
from lip_mmdet.backbones.sge_resnet import SGEResNet

__all__ = ['DenseNet', 'LIPBackbone', 'LIPDenseNet', 'LIPResNet', 'LIPResNetMD', 'SGEResNet']
