"""AP of a dataset whose images count with weights, from matches made once.

A bootstrap resample is a dataset in which some images occur twice and some not at all. Matching
does not depend on that, only COCO's accumulation does: it is repeated here for many weightings at
once. With all weights 1 the result is pycocotools', and with weights 0, 1, 2, ... it is what
pycocotools gives for a dataset with images left out and repeated.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from lip_mmdet.evaluation.backends import CocoEvaluation
from lip_mmdet.evaluation.figures import AP_FIGURES
from lip_mmdet.evaluation.matches import CategoryMatches

# Weightings handled together: arrays of this width stay in cache for all but the largest classes.
_BATCH = 100


def weighted_figures(
    evaluation: CocoEvaluation, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the six AP figures for each weighting of the images, and AP by category.

    Args:
        evaluation: with its matches; I images, K categories.
        weights: how often each image counts, whole numbers, shape (I, B).

    Returns:
        AP, AP50, AP75, APS, APM, APL, shape (6, B), and AP of each category, shape (K, B); NaN
        where the weighted images hold no ground truth.
    """
    hits = [[_Hits.of(match, area) for area in range(4)] for match in evaluation.matches]
    batches = [weights[:, start : start + _BATCH] for start in range(0, weights.shape[1], _BATCH)]
    # numpy lets other threads run during the array operations that this consists of.
    with ThreadPoolExecutor(min(len(batches), os.cpu_count() or 1)) as pool:
        parts = list(pool.map(lambda batch: _figures_of_batch(hits, batch, evaluation), batches))
    return tuple(np.concatenate(part, axis=1) for part in zip(*parts))


def _figures_of_batch(
    hits: list[list[_Hits]], weights: np.ndarray, evaluation: CocoEvaluation
) -> tuple[np.ndarray, np.ndarray]:
    weights = np.ascontiguousarray(weights, dtype=np.float64)
    ap = np.stack([[area.ap(weights) for area in category] for category in hits])  # (K, A, T, B)
    figures = {
        'AP': ap[:, 0],
        'AP50': ap[:, 0, evaluation.iou_thresholds == 0.5],
        'AP75': ap[:, 0, evaluation.iou_thresholds == 0.75],
        'APS': ap[:, 1],
        'APM': ap[:, 2],
        'APL': ap[:, 3],
    }
    rows = [_mean(figures[name].reshape(-1, weights.shape[1])) for name in AP_FIGURES]
    return np.stack(rows), ap[:, 0].mean(axis=1)


@dataclass(frozen=True)
class _Hits:
    """What the AP of one category and area range depends on, apart from the weights.

    Detections are in order of falling score. Precision falls everywhere but at hits, so sums of
    weights are needed there only. Nearly all detections count at every IoU threshold or at none:
    their weights are summed once, and those of the few others are added for each threshold.

    Attributes:
        truth_images, truth_counts: images with objects, and how many.
        image: image of each detection, shape (D,).
        always: detections that count at every threshold.
        places: detections that are a hit at some threshold.
        thresholds: for each, its hits, and the detections that count here but not always.
    """

    truth_images: np.ndarray
    truth_counts: np.ndarray
    image: np.ndarray
    always: np.ndarray
    places: np.ndarray
    thresholds: list[tuple[np.ndarray, np.ndarray]]

    @classmethod
    def of(cls, match: CategoryMatches, area: int) -> _Hits:
        order = np.argsort(-match.scores, kind='stable')
        counted = ~match.ignored[area][:, order]
        hits = counted & (match.truth_ids[area][:, order] > 0)
        always = counted.all(axis=0)
        truth_images = np.flatnonzero(match.truth_counts[area])
        return cls(
            truth_images=truth_images,
            truth_counts=match.truth_counts[area, truth_images],
            image=match.image[order],
            always=np.flatnonzero(always),
            places=np.flatnonzero(hits.any(axis=0)),
            thresholds=[
                (np.flatnonzero(hit), np.flatnonzero(count & ~always))
                for hit, count in zip(hits, counted)
            ],
        )

    def ap(self, weights: np.ndarray) -> np.ndarray:
        """Return AP by IoU threshold and weighting, NaN without objects, shape (T, B)."""
        truth = self.truth_counts @ weights[self.truth_images]
        ap = np.zeros((len(self.thresholds), weights.shape[1]))
        always = self._sums(weights, self.always, self.places)
        for threshold, (hits, sometimes) in enumerate(self.thresholds):
            if not hits.size:
                continue
            total = always[np.searchsorted(self.places, hits)]
            if sometimes.size:
                total += self._sums(weights, sometimes, hits)
            found = np.cumsum(weights[self.image[hits]], axis=0)
            ap[threshold] = interpolated_ap(found, total, truth)
        ap[:, truth == 0] = np.nan
        return ap

    def _sums(self, weights: np.ndarray, members: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Sum the weights of the detections ``members`` up to each of ``places``, included."""
        # From place to place, then over places: far fewer additions than one by one.
        segment = np.searchsorted(places, members)
        inside = segment < len(places)
        members, segment = members[inside], segment[inside]
        sums = np.zeros((len(places), weights.shape[1]))
        if members.size:
            starts = np.flatnonzero(np.diff(segment, prepend=-1))
            sums[segment[starts]] = np.add.reduceat(weights[self.image[members]], starts, axis=0)
        return np.cumsum(sums, axis=0, out=sums)


def interpolated_ap(found: np.ndarray, total: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return COCO's 101-level interpolated average precision of each column.

    Args:
        found: objects found up to each hit, in order of falling score, shape (hits, columns).
        total: detections up to each hit, shape (hits, columns).
        truth: objects there are, shape (columns,).
    """
    levels = np.linspace(0, 1, 101)
    precision = found / (total + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = found / np.maximum(truth, 1)
    # Number of levels up to each recall: all below the nearest one, and that one if it is reached.
    nearest = np.rint(recall * 100).astype(np.intp)
    reached = nearest + (levels[nearest] <= recall)
    steps = np.diff(reached, axis=0, prepend=0)
    return np.einsum('hc,hc->c', envelope, steps) / len(levels)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over rows, where they are defined; NaN where none is."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=0)
    total = np.where(defined, values, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
