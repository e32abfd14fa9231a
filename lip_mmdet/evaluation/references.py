"""Published results to stand beside measured ones; ``data/published.json`` names each source."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lip_mmdet.errors import InputError

_FILE = Path(__file__).resolve().parent / 'data' / 'published.json'


@dataclass(frozen=True)
class Reference:
    """One published row.

    Attributes:
        name: what ``--reference`` takes.
        title: backbone and detector.
        split: ``'minival'`` (val2017) or ``'test-dev'``.
        figures: fractions, for the figures that were published.
        source: where.
    """

    name: str
    title: str
    split: str
    figures: dict[str, float]
    source: str


def references() -> dict[str, Reference]:
    """Return the published rows by name."""
    rows = json.loads(_FILE.read_text(encoding='utf-8'))
    return {
        name: Reference(
            name=name,
            title=row['title'],
            split=row['split'],
            figures={figure: percent / 100 for figure, percent in row['figures'].items()},
            source=row['source'],
        )
        for name, row in rows.items()
    }


def find_reference(name: str) -> Reference:
    """Return one published row.

    Raises:
        InputError: no row of that name; the message lists the names.
    """
    rows = references()
    if name.lower() not in rows:
        raise InputError(f'unknown reference {name!r}; there are {", ".join(rows)}')
    return rows[name.lower()]


def differences(
    measured: dict[str, float | None], reference: dict[str, float]
) -> dict[str, float | None]:
    """Return measured minus published, None where either is missing."""
    return {
        name: None if value is None or name not in reference else value - reference[name]
        for name, value in measured.items()
    }
