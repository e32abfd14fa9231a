"""Colors and figure style shared by plots and pages."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

MEASURED = '#2563eb'
BASELINE = '#f59e0b'
REFERENCE = '#64748b'
TRUTH = '#16a34a'
HIT = '#2563eb'
ERROR = '#dc2626'
INK = '#1e293b'
GRID = '#e2e8f0'


def new_figure(width: float = 5.4, height: float = 3.7) -> tuple[Figure, Axes]:
    """Return an empty figure, sizes in inches, that needs no display."""
    figure = Figure(figsize=(width, height), layout='constrained', facecolor='white')
    axes = figure.add_subplot()
    style(axes)
    return figure, axes


def legend_above(figure: Figure) -> None:
    """Put the legend above the axes, where it hides nothing."""
    figure.legend(loc='outside upper left', ncols=3, frameon=False, fontsize=9, handlelength=1.2)


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
