"""Instance masks as COCO's run-length codes (RLE): read, checked and measured.

A code is what ``pycocotools.mask`` takes, and its C code does the work. It trusts what it gets: of
two codes of unequal length it never ends comparing, so what could be such is refused here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Sequence

import numpy as np
from pycocotools import mask as coco_mask

from lip_mmdet.evaluation.coco_file import Records
from lip_mmdet.evaluation.numbering import plain

# Codes that are looked at together.
_BLOCK = 4096
# The letters of a compressed code, and below which one a number ends.
_LETTERS = bytes(range(48, 112))
_LAST = 80
# Runs have 32 bits, and corners of polygons are multiplied by 5 into as many.
_MOST_PIXELS, _FARTHEST = 2**31, 1e6


@dataclass(frozen=True)
class Masks:
    """Masks in columns.

    Attributes:
        sizes: height and width of their images in pixels, shape (masks, 2).
        counts: compressed run lengths, bytes.
        areas: pixels, float64, shape (masks,).
        boxes: the smallest boxes [x, y, width, height] around them, all 0 for an empty mask,
            float64, shape (masks, 4).
    """

    sizes: np.ndarray
    counts: list[bytes]
    areas: np.ndarray
    boxes: np.ndarray

    def codes(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """Return the masks at these positions as ``pycocotools.mask`` takes them."""
        counts = [self.counts[row] for row in rows.tolist()]
        return [dict(size=s, counts=c) for s, c in zip(self.sizes[rows].tolist(), counts)]


def masks_of(
    records: Records, kept: np.ndarray, image_sizes: np.ndarray, notes: list[str]
) -> Masks:
    """Return ``segmentation`` of the records at ``kept``.

    Annotations have RLE, compressed or not, or polygons; detections have RLE.

    Args:
        records: annotations or detections.
        kept: positions, shape (kept,).
        image_sizes: width and height of each one's image, NaN where unknown, shape (kept, 2).
        notes: gets a warning where masks are not of their image's size.

    Raises:
        InputError: a mask that is none of these, or whose runs do not fill its size.
    """
    rows, values = kept.tolist(), [records['segmentation'][row] for row in kept.tolist()]
    polygons = records.noun == 'annotation'
    known = (image_sizes >= 1).all(axis=1) & (image_sizes.prod(axis=1) < _MOST_PIXELS)
    sizes = np.where(known[:, None], image_sizes, 0).astype(np.int64)
    if polygons:
        odd = [
            row for row, v, known in zip(rows, values, known) if isinstance(v, list) and not known
        ]
        if odd:
            records.fail(odd, 'segmentation', 'polygons need width and height of their image')
    codes = [
        _from_rle(v) if isinstance(v, dict) else _from_polygons(v, size) if polygons else None
        for v, size in zip(values, sizes.tolist())
    ]
    odd = [row for row, code in zip(rows, codes) if code is None]
    if odd:
        kinds = 'RLE or polygons of three corners or more' if polygons else 'RLE'
        records.fail(odd, 'segmentation', f'{kinds} in pixels are expected')
    if not rows:
        return Masks(np.zeros((0, 2), np.int64), [], np.zeros(0), np.zeros((0, 4)))
    masks, fill = _measured(codes)
    if not fill.all():
        odd = kept[~fill].tolist()
        records.fail(odd, 'segmentation', 'runs are expected that add up to height times width')
    other = known & (masks.sizes != sizes[:, ::-1]).any(axis=1)
    if other.any():
        first = int(np.argmax(other))
        height, width = masks.sizes[first]
        notes.append(
            f'warning: {records.source}: {other.sum()} of {len(rows)} masks are not of their '
            f"image's size, the first is {records.noun} number {rows[first] + 1} with {width} x "
            f'{height} pixels; as in pycocotools they only overlap masks of their own size'
        )
    return masks


def _from_rle(value: dict) -> dict | None:
    """Return a compressed code of sound types; None where there is none."""
    size, counts = value.get('size'), value.get('counts')
    size = [plain(side) for side in size] if isinstance(size, (list, tuple)) else []
    if [type(side) for side in size] != [int, int]:
        return None
    if min(size) < 1 or size[0] * size[1] >= _MOST_PIXELS:
        return None
    if isinstance(counts, list):
        if not set(map(type, counts)) <= {int} or min(counts, default=0) < 0:
            return None
        if sum(counts) != size[0] * size[1]:
            return dict(size=size, counts=b'?')  # refused below
        return coco_mask.frPyObjects(dict(size=size, counts=counts), *size)
    if isinstance(counts, str):
        counts = counts.encode('ascii', 'replace')
    return dict(size=size, counts=counts) if isinstance(counts, bytes) else None


def _from_polygons(value: Any, size: list[int]) -> dict | None:
    """Return the union of polygons [x, y, x, y, ...] as a code; None where they are none."""
    # Parts without corners draw nothing.
    value = [part for part in value if part != []] if isinstance(value, list) else []
    if not value:
        return None
    for polygon in value:
        if not isinstance(polygon, list) or set(map(type, polygon)) - {int, float}:
            return None
        # NaN is not below either.
        if not all(abs(number) < _FARTHEST for number in polygon):
            return None
    # pycocotools takes fewer corners for another kind of shape; parts of one or two it draws.
    if len(value[0]) < 6 or min(map(len, value)) < 2:
        return None
    width, height = size
    return coco_mask.merge(coco_mask.frPyObjects(value, height, width))


def _measured(codes: Sequence[dict]) -> tuple[Masks, np.ndarray]:
    """Return the masks, and of which the runs fill the image; others have no area."""
    sizes = np.array([code['size'] for code in codes], dtype=np.int64)
    counts = [code['counts'] for code in codes]
    areas, boxes, fill = [], [], []
    for start in range(0, len(codes), _BLOCK):
        here = slice(start, start + _BLOCK)
        fill.append(_fill(counts[here], sizes[here].prod(axis=1)))
        if fill[-1].all():
            areas.append(coco_mask.area(codes[here]))
            boxes.append(coco_mask.toBbox(codes[here]))
    fill = np.concatenate(fill)
    if not fill.all():
        return None, fill
    areas = np.concatenate(areas).astype(np.float64)
    return Masks(sizes, counts, areas, np.concatenate(boxes)), fill


def _fill(counts: Sequence[bytes], pixels: np.ndarray) -> np.ndarray:
    """Return of which compressed codes the runs are that many pixels, shape (codes,).

    A number is written in letters of five bits, the lowest first: 32 in one says that another
    follows, 16 in the last that the number is negative. From the fourth on it is what the run has
    more than the one two before. A code without runs is an empty mask.
    """
    sound = np.array([not c.translate(None, _LETTERS) and (not c or c[-1] < _LAST) for c in counts])
    counts = [code if good else b'' for code, good in zip(counts, sound)]
    letters = np.frombuffer(b''.join(counts), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(letters < 32)
    if not len(last):
        return sound
    code = np.repeat(np.arange(len(counts)), [len(c) for c in counts])[last]
    first = np.concatenate([[0], last[:-1] + 1])
    length = last - first + 1
    shift = 5 * np.minimum(np.arange(len(letters)) - np.repeat(first, length), 10)
    number = np.add.reduceat((letters & 31) << shift, first)
    number -= (letters[last] & 16 > 0) * (1 << 5 * np.minimum(length, 10))

    # Two columns, for every other run, in which the differences add up from each code's start.
    size = np.bincount(code, minlength=len(counts))
    place = np.arange(len(code)) - (np.cumsum(size) - size)[code] - 1
    start = np.cumsum(size // 2) - size // 2
    row, column = start[code] + place // 2, place % 2
    later = place >= 0
    runs = np.zeros((int((size // 2).sum()) + 1, 2), dtype=np.int64)
    runs[row[later] + 1, column[later]] = number[later]
    runs = np.cumsum(runs, axis=0)
    run = number.copy()
    run[later] = (runs[row + 1, column] - runs[start[code], column])[later]
    wrong = np.bincount(code, weights=(run < 0) | (length > 7), minlength=len(counts)) > 0
    total = np.bincount(code, weights=run, minlength=len(counts))
    return sound & ~wrong & ((total == pixels) | (size == 0))
