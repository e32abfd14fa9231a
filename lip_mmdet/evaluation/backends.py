"""Running COCO's evaluation: pycocotools, or faster-coco-eval, which computes the same in C++.

Both fill the same arrays from the same records; everything the package reports is derived from
these arrays, so the choice of backend changes the time and nothing else.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from dataclasses import dataclass
from typing import Any, Sequence

import numpy as np

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation.detections import Detections
from lip_mmdet.evaluation.ground_truth import GroundTruth

BACKENDS = ('auto', 'faster-coco-eval', 'pycocotools')
AREAS = ('all', 'small', 'medium', 'large')


@dataclass(frozen=True)
class CocoEvaluation:
    """What COCO's evaluation computes, before any averaging.

    T IoU thresholds, R recall levels, K categories, A area ranges, M detection limits.

    Attributes:
        backend: which library filled the arrays.
        iou_thresholds: 0.50 to 0.95 by 0.05, shape (T,).
        recall_levels: 0 to 1 by 0.01, shape (R,).
        category_ids: sorted, shape (K,).
        image_ids: sorted, shape (I,).
        max_detections: the limits 1, 10 and 100 per image.
        precision: interpolated precision, -1 where there is no ground truth, shape (T, R, K, A, M).
        recall: largest recall, -1 where there is no ground truth, shape (T, K, A, M).
        coco_eval: the backend's own evaluator, for what needs the matches behind the arrays.
    """

    backend: str
    iou_thresholds: np.ndarray
    recall_levels: np.ndarray
    category_ids: np.ndarray
    image_ids: np.ndarray
    max_detections: tuple[int, ...]
    precision: np.ndarray
    recall: np.ndarray
    coco_eval: Any


def choose_backend(name: str = 'auto') -> str:
    """Return the backend to use: faster-coco-eval for ``'auto'`` if it is installed.

    Raises:
        InputError: an unknown backend, or faster-coco-eval asked for and not installed.
    """
    if name not in BACKENDS:
        raise InputError(f'unknown backend {name!r}; there are {", ".join(BACKENDS)}')
    if name == 'pycocotools':
        return name
    installed = importlib.util.find_spec('faster_coco_eval') is not None
    if not installed and name == 'faster-coco-eval':
        raise InputError(
            'faster-coco-eval is not installed; pip install faster-coco-eval, or use '
            '--backend pycocotools'
        )
    return 'faster-coco-eval' if installed else 'pycocotools'


def evaluate(
    ground_truth: GroundTruth,
    detections: Detections,
    backend: str = 'auto',
    category_ids: Sequence[int] | None = None,
    keep_matches: bool = False,
) -> CocoEvaluation:
    """Evaluate boxes by COCO's definition (https://cocodataset.org/#detection-eval).

    Args:
        ground_truth: the annotations.
        detections: the results; their order decides between equal scores, as in pycocotools.
        backend: ``'auto'``, ``'faster-coco-eval'`` or ``'pycocotools'``.
        category_ids: evaluate these categories only; all of the annotations' by default.
        keep_matches: keep what :func:`lip_mmdet.evaluation.matches.collect_matches` reads, at the
            price of memory.

    Raises:
        InputError: see :func:`choose_backend`.
    """
    backend = choose_backend(backend)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        if backend == 'pycocotools':
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval

            make_eval = COCOeval
        else:
            from faster_coco_eval import COCO, COCOeval_faster

            def make_eval(truth, found, kind):
                return COCOeval_faster(truth, found, kind, separate_eval=keep_matches)

        coco_eval = make_eval(
            _index(COCO, ground_truth, _truth_records(ground_truth)),
            _index(COCO, ground_truth, _detection_records(detections)),
            'bbox',
        )
        if category_ids is not None:
            coco_eval.params.catIds = [int(category) for category in category_ids]
        coco_eval.evaluate()
        coco_eval.accumulate()

    parameters = coco_eval.params
    return CocoEvaluation(
        backend=backend,
        iou_thresholds=np.array(parameters.iouThrs),
        recall_levels=np.array(parameters.recThrs),
        category_ids=np.array(parameters.catIds, dtype=np.int64),
        image_ids=ground_truth.image_ids,
        max_detections=tuple(parameters.maxDets),
        precision=coco_eval.eval['precision'],
        recall=coco_eval.eval['recall'],
        coco_eval=coco_eval,
    )


def _truth_records(truth: GroundTruth) -> list[dict]:
    columns = (truth.ids, truth.image, truth.category, truth.boxes, truth.areas, truth.crowd)
    return [
        dict(id=i, image_id=image, category_id=category, bbox=box, area=area, iscrowd=int(crowd))
        for i, image, category, box, area, crowd in zip(*(column.tolist() for column in columns))
    ]


def _detection_records(detections: Detections) -> list[dict]:
    # The area of a detection is its box's and ids count from 1, as in pycocotools' `loadRes`.
    areas = (detections.boxes[:, 2] * detections.boxes[:, 3]).tolist()
    for number, (record, area) in enumerate(zip(detections.records, areas), start=1):
        record['id'] = number
        record['area'] = area
        record['iscrowd'] = 0
    return detections.records


def _index(coco_class: type, truth: GroundTruth, annotations: list[dict]) -> Any:
    coco = coco_class()
    coco.dataset = {
        'images': [{'id': image} for image in truth.image_ids.tolist()],
        'categories': [{'id': category} for category in truth.category_ids.tolist()],
        'annotations': annotations,
    }
    coco.createIndex()
    return coco
