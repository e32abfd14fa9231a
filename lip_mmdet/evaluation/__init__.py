"""COCO evaluation: score, break down, compare and submit the detections of any detector.

Works on COCO JSON files and needs neither torch nor MMDetection. The metric for MMDetection's
``val`` and ``test`` is :mod:`lip_mmdet.engine.coco_metric`; what turns a config and a checkpoint
into detections is :mod:`lip_mmdet.engine.inference`.
"""

from lip_mmdet.evaluation.accumulation import (
    AP_FIGURES,
    AR_FIGURES,
    BACKENDS,
    CocoEvaluation,
    choose_backend,
    evaluate,
    figures,
)
from lip_mmdet.evaluation.breakdown import Breakdown, ap_by_size, break_down, mean_of
from lip_mmdet.evaluation.comparison import Arm, Comparison, compare, image_ap
from lip_mmdet.evaluation.detections import Detections, detections_from, load_detections
from lip_mmdet.evaluation.ground_truth import GroundTruth, ground_truth_from, load_ground_truth
from lip_mmdet.evaluation.hints import limits_up_to, notes_on
from lip_mmdet.evaluation.json_file import read_json
from lip_mmdet.evaluation.published import (
    SPLITS,
    Reference,
    find_reference,
    find_split,
    references,
    split_notes,
)
from lip_mmdet.evaluation.submission import (
    check_submission,
    submission_problems,
    write_submission,
)
from lip_mmdet.evaluation.summary import Summary

__all__ = [
    'AP_FIGURES',
    'AR_FIGURES',
    'BACKENDS',
    'SPLITS',
    'Arm',
    'Breakdown',
    'CocoEvaluation',
    'Comparison',
    'Detections',
    'GroundTruth',
    'Reference',
    'Summary',
    'ap_by_size',
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
    'limits_up_to',
    'load_detections',
    'load_ground_truth',
    'mean_of',
    'notes_on',
    'read_json',
    'references',
    'split_notes',
    'submission_problems',
    'write_submission',
]
