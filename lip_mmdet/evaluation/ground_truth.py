"""COCO annotations as scoring sees them, checked once so that nothing after has to.

What pycocotools scores is scored, with the same figures; what was odd is said in the notes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Callable

import numpy as np

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation.boxes import as_floats, boxes_of
from lip_mmdet.evaluation.coco_file import (
    UNSET,
    CocoFile,
    Records,
    coco_from,
    read_coco,
)
from lip_mmdet.evaluation.hints import truth_hints
from lip_mmdet.evaluation.json_file import clean, shown
from lip_mmdet.evaluation.masks import Masks, masks_of
from lip_mmdet.evaluation.numbering import Numbering, is_no_id, plain

_CROWD = {'0': False, '1': True, 0: False, 1: True, None: False, UNSET: False}


@dataclass(frozen=True)
class GroundTruth:
    """What a COCO annotation file says, in columns.

    Attributes:
        source: how messages name the file.
        image_ids: sorted image ids, shape (images,).
        image_sizes: width and height in pixels in the order of ``image_ids``, NaN where the file
            has none, shape (images, 2).
        file_names: image id to file name.
        category_ids: sorted category ids, shape (categories,).
        category_names: category id to name.
        ids, image, category: annotation id and the ids of its image and category, shape (objects,).
        boxes: [x, y, width, height] in pixels, of the masks where those are scored, shape
            (objects, 4).
        areas: in square pixels (the segment's, where there is one), shape (objects,).
        crowd: whether the annotation marks a crowd region, shape (objects,).
        image_numbers, category_numbers: how ids in files become these numbers.
        notes: what a reader of the figures should know, one line each; what may make them wrong
            begins with ``warning:``, all else with ``note:``.
        masks: of the objects, where masks are scored.
    """

    source: str
    image_ids: np.ndarray
    image_sizes: np.ndarray
    file_names: dict[int, str]
    category_ids: np.ndarray
    category_names: dict[int, str]
    ids: np.ndarray
    image: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    image_numbers: Numbering
    category_numbers: Numbering
    notes: list[str] = field(default_factory=list)
    masks: Masks | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def sizes_of(self, image: np.ndarray) -> np.ndarray:
        """Return width and height of the images with these ids, shape (ids, 2)."""
        return self.image_sizes[np.searchsorted(self.image_ids, image)]

    def categories_named(self, names: list[str]) -> np.ndarray:
        """Return the ids of the categories with these names, sorted.

        Raises:
            InputError: no category has one of the names.
        """
        known = set(self.category_names.values())
        unknown = [name for name in names if name not in known]
        if unknown:
            raise InputError(
                f'{self.source} has no category {shown(unknown[0])}; it has '
                f'{", ".join(map(shown, sorted(known)[:10]))}'
            )
        return np.array([i for i, name in self.category_names.items() if name in names])


def load_ground_truth(
    path: str | os.PathLike, labels: bool = True, as_coco: bool = False, masks: bool = False
) -> GroundTruth:
    """Read a COCO annotation file.

    Args:
        path: JSON with ``images``, ``annotations`` and ``categories``.
        labels: False accepts a file without ``annotations``, such as test-dev's image list.
        as_coco: score a file of LVIS by COCO's rules all the same.
        masks: score masks in the place of boxes.

    Raises:
        InputError: not a COCO annotation file, or one that no COCO tool could score; the message
            has the first record at fault and how many there are.
    """
    return ground_truth_of(read_coco(path, masks=masks), labels, as_coco, masks)


def ground_truth_from(
    dataset: Any, source: str, labels: bool = True, masks: bool = False
) -> GroundTruth:
    """Check a parsed COCO annotation file; see :func:`load_ground_truth`."""
    return ground_truth_of(coco_from(dataset, source, masks=masks), labels, masks=masks)


def ground_truth_of(
    file: CocoFile, labels: bool = True, as_coco: bool = False, masks: bool = False
) -> GroundTruth:
    """Check an annotation file that was read, with masks to score them.

    See :func:`load_ground_truth`.
    """
    images, categories, source = file.images, file.categories, file.source
    _check_sections(file, labels, as_coco)
    notes: list[str] = []
    image_numbers, category_numbers = Numbering(images), Numbering(categories)
    for records, numbers in ((images, image_numbers), (categories, category_numbers)):
        if not numbers.plain:
            notes.append(f'note: {source} has {records.noun} ids that are no whole numbers; they '
                         'are numbered from 1')  # fmt: skip
        repeated = len(numbers.values) - len(numbers.known)
        if repeated:
            notes.append(
                f'warning: {source}: {repeated} {records.noun} id(s) occur again; the last '
                f'{records.noun} of an id counts'
            )
    names = _by_number(category_numbers, categories['name'], missing=str)
    if len(set(names.values())) < len(names):
        notes.append(f'note: {source} has categories of the same name; they are told apart by id')

    sizes = _sizes(images, image_numbers, notes)
    columns = _objects(
        file.objects, image_numbers, category_numbers, sizes if masks else None, notes
    )
    if labels and not len(file.objects):
        notes.append(f'warning: {source} has no annotations: every figure is undefined')
    truth = GroundTruth(
        source=source,
        image_ids=image_numbers.known,
        image_sizes=sizes,
        file_names=_by_number(image_numbers, images['file_name'], missing=lambda number: ''),
        category_ids=category_numbers.known,
        category_names=names,
        **columns,
        image_numbers=image_numbers,
        category_numbers=category_numbers,
        notes=notes,
    )
    notes += truth_hints(truth.boxes, truth.areas, truth.sizes_of(truth.image), source)
    return truth


def _check_sections(file: CocoFile, labels: bool, as_coco: bool) -> None:
    missing = [name for name in ('images', 'categories') if getattr(file, name) is None]
    if missing:
        raise InputError(
            f'{file.source} is not a COCO annotation file: it has no {" and no ".join(missing)}'
        )
    for name in ('images', 'categories'):
        if not len(getattr(file, name)):
            raise InputError(f'{file.source}: it lists no {name}')
    if labels and file.annotations is None:
        raise InputError(
            f'{file.source} has no annotations (test-dev keeps its own): nothing to score against; '
            'use --submission to prepare results for the server'
        )
    if not as_coco and any(value is not UNSET for value in file.images['neg_category_ids']):
        raise InputError(
            f'{file.source} is in the format of LVIS (neg_category_ids), whose own rules leave '
            "classes out that COCO's count as wrong: use the lvis package, or --as-coco to score "
            "by COCO's rules all the same"
        )


def _objects(
    objects: Records,
    images: Numbering,
    categories: Numbering,
    sizes: np.ndarray | None,
    notes: list[str],
) -> dict[str, Any]:
    """Return the columns of the objects that are scored; their masks, given the images' sizes."""
    source, count = objects.source, len(objects)
    image, image_known = images.of(objects, 'image_id')
    category, category_known = categories.of(objects, 'category_id')
    for key, known in (('image_id', image_known), ('category_id', category_known)):
        if not known.all():
            first = shown(objects[key][int(np.argmin(known))])
            notes.append(
                f'warning: {source}: {(~known).sum()} of {count} annotations name {key}s that the '
                f'file does not list, such as {first}; they are left out'
            )
    kept = np.flatnonzero(image_known & category_known)
    ids, kept = _ids(objects, kept, image, image_known & category_known, notes)
    masks = None
    if sizes is not None:
        masks = masks_of(objects, kept, sizes[np.searchsorted(images.known, image[kept])], notes)
    boxes = boxes_of(objects, kept) if masks is None else masks.boxes
    negative = (boxes[:, 2:] < 0).any(axis=1)
    if negative.any():
        notes.append(
            f'warning: {source}: {negative.sum()} of {count} annotations have a bbox of negative '
            f'size, the first is number {kept[np.argmax(negative)] + 1}; nothing can match them'
        )
    crowd = _crowd(objects, kept, notes)
    return dict(
        ids=ids,
        image=image[kept],
        category=category[kept],
        boxes=boxes,
        areas=_areas(objects, kept, boxes, masks, crowd, notes),
        crowd=crowd,
        masks=masks,
    )


def _ids(
    objects: Records, kept: np.ndarray, image: np.ndarray, valid: np.ndarray, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return annotation ids, each positive but for 0, and the rows of the objects scored.

    Where ids repeat, pycocotools finds objects by id, so that the last of an id stands for all of
    them, in the order of the images in which they were listed.
    """
    objects.refuse('id', is_no_id, 'number the annotations from 1')
    labels = [plain(value) for value in objects['id']]
    last_of = {label: row for row, label in enumerate(labels)}
    repeated = len(labels) - len(last_of)
    if repeated:
        last = np.array([last_of[label] for label in labels])
        kept = last[kept[np.argsort(image[kept], kind='stable')]]
        kept = kept[valid[kept]]
        notes.append(
            f'warning: {objects.source}: {repeated} of {len(labels)} annotation ids occur again; '
            'as in pycocotools the last annotation of an id stands for all of them'
        )
    zero = np.array([labels[row] in (0, '0') for row in kept.tolist()], dtype=bool)
    if zero.any():
        notes.append(
            f'warning: {objects.source} numbers an annotation 0, which pycocotools takes for '
            '"unmatched": no detection can match that object; number annotations from 1'
        )
    own = [labels[row] for row in kept.tolist()]
    if not repeated and all(type(label) is int and 0 <= label < 2**53 for label in own):
        return np.array(own, dtype=np.int64), kept
    return np.where(zero, 0, np.arange(1, len(kept) + 1)), kept


def _areas(
    objects: Records,
    kept: np.ndarray,
    boxes: np.ndarray,
    masks: Masks | None,
    crowd: np.ndarray,
    notes: list[str],
) -> np.ndarray:
    rows = kept.tolist()
    values = [objects['area'][row] for row in rows]
    without = np.array([not isinstance(v, (int, float)) for v in values], dtype=bool)
    if not without.any():
        return as_floats(values)
    # Of a crowd the area is never asked.
    asked = kept[without & ~crowd].tolist()
    objects.refuse('area', _is_quoted, 'a number is expected, without quotes', asked)
    notes.append(
        f'warning: {objects.source}: {without.sum()} of {len(objects)} annotations have no '
        f'area, the first is number {rows[int(np.argmax(without))] + 1}; '
        f'{"width times height of the box" if masks is None else "the area of the mask"} '
        'stands in for those'
    )
    size = boxes[:, 2] * boxes[:, 3] if masks is None else masks.areas
    return np.where(without, size, as_floats([0 if w else v for w, v in zip(without, values)]))


def _is_quoted(value: Any) -> bool:
    return isinstance(value, (str, list, dict))


def _is_no_flag(value: Any) -> bool:
    return isinstance(value, (list, dict)) or value not in _CROWD


def _crowd(objects: Records, kept: np.ndarray, notes: list[str]) -> np.ndarray:
    rows = kept.tolist()
    objects.refuse('iscrowd', _is_no_flag, 'it can be 0 or 1', rows)
    null = objects.rows('iscrowd', lambda v: v is None, rows)
    if null:
        notes.append(f'warning: {objects.source}: {objects.fault(null, "iscrowd")}; null is taken '
                     'for 0')  # fmt: skip
    return np.array([_CROWD[objects['iscrowd'][row]] for row in rows], dtype=bool)


def _sizes(images: Records, numbers: Numbering, notes: list[str]) -> np.ndarray:
    sizes = np.full((len(numbers.known), 2), np.nan)
    odd = np.zeros(len(images), dtype=bool)
    for side, key in enumerate(('width', 'height')):
        column = as_floats([v if isinstance(v, (int, float)) else np.nan for v in images[key]])
        strange = (column <= 0) | np.isinf(column)
        sizes[np.searchsorted(numbers.known, numbers.values), side] = np.where(
            strange, np.nan, column
        )
        strange[images.rows(key, _is_quoted)] = True
        odd |= strange
    if odd.any():
        first = int(np.argmax(odd))
        notes.append(
            f'warning: {images.source}: {odd.sum()} of {len(images)} images have no size in '
            f'pixels, the first is number {first + 1}, width {shown(images["width"][first])} and '
            f'height {shown(images["height"][first])}'
        )
    return sizes


def _by_number(numbers: Numbering, values: list, missing: Callable[[int], str]) -> dict[int, str]:
    """Return number to text, where there is no value what ``missing`` says."""
    pairs = zip(numbers.values.tolist(), values)
    return {n: clean(missing(n) if value is UNSET else str(value)) for n, value in pairs}
