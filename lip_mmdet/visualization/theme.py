"""Colors and figure style shared by plots and pages."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import Iterator

from matplotlib import font_manager, rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MEASURED = '#2563eb'
BASELINE = '#f59e0b'
# What else is compared; neither looks like the first two.
OTHERS = ('#059669', '#db2777', '#7c3aed', '#67e8f9', '#92400e', '#a3e635')
REFERENCE = '#64748b'
TRUTH = '#16a34a'
HIT = '#2563eb'
ERROR = '#dc2626'
INK = '#1e293b'
GRID = '#e2e8f0'
# Fonts of the usual systems with letters that matplotlib's own lacks: Chinese, Japanese, Korean.
OTHER_LETTERS = (
    'Noto Sans CJK SC', 'Noto Sans CJK JP', 'Noto Sans SC', 'Source Han Sans SC',
    'WenQuanYi Zen Hei', 'WenQuanYi Micro Hei', 'Microsoft YaHei', 'SimHei', 'PingFang SC',
    'Hiragino Sans GB', 'Apple SD Gothic Neo', 'Malgun Gothic', 'Arial Unicode MS',
)  # fmt: skip


def new_figure(width: float = 5.4, height: float = 3.7) -> tuple[Figure, Axes]:
    """Return an empty figure, sizes in inches, that needs no display."""
    figure = Figure(figsize=(width, height), layout='constrained', facecolor='white')
    axes = figure.add_subplot()
    style(axes)
    return figure, axes


@contextmanager
def names_as_written() -> Iterator[None]:
    """Draw names as they are, for they are no formulas and a font may lack their letters."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    fonts = [*rcParams['font.family'], *(name for name in OTHER_LETTERS if name in installed)]
    as_written = {'text.parse_math': False, 'font.family': fonts}
    log = logging.getLogger('matplotlib.font_manager')  # that tells of each font without bold
    level = log.level
    with rc_context(as_written), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)


def legend_above(figure: Figure) -> None:
    """Put the legend above the axes, where it hides nothing, and make the figure higher for it."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    labels = [shortened(label, 60) for label in labels]
    columns = min(3, max(1, 70 // (max(map(len, labels)) + 6)))
    rows = -(-len(labels) // columns)
    figure.set_figheight(figure.get_figheight() + 0.18 * (rows - 1))
    options = dict(ncols=columns, frameon=False, fontsize=9, handlelength=1.2)
    figure.legend(handles, labels, loc='outside upper left', **options)


def shortened(name: str, length: int) -> str:
    """Return a longer name without its middle; those of runs often differ at the end."""
    half = length // 2
    return name if len(name) <= length else f'{name[: half - 1]}…{name[-half:]}'


def style(axes: Axes) -> None:
    """Give axes the pages' look: a light grid, no box."""
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)
    for side in ('left', 'bottom'):
        axes.spines[side].set_color('#94a3b8')
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors='#475569', labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
