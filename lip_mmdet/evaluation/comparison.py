"""Is one detector better than another, or were the images kind to it?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lip_mmdet.evaluation.backends import CocoEvaluation
from lip_mmdet.evaluation.figures import AP_FIGURES, figures
from lip_mmdet.evaluation.ground_truth import GroundTruth
from lip_mmdet.evaluation.matches import CategoryMatches
from lip_mmdet.evaluation.weighted_ap import interpolated_ap, weighted_figures


@dataclass(frozen=True)
class Comparison:
    """A detector against a baseline on the same images; differences are detector minus baseline.

    Attributes:
        figures: for each AP figure ``measured``, ``baseline``, ``difference`` and the ``low`` and
            ``high`` end of its interval; fractions, None where there is no ground truth.
        per_class: for each category the same of its AP, largest absolute difference first.
        per_image: for each image with ground truth its id, file name, AP of both and their
            difference, largest absolute difference first.
        resamples: how many bootstrap resamples the intervals rest on.
        confidence: the intervals' nominal coverage.
        seed: of the resampling.
    """

    figures: dict[str, dict[str, float | None]]
    per_class: list[dict[str, Any]]
    per_image: list[dict[str, Any]]
    resamples: int
    confidence: float
    seed: int

    def as_json(self, most: int = 20) -> dict[str, Any]:
        """Return what ``--out-json`` holds of it, with the ``most`` extreme images."""
        return {
            'figures': self.figures,
            'per_class': self.per_class,
            'images': self.per_image[:most],
            'resamples': self.resamples,
            'confidence': self.confidence,
            'seed': self.seed,
        }


def compare(
    measured: CocoEvaluation,
    baseline: CocoEvaluation,
    ground_truth: GroundTruth,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare two evaluations of the same annotations by a paired bootstrap over images.

    Each resample draws as many images as there are, with replacement, and counts both detectors on
    the same draw; the interval holds the middle ``confidence`` of the differences (Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).

    Args:
        measured, baseline: evaluations with their matches.
        ground_truth: what both were evaluated on.
        resamples: how many to draw.
        confidence: of the intervals.
        seed: of the draws.
    """
    count = len(measured.image_ids)
    random = np.random.default_rng(seed)
    weights = random.multinomial(count, np.full(count, 1 / count), size=resamples).T
    ours, ours_by_class = weighted_figures(measured, weights)
    theirs, theirs_by_class = weighted_figures(baseline, weights)

    names = ground_truth.category_names
    our_figures, their_figures = figures(measured), figures(baseline)
    per_class = []
    for number, category in enumerate(measured.category_ids.tolist()):
        row = _row(
            figures(measured, number)['AP'],
            figures(baseline, number)['AP'],
            ours_by_class[number] - theirs_by_class[number],
            confidence,
        )
        per_class.append({'id': category, 'name': names[category], **row})
    return Comparison(
        figures={
            name: _row(our_figures[name], their_figures[name], ours[row] - theirs[row], confidence)
            for row, name in enumerate(AP_FIGURES)
        },
        per_class=_largest_first(per_class),
        per_image=_largest_first(_per_image(measured, baseline, ground_truth)),
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )


def image_ap(evaluation: CocoEvaluation) -> np.ndarray:
    """Return AP of each image alone, over the categories it shows; NaN without ground truth.

    Shape (images,). What a detector finds of categories that the image does not show is not in it.
    """
    total = np.zeros(len(evaluation.image_ids))
    for match in evaluation.matches:
        for image, ap in _image_ap_of_category(match):
            total[image] += ap
    shown = np.stack([match.truth_counts[0] > 0 for match in evaluation.matches]).sum(axis=0)
    return np.where(shown > 0, total / np.maximum(shown, 1), np.nan)


def _image_ap_of_category(match: CategoryMatches) -> list[tuple[int, float]]:
    counted = ~match.ignored[0]
    hits = counted & (match.truth_ids[0] > 0)
    images = np.flatnonzero(match.truth_counts[0])
    starts = np.searchsorted(match.image, images, side='left')
    ends = np.searchsorted(match.image, images, side='right')
    result = []
    for image, start, end in zip(images.tolist(), starts.tolist(), ends.tolist()):
        if not hits[:, start:end].any():
            continue
        # One column for each IoU threshold; rows where nothing is hit add nothing.
        found = np.cumsum(hits[:, start:end].T, axis=0)
        total = np.cumsum(counted[:, start:end].T, axis=0)
        truth = np.full(found.shape[1], match.truth_counts[0, image])
        defined = found[-1] > 0
        ap = np.where(defined, interpolated_ap(found, total, truth), 0)
        result.append((image, float(ap.mean())))
    return result


def _per_image(
    measured: CocoEvaluation, baseline: CocoEvaluation, truth: GroundTruth
) -> list[dict[str, Any]]:
    rows = []
    for image, ours, theirs in zip(
        measured.image_ids.tolist(), image_ap(measured), image_ap(baseline)
    ):
        if np.isnan(ours):
            continue
        rows.append(
            {
                'id': image,
                'file_name': truth.file_names[image],
                'measured': float(ours),
                'baseline': float(theirs),
                'difference': float(ours - theirs),
            }
        )
    return rows


def _row(
    measured: float | None, baseline: float | None, differences: np.ndarray, confidence: float
) -> dict[str, float | None]:
    if measured is None or baseline is None:
        return dict.fromkeys(('measured', 'baseline', 'difference', 'low', 'high'))
    # A resample may lack a rare category or area; the interval is of those that have it.
    defined = differences[~np.isnan(differences)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return {
        'measured': measured,
        'baseline': baseline,
        'difference': measured - baseline,
        'low': float(low),
        'high': float(high),
    }


def _largest_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: -abs(row['difference'] or 0))
