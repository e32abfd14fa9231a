"""Figures as tables: for the terminal and the report, as Markdown, as CSV."""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import dataclass
from typing import Any, List, Sequence, Tuple

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from lip_mmdet.evaluation.accumulation import AP_FIGURES
from lip_mmdet.evaluation.breakdown import Breakdown
from lip_mmdet.evaluation.comparison import Comparison
from lip_mmdet.evaluation.published import differences
from lip_mmdet.evaluation.summary import Summary

# A row of a table: its label and its cells.
Row = Tuple[str, List[str]]


@dataclass(frozen=True)
class Table:
    """Text in rows, below a title and column heads, above a caption if there is one."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Row]
    caption: str = ''


def percent(fraction: float | None, signed: bool = False) -> str:
    """Write a fraction in percent with one decimal, as papers do; a dash for None."""
    if fraction is None:
        return '-'
    return f'{100 * fraction:+.1f}' if signed else f'{100 * fraction:.1f}'


def percents(fractions: Sequence[float | None], signed: bool = False) -> list[str]:
    return [percent(fraction, signed) for fraction in fractions]


def tables_of(summary: Summary, per_class: bool = False, most: int = 5) -> list[Table]:
    """Return what the terminal shows.

    Args:
        summary: what was found out.
        per_class: with the table of all classes, instead of those that differ most from a baseline.
        most: how many images and classes of a comparison.
    """
    breakdown = summary.breakdown
    tables = [
        figures_table(summary),
        recall_table(summary),
        Table(
            'By IoU threshold (%)',
            [f'{row["IoU"]:.2f}' for row in breakdown.per_iou],
            [(key, percents([row[key] for row in breakdown.per_iou])) for key in ('AP', 'AR')],
        ),
        *sizes_tables(summary),
        _counts_table(breakdown),
    ]
    if per_class:
        tables.append(classes_table(summary))
    for comparison in summary.comparisons:
        if not per_class:
            tables.append(differing_classes(comparison, most))
        tables.append(differing_images(comparison, most))
    return tables


def figures_table(summary: Summary) -> Table:
    """Return AP to APL of all detectors, differences and intervals, and the published row."""
    breakdown, reference = summary.breakdown, summary.reference
    spread = {arm.name: [row['std'] for row in arm.figures().values()] for arm in summary.arms}

    def cells(name: str, figures: Sequence[float | None]) -> list[str]:
        return [
            percent(figure) if std is None else f'{percent(figure)} ± {percent(std)}'
            for figure, std in zip(figures, spread.get(name, [None] * len(AP_FIGURES)))
        ]

    rows = [(summary.label, cells(summary.label, [breakdown.figures[n] for n in AP_FIGURES]))]
    captions = []
    for comparison in summary.comparisons:
        columns = {
            key: [row[key] for row in comparison.figures.values()]
            for key in ('baseline', 'difference', 'low', 'high', 'sign_turns')
        }
        rows += [
            (comparison.name, cells(comparison.name, columns['baseline'])),
            ('  difference', percents(columns['difference'], signed=True)),
            (f'  {_level(comparison)} from', percents(columns['low'], signed=True)),
            ('  to', percents(columns['high'], signed=True)),
            ('  sign turns in %', percents(columns['sign_turns'])),
        ]
        captions.append(
            f'{comparison.name}: {comparison.resamples} paired resamples; {comparison.remark}'
        )
    if reference is not None:
        gaps = differences(breakdown.figures, reference.figures)
        published = [reference.figures.get(name) for name in AP_FIGURES]
        rows += [
            (f'{reference.name} ({reference.split})', percents(published)),
            ('  difference', percents([gaps[name] for name in AP_FIGURES], signed=True)),
        ]
        captions.append(f'{reference.title}: {reference.source}')
    return Table(f'Average precision{_of(breakdown)} (%)', AP_FIGURES, rows, '\n'.join(captions))


def recall_table(summary: Summary) -> Table:
    """Return the average recalls of the detector."""
    figures = summary.breakdown.figures
    names = list(figures)[len(AP_FIGURES) :]
    row = (summary.label, percents([figures[name] for name in names]))
    return Table(f'Average recall{_of(summary.breakdown)} (%)', names, [row])


def sizes_tables(summary: Summary) -> list[Table]:
    """Return AP by size of the object of all detectors, if it was asked for."""
    if not summary.sizes:
        return []
    objects = next(iter(summary.sizes.values()))
    rows = [(name, percents([r['AP'] for r in of_arm])) for name, of_arm in summary.sizes.items()]
    rows.append(('objects', [f'{row["objects"]:,}' for row in objects]))
    title = 'AP by size: square root of the area in pixels (%)'
    return [Table(title, [row['size'] for row in objects], rows)]


def classes_table(summary: Summary) -> Table:
    """Return the figures of all classes, by the difference to the first baseline if there is one.

    Each baseline adds a column of differences and one of their intervals.
    """
    names = [*AP_FIGURES, list(summary.breakdown.figures)[-4]]
    rows, columns = list(summary.breakdown.per_class), list(names)
    compared = [{row['id']: row for row in c.per_class} for c in summary.comparisons]
    if compared:
        rows.sort(key=lambda row: -(compared[0][row['id']]['difference'] or 0))
    for comparison in summary.comparisons:
        columns += [f'over {comparison.name}', f'{_level(comparison)} interval']

    def cells(row: dict[str, Any]) -> list[str]:
        against = [of_class[row['id']] for of_class in compared]
        return [
            *percents([row[name] for name in names]),
            *(c for r in against for c in (percent(r['difference'], True), _interval(r))),
            f'{row["objects"]:,}',
            f'{row["detections"]:,}',
        ]

    return Table(
        'By class (%)',
        [*columns, 'objects', 'detections'],
        [(row['name'], cells(row)) for row in rows],
    )


def differing_classes(comparison: Comparison, most: int) -> Table:
    """Return the classes whose AP differs most from a baseline's."""
    return Table(
        f'Classes that differ most from {comparison.name}',
        ['AP', 'baseline', 'difference', f'{_level(comparison)} interval'],
        [(row['name'], [*_compared(row), _interval(row)]) for row in comparison.per_class[:most]],
    )


