"""Everything that was found out of a detector, as tables and reports show it and JSON holds it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Sequence

from lip_mmdet.evaluation.breakdown import Breakdown
from lip_mmdet.evaluation.comparison import Arm, Comparison
from lip_mmdet.evaluation.published import Reference, differences


@dataclass(frozen=True)
class Summary:
    """What was found out.

    Attributes:
        breakdown: of the detector, the mean over its trainings.
        label: its name.
        arms: the detector and the baselines; empty where figures alone are shown.
        comparisons: with each baseline.
        reference: a published row to compare with.
        sizes: name of a detector to its AP by size of the objects.
        notes: what a reader of the figures should know.
    """

    breakdown: Breakdown
    label: str = 'measured'
    arms: Sequence[Arm] = ()
    comparisons: Sequence[Comparison] = ()
    reference: Reference | None = None
    sizes: dict[str, list[dict[str, Any]]] | None = None
    notes: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the content of ``--out-json``: the figures at the top, fractions throughout."""
        content = {**self.breakdown.as_json(), 'notes': list(self.notes)}
        if self.reference is not None:
            gaps = differences(self.breakdown.figures, self.reference.figures)
            content['reference'] = {**asdict(self.reference), 'differences': gaps}
        if len(self.arms) > 1 or any(len(arm.runs) > 1 for arm in self.arms):
            content['arms'] = [arm.as_json() for arm in self.arms]
        if self.comparisons:
            content['comparisons'] = [comparison.as_json() for comparison in self.comparisons]
        if self.sizes:
            content['sizes'] = self.sizes
        return content
