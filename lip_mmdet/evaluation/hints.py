"""Telling the usual mistakes in results: other class ids, other boxes, a part of the images.

A reading is judged by how many of the best-scored detections have IoU 0.5 or more with an object of
their class. A sample is enough, for a wrong reading finds next to nothing and the right one most.
"""

from __future__ import annotations

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


def _yolo(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)


def _corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


# What else four numbers may mean, and how they become [x, y, width, height].
_READINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
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

    def pairs(
        self, boxes: np.ndarray | None, category: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return detections and the objects of their class with IoU 0.5, with all without boxes."""
        overlap: Overlap = lambda detection, target: np.ones(len(detection))  # noqa: E731
        if boxes is not None:
            overlap = box_overlap(boxes, self.objects, np.zeros(len(self.objects), dtype=bool))
        detection, target, _ = find_pairs(self.image, self.object_image, overlap, 0.5)
        same = category[detection] == self.object_category[target]
        return detection[same], target[same]

    def hits(self, boxes: np.ndarray, category: np.ndarray) -> float:
        """Return the share of detections that find an object of their class, read like this."""
        # One wrong box can find an object by chance.
        number = len(np.unique(self.pairs(boxes, category)[0]))
        return number / len(self.image) if number > 1 else 0.0


def results_hints(detections: Detections, truth: GroundTruth) -> list[str]:
    """Return a warning where results, read another way, fit the annotations far better.

    Args:
        detections: those in known images, whatever their class.
        truth: the annotations.
    """
    sample = _Sample(detections, truth)
    as_given = sample.hits(sample.boxes, sample.category)
    if len(sample.image) < 2 or as_given > 0.3:
        return []
    found = _class_hint(sample, truth, as_given) or _box_hint(sample, as_given)
    return [f'warning: {detections.source}: {found}'] if found else []


def _far_better(hits: float, as_given: float) -> bool:
    return hits >= 0.3 and hits > 3 * as_given


def _class_hint(sample: _Sample, truth: GroundTruth, as_given: float) -> str:
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
    hits = {hint: sample.hits(sample.boxes, category) for hint, category in readings.items()}
    best = max(hits, key=hits.get)
    return best if _far_better(hits[best], as_given) else ''


def _box_hint(sample: _Sample, as_given: float) -> str:
    sizes = np.tile(sample.sizes, 2)
    readings = {
        f'the boxes look like {name}': read(sample.boxes) for name, read in _READINGS.items()
    }
    if np.median(np.abs(sample.boxes)) <= 1 and np.isfinite(sizes).all():
        fractions = 'the boxes look like fractions of the image'
        readings[fractions] = sample.boxes * sizes
        for name, read in _READINGS.items():
            readings[f'{fractions}, as {name}'] = read(sample.boxes) * sizes
    hits = {hint: sample.hits(boxes, sample.category) for hint, boxes in readings.items()}
    hint = max(hits, key=hits.get)
    best = hits[hint]
    if not _far_better(best, as_given):
        factor = _common_factor(sample)
        best = sample.hits(sample.boxes * factor, sample.category)
        hint = (
            f'the boxes look like those of resized images: times {factor:.4g} they fit far better'
        )
    if not _far_better(best, as_given):
        return ''
    return f'{hint}; convert them to [x, y, width, height] in pixels of the original image'


def _common_factor(sample: _Sample) -> float:
    """Return the factor on all boxes that most pairs of one class agree on."""
    detection, target = sample.pairs(None, sample.category)
    boxes, objects = sample.boxes[detection], sample.objects[target]
    good = (boxes[:, 2:] > 0).all(axis=1) & (objects[:, 2:] > 0).all(axis=1)
    boxes, objects = boxes[good], objects[good]
    factor = np.sqrt(np.prod(objects[:, 2:], axis=1) / np.prod(boxes[:, 2:], axis=1))
    pairs, crowd = np.arange(len(boxes)), np.zeros(len(boxes), dtype=bool)
    alike = box_overlap(boxes * factor[:, None], objects, crowd)(pairs, pairs) > 0.6
    return float(np.median(factor[alike])) if alike.sum() > 1 else 1.0


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


def corners_in_truth(boxes: np.ndarray, sizes: np.ndarray, source: str) -> list[str]:
    """Return a warning where annotations leave their images, but fit in them read as corners.

    Args:
        boxes: supposedly [x, y, width, height] in pixels, shape (boxes, 4).
        sizes: width and height of each box's image, NaN where unknown, shape (boxes, 2).
        source: how the message names the file.
    """
    with np.errstate(over='ignore'):
        outside = (boxes[:, :2] + boxes[:, 2:] > sizes + _MARGIN).any(axis=1)
    fits = ((boxes[:, 2:] >= boxes[:, :2]) & (boxes[:, 2:] <= sizes + _MARGIN)).all(axis=1)
    if outside.sum() < 2 or outside.mean() <= 0.2 or fits.mean() <= 0.99:
        return []
    return [
        f'warning: {source}: the boxes look like corners [x1, y1, x2, y2] (xyxy): read as '
        f'[x, y, width, height] {outside.sum()} of {len(boxes)} leave their image; convert them'
    ]
