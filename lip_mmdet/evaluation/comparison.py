"""Is one detector better than another, or were the images, or the seeds, kind to it?"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Sequence

import numpy as np

from lip_mmdet.evaluation.accumulation import (
    AP_FIGURES,
    CocoEvaluation,
    average_precision,
    figures,
)
from lip_mmdet.evaluation.ground_truth import GroundTruth
from lip_mmdet.evaluation.resampling import resampled_figures

# Fewer trainings say little of how much a figure varies between trainings.
_FEW = 3
# Images that differ most, in JSON.
_MOST = 20


@dataclass(frozen=True)
class Arm:
    """A detector that was trained once, or several times with different seeds.

    Attributes:
        name: of the detector.
        files: its results, one for each training.
        runs: their evaluations, all of the same annotations.
    """

    name: str
    files: Sequence[str]
    runs: Sequence[CocoEvaluation]

    def figures(self) -> dict[str, dict[str, Any]]:
        """Return of each AP figure ``mean``, ``std`` and ``values`` over the trainings.

        Fractions, None where there is no ground truth; the standard deviation is that of a sample,
        None for one training.
        """
        runs = [figures(run) for run in self.runs]
        rows = {}
        for name in AP_FIGURES:
            values = [run[name] for run in runs]
            spread = len(values) > 1 and values[0] is not None
            rows[name] = {
                'mean': mean_known(values),
                'std': float(np.std(values, ddof=1)) if spread else None,
                'values': values,
            }
        return rows

    def as_json(self) -> dict[str, Any]:
        """Return what ``--out-json`` holds of it."""
        return {'name': self.name, 'files': list(self.files), 'figures': self.figures()}


@dataclass(frozen=True)
class Comparison:
    """A detector against a baseline on the same images; differences are detector minus baseline.

    Attributes:
        name: of the baseline.
        figures: for each AP figure ``measured``, ``baseline``, ``difference``, the ``low`` and
            ``high`` end of its interval, and ``sign_turns``, the share of the resamples in which
            the difference has another sign; fractions, None where there is no ground truth.
        per_class: for each category the same of its AP, largest absolute difference first.
        per_image: for each image with ground truth its id, file name, AP of both and their
            difference, largest absolute difference first.
        resamples: how many bootstrap resamples the intervals rest on.
        confidence: the intervals' nominal coverage.
        seed: of the resampling.
        remark: what the intervals are of.
    """

    name: str
    figures: dict[str, dict[str, float | None]]
    per_class: list[dict[str, Any]]
    per_image: list[dict[str, Any]]
    resamples: int
    confidence: float
    seed: int
    remark: str

    def as_json(self) -> dict[str, Any]:
        """Return what ``--out-json`` holds of it, with the images that differ most."""
        return asdict(replace(self, per_image=self.per_image[:_MOST]))


def compare(
    measured: Arm,
    baselines: Sequence[Arm],
    ground_truth: GroundTruth,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Comparison]:
    """Compare a detector with others by a paired bootstrap over images and trainings.

    Each resample draws as many images as there are, with replacement, and counts all detectors on
    the same draw; of a detector that was trained n times it draws n trainings, too. The interval
    holds the middle ``confidence`` of the differences (Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993, chapter 13). The mean of n trainings that were drawn varies by n - 1 parts in n
    of what the mean of n new ones would; its deviation is widened so that it varies by as much.

    Args:
        measured: the detector.
        baselines: evaluated on the same annotations.
        ground_truth: those annotations.
        resamples: how many to draw.
        confidence: of the intervals.
        seed: of the draws.
    """
    arms = [measured, *baselines]
    drawn = iter(resampled_figures([run for arm in arms for run in arm.runs], resamples, seed))
    ours, *others = [
        _Drawn(arm, np.stack([next(drawn) for _ in arm.runs]), np.random.default_rng((seed, n)))
        for n, arm in enumerate(arms)
    ]
    return [
        Comparison(
            theirs.arm.name,
            *_differences(ours, theirs, ground_truth, confidence),
            resamples=resamples,
            confidence=confidence,
            seed=seed,
            remark=_remark(len(ours.arm.runs), len(theirs.arm.runs)),
        )
        for theirs in others
    ]


def mean_known(values: Sequence[float | None]) -> float | None:
    """Return the mean over trainings, None where there is no ground truth, so in all of them."""
    return None if values[0] is None else float(np.mean(values))


class _Drawn:
    """The six figures of an arm and AP of each category, also on resamples, shape (6 + K, B)."""

    def __init__(self, arm: Arm, drawn: np.ndarray, random: np.random.Generator) -> None:
        count = len(arm.runs)
        share = random.multinomial(count, np.full(count, 1 / count), drawn.shape[2]).T / count
        classes = range(len(arm.runs[0].category_ids))
        by_class = [mean_known([figures(run, k)['AP'] for run in arm.runs]) for k in classes]
        self.arm = arm
        self.figures = [*(row['mean'] for row in arm.figures().values()), *by_class]
        self.drawn = _of_trainings(drawn, share)
        self.by_image = np.mean([image_ap(run) for run in arm.runs], axis=0)


def _of_trainings(values: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return the mean over drawn trainings, for values of shape (n, figures, B), share (n, B)."""
    mean = values.mean(axis=0)
    widened = np.sqrt(len(values) / max(len(values) - 1, 1))
    return mean + widened * ((values * share[:, None]).sum(axis=0) - mean)


