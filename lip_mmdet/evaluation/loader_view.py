"""What MMDetection's `CocoDataset` and `CocoMetric` make of a file, without running them.

Vectorized where a file is as it should be; a record that is not is judged by the loader's own
comparisons, in its order, so that what it takes is taken and what it stumbles over is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Sequence

import numpy as np

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation.coco_file import UNSET, CocoFile, Records, shown
from lip_mmdet.evaluation.numbering import Numbering, plain

# Why a box is not handed out, in the order in which reasons are given.
REASONS = (
    'marked ignore',
    'less than 1 px wide or high',
    'wholly outside the image',
    'without area',
)
_KEPT, _OTHER_CLASS, _STUMBLES = -1, -2, -3


@dataclass(frozen=True)
class LoaderView:
    """What a dataset hands out.

    Attributes:
        image_count: images listed.
        file_names: of the images handed out.
        background: images handed out that show no box.
        boxes, crowds: handed out, to find and to ignore.
        box_count: boxes of the classes in the file.
        left_out: reason to number of boxes of the classes that are not handed out.
        left_out_images: reason to number of images.
        notes: what else was odd, as ``warning:`` lines without the file's name.
    """

    image_count: int
    file_names: list[str]
    background: int
    boxes: int
    crowds: int
    box_count: int
    left_out: dict[str, int]
    left_out_images: dict[str, int]
    notes: list[str]


def names_in_order(categories: Records, classes: Sequence[str], by_id: bool = False) -> list[str]:
    """Return the classes as MMDetection numbers them: in the file's order, or sorted by id."""
    rows = range(len(categories))
    if by_id:
        rows = sorted(rows, key=lambda row: plain(categories['id'][row]))
    return [categories['name'][row] for row in rows if categories['name'][row] in classes]


def loader_view(
    file: CocoFile,
    classes: Sequence[str],
    filter_cfg: dict[str, Any] | None = None,
    masks: bool = False,
    indices: int | Sequence[int] | None = None,
) -> LoaderView:
    """Judge a file as MMDetection's loader does.

    Args:
        file: the annotations.
        classes: the config's.
        filter_cfg: the dataset's, None in test mode.
        masks: whether the pipeline loads masks.
        indices: the dataset's.

    Raises:
        InputError: MMDetection would stumble over the file; the message has the key, the first
            record, how many there are, and what to do.
    """
    source = file.source
    _check_packing(file)
    if file.images is None or not len(file.images):
        raise InputError(f'{source}: it lists no images')
    check_categories(file)
    _need(file.images, 'id', 'file_name', 'width', 'height')
    images = _Images(file.images)
    objects = file.annotations
    if objects is None or not len(objects):
        objects = Records('annotation', source, {k: [] for k in _OBJECT_KEYS})
    _need(objects, 'id', 'image_id', 'category_id')
    notes = list(images.notes)

    label_ids = {
        plain(i) for i, name in zip(file.categories['id'], file.categories['name'])
        if name in classes
    }  # fmt: skip
    place = images.places(objects)
    of_class = np.array([plain(c) in label_ids for c in objects['category_id']], dtype=bool)
    shown_in_class = np.zeros(len(images.rows), dtype=bool)
    shown_in_class[place[of_class & (place >= 0)]] = True
    orphans = int((place < 0).sum())
    if orphans:
        first = shown(objects['image_id'][int(np.argmax(place < 0))])
        notes.append(
            f'{orphans} of {len(objects)} annotations name images that the file does not list, '
            f'such as {first}'
        )
    rows = _unique_rows(objects, place)
    place, of_class = place[place >= 0], of_class[rows]
    fate = _fates(objects, rows, of_class, images.width[place], images.height[place])
    crowd = np.array([bool(objects['iscrowd'][r] or 0) and objects['iscrowd'][r] is not UNSET
                      for r in rows.tolist()], dtype=bool)  # fmt: skip
    quoted = objects.rows('iscrowd', lambda value: isinstance(value, str) and value != '')
    if quoted:
        notes.append(f'{objects.fault(quoted, "iscrowd")}, which MMDetection takes for a crowd')

    kept, left_out_images = images.filtered(shown_in_class, filter_cfg)
    if indices is not None:
        kept = _subset(kept, indices)
    handed = np.zeros(len(images.rows), dtype=np.int64)
    np.add.at(handed, kept, 1)
    here = handed[place]
    if masks:
        bare = [r for r, f, n in zip(rows.tolist(), fate, here)
                if f == _KEPT and n and not objects['segmentation'][r]]  # fmt: skip
        if bare:
            raise InputError(
                f'{source}: annotation number {bare[0] + 1} has no segmentation ({len(bare)} such '
                f'of {len(objects)}), and the pipeline loads masks; add them, or set '
                'with_mask=False'
            )
    boxes = int(here[(fate == _KEPT) & ~crowd].sum())
    crowds = int(here[(fate == _KEPT) & crowd].sum())
    with_box = np.zeros(len(images.rows), dtype=bool)
    with_box[place[fate == _KEPT]] = True
    left_out = {name: int((fate == code).sum()) for code, name in enumerate(REASONS)}
    left_out['in images that are left out'] = int(((fate == _KEPT) & (here == 0)).sum())
    return LoaderView(
        image_count=len(images.rows),
        file_names=[file.images['file_name'][images.rows[p]] for p in kept.tolist()],
        background=int((~with_box[kept]).sum()),
        boxes=boxes,
        crowds=crowds,
        box_count=int((fate >= _KEPT).sum()),
        left_out={name: number for name, number in left_out.items() if number},
        left_out_images=left_out_images,
        notes=notes,
    )


