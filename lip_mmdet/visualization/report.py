"""An evaluation as one HTML page that opens without a network, and its plots as PNG files."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lip_mmdet.evaluation import (
    AP_FIGURES,
    CocoEvaluation,
    Comparison,
    Detections,
    GroundTruth,
    Summary,
    image_ap,
    tables,
)
from lip_mmdet.evaluation.error_types import ERROR_TYPES, ErrorBreakdown, break_down_errors
from lip_mmdet.evaluation.published import differences
from lip_mmdet.evaluation.tables import percent
from lip_mmdet.files import replace_on_success, write_bytes, write_text
from lip_mmdet.visualization import curves
from lip_mmdet.visualization.boxes import draw_boxes, read_picture
from lip_mmdet.visualization.report_style import STYLE
from lip_mmdet.visualization.theme import names_as_written

_ERROR_MEANINGS = {
    'classification': 'IoU 0.5 or more with an object of another class',
    'localization': 'right class, IoU from 0.1 to 0.5',
    'both': 'wrong class and IoU from 0.1 to 0.5',
    'duplicate': 'the object was found by a better detection',
    'background': 'IoU below 0.1 with every object',
    'missed': 'found by no detection, nor one wrong in class or box only',
}
# Images that are shown, and the score from which detections are shown in them.
_WORST, _MIN_SCORE = 6, 0.3


@dataclass(frozen=True)
class ReportInput:
    """What a report shows.

    Attributes:
        summary: the figures, with the detectors that they are of.
        truth, detections: what was evaluated first, of which curves, errors and images are.
        image_folder: where the annotations' file names are; worst images need them.
    """

    summary: Summary
    truth: GroundTruth
    detections: Detections
    image_folder: str | None = None

    @property
    def evaluation(self) -> CocoEvaluation:
        """Of the detections."""
        return self.summary.arms[0].runs[0]


def write_report(content: ReportInput, page: Path, folder: Path) -> None:
    """Write a report.

    Args:
        content: what to show.
        page: file to write the HTML to.
        folder: where the PNG files go.

    Raises:
        InputError: the folder cannot be written to.
    """
    errors = break_down_errors(content.evaluation, content.truth, content.detections)
    with names_as_written():
        plots = _plots(content, errors).items()
        pictures = {name: _png(figure) for name, figure in plots if figure is not None}
        worst = _worst_images(content, errors)
    written = {**pictures, **{name: image['png'] for name, image in worst.items()}}
    for name, png in written.items():
        with replace_on_success(folder / f'{name}.png') as file:
            write_bytes(file, png, folder / f'{name}.png')
    # An earlier report in this folder may have had more.
    for old in (*folder.glob('worst_[0-9]*.png'), folder / 'ap_per_class.png'):
        if old.stem not in written and old.is_file():
            old.unlink()
    write_text(page, _page(content, errors, pictures, worst), folder / 'index.html')


def _plots(content: ReportInput, errors: ErrorBreakdown) -> dict[str, Figure | None]:
    return {
        'precision_recall_by_iou': curves.precision_recall_by_iou(content.evaluation),
        'precision_recall_by_area': curves.precision_recall_by_area(content.evaluation),
        'ap_over_iou': curves.ap_over_iou({arm.name: arm.runs[0] for arm in content.summary.arms}),
        'ap_by_area': curves.ap_by_area(content.summary),
        'errors': curves.errors(errors),
        'ap_per_class': curves.ap_per_class(content.summary),
    }


def _worst_images(content: ReportInput, errors: ErrorBreakdown) -> dict[str, dict]:
    """Draw the images with the lowest AP, of those whose files are there."""
    if content.image_folder is None:
        return {}
    truth = content.truth
    ap = image_ap(content.evaluation)
    result = {}
    # Of equally bad images those with more objects first. NaN, no ground truth, comes last.
    objects = np.bincount(
        np.searchsorted(truth.image_ids, truth.image), minlength=len(truth.image_ids)
    )
    for position in np.lexsort((-objects, ap)).tolist():
        image_id = int(truth.image_ids[position])
        name = truth.file_names[image_id]
        if np.isnan(ap[position]) or len(result) == _WORST:
            break
        pixels = read_picture(Path(content.image_folder) / name)
        if pixels is None:
            continue
        boxes, kinds, labels = _boxes_of(image_id, content, errors)
        result[f'worst_{len(result) + 1}'] = {
            'file_name': name,
            'ap': float(ap[position]),
            'png': _png(draw_boxes(pixels, boxes, kinds, labels), dpi=110),
            'missed': kinds.count('missed'),
            'errors': kinds.count('error'),
            'hits': kinds.count('hit'),
        }
    return result


def _boxes_of(
    image_id: int, content: ReportInput, errors: ErrorBreakdown
) -> tuple[np.ndarray, list[str], list[str]]:
    """Return an image's boxes, their kinds and their labels, ground truth first."""
    truth, detections = content.truth, content.detections
    objects = np.flatnonzero((truth.image == image_id) & ~truth.crowd)
    shown = (detections.image == image_id) & (detections.scores >= _MIN_SCORE)
    rows = [row for row in np.flatnonzero(shown).tolist() if errors.kind(row) != 'ignored']
    matches = content.evaluation.matches
    matched, by, hit = matches.at(0, 0)
    found = np.isin(objects, by[hit & (matches.scores[matched] >= _MIN_SCORE)])
    kinds = ['found' if was_found else 'missed' for was_found in found.tolist()]
    labels = [
        truth.category_names[category] if kind == 'missed' else ''
        for category, kind in zip(truth.category[objects].tolist(), kinds)
    ]
    for row in rows:
        kind = errors.kind(row)
        kinds.append('hit' if kind == 'hit' else 'error')
        name = truth.category_names[int(detections.category[row])]
        labels.append('' if kind == 'hit' else f'{name} {detections.scores[row]:.2f}, {kind}')
    return np.concatenate([truth.boxes[objects], detections.boxes[rows]]), kinds, labels


