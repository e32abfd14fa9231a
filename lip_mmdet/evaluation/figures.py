"""The twelve figures of COCO's detection challenge, from the evaluation's arrays."""

from __future__ import annotations

import numpy as np

from lip_mmdet.evaluation.backends import AREAS, CocoEvaluation

AP_FIGURES = ('AP', 'AP50', 'AP75', 'APS', 'APM', 'APL')
AR_FIGURES = ('AR1', 'AR10', 'AR100', 'ARS', 'ARM', 'ARL')

# Figure to (IoU threshold or None for their mean, area range).
_AP_SLICES = {
    'AP': (None, 'all'),
    'AP50': (0.5, 'all'),
    'AP75': (0.75, 'all'),
    'APS': (None, 'small'),
    'APM': (None, 'medium'),
    'APL': (None, 'large'),
}
# Figure to (area range, detections per image).
_AR_SLICES = {
    'AR1': ('all', 1),
    'AR10': ('all', 10),
    'AR100': ('all', 100),
    'ARS': ('small', 100),
    'ARM': ('medium', 100),
    'ARL': ('large', 100),
}


def figures(evaluation: CocoEvaluation, category: int | None = None) -> dict[str, float | None]:
    """Return AP, AP50, AP75, APS, APM, APL, AR1, AR10, AR100, ARS, ARM, ARL as fractions.

    They equal ``COCOeval.summarize`` to the last bit; where there is no ground truth the figure is
    None, for which pycocotools writes -1.

    Args:
        evaluation: from :func:`lip_mmdet.evaluation.evaluate`.
        category: position of one category, to average over that one alone.
    """
    categories = slice(None) if category is None else slice(category, category + 1)
    result = {}
    for name, (iou, area) in _AP_SLICES.items():
        thresholds = slice(None) if iou is None else evaluation.iou_thresholds == iou
        precision = evaluation.precision[thresholds, :, categories, AREAS.index(area), -1]
        result[name] = mean_where_defined(precision)
    for name, (area, limit) in _AR_SLICES.items():
        limits = evaluation.max_detections.index(limit)
        result[name] = mean_where_defined(
            evaluation.recall[:, categories, AREAS.index(area), limits]
        )
    return result


def mean_where_defined(values: np.ndarray) -> float | None:
    """Return the mean of the entries that are not -1, COCO's mark for "no ground truth"."""
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else None
