"""What kinds of errors cost AP50, after TIDE (Bolya et al., ECCV 2020, arXiv 2008.08115).

Hits and false alarms are the backend's own matches at IoU 0.5. A false alarm is, in this order:

- localization: right class, IoU 0.1 to 0.5 with an object;
- duplicate: right class, IoU 0.5 or more with an object that a better detection found;
- background: IoU below 0.1 with every object;
- classification: IoU 0.5 or more with an object of another class;
- both: wrong class and IoU 0.1 to 0.5.

Missed are the objects that no detection found, nor would find with a corrected class or box.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lip_mmdet.evaluation.backends import CocoEvaluation
from lip_mmdet.evaluation.detections import Detections
from lip_mmdet.evaluation.ground_truth import GroundTruth
from lip_mmdet.evaluation.weighted_ap import interpolated_ap

ERROR_TYPES = (
    'classification',
    'localization',
    'both',
    'duplicate',
    'background',
    'missed',
)
_HIT = 'hit'
_FOREGROUND, _BACKGROUND = 0.5, 0.1


@dataclass(frozen=True)
class ErrorBreakdown:
    """Errors at IoU 0.5.

    Attributes:
        ap50: AP50 as it is, a fraction.
        counts: how many errors of each type.
        gains: how much AP50 would rise if the errors of this type alone were corrected.
        kinds: for each detection that was counted, its row in the results and its error type or
            ``'hit'``.
        missed_ids: ids of the missed annotations.
    """

    ap50: float
    counts: dict[str, int]
    gains: dict[str, float]
    kinds: dict[int, str]
    missed_ids: set[int]


def break_down_errors(
    evaluation: CocoEvaluation, truth: GroundTruth, detections: Detections
) -> ErrorBreakdown:
    """Sort the errors of an evaluation, made with its matches, into :data:`ERROR_TYPES`."""
    counted = _counted_detections(evaluation)
    kind, target = _classify(counted, truth, detections)

    objects = np.isin(truth.category, evaluation.category_ids) & ~truth.crowd
    matched = np.isin(truth.ids, counted.truth_id[counted.truth_id > 0])
    # What a corrected detection finds, unless the object has been found already.
    fixable = np.isin(kind, ('classification', 'localization'))
    missed = objects & ~matched
    missed[target[fixable]] = False

    category = np.searchsorted(evaluation.category_ids, detections.category[counted.rows])
    truth_category = np.searchsorted(evaluation.category_ids, truth.category)
    truth_counts = np.bincount(truth_category[objects], minlength=len(evaluation.category_ids))
    hit = kind == _HIT
    base = _ap50(category, counted.scores, hit, truth_counts)
    gains = {}
    for name in ERROR_TYPES[:-1]:
        affected = np.flatnonzero(kind == name)
        fixed_hit, fixed_category = hit.copy(), category.copy()
        keep = kind != name
        if name in ('classification', 'localization'):
            corrected = _first_per_object(affected, target, matched, counted.scores)
            fixed_hit[corrected] = keep[corrected] = True
            fixed_category[corrected] = truth_category[target[corrected]]
        ap = _ap50(fixed_category[keep], counted.scores[keep], fixed_hit[keep], truth_counts)
        gains[name] = ap - base
    fewer = truth_counts - np.bincount(truth_category[missed], minlength=len(truth_counts))
    gains['missed'] = _ap50(category, counted.scores, hit, fewer) - base

    counts = {name: int(np.sum(kind == name)) for name in ERROR_TYPES[:-1]}
    counts['missed'] = int(missed.sum())
    return ErrorBreakdown(
        ap50=base,
        counts=counts,
        gains=gains,
        kinds=dict(zip(counted.rows.tolist(), kind.tolist())),
        missed_ids=set(truth.ids[missed].tolist()),
    )


@dataclass(frozen=True)
class _Counted:
    """Detections that count at IoU 0.5: rows in the results, scores, and the object matched."""

    rows: np.ndarray
    scores: np.ndarray
    truth_id: np.ndarray


def _counted_detections(evaluation: CocoEvaluation) -> _Counted:
    counted = [~match.ignored[0, 0] for match in evaluation.matches]
    return _Counted(
        *(
            np.concatenate([column[keep] for column, keep in zip(columns, counted)])
            for columns in (
                [match.rows for match in evaluation.matches],
                [match.scores for match in evaluation.matches],
                [match.truth_ids[0, 0] for match in evaluation.matches],
            )
        )
    )


def _classify(
    counted: _Counted, truth: GroundTruth, detections: Detections
) -> tuple[np.ndarray, np.ndarray]:
    """Return the kind of each counted detection and the row of the object it is about."""
    kind = np.full(len(counted.rows), 'background', dtype=object)
    target = np.zeros(len(counted.rows), dtype=np.int64)
    image = detections.image[counted.rows]
    by_image = np.argsort(image, kind='stable')
    groups = np.split(by_image, np.flatnonzero(np.diff(image[by_image])) + 1)
    objects = np.flatnonzero(~truth.crowd)
    objects = objects[np.argsort(truth.image[objects], kind='stable')]
    object_image = truth.image[objects]
    for group in groups:
        if not group.size:
            continue
        start, end = np.searchsorted(object_image, [image[group[0]], image[group[0]] + 1])
        present = objects[start:end]
        if not present.size:
            continue
        rows = counted.rows[group]
        iou = box_iou(detections.boxes[rows], truth.boxes[present])
        same = detections.category[rows][:, None] == truth.category[present]
        same_iou, other_iou = np.where(same, iou, 0), np.where(same, 0, iou)
        best_same, best_other = same_iou.max(axis=1), other_iou.max(axis=1)
        # The first condition that holds decides.
        cases = (
            (best_same >= _FOREGROUND, 'duplicate', same_iou),
            (best_same >= _BACKGROUND, 'localization', same_iou),
            (best_other >= _FOREGROUND, 'classification', other_iou),
            (best_other >= _BACKGROUND, 'both', other_iou),
        )
        for condition, name, overlap in reversed(cases):
            kind[group[condition]] = name
            target[group[condition]] = present[overlap[condition].argmax(axis=1)]
    kind[counted.truth_id > 0] = _HIT
    return kind, target


def box_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the IoU of [x, y, width, height] boxes, shapes (N, 4) and (M, 4), as (N, M)."""
    top_left = np.maximum(boxes[:, None, :2], others[None, :, :2])
    ends, other_ends = boxes[:, :2] + boxes[:, 2:], others[:, :2] + others[:, 2:]
    bottom_right = np.minimum(ends[:, None], other_ends[None])
    intersection = np.clip(bottom_right - top_left, 0, None).prod(axis=2)
    areas, other_areas = boxes[:, 2:].prod(axis=1), others[:, 2:].prod(axis=1)
    union = areas[:, None] + other_areas[None] - intersection
    return intersection / np.where(union > 0, union, 1)


def _first_per_object(
    affected: np.ndarray, target: np.ndarray, matched: np.ndarray, scores: np.ndarray
) -> np.ndarray:
    """Return the best detection for each object that nothing matched; others are removed."""
    affected = affected[~matched[target[affected]]]
    affected = affected[np.argsort(-scores[affected], kind='stable')]
    _, first = np.unique(target[affected], return_index=True)
    return affected[first]


def _ap50(
    category: np.ndarray, scores: np.ndarray, hit: np.ndarray, truth_counts: np.ndarray
) -> float:
    """Return AP50, the mean over categories with objects."""
    order = np.lexsort((-scores, category))
    bounds = np.searchsorted(category[order], np.arange(len(truth_counts) + 1))
    ap = []
    for number in np.flatnonzero(truth_counts).tolist():
        hits = hit[order[bounds[number] : bounds[number + 1]]]
        places = np.flatnonzero(hits)
        if not places.size:
            ap.append(0.0)
            continue
        found = np.arange(1, len(places) + 1)[:, None]
        total = (places + 1)[:, None]
        ap.append(float(interpolated_ap(found, total, truth_counts[number : number + 1])[0]))
    return float(np.mean(ap)) if ap else 0.0
