"""The figures behind the figures: per class, per IoU threshold, and how much was counted."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Sequence

import numpy as np

from lip_mmdet.evaluation.accumulation import (
    AREA_RANGES,
    CocoEvaluation,
    accumulate,
    figures,
    mean_where_defined,
)
from lip_mmdet.evaluation.detections import Detections
from lip_mmdet.evaluation.ground_truth import GroundTruth
from lip_mmdet.evaluation.hints import coverage
from lip_mmdet.evaluation.matching import match

# Sides in pixels of the squares whose areas bound the sizes.
_SIDES = (0, 8, 16, 32, 64, 96, 192, 1e5)


@dataclass(frozen=True)
class Breakdown:
    """One evaluation in numbers; fractions, None where there is no ground truth.

    Attributes:
        figures: the twelve COCO figures.
        per_iou: for each IoU threshold AP and AR, at the highest limit.
        per_class: for each category its id, name, figures, and numbers of objects and detections.
        counts: numbers of images, and of objects, crowds and detections by area.
        backend: who computed it, ``'numpy'`` or ``'pycocotools'``.
        iou_type: ``'bbox'`` or ``'segm'``.
    """

    figures: dict[str, float | None]
    per_iou: list[dict[str, float | None]]
    per_class: list[dict[str, Any]]
    counts: dict[str, Any]
    backend: str
    iou_type: str = 'bbox'

    def as_json(self) -> dict[str, Any]:
        """Return the content of ``--out-json``: the figures at the top, the rest below."""
        content = asdict(self)
        return {**content.pop('figures'), **content}


def break_down(
    evaluation: CocoEvaluation, ground_truth: GroundTruth, detections: Detections
) -> Breakdown:
    """Derive every reported number from an evaluation of ``detections``."""
    ids = evaluation.category_ids
    objects = _by_category(ground_truth.category[~ground_truth.crowd], ids)
    found = _by_category(detections.category, ids)
    return Breakdown(
        backend=evaluation.backend,
        figures=figures(evaluation),
        per_class=[
            {
                'id': category,
                'name': ground_truth.category_names[category],
                **figures(evaluation, position),
                'objects': objects[position],
                'detections': found[position],
            }
            for position, category in enumerate(ids.tolist())
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


def mean_of(breakdowns: Sequence[Breakdown]) -> Breakdown:
    """Return the mean over the trainings of a detector, evaluated on the same annotations."""
    return Breakdown(
        **{f.name: _mean([getattr(b, f.name) for b in breakdowns]) for f in fields(Breakdown)}
    )


def _mean(values: Sequence[Any]) -> Any:
    """Mean of numbers, within lists and dicts of the same shape; all else is the same anyway."""
    first = values[0]
    if isinstance(first, dict):
        return {key: _mean([value[key] for value in values]) for key in first}
    if isinstance(first, list):
        return [_mean(rows) for rows in zip(*values)]
    if all(value == first for value in values):
        return first
    mean = sum(values) / len(values)
    return round(mean) if isinstance(first, int) else mean


def ap_by_size(
    evaluation: CocoEvaluation, truth: GroundTruth, detections: Detections
) -> list[dict[str, Any]]:
    """Return AP and the number of objects by size, in finer steps than small, medium and large.

    A ``size`` such as ``'16-32'`` is the square root of the area in pixels; areas are counted as in
    COCO's ranges, both ends included.
    """
    ranges = [(low**2, high**2) for low, high in zip(_SIDES, _SIDES[1:])]
    ids, limit = evaluation.category_ids, evaluation.max_detections[-1]
    matches = match(truth, detections, ids, evaluation.iou_thresholds, ranges, limit)
    precision = accumulate(matches, (limit,))[0]
    wanted = ~matches.ignored & (matches.object_category >= 0)
    names = [f'{low}-{high}' for low, high in zip(_SIDES, _SIDES[1:-1])] + [f'{_SIDES[-2]}-']
    return [
        {
            'size': name,
            'AP': mean_where_defined(precision[..., number, 0]),
            'objects': int(wanted[number].sum()),
        }
        for number, name in enumerate(names)
    ]


def _counts(
    evaluation: CocoEvaluation, truth: GroundTruth, detections: Detections
) -> dict[str, Any]:
    counted = np.isin(truth.category, evaluation.category_ids)
    found = np.isin(detections.category, evaluation.category_ids)
    areas = {
        'objects': truth.areas[counted & ~truth.crowd],
        'crowds': truth.areas[counted & truth.crowd],
        'detections': detections.areas[found],
    }
    return {
        'images': len(truth.image_ids),
        'images_without_detections': coverage(detections, truth)[0],
        'categories': len(evaluation.category_ids),
        **{
            kind: {
                name: int(np.sum((of_kind >= low) & (of_kind <= high)))
                for name, (low, high) in AREA_RANGES.items()
            }
            for kind, of_kind in areas.items()
        },
    }


def _by_category(category: np.ndarray, ids: np.ndarray) -> list[int]:
    of_these = category[np.isin(category, ids)]
    return np.bincount(np.searchsorted(ids, of_these), minlength=len(ids)).tolist()
