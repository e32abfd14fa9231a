"""pycocotools' own evaluation of the same columns: the definition that ours is judged by."""

from __future__ import annotations

import contextlib
import io
from typing import Any, Sequence

import numpy as np

from lip_mmdet.evaluation.detections import Detections
from lip_mmdet.evaluation.ground_truth import GroundTruth


def run(
    truth: GroundTruth,
    detections: Detections,
    category_ids: np.ndarray,
    iou_thresholds: np.ndarray,
    area_ranges: Sequence[tuple[float, float]],
    limits: Sequence[int],
) -> Any:
    """Return pycocotools' ``COCOeval`` after ``evaluate`` and ``accumulate``.

    Its ids of detections are their rows in the results plus 1.
    """
    from pycocotools.cocoeval import COCOeval

    images, categories = truth.image_ids.tolist(), category_ids.tolist()
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
    coco_eval = COCOeval(
        _Coco(images, categories, objects),
        _Coco(images, categories, found),
        'segm' if masks else 'bbox',
    )
    coco_eval.params.iouThrs = iou_thresholds
    coco_eval.params.areaRng = [list(area) for area in area_ranges]
    coco_eval.params.maxDets = list(limits)
    with contextlib.redirect_stdout(io.StringIO()):
        coco_eval.evaluate()
        coco_eval.accumulate()
    return coco_eval


def accumulate(*arguments: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return precision, recall and scores; see :func:`run`."""
    arrays = run(*arguments).eval
    return arrays['precision'], arrays['recall'], arrays['scores']


def _records(**columns: np.ndarray) -> list[dict]:
    rows = zip(*(column.tolist() for column in columns.values()))
    return [dict(zip(columns, row)) for row in rows]


class _Coco:
    """What ``COCOeval`` asks of a ``COCO`` object, without building the index it never uses.

    It sorts annotations by image and category itself, so all that counts is their order within an
    image: the file's.
    """

    def __init__(self, image_ids: list[int], category_ids: list[int], records: list[dict]) -> None:
        self.image_ids = image_ids
        self.category_ids = category_ids
        known = set(category_ids)
        self.records = [record for record in records if record['category_id'] in known]

    def getImgIds(self) -> list[int]:
        return self.image_ids

    def getCatIds(self) -> list[int]:
        return self.category_ids

    def getAnnIds(self, imgIds: Any = (), catIds: Any = ()) -> range:
        return range(len(self.records))

    def loadAnns(self, ids: range) -> list[dict]:
        return self.records

    def annToRLE(self, record: dict) -> dict:
        return record['segmentation']
