"""COCO results, checked against the annotations they belong to."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation.boxes import as_floats, boxes_of
from lip_mmdet.evaluation.coco_file import Records, read_results, results_from
from lip_mmdet.evaluation.ground_truth import GroundTruth
from lip_mmdet.evaluation.hints import results_hints
from lip_mmdet.evaluation.json_file import shown
from lip_mmdet.evaluation.masks import Masks, masks_of
from lip_mmdet.evaluation.numbering import Numbering, plain


@dataclass(frozen=True)
class Detections:
    """What a COCO results file says, in columns and in the file's order.

    Attributes:
        source: how messages name the file.
        image, category: ids of each detection's image and category, shape (detections,).
        boxes: [x, y, width, height] in pixels, shape (detections, 4).
        scores: confidences, shape (detections,).
        notes: as :class:`~lip_mmdet.evaluation.GroundTruth`'s.
        masks: where masks are scored; ``boxes`` are then those around them.
    """

    source: str
    image: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    notes: list[str] = field(default_factory=list)
    masks: Masks | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def areas(self) -> np.ndarray:
        """Square pixels: of the masks or else the boxes, shape (detections,)."""
        if self.masks is not None:
            return self.masks.areas
        with np.errstate(over='ignore', invalid='ignore'):
            return self.boxes[:, 2] * self.boxes[:, 3]


def load_detections(
    path: str | os.PathLike,
    ground_truth: GroundTruth,
    category_shift: int = 0,
    category_positions: int | None = None,
) -> Detections:
    """Read a COCO results file: a list of ``image_id``, ``category_id``, ``bbox``, ``score``.

    For annotations that were read with masks the results have ``segmentation`` for ``bbox``.

    An empty list is a detector that found nothing, and gets a warning; an empty file is an error.
    Detections of categories or, up to half of them, in images that the annotations do not list are
    left out with a note.

    Args:
        path: the file.
        ground_truth: the annotations.
        category_shift: what is added to each category id.
        category_positions: category ids are positions in the sorted list of categories, the first
            of which is this number.

    Raises:
        InputError: not a results file, results of another dataset, or a number that is not finite
            or of negative size; the message has the first record at fault and how many there are.
    """
    masks = ground_truth.masks is not None
    records = read_results(path, masks=masks)
    return _check(records, ground_truth, category_shift, category_positions)


def detections_from(
    records: Any,
    ground_truth: GroundTruth,
    source: str,
    category_shift: int = 0,
    category_positions: int | None = None,
) -> Detections:
    """Check parsed COCO results; see :func:`load_detections`."""
    masks = ground_truth.masks is not None
    records = results_from(records, source, masks)
    return _check(records, ground_truth, category_shift, category_positions)


def _check(records: Records, truth: GroundTruth, shift: int, positions: int | None) -> Detections:
    source, count = records.source, len(records)
    if not count:
        note = f'warning: {source} holds no detections: every figure with ground truth is 0'
        nothing = np.zeros(0, dtype=np.int64)
        return Detections(source, nothing, nothing, np.zeros((0, 4)), np.zeros(0), [note])
    image, in_known_image, notes = _images(records, truth)
    outside = int((~in_known_image).sum())
    if 2 * outside >= count:
        first = shown(records['image_id'][int(np.argmin(in_known_image))])
        raise InputError(
            f'{source}: {outside} of {count} detections name an image_id that the annotations do '
            f'not list, such as {first}; are they of another dataset?'
        )
    if outside:
        notes.append(f'note: {source}: {outside} of {count} detections are in images that the '
                     'annotations do not list; they are left out')  # fmt: skip
    category, of_known = truth.category_numbers.of(records, 'category_id')
    if shift or positions is not None:
        category, of_known = _renumbered(category, shift, positions, truth.category_numbers)
    elif not of_known.any():
        category, of_known = _mapped(records, truth, category, notes)
    everything, rows = np.flatnonzero(in_known_image), np.flatnonzero(in_known_image & of_known)
    found = meant = _at(rows, records, image, category, truth, notes)
    hints = []
    # Ids that are shifted by one lose a class; what is left out may be no box at all.
    with suppress(InputError):
        if len(rows) < len(everything):
            meant = _at(everything, records, image, category, truth, [])
        hints = results_hints(meant, truth)
    left_out = len(everything) - len(rows)
    if not len(rows):
        why = hints[0].partition(f'{source}: ')[2] if hints else _category_hint(category, truth)
        example = shown(records['category_id'][int(everything[0])])
        raise InputError(
            f'{source}: no detection has a category_id of the annotations, the first is {example}; '
            f'{why}'
        )
    if left_out:
        unknown = np.unique(category[in_known_image & ~of_known])
        notes.append(
            f'note: {source}: {left_out} of {count} detections are of {len(unknown)} '
            'categories that the annotations do not have; they are left out'
        )
    notes += hints
    return found


def _at(
    rows: np.ndarray,
    records: Records,
    image: np.ndarray,
    category: np.ndarray,
    truth: GroundTruth,
    notes: list[str],
) -> Detections:
    """Return the detections at ``rows``, whose images and categories are these."""
    image, category, scores, masks = image[rows], category[rows], _scores(records, rows), None
    if truth.masks is not None:
        masks = masks_of(records, rows, truth.sizes_of(image), notes)
        return Detections(records.source, image, category, masks.boxes, scores, notes, masks)
    boxes = boxes_of(records, rows)
    negative = rows[(boxes[:, 2:] < 0).any(axis=1)].tolist()
    if negative:
        records.fail(negative, 'bbox', 'of negative size; boxes are [x, y, width, height]')
    return Detections(records.source, image, category, boxes, scores, notes)


def _scores(records: Records, rows: np.ndarray) -> np.ndarray:
    values = records['score']
    if isinstance(values, np.ndarray):
        return values[rows]
    records.refuse(
        'score',
        lambda value: not isinstance(value, (int, float)),
        'a number is expected, without quotes',
        rows.tolist(),
    )
    scores = as_floats([values[row] for row in rows.tolist()])
    odd = rows[~np.isfinite(scores)].tolist()
    if odd:
        whole = isinstance(values[odd[0]], int)
        why = 'it is too large for a number' if whole else 'numbers have to be finite'
        records.fail(odd, 'score', why)
    return scores


def _renumbered(
    category: np.ndarray, shift: int, positions: int | None, numbers: Numbering
) -> tuple[np.ndarray, np.ndarray]:
    """Return the category ids that are meant, and which of them there are."""
    if not numbers.plain:
        raise InputError(
            '--category-shift and --category-positions need categories whose ids are whole numbers'
        )
    category = category + shift
    if positions is None:
        return category, np.isin(category, numbers.known)
    place = category - positions
    known = (place >= 0) & (place < len(numbers.known))
    return np.where(known, numbers.known[np.where(known, place, 0)], category), known


def _category_hint(category: np.ndarray, truth: GroundTruth) -> str:
    """Say which numbering the ids probably follow, if it is one of the usual mistakes."""
    known = truth.category_ids
    low, high, count = category.min(), category.max(), len(known)
    if not truth.category_numbers.plain:
        return 'are they of another dataset?'
    if low >= 0 and high < count:
        return (
            f'all ids are between 0 and {count - 1}, so they look 0-based: positions in the list '
            f'of categories instead of ids ({known[0]} to {known[-1]}); if so, '
            '--category-positions 0 scores them so'
        )
    if low >= 1 and high <= count:
        return (
            f'all ids are between 1 and {count}, so they look like positions in the list of '
            f'categories, counted from 1, instead of ids ({known[0]} to {known[-1]}); if so, '
            '--category-positions 1 scores them so'
        )
    return 'are they of another dataset?'


def _mapped(
    records: Records, truth: GroundTruth, category: np.ndarray, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the categories that are meant, where no id is known as it is, and which are known."""
    values = list(records['category_id'])
    own = [str(plain(value)) for value in values]
    keys_of_categories = {
        'ids in quotes or without them': [str(label) for label in truth.category_numbers.labels],
        'names': [truth.category_names[number] for number in truth.category_ids.tolist()],
    }
    for how, keys in keys_of_categories.items():
        # A number is a position rather than a name, and a name may be that of several.
        if how == 'names' and (len(set(keys)) < len(keys) or not isinstance(values[0], str)):
            continue
        ids = dict(zip(keys, truth.category_ids.tolist()))
        found = np.array([key in ids for key in own])
        if found.mean() > 0.5:
            notes.append(f'note: {records.source}: the category ids are {how}; they are mapped so')
            return np.array([ids.get(key, 0) for key in own]), found
    return category, np.zeros(len(own), dtype=bool)


