"""AP on resampled images, from matches made once.

A bootstrap resample is a dataset in which some images occur twice and some not at all. Matching
does not depend on that, only COCO's accumulation does: it is repeated here with weighted images,
for many weightings at once. With all weights 1 the result is pycocotools', and with weights 0, 1,
2, ... it is what pycocotools gives for a dataset with images left out and repeated.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Sequence

import numpy as np

from lip_mmdet.evaluation.accumulation import AP_FIGURES, RECALL_LEVELS, CocoEvaluation

# Weightings drawn together, and numbers in an array that stays in cache: 512 KB.
_BLOCK = 128
_CACHED = 1 << 16


def resampled_figures(
    evaluations: Sequence[CocoEvaluation], resamples: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return AP figures of evaluations of the same images on the same draws of images.

    Each draw takes as many images as there are, with replacement.

    Args:
        evaluations: of K categories each.
        resamples: how many draws, B.
        seed: of the draws.

    Returns:
        For each evaluation what :func:`weighted_figures` returns.
    """
    count = len(evaluations[0].image_ids)
    curves = [_curves(evaluation) for evaluation in evaluations]
    sizes = [min(_BLOCK, resamples - start) for start in range(0, resamples, _BLOCK)]
    seeds = np.random.SeedSequence(seed).spawn(len(sizes))

    def block(size: int, seed: np.random.SeedSequence) -> list[tuple[np.ndarray, np.ndarray]]:
        weights = _draw(np.random.default_rng(seed), count, size)
        return [_weighted(c, weights, e) for c, e in zip(curves, evaluations)]

    # numpy lets other threads run during the array operations that this consists of.
    with ThreadPoolExecutor(min(len(sizes), os.cpu_count() or 1)) as pool:
        parts = list(pool.map(block, sizes, seeds))
    return [tuple(np.concatenate(part, axis=1) for part in zip(*of_one)) for of_one in zip(*parts)]


