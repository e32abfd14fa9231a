"""COCO evaluation: score, break down, compare and submit the detections of any detector.

Works on COCO JSON files and needs neither torch nor MMDetection; two modules that do are imported
by name: ``inference`` (detections from a config and a checkpoint) and ``coco_metric`` (the metric
for MMDetection's ``val`` and ``test``).
"""

from lip_mmdet.evaluation.backends import BACKENDS, CocoEvaluation, choose_backend, evaluate
from lip_mmdet.evaluation.detections import Detections, detections_from, load_detections
from lip_mmdet.evaluation.figures import AP_FIGURES, AR_FIGURES, figures
from lip_mmdet.evaluation.ground_truth import GroundTruth, ground_truth_from, load_ground_truth

__all__ = [
    'AP_FIGURES',
    'AR_FIGURES',
    'BACKENDS',
    'CocoEvaluation',
    'Detections',
    'GroundTruth',
    'choose_backend',
    'detections_from',
    'evaluate',
    'figures',
    'ground_truth_from',
    'load_detections',
    'load_ground_truth',
]
