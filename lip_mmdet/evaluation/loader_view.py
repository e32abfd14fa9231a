"""What MMDetection's `CocoDataset` and `CocoMetric` make of a file, without running them.

Records are judged by the loader's own comparisons, in its order, so that what it takes is taken and
what it stumbles over is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Sequence

import numpy as np

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation.boxes import as_floats
from lip_mmdet.evaluation.coco_file import UNSET, CocoFile, Records
from lip_mmdet.evaluation.json_file import shown
from lip_mmdet.evaluation.numbering import Numbering, is_no_id

# Why a box is not handed out, in the order in which reasons are given.
_REASONS = (
    'marked ignore',
    'less than 1 px wide or high',
    'wholly outside the image',
    'without area',
)
_KEPT, _OTHER_CLASS, _STUMBLES = -1, -2, -3
# What makes a value of no use to it.
_UNFIT = {
    'file_name': lambda value: not isinstance(value, str),
    'width': lambda value: value is UNSET,
    'height': lambda value: value is UNSET,
    'name': lambda value: value is UNSET,
}
# Integers from here on are no floats.
_HUGE = 2**1024


@dataclass(frozen=True)
class LoaderView:
    """What a dataset hands out.

    Attributes:
        image_count: images listed.
        file_names, sizes: of the images handed out; width and height in pixels, or None.
        background: images handed out that show no box.
        boxes, crowds: handed out, to find and to ignore.
        box_count: boxes of the classes in the file.
        left_out: reason to number of boxes of the classes that are not handed out.
        left_out_images: reason to number of images.
        notes: what else was odd, as ``warning:`` lines without the file's name.
    """

    image_count: int
    file_names: list[str]
    sizes: list[tuple[float, float] | None]
    background: int
    boxes: int
    crowds: int
    box_count: int
    left_out: dict[str, int]
    left_out_images: dict[str, int]
    notes: list[str]


def names_in_order(categories: Records, classes: Sequence[str], by_id: bool = False) -> list[str]:
    """Return the classes as MMDetection numbers them: in the file's order, or sorted by id.

    Raises:
        InputError: ids are to be sorted, and are of several kinds.
    """
    rows = range(len(categories))
    if by_id:
        Numbering(categories)  # refuses ids that cannot be sorted
        rows = sorted(rows, key=categories['id'].__getitem__)
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
    _check_images(file)
    check_categories(file)
    _need(file.images, 'id', 'file_name', 'width', 'height')
    objects, images = file.objects, _Images(file.images)
    _need(objects, 'id', 'image_id', 'category_id')
    notes = list(images.notes)

    place = np.array([images.place.get(i, -1) for i in objects['image_id']], dtype=np.int64)
    of_class = _of_classes(file, classes)
    shown_in_class = np.zeros(len(images.rows), dtype=bool)
    shown_in_class[place[of_class & (place >= 0)]] = True
    orphans = int((place < 0).sum())
    if orphans:
        first = shown(objects['image_id'][int(np.argmax(place < 0))])
        notes.append(
            f'{orphans} of {len(objects)} annotations name images that the file does not list, '
            f'such as {first}'
        )
    rows = _rows_by_id(objects, np.flatnonzero(place >= 0).tolist())
    place = place[place >= 0]
    fate = np.where(of_class[rows], _fates(objects, rows, images, place), _OTHER_CLASS)
    crowd = np.array([bool(objects['iscrowd'][row]) for row in rows], dtype=bool)
    quoted = objects.rows('iscrowd', lambda value: isinstance(value, str) and value != '')
    if quoted:
        notes.append(f'{objects.fault(quoted, "iscrowd")}, which MMDetection takes for a crowd')

    handed, left_out_images = images.filtered(shown_in_class, filter_cfg)
    if isinstance(indices, int):
        handed = handed[:indices] if indices >= 0 else handed[indices:]
    elif indices is not None:
        handed = handed[list(indices)]
    # How often the image of each box is handed out.
    times = np.bincount(handed, minlength=len(images.rows))[place]
    kept = fate == _KEPT
    if masks:
        bare = [rows[n] for n in np.flatnonzero(kept & (times > 0))]
        bare = [row for row in bare if not objects['segmentation'][row]]
        if bare:
            raise InputError(
                f'{source}: annotation number {bare[0] + 1} has no segmentation ({len(bare)} such '
                f'of {len(objects)}), and the pipeline loads masks; add them, or set '
                'with_mask=False'
            )
    left_out = {name: int((fate == code).sum()) for code, name in enumerate(_REASONS)}
    left_out['in images that are left out'] = int((kept & (times == 0)).sum())
    return LoaderView(
        image_count=len(images.rows),
        file_names=[file.images['file_name'][images.rows[p]] for p in handed.tolist()],
        sizes=[
            (images.width[p], images.height[p]) if images.sized[p] else None
            for p in handed.tolist()
        ],
        background=int((~np.isin(handed, place[kept])).sum()),
        boxes=int(times[kept & ~crowd].sum()),
        crowds=int(times[kept & crowd].sum()),
        box_count=int((fate != _OTHER_CLASS).sum()),
        left_out={name: number for name, number in left_out.items() if number},
        left_out_images=left_out_images,
        notes=notes,
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


def _check_images(file: CocoFile) -> None:
    if file.images is None or not len(file.images):
        raise InputError(f'{file.source}: it lists no images')


def check_categories(file: CocoFile) -> None:
    """Raise InputError where MMDetection cannot read a file's categories."""
    if file.categories is None:
        raise InputError(f'{file.source} is not a COCO annotation file: it has no categories')
    _need(file.categories, 'id', 'name')