def image_ap(evaluation: CocoEvaluation) -> np.ndarray:
    """Return AP of each image alone, over the categories it shows; NaN without ground truth.

    Shape (images,). What a detector finds of categories that the image does not show is not in it.
    """
    matches, classes = evaluation.matches, len(evaluation.category_ids)
    wanted = matches.wanted[0]
    shown = matches.object_image[wanted] * classes + matches.object_category[wanted]
    shown, wanted = np.unique(shown, return_counts=True)
    group = matches.image * classes + matches.category
    rows = np.flatnonzero(np.isin(group, shown))
    rows = rows[np.lexsort((matches.rank[rows], group[rows]))]
    group = np.searchsorted(shown, group[rows])
    total = np.zeros(len(shown))
    for threshold in range(len(evaluation.iou_thresholds)):
        counted, hit = (column[rows] for column in matches.outcome(0, threshold))
        total += average_precision(group, counted, hit, wanted)
    count = len(evaluation.image_ids)
    categories = np.bincount(shown // classes, minlength=count)
    total = np.bincount(shown // classes, weights=total, minlength=count)
    with np.errstate(invalid='ignore'):  # an image that shows none
        return total / len(evaluation.iou_thresholds) / categories


def _differences(
    ours: _Drawn, theirs: _Drawn, truth: GroundTruth, confidence: float
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of a :class:`Comparison`: of figures, classes and images."""
    columns = (ours.figures, theirs.figures, ours.drawn - theirs.drawn)
    rows = [_row(*column, confidence) for column in zip(*columns)]
    categories = zip(ours.arm.runs[0].category_ids.tolist(), rows[len(AP_FIGURES) :])
    per_class = [{'id': c, 'name': truth.category_names[c], **row} for c, row in categories]
    images = zip(truth.image_ids.tolist(), ours.by_image.tolist(), theirs.by_image.tolist())
    per_image = [
        {'id': image, 'file_name': truth.file_names[image], **_differing(*ap)}
        for image, *ap in images
        if not np.isnan(ap[0])
    ]
    return dict(zip(AP_FIGURES, rows)), _largest_first(per_class), _largest_first(per_image)


def _remark(ours: int, theirs: int) -> str:
    """Say what intervals are of that rest on so many trainings of either detector."""
    if ours == theirs == 1:
        return 'intervals of the images; how much training again would change is not in them'
    what = f'intervals of the images and of {ours} and {theirs} trainings'
    if min(ours, theirs) == 1:
        return f'{what}; of one training nobody knows how others would vary: they are too narrow'
    if min(ours, theirs) < _FEW:
        return f'{what}; fewer than {_FEW} trainings say little of how others would vary'
    return what


def _differing(measured: float | None, baseline: float | None) -> dict[str, float | None]:
    known = measured is not None and baseline is not None
    difference = measured - baseline if known else None
    return {'measured': measured, 'baseline': baseline, 'difference': difference}


def _row(
    measured: float | None, baseline: float | None, drawn: np.ndarray, confidence: float
) -> dict[str, float | None]:
    row = _differing(measured, baseline)
    # A resample may lack a rare category or area; the interval is of those that have it.
    drawn = drawn[~np.isnan(drawn)]
    if row['difference'] is None or not drawn.size:
        return {**row, 'low': None, 'high': None, 'sign_turns': None}
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    turned = np.mean(np.sign(drawn) != np.sign(row['difference']))
    return {**row, 'low': float(low), 'high': float(high), 'sign_turns': float(turned)}


def _largest_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: -abs(row['difference'] or 0))
