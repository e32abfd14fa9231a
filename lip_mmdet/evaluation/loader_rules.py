"""What MMDetection's `CocoDataset` does with single images and annotations.

Records are judged by the loader's own comparisons, in its order, so that what it takes is taken and
what it stumbles over is named.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lip_mmdet.evaluation.coco_file import UNSET, Records
from lip_mmdet.evaluation.numbering import plain

# Why a box is not handed out, in the order in which reasons are given.
REASONS = (
    'marked ignore',
    'less than 1 px wide or high',
    'wholly outside the image',
    'without area',
)
KEPT, OTHER_CLASS, _STUMBLES = -1, -2, -3
# Integers from here on are no floats.
_HUGE = 2**1024


class Images:
    """The images as MMDetection lists them: one for each id, the last of those that share it."""

    def __init__(self, records: Records) -> None:
        self.records = records
        ids = records['id']
        last = {plain(label): row for row, label in enumerate(ids)}
        self.rows = list(last.values())
        self.place = {label: place for place, label in enumerate(last)}
        self.notes = []
        repeated = len(records) - len(last)
        if repeated:
            self.notes.append(
                f'{repeated} image ids occur again: MMDetection puts the boxes of all of them on '
                'the last image of an id'
            )
        odd = records.rows('id', lambda value: type(value) is not int)
        if odd:
            self.notes.append(f'{records.fault(odd, "id")}, which is no whole number')
        self.width, self.height = (
            np.array([_pixels(records[key][row]) for row in self.rows], dtype=np.float64)
            for key in ('width', 'height')
        )
        # A size that is NaN is a number to Python, whose comparisons count.
        self.sized = np.array(
            [is_real(records['width'][r]) and is_real(records['height'][r]) for r in self.rows],
            dtype=bool,
        )

    def places(self, objects: Records) -> np.ndarray:
        """Return each annotation's place among the images, -1 for none."""
        labels = objects['image_id']
        if set(map(type, labels)) - {int, str}:
            labels = [plain(label) for label in labels]
        return np.array([self.place.get(label, -1) for label in labels], dtype=np.int64)

    def filtered(
        self, shown_in_class: np.ndarray, filter_cfg: dict[str, Any] | None
    ) -> tuple[np.ndarray, dict[str, int]]:
        """Return the places of the images that pass the filter, and why others do not."""
        places = np.arange(len(self.rows))
        if filter_cfg is None:
            return places, {}
        min_size = filter_cfg.get('min_size', 0)
        empty = ~shown_in_class & bool(filter_cfg.get('filter_empty_gt', False))
        small = ~(np.minimum(self.width, self.height) >= min_size)
        for place in np.flatnonzero(np.isnan(self.width + self.height) & ~empty).tolist():
            row = self.rows[place]
            for key in ('width', 'height'):
                if not is_real(self.records[key][row]):
                    self.records.fail([row], key, 'MMDetection needs a number of pixels')
            small[place] = not min(self.width[place], self.height[place]) >= min_size
        reasons = {
            'no object of the classes': int(empty.sum()),
            f'smaller than {min_size} px': int((small & ~empty).sum()),
        }
        return places[~small & ~empty], {name: n for name, n in reasons.items() if n}


def _pixels(value: Any) -> float:
    try:
        return float(value) if isinstance(value, (int, float)) else np.nan
    except OverflowError:
        return np.inf


def unique_rows(objects: Records, place: np.ndarray) -> np.ndarray:
    """Return the rows of the annotations of listed images, as MMDetection finds them by id."""
    ids = objects['id']
    labels = ids if set(map(type, ids)) <= {int} else [plain(label) for label in ids]
    last = {label: row for row, label in enumerate(labels)}
    listed = np.flatnonzero(place >= 0)
    if len(last) == len(labels):
        return listed
    seen: set = set()
    again = []
    for row in listed.tolist():
        if labels[row] in seen:
            again.append(row)
        seen.add(labels[row])
    if again:
        objects.fail(again, 'id', 'MMDetection refuses ids that occur again; number them anew')
    return np.array([last[labels[row]] for row in listed.tolist()], dtype=np.int64)


def fates(
    objects: Records, rows: np.ndarray, of_class: np.ndarray, images: Images, place: np.ndarray
) -> np.ndarray:
    """Return why each annotation is left out, as a position in REASONS, or that it is not.

    Args:
        objects: all annotations.
        rows: those of listed images.
        of_class: whether they are of the classes, shape (rows,).
        images: the images.
        place: the image of each among them, shape (rows,).

    Raises:
        InputError: MMDetection would stumble over one of them.
    """
    sizes = [column[place].tolist() for column in (images.width, images.height, images.sized)]
    fate = np.empty(len(rows), dtype=np.int64)
    keys: dict[str, list[int]] = {}
    boxes, areas, ignore = (objects[key] for key in ('bbox', 'area', 'ignore'))
    for number, (row, width, height, sized) in enumerate(zip(rows.tolist(), *sizes)):
        fate[number] = _fate(boxes[row], areas[row], ignore[row], width, height, sized)
        if fate[number] == _STUMBLES:
            key = 'bbox' if not _is_box(boxes[row]) else 'area' if sized else 'image_id'
            keys.setdefault(key, []).append(row)
    for key, found in keys.items():
        if key == 'image_id':
            objects.fail(found, key, 'that image has no width and height in pixels; add them')
        advice = 'four numbers [x, y, width, height]' if key == 'bbox' else 'a number'
        objects.fail(found, key, f'MMDetection needs {advice}; add it')
    return np.where(of_class, fate, OTHER_CLASS)


def _is_box(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 4:
        return False
    if set(map(type, value)) == {float}:
        return True
    return all((is_real(v) and abs(v) < _HUGE) or v != v for v in value)


def _fate(box: Any, area: Any, ignore: Any, width: float, height: float, sized: bool) -> int:
    """Judge one annotation by the comparisons of `CocoDataset.parse_data_info`."""
    if ignore is not UNSET and ignore:
        return 0
    if not sized or not _is_box(box):
        return _STUMBLES
    x, y, w, h = box
    inner = max(0, min(x + w, width) - max(x, 0)) * max(0, min(y + h, height) - max(y, 0))
    if inner == 0:
        return 1 if w < 1 or h < 1 else 2
    if not is_real(area):
        return _STUMBLES
    if w < 1 or h < 1:
        return 1
    return 3 if area <= 0 else KEPT


def is_real(value: Any) -> bool:
    return isinstance(value, (int, float))
