"""How much detections and objects overlap: by boxes or by masks, equal to pycocotools' last bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

import numpy as np

if TYPE_CHECKING:
    from lip_mmdet.evaluation.detections import Detections
    from lip_mmdet.evaluation.ground_truth import GroundTruth
    from lip_mmdet.evaluation.masks import Masks

# IoU of the pairs (detections, objects), both as rows, shape (pairs,). An object that is a crowd
# has no say in the size of the union.
Overlap = Callable[[np.ndarray, np.ndarray], np.ndarray]


def overlap_of(
    detections: Detections, rows: np.ndarray, truth: GroundTruth, crowd: np.ndarray
) -> Overlap:
    """Return the IoU of the detections at ``rows``, of masks where there are some.

    Args:
        detections: the results.
        rows: positions in them, which the function counts from 0.
        truth: the annotations.
        crowd: of which objects the IoU is a crowd's, shape (objects,).
    """
    boxes = box_overlap(detections.boxes[rows], truth.boxes, crowd)
    if detections.masks is None:
        return boxes
    return mask_overlap(detections.masks, rows, truth.masks, crowd, boxes)


def mask_overlap(
    masks: Masks, rows: np.ndarray, objects: Masks, crowd: np.ndarray, boxes: Overlap
) -> Overlap:
    """Return pycocotools' IoU of masks, computed for pairs whose boxes overlap.

    Masks of different sizes have an IoU of -1. For the arguments see :func:`overlap_of`.
    """
    from pycocotools.mask import iou

    def overlap(detection: np.ndarray, target: np.ndarray) -> np.ndarray:
        result = np.zeros(len(detection))
        touching = np.flatnonzero(boxes(detection, target) > 0)
        touching = touching[np.argsort(target[touching], kind='stable')]
        starts = np.flatnonzero(np.diff(target[touching], prepend=-1))
        for pairs in np.split(touching, starts[1:]) if len(touching) else ():
            one = target[pairs[:1]]
            found = masks.codes(rows[detection[pairs]])
            result[pairs] = iou(found, objects.codes(one), crowd[one].tolist())[:, 0]
        return result

    return overlap


def box_overlap(boxes: np.ndarray, objects: np.ndarray, crowd: np.ndarray) -> Overlap:
    """Return pycocotools' IoU of [x, y, width, height] boxes as a function of pairs.

    Args:
        boxes: of the detections, float64, shape (detections, 4).
        objects: of the objects, float64, shape (objects, 4).
        crowd: shape (objects,).
    """
    # The same operations in the same order as pycocotools: equal to the last bit.
    left, top, right, bottom, area = _edges(boxes)
    other_left, other_top, other_right, other_bottom, other_area = _edges(objects)

    def overlap(detection: np.ndarray, target: np.ndarray) -> np.ndarray:
        iou = np.zeros(len(detection))
        width = np.minimum(right[detection], other_right[target])
        width -= np.maximum(left[detection], other_left[target])
        touching = np.flatnonzero(width > 0)
        detection, target, width = detection[touching], target[touching], width[touching]
        height = np.minimum(bottom[detection], other_bottom[target])
        height -= np.maximum(top[detection], other_top[target])
        inner = np.flatnonzero(height > 0)
        detection, target = detection[inner], target[inner]
        intersection = width[inner] * height[inner]
        union = area[detection]
        union = np.where(crowd[target], union, union + other_area[target] - intersection)
        iou[touching[inner]] = intersection / union
        return iou

    return overlap


def _edges(boxes: np.ndarray) -> tuple[np.ndarray, ...]:
    x, y, width, height = np.ascontiguousarray(boxes.T)
    with np.errstate(over='ignore', invalid='ignore'):
        return x, y, width + x, height + y, width * height
