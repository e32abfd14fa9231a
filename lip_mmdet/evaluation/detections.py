"""COCO results, checked against the annotations they belong to."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation.box_format import refuse_corners
from lip_mmdet.evaluation.columns import Columns
from lip_mmdet.evaluation.ground_truth import GroundTruth
from lip_mmdet.evaluation.json_input import read_json


@dataclass(frozen=True)
class Detections:
    """What a COCO results file says, in columns and in the file's order.

    Attributes:
        source: how messages name the file.
        records: the file's own objects.
        image, category: ids of each detection's image and category, shape (detections,).
        boxes: [x, y, width, height] in pixels, shape (detections, 4).
        scores: confidences, shape (detections,).
        notes: what a reader of the figures should know, one line each.
    """

    source: str
    records: list[dict]
    image: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.scores)


def load_detections(path: str | os.PathLike, ground_truth: GroundTruth) -> Detections:
    """Read a COCO results file: a list of ``image_id``, ``category_id``, ``bbox``, ``score``.

    An empty list is a detector that found nothing, and gets a note; an empty file is an error.

    Raises:
        InputError: not a results file, or results of another dataset; the message says which ids,
            and names the two usual mistakes (category indices for ids, corners for sizes).
    """
    return detections_from(read_json(path, 'results file'), ground_truth, f'results file {path}')


def detections_from(records: Any, ground_truth: GroundTruth, source: str) -> Detections:
    """Check a parsed COCO results file; see :func:`load_detections`."""
    if isinstance(records, dict):
        kind = 'an annotation file' if 'annotations' in records else 'an object'
        raise InputError(
            f'{source} holds {kind}; results are a list of objects with image_id, category_id, '
            'bbox and score'
        )
    columns = Columns(records, source, 'detection')
    image = columns.ids('image_id')
    columns.known('image_id', image, ground_truth.image_ids, '; are they of another dataset?')
    category = columns.ids('category_id')
    columns.known(
        'category_id',
        category,
        ground_truth.category_ids,
        _category_hint(category, ground_truth.category_ids),
    )
    boxes = columns.boxes()
    scores = columns.numbers('score')
    refuse_corners(boxes, ground_truth.sizes_of(image), source)

    notes = []
    if not len(columns):
        notes.append(f'{source} holds no detections: every figure with ground truth is 0')
    elif _indices_fit_better(image, category, ground_truth):
        notes.append(
            f'{source}: the category ids look 0-based: detections agree with the images far better '
            'when taken as positions in the list of categories'
        )
    return Detections(source, records, image, category, boxes, scores, notes)


def _category_hint(category: np.ndarray, known: np.ndarray) -> str:
    """Say which numbering the ids probably follow, if it is one of the usual mistakes."""
    count = len(known)
    if category.min(initial=0) >= 0 and category.max(initial=0) < count and 0 not in known:
        return (
            f'; all ids are between 0 and {count - 1}, so they look 0-based: positions in the list '
            f'of categories instead of ids ({known[0]} to {known[-1]})'
        )
    if category.min(initial=1) >= 1 and category.max(initial=1) <= count:
        return (
            f'; all ids are between 1 and {count}, so they look like positions in the list of '
            f'categories, counted from 1 or 0, instead of ids ({known[0]} to {known[-1]})'
        )
    return '; are they of another dataset?'


def _indices_fit_better(image: np.ndarray, category: np.ndarray, truth: GroundTruth) -> bool:
    """Whether 0-based category indices agree with the images and the given ids do not.

    Every id may happen to be a valid one: a shifted numbering that lacks the first class. Only a
    clear case counts: few detections have a category that their image shows, most would have.
    """
    known = truth.category_ids
    if known[0] == 0 or category.max() >= len(known):
        return False
    numbers = np.searchsorted(truth.image_ids, image) * len(known)
    truth_numbers = np.searchsorted(truth.image_ids, truth.image) * len(known)
    shown = truth_numbers + np.searchsorted(known, truth.category)
    as_ids = np.isin(numbers + np.searchsorted(known, category), shown).mean()
    as_indices = np.isin(numbers + category, shown).mean()
    return bool(as_ids < 0.3 and as_indices > 0.7)