def differing_images(comparison: Comparison, most: int) -> Table:
    """Return the images whose own AP differs most from a baseline's."""
    return Table(
        f'Images that differ most from {comparison.name} (AP of the image alone)',
        ['AP', 'baseline', 'difference'],
        [(r['file_name'] or str(r['id']), _compared(r)) for r in comparison.per_image[:most]],
    )


def print_tables(tables: Sequence[Table], console: Console | None = None) -> None:
    """Print tables on a console, standard output by default."""
    # Into a file or a pipe Rich would squeeze tables into 80 columns.
    console = console or (Console() if sys.stdout.isatty() else Console(width=140))
    for table in tables:
        console.print(Text(table.title, style='bold'))
        grid = RichTable(show_edge=False)
        grid.add_column('')
        for column in table.columns:
            grid.add_column(Text(column), justify='right', no_wrap=True)
        for label, cells in table.rows:
            # Names come from files and may hold what Rich takes for markup.
            grid.add_row(*map(Text, (label, *cells)))
        # Labels may be broken. Of figures, where they have no room, Rich would leave nothing.
        needed = Measurement.get(console, console.options.update(max_width=10_000), grid).maximum
        needed -= max([0, *(cell_len(label) - 24 for label, _ in table.rows)])
        if needed > console.width:
            grid.width = needed
        console.print(grid, crop=False)
        if table.caption:
            console.print(Text(table.caption, style='dim'))
        console.print()


def markdown(summary: Summary) -> str:
    """Return the six AP figures as a Markdown table for a paper or README, in percent."""
    table = figures_table(summary)
    lines = [
        '| | ' + ' | '.join(table.columns) + ' |',
        '|---|' + '---:|' * len(table.columns),
        *('| ' + ' | '.join([r[0].strip().replace('|', '\\|'), *r[1]]) + ' |' for r in table.rows),
    ]
    return '\n'.join(lines + ([''] + [f'{table.caption}.'] if table.caption else [])) + '\n'


def csv_text(breakdown: Breakdown) -> str:
    """Return a CSV line for all classes and for each, with fractions at full precision."""
    names = list(breakdown.figures)
    total = {
        'id': '',
        'name': 'all',
        **breakdown.figures,
        'objects': breakdown.counts['objects']['all'],
        'detections': breakdown.counts['detections']['all'],
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['class', 'id', *names, 'objects', 'detections'])
    for row in [total, *breakdown.per_class]:
        cells = ['' if row[name] is None else repr(row[name]) for name in names]
        writer.writerow([row['name'], row['id'], *cells, row['objects'], row['detections']])
    return text.getvalue()


def _counts_table(breakdown: Breakdown) -> Table:
    counts = breakdown.counts
    return Table(
        f'Counted in {counts["images"]} images, {counts["categories"]} classes; '
        f'{counts["images_without_detections"]} of {counts["images"]} images have no detection',
        list(counts['objects']),
        [
            (kind, [f'{count:,}' for count in counts[kind].values()])
            for kind in ('objects', 'crowds', 'detections')
        ],
    )


def _of(breakdown: Breakdown) -> str:
    return '' if breakdown.iou_type == 'bbox' else ' of masks'


def _level(comparison: Comparison) -> str:
    return f'{100 * comparison.confidence:.0f} %'


def _interval(row: dict[str, float | None]) -> str:
    if row['low'] is None:
        return '-'
    return f'[{percent(row["low"], signed=True)}, {percent(row["high"], signed=True)}]'


def _compared(row: dict[str, Any]) -> list[str]:
    values = percents([row['measured'], row['baseline']])
    return [*values, percent(row['difference'], signed=True)]
