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

import numpy as np
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.fileio import get_local_path
from mmengine.logging import MMLogger
from rich.console import Console

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation.accumulation import AP_FIGURES, LIMITS, choose_backend, evaluate
from lip_mmdet.evaluation.breakdown import break_down
from lip_mmdet.evaluation.coco_file import CocoFile, Records, read_coco
from lip_mmdet.evaluation.detections import Detections
from lip_mmdet.evaluation.ground_truth import GroundTruth, ground_truth_of
from lip_mmdet.evaluation.masks import masks_of
from lip_mmdet.evaluation.numbering import plain
from lip_mmdet.evaluation.summary import Summary
from lip_mmdet.evaluation.tables import print_tables, tables_of

# The names that MMDetection gives the figures; recalls have the limits in theirs.
_NAMES = {
    'AP': 'mAP',
    'AP50': 'mAP_50',
    'AP75': 'mAP_75',
    'APS': 'mAP_s',
    'APM': 'mAP_m',
    'APL': 'mAP_l',
}


@METRICS.register_module()
class LIPCocoMetric(CocoMetric):
    """AP and AR of boxes and masks with COCO's limits, and a breakdown in the log.

    Reports ``coco/bbox_mAP``, ``_50``, ``_75``, ``_s``, ``_m``, ``_l`` and ``coco/bbox_AR@1``,
    ``@10``, ``@100``, ``coco/bbox_AR_s@100``, ``_m``, ``_l``, of masks the same with ``segm``; -1
    where there is no ground truth, as in MMDetection. Without any detection the figures are 0. A
    box or score that is not finite is left out, with one warning. Other arguments are
    ``CocoMetric``'s.

    Args:
        ann_file: COCO annotations; the dataset's own by default.
        metric: ``'bbox'``, ``'segm'`` or a list of these.
        proposal_nums: limits of detections of a class in an image, rising; all but the recalls at
            lower limits count by the last.
        iou_thrs: IoU thresholds to average over, COCO's by default.
        metric_items: which figures to report, such as ``['mAP', 'AR@100']``.
        classwise: report ``coco/<class>_precision`` too, and log the classes.
        eval_backend: ``'auto'`` or ``'pycocotools'``, which has it compute the figures.

    Raises:
        InputError: another metric, limits that do not rise, an unknown figure, an
            unknown backend, or an annotation file that cannot be scored.

    Example:
        >>> val_evaluator = dict(type='LIPCocoMetric', ann_file='data/coco/annotations/...json')
    """

    def __init__(
        self,
        ann_file: str | None = None,
        metric: str | list[str] = 'bbox',
        proposal_nums: Sequence[int] = LIMITS,
        iou_thrs: float | Sequence[float] | None = None,
        metric_items: Sequence[str] | None = None,
        classwise: bool = False,
        eval_backend: str = 'auto',
        **kwargs: Any,
    ) -> None:
        metrics = list(metric) if isinstance(metric, (list, tuple)) else [metric]
        if not metrics or set(metrics) - {'bbox', 'segm'} or len(set(metrics)) < len(metrics):
            raise InputError(
                f'LIPCocoMetric scores boxes and masks, bbox and segm; use CocoMetric for '
                f'metric={metric!r}'
            )
        limits = tuple(proposal_nums)
        if not limits or list(limits) != sorted(set(limits)) or limits[0] < 1:
            raise InputError(f'LIPCocoMetric: proposal_nums is {limits}; limits rise, as {LIMITS}')
        choose_backend(eval_backend)
        self._names = {
            **_NAMES,
            **{f'AR{limit}': f'AR@{limit}' for limit in limits},
            **{f'AR{size.upper()}': f'AR_{size}@{limits[-1]}' for size in 'sml'},
        }
        unknown = [item for item in metric_items or () if item not in self._names.values()]
        if unknown:
            raise InputError(
                f'LIPCocoMetric has no metric_items {unknown}; there are '
                f'{", ".join(self._names.values())}'
            )
        super().__init__(
            metric=metrics,
            proposal_nums=proposal_nums,
            metric_items=metric_items,
            classwise=classwise,
            **kwargs,
        )
        self.iou_thrs = None if iou_thrs is None else np.atleast_1d(iou_thrs)
        self.eval_backend = eval_backend
        self._file: CocoFile | None = None
        self._truths: dict[str, GroundTruth] = {}
        if ann_file is not None:
            with get_local_path(ann_file, backend_args=self.backend_args) as path:
                self._read(path, labels=not self.format_only)
            # `CocoMetric.process` asks whether there are annotations beside the samples'.
            self._coco_api = self._file
        self._warned = False

    def _read(self, path: str, labels: bool) -> None:
        self._file = read_coco(path, masks='segm' in self.metrics)
        for metric in self.metrics:
            self._truths[metric] = ground_truth_of(self._file, labels, masks=metric == 'segm')

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Score all detections of an epoch; see the class for the names."""
        logger = MMLogger.get_current_instance()
        truths, predictions = zip(*results)
        with tempfile.TemporaryDirectory() as folder:
            prefix = self.outfile_prefix or str(Path(folder) / 'results')
            if self._file is None:
                self._read(self.gt_to_coco_json(truths, prefix), labels=False)
            classes = self.dataset_meta['classes']
            categories = self._file.categories
            # Label k is the file's k-th category that is one of the classes, as in `CocoDataset`.
            named = [row for row, name in enumerate(categories['name']) if name in classes]
            self.cat_ids = [categories['id'][row] for row in named]
            if self.outfile_prefix or self.format_only:
                self.results2json(predictions, prefix)
        if self.format_only:
            logger.info(f'results are saved in {Path(prefix).parent}')
            return {}
        values: dict[str, float] = {}
        for metric, truth in self._truths.items():
            values.update(self._score(metric, truth, predictions, named, logger))
        return values

    def _score(
        self,
        metric: str,
        truth: GroundTruth,
        predictions: Sequence[dict],
        named: list[int],
        logger: MMLogger,
    ) -> dict[str, float]:
        label_ids = truth.category_numbers.values[named]
        detections = self._detections(metric, truth, predictions, label_ids, logger)
        for note in truth.notes + detections.notes:
            (logger.warning if note.startswith('warning') else logger.info)(note)
        evaluation = evaluate(
            truth,
            detections,
            self.eval_backend,
            category_ids=label_ids,
            max_detections=tuple(self.proposal_nums),
            iou_thresholds=self.iou_thrs,
        )
        breakdown = break_down(evaluation, truth, detections)
        text = io.StringIO()
        tables = tables_of(Summary(breakdown), self.classwise)
        print_tables(tables, Console(file=text, width=120))
        logger.info(f'\n{text.getvalue()}')
        values = ' '.join(f'{_number(breakdown.figures[name]):.3f}' for name in AP_FIGURES)
        logger.info(f'{metric}_mAP_copypaste: {values}')

        figures = {self._names[figure]: _number(v) for figure, v in breakdown.figures.items()}
        reported = {f'{metric}_{item}': figures[item] for item in self.metric_items or figures}
        if self.classwise:
            for row in breakdown.per_class:
                reported[f'{row["name"]}_precision'] = _number(row['AP'])
        return reported

    def _detections(
        self,
        metric: str,
        truth: GroundTruth,
        predictions: Sequence[dict],
        label_ids: np.ndarray,
        logger: MMLogger,
    ) -> Detections:
        """Return an epoch's predictions; what is not finite or of no known image is left out."""
        counts = [len(p['scores']) for p in predictions]
        image, known = truth.image_numbers.of_labels([plain(p['img_id']) for p in predictions])
        boxes, labels = (
            np.concatenate([np.asarray(p[key]) for p in predictions])
            for key in ('bboxes', 'labels')
        )
        boxes = boxes.reshape(-1, 4).astype(np.float64)
        key, shapes = 'scores', boxes
        if metric == 'segm':
            if 'masks' not in predictions[0]:
                raise InputError('LIPCocoMetric(metric="segm"): the model predicts no masks')
            # Some heads score masks by themselves.
            key = 'mask_scores' if 'mask_scores' in predictions[0] else 'scores'
            shapes = np.zeros((len(boxes), 4))  # the masks' own
        scores = np.concatenate([np.asarray(p[key]) for p in predictions])
        with np.errstate(invalid='ignore'):  # infinity minus infinity
            # A badly trained head can predict negative sizes; like empty boxes they match nothing.
            boxes[:, 2:] = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
        finite = np.isfinite(shapes).all(axis=1) & np.isfinite(scores)
        if not finite.all() and not self._warned:
            self._warned = True
            logger.warning(
                f'warning: {(~finite).sum()} of {len(finite)} predictions are not finite numbers; '
                'such boxes are left out, here and in later epochs'
            )
        kept = np.flatnonzero(finite & np.repeat(known, counts) & (labels < len(label_ids)))
        image, notes, masks = np.repeat(image, counts)[kept], [], None
        if not len(kept):
            notes.append('warning: predictions: no detections: every figure with ground truth is 0')
        if metric == 'segm':
            codes = [code for p in predictions for code in p['masks']]
            records = Records('detection', 'predictions', {'segmentation': codes})
            masks = masks_of(records, kept, truth.sizes_of(image), notes)
        return Detections(
            source='predictions',
            image=image,
            category=label_ids[labels[kept].astype(np.int64)],
            boxes=boxes[kept] if masks is None else masks.boxes,
            scores=scores[kept].astype(np.float64),
            notes=notes,
            masks=masks,
        )


def _number(figure: float | None) -> float:
    return -1.0 if figure is None else figure
