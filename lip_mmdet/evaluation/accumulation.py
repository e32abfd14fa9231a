"""From matches to precision and recall, and from those to the twelve figures of COCO.

The arrays equal those of ``COCOeval.accumulate`` to the last bit. :func:`evaluate` makes them from
:mod:`matching`, or has pycocotools make them, so that anyone can compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation import judge
from lip_mmdet.evaluation.detections import Detections
from lip_mmdet.evaluation.ground_truth import GroundTruth
from lip_mmdet.evaluation.matching import Matches, match

BACKENDS = ('auto', 'pycocotools')
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_LEVELS = np.linspace(0, 1, 101)
LIMITS = (1, 10, 100)
# Square pixels, both ends included: an area of 1024 is small and medium.
AREA_RANGES = {
    'all': (0, 1e5**2),
    'small': (0, 32**2),
    'medium': (32**2, 96**2),
    'large': (96**2, 1e5**2),
}
AP_FIGURES = ('AP', 'AP50', 'AP75', 'APS', 'APM', 'APL')
AR_FIGURES = ('AR1', 'AR10', 'AR100', 'ARS', 'ARM', 'ARL')


@dataclass(frozen=True)
class CocoEvaluation:
    """What COCO's evaluation computes, before any averaging.

    T IoU thresholds, R recall levels, K categories, A area ranges, M detection limits.

    Attributes:
        backend: who computed precision, recall and scores: ``'numpy'`` or ``'pycocotools'``.
        iou_thresholds: 0.50 to 0.95 by 0.05 unless asked otherwise, shape (T,).
        recall_levels: 0 to 1 by 0.01, shape (R,).
        category_ids: sorted, shape (K,).
        image_ids: sorted, shape (I,).
        max_detections: the limits per image and category, rising, shape (M,).
        precision: interpolated precision, -1 where there is no ground truth, shape (T, R, K, A, M).
        recall: largest recall, -1 where there is no ground truth, shape (T, K, A, M).
        scores: score at which a recall level is reached, shape (T, R, K, A, M).
        matches: which detection was matched to which object.
        iou_type: whose IoU it is, ``'bbox'`` or ``'segm'``, as pycocotools calls boxes and masks.
    """

    backend: str
    iou_thresholds: np.ndarray
    recall_levels: np.ndarray
    category_ids: np.ndarray
    image_ids: np.ndarray
    max_detections: tuple[int, ...]
    precision: np.ndarray
    recall: np.ndarray
    scores: np.ndarray
    matches: Matches
    iou_type: str = 'bbox'


def choose_backend(name: str = 'auto') -> str:
    """Return who computes: ``'numpy'``, this package, for ``'auto'``.

    Raises:
        InputError: an unknown backend.
    """
    if name == 'faster-coco-eval':
        raise InputError(
            'faster-coco-eval is no backend any more: the default is exact and faster; leave the '
            'choice out, or name pycocotools'
        )
    if name not in BACKENDS:
        raise InputError(f'unknown backend {name!r}; there are {", ".join(BACKENDS)}')
    return 'numpy' if name == 'auto' else name


def evaluate(
    ground_truth: GroundTruth,
    detections: Detections,
    backend: str = 'auto',
    category_ids: Sequence[int] | None = None,
    iou_thresholds: Sequence[float] | None = None,
    max_detections: Sequence[int] = LIMITS,
) -> CocoEvaluation:
    """Evaluate boxes or masks by COCO's definition (https://cocodataset.org/#detection-eval).

    Args:
        ground_truth: the annotations; masks are evaluated where they were read with masks.
        detections: the results; their order decides between equal scores, as in pycocotools.
        backend: ``'pycocotools'`` has it compute precision, recall and scores.
        category_ids: evaluate these categories only; all of the annotations' by default.
        iou_thresholds: above 0; COCO's by default.
        max_detections: limits of detections per image and category.

    Raises:
        InputError: see :func:`choose_backend`.
    """
    backend = choose_backend(backend)
    if category_ids is None:
        category_ids = ground_truth.category_ids
    category_ids = np.unique(np.asarray(category_ids, dtype=np.int64))
    if iou_thresholds is None:
        iou_thresholds = IOU_THRESHOLDS
    iou_thresholds = np.atleast_1d(np.asarray(iou_thresholds, dtype=np.float64))
    limits = tuple(sorted(max_detections))
    ranges = list(AREA_RANGES.values())
    matches = match(ground_truth, detections, category_ids, iou_thresholds, ranges, limits[-1])
    if backend == 'numpy':
        arrays = accumulate(matches, limits)
    else:
        arrays = judge.accumulate(
            ground_truth, detections, category_ids, iou_thresholds, ranges, limits
        )
    return CocoEvaluation(
        backend=backend,
        iou_thresholds=iou_thresholds,
        recall_levels=RECALL_LEVELS,
        category_ids=category_ids,
        image_ids=ground_truth.image_ids,
        max_detections=limits,
        precision=arrays[0],
        recall=arrays[1],
        scores=arrays[2],
        matches=matches,
        iou_type='bbox' if ground_truth.masks is None else 'segm',
    )


def accumulate(
    matches: Matches, limits: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return precision, recall and scores as ``COCOeval.accumulate`` does.

    Args:
        matches: of T IoU thresholds, K classes, A area ranges.
        limits: M limits of detections per image and class.

    Returns:
        Precision at each of R recall levels, shape (T, R, K, A, M); recall, shape (T, K, A, M); the
        score at which the level is reached, shape (T, R, K, A, M). -1 where nothing is to be found.
    """
    area_count, threshold_count, _ = matches.taken.shape
    class_count, classes = len(matches.starts) - 1, matches.category
    shape = (threshold_count, len(RECALL_LEVELS), class_count, area_count, len(limits))
    precision, scores = np.full(shape, -1.0), np.full(shape, -1.0)
    recall = np.full((threshold_count, class_count, area_count, len(limits)), -1.0)

    best = np.zeros(class_count)
    found_any = np.diff(matches.starts) > 0
    best[found_any] = matches.scores[matches.starts[:-1][found_any]]
    for area, threshold in np.ndindex(area_count, threshold_count):
        if threshold == 0:
            wanted = matches.object_category[matches.wanted[area]]
            wanted = np.bincount(wanted, minlength=class_count)
            defined, needed = wanted > 0, _hits_needed(wanted)
        counted, hit = matches.outcome(area, threshold)
        for number, limit in enumerate(limits):
            within = matches.rank < limit
            hits, found, total = _hits(classes, counted & within, hit & within)
            size = np.bincount(classes[hits], minlength=class_count)
            # Levels that are reached, and the hits with which they are.
            reached = needed <= size[:, None]
            by = ((np.cumsum(size) - size)[:, None] + needed - 1)[reached]
            values, at_scores = np.zeros((2, *needed.shape))
            if by.size:
                values[reached] = np.maximum.reduceat(found / (total + np.spacing(1)), by)
            # The highest precision at that recall or a greater one.
            values = np.maximum.accumulate(values[:, ::-1], axis=1)[:, ::-1]
            at_scores[reached] = matches.scores[hits[by]]
            at_scores[:, 0] = best
            precision[threshold, :, defined, area, number] = values[defined]
            scores[threshold, :, defined, area, number] = at_scores[defined]
            recall[threshold, defined, area, number] = size[defined] / wanted[defined]
    return precision, recall, scores


