"""Figures as tables: for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from lip_mmdet.evaluation.figures import AP_FIGURES, AR_FIGURES


def percent(fraction: float | None) -> str:
    """Write a fraction in percent with one decimal, as papers do; a dash for None."""
    return '-' if fraction is None else f'{100 * fraction:.1f}'


def print_figures(scores: dict[str, float | None], console: Console | None = None) -> None:
    """Print the AP and the AR figures in percent.

    Args:
        scores: from :func:`lip_mmdet.evaluation.figures`.
    """
    console = console or Console()
    for names in (AP_FIGURES, AR_FIGURES):
        table = Table(show_edge=False)
        for name in names:
            table.add_column(name, justify='right')
        table.add_row(*(percent(scores[name]) for name in names))
        console.print(table)
