"""RetinaNet and Faster R-CNN as an ONNX file, boxes included: MMDetection's steps, for a graph.

MMDetection drops rows by their values; in a graph that is to be exported shapes must not depend on
values. So no row is dropped here: one that is not there has a score of 0.
"""

from __future__ import annotations

import functools
import os
from typing import Any, Callable, Sequence

import torch
from mmdet.models import RetinaHead, RPNHead, SingleRoIExtractor, StandardRoIHead
from mmdet.models.task_modules.coders.delta_xywh_bbox_coder import delta2bbox
from torch import Tensor, nn
from torch.nn.functional import pad

from lip_mmdet.engine.export import require_packages, written_onnx
from lip_mmdet.errors import InputError

LARGEST_SCORE_DIFFERENCE = 1e-3
LARGEST_BOX_DIFFERENCE = 0.1  # pixels


class Boxes(nn.Module):
    """What a detector finds, best first; runs once it is an ONNX file.

    Takes normalised images (N, C, H, W) float32 and their sizes without padding, (N, 2) int64 of
    heights and widths. Returns boxes (N, K, 4) as x1, y1, x2, y2 in pixels of these images, scores
    (N, K) and labels (N, K) int64; K is the config's ``max_per_img``, and detections that are not
    there have a score of 0.

    Raises:
        InputError: another kind of detector, another NMS, or no limit to the boxes.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector
        heads = [getattr(detector, name, None) for name in ('bbox_head', 'rpn_head', 'roi_head')]
        heads = [head for head in heads if head is not None]
        if [type(head) for head in heads] not in ([RetinaHead], [RPNHead, StandardRoIHead]) or (
            len(heads) == 2
            and (type(heads[1].bbox_roi_extractor), heads[1].with_shared_head)
            != (SingleRoIExtractor, False)
        ):
            raise InputError(
                '--detector writes RetinaNet and Faster R-CNN with an FPN, not '
                f'{type(detector).__name__} with {", ".join(type(head).__name__ for head in heads)}'
            )
        for nms in (head.test_cfg.nms for head in heads):
            if dict(nms, iou_threshold=0) != dict(type='nms', iou_threshold=0):
                raise InputError(f'--detector writes NMS with an iou_threshold, not {dict(nms)}')
        for head, key in [(heads[0], 'nms_pre'), *((head, 'max_per_img') for head in heads)]:
            if head.test_cfg.get(key, -1) <= 0:
                raise InputError(
                    f'--detector needs {key} above 0 in the test_cfg of {type(head).__name__}'
                )
        self.dense_head, self.roi_head = (*heads, None)[:2]

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        levels = self.detector.extract_feat(images)
        one_stage = self.roi_head is None
        boxes, scores, labels = _dense_boxes(self.dense_head, levels, sizes, one_stage)
        if not one_stage:
            boxes, scores, labels = _roi_boxes(self.roi_head, levels, sizes, boxes, scores)
        return boxes, scores, labels


def export_detector(
    detector: nn.Module, out: str | os.PathLike, images: Sequence[tuple[Tensor, list]]
) -> dict[str, float]:
    """Write a detector in eval mode, as :class:`Boxes`, for any batch, height and width.

    Args:
        detector: on the CPU.
        out: the file to write.
        images: to find in what PyTorch finds; normalised ones, (1, C, H, W), and their samples.

    Returns:
        How many boxes were compared, and their largest differences in pixels and in score.

    Raises:
        InputError: a package is missing, another kind of detector, no boxes, or not the same.
    """
    require_packages()
    names = dict(input_names=['images', 'sizes'], output_names=['boxes', 'scores', 'labels'])
    channels = images[0][0].shape[1]
    example = torch.zeros(2, channels, 256, 384), torch.tensor([[256, 384]] * 2)
    count, pixels, score = 0, 0.0, 0.0
    table = _operators()
    with written_onnx(
        Boxes(detector).eval(), example, out, custom_translation_table=table, **names
    ) as run:
        for number, (batch, samples) in enumerate(images):
            sizes = torch.tensor([sample.img_shape[:2] for sample in samples])
            found = [torch.from_numpy(v)[0] for v in run(batch.numpy(), sizes=sizes.numpy())]
            boxes, scores, labels = (values[found[1] > 0] for values in found)
            with torch.no_grad():
                expected = detector.predict(batch, samples, rescale=False)[0].pred_instances
            shifts = (boxes[:, None] - expected.bboxes).abs().amax(2)
            changes = (scores[:, None] - expected.scores).abs()
            same = (shifts <= LARGEST_BOX_DIFFERENCE) & (changes <= LARGEST_SCORE_DIFFERENCE)
            same &= labels[:, None] == expected.labels
            matched = int(same.any(0).sum())
            if not len(boxes) == len(expected) == matched == int(same.any(1).sum()):
                raise InputError(
                    f'{out} was not written: in image {number + 1} PyTorch finds {len(expected)} '
                    f'boxes, the file {len(boxes)}, and {matched} of them are the same'
                )
            count += matched
            pixels = max([pixels, *shifts[same].tolist()])
            score = max([score, *changes[same].tolist()])
        if not count:
            raise InputError(f'{out} was not written: PyTorch finds no boxes in these images')
    return dict(count=count, pixels=pixels, score=score)


def _dense_boxes(
    head: nn.Module, levels: Sequence[Tensor], sizes: Tensor, one_stage: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What RetinaHead finds, or RPNHead, whose labels are levels."""
    config = head.test_cfg
    logits, deltas = head(levels)
    shapes = [level.shape[-2:] for level in logits]
    priors = head.prior_generator.grid_priors(shapes, device=sizes.device)
    images, rows = sizes.shape[0], []
    for level in range(len(priors)):
        values, shifts = (maps[level].permute(0, 2, 3, 1) for maps in (logits, deltas))
        values = values.reshape(images, -1, head.cls_out_channels)
        values = values.sigmoid() if head.use_sigmoid_cls else values.softmax(-1)[..., :-1]
        scores, index = _highest(values.flatten(1), config.nms_pre)
        prior, label = index // values.shape[2], index % values.shape[2]
        shifts = _take(shifts.reshape(images, -1, 4), prior)
        boxes = _decode(head, priors[level][prior], shifts, sizes)
        large = (boxes[..., 2:] - boxes[..., :2]).amin(2) > config.get('min_bbox_size', -1)
        scores = scores * (large & (scores > config.get('score_thr', 0)))
        rows.append((boxes, scores, label if one_stage else label + level))
    return _apart(*(torch.cat(parts, 1) for parts in zip(*rows)), config)


