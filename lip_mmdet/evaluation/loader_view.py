"""What MMDetection's `CocoDataset` and `CocoMetric` make of a file, without running them.

The rules for single images and annotations are in `loader_rules`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Sequence

import numpy as np

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation.coco_file import UNSET, CocoFile, Records
from lip_mmdet.evaluation.json_file import shown
from lip_mmdet.evaluation.loader_rules import KEPT, REASONS, Images, fates, is_real, unique_rows
from lip_mmdet.evaluation.numbering import Numbering, plain


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
    images = Images(file.images)
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
    rows = unique_rows(objects, place)
    place, of_class = place[place >= 0], of_class[rows]
    fate = fates(objects, rows, of_class, images, place)
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
                if f == KEPT and n and not objects['segmentation'][r]]  # fmt: skip
        if bare:
            raise InputError(
                f'{source}: annotation number {bare[0] + 1} has no segmentation ({len(bare)} such '
                f'of {len(objects)}), and the pipeline loads masks; add them, or set '
                'with_mask=False'
            )
    boxes = int(here[(fate == KEPT) & ~crowd].sum())
    crowds = int(here[(fate == KEPT) & crowd].sum())
    with_box = np.zeros(len(images.rows), dtype=bool)
    with_box[place[fate == KEPT]] = True
    left_out = {name: int((fate == code).sum()) for code, name in enumerate(REASONS)}
    left_out['in images that are left out'] = int(((fate == KEPT) & (here == 0)).sum())
    return LoaderView(
        image_count=len(images.rows),
        file_names=[file.images['file_name'][images.rows[p]] for p in kept.tolist()],
        background=int((~with_box[kept]).sum()),
        boxes=boxes,
        crowds=crowds,
        box_count=int((fate >= KEPT).sum()),
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
    for key, works in (('iscrowd', _as_int), ('area', is_real), ('id', _as_float)):
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


def _subset(places: np.ndarray, indices: int | Sequence[int]) -> np.ndarray:
    if isinstance(indices, int):
        return places[:indices] if indices >= 0 else places[indices:]
    return places[list(indices)]
