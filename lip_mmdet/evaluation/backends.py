"""Running COCO's evaluation: pycocotools, or faster-coco-eval, which computes the same in C++.

Both fill the same arrays from the same records; everything the package reports is derived from
these arrays, so the choice of backend changes the time and nothing else.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from dataclasses import dataclass
from typing import Any, Iterator, Sequence

import numpy as np

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation.collector import collector_paused
from lip_mmdet.evaluation.detections import Detections
from lip_mmdet.evaluation.ground_truth import GroundTruth
from lip_mmdet.evaluation.matches import (
    CategoryMatches,
    matches_from_faster_coco_eval,
    matches_from_pycocotools,
)

BACKENDS = ('auto', 'faster-coco-eval', 'pycocotools')
# Detections of a class in an image that count, by COCO's rules.
LIMITS = (1, 10, 100)
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
        max_detections: the limits 1, 10 and 100 per image and category.
        precision: interpolated precision, -1 where there is no ground truth, shape (T, R, K, A, M).
        recall: largest recall, -1 where there is no ground truth, shape (T, K, A, M).
        matches: which detection was matched to which object, by category, if asked for.
    """

    backend: str
    iou_thresholds: np.ndarray
    recall_levels: np.ndarray
    category_ids: np.ndarray
    image_ids: np.ndarray
    max_detections: tuple[int, ...]
    precision: np.ndarray
    recall: np.ndarray
    matches: list[CategoryMatches] | None = None


def choose_backend(name: str = 'auto') -> str:
    """Return the backend to use: faster-coco-eval for ``'auto'`` if it is installed.

    Raises:
        InputError: an unknown backend, or faster-coco-eval asked for and not installed.
    """
    if name not in BACKENDS:
        raise InputError(f'unknown backend {name!r}; there are {", ".join(BACKENDS)}')
    if name == 'pycocotools':
        return name
    try:
        importlib.import_module('faster_coco_eval')
    except Exception as error:  # not there, or there and broken
        if name == 'auto':
            return 'pycocotools'
        raise InputError(
            f'faster-coco-eval cannot be used ({error}); pip install faster-coco-eval, or use '
            '--backend pycocotools'
        ) from None
    return 'faster-coco-eval'


def evaluate(
    ground_truth: GroundTruth,
    detections: Detections,
    backend: str = 'auto',
    category_ids: Sequence[int] | None = None,
    keep_matches: bool = False,
    max_detections: Sequence[int] = LIMITS,
    iou_thresholds: Sequence[float] | None = None,
) -> CocoEvaluation:
    """Evaluate boxes by COCO's definition (https://cocodataset.org/#detection-eval).

    Args:
        ground_truth: the annotations.
        detections: the results; their order decides between equal scores, as in pycocotools.
        backend: ``'auto'``, ``'faster-coco-eval'`` or ``'pycocotools'``.
        category_ids: evaluate these categories only; all of the annotations' by default.
        keep_matches: keep the matches behind the figures too.
        max_detections: the limits per image and category, rising.
        iou_thresholds: COCO's by default.

    Raises:
        InputError: see :func:`choose_backend`.
    """
    backend = choose_backend(backend)
    if keep_matches and backend == 'faster-coco-eval' and not _shows_matches():
        backend = 'pycocotools'
    own_rules = tuple(max_detections) != LIMITS or iou_thresholds is not None
    backend = 'pycocotools' if own_rules else backend
    run = _run_pycocotools if backend == 'pycocotools' else _run_faster_coco_eval
    parameters = dict(maxDets=list(max_detections))
    if iou_thresholds is not None:
        parameters['iouThrs'] = np.atleast_1d(np.asarray(iou_thresholds, dtype=np.float64))
    if category_ids is None:
        category_ids = ground_truth.category_ids
    category_ids = np.unique(np.asarray(category_ids, dtype=np.int64))
    with collector_paused(), _quiet():
        parts = run(ground_truth, detections, category_ids, keep_matches, parameters)
    parameters = parts[0][0].params
    return CocoEvaluation(
        backend=backend,
        iou_thresholds=np.array(parameters.iouThrs),
        recall_levels=np.array(parameters.recThrs),
        category_ids=category_ids,
        image_ids=ground_truth.image_ids,
        max_detections=tuple(parameters.maxDets),
        precision=np.concatenate([part.eval['precision'] for part, _ in parts], axis=2),
        recall=np.concatenate([part.eval['recall'] for part, _ in parts], axis=1),
        matches=[match for _, found in parts for match in found] if keep_matches else None,
    )


def _shows_matches() -> bool:
    """Whether this faster-coco-eval lets its matches be read; releases before 1.6.5 do not."""
    from faster_coco_eval import faster_eval_api_cpp

    return '__getstate__' in vars(faster_eval_api_cpp.ImageEvaluation)


def _run_pycocotools(
    truth: GroundTruth,
    detections: Detections,
    category_ids: np.ndarray,
    keep_matches: bool,
    rules: dict[str, Any],
) -> list[tuple[Any, list[CategoryMatches]]]:
    from pycocotools.cocoeval import COCOeval

    images = truth.image_ids.tolist()
    categories = category_ids.tolist()
    coco_eval = COCOeval(
        _Records(images, categories, _truth_records(truth)),
        _Records(images, categories, _detection_records(detections)),
        'bbox',
    )
    for name, value in rules.items():
        setattr(coco_eval.params, name, value)
    coco_eval.evaluate()
    coco_eval.accumulate()
    matches = []
    if keep_matches:
        matches = matches_from_pycocotools(coco_eval.evalImgs, truth, categories)
    return [(coco_eval, matches)]


