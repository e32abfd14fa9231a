"""Telling the usual mistakes in results: other class ids, other boxes, a part of the images.

A reading is judged by how many of the best-scored detections have IoU 0.5 or more with an object of
their class. A sample is enough, for a wrong reading finds next to nothing and the right one most.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Callable

import numpy as np

from lip_mmdet.evaluation.matching import find_pairs
from lip_mmdet.evaluation.overlap import Overlap, box_overlap

if TYPE_CHECKING:
    from lip_mmdet.evaluation.detections import Detections
    from lip_mmdet.evaluation.ground_truth import GroundTruth

# Detections looked at, and pairs of one with an object of its image.
_SAMPLE, _PAIRS = 2000, 30_000
# Pixels by which honest boxes may leave their image.
_MARGIN = 2.0
# Of objects in their boxes, the median of a file: of thin ones that lie askew, and of box edges.
_LEAST_SHARE, _MOST_SHARE = 0.1, 1.5


def _yolo(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)


def _corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


# What four numbers may mean, and how they become [x, y, width, height].
_READINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    '': lambda boxes: boxes,
    'centres, [cx, cy, width, height]': _yolo,
    'corners, [x1, y1, x2, y2] (xyxy)': _corners,
    '[y, x, height, width]': lambda boxes: boxes[:, [1, 0, 3, 2]],
    'corners, [y1, x1, y2, x2]': lambda boxes: _corners(boxes[:, [1, 0, 3, 2]]),
}


class _Sample:
    """The best-scored detections, of images with objects, beside these."""

    def __init__(self, detections: Detections, truth: GroundTruth) -> None:
        rows = np.arange(len(detections))
        # A detector's best are mostly right as long as they are fewer than there are objects.
        size = min(_SAMPLE, max(10, len(truth) // 2))
        if len(rows) > size:
            rows = np.sort(np.argpartition(-detections.scores, size)[:size])
        objects, images = (
            np.searchsorted(truth.image_ids, image) for image in (truth.image, detections.image)
        )
        count = np.bincount(objects, minlength=len(truth.image_ids))[images[rows]]
        rows = rows[(np.cumsum(count) <= _PAIRS) & (count > 0)]
        self.image, self.category = detections.image[rows], detections.category[rows]
        self.boxes, self.sizes = detections.boxes[rows], truth.sizes_of(self.image)
        objects = np.flatnonzero(np.isin(truth.image, self.image))
        self.object_image, self.object_category = truth.image[objects], truth.category[objects]
        self.objects = truth.boxes[objects]
        whole = np.column_stack([self.image, self.category, self.boxes, detections.scores[rows]])
        self.repeated = len(whole) - len(np.unique(whole, axis=0))

    def pairs(
        self, boxes: np.ndarray | None, category: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return detections and the objects of their class with IoU 0.5.

        Without boxes any IoU will do, without categories any class.
        """
        overlap: Overlap = lambda detection, target: np.ones(len(detection))  # noqa: E731
        if boxes is not None:
            overlap = box_overlap(boxes, self.objects, np.zeros(len(self.objects), dtype=bool))
        detection, target, _ = find_pairs(self.image, self.object_image, overlap, 0.5)
        if category is None:
            return detection, target
        same = category[detection] == self.object_category[target]
        return detection[same], target[same]

    def found(self, boxes: np.ndarray, category: np.ndarray) -> np.ndarray:
        """Return which detections find an object of their class, read like this."""
        return np.bincount(self.pairs(boxes, category)[0], minlength=len(self.image)) > 0

    def hits(self, boxes: np.ndarray, category: np.ndarray) -> float:
        """Return the share of detections that :meth:`found` returns."""
        return _share(self.found(boxes, category))


def _share(found: np.ndarray) -> float:
    # One wrong box can find an object by chance.
    return found.mean() if found.sum() > 1 else 0.0


def results_hints(detections: Detections, truth: GroundTruth) -> list[str]:
    """Return a warning where results, read another way, fit the annotations far better.

    Or one where they fit in no way, or hold detections twice.

    Args:
        detections: those in known images, whatever their class.
        truth: the annotations.
    """
    sample = _Sample(detections, truth)
    given = sample.found(sample.boxes, sample.category)
    numbered = truth.category_numbers.plain
    found = numbered and len(given) > 1 and _class_hint(sample, truth, given)
    if not found and len(given) > 1 and _share(given) <= 0.3:
        found = (
            _box_hint(sample, _share(given))
            or _image_hint(detections, truth, _share(given))
            or _no_hit(sample, truth, given)
        )
    if not found and sample.repeated > max(1, 0.2 * len(sample.image)):
        found = (
            f'{sample.repeated} of the {len(sample.image)} best-scored detections repeat another '
            'in image, class, box and score: were files put together?'
        )
    return [f'warning: {detections.source}: {found}'] if found else []


def _far_better(hits: float, as_given: float) -> bool:
    return hits >= 0.3 and hits > 3 * as_given


def _class_hint(sample: _Sample, truth: GroundTruth, given: np.ndarray) -> str:
    known = truth.category_ids
    readings = {}
    for shift, word in ((1, 'added'), (-1, 'subtracted')):
        readings[
            f'the class ids fit the annotations far better with 1 {word}'
            f'{" (they look 0-based)" if shift == 1 else ""}; if so, --category-shift {shift} '
            'scores them so'
        ] = sample.category + shift
    for first in (0, 1):
        position = sample.category - first
        valid = (position >= 0) & (position < len(known))
        readings[
            f'the class ids fit the annotations far better as positions, counted from {first}, in '
            f'the sorted list of categories; if so, --category-positions {first} scores them so'
        ] = np.where(valid, known[np.clip(position, 0, len(known) - 1)], 2**62)
    best, most = '', 0
    for hint, category in readings.items():
        found = sample.found(sample.boxes, category)
        other = category != sample.category  # where readings agree they are no evidence
        evident = found[other].sum() >= 0.1 * len(found)
        if evident and _far_better(_share(found[other]), _share(given[other])):
            best, most = max((best, most), (hint, found.sum()), key=lambda pair: pair[1])
    # Of each class id the class of most objects that its boxes lie on.
    detection, target = sample.pairs(sample.boxes, None)
    lies_on = np.stack([sample.category[detection], sample.object_category[target]])
    lies_on, count = np.unique(lies_on, axis=1, return_counts=True)
    meant = dict(lies_on[:, np.argsort(count, kind='stable')].T.tolist())
    of_most = np.array([meant.get(i, i) for i in sample.category.tolist()])
    found = sample.found(sample.boxes, of_most)
    consistent = found.sum() > max(2, 1.2 * most, 0.7 * len(np.unique(detection)))
    if consistent and _far_better(_share(found), _share(given)):
        pairs = [f'{i} on {of}' for i, of in sorted(meant.items()) if i != of]
        listed = f'{", ".join(pairs[:3])}{", ..." if len(pairs) > 3 else ""}'
        best = (
            f'the boxes lie on objects of other classes, those of category id {listed}: are the '
            'class ids those of the annotations?'
        )
    return best


def _box_hint(sample: _Sample, as_given: float) -> str:
    sizes = np.tile(sample.sizes, 2)
    detection, target = sample.pairs(None, sample.category)
    best, hint = 0.0, ''
    for resized in (False, True):
        for fractions in (False, True) if np.isfinite(sizes).all() else (False,):
            for name, read in _READINGS.items():
                boxes = read(sample.boxes) * (sizes if fractions else 1)
                factor = 1.0
                if resized:
                    factor = _common_factor(boxes[detection], sample.objects[target])
                hits = sample.hits(boxes * factor, sample.category)
                if hits <= 1.1 * best:  # of several that fit the simplest
                    continue
                kinds = []
                if fractions:
                    times = f' times about {1 / factor:.4g}' if resized else ''
                    kinds = [f'fractions of the image{times}']
                elif resized:
                    kinds = [f'those of resized images: times {factor:.4g} they fit far better']
                best, hint = hits, ', as '.join(kinds + [name] * bool(name))
    if not _far_better(best, as_given):
        return ''
    return (
        f'the boxes look like {hint}; convert them to [x, y, width, height] in pixels of the '
        'original image'
    )


def _common_factor(boxes: np.ndarray, objects: np.ndarray) -> float:
    """Return the factor on all boxes that most pairs of one class agree on."""
    good = (boxes[:, 2:] > 0).all(axis=1) & (objects[:, 2:] > 0).all(axis=1)
    boxes, objects = boxes[good], objects[good]
    factor = np.sqrt(np.prod(objects[:, 2:], axis=1) / np.prod(boxes[:, 2:], axis=1))
    pairs, crowd = np.arange(len(boxes)), np.zeros(len(boxes), dtype=bool)
    alike = box_overlap(boxes * factor[:, None], objects, crowd)(pairs, pairs) > 0.6
    return float(np.median(factor[alike])) if alike.sum() > 2 else 1.0


def _image_hint(detections: Detections, truth: GroundTruth, as_given: float) -> str:
    place = np.searchsorted(truth.image_ids, detections.image)
    for step, which in ((1, 'next'), (-1, 'previous')):
        image = truth.image_ids.take(place + step, mode='clip')
        moved = _Sample(replace(detections, image=image), truth)
        if _far_better(moved.hits(moved.boxes, moved.category), as_given):
            return (
                f'the boxes fit those of the {which} image id far better: are the image ids '
                'shifted by one?'
            )
    return ''


