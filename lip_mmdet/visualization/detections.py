"""Detections beside ground truth, on the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation import Detections, GroundTruth
from lip_mmdet.files import replace_on_success
from lip_mmdet.visualization.boxes import read_picture
from lip_mmdet.visualization.theme import names_as_written

_PALETTE = ('#e6194b', '#4363d8', '#3cb44b', '#f58231', '#911eb4', '#008080', '#f032e6', '#9a6324')


@names_as_written()
def plot_detections_beside_truth(
    truth: GroundTruth,
    detections: Detections,
    image_folder: str | Path,
    out: str | Path,
    image_ids: list[int] | None = None,
    min_score: float = 0.3,
) -> None:
    """Draw images twice, with their labelled boxes and with the detector's.

    Args:
        truth: the annotations.
        detections: results on the same images.
        image_folder: where the annotations' file names are.
        out: picture to write.
        image_ids: images to draw; default: the first six.
        min_score: detections below it are left out.

    Raises:
        InputError: an image cannot be read, or the picture not written.
    """
    if image_ids is None:
        image_ids = truth.image_ids[:6].tolist()
    categories = truth.category_ids.tolist()
    colours = {c: _PALETTE[i % len(_PALETTE)] for i, c in enumerate(categories)}
    paths = [Path(image_folder) / truth.file_names[i] for i in image_ids]
    images = [read_picture(path) for path in paths]
    for path, image in zip(paths, images):
        if image is None:
            raise InputError(f'{path} is not there, or no image')
    tallest = max(image.shape[0] / image.shape[1] for image in images)
    size = (2.4 * len(image_ids), 2 * 2.4 * tallest + 0.6)
    figure = Figure(figsize=size, layout='constrained')
    axes = figure.subplots(2, len(image_ids), squeeze=False)
    for column, (image_id, image) in enumerate(zip(image_ids, images)):
        for axis in axes[:, column]:
            axis.imshow(image)
            axis.set(xticks=[], yticks=[])
        for i in np.flatnonzero(truth.image == image_id):
            category = int(truth.category[i])
            _draw_box(axes[0, column], truth.boxes[i], colours[category])
        shown = (detections.image == image_id) & (detections.scores >= min_score)
        for i in np.flatnonzero(shown):
            category = int(detections.category[i])
            score = f'{detections.scores[i]:.2f}'
            _draw_box(axes[1, column], detections.boxes[i], colours[category], score)
    axes[0, 0].set_ylabel('ground truth')
    axes[1, 0].set_ylabel(f'detections, score {min_score:g} and up')
    figure.legend(
        handles=[Rectangle((0, 0), 1, 1, color=colours[c]) for c in categories[: len(_PALETTE)]],
        labels=[truth.category_names[c] for c in categories[: len(_PALETTE)]],
        loc='outside lower center',
        ncols=len(_PALETTE),
        frameon=False,
    )
    with replace_on_success(out) as temporary:
        figure.savefig(temporary, dpi=130)


def _draw_box(axis: Axes, box: np.ndarray, colour: str, text: str = '') -> None:
    x, y, width, height = box
    frame = dict(fill=False, clip_on=True)
    # A white line around keeps the box visible on an object of its own colour.
    axis.add_patch(Rectangle((x, y), width, height, edgecolor='white', linewidth=2.8, **frame))
    axis.add_patch(Rectangle((x, y), width, height, edgecolor=colour, linewidth=1.4, **frame))
    if text:
        label = dict(facecolor=colour, edgecolor='none', pad=0.8)
        axis.text(x, y, text, color='white', fontsize=6, va='bottom', bbox=label, clip_on=True)
