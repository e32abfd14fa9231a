"""Which detection finds which object, by COCO's rules, for a whole dataset at once.

Only pairs of a detection and an object of the same image and class that overlap enough can match,
and they are few: they are found first (:func:`find_pairs`). COCO then lets detections choose in
order of falling score, which is a loop over the detections of an image; here the first detections
of all images and classes choose at once, then the second ones, for all area ranges and IoU
thresholds together.

Everything that looks behind the figures reads the result instead of matching anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Sequence

import numpy as np

from lip_mmdet.evaluation.overlap import Overlap, overlap_of

if TYPE_CHECKING:
    from lip_mmdet.evaluation.detections import Detections
    from lip_mmdet.evaluation.ground_truth import GroundTruth

# pycocotools asks for no more overlap than this, so that a threshold of 1 can be reached.
_HIGHEST_THRESHOLD = 1 - 1e-10
# Pairs whose overlap is computed together: some 25 MB.
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Matches:
    """The detections that count, and the objects they were matched to.

    D detections, by class, falling score, image id and position in the results, the order in which
    COCO accumulates them; O objects, in the annotations' order; P pairs of a detection and an
    object that overlap enough for the lowest threshold, in the detections' order; A area ranges; T
    IoU thresholds; K classes. Images and classes are positions in the sorted ids.

    Attributes:
        rows: positions of the detections in the results, shape (D,).
        image: shape (D,).
        scores: shape (D,).
        rank: how many detections of the same image and class come before, shape (D,).
        starts: where each class begins among the detections, and D, shape (K + 1,).
        inside: whether the detection's own area lies in the range, shape (A, D).
        object_image, object_category: shape (O,); a class that is not evaluated is -1.
        ignored: objects that need not be found, as crowds or for their area, shape (A, O).
        pair_detection: position among the D detections, shape (P,).
        pair_object: position among the O objects, shape (P,).
        taken: whether the pair is a match, shape (A, T, P). A match with an ignored object makes
            the detection ignored; any other is a hit.
    """

    rows: np.ndarray
    image: np.ndarray
    scores: np.ndarray
    rank: np.ndarray
    starts: np.ndarray
    inside: np.ndarray
    object_image: np.ndarray
    object_category: np.ndarray
    ignored: np.ndarray
    pair_detection: np.ndarray
    pair_object: np.ndarray
    taken: np.ndarray

    @property
    def category(self) -> np.ndarray:
        """The class of each detection, shape (D,)."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    @property
    def wanted(self) -> np.ndarray:
        """Which objects are to be found, shape (A, O)."""
        return ~self.ignored & (self.object_category >= 0)

    def at(self, area: int, threshold: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return matched detections, their objects, and which are hits, shape (matches,)."""
        pairs = np.flatnonzero(self.taken[area, threshold])
        objects = self.pair_object[pairs]
        return self.pair_detection[pairs], objects, ~self.ignored[area, objects]

    def outcome(self, area: int, threshold: int) -> tuple[np.ndarray, np.ndarray]:
        """Return which detections are hits or false alarms, and which are hits, shape (D,)."""
        detections, _, hits = self.at(area, threshold)
        counted, hit = self.inside[area].copy(), np.zeros(len(self.rows), dtype=bool)
        counted[detections], hit[detections] = hits, hits
        return counted, hit


def find_pairs(
    group: np.ndarray, object_group: np.ndarray, overlap: Overlap, minimum: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs of one group whose overlap is at least ``minimum``.

    Args:
        group: of each detection, such as its image; whole numbers, shape (detections,).
        object_group: of each object; negative ones pair with nothing, shape (objects,).
        overlap: see :mod:`lip_mmdet.evaluation.overlap`.
        minimum: greater than 0.

    Returns:
        Detection, object and overlap of each pair, by detection and then object, shape (pairs,).
    """
    by_group = np.argsort(object_group, kind='stable')
    groups, first, sizes = np.unique(object_group[by_group], return_index=True, return_counts=True)
    among = np.flatnonzero((group >= 0) & np.isin(group, groups))
    place = np.searchsorted(groups, group[among])
    counts = sizes[place]
    ends = np.cumsum(counts)
    # Of pair i of a detection the object is number i + offset by group.
    offsets = first[place] - (ends - counts)
    found = [(np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0))]
    start = 0
    while start < len(among):
        before = ends[start] - counts[start]
        stop = max(start + 1, int(np.searchsorted(ends, before + _BLOCK, side='right')))
        numbers = np.repeat(offsets[start:stop], counts[start:stop])
        numbers += np.arange(before, before + len(numbers))
        detection = np.repeat(among[start:stop], counts[start:stop])
        target = by_group[numbers]
        iou = overlap(detection, target)
        enough = np.flatnonzero(iou >= minimum)
        found.append((detection[enough], target[enough], iou[enough]))
        start = stop
    return tuple(np.concatenate(column) for column in zip(*found))


def match(
    truth: GroundTruth,
    detections: Detections,
    category_ids: np.ndarray,
    iou_thresholds: Sequence[float],
    area_ranges: Sequence[tuple[float, float]],
    limit: int,
) -> Matches:
    """Match detections and objects as ``COCOeval.evaluateImg`` does.

    Args:
        truth: the annotations.
        detections: the results.
        category_ids: the classes to evaluate, sorted.
        iou_thresholds: in any order.
        area_ranges: square pixels, both ends included.
        limit: detections of one class in an image that count, the best-scored ones.
    """
    category = _positions(detections.category, category_ids)
    object_category = _positions(truth.category, category_ids)
    image = np.searchsorted(truth.image_ids, detections.image)
    object_image = np.searchsorted(truth.image_ids, truth.image)
    order, rank = _in_order(image, category, detections.scores, limit)
    image, category = image[order], category[order]

    count = len(category_ids)
    thresholds, back = np.unique(
        np.minimum(np.asarray(iou_thresholds, dtype=np.float64), _HIGHEST_THRESHOLD),
        return_inverse=True,
    )
    pair_detection, pair_object, iou = find_pairs(
        image * count + category,
        np.where(object_category < 0, -1, object_image * count + object_category),
        overlap_of(detections, order, truth, truth.crowd),
        thresholds[0],
    )
    low, high = np.array(area_ranges, dtype=np.float64).T[:, :, None]
    # A box that is no number matches nothing, and no area range excuses it.
    finite = np.isfinite(detections.boxes[order]).all(axis=1)
    areas = np.where(finite, detections.areas[order], np.nan)
    ignored = truth.crowd | (truth.areas < low) | (truth.areas > high)
    taken = _by_rounds(pair_detection, pair_object, iou, rank, truth.crowd, ignored, thresholds)
    # To pycocotools an annotation of id 0 looks like no match, though no other detection has it.
    taken &= ((truth.ids != 0) | ignored)[:, None, pair_object]
    return Matches(
        rows=order,
        image=image,
        scores=detections.scores[order],
        rank=rank,
        starts=np.searchsorted(category, np.arange(count + 1)),
        inside=~((areas < low) | (areas > high)),
        object_image=object_image,
        object_category=object_category,
        ignored=ignored,
        pair_detection=pair_detection,
        pair_object=pair_object,
        taken=taken[:, back],
    )


def _positions(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return where ``ids`` are in the sorted ``known``, -1 for those that are not."""
    place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return np.where(known[place] == ids, place, -1)


def _in_order(
    image: np.ndarray, category: np.ndarray, scores: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that count in COCO's order, and their ranks within image and class."""
    by_score = np.argsort(-scores, kind='stable')
    by_score = by_score[category[by_score] >= 0]
    by_image = by_score[np.lexsort((category[by_score], image[by_score]))]
    group = image[by_image] * (category.max(initial=0) + 1) + category[by_image]
    first = np.flatnonzero(np.diff(group, prepend=-1))
    rank = np.arange(len(group)) - np.repeat(first, np.diff(first, append=len(group)))
    counts = rank < limit
    rows, rank = by_image[counts], rank[counts]
    order = np.lexsort((-scores[rows], category[rows]))
    return rows[order], rank[order]


def _by_rounds(
    detection: np.ndarray,
    target: np.ndarray,
    iou: np.ndarray,
    rank: np.ndarray,
    crowd: np.ndarray,
    ignored: np.ndarray,
    thresholds: np.ndarray,
) -> np.ndarray:
    """Match by rounds in which one detection of each image and class chooses; shape (A, T, pairs).

    It takes what still is to be had and overlaps most; of equals the last; ignored objects only if
    there is no other.
    """
    order = np.lexsort((target, iou, detection, rank[detection]))
    detection, target, iou = detection[order], target[order], iou[order]
    objects, place = np.unique(target, return_inverse=True)
    single, preferred = ~crowd[objects], ~ignored[:, objects]
    count = len(order)
    # Greater for what a detection would rather have: at first what counts, then later in the order.
    wish = np.arange(count) + count * preferred[:, place]
    reaches = iou >= thresholds[:, None]
    free = np.ones((len(ignored), len(thresholds), len(objects)), dtype=bool)
    taken = np.zeros((len(ignored), len(thresholds), count), dtype=bool)

    starts = np.flatnonzero(np.diff(detection, prepend=-1))
    rounds = np.flatnonzero(np.diff(rank[detection[starts]], prepend=-1))
    for first, last in zip(rounds, np.append(rounds[1:], len(starts))):
        low = starts[first]
        high = starts[last] if last < len(starts) else count
        here = place[low:high]
        possible = free[:, :, here] & reaches[:, low:high]
        choice = np.where(possible, wish[:, None, low:high], -1)
        choice = np.maximum.reduceat(choice, starts[first:last] - low, axis=2)
        area, threshold, _ = np.nonzero(choice >= 0)
        chosen = choice[choice >= 0] % count
        taken[area, threshold, chosen] = True
        chosen = place[chosen]
        taking = single[chosen]
        free[area[taking], threshold[taking], chosen[taking]] = False
    result = np.empty_like(taken)
    result[:, :, order] = taken
    return result
