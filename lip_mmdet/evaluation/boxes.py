"""Boxes and other numbers of a file as float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from lip_mmdet.evaluation.coco_file import UNSET, Records


def boxes_of(records: Records, kept: np.ndarray) -> np.ndarray:
    """Return ``bbox`` of the records at ``kept`` as finite float64, shape (kept, 4).

    Raises:
        InputError: a box without four finite numbers.
    """
    values = records['bbox']
    if isinstance(values, np.ndarray):
        return values[kept]
    rows = kept.tolist()
    values = [values[row] for row in rows]
    try:
        boxes = np.array(values)
    except (ValueError, OverflowError):  # not four everywhere
        boxes = np.array(None)
    if boxes.dtype.kind not in 'if' or boxes.shape != (len(rows), 4):
        four = 'four numbers [x, y, width, height] are expected'
        if all(value is UNSET for value in values):
            four += '; masks without boxes are scored with --iou-type segm'
        records.refuse('bbox', lambda v: not isinstance(v, list) or len(v) != 4, four, rows)
        quoted = str if records.noun == 'annotation' else int
        records.refuse(
            'bbox',
            lambda v: not all(_is_number(x, quoted) for x in v),
            'four finite numbers are expected, without quotes',
            rows,
        )
        boxes = np.array([[float(x) for x in v] for v in values])
    boxes = boxes.astype(np.float64).reshape(-1, 4)
    finite = np.isfinite(boxes).all(axis=1)
    if not finite.all():
        records.fail(kept[~finite].tolist(), 'bbox', 'numbers have to be finite')
    return boxes


def _is_number(value: Any, quoted: type) -> bool:
    """Whether a value is a number, or (in annotations, as for pycocotools) one in quotes."""
    try:
        return isinstance(value, (int, float, quoted)) and float(value) == float(value)
    except (ValueError, OverflowError):
        return False


def as_floats(values: list) -> np.ndarray:
    """Return numbers as float64; an integer too large for one is infinite."""
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        return np.array([_as_float(value) for value in values])


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return np.inf if value > 0 else -np.inf
