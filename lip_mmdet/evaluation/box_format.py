"""Telling [x, y, width, height] from [x1, y1, x2, y2], a common mistake in results."""

from __future__ import annotations

import numpy as np

from lip_mmdet.errors import InputError

# Pixels by which honest predictions may leave their image.
_MARGIN = 2.0


def refuse_corners(boxes: np.ndarray, sizes: np.ndarray, source: str) -> None:
    """Refuse boxes that are corners: read as sizes many leave the image, as corners all fit in it.

    Args:
        boxes: supposedly [x, y, width, height] in pixels, shape (boxes, 4).
        sizes: width and height of each box's image, NaN where unknown, shape (boxes, 2).
        source: how the message names the file.

    Raises:
        InputError: the boxes look like [x1, y1, x2, y2].
    """
    outside = (boxes[:, :2] + boxes[:, 2:] > sizes + _MARGIN).any(axis=1)
    fits = ((boxes[:, 2:] >= boxes[:, :2]) & (boxes[:, 2:] <= sizes + _MARGIN)).all(axis=1)
    if outside.sum() >= 2 and outside.mean() > 0.2 and fits.mean() > 0.99:
        raise InputError(
            f'{source}: the boxes look like corners [x1, y1, x2, y2] (xyxy): read as '
            f'[x, y, width, height] {outside.sum()} of {len(boxes)} leave their image, read as '
            'corners they fit; convert them to [x, y, width, height]'
        )
