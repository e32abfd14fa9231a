"""Boxes and other numbers of a file as float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from lip_mmdet.evaluation.coco_file import Records


def boxes_of(records: Records, kept: np.ndarray) -> np.ndarray:
    """Return ``bbox`` of the records at ``kept`` as finite float64, shape (kept, 4).

    Raises:
        InputError: a box without four finite numbers.
    """
    values = records['bbox']
    if isinstance(values, np.ndarray):
        return values[kept]
    rows = kept.tolist()
    if rows != list(range(len(values))):
        values = [values[row] for row in rows]
    if set(map(type, values)) - {list} or set(map(len, values)) - {4}:
        odd = [row for row, v in zip(rows, values) if not isinstance(v, list) or len(v) != 4]
        records.fail(odd, 'bbox', 'four numbers [x, y, width, height] are expected')
    try:
        boxes = np.array(values)
        plainly = boxes.dtype.kind in 'if' and boxes.ndim == 2
        boxes = boxes.astype(np.float64).reshape(-1, 4)
    except (TypeError, ValueError, OverflowError):
        plainly = False
    if not plainly and rows:
        quoted = str if records.noun == 'annotation' else int
        odd = [r for r, v in zip(rows, values) if not all(_is_number(x, quoted) for x in v)]
        if odd:
            records.fail(odd, 'bbox', 'four finite numbers are expected, without quotes')
        boxes = np.array([[float(x) for x in v] for v in values])
    finite = np.isfinite(boxes).all(axis=1)
    if not finite.all():
        records.fail(
            [rows[i] for i in np.flatnonzero(~finite)], 'bbox', 'numbers have to be finite'
        )
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
        return np.array([_as_float(value) for value in values], dtype=np.float64)


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return float('inf') if value > 0 else float('-inf')
