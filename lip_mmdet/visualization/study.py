"""Plots of a study: what each training gave, what differs, and what the networks cost. No torch."""

from __future__ import annotations

from typing import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Told apart by eyes of all kinds (Okabe and Ito), and by shape where there are more.
_COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#e69f00', '#555555', 'olive')
_SHAPES = 'osD^'
_DOT, _MEAN, _OPEN = '#0072b2', '#222222', '#999999'
_COMPARED = ('AP', 'APS')


def draw_arms(points: dict[str, dict[str, list[float | None]]]) -> Figure:
    """Draw every training as a dot in each figure, with a line at the mean of each arm.

    Args:
        points: arm -> figure, such as AP -> its value in each training, a fraction.
    """
    names = list(next(iter(points.values())))
    figure, axes = _rows(list(points), len(names), width=1.6)
    for axis, name in zip(axes, names):
        for row, of_arm in enumerate(points.values()):
            values = [100 * value for value in of_arm[name] if value is not None]
            axis.scatter(values, [row] * len(values), color=_DOT, s=16, alpha=0.6, linewidths=0)
            if values:
                axis.vlines(sum(values) / len(values), row - 0.3, row + 0.3, color=_MEAN)
        axis.set_xlabel(f'{name} (%)')
    return figure


def draw_differences(
    differences: Sequence[tuple[str, str, dict[str, dict[str, float | None]]]],
) -> Figure:
    """Draw what each arm has over its baseline in AP and APS, with intervals.

    In colour where the interval leaves zero out.

    Args:
        differences: arm, baseline, and figure -> ``difference``, ``low`` and ``high``, fractions.
    """
    labels = [f'{arm}\nover {baseline}' for arm, baseline, _ in differences]
    figure, axes = _rows(labels, len(_COMPARED), width=2.6)
    for axis, name in zip(axes, _COMPARED):
        axis.axvline(0, color=_MEAN, linewidth=0.8)
        for row, (_, _, figures) in enumerate(differences):
            found = figures[name]
            if found['difference'] is None:
                continue
            middle, low, high = (100 * found[key] for key in ('difference', 'low', 'high'))
            colour = _OPEN if low <= 0 <= high else _DOT
            axis.hlines(row, low, high, color=colour, linewidth=2)
            axis.scatter([middle], [row], color=colour, s=28)
        axis.set_xlabel(f'difference in {name}')
    return figure


def draw_cost(
    points: dict[str, dict[str, list[float | None]]], costs: dict[str, dict[str, float]]
) -> Figure:
    """Draw mean AP against multiply-adds and milliseconds of the backbone.

    Args:
        points: see :func:`draw_arms`.
        costs: arm -> ``mega_multiply_adds`` and ``milliseconds``.
    """
    figure = Figure(figsize=(11, max(3.6, 0.5 + 0.2 * len(points))), layout='constrained')
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (key, label) in zip(
        axes, (('mega_multiply_adds', 'million multiply-adds'), ('milliseconds', 'milliseconds'))
    ):
        for number, (arm, of_arm) in enumerate(points.items()):
            values = [100 * value for value in of_arm['AP'] if value is not None]
            if values:
                axis.scatter(
                    costs[arm][key],
                    sum(values) / len(values),
                    color=_COLOURS[number % len(_COLOURS)],
                    marker=_SHAPES[number // len(_COLOURS) % len(_SHAPES)],
                    label=arm,
                    zorder=3 - number / len(points),  # the first arms in front
                )
        axis.set_xlabel(label)
        _clean(axis)
    axes[0].set_ylabel('AP (%)')
    axes[1].legend(fontsize=8, frameon=False, loc='center left', bbox_to_anchor=(1, 0.5))
    return figure


def _rows(labels: list[str], panels: int, width: float) -> tuple[Figure, list[Axes]]:
    """Return a figure of panels with a row for each label, the first on top."""
    height = 0.3 + 0.16 * max(label.count('\n') for label in labels)
    size = (4 + width * panels, 0.9 + height * len(labels))
    figure = Figure(figsize=size, layout='constrained')
    axes = list(figure.subplots(1, panels, sharey=True, squeeze=False)[0])
    axes[0].set_yticks(range(len(labels)), labels, fontsize=8)
    axes[0].set_ylim(len(labels) - 0.4, -0.6)
    for axis in axes:
        _clean(axis)
    return figure, axes


def _clean(axis: Axes) -> None:
    axis.spines[['top', 'right']].set_visible(False)
    axis.grid(alpha=0.25)