def _png(figure: Figure, dpi: int = 160) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=dpi)
    return buffer.getvalue()


def _page(
    content: ReportInput,
    errors: ErrorBreakdown,
    pictures: dict[str, bytes],
    worst: dict[str, dict],
) -> str:
    summary = content.summary
    counts, label = summary.breakdown.counts, escape(summary.label)
    limits = ', '.join(map(str, content.evaluation.max_detections))
    shapes = 'Boxes' if summary.breakdown.iou_type == 'bbox' else 'Masks'
    counted = (
        f'{counts["images"]:,} images, {counts["objects"]["all"]:,} objects, '
        f'{counts["detections"]["all"]:,} detections, {counts["categories"]} classes'
    )
    notes = ''.join(f'<p class="note">{escape(note)}</p>' for note in summary.notes)
    by_size = [f'<h3>{table.title}</h3>{_table(table)}' for table in tables.sizes_tables(summary)]
    sections = [
        _section(
            'Figures',
            _table(tables.figures_table(summary)) + _table(tables.recall_table(summary)),
        ),
        *(_against(comparison) for comparison in summary.comparisons),
        _section('Where precision is lost', _plots_grid(pictures) + ''.join(by_size)),
        _section('What goes wrong', _errors_section(errors, pictures)),
        _section('Classes', _classes_section(summary, pictures)),
    ]
    if worst:
        sections.append(_section('Worst images', _worst_section(content, worst)))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{label}: COCO evaluation</title><style>{STYLE}</style></head>'
        f'<body><header><p class="kicker">COCO evaluation</p><h1>{label}</h1>'
        f'<p class="summary">{escape(counted)}</p></header><main>{notes}{_cards(summary)}'
        f'{"".join(sections)}</main>'
        f'<footer>{shapes}, {limits} detections of a class in an image, computed with '
        f'{escape(summary.breakdown.backend)}.</footer></body></html>\n'
    )


def _section(title: str, body: str) -> str:
    return f'<section><h2>{title}</h2>{body}</section>'


def _cards(summary: Summary) -> str:
    """Return the six AP figures in large, each with its difference to a baseline or reference."""
    figures, gaps, against = summary.breakdown.figures, {}, ''
    if summary.comparisons:
        first = summary.comparisons[0]
        gaps = {name: row['difference'] for name, row in first.figures.items()}
        against = first.name
    elif summary.reference is not None:
        gaps = differences(figures, summary.reference.figures)
        against = summary.reference.name
    cards = []
    for name in AP_FIGURES:
        gap = gaps.get(name)
        below = ''
        if gap is not None:
            direction = 'up' if gap > 0 else 'down' if gap < 0 else ''
            below = f'<span class="gap {direction}">{percent(gap, signed=True)}</span>'
        cards.append(
            f'<div class="card"><span class="name">{name}</span>'
            f'<span class="value">{percent(figures[name])}</span>{below}</div>'
        )
    caption = f'<p class="caption">percent; below, points against {escape(against)}</p>'
    return f'<div class="cards">{"".join(cards)}</div>{caption if against else ""}'


