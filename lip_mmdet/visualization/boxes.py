"""An image with its ground truth and what a detector made of it."""

from __future__ import annotations

from typing import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lip_mmdet.visualization.theme import ERROR, HIT, TRUTH

# The kinds of boxes: color and line style.
STYLES = {
    'found': (TRUTH, '-'),
    'missed': (TRUTH, '--'),
    'hit': (HIT, '-'),
    'error': (ERROR, '-'),
}


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    kinds: Sequence[str],
    labels: Sequence[str],
    width: float = 6.0,
) -> Figure:
    """Draw boxes on an image.

    Args:
        image: RGB pixels, shape (height, width, 3) or (height, width).
        boxes: [x, y, width, height] in pixels, shape (N, 4).
        kinds: keys of :data:`STYLES`, N.
        labels: text for each box, empty for none, N.
        width: of the figure in inches.
    """
    rows, columns = image.shape[:2]
    figure = Figure(figsize=(width, width * rows / columns))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(image, cmap='gray' if image.ndim == 2 else None, aspect='auto')
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
            axes.text(
                min(max(x, 2), columns - 2),
                max(y, 0.04 * rows),
                label,
                color='white',
                fontsize=7,
                verticalalignment='bottom',
                clip_on=True,
                bbox=dict(facecolor=color, edgecolor='none', pad=1.2, alpha=0.85),
            )
    return figure
