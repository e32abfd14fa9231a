"""The twelve figures of COCO's detection challenge, from the evaluation's arrays."""

from __future__ import annotations

from typing import Iterable

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


def figures(evaluation: CocoEvaluation, category: int | None = None) -> dict[str, float | None]:
    """Return AP, AP50, AP75, APS, APM, APL, AR1, AR10, AR100, ARS, ARM, ARL as fractions.

    They equal ``COCOeval.summarize`` to the last bit; where there is no ground truth the figure is
    None, for which pycocotools writes -1. With other limits of detections than COCO's, such as 1,
    10 and 500, the recalls have their names (AR500), and all else counts by the largest.

    Args:
        evaluation: from :func:`lip_mmdet.evaluation.evaluate`.
        category: position of one category, to average over that one alone.
    """
    categories = slice(None) if category is None else slice(category, category + 1)
    result = {}
    for name, (iou, area) in _AP_SLICES.items():
        thresholds = slice(None) if iou is None else np.isclose(evaluation.iou_thresholds, iou)
        precision = evaluation.precision[thresholds, :, categories, AREAS.index(area), -1]
        result[name] = mean_where_defined(precision)
    slices = {f'AR{limit}': (0, place) for place, limit in enumerate(evaluation.max_detections)}
    slices.update({'ARS': (1, -1), 'ARM': (2, -1), 'ARL': (3, -1)})
    for name, (area, place) in slices.items():
        result[name] = mean_where_defined(evaluation.recall[:, categories, area, place])
    return result


def recall_names(values: Iterable[str]) -> list[str]:
    """Return which names of figures are recalls: :data:`AR_FIGURES` with COCO's limits."""
    return [name for name in values if name.startswith('AR')]


def mean_where_defined(values: np.ndarray) -> float | None:
    """Return the mean of the entries that are not -1, COCO's mark for "no ground truth"."""
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else None