def _hits_needed(wanted: np.ndarray) -> np.ndarray:
    """Return how many of ``wanted`` objects reach each recall level, at least 1, shape (K, R)."""
    recalls = [np.arange(1, number + 1) / number for number in np.maximum(wanted, 1).tolist()]
    return np.stack([np.searchsorted(recall, RECALL_LEVELS) + 1 for recall in recalls])


def _hits(
    group: np.ndarray, counted: np.ndarray, hit: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the hits; how many hits, and how many that count, its group has up to each of them."""
    hits = np.flatnonzero(hit)
    first = np.searchsorted(group, group[hits])
    found = np.arange(1, len(hits) + 1) - np.searchsorted(hits, first)
    total = np.cumsum(counted)
    return hits, found, total[hits] - total[first] + counted[first]


def average_precision(
    group: np.ndarray, counted: np.ndarray, hit: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """Return AP of each group of detections, such as a class, at one IoU threshold, shape (G,).

    Args:
        group: of each detection, rising, and within a group by falling score, shape (D,).
        counted: which detections are hits or false alarms, shape (D,).
        hit: shape (D,).
        wanted: how many objects each group has to find, shape (G,).
    """
    hits, found, total = _hits(group, counted, hit)
    which = group[hits]
    # The highest in the group from here on, by its place among all; lower in each later group.
    precision = np.sort(found / total)
    place = np.searchsorted(precision, found / total) - len(hits) * which
    place = np.maximum.accumulate(place[::-1])[::-1] + len(hits) * which
    # Objects that are found together with the hit's reach these many levels more than without.
    levels = _levels_reached(found, wanted[which]) - _levels_reached(found - 1, wanted[which])
    ap = np.bincount(which, weights=precision[place] * levels, minlength=len(wanted))
    return ap / len(RECALL_LEVELS)


def _levels_reached(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return how many recall levels ``found`` of ``wanted`` objects reach, 0 for none found."""
    levels = np.searchsorted(RECALL_LEVELS, found / wanted, side='right')
    return np.where(found > 0, levels, 0)


def figures(evaluation: CocoEvaluation, category: int | None = None) -> dict[str, float | None]:
    """Return AP, AP50, AP75, APS, APM, APL, AR1, AR10, AR100, ARS, ARM, ARL as fractions.

    They equal ``COCOeval.summarize`` to the last bit; where there is no ground truth, or no such
    IoU threshold, the figure is None, for which pycocotools writes -1. With other limits than 1, 10
    and 100 the recalls are named after them; all other figures are at the highest.

    Args:
        evaluation: from :func:`lip_mmdet.evaluation.evaluate`.
        category: position of one category, to average over that one alone.
    """
    classes = slice(None) if category is None else slice(category, category + 1)
    precision, recall = evaluation.precision[:, :, classes], evaluation.recall[:, classes]
    thresholds = evaluation.iou_thresholds
    result = {
        'AP': mean_where_defined(precision[..., 0, -1]),
        'AP50': mean_where_defined(precision[np.isclose(thresholds, 0.5), ..., 0, -1]),
        'AP75': mean_where_defined(precision[np.isclose(thresholds, 0.75), ..., 0, -1]),
    }
    for area, name in enumerate(('APS', 'APM', 'APL'), start=1):
        result[name] = mean_where_defined(precision[..., area, -1])
    for number, limit in enumerate(evaluation.max_detections):
        result[f'AR{limit}'] = mean_where_defined(recall[..., 0, number])
    for area, name in enumerate(('ARS', 'ARM', 'ARL'), start=1):
        result[name] = mean_where_defined(recall[..., area, -1])
    return result


def mean_where_defined(values: np.ndarray) -> float | None:
    """Return the mean of the entries that are not -1, COCO's mark for "no ground truth"."""
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else None
