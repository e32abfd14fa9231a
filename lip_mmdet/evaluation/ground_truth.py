"""COCO annotations, checked once so that nothing after has to."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation.box_format import refuse_corners
from lip_mmdet.evaluation.columns import Columns
from lip_mmdet.evaluation.json_input import read_json


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
        boxes: [x, y, width, height] in pixels, shape (objects, 4).
        areas: in square pixels (the segment's, where there is one), shape (objects,).
        crowd: whether the annotation marks a crowd region, shape (objects,).
        notes: what a reader of the figures should know, one line each.
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
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def sizes_of(self, image: np.ndarray) -> np.ndarray:
        """Return width and height of the images with these ids, shape (ids, 2)."""
        return self.image_sizes[np.searchsorted(self.image_ids, image)]


def load_ground_truth(path: str | os.PathLike, labels: bool = True) -> GroundTruth:
    """Read a COCO annotation file.

    Args:
        path: JSON with ``images``, ``annotations`` and ``categories``.
        labels: False accepts a file without ``annotations``, such as test-dev's image list.

    Raises:
        InputError: not a COCO annotation file, or an inconsistent one; the message says where.
    """
    return ground_truth_from(read_json(path, 'annotation file'), f'annotation file {path}', labels)


def ground_truth_from(dataset: Any, source: str, labels: bool = True) -> GroundTruth:
    """Check a parsed COCO annotation file; see :func:`load_ground_truth`."""
    _check_sections(dataset, source, labels)

    images = Columns(dataset['images'], source, 'image')
    if not len(images):
        raise InputError(f'{source}: it lists no images')
    image_ids = images.ids('id')
    images.unique('id', image_ids)
    order = np.argsort(image_ids)
    sizes = np.array(
        [
            [_size(image, 'width', source), _size(image, 'height', source)]
            for image in images.records
        ]
    )

    categories = Columns(dataset['categories'], source, 'category')
    if not len(categories):
        raise InputError(f'{source}: it lists no categories')
    category_ids = categories.ids('id')
    categories.unique('id', category_ids)

    notes = []
    objects = Columns(dataset.get('annotations', []), source, 'annotation')
    ids = objects.ids('id')
    objects.unique('id', ids)
    image = objects.ids('image_id')
    objects.known('image_id', image, image_ids)
    category = objects.ids('category_id')
    objects.known('category_id', category, category_ids)
    boxes = objects.boxes()
    if labels and not len(objects):
        notes.append(f'{source} has no annotations: every figure is undefined')
    if (ids == 0).any():
        notes.append(
            f'{source} numbers an annotation 0, which pycocotools takes for "unmatched": no '
            'detection can match that object; number annotations from 1'
        )
    if all('area' in record for record in objects.records):
        areas = objects.numbers('area')
    else:
        areas = boxes[:, 2] * boxes[:, 3]
        notes.append(f'{source} lacks areas: width times height of the boxes stands in')

    truth = GroundTruth(
        source=source,
        image_ids=image_ids[order],
        image_sizes=sizes[order],
        file_names={
            i: str(r.get('file_name', '')) for i, r in zip(image_ids.tolist(), images.records)
        },
        category_ids=np.sort(category_ids),
        category_names={
            i: str(r.get('name', i)) for i, r in zip(category_ids.tolist(), categories.records)
        },
        ids=ids,
        image=image,
        category=category,
        boxes=boxes,
        areas=areas,
        crowd=_crowd(objects),
        notes=notes,
    )
    refuse_corners(boxes, truth.sizes_of(image), source)
    return truth


def _check_sections(dataset: Any, source: str, labels: bool) -> None:
    if isinstance(dataset, list):
        raise InputError(
            f'{source} holds a list, as results do; a COCO annotation file is an object with '
            'images, annotations and categories (were the two files swapped?)'
        )
    if not isinstance(dataset, dict):
        raise InputError(f'{source} is not a COCO annotation file: it holds no object')
    missing = [key for key in ('images', 'categories') if key not in dataset]
    if missing:
        raise InputError(
            f'{source} is not a COCO annotation file: it has no {" and no ".join(missing)}'
        )
    if labels and 'annotations' not in dataset:
        raise InputError(
            f'{source} has no annotations (test-dev keeps its own): nothing to score against; '
            'use --submission to prepare results for the server'
        )


def _size(image: dict, key: str, source: str) -> float:
    size = image.get(key)
    if size is None:
        return float('nan')
    if type(size) not in (int, float) or not 0 < size < float('inf'):
        raise InputError(
            f'{source}: image {image["id"]} has {key} {size!r:.40}, not a size in pixels'
        )
    return float(size)


def _crowd(objects: Columns) -> np.ndarray:
    flags = [record.get('iscrowd', 0) for record in objects.records]
    strange = [flag for flag in flags if type(flag) not in (int, bool) or flag not in (0, 1)]
    if strange:
        raise InputError(f'{objects.source}: iscrowd is {strange[0]!r:.40}; it can be 0 or 1')
    return np.array(flags, dtype=bool)