def _roi_boxes(
    head: nn.Module, levels: Sequence[Tensor], sizes: Tensor, proposals: Tensor, scores: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What StandardRoIHead finds in proposals (N, K, 4)."""
    extractor, box_head, config = head.bbox_roi_extractor, head.bbox_head, head.test_cfg
    images, count = scores.shape
    image = torch.arange(images).repeat_interleave(count)
    rois = proposals.flatten(0, 1)
    targets = extractor.map_roi_levels(pad(rois, (1, 0)), extractor.num_inputs)[:, None]
    features = 0.0
    for level, layer in enumerate(extractor.roi_layers):
        here = targets == level
        mode = 'half_pixel' if layer.aligned else 'output_half_pixel'
        how = (list(layer.output_size), layer.spatial_scale, layer.sampling_ratio, mode)
        # Those of other levels shrink to a point, which costs nothing.
        values = torch.ops.lip_mmdet.roi_align(levels[level], rois * here, image, *how)
        features = features + values * here[..., None, None]
    logits, deltas = box_head(features)
    classes = box_head.num_classes
    values = logits.softmax(-1)[:, :classes].reshape(images, count, classes)
    values = values * ((values > config.score_thr) & (scores > 0)[..., None])
    regressors = 1 if box_head.reg_class_agnostic else classes
    deltas = deltas.reshape(images, count * regressors, 4)
    boxes = _decode(box_head, proposals.repeat_interleave(regressors, 1), deltas, sizes)
    boxes = boxes.repeat_interleave(classes // regressors, 1)
    return _apart(boxes, values.flatten(1), torch.arange(classes).repeat(images, count), config)


def _decode(head: nn.Module, priors: Tensor, deltas: Tensor, sizes: Tensor) -> Tensor:
    """Move priors (N, K, 4) by deltas, and cut them at the images' borders."""
    means, stds = head.bbox_coder.means, head.bbox_coder.stds
    boxes = delta2bbox(priors.flatten(0, 1), deltas.flatten(0, 1), means, stds)
    limits = sizes.flip(1).repeat(1, 2)[:, None].to(boxes)
    return torch.minimum(boxes.reshape(priors.shape).clamp(min=0), limits)


def _apart(
    boxes: Tensor, scores: Tensor, labels: Tensor, config: dict
) -> tuple[Tensor, Tensor, Tensor]:
    """Take the best that do not overlap, each label's boxes moved to where no other's are."""
    largest = (boxes.amax(2) * (scores > 0)).amax(1, keepdim=True)
    moved = boxes + (labels * (largest + 1))[..., None]
    scores = torch.ops.lip_mmdet.nms(moved, scores, config.nms.iou_threshold)
    scores, index = _highest(scores, config.max_per_img)
    return _take(boxes, index), scores, labels.gather(1, index)


def _highest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the highest of (N, K) and their indices; zeros where there are too few."""
    scores, index = pad(scores, (0, count)).topk(count)
    return scores, index * (scores > 0)


def _take(boxes: Tensor, index: Tensor) -> Tensor:
    return boxes.gather(1, index[..., None].expand(-1, -1, 4))


@functools.lru_cache(None)
def _operators() -> dict[Callable, Callable]:
    """Define the operators that PyTorch has not got; return what they are in ONNX."""
    from onnxscript import opset18 as op

    library, operators = torch.library, torch.ops.lip_mmdet
    library.define('lip_mmdet::nms', '(Tensor boxes, Tensor scores, float threshold) -> Tensor')
    library.register_fake('lip_mmdet::nms', lambda boxes, scores, _: torch.empty_like(scores))
    schema = (
        '(Tensor maps, Tensor rois, Tensor image, int[] size, float scale, int ratio, str mode)'
    )
    library.define('lip_mmdet::roi_align', f'{schema} -> Tensor')
    library.register_fake(
        'lip_mmdet::roi_align',
        lambda maps, rois, _, size, *how: maps.new_empty(rois.shape[0], maps.shape[1], *size),
    )

    def nms(boxes: Any, scores: Any, threshold: float) -> Any:
        most, zero = op.Constant(value_int=2**31 - 1), op.Constant(value_float=0.0)
        rows = op.Unsqueeze(scores, op.Constant(value_ints=[1]))
        threshold = op.Constant(value_float=threshold)
        kept = op.NonMaxSuppression(boxes, rows, most, threshold, zero)
        kept = op.Gather(kept, op.Constant(value_ints=[0, 2]), axis=1)  # image and box
        return op.ScatterND(op.Mul(scores, zero), kept, op.GatherND(scores, kept))

    def roi_align(*inputs: Any) -> Any:
        *inputs, (height, width), scale, ratio, mode = inputs
        how = dict(spatial_scale=scale, sampling_ratio=ratio, coordinate_transformation_mode=mode)
        return op.RoiAlign(*inputs, output_height=height, output_width=width, **how)

    return {operators.nms.default: nms, operators.roi_align.default: roi_align}
