"""Pictures: training curves, detections beside ground truth, evaluation reports.

Needs matplotlib and neither torch nor MMDetection.
"""

from lip_mmdet.visualization.detections import plot_detections_beside_truth
from lip_mmdet.visualization.training import plot_training

__all__ = ['plot_detections_beside_truth', 'plot_training']