_OBJECT_KEYS = (
    'id',
    'image_id',
    'category_id',
    'bbox',
    'area',
    'iscrowd',
    'ignore',
    'segmentation',
)


def _check_packing(file: CocoFile) -> None:
    if file.packing == 'gzip':
        raise InputError(f'{file.source} is compressed, which MMDetection cannot read: unpack it')
    if file.packing:
        mark = file.packing == 'utf-8-sig'
        raise InputError(
            f'{file.source} {"begins with a byte order mark" if mark else "is " + file.packing}, '
            'which MMDetection cannot read; save it again as plain UTF-8: '
            f'iconv -f {"UTF-8" if mark else file.packing} -t UTF-8 OLD.json'
            f'{" | tail -c +4" if mark else ""} > NEW.json'
        )


def check_categories(file: CocoFile) -> None:
    """Raise InputError where MMDetection cannot read a file's categories."""
    if file.categories is None:
        raise InputError(f'{file.source} is not a COCO annotation file: it has no categories')
    _need(file.categories, 'id', 'name')


def check_scorable(file: CocoFile, classes: Sequence[str]) -> None:
    """Raise InputError for annotations of the classes that `CocoMetric` cannot score.

    It needs more than training does: ``iscrowd`` and ``area`` of every object.
    """
    objects = file.annotations
    if objects is None or not len(objects):
        return
    _need(objects, 'id', 'image_id', 'category_id')
    numbers = Numbering(file.images)  # pycocotools sorts the ids
    categories = zip(file.categories['id'], file.categories['name'])
    label_ids = {plain(i) for i, name in categories if name in classes}
    _, known = numbers.of(objects, 'image_id')
    of_class = [plain(c) in label_ids for c in objects['category_id']]
    rows = np.flatnonzero(known & np.array(of_class, dtype=bool)).tolist()
    advice = "MMDetection's CocoMetric needs it in every annotation; add it, or use LIPCocoMetric"
    for key, works in (('iscrowd', _as_int), ('area', _is_real), ('id', _as_float)):
        values = objects[key]
        odd = [row for row in rows if not works(values[row])]
        if odd:
            objects.fail(odd, key, advice)


def _as_int(value: Any) -> bool:
    try:
        return value is not UNSET and int(value) is not None
    except (TypeError, ValueError, OverflowError):
        return False


def _as_float(value: Any) -> bool:
    try:
        return value is None or float(value) is not None
    except (TypeError, ValueError, OverflowError):
        return False


def _is_real(value: Any) -> bool:
    return isinstance(value, (int, float))


def _need(records: Records, *keys: str) -> None:
    """Raise InputError where a key is missing, or cannot be what MMDetection uses it for."""
    for key in keys:
        values = records[key]
        if key == 'file_name':
            odd = records.rows(key, lambda v: not isinstance(v, str))
        elif key in ('width', 'height', 'name'):
            odd = records.rows(key, lambda v: v is UNSET)
        elif set(map(type, values)) <= {int, str}:
            odd = []
        else:
            odd = records.rows(key, lambda v: v is UNSET or isinstance(v, (list, dict)))
        if odd:
            records.fail(odd, key, 'MMDetection needs it in every one; add it')


