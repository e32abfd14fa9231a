"""An image with its ground truth and what a detector made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageOps

from lip_mmdet.visualization.theme import ERROR, HIT, TRUTH, shortened

# The kinds of boxes: color and line style.
STYLES = {
    'found': (TRUTH, '-'),
    'missed': (TRUTH, '--'),
    'hit': (HIT, '-'),
    'error': (ERROR, '-'),
}

_MOST_PIXELS = 1500  # of a drawn image's longer side; matplotlib is slow with more than it shows


def read_picture(path: str | Path) -> np.ndarray | None:
    """Read a file to RGB pixels, (height, width, 3), uint8; None if it is not there or no image.

    It is turned as its EXIF says, for MMDetection reads it so, and boxes are meant so. Grey of more
    than 8 bits is stretched over the range that it uses.
    """
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode[0] in 'IF':
                values = np.asarray(picture, dtype=float)
                values = (values - values.min()) * (255 / max(np.ptp(values), 1e-9))
                picture = Image.fromarray(values.astype(np.uint8))
            return np.asarray(picture.convert('RGB'))
    except Exception:  # the decoder's own kinds of errors, and the system's
        return None


def shrunk(image: np.ndarray) -> np.ndarray:
    """Return an image, (height, width, 3), uint8, with as many pixels as a drawing of it shows."""
    return np.asarray(Image.fromarray(image).reduce(-(-max(image.shape) // _MOST_PIXELS)))


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    kinds: Sequence[str],
    labels: Sequence[str],
    width: float = 6.0,
) -> Figure:
    """Draw boxes on an image.

    Args:
        image: RGB pixels, shape (height, width, 3), uint8.
        boxes: [x, y, width, height] in pixels, shape (N, 4).
        kinds: keys of :data:`STYLES`, N.
        labels: text for each box, empty for none, N.
        width: of the figure in inches.
    """
    rows, columns = image.shape[:2]
    figure = Figure(figsize=(width, width * rows / columns))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(shrunk(image), aspect='auto', extent=(0, columns, rows, 0))
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    axes.axis('off')
    for (x, y, box_width, box_height), kind, label in zip(boxes.tolist(), kinds, labels):
        color, line = STYLES[kind]
        axes.add_patch(
            Rectangle(
                (x, y),
                box_width,
                box_height,
                fill=False,
                edgecolor=color,
                linestyle=line,
                linewidth=1.6,
            )
        )
        if label:
            # At the right it ends with its box, or the border would cut it.
            right = x > 0.7 * columns
            axes.text(
                min(x + box_width, columns - 2) if right else max(x, 2),
                max(y, 0.04 * rows),
                shortened(label, 60),
                horizontalalignment='right' if right else 'left',
                color='white',
                fontsize=7,
                verticalalignment='bottom',
                clip_on=True,
                bbox=dict(facecolor=color, edgecolor='none', pad=1.2, alpha=0.85),
            )
    return figure
