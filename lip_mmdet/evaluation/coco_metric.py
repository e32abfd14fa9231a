"""COCO's own figures during MMDetection's ``val`` and ``test``, at full precision.

MMDetection's ``CocoMetric`` allows 1000 detections an image for AP50, AP75 and the areas, and
rounds to three decimals. This one has COCO's limits of 1, 10 and 100 and computes as
``tools/eval_coco.py`` does.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any, Sequence

from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.logging import MMLogger
from rich.console import Console

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation.backends import BACKENDS, evaluate
from lip_mmdet.evaluation.breakdown import Breakdown, break_down
from lip_mmdet.evaluation.detections import Detections, detections_from
from lip_mmdet.evaluation.figures import AP_FIGURES
from lip_mmdet.evaluation.ground_truth import GroundTruth, ground_truth_from
from lip_mmdet.evaluation.json_input import read_json
from lip_mmdet.evaluation.tables import print_breakdown

_LIMITS = (1, 10, 100)
# The names that MMDetection gives the figures.
_NAMES = {
    'AP': 'mAP',
    'AP50': 'mAP_50',
    'AP75': 'mAP_75',
    'APS': 'mAP_s',
    'APM': 'mAP_m',
    'APL': 'mAP_l',
    'AR1': 'AR@1',
    'AR10': 'AR@10',
    'AR100': 'AR@100',
    'ARS': 'AR_s@100',
    'ARM': 'AR_m@100',
    'ARL': 'AR_l@100',
}


@METRICS.register_module()
class LIPCocoMetric(CocoMetric):
    """Box AP and AR with COCO's limits, and a breakdown in the log.

    Reports ``coco/bbox_mAP``, ``_50``, ``_75``, ``_s``, ``_m``, ``_l`` and ``coco/bbox_AR@1``,
    ``@10``, ``@100``, ``coco/bbox_AR_s@100``, ``_m``, ``_l``; -1 where there is no ground truth, as
    in MMDetection. Without any detection the figures are 0. Other arguments are ``CocoMetric``'s.

    Args:
        ann_file: COCO annotations; the dataset's own by default.
        metric: ``'bbox'``, nothing else.
        proposal_nums: COCO's limits, nothing else; there so that configs for ``CocoMetric`` work.
        classwise: report ``coco/<class>_precision`` too, and log the classes.
        eval_backend: ``'auto'``, ``'faster-coco-eval'`` or ``'pycocotools'``.

    Raises:
        InputError: a metric other than ``'bbox'``, other limits, or an unknown backend.

    Example:
        >>> val_evaluator = dict(type='LIPCocoMetric', ann_file='data/coco/annotations/...json')
    """

    def __init__(
        self,
        ann_file: str | None = None,
        metric: str | list[str] = 'bbox',
        proposal_nums: Sequence[int] = _LIMITS,
        classwise: bool = False,
        eval_backend: str = 'auto',
        **kwargs: Any,
    ) -> None:
        if metric not in ('bbox', ['bbox']):
            raise InputError(f'LIPCocoMetric scores boxes; use CocoMetric for metric={metric!r}')
        if tuple(proposal_nums) != _LIMITS:
            raise InputError(
                f'LIPCocoMetric has COCO limits {_LIMITS}; use CocoMetric for proposal_nums='
                f'{tuple(proposal_nums)}'
            )
        if eval_backend not in BACKENDS:
            raise InputError(f'unknown eval_backend {eval_backend!r}; there are {BACKENDS}')
        super().__init__(
            ann_file=ann_file,
            metric=metric,
            proposal_nums=proposal_nums,
            classwise=classwise,
            **kwargs,
        )
        self.eval_backend = eval_backend

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Score all detections of an epoch; see the class for the names."""
        if self.format_only:
            return super().compute_metrics(results)
        logger = MMLogger.get_current_instance()
        with tempfile.TemporaryDirectory() as folder:
            prefix = self.outfile_prefix or str(Path(folder) / 'results')
            truth, detections = self._collect(results, prefix)
        for note in truth.notes + detections.notes:
            logger.warning(note)
        evaluation = evaluate(truth, detections, self.eval_backend, category_ids=self.cat_ids)
        breakdown = break_down(evaluation, truth, detections)
        text = io.StringIO()
        print_breakdown(breakdown, per_class=self.classwise, console=Console(file=text, width=120))
        logger.info(f'\n{text.getvalue()}')
        values = ' '.join(f'{_number(breakdown.figures[name]):.3f}' for name in AP_FIGURES)
        logger.info(f'bbox_mAP_copypaste: {values}')
        return self._named(breakdown)

    def _collect(self, results: list, prefix: str) -> tuple[GroundTruth, Detections]:
        """Return annotations and detections by way of the files that MMDetection writes."""
        truths, predictions = zip(*results)
        if self._coco_api is None:
            self._coco_api = COCO(self.gt_to_coco_json(truths, prefix))
        if self.cat_ids is None:
            self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta['classes'])
        dataset = {'annotations': [], **self._coco_api.dataset}
        truth = ground_truth_from(dataset, 'annotations')
        records = read_json(self.results2json(predictions, prefix)['bbox'], 'results file')
        for record in records:
            # A badly trained head can predict negative sizes; like empty boxes they match nothing.
            record['bbox'][2:] = [max(size, 0.0) for size in record['bbox'][2:]]
        return truth, detections_from(records, truth, 'predictions')

    def _named(self, breakdown: Breakdown) -> dict[str, float]:
        named = {
            f'bbox_{_NAMES[figure]}': _number(value) for figure, value in breakdown.figures.items()
        }
        if self.metric_items is not None:
            named = {f'bbox_{item}': named[f'bbox_{item}'] for item in self.metric_items}
        if self.classwise:
            for row in breakdown.per_class:
                named[f'{row["name"]}_precision'] = _number(row['AP'])
        return named


def _number(figure: float | None) -> float:
    return -1.0 if figure is None else figure
