"""Finding COCO's minival and test-dev on disk, minival under either of its names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation.ground_truth import GroundTruth

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
class Split:
    """Where a split lies.

    Attributes:
        ann_file: its annotations.
        image_folder: its images, which need not be there to score results.
    """

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


def minival_notes(ground_truth: GroundTruth) -> list[str]:
    """Say so if the annotations are not the 5000 images and 80 classes of minival."""
    size = (len(ground_truth.image_ids), len(ground_truth.category_ids))
    if size == _MINIVAL_SIZE:
        return []
    return [
        f'warning: {ground_truth.source} has {size[0]} images and {size[1]} classes where COCO '
        f'minival has {_MINIVAL_SIZE[0]} and {_MINIVAL_SIZE[1]}: compare these figures with no '
        'published ones'
    ]
