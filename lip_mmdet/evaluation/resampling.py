"""AP on resampled images, from matches made once.

A bootstrap resample is a dataset in which some images occur twice and some not at all. Matching
does not depend on that, only COCO's accumulation does: it is repeated here with weighted images.
With all weights 1 the result is pycocotools', and with weights 0, 1, 2, ... it is what pycocotools
gives for a dataset with images left out and repeated.

In arrays of shape (..., B) the last axis is the weightings, which all take the same steps.
"""

from __future__ import annotations

from typing import Sequence, Tuple

import numpy as np

from lip_mmdet.evaluation.accumulation import RECALL_LEVELS, CocoEvaluation
from lip_mmdet.evaluation.matching import Matches

# Weightings that take the steps together, and numbers in the arrays that this makes: 64 MB.
_TOGETHER, _LARGE = 1000, 2**24
# Images whose weights are summed at once.
_PIECE = 4096
# The detections at which the precision of a class can change other than by falling, best first:
# positions among all detections; whether each is a hit, in which case precision rises; and by how
# much its match changes the number of detections that count, -1, 0 or 1.
Curve = Tuple[np.ndarray, np.ndarray, np.ndarray]


def resampled_figures(
    evaluations: Sequence[CocoEvaluation], resamples: int, seed: int
) -> list[np.ndarray]:
    """Return AP figures of evaluations of the same images on the same draws of images.

    Each draw takes as many images as there are, with replacement. Draws are made and counted in
    blocks, so that memory does not grow with images times draws.

    Args:
        evaluations: of K categories each.
        resamples: how many draws, B.
        seed: of the draws.

    Returns:
        For each evaluation the figures of :func:`weighted_figures`, shape (6 + K, B).
    """
    random, images = np.random.default_rng(seed), len(evaluations[0].image_ids)
    objects = max(np.bincount(e.matches.object_category + 1).max(initial=1) for e in evaluations)
    together = int(np.clip(_LARGE // max(images, objects), 1, _TOGETHER))
    parts = []
    for start in range(0, resamples, together):
        weights = np.zeros((images, min(together, resamples - start)), dtype=np.float32)
        for column in weights.T:
            column[:] = np.bincount(random.integers(0, images, images), minlength=images)
        parts.append([weighted_figures(evaluation, weights) for evaluation in evaluations])
    return [np.concatenate(of_one, axis=1) for of_one in zip(*parts)]


def weighted_figures(evaluation: CocoEvaluation, weights: np.ndarray) -> np.ndarray:
    """Return AP, AP50, AP75, APS, APM, APL and AP of each category by weighting of the images.

    Args:
        evaluation: of I images, K categories.
        weights: how often each image counts, whole numbers, shape (I, B).

    Returns:
        Shape (6 + K, B), NaN where the weighted images hold no ground truth.
    """
    # An image more, the last, that weighs nothing.
    weights = np.concatenate([weights, np.zeros_like(weights[:1])]).astype(np.float32, copy=False)
    ap = _area_ap(evaluation.matches, 0, weights)
    chosen = (np.isclose(evaluation.iou_thresholds, threshold) for threshold in (0.5, 0.75))
    rows = [_mean(ap), *(_mean(ap[thresholds]) for thresholds in chosen)]
    rows += [_mean(_area_ap(evaluation.matches, area, weights)) for area in (1, 2, 3)]
    return np.concatenate([rows, ap.mean(axis=0)])


def _area_ap(matches: Matches, area: int, weights: np.ndarray) -> np.ndarray:
    """Return AP at T thresholds of K categories, NaN without objects, shape (T, K, B)."""
    starts, inside = matches.starts, matches.inside[area]
    by_threshold = []
    for threshold in range(matches.taken.shape[1]):
        rows, _, hit = matches.at(area, threshold)
        change = hit.astype(np.int64) - inside[rows]
        matters = np.flatnonzero(hit | (change != 0))
        bounds = np.searchsorted(rows[matters], starts[1:-1])
        split = [np.split(column[matters], bounds) for column in (rows, hit, change)]
        by_threshold.append(list(zip(*split)))
    wanted = np.flatnonzero(matches.wanted[area])
    wanted = wanted[np.argsort(matches.object_category[wanted], kind='stable')]
    bounds = np.searchsorted(matches.object_category[wanted], np.arange(len(starts)))

    ap = np.zeros((len(by_threshold), len(starts) - 1, weights.shape[1]))
    for number, curves in enumerate(zip(*by_threshold)):
        truth = _total(weights, matches.object_image[wanted[slice(*bounds[number : number + 2])]])
        begin, end = starts[number : number + 2]
        counted = begin + np.flatnonzero(inside[begin:end])
        if any(hit.any() for _, hit, _ in curves):
            ap[:, number] = _class_ap(curves, matches.image, counted, truth, weights)
        ap[:, number, truth == 0] = np.nan
    return ap


def _class_ap(
    curves: Sequence[Curve],
    image: np.ndarray,
    counted: np.ndarray,
    truth: np.ndarray,
    weights: np.ndarray,
) -> np.ndarray:
    """Return AP of one category at T thresholds, where ``counted`` count if nothing matches."""
    # Precision is interpolated from its last value to the first, so all curves are walked backward
    # side by side, the longest first among them.
    longest_first = sorted(range(len(curves)), key=lambda number: -len(curves[number][0]))
    lengths = np.array([len(curves[number][0]) for number in longest_first])
    shape = (len(curves), weights.shape[1])
    rows = np.unique(np.concatenate([of_curve for of_curve, _, _ in curves]))
    # How many detections count up to each row, apart from what matches change.
    total_at = _running_totals(
        weights, image[counted], np.searchsorted(counted, rows, side='right')
    )
    place, hit_image, change = np.zeros((3, lengths[0], len(curves)), dtype=np.int64)
    found, changed = np.zeros(shape), np.zeros(shape)
    for column, number in enumerate(longest_first):
        own, hit, sign = curves[number]
        place[: len(own), column] = np.searchsorted(rows, own)
        hit_image[: len(own), column] = np.where(hit, image[own], len(weights) - 1)
        change[: len(own), column] = sign
        found[column] = _total(weights, image[own[hit]])
        changed[column] = _total(weights, image[own[sign > 0]])
        changed[column] -= _total(weights, image[own[sign < 0]])

    truth = np.maximum(truth, 1)
    reached = _levels_reached(found, truth)
    highest, ap = np.zeros(shape), np.zeros(shape)
    for row in reversed(range(lengths[0])):
        here = slice(np.count_nonzero(lengths > row))
        total = total_at.take(place[row, here], axis=0) + changed[here]
        precision = found[here] / np.maximum(total, 1, out=total)
        np.maximum(highest[here], precision, out=highest[here])
        # Without this hit so many levels less are reached, at which its precision counts.
        found[here] -= weights.take(hit_image[row, here], axis=0)
        before = _levels_reached(found[here], truth)
        reached[here] -= before
        reached[here] *= highest[here]
        ap[here] += reached[here]
        reached[here] = before
        if change[row].any():
            its = weights.take(image[rows[place[row, here]]], axis=0)
            changed[here] -= change[row, here, None] * its
    # Recall 0 is a level too, reached by whatever is found first.
    ap += highest
    ap /= len(RECALL_LEVELS)
    return ap[np.argsort(longest_first)]


def _levels_reached(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return how many recall levels above 0 are reached by this many of the objects."""
    recall = found / truth
    nearest = np.rint(recall * 100)
    # RECALL_LEVELS[nearest], as `linspace` computes it.
    nearest -= nearest * 0.01 > recall
    return nearest


def _total(weights: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return the weight of images together, float64, shape (B,)."""
    total = np.zeros(weights.shape[1])
    for start in range(0, len(images), _PIECE):
        total += np.add.reduce(weights.take(images[start : start + _PIECE], axis=0), axis=0)
    return total


def _running_totals(weights: np.ndarray, images: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Return the weight of the first so many images, for rising cuts, shape (cuts, B)."""
    totals = np.zeros((len(cuts), weights.shape[1]), dtype=np.float32)
    total = np.zeros(weights.shape[1])
    for number, (low, high) in enumerate(zip([0, *cuts[:-1].tolist()], cuts.tolist())):
        if high > low:
            total += _total(weights, images[low:high])
        totals[number] = total
    return totals


def _mean(ap: np.ndarray) -> np.ndarray:
    """Mean over thresholds and categories, where it is defined; NaN where it is nowhere."""
    defined = ~np.isnan(ap)
    count = defined.sum(axis=(0, 1))
    total = ap.sum(axis=(0, 1), where=defined)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
