"""The figures behind the figures: per class, per IoU threshold, and how much was counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lip_mmdet.evaluation.accumulation import (
    AREA_RANGES,
    AREAS,
    CocoEvaluation,
    figures,
    mean_where_defined,
)
from lip_mmdet.evaluation.detections import Detections
from lip_mmdet.evaluation.ground_truth import GroundTruth
from lip_mmdet.evaluation.hints import coverage


@dataclass(frozen=True)
class Breakdown:
    """One evaluation in numbers; fractions, None where there is no ground truth.

    Attributes:
        backend: who computed it, ``'numpy'`` or ``'pycocotools'``.
        figures: the twelve COCO figures.
        per_class: for each category its id, name, figures, and numbers of objects and detections.
        per_iou: for each IoU threshold AP and AR, at the highest limit.
        counts: numbers of images, and of objects, crowds and detections by area.
        iou_type: ``'bbox'`` or ``'segm'``.
    """

    backend: str
    figures: dict[str, float | None]
    per_class: list[dict[str, Any]]
    per_iou: list[dict[str, float | None]]
    counts: dict[str, Any]
    iou_type: str = 'bbox'

    def as_json(self) -> dict[str, Any]:
        """Return the content of ``--out-json``: the figures at the top, the rest below."""
        return {
            **self.figures,
            'per_iou': self.per_iou,
            'per_class': self.per_class,
            'counts': self.counts,
            'backend': self.backend,
            'iou_type': self.iou_type,
        }


def break_down(
    evaluation: CocoEvaluation, ground_truth: GroundTruth, detections: Detections
) -> Breakdown:
    """Derive every reported number from an evaluation of ``detections``."""
    return Breakdown(
        backend=evaluation.backend,
        figures=figures(evaluation),
        per_class=[
            {
                'id': category,
                'name': ground_truth.category_names[category],
                **figures(evaluation, position),
                'objects': int(np.sum((ground_truth.category == category) & ~ground_truth.crowd)),
                'detections': int(np.sum(detections.category == category)),
            }
            for position, category in enumerate(evaluation.category_ids.tolist())
        ],
        per_iou=[
            {
                'IoU': round(float(threshold), 2),
                'AP': mean_where_defined(evaluation.precision[number, :, :, 0, -1]),
                'AR': mean_where_defined(evaluation.recall[number, :, 0, -1]),
            }
            for number, threshold in enumerate(evaluation.iou_thresholds)
        ],
        counts=_counts(evaluation, ground_truth, detections),
        iou_type=evaluation.iou_type,
    )


def _counts(
    evaluation: CocoEvaluation, truth: GroundTruth, detections: Detections
) -> dict[str, Any]:
    counted = np.isin(truth.category, evaluation.category_ids)
    found = np.isin(detections.category, evaluation.category_ids)
    return {
        'images': len(truth.image_ids),
        'images_without_detections': coverage(detections, truth)[0],
        'categories': len(evaluation.category_ids),
        'objects': _by_area(truth.areas[counted & ~truth.crowd]),
        'crowds': _by_area(truth.areas[counted & truth.crowd]),
        'detections': _by_area(detections.areas[found]),
    }


def _by_area(areas: np.ndarray) -> dict[str, int]:
    return {
        name: int(np.sum((areas >= AREA_RANGES[name][0]) & (areas <= AREA_RANGES[name][1])))
        for name in AREAS
    }
