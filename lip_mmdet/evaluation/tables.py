"""Figures as tables: on the terminal, as Markdown, as CSV."""

from __future__ import annotations

import csv
import io
import sys
from typing import List, Sequence, Tuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lip_mmdet.evaluation.accumulation import AP_FIGURES, recall_names
from lip_mmdet.evaluation.breakdown import Breakdown
from lip_mmdet.evaluation.comparison import Comparison
from lip_mmdet.evaluation.references import Reference, differences

# A row of a table: its label and its cells.
Row = Tuple[str, List[str]]


def percent(fraction: float | None, signed: bool = False) -> str:
    """Write a fraction in percent with one decimal, as papers do; a dash for None."""
    if fraction is None:
        return '-'
    return f'{100 * fraction:+.1f}' if signed else f'{100 * fraction:.1f}'


def figure_rows(
    breakdown: Breakdown,
    names: Sequence[str],
    label: str,
    reference: Reference | None = None,
) -> list[Row]:
    """Return the measured row, and the published one with the differences if there is one."""
    rows = [(label, [percent(breakdown.figures[name]) for name in names])]
    if reference is not None:
        gaps = differences(breakdown.figures, reference.figures)
        rows.append(
            (
                f'{reference.name} ({reference.split})',
                [percent(reference.figures.get(name)) for name in names],
            )
        )
        rows.append(('difference', [percent(gaps[name], signed=True) for name in names]))
    return rows


def print_breakdown(
    breakdown: Breakdown,
    label: str = 'measured',
    reference: Reference | None = None,
    per_class: bool = False,
    console: Console | None = None,
) -> None:
    """Print the figures in percent, by IoU threshold, and what was counted.

    Args:
        breakdown: from :func:`lip_mmdet.evaluation.break_down`.
        label: the name of the measured row.
        reference: a published row to print below the measured one.
        per_class: print the table of classes too.
        console: where to print; standard output by default.
    """
    console = console or _console()
    ap_rows = figure_rows(breakdown, AP_FIGURES, label, reference)
    recalls = recall_names(breakdown.figures)
    ar_rows = figure_rows(breakdown, recalls, label)
    of = '' if breakdown.iou_type == 'bbox' else ' of masks'
    _print_table(console, f'Average precision{of} (%)', AP_FIGURES, ap_rows)
    if reference is not None:
        console.print(Text(f'{reference.title}: {reference.source}', style='dim'))
    _print_table(console, f'Average recall{of} (%)', recalls, ar_rows)
    _print_table(
        console,
        'By IoU threshold (%)',
        [f'{row["IoU"]:.2f}' for row in breakdown.per_iou],
        [(key, [percent(row[key]) for row in breakdown.per_iou]) for key in ('AP', 'AR')],
    )
    counts = breakdown.counts
    _print_table(
        console,
        f'Counted in {counts["images"]} images, {counts["categories"]} classes; '
        f'{counts["images_without_detections"]} of {counts["images"]} images have no detection',
        list(counts['objects']),
        [
            (kind, [f'{count:,}' for count in counts[kind].values()])
            for kind in ('objects', 'crowds', 'detections')
        ],
    )
    if per_class:
        names = [*AP_FIGURES, recalls[-4]]
        _print_table(
            console,
            'By class (%)',
            [*names, 'objects', 'detections'],
            [(row['name'], _class_cells(row, names)) for row in breakdown.per_class],
        )


def interval(row: dict[str, float | None]) -> str:
    """Write the interval of a compared figure in percentage points."""
    if row['low'] is None:
        return '-'
    return f'[{percent(row["low"], signed=True)}, {percent(row["high"], signed=True)}]'


def print_comparison(comparison: Comparison, most: int = 5, console: Console | None = None) -> None:
    """Print the difference to the baseline with its intervals, and where it is largest.

    Args:
        comparison: from :func:`lip_mmdet.evaluation.compare`.
        most: how many classes and images to print.
        console: where to print; standard output by default.
    """
    console = console or _console()
    level = f'{100 * comparison.confidence:.0f} %'
    rows = comparison.figures.values()
    _print_table(
        console,
        f'Against the baseline (points; {level} of {comparison.resamples} paired resamples)',
        AP_FIGURES,
        [
            ('baseline', [percent(row['baseline']) for row in rows]),
            ('difference', [percent(row['difference'], signed=True) for row in rows]),
            ('from', [percent(row['low'], signed=True) for row in rows]),
            ('to', [percent(row['high'], signed=True) for row in rows]),
        ],
    )
    columns = ['AP', 'baseline', 'difference']
    _print_table(
        console,
        'Classes that differ most',
        [*columns, f'{level} interval'],
        [(row['name'], [*_compared(row), interval(row)]) for row in comparison.per_class[:most]],
    )
    _print_table(
        console,
        'Images that differ most (AP of the image alone)',
        columns,
        [
            (row['file_name'] or str(row['id']), _compared(row))
            for row in comparison.per_image[:most]
        ],
    )


def markdown(breakdown: Breakdown, label: str, reference: Reference | None = None) -> str:
    """Return the six AP figures as a Markdown table for a paper or README, in percent."""
    rows = figure_rows(breakdown, AP_FIGURES, label, reference)
    lines = [
        '| | ' + ' | '.join(AP_FIGURES) + ' |',
        '|---|' + '---:|' * len(AP_FIGURES),
        *('| ' + ' | '.join([name.replace('|', '\\|'), *cells]) + ' |' for name, cells in rows),
    ]
    if reference is not None:
        lines += ['', f'{reference.title}: {reference.source}.']
    return '\n'.join(lines) + '\n'


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


def _console() -> Console:
    # Into a file or a pipe Rich would squeeze tables into 80 columns.
    return Console() if sys.stdout.isatty() else Console(width=140)


def _class_cells(row: dict, names: Sequence[str]) -> list[str]:
    cells = [percent(row[name]) for name in names]
    return [*cells, f'{row["objects"]:,}', f'{row["detections"]:,}']


def _compared(row: dict) -> list[str]:
    return [
        percent(row['measured']),
        percent(row['baseline']),
        percent(row['difference'], signed=True),
    ]


def _print_table(console: Console, title: str, columns: Sequence[str], rows: list[Row]) -> None:
    console.print(Text(title, style='bold'))
    table = Table(show_edge=False)
    table.add_column('')
    for column in columns:
        table.add_column(column, justify='right', no_wrap=True)
    for label, cells in rows:
        # Names come from files and may hold what Rich takes for markup.
        table.add_row(*map(Text, (label, *cells)))
    console.print(table)
    console.print()
