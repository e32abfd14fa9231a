"""Everything that was found out, as one JSON object."""

from __future__ import annotations

from typing import Any

from lip_mmdet.evaluation.breakdown import Breakdown
from lip_mmdet.evaluation.comparison import Comparison
from lip_mmdet.evaluation.references import Reference, differences


def as_json(
    breakdown: Breakdown,
    reference: Reference | None = None,
    comparison: Comparison | None = None,
    notes: list[str] | None = None,
) -> dict[str, Any]:
    """Return the content of ``--out-json``: the figures at the top, fractions throughout."""
    content = breakdown.as_json()
    content['notes'] = notes or []
    if reference is not None:
        content['reference'] = {
            'name': reference.name,
            'title': reference.title,
            'split': reference.split,
            'source': reference.source,
            'figures': reference.figures,
            'differences': differences(breakdown.figures, reference.figures),
        }
    if comparison is not None:
        content['baseline'] = comparison.as_json()
    return content