def _no_hit(sample: _Sample, truth: GroundTruth, given: np.ndarray) -> str:
    number = np.isin(sample.category, truth.category_ids).sum()
    if number < 10 or given.sum() >= 0.05 * number:
        return ''
    return (
        f'of the {number} best-scored detections {given.sum() or "none"} have IoU 0.5 with an '
        'object of their class: do image ids, class ids, boxes and scores mean what they should?'
    )


def notes_on(detections: Detections, truth: GroundTruth, max_dets: int = 100) -> list[str]:
    """Return everything that a reader of these detections' figures should know, one line each."""
    return [
        *detections.notes,
        *coverage(detections, truth)[1],
        *dropped(detections, truth, max_dets),
    ]


def limits_up_to(number: int) -> tuple[int, ...]:
    """Return COCO's limits of detections with ``number`` in the place of 100."""
    return (*(limit for limit in (1, 10) if limit < number), number)


def coverage(detections: Detections, truth: GroundTruth) -> tuple[int, list[str]]:
    """Return how many images have no detection, and a warning if that is no chance.

    It is none where over half of the images with objects have none, or one long block of them.
    """
    found = np.isin(truth.image_ids, detections.image)
    missing = int((~found).sum())
    shows = np.isin(truth.image_ids, truth.image[~truth.crowd])
    empty = ~found[shows]
    if not len(detections) or not empty.any():
        return missing, []
    edges = np.flatnonzero(np.diff(np.concatenate([[0], empty.view(np.int8), [0]])))
    longest = int((edges[1::2] - edges[::2]).max())
    rate = empty.mean()
    # A block this long somewhere among so many, if each image were empty by chance.
    block = longest > 2 and len(empty) * rate**longest < 1e-3
    if rate <= 0.5 and not block:
        return missing, []
    shape = f', {longest} of them one after the other' if block else ''
    return missing, [
        f'warning: {detections.source}: {empty.sum()} of {len(empty)} images with objects have no '
        f'detection{shape}: are these the results of a part of the images?'
    ]


def dropped(detections: Detections, truth: GroundTruth, limit: int) -> list[str]:
    """Return a note if an image has more detections of one class than COCO's limit."""
    group = np.searchsorted(truth.image_ids, detections.image) * len(truth.category_ids)
    group += np.searchsorted(truth.category_ids, detections.category)
    over = int(np.maximum(np.unique(group, return_counts=True)[1] - limit, 0).sum())
    if not over:
        return []
    return [
        f'note: {detections.source}: {over:,} detections beyond the {limit} best of a class in an '
        f"image do not count, by COCO's rules; --max-dets N counts N"
    ]


def truth_hints(boxes: np.ndarray, areas: np.ndarray, sizes: np.ndarray, source: str) -> list[str]:
    """Return warnings where annotations look like corners or fractions, or areas are of no pixels.

    Args:
        boxes: supposedly [x, y, width, height] in pixels, shape (boxes, 4).
        areas: supposedly in square pixels, shape (boxes,).
        sizes: width and height of each box's image, NaN where unknown, shape (boxes, 2).
        source: how the messages name the file.
    """
    if len(boxes) > 1 and boxes.max() <= 1:
        return [f'warning: {source}: the boxes look like fractions of the image; write pixels']
    with np.errstate(over='ignore', invalid='ignore'):
        outside = (boxes[:, :2] + boxes[:, 2:] > sizes + _MARGIN).any(axis=1)
        box_areas = boxes[:, 2] * boxes[:, 3]
    some = (box_areas > 0) & np.isfinite(areas) & np.isfinite(box_areas)
    fits = ((boxes[:, 2:] >= boxes[:, :2]) & (boxes[:, 2:] <= sizes + _MARGIN)).all(axis=1)
    if outside.sum() > 1 and outside.mean() > 0.2 and fits.mean() > 0.99:
        return [
            f'warning: {source}: the boxes look like corners [x1, y1, x2, y2] (xyxy): read as '
            f'[x, y, width, height] {outside.sum()} of {len(boxes)} leave their image; convert them'
        ]
    share = np.median(areas[some] / box_areas[some]) if some.sum() > 1 else 1
    if not _LEAST_SHARE <= share <= _MOST_SHARE:
        return [
            f'warning: {source}: the median area is {share:.3g} times that of the box, so areas '
            'are no square pixels, and what is small, medium and large (APS, APM, APL) is wrong'
        ]
    return []
