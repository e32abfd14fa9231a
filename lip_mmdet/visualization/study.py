"""Plots of a study: what each training gave, and what the networks cost. No torch."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Told apart by eyes of all kinds (Okabe and Ito); more arms than these begin again.
_COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#e69f00', '#555555', 'olive')
_SHOWN = ('AP', 'APS')


def draw_arms(points: dict[str, dict[str, list[float | None]]]) -> Figure:
    """Draw AP and APS of every training as a dot, with a line at the mean of each arm.

    Args:
        points: arm -> figure -> its value in each training, a fraction.
    """
    figure = Figure(figsize=(9, 1.2 + 0.45 * len(points)), layout='constrained')
    for axis, name in zip(figure.subplots(1, len(_SHOWN), sharey=True), _SHOWN):
        for row, (colour, of_arm) in enumerate(zip(_cycle(len(points)), points.values())):
            values = [100 * value for value in of_arm[name] if value is not None]
            axis.scatter(values, [row] * len(values), color=colour, s=28, alpha=0.8)
            if values:
                axis.vlines(sum(values) / len(values), row - 0.3, row + 0.3, color=colour)
        axis.set_yticks(range(len(points)), list(points))
        axis.set_xlabel(f'{name} (%)')
        _clean(axis)
    figure.axes[0].invert_yaxis()
    return figure


def draw_cost(
    points: dict[str, dict[str, list[float | None]]], costs: dict[str, dict[str, float]]
) -> Figure:
    """Draw mean AP against multiply-adds and milliseconds of the backbone.

    Args:
        points: see :func:`draw_arms`.
        costs: arm -> ``mega_multiply_adds`` and ``milliseconds``.
    """
    figure = Figure(figsize=(9, 3.6), layout='constrained')
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (key, label) in zip(
        axes, (('mega_multiply_adds', 'million multiply-adds'), ('milliseconds', 'milliseconds'))
    ):
        for colour, (arm, of_arm) in zip(_cycle(len(points)), points.items()):
            values = [100 * value for value in of_arm['AP'] if value is not None]
            if values:
                axis.scatter(costs[arm][key], sum(values) / len(values), color=colour, label=arm)
        axis.set_xlabel(label)
        _clean(axis)
    axes[0].set_ylabel('AP (%)')
    axes[1].legend(fontsize=8, frameon=False, loc='center left', bbox_to_anchor=(1, 0.5))
    return figure


def _cycle(count: int) -> list[str]:
    return [_COLOURS[number % len(_COLOURS)] for number in range(count)]


def _clean(axis: Axes) -> None:
    axis.spines[['top', 'right']].set_visible(False)
    axis.grid(alpha=0.25)
