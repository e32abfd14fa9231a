"""pycocotools' own evaluation of the same columns: the definition that ours is judged by."""

from __future__ import annotations

import contextlib
import io
from typing import Any, Sequence

import numpy as np

from lip_mmdet.evaluation.detections import Detections
from lip_mmdet.evaluation.ground_truth import GroundTruth


def accumulate(
    truth: GroundTruth,
    detections: Detections,
    category_ids: np.ndarray,
    iou_thresholds: np.ndarray,
    area_ranges: Sequence[tuple[float, float]],
    limits: Sequence[int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return precision, recall and scores as pycocotools' ``COCOeval`` computes them."""
    from pycocotools.cocoeval import COCOeval

    masks = truth.masks is not None
    objects = _records(
        id=truth.ids,
        image_id=truth.image,
        category_id=truth.category,
        bbox=truth.boxes,
        area=truth.areas,
        iscrowd=truth.crowd.astype(int),
    )
    # As `COCO.loadRes` completes them.
    found = _records(
        id=np.arange(1, len(detections) + 1),
        image_id=detections.image,
        category_id=detections.category,
        bbox=detections.boxes,
        score=detections.scores,
        area=detections.areas,
        iscrowd=np.zeros(len(detections), dtype=int),
    )
    for records, side in ((objects, truth), (found, detections)) if masks else ():
        for record, code in zip(records, side.masks.codes(np.arange(len(side)))):
            record['segmentation'] = code
    with contextlib.redirect_stdout(io.StringIO()):
        sides = (_coco(truth.image_ids, category_ids, records) for records in (objects, found))
        coco_eval = COCOeval(*sides, 'segm' if masks else 'bbox')
        coco_eval.params.iouThrs = iou_thresholds
        coco_eval.params.areaRng = [list(area) for area in area_ranges]
        coco_eval.params.maxDets = list(limits)
        coco_eval.evaluate()
        coco_eval.accumulate()
    return tuple(coco_eval.eval[name] for name in ('precision', 'recall', 'scores'))


def _records(**columns: np.ndarray) -> list[dict]:
    rows = zip(*(column.tolist() for column in columns.values()))
    return [dict(zip(columns, row)) for row in rows]


def _coco(image_ids: np.ndarray, category_ids: np.ndarray, records: list[dict]) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    images = [dict(id=image, height=0, width=0) for image in image_ids.tolist()]
    categories = [dict(id=category) for category in category_ids.tolist()]
    coco.dataset = dict(images=images, categories=categories, annotations=records)
    coco.createIndex()
    return coco
