"""What kinds of errors cost AP50: TIDE's (Bolya et al., ECCV 2020, arXiv 2008.08115, section 2.2).

Hits are COCO's matches at IoU 0.5. Any other detection that counts is, in this order:

- localization: right class, IoU 0.1 to 0.5 with the object of that class it overlaps most;
- classification: IoU 0.5 or more with an object of another class;
- duplicate: right class, IoU 0.5 or more with an object that a better detection found;
- background: IoU of at most 0.1 with every object;
- both: anything else, so wrong class and IoU 0.1 to 0.5.

Missed are the objects that no detection found, nor would find with a corrected class or box. Counts
and gains are those of tidecv, with COCO's rules where TIDE's program has its own: 100 detections of
a class in an image, detections that a crowd excuses are no errors, classes without objects have no
AP.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lip_mmdet.evaluation.accumulation import CocoEvaluation, average_precision
from lip_mmdet.evaluation.detections import Detections
from lip_mmdet.evaluation.ground_truth import GroundTruth
from lip_mmdet.evaluation.matching import Matches, find_pairs
from lip_mmdet.evaluation.overlap import overlap_of

ERROR_TYPES = (
    'classification',
    'localization',
    'both',
    'duplicate',
    'background',
    'missed',
)
# What a detection can be; the first does not count.
_KINDS = ('ignored', 'hit', *ERROR_TYPES[:-1])
_IGNORED, _HIT, _CLASSIFICATION, _LOCALIZATION, _BOTH, _DUPLICATE, _BACKGROUND = range(7)
_FOREGROUND, _NOTHING = 0.5, 0.1


@dataclass(frozen=True)
class ErrorBreakdown:
    """Errors at IoU 0.5.

    Attributes:
        ap50: AP50 as it is, a fraction.
        counts: how many errors of each type.
        gains: how much AP50 would rise if the errors of this type alone were corrected.
        codes: of each detection in the results, see :meth:`kind`, shape (detections,).
        missed: of each annotation whether it was missed, shape (annotations,).
    """

    ap50: float
    counts: dict[str, int]
    gains: dict[str, float]
    codes: np.ndarray
    missed: np.ndarray

    def kind(self, row: int) -> str:
        """Return ``'hit'``, an error type, or ``'ignored'`` of a detection by its row."""
        return _KINDS[self.codes[row]]


def break_down_errors(
    evaluation: CocoEvaluation, truth: GroundTruth, detections: Detections
) -> ErrorBreakdown:
    """Sort the errors of an evaluation into :data:`ERROR_TYPES`, and correct each type in turn."""
    matches = evaluation.matches
    threshold = int(np.flatnonzero(evaluation.iou_thresholds == _FOREGROUND)[0])
    kind, target, found = _classify(matches, threshold, truth, detections)
    category, object_category, scores = matches.category, matches.object_category, matches.scores
    count, wanted_object = len(matches.starts) - 1, (object_category >= 0) & ~truth.crowd
    wanted = np.bincount(object_category[wanted_object], minlength=count)

    # A corrected class or box finds the object if nothing has. Of several corrections of one object
    # the best-scored counts and the others are removed, whatever their type: as in TIDE.
    correctable = np.isin(kind, (_CLASSIFICATION, _LOCALIZATION)) & ~found[target]
    hopeful = np.flatnonzero(correctable)
    hopeful = hopeful[np.argsort(-scores[hopeful], kind='stable')]
    best = hopeful[np.unique(target[hopeful], return_index=True)[1]]
    corrected = np.zeros(len(kind), dtype=bool)
    corrected[best] = True
    missed = wanted_object & ~found
    missed[target[correctable]] = False

    counts, hit = kind != _IGNORED, kind == _HIT

    def ap50(
        keep: np.ndarray,
        hit: np.ndarray,
        category: np.ndarray,
        wanted: np.ndarray,
        present: np.ndarray,
    ) -> float:
        order = np.flatnonzero(keep)
        order = order[np.lexsort((-scores[order], category[order]))]
        ap = average_precision(category[order], keep[order], hit[order], wanted)
        return float(ap[present].sum() / max(present.sum(), 1))

    present = wanted > 0
    base = ap50(counts, hit, category, wanted, present)
    gains = {}
    for code in range(_CLASSIFICATION, len(_KINDS)):
        fixed = corrected & (kind == code)
        keep = counts & ((kind != code) | fixed)
        fixed_category = np.where(fixed, object_category[target], category)
        gains[_KINDS[code]] = ap50(keep, hit | fixed, fixed_category, wanted, present)
    # A class whose objects were all missed stays, with an AP of 0, if it has detections.
    left = wanted - np.bincount(object_category[missed], minlength=count)
    present &= (left > 0) | (np.bincount(category[counts], minlength=count) > 0)
    gains['missed'] = ap50(counts, hit, category, left, present)

    codes = np.zeros(len(detections), dtype=np.int8)
    codes[matches.rows] = kind
    numbers = np.bincount(kind, minlength=len(_KINDS)).tolist()
    return ErrorBreakdown(
        ap50=base,
        counts={**dict(zip(_KINDS[2:], numbers[2:])), 'missed': int(missed.sum())},
        gains={name: max(ap - base, 0.0) for name, ap in gains.items()},
        codes=codes,
        missed=missed,
    )


def _classify(
    matches: Matches, threshold: int, truth: GroundTruth, detections: Detections
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each detection's kind, the object it is about, and which objects were found."""
    _, objects, is_hit = matches.at(0, threshold)
    counted, hit = matches.outcome(0, threshold)
    kind = np.where(hit, _HIT, np.where(counted, _BACKGROUND, _IGNORED))
    found = np.zeros(len(truth), dtype=bool)
    found[objects[is_hit]] = True

    wrong = np.flatnonzero(kind == _BACKGROUND)
    rows = matches.rows[wrong]
    wanted = (matches.object_category >= 0) & ~truth.crowd
    pair, other, iou = find_pairs(
        matches.image[wrong],
        np.where(wanted, matches.object_image, -1),
        overlap_of(detections, rows, truth, np.zeros(len(truth), dtype=bool)),
        _NOTHING,
    )
    same = detections.category[rows][pair] == truth.category[other]
    best = {
        name: _best_of(len(wrong), pair[chosen], other[chosen], iou[chosen])
        for name, chosen in (('same', same), ('other', ~same), ('used', same & found[other]))
    }
    (same_iou, same_object), (other_iou, other_object) = best['same'], best['other']
    cases = (
        (_LOCALIZATION, (same_iou >= _NOTHING) & (same_iou <= _FOREGROUND), same_object),
        (_CLASSIFICATION, other_iou >= _FOREGROUND, other_object),
        (_DUPLICATE, best['used'][0] >= _FOREGROUND, same_object),
        (_BOTH, np.maximum(same_iou, other_iou) > _NOTHING, other_object),
    )
    target = np.zeros(len(kind), dtype=np.int64)
    for code, holds, candidate in reversed(cases):
        kind[wrong[holds]] = code
        target[wrong[holds]] = candidate[holds]
    return kind, target, found


def _best_of(
    count: int, detection: np.ndarray, objects: np.ndarray, iou: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest overlap of each detection, 0 for none, and the first object with it."""
    order = np.lexsort((-iou, detection))
    first = order[np.flatnonzero(np.diff(detection[order], prepend=-1))]
    largest, which = np.zeros(count), np.zeros(count, dtype=np.int64)
    largest[detection[first]], which[detection[first]] = iou[first], objects[first]
    return largest, which