def _against(comparison: Comparison) -> str:
    caption = (
        f'<p class="caption">Points of AP; {100 * comparison.confidence:.0f} % intervals from '
        f'{comparison.resamples} paired bootstrap resamples; {escape(comparison.remark)}. An '
        'interval without 0 says that other images of the same kind would show a difference too.'
        '</p>'
    )
    most = (tables.differing_classes(comparison, 10), tables.differing_images(comparison, 10))
    body = ''.join(f'<div><h3>{escape(t.title)}</h3>{_table(t)}</div>' for t in most)
    title = 'Against the baseline'
    if comparison.name != 'baseline':
        title = f'Against {escape(comparison.name)}'
    return _section(title, f'{caption}<div class="pair">{body}</div>')


def _plots_grid(pictures: dict[str, bytes]) -> str:
    captions = {
        'precision_recall_by_iou': 'Precision and recall by IoU threshold, mean over classes',
        'precision_recall_by_area': 'Precision and recall at IoU 0.5 by area of the object',
        'ap_over_iou': 'AP over the IoU threshold: how well detections fit',
        'ap_by_area': 'AP by area: small is below 32², large above 96² pixels',
    }
    figures = ''.join(
        _figure(pictures[name], caption) for name, caption in captions.items() if name in pictures
    )
    return f'<div class="grid">{figures}</div>'


def _errors_section(errors: ErrorBreakdown, pictures: dict[str, bytes]) -> str:
    rows = ''.join(
        f'<tr><th>{name}<small>{_ERROR_MEANINGS[name]}</small></th>'
        f'<td>{errors.counts[name]:,}</td><td>{percent(errors.gains[name], signed=True)}</td></tr>'
        for name in ERROR_TYPES
    )
    table = (
        '<div class="scroll"><table><thead><tr><th>error</th><th>number</th><th>AP50 if corrected'
        f'</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )
    caption = (
        '<p class="caption">All detections count here, as they do in AP, whatever their score.</p>'
    )
    return (
        f'<div class="pair">{_figure(pictures["errors"], "AP50 lost to each type of error")}'
        f'<div>{table}{caption}</div></div>'
    )


def _classes_section(summary: Summary, pictures: dict[str, bytes]) -> str:
    classes = tables.classes_table(summary)
    table = _table(classes)
    if len(classes.rows) > 12:
        head = f'All {len(classes.rows)} classes as a table'
        table = f'<details><summary>{head}</summary>{table}</details>'
    plot = ''
    if 'ap_per_class' in pictures:
        which = 'each class'
        if sum(row['AP'] is not None for row in summary.breakdown.per_class) > curves.MOST_CLASSES:
            half = curves.MOST_CLASSES // 2
            which = f'the {half} best and the {half} worst classes'
        plot = _figure(pictures['ap_per_class'], f'AP of {which} with ground truth')
    return f'<div class="narrow">{plot}</div>{table}'


def _worst_section(content: ReportInput, worst: dict[str, dict]) -> str:
    figures = ''.join(
        _figure(
            image['png'],
            f'{image["file_name"]}: AP {percent(image["ap"])}, {image["hits"]} hits, '
            f'{image["errors"]} false alarms, {image["missed"]} not found',
        )
        for image in worst.values()
    )
    legend = (
        '<p class="legend"><span class="truth">object</span>'
        '<span class="truth dashed">object not found</span><span class="hit">hit</span>'
        f'<span class="error">false alarm</span> at IoU 0.5, score {_MIN_SCORE:g} and up</p>'
    )
    return f'{legend}<div class="grid">{figures}</div>'


def _figure(png: bytes, caption: str) -> str:
    data = base64.b64encode(png).decode('ascii')
    text = escape(caption)
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{text}">'
        f'<figcaption>{text}</figcaption></figure>'
    )


def _table(table: tables.Table) -> str:
    head = ''.join(f'<th>{escape(column)}</th>' for column in ('percent', *table.columns))
    body = ''.join(
        f'<tr><th>{escape(label)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for label, cells in table.rows
    )
    captions = (f'<p class="caption">{escape(line)}</p>' for line in table.caption.splitlines())
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f'<tbody>{body}</tbody></table></div>{"".join(captions)}'
    )