def _run_faster_coco_eval(
    truth: GroundTruth,
    detections: Detections,
    category_ids: np.ndarray,
    keep_matches: bool,
    rules: dict[str, Any],
) -> list[tuple[Any, list[CategoryMatches]]]:
    """Evaluate category by category, each on the images where it occurs.

    Most pairs of an image and a category are empty and change no figure; left to itself the library
    visits all of them, which takes about as long as the others together.
    """
    from faster_coco_eval import COCOeval_faster

    truth_records = _truth_records(truth)
    detection_records = _detection_records(detections)
    parts = []
    for category, objects, found in _by_category(category_ids, truth, detections):
        images = np.union1d(truth.image[objects], detections.image[found])
        # Without any image the library has nothing to return the shape of.
        image_ids = images.tolist() or truth.image_ids[:1].tolist()
        coco_eval = COCOeval_faster(
            _Records(image_ids, [category], [truth_records[row] for row in objects.tolist()]),
            _Records(image_ids, [category], [detection_records[row] for row in found.tolist()]),
            'bbox',
            separate_eval=keep_matches,
        )
        probes = _second_hit_levels(truth, objects, coco_eval.params.areaRng)
        levels = coco_eval.params.recThrs
        coco_eval.params.recThrs = np.sort(np.concatenate([levels, probes]))
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.eval['precision'] = _rounded_as_pycocotools(coco_eval, levels, probes)
        coco_eval.params.recThrs = levels
        matches = []
        if keep_matches:
            states = [state.__getstate__() for state in coco_eval._evalImgs_cpp]
            matches = [
                matches_from_faster_coco_eval(states, image_ids, category, truth, detections, found)
            ]
            coco_eval._evalImgs_cpp = None
        parts.append((coco_eval, matches))
    return parts


def _second_hit_levels(
    truth: GroundTruth, objects: np.ndarray, area_ranges: Sequence[Sequence[float]]
) -> np.ndarray:
    """Return, for each area range, a recall that one hit does not reach and two do."""
    areas = truth.areas[objects][~truth.crowd[objects]]
    counts = [np.sum(~((areas < low) | (areas > high))) for low, high in area_ranges]
    return 1.5 / np.maximum(counts, 1)


def _rounded_as_pycocotools(coco_eval: Any, levels: np.ndarray, probes: np.ndarray) -> np.ndarray:
    """Return the precision at ``levels``, equal to pycocotools' to the last bit.

    pycocotools adds 2^-52 to the denominator of a precision. That changes a result in one case: the
    first detection is right and the second is not, where it has 1 - 2^-52 and the C++ code has 1.
    Precision at the second hit (``probes``, one for each area range) tells the case.
    """
    precision = coco_eval.eval['precision']
    all_levels = coco_eval.params.recThrs
    at_probe = precision[:, np.searchsorted(all_levels, probes)]  # (T, A, K, A, M)
    at_probe = np.stack([at_probe[:, a, :, a] for a in range(len(probes))], axis=2)
    precision = precision[:, np.searchsorted(all_levels, levels)]
    once = (precision == 1) & (at_probe < 1)[:, None]
    return np.where(once, 1 / (1 + np.spacing(1)), precision)


def _by_category(
    category_ids: np.ndarray, truth: GroundTruth, detections: Detections
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield each category with its rows among objects and detections, in the files' order."""
    sorted_rows = []
    for category in (truth.category, detections.category):
        order = np.argsort(category, kind='stable')
        bounds = np.searchsorted(category[order], category_ids, side='left')
        ends = np.searchsorted(category[order], category_ids, side='right')
        sorted_rows.append((order, bounds, ends))
    for position, category in enumerate(category_ids.tolist()):
        objects, found = (
            order[starts[position] : ends[position]] for order, starts, ends in sorted_rows
        )
        yield category, objects, found


class _Records:
    """What an evaluator asks of a ``COCO`` object, without building the index it never uses.

    Evaluators sort annotations by image and category themselves, so all that counts is their order
    within an image: the file's.
    """

    def __init__(self, image_ids: list[int], category_ids: list[int], records: list[dict]) -> None:
        self.image_ids = image_ids
        self.category_ids = category_ids
        self.records = records

    def getImgIds(self) -> list[int]:
        return self.image_ids

    def getCatIds(self) -> list[int]:
        return self.category_ids

    def getAnnIds(self, imgIds: Any = (), catIds: Any = ()) -> range:
        return range(len(self.records))

    def loadAnns(self, ids: range) -> list[dict]:
        return self.records


def _truth_records(truth: GroundTruth) -> list[dict]:
    columns = (truth.ids, truth.image, truth.category, truth.boxes, truth.areas, truth.crowd)
    return [
        dict(id=i, image_id=image, category_id=category, bbox=box, area=area, iscrowd=int(crowd))
        for i, image, category, box, area, crowd in zip(*(column.tolist() for column in columns))
    ]


def _detection_records(detections: Detections) -> list[dict]:
    # The area of a detection is its box's and ids count from 1, as in pycocotools' `loadRes`.
    areas = (detections.boxes[:, 2] * detections.boxes[:, 3]).tolist()
    columns = (detections.image, detections.category, detections.boxes, detections.scores)
    return [
        dict(id=i, image_id=image, category_id=category, bbox=box, score=score, area=a, iscrowd=0)
        for i, (image, category, box, score, a) in enumerate(
            zip(*(column.tolist() for column in columns), areas), start=1
        )
    ]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the backends' progress lines and warnings from the user."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield
