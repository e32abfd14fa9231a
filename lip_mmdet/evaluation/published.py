"""COCO's splits on disk, and published results to stand beside measured ones.

minival goes by either of its names; ``data/published.json`` names each result's source.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation.ground_truth import GroundTruth

_FILE = Path(__file__).resolve().parent / 'data' / 'published.json'
# Annotation file to image folder, the first that is there counts. minival2014 and val2017 are the
# same images; the older split lies within val2014. test-dev is a part of test2017.
_SPLITS = {
    'minival': {
        'annotations/instances_val2017.json': 'val2017',
        'annotations/instances_minival2014.json': 'val2014',
    },
    'test-dev': {'annotations/image_info_test-dev2017.json': 'test2017'},
}
SPLITS = tuple(_SPLITS)
# Images and classes, for those that can be scored.
_MINIVAL_SIZE = (5000, 80)


@dataclass(frozen=True)
class Reference:
    """One published row.

    Attributes:
        name: what ``--reference`` takes.
        title: backbone and detector.
        split: ``'minival'`` (val2017) or ``'test-dev'``.
        figures: fractions, for the figures that were published.
        source: where.
    """

    name: str
    title: str
    split: str
    figures: dict[str, float]
    source: str


def references() -> dict[str, Reference]:
    """Return the published rows by name."""
    rows = json.loads(_FILE.read_text(encoding='utf-8'))
    return {
        name: Reference(
            name=name,
            title=row['title'],
            split=row['split'],
            figures={figure: percent / 100 for figure, percent in row['figures'].items()},
            source=row['source'],
        )
        for name, row in rows.items()
    }


def find_reference(name: str) -> Reference:
    """Return one published row.

    Raises:
        InputError: no row of that name; the message lists the names.
    """
    rows = references()
    if name.lower() not in rows:
        raise InputError(f'unknown reference {name!r}; there are {", ".join(rows)}')
    return rows[name.lower()]


def differences(
    measured: dict[str, float | None], reference: dict[str, float]
) -> dict[str, float | None]:
    """Return measured minus published, None where either is missing."""
    return {
        name: None if value is None or name not in reference else value - reference[name]
        for name, value in measured.items()
    }


class Split(NamedTuple):
    """Where a split lies: its annotations, and its folder of images, which need not be there."""

    ann_file: Path
    image_folder: Path


def find_split(name: str, data_root: str | os.PathLike = 'data/coco') -> Split:
    """Return where a COCO split lies below ``data_root``.

    Args:
        name: ``'minival'`` (val2017, else minival2014) or ``'test-dev'``.
        data_root: the folder with COCO's ``annotations``.

    Raises:
        InputError: an unknown split, or its annotations are not there; the message names the files
            looked for.
    """
    if name not in _SPLITS:
        raise InputError(f'unknown split {name!r}; there are {", ".join(SPLITS)}')
    root = Path(data_root)
    for ann_file, images in _SPLITS[name].items():
        if (root / ann_file).is_file():
            return Split(root / ann_file, root / images)
    looked_for = ' or '.join(str(root / ann_file) for ann_file in _SPLITS[name])
    raise InputError(f'no {name} in {root}: put {looked_for} there, or name another --data-root')


def split_notes(
    ground_truth: GroundTruth, split: str | None, reference: Reference | None = None
) -> list[str]:
    """Say so if the annotations are not of the split that is named, or that a row is of.

    That is judged of minival alone, by its 5000 images and 80 classes.
    """
    notes = []
    size = (len(ground_truth.image_ids), len(ground_truth.category_ids))
    if 'minival' in (split, reference and reference.split) and size != _MINIVAL_SIZE:
        notes.append(
            f'warning: {ground_truth.source} has {size[0]} images and {size[1]} classes where COCO '
            f'minival has {_MINIVAL_SIZE[0]} and {_MINIVAL_SIZE[1]}: compare these figures with no '
            'published ones'
        )
    if reference and reference.split != 'minival':
        notes.append(
            f'warning: {reference.name} is published for {reference.split}, a different split'
        )
    return notes