def _images(records: Records, truth: GroundTruth) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the images of the detections, which of them are known, and what was mapped."""
    numbers, known = truth.image_numbers.of(records, 'image_id')
    if known.all():
        return numbers, known, []
    own = [str(plain(value)) for value in list(records['image_id'])]
    own_bases = [_base(text) for text in own]
    names = [truth.file_names[number] for number in truth.image_ids.tolist()]
    bases = [_base(name) for name in names]
    stems, base_stems = ([os.path.splitext(name)[0] for name in of] for of in (names, bases))
    # What image ids may be instead.
    keys_of_images = {
        'ids in quotes or without them': [str(label) for label in truth.image_numbers.labels],
        'file names': names,
        'file names without folders': bases,
        'file names without folders and ending': base_stems,
        'file names without ending': stems,
        'the numbers in file names': [_number(stem) for stem in base_stems],
    }
    for how, of_images in keys_of_images.items():
        keys = {
            'file names without folders': own_bases,
            'file names without folders and ending': [os.path.splitext(b)[0] for b in own_bases],
            'the numbers in file names': [_number(key) for key in own],
        }.get(how, own)
        images = dict(zip(of_images, truth.image_ids.tolist()))
        found = np.array([key in images for key in keys])
        if found.mean() <= max(0.5, known.mean()) or len(set(keys)) < len(set(own)):
            continue
        counts = Counter(of_images)
        ambiguous = next((key for key in keys if counts[key] > 1), None)
        if ambiguous is not None:
            raise InputError(
                f'{records.source}: the image ids look like {how}, but more than one image has '
                f'{shown(ambiguous)}; write the ids of the annotations'
            )
        note = f'note: {records.source}: the image ids are {how}; they are mapped to images so'
        return np.array([images.get(key, 0) for key in keys]), found, [note]
    return numbers, known, []


def _base(name: str) -> str:
    return name.replace('\\', '/').rpartition('/')[2]


def _number(text: str) -> str:
    return str(int(text)) if text.isascii() and text.isdigit() else text
