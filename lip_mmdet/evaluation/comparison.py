"""Is one detector better than another, or were the images kind to it?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lip_mmdet.evaluation.accumulation import (
    AP_FIGURES,
    RECALL_LEVELS,
    CocoEvaluation,
    figures,
    levels_reached,
)
from lip_mmdet.evaluation.ground_truth import GroundTruth
from lip_mmdet.evaluation.resampling import resampled_figures


@dataclass(frozen=True)
class Comparison:
    """A detector against a baseline on the same images; differences are detector minus baseline.

    Attributes:
        figures: for each AP figure ``measured``, ``baseline``, ``difference`` and the ``low`` and
            ``high`` end of its interval; fractions, None where there is no ground truth.
        per_class: for each category the same of its AP, largest absolute difference first.
        per_image: for each image with ground truth its id, file name, AP of both and their
            difference, largest absolute difference first.
        resamples: how many bootstrap resamples the intervals rest on.
        confidence: the intervals' nominal coverage.
        seed: of the resampling.
    """

    figures: dict[str, dict[str, float | None]]
    per_class: list[dict[str, Any]]
    per_image: list[dict[str, Any]]
    resamples: int
    confidence: float
    seed: int

    def as_json(self, most: int = 20) -> dict[str, Any]:
        """Return what ``--out-json`` holds of it, with the ``most`` extreme images."""
        return {
            'figures': self.figures,
            'per_class': self.per_class,
            'images': self.per_image[:most],
            'resamples': self.resamples,
            'confidence': self.confidence,
            'seed': self.seed,
        }


def compare(
    measured: CocoEvaluation,
    baseline: CocoEvaluation,
    ground_truth: GroundTruth,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare two evaluations of the same annotations by a paired bootstrap over images.

    Each resample draws as many images as there are, with replacement, and counts both detectors on
    the same draw; the interval holds the middle ``confidence`` of the differences (Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).

    Args:
        measured, baseline: evaluations of the same annotations.
        ground_truth: what both were evaluated on.
        resamples: how many to draw.
        confidence: of the intervals.
        seed: of the draws.
    """
    drawn = resampled_figures([measured, baseline], resamples, seed)
    (ours, ours_by_class), (theirs, theirs_by_class) = drawn

    names = ground_truth.category_names
    our_figures, their_figures = figures(measured), figures(baseline)
    per_class = []
    for number, category in enumerate(measured.category_ids.tolist()):
        row = _row(
            figures(measured, number)['AP'],
            figures(baseline, number)['AP'],
            ours_by_class[number] - theirs_by_class[number],
            confidence,
        )
        per_class.append({'id': category, 'name': names[category], **row})
    return Comparison(
        figures={
            name: _row(our_figures[name], their_figures[name], ours[row] - theirs[row], confidence)
            for row, name in enumerate(AP_FIGURES)
        },
        per_class=_largest_first(per_class),
        per_image=_largest_first(_per_image(measured, baseline, ground_truth)),
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )


def image_ap(evaluation: CocoEvaluation) -> np.ndarray:
    """Return AP of each image alone, over the categories it shows; NaN without ground truth.

    Shape (images,). What a detector finds of categories that the image does not show is not in it.
    """
    matches = evaluation.matches
    classes = len(evaluation.category_ids)
    wanted = ~matches.ignored[0] & (matches.object_category >= 0)
    groups = matches.object_image[wanted] * classes + matches.object_category[wanted]
    groups, wanted = np.unique(groups, return_counts=True)
    category = np.repeat(np.arange(classes), np.diff(matches.starts))
    group = matches.image * classes + category
    order = np.lexsort((matches.rank, group))
    place = np.argsort(order)
    group = group[order]
    first = np.searchsorted(group, groups)
    total = np.zeros(len(groups))
    for threshold in range(len(evaluation.iou_thresholds)):
        detection, _, hit = matches.at(0, threshold)
        counted = matches.inside[0].copy()
        counted[detection] = hit
        counts = np.concatenate([[0], np.cumsum(counted[order])])
        hits = np.sort(place[detection[hit]])
        which = np.searchsorted(groups, group[hits])
        total += _ap_of_groups(which, counts[hits + 1] - counts[first[which]], wanted)
    image = groups // classes
    count = len(evaluation.image_ids)
    shown = np.bincount(image, minlength=count)
    total = np.bincount(image, weights=total, minlength=count) / len(evaluation.iou_thresholds)
    return np.where(shown > 0, total / np.maximum(shown, 1), np.nan)


def _ap_of_groups(which: np.ndarray, total: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return AP of each group.

    Args:
        which: the group of each hit, rising, shape (hits,).
        total: detections of the group up to each hit, shape (hits,).
        wanted: objects of each group, shape (groups,).
    """
    sizes = np.bincount(which, minlength=len(wanted))
    ends = np.cumsum(sizes)
    found = np.arange(1, len(which) + 1) - (ends - sizes)[which]
    precision = found / total
    # The highest from here on, from the last hit of each group to its first.
    for back in range(2, sizes.max(initial=0) + 1):
        here = ends[sizes >= back] - back
        precision[here] = np.maximum(precision[here], precision[here + 1])
    # Objects that are found together with the hit's reach these many levels more than without.
    levels = levels_reached(found, wanted[which]) - levels_reached(found - 1, wanted[which])
    ap = np.bincount(which, weights=precision * levels, minlength=len(wanted))
    return ap / len(RECALL_LEVELS)


def _per_image(
    measured: CocoEvaluation, baseline: CocoEvaluation, truth: GroundTruth
) -> list[dict[str, Any]]:
    rows = []
    for image, ours, theirs in zip(
        measured.image_ids.tolist(), image_ap(measured), image_ap(baseline)
    ):
        if np.isnan(ours):
            continue
        rows.append(
            {
                'id': image,
                'file_name': truth.file_names[image],
                'measured': float(ours),
                'baseline': float(theirs),
                'difference': float(ours - theirs),
            }
        )
    return rows


def _row(
    measured: float | None, baseline: float | None, differences: np.ndarray, confidence: float
) -> dict[str, float | None]:
    if measured is None or baseline is None:
        return dict.fromkeys(('measured', 'baseline', 'difference', 'low', 'high'))
    # A resample may lack a rare category or area; the interval is of those that have it.
    defined = differences[~np.isnan(differences)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return {
        'measured': measured,
        'baseline': baseline,
        'difference': measured - baseline,
        'low': float(low),
        'high': float(high),
    }


def _largest_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: -abs(row['difference'] or 0))