def weighted_figures(
    evaluation: CocoEvaluation, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the six AP figures for each weighting of the images, and AP by category.

    Args:
        evaluation: of I images, K categories.
        weights: how often each image counts, whole numbers, shape (I, B).

    Returns:
        AP, AP50, AP75, APS, APM, APL, shape (6, B), and AP of each category, shape (K, B); NaN
        where the weighted images hold no ground truth.
    """
    weights = np.ascontiguousarray(weights, dtype=np.float64)
    return _weighted(_curves(evaluation), weights, evaluation)


def _draw(random: np.random.Generator, images: int, size: int) -> np.ndarray:
    weights = np.empty((images, size))
    for number in range(size):
        weights[:, number] = np.bincount(random.integers(0, images, images), minlength=images)
    return weights


def _weighted(
    curves: list[list[_Curve]], weights: np.ndarray, evaluation: CocoEvaluation
) -> tuple[np.ndarray, np.ndarray]:
    ap = np.stack([[area.ap(weights) for area in category] for category in curves])  # (K, A, T, B)
    rows = {
        'AP': ap[:, 0],
        'AP50': ap[:, 0, evaluation.iou_thresholds == 0.5],
        'AP75': ap[:, 0, evaluation.iou_thresholds == 0.75],
        'APS': ap[:, 1],
        'APM': ap[:, 2],
        'APL': ap[:, 3],
    }
    rows = [_mean(rows[name].reshape(-1, weights.shape[1])) for name in AP_FIGURES]
    return np.stack(rows), ap[:, 0].mean(axis=1)


@dataclass(frozen=True)
class _Curve:
    """What the AP of one category and area range depends on, apart from the weights.

    Detections are in order of falling score. Precision falls everywhere but at hits, so sums of
    weights are needed there only. What counts apart from matches is summed once, from hit to hit;
    matches change it by little, at each threshold by itself.

    Attributes:
        object_images: image of each object that has to be found.
        images: images of the detections that count apart from matches, up to the last hit.
        segments: where the stretches between hits begin among them, and to which hit they belong.
        hits: how many detections are a hit at some threshold.
        thresholds: for each, its hits: images, positions among all hits; and the changes: images,
            how many hits of the threshold come before, 1 for one detection more, -1 for one less.
    """

    object_images: np.ndarray
    images: np.ndarray
    segments: tuple[np.ndarray, np.ndarray]
    hits: int
    thresholds: list[tuple[np.ndarray, ...]]

    def ap(self, weights: np.ndarray) -> np.ndarray:
        """Return AP by IoU threshold and weighting, NaN without objects, shape (T, B)."""
        step = max(8, _CACHED // max(self.hits, 1))
        parts = [
            self._ap(weights[:, start : start + step]) for start in range(0, weights.shape[1], step)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _ap(self, weights: np.ndarray) -> np.ndarray:
        truth = np.add.reduce(weights[self.object_images], axis=0)
        ap = np.zeros((len(self.thresholds), weights.shape[1]))
        if self.hits:
            starts, owners = self.segments
            counted = np.zeros((self.hits, weights.shape[1]))
            if starts.size:
                counted[owners] = np.add.reduceat(weights[self.images], starts, axis=0)
            np.cumsum(counted, axis=0, out=counted)
            for number, (images, places, changed, before, change) in enumerate(self.thresholds):
                if not images.size:
                    continue
                found = np.cumsum(weights[images], axis=0)
                total = counted[places]
                if changed.size:
                    changes = np.zeros_like(total)
                    np.add.at(changes, before, weights[changed] * change[:, None])
                    total += np.cumsum(changes, axis=0, out=changes)
                ap[number] = interpolated_ap(found, total, truth)
        ap[:, truth == 0] = np.nan
        return ap


def _curves(evaluation: CocoEvaluation) -> list[list[_Curve]]:
    """Return the curve of each category and area range."""
    matches = evaluation.matches
    by_class = [[] for _ in evaluation.category_ids]
    bounds = matches.starts
    for area in range(len(matches.ignored)):
        wanted = np.flatnonzero(~matches.ignored[area] & (matches.object_category >= 0))
        wanted = wanted[np.argsort(matches.object_category[wanted], kind='stable')]
        wanted_bounds = np.searchsorted(matches.object_category[wanted], np.arange(len(bounds)))
        matched = []
        for threshold in range(matches.taken.shape[1]):
            detection, _, hit = matches.at(area, threshold)
            matched.append((detection, hit, np.searchsorted(detection, bounds)))
        for number, curves in enumerate(by_class):
            objects = wanted[wanted_bounds[number] : wanted_bounds[number + 1]]
            here = [
                (detection[b[number] : b[number + 1]], hit[b[number] : b[number + 1]])
                for detection, hit, b in matched
            ]
            curves.append(
                _curve(evaluation, area, slice(*bounds[number : number + 2]), objects, here)
            )
    return by_class


def _curve(
    evaluation: CocoEvaluation,
    area: int,
    rows: slice,
    objects: np.ndarray,
    matched: list[tuple[np.ndarray, np.ndarray]],
) -> _Curve:
    matches = evaluation.matches
    hits = np.unique(np.concatenate([detection[hit] for detection, hit in matched]))
    inside = np.flatnonzero(matches.inside[area, rows]) + rows.start
    owner = np.searchsorted(hits, inside)
    # Behind the last hit nothing matters.
    inside, owner = inside[owner < len(hits)], owner[owner < len(hits)]
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    thresholds = []
    for detection, hit in matched:
        change = hit.astype(np.int64) - matches.inside[area, detection]
        own = detection[hit]
        before = np.searchsorted(own, detection)
        matter = (change != 0) & (before < len(own))
        thresholds.append(
            (
                matches.image[own],
                np.searchsorted(hits, own),
                matches.image[detection[matter]],
                before[matter],
                change[matter],
            )
        )
    return _Curve(
        object_images=matches.object_image[objects],
        images=matches.image[inside],
        segments=(starts, owner[starts]),
        hits=len(hits),
        thresholds=thresholds,
    )


def interpolated_ap(found: np.ndarray, total: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return COCO's 101-level interpolated average precision of each column.

    Args:
        found: objects found up to each hit, in order of falling score, shape (hits, columns).
        total: detections up to each hit, shape (hits, columns).
        truth: objects there are, shape (columns,).
    """
    precision = found / (total + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = found / np.maximum(truth, 1)
    # Number of levels up to each recall: all below the nearest one, and that one if it is reached.
    nearest = np.rint(recall * 100).astype(np.intp)
    reached = nearest + (RECALL_LEVELS[nearest] <= recall)
    steps = np.diff(reached, axis=0, prepend=0)
    return np.einsum('hc,hc->c', envelope, steps) / len(RECALL_LEVELS)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over rows, where they are defined; NaN where none is."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=0)
    total = np.where(defined, values, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