def check_scorable(file: CocoFile, classes: Sequence[str], masks: bool = False) -> None:
    """Raise InputError for annotations of the classes that `CocoMetric` cannot score.

    It needs more than training does: ``iscrowd`` and ``area`` of every object, and its mask where
    masks are scored.
    """
    _check_images(file)
    _need(file.images, 'id')
    objects = file.objects
    if not len(objects):
        return
    _need(objects, 'id', 'image_id', 'category_id')
    _, known = Numbering(file.images).of(objects, 'image_id')  # pycocotools sorts the ids
    rows = np.flatnonzero(known & _of_classes(file, classes)).tolist()
    advice = "MMDetection's CocoMetric needs it in every annotation; add it, or use LIPCocoMetric"
    for key, unfit in (
        ('iscrowd', lambda value: not _converts(int, value)),
        ('area', lambda value: not _is_real(value)),
        ('id', lambda value: value is not None and not _converts(float, value)),
        ('segmentation', lambda there: masks and not there),
    ):
        objects.refuse(key, unfit, advice, rows)


def _converts(kind: Callable[[Any], Any], value: Any) -> bool:
    try:
        kind(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _need(records: Records, *keys: str) -> None:
    """Raise InputError where a key is missing, or cannot be what MMDetection uses it for."""
    for key in keys:
        records.refuse(key, _UNFIT.get(key, is_no_id), 'MMDetection needs it in every one; add it')


def _of_classes(file: CocoFile, classes: Sequence[str]) -> np.ndarray:
    """Return which annotations are of the classes, shape (annotations,)."""
    categories = zip(file.categories['id'], file.categories['name'])
    ids = {number for number, name in categories if name in classes}
    return np.array([number in ids for number in file.objects['category_id']], dtype=bool)


class _Images:
    """The images as MMDetection lists them: one for each id, the last of those that share it."""

    def __init__(self, records: Records) -> None:
        self.records = records
        last = {label: row for row, label in enumerate(records['id'])}
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
        sides = [[records[key][row] for row in self.rows] for key in ('width', 'height')]
        # A size that is NaN is a number to Python, whose comparisons count.
        self.sized = np.array([_is_real(w) and _is_real(h) for w, h in zip(*sides)], dtype=bool)
        self.width, self.height = (
            as_floats([value if _is_real(value) else np.nan for value in side]) for side in sides
        )

    def filtered(
        self, shown_in_class: np.ndarray, filter_cfg: dict[str, Any] | None
    ) -> tuple[np.ndarray, dict[str, int]]:
        """Return the places of the images that pass the filter, and why others do not."""
        if filter_cfg is None:
            return np.arange(len(self.rows)), {}
        min_size = filter_cfg.get('min_size', 0)
        empty = ~shown_in_class & bool(filter_cfg.get('filter_empty_gt', False))
        odd = np.flatnonzero(~self.sized & ~empty)
        if odd.size:
            row = self.rows[odd[0]]
            key = 'height' if _is_real(self.records['width'][row]) else 'width'
            self.records.fail([row], key, 'MMDetection needs a number of pixels')
        # Python's `min`: of NaN and a number the first.
        smaller = np.where(self.height < self.width, self.height, self.width)
        small = ~(smaller >= min_size) & ~empty
        reasons = {
            'no object of the classes': int(empty.sum()),
            f'smaller than {min_size} px': int(small.sum()),
        }
        return np.flatnonzero(~small & ~empty), {name: n for name, n in reasons.items() if n}


def _rows_by_id(objects: Records, rows: list[int]) -> list[int]:
    """Return the annotations that MMDetection finds by the ids of those at ``rows``."""
    ids, first = objects['id'], {}
    again = [row for row in rows if first.setdefault(ids[row], row) != row]
    if again:
        objects.fail(again, 'id', 'MMDetection refuses ids that occur again; number them anew')
    last = {label: row for row, label in enumerate(ids)}
    return [last[ids[row]] for row in rows]


def _fates(objects: Records, rows: list[int], images: _Images, place: np.ndarray) -> np.ndarray:
    """Return why each annotation is left out, as a position in _REASONS, or that it is not."""
    sizes = [column[place].tolist() for column in (images.width, images.height, images.sized)]
    fates, boxes, areas = [], objects['bbox'], objects['area']
    stumbling: dict[str, list[int]] = {}
    for row, width, height, sized in zip(rows, *sizes):
        fate = _fate(boxes[row], areas[row], objects['ignore'][row], width, height, sized)
        if fate == _STUMBLES:
            key = 'bbox' if not _is_box(boxes[row]) else 'area' if sized else 'image_id'
            stumbling.setdefault(key, []).append(row)
        fates.append(fate)
    for key, found in stumbling.items():
        if key == 'image_id':
            objects.fail(found, key, 'that image has no width and height in pixels; add them')
        advice = 'four numbers [x, y, width, height]' if key == 'bbox' else 'a number'
        objects.fail(found, key, f'MMDetection needs {advice}; add it')
    return np.array(fates, dtype=np.int64)


def _fate(box: Any, area: Any, ignore: Any, width: float, height: float, sized: bool) -> int:
    """Judge one annotation by the comparisons of `CocoDataset.parse_data_info`."""
    if ignore:
        return 0
    if not sized or not _is_box(box):
        return _STUMBLES
    x, y, w, h = box
    inner = max(0, min(x + w, width) - max(x, 0)) * max(0, min(y + h, height) - max(y, 0))
    if inner == 0:
        return 1 if w < 1 or h < 1 else 2
    if not _is_real(area):
        return _STUMBLES
    if w < 1 or h < 1:
        return 1
    return 3 if area <= 0 else _KEPT


def _is_box(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 4:
        return False
    return all(isinstance(v, float) or (isinstance(v, int) and abs(v) < _HUGE) for v in value)


def _is_real(value: Any) -> bool:
    return isinstance(value, (int, float))
