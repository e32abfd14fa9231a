"""COCO evaluation: score, break down, compare and submit the detections of any detector.

Works on COCO JSON files and needs neither torch nor MMDetection. The module that does is imported
by name: ``coco_metric``, the metric for MMDetection's ``val`` and ``test``. What turns a config and
a checkpoint into detections is :mod:`lip_mmdet.engine.inference`.
"""

from lip_mmdet.evaluation.backends import BACKENDS, CocoEvaluation, choose_backend, evaluate
from lip_mmdet.evaluation.breakdown import Breakdown, break_down
from lip_mmdet.evaluation.comparison import Comparison, compare, image_ap
from lip_mmdet.evaluation.detections import Detections, detections_from, load_detections
from lip_mmdet.evaluation.figures import AP_FIGURES, AR_FIGURES, figures
from lip_mmdet.evaluation.ground_truth import GroundTruth, ground_truth_from, load_ground_truth
from lip_mmdet.evaluation.json_input import read_json
from lip_mmdet.evaluation.references import Reference, find_reference, references
from lip_mmdet.evaluation.splits import SPLITS, Split, find_split, minival_notes
from lip_mmdet.evaluation.submission import (
    check_submission,
    submission_problems,
    write_submission,
)
from lip_mmdet.evaluation.summary import as_json

__all__ = [
    'AP_FIGURES',
    'AR_FIGURES',
    'BACKENDS',
    'SPLITS',
    'Breakdown',
    'CocoEvaluation',
    'Comparison',
    'Detections',
    'GroundTruth',
    'Reference',
    'Split',
    'as_json',
    'break_down',
    'check_submission',
    'choose_backend',
    'compare',
    'detections_from',
    'evaluate',
    'figures',
    'find_reference',
    'find_split',
    'ground_truth_from',
    'image_ap',
    'load_detections',
    'load_ground_truth',
    'minival_notes',
    'read_json',
    'references',
    'submission_problems',
    'write_submission',
]
