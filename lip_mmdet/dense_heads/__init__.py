"""Dense heads for MMDetection's one-stage detectors, registered in its ``MODELS``."""

from lip_mmdet.dense_heads.focal_pair_loss import FocalPairLoss
from lip_mmdet.dense_heads.musu_head import MuSuHead

__all__ = ['FocalPairLoss', 'MuSuHead']
