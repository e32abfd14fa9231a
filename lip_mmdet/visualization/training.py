"""Curves of a training run, from the log that MMEngine leaves in its work folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Mapping

from matplotlib.figure import Figure

from lip_mmdet.errors import InputError
from lip_mmdet.files import replace_on_success
from lip_mmdet.visualization.theme import names_as_written


def read_scalars(work_dir: str | Path) -> list[dict]:
    """Read the newest run's ``vis_data/scalars.json`` below a work folder.

    Returns:
        One dict a log line: losses and ``step`` in training, ``coco/bbox_mAP`` and others after
        a validation.

    Raises:
        InputError: there is none.
    """
    logs = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    if not logs:
        raise InputError(
            f'no training log below {work_dir}: it should hold */vis_data/scalars.json'
        )
    return [json.loads(line) for line in logs[-1].read_text().splitlines() if line.strip()]


@names_as_written()
def plot_training(runs: Mapping[str, str | Path], out: str | Path, title: str = '') -> None:
    """Plot the loss of one or several runs and, if they validated, their AP.

    Args:
        runs: name of a run -> its work folder.
        out: picture to write, such as ``loss.png``.
        title: of the picture.

    Raises:
        InputError: a run has no log, or the picture cannot be written.
    """
    scalars = {name: read_scalars(folder) for name, folder in runs.items()}
    validated = {
        name: [line['coco/bbox_mAP'] for line in lines if 'coco/bbox_mAP' in line]
        for name, lines in scalars.items()
    }
    with_ap = any(len(values) > 1 for values in validated.values())
    figure = Figure(figsize=(11 if with_ap else 6.5, 4), layout='constrained')
    axes = figure.subplots(1, 2 if with_ap else 1, squeeze=False)[0]
    if title:
        figure.suptitle(title)
    for name, lines in scalars.items():
        steps = [(line['step'], line['loss']) for line in lines if 'loss' in line]
        axes[0].plot(*zip(*steps), label=name)
    axes[0].set(xlabel='iteration', ylabel='training loss')
    axes[0].set_ylim(bottom=0)
    if with_ap:
        for name, values in validated.items():
            axes[1].plot(range(1, len(values) + 1), [100 * v for v in values], 'o-', label=name)
        axes[1].set(xlabel='epoch', ylabel='AP (%)')
        axes[1].set_ylim(bottom=0)
        axes[1].xaxis.get_major_locator().set_params(integer=True)
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[['top', 'right']].set_visible(False)
        axis.legend(frameon=False)
    with replace_on_success(out) as temporary:
        figure.savefig(temporary, dpi=150)