class _Images:
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
        if np.isnan(self.width + self.height).any():
            odd = [row for row, w, h in zip(self.rows, self.width, self.height) if w != w or h != h]
            for key in ('width', 'height'):
                rows = [row for row in odd if not _is_real(self.records[key][row])]
                if rows:
                    self.records.fail(rows, key, 'MMDetection needs a number of pixels')
        min_size = filter_cfg.get('min_size', 0)
        small = ~(np.minimum(self.width, self.height) >= min_size)
        empty = (
            ~shown_in_class if filter_cfg.get('filter_empty_gt', False) else np.zeros_like(small)
        )
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


def _unique_rows(objects: Records, place: np.ndarray) -> np.ndarray:
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


def _fates(
    objects: Records, rows: np.ndarray, of_class: np.ndarray, width: np.ndarray, height: np.ndarray
) -> np.ndarray:
    """Return why each annotation is left out, as a position in REASONS, or that it is not."""
    if not len(rows):
        return np.zeros(0, dtype=np.int64)
    boxes, areas, ignore = (objects[key] for key in ('bbox', 'area', 'ignore'))
    every = len(rows) == len(boxes)
    plainly = (
        every
        and set(map(type, boxes)) == {list}
        and set(map(len, boxes)) == {4}
        and set(map(type, areas)) <= {int, float}
        and set(map(type, ignore)) <= {type(UNSET), int}
    )
    table = np.array(boxes) if plainly else None
    if plainly and table.dtype.kind in 'if':
        table = table.astype(np.float64)
        area = np.array([float(a) if abs(a) < 1e300 else np.inf for a in areas])
        x, y, w, h = table.T
        outside = (np.minimum(x + w, width) <= np.maximum(x, 0)) | (
            np.minimum(y + h, height) <= np.maximum(y, 0)
        )
        fate = np.where(of_class, _KEPT, _OTHER_CLASS)
        for code, chosen in ((3, area <= 0), (2, outside), (1, (w < 1) | (h < 1))):
            fate[chosen & of_class] = code
        fate[[bool(i) and i is not UNSET for i in ignore] & of_class] = 0
        # What is not finite is compared as Python does, one by one.
        odd = ~np.isfinite(table).all(axis=1) | ~np.isfinite(width + height) | ~np.isfinite(area)
        odd = np.flatnonzero(odd)
    else:
        fate, odd = np.zeros(len(rows), dtype=np.int64), np.arange(len(rows))
    keys: dict[str, list[int]] = {}
    for place in odd.tolist():
        row = int(rows[place])
        fate[place] = _fate(boxes[row], areas[row], ignore[row], width[place], height[place])
        if fate[place] == _STUMBLES:
            key = 'area' if _is_box(boxes[row]) else 'bbox'
            key = 'image_id' if _is_box(boxes[row]) and width[place] + height[place] != (
                width[place] + height[place]) else key  # fmt: skip
            keys.setdefault(key, []).append(row)
        elif not of_class[place]:
            fate[place] = _OTHER_CLASS
    for key, found in keys.items():
        if key == 'image_id':
            objects.fail(found, key, 'that image has no width and height in pixels; add them')
        advice = 'four numbers [x, y, width, height]' if key == 'bbox' else 'a number'
        objects.fail(found, key, f'MMDetection needs {advice}; add it')
    return fate


def _is_box(value: Any) -> bool:
    try:
        return (
            isinstance(value, list)
            and len(value) == 4
            and all(isinstance(v, (int, float)) and float(v) is not None for v in value)
        )
    except OverflowError:
        return False


def _fate(box: Any, area: Any, ignore: Any, width: float, height: float) -> int:
    """Judge one annotation by the comparisons of `CocoDataset.parse_data_info`."""
    if ignore is not UNSET and ignore:
        return 0
    if not _is_box(box):
        return _STUMBLES
    x, y, w, h = box
    if width != width or height != height:
        return _STUMBLES
    inner = max(0, min(x + w, width) - max(x, 0)) * max(0, min(y + h, height) - max(y, 0))
    if inner == 0:
        return 1 if w < 1 or h < 1 else 2
    if not _is_real(area):
        return _STUMBLES
    if w < 1 or h < 1:
        return 1
    return 3 if area <= 0 else _KEPT


def _subset(places: np.ndarray, indices: int | Sequence[int]) -> np.ndarray:
    if isinstance(indices, int):
        return places[:indices] if indices >= 0 else places[indices:]
    return places[list(indices)]
