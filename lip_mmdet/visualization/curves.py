"""Plots of an evaluation: each function returns one matplotlib figure."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from lip_mmdet.evaluation import CocoEvaluation, Summary
from lip_mmdet.evaluation.error_types import ERROR_TYPES, ErrorBreakdown
from lip_mmdet.visualization.theme import (
    BASELINE,
    ERROR,
    INK,
    MEASURED,
    OTHERS,
    REFERENCE,
    legend_above,
    new_figure,
    shortened,
)

MOST_CLASSES = 100  # that are drawn; COCO has 80

_AREA_FIGURES = {'APS': 'small', 'APM': 'medium', 'APL': 'large'}


def precision_recall_by_iou(evaluation: CocoEvaluation) -> Figure:
    """Draw precision over recall, averaged over classes, for each IoU threshold."""
    figure, axes = new_figure()
    shades = np.linspace(1.0, 0.25, len(evaluation.iou_thresholds))
    for number, (threshold, shade) in enumerate(zip(evaluation.iou_thresholds, shades)):
        curve = _mean_over_classes(evaluation.precision[number, :, :, 0, -1])
        if curve is not None:
            label = f'{threshold:.2f}  (AP {100 * curve.mean():.1f})'
            axes.plot(evaluation.recall_levels, curve, color=MEASURED, alpha=shade, label=label)
    _finish_precision_recall(axes)
    return figure


def precision_recall_by_area(evaluation: CocoEvaluation) -> Figure:
    """Draw precision over recall at IoU 0.5, averaged over classes, for each area range."""
    figure, axes = new_figure()
    colors = (INK, '#06b6d4', '#8b5cf6', '#ec4899')
    for area, (name, color) in enumerate(zip(('all', 'small', 'medium', 'large'), colors)):
        curve = _mean_over_classes(evaluation.precision[0, :, :, area, -1])
        if curve is not None:
            label = f'{name}  (AP50 {100 * curve.mean():.1f})'
            axes.plot(evaluation.recall_levels, curve, color=color, label=label, linewidth=1.8)
    _finish_precision_recall(axes)
    return figure


def ap_over_iou(evaluations: dict[str, CocoEvaluation]) -> Figure:
    """Draw AP over the IoU threshold, of the detector and of the baselines after it."""
    figure, axes = new_figure()
    for (name, source), color in zip(evaluations.items(), _colors(len(evaluations))):
        curves = (
            _mean_over_classes(source.precision[number, :, :, 0, -1])
            for number in range(len(source.iou_thresholds))
        )
        ap = [np.nan if curve is None else 100 * curve.mean() for curve in curves]
        axes.plot(source.iou_thresholds, ap, 'o-', color=color, label=name, markersize=5)
    axes.set(xlabel='IoU threshold', ylabel='AP (%)', ylim=(0, max(1, axes.get_ylim()[1])))
    legend_above(figure)
    return figure


def ap_by_area(summary: Summary) -> Figure:
    """Draw bars of APS, APM and APL beside the baselines' and the published, where there are."""
    groups = [(summary.label, summary.breakdown.figures)]
    for comparison in summary.comparisons:
        baseline = {name: row['baseline'] for name, row in comparison.figures.items()}
        groups.append((comparison.name, baseline))
    groups = [(*group, color) for group, color in zip(groups, _colors(len(groups)))]
    if summary.reference is not None:
        groups.append((summary.reference.name, summary.reference.figures, REFERENCE))
    figure, axes = new_figure()
    width = 0.8 / len(groups)
    for number, (name, figures, color) in enumerate(groups):
        places = np.arange(3) - 0.4 + width * (number + 0.5)
        values = [figures.get(figure) for figure in _AREA_FIGURES]
        heights = [0 if value is None else 100 * value for value in values]
        bars = axes.bar(places, heights, width * 0.92, color=color, label=name)
        texts = ['-' if value is None else f'{100 * value:.1f}' for value in values]
        upright = 90 if len(groups) > 3 else 0  # beside each other they would overlap
        axes.bar_label(bars, texts, padding=2, fontsize=8, color=INK, rotation=upright)
    axes.set_xticks(range(3), [f'{key}\n{area}' for key, area in _AREA_FIGURES.items()])
    axes.margins(y=0.15)
    axes.set(ylabel='AP (%)', ylim=(0, max(1, axes.get_ylim()[1])))
    axes.grid(visible=False, axis='x')
    legend_above(figure)
    return figure


def ap_per_class(summary: Summary) -> Figure | None:
    """Draw a bar for each class with ground truth, best first; a dot marks the baseline's AP.

    Of more than :data:`MOST_CLASSES` the best and the worst.
    """
    rows = [row for row in summary.breakdown.per_class if row['AP'] is not None]
    if not rows:
        return None
    rows.sort(key=lambda row: row['AP'])
    if len(rows) > MOST_CLASSES:
        rows = rows[: MOST_CLASSES // 2] + rows[-MOST_CLASSES // 2 :]
    figure, axes = new_figure(5.4, max(2.2, 0.9 + (0.26 if len(rows) <= 30 else 0.19) * len(rows)))
    places = np.arange(len(rows))
    values = [100 * row['AP'] for row in rows]
    bars = axes.barh(places, values, 0.72, color=MEASURED, label=summary.label)
    axes.bar_label(bars, [f'{value:.1f}' for value in values], padding=6, fontsize=8, color=INK)
    for comparison in summary.comparisons[:1]:
        theirs = {row['id']: row['baseline'] for row in comparison.per_class}
        dots = [100 * theirs[row['id']] for row in rows]
        axes.plot(
            dots,
            places,
            'o',
            color=BASELINE,
            markersize=6,
            label=comparison.name,
            markeredgecolor='white',
        )
        legend_above(figure)
    axes.set_yticks(places, [shortened(row['name'], 24) for row in rows])
    axes.set(xlabel='AP (%)', xlim=(0, 1.12 * max(*values, 1)))
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(visible=False, axis='y')
    return figure


def errors(breakdown: ErrorBreakdown) -> Figure:
    """Draw how much AP50 each type of error costs, with the number of errors."""
    figure, axes = new_figure()
    places = np.arange(len(ERROR_TYPES))[::-1]
    gains = [100 * breakdown.gains[name] for name in ERROR_TYPES]
    bars = axes.barh(places, gains, 0.66, color=ERROR)
    texts = [f'{gain:.1f}   ({breakdown.counts[name]:,})' for name, gain in zip(ERROR_TYPES, gains)]
    axes.bar_label(bars, texts, padding=4, fontsize=9, color=INK)
    axes.set_yticks(places, ERROR_TYPES)
    axes.set(xlabel='AP50 points gained by correcting it (number of errors)')
    axes.set_xlim(0, 1.3 * max(*gains, 1))
    axes.grid(visible=False, axis='y')
    return figure


def _colors(count: int) -> list[str]:
    """Return a colour for the detector and one for each of the baselines."""
    return [MEASURED, BASELINE, *(OTHERS[i % len(OTHERS)] for i in range(count))][:count]


def _mean_over_classes(precision: np.ndarray) -> np.ndarray | None:
    """Average precision, shape (R, K), over the classes that have ground truth."""
    defined = precision[:, precision[0] > -1]
    return defined.mean(axis=1) if defined.size else None


def _finish_precision_recall(axes) -> None:
    axes.set(xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02))
    if axes.lines:
        axes.legend(frameon=False, fontsize=8, loc='center left', bbox_to_anchor=(1.0, 0.5))
