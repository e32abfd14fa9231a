"""Which detection matched which object: the backends' own matches, in columns.

Everything that looks behind the figures (bootstrap, error breakdown, worst images) reads these
instead of matching anew, so it agrees with the figures by construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Sequence

import numpy as np

from lip_mmdet.evaluation.detections import Detections
from lip_mmdet.evaluation.ground_truth import GroundTruth

# COCO looks at this many detections of a category in an image.
_MAX_DETECTIONS = 100
_AREA_COUNT = 4
_IOU_COUNT = 10


@dataclass(frozen=True)
class CategoryMatches:
    """The matches of one category over all images.

    D detections, by image and falling score, at most 100 an image; A area ranges; T IoU thresholds;
    I images.

    Attributes:
        category: its id.
        rows: positions of the detections in the results, shape (D,).
        image: positions of their images in the evaluation's ``image_ids``, shape (D,).
        scores: confidences, shape (D,).
        truth_ids: id of the annotation matched, 0 for none, shape (A, T, D).
        ignored: detections that count neither as hit nor as false alarm, shape (A, T, D).
        truth_counts: objects per image that have to be found, shape (A, I).
    """

    category: int
    rows: np.ndarray
    image: np.ndarray
    scores: np.ndarray
    truth_ids: np.ndarray
    ignored: np.ndarray
    truth_counts: np.ndarray


def matches_from_pycocotools(
    eval_images: Sequence[dict | None], truth: GroundTruth, category_ids: Sequence[int]
) -> list[CategoryMatches]:
    """Collect ``COCOeval.evalImgs``, which is ordered by category, area range and image."""
    image_count = len(truth.image_ids)
    result = []
    for number, category in enumerate(category_ids):
        truth_ids, ignored = [], []
        truth_counts = np.zeros((_AREA_COUNT, image_count), dtype=np.int64)
        for area in range(_AREA_COUNT):
            start = (number * _AREA_COUNT + area) * image_count
            found = [
                (position, entry)
                for position, entry in enumerate(eval_images[start : start + image_count])
                if entry is not None
            ]
            blank = [np.zeros((_IOU_COUNT, 0))]
            truth_ids.append(np.concatenate(blank + [e['dtMatches'] for _, e in found], axis=1))
            ignored.append(np.concatenate(blank + [e['dtIgnore'] for _, e in found], axis=1))
            for position, entry in found:
                truth_counts[area, position] = np.sum(np.asarray(entry['gtIgnore']) == 0)
        # Ids of detections count from 1 in the results' order.
        rows = [np.asarray(entry['dtIds'], dtype=np.int64) - 1 for _, entry in found]
        images = [np.full(len(entry['dtIds']), position) for position, entry in found]
        scores = [np.asarray(entry['dtScores'], dtype=np.float64) for _, entry in found]
        result.append(
            CategoryMatches(
                category=int(category),
                rows=np.concatenate([np.zeros(0, dtype=np.int64), *rows]),
                image=np.concatenate([np.zeros(0, dtype=np.int64), *images]),
                scores=np.concatenate([np.zeros(0), *scores]),
                truth_ids=np.stack(truth_ids).astype(np.int64),
                ignored=np.stack(ignored).astype(bool),
                truth_counts=truth_counts,
            )
        )
    return result


def matches_from_faster_coco_eval(
    states: Sequence[tuple],
    image_ids: Sequence[int],
    category: int,
    truth: GroundTruth,
    detections: Detections,
    found: np.ndarray,
) -> CategoryMatches:
    """Collect the states of one category's ``ImageEvaluation`` objects.

    Args:
        states: by area range and image: the annotation matched to each detection at each IoU
            threshold, (unused), scores, whether each object is ignored, whether each detection is.
        image_ids: the images that were evaluated, sorted.
        category: the category's id.
        truth, detections: what was evaluated.
        found: rows of the category's detections, in the results' order.
    """
    # As the evaluator sorts them: by image, then by falling score, ties in the results' order.
    order = np.lexsort((-detections.scores[found], detections.image[found]))
    rows = found[order]
    rank = np.arange(len(rows)) - np.searchsorted(detections.image[rows], detections.image[rows])
    rows = rows[rank < _MAX_DETECTIONS]
    image = np.searchsorted(truth.image_ids, detections.image[rows])

    image_count = len(image_ids)
    positions = np.searchsorted(truth.image_ids, image_ids)
    per_image = np.array([len(state[2]) for state in states[:image_count]], dtype=np.int64)
    index = _threshold_major(per_image)
    truth_ids, ignored = [], []
    truth_counts = np.zeros((_AREA_COUNT, len(truth.image_ids)), dtype=np.int64)
    for area in range(_AREA_COUNT):
        part = states[area * image_count : (area + 1) * image_count]
        truth_ids.append(_flat([state[0] for state in part], np.int64)[index])
        ignored.append(_flat([state[4] for state in part], bool)[index])
        truth_counts[area, positions] = [state[3].count(False) for state in part]
    return CategoryMatches(
        category=category,
        rows=rows,
        image=image,
        scores=detections.scores[rows],
        truth_ids=np.stack(truth_ids),
        ignored=np.stack(ignored),
        truth_counts=truth_counts,
    )


def _flat(lists: Sequence[list], dtype: type) -> np.ndarray:
    return np.fromiter(chain.from_iterable(lists), dtype=dtype)


def _threshold_major(per_image: np.ndarray) -> np.ndarray:
    """Return where entry (threshold, detection) is in a concatenation of (T, D_i) blocks."""
    starts = np.repeat(np.cumsum(per_image) - per_image, per_image)
    sizes = np.repeat(per_image, per_image)
    within = np.arange(per_image.sum()) - starts
    return starts * _IOU_COUNT + np.arange(_IOU_COUNT)[:, None] * sizes + within
