"""MuSuHead: a dense head whose classification and regression choose each other's samples."""

from __future__ import annotations

import torch
from mmcv.cnn import ConvModule, Scale
from mmdet.models.dense_heads.anchor_head import AnchorHead
from mmdet.models.utils import multi_apply
from mmdet.registry import MODELS
from mmdet.structures.bbox import get_box_tensor
from mmdet.utils import reduce_mean
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from lip_mmdet.dense_heads.mutual_assignment import assign, inside
from lip_mmdet.errors import InputError

# ATSS's, as are the losses' factors and the convolutions' start.
_NORM = dict(type='GN', num_groups=32, requires_grad=True)
_ANCHORS = dict(
    type='AnchorGenerator',
    ratios=[1.0],
    octave_base_scale=8,
    scales_per_octave=1,
    strides=[8, 16, 32, 64, 128],
)
_CODER = dict(type='DeltaXYWHBBoxCoder', target_stds=(0.1, 0.1, 0.2, 0.2))
_START = dict(
    type='Normal',
    layer='Conv2d',
    std=0.01,
    override=dict(type='Normal', name='conv_cls', std=0.01, bias_prob=0.01),
)
_TEST = ConfigDict(
    nms_pre=1000,
    min_bbox_size=0,
    score_thr=0.05,
    nms=dict(type='nms', iou_threshold=0.6),
    max_per_img=100,
)
_CLASSIFICATION = dict(type='FocalPairLoss', alpha=0.25, gamma=2.0, loss_weight=1.0)
_REGRESSION = dict(type='GIoULoss', loss_weight=2.0)


@MODELS.register_module()
class MuSuHead(AnchorHead):
    """Dense head trained by mutual supervision, by our reading of MuSu.

    Gao, Wang and Wu, "Mutual Supervision for Dense Object Detection" (ICCV 2021, arXiv 2109.05986)
    assign the samples of the two heads separately: those of regression mainly by classification
    scores, those of classification mainly by the IoUs of predicted boxes, as soft weights over a
    bag of candidates of each object, with one anchor or more at a location. That much is theirs.
    They released no code; every formula and every number here is ours (13 is TOOD's top-k, the
    network and the rest are ATSS's), and an argument:

    1. Bag: the ``bag_size`` x A priors (A anchors at a location) of highest score x IoU among
       those whose centre lies in the object, all levels together; if none does, the nearest prior.
    2. Keys: score^(1-a) IoU^a for regression, IoU^(1-a) score^a for classification. a = 0 is purely
       mutual; with a = 0.5 both heads share one ranking, the conventional case.
    3. Weights: exp(-rank / tau) in the bag, ranks from 0 by falling key; 0 outside.
    4. Conflicts: a prior's target for a class is the largest weight among the objects of that
       class; for regression it keeps the object of the largest weight.
    5. Losses: weighted focal pair over the sum of targets, weighted GIoU loss over the sum of
       weights, both sums averaged over processes and at least 1.

    Network: ATSS's without centerness, the classification score alone ranks detections. Priors in
    a batch's padding are not trained, those in an ignored or crowd box only where they are in an
    object's bag.

    Args:
        num_classes: classes of objects.
        in_channels: of each feature map.
        feat_channels: of the branches' maps.
        stacked_convs: 3x3 convolutions in each branch.
        norm_cfg: their norm.
        bag_size: candidates of an object per anchor at a location.
        own_exponent: a above, 0 to 0.5.
        temperature: tau above, above 0; infinity weighs the bag evenly.
        anchor_generator: ``scales_per_octave`` or more ``ratios`` tile more anchors a location.
        bbox_coder: from regression outputs to boxes.
        loss_cls: called as :class:`FocalPairLoss` is.
        loss_bbox: any of MMDetection's losses of the IoU family.
        test_cfg: as in MMDetection; ATSS's by default.
        init_cfg: as in MMDetection.

    Raises:
        InputError: an argument out of its range, or a ``train_cfg``, whose assigner would not be
            used.

    Example:
        >>> import torch
        >>> from lip_mmdet.dense_heads import MuSuHead
        >>> head = MuSuHead(num_classes=80, in_channels=256)
        >>> maps = [torch.rand(1, 256, size, size) for size in (32, 16, 8, 4, 2)]
        >>> scores, boxes = head(maps)
        >>> tuple(scores[0].shape), tuple(boxes[0].shape)
        ((1, 80, 32, 32), (1, 4, 32, 32))
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        *,
        feat_channels: int = 256,
        stacked_convs: int = 4,
        norm_cfg: dict = _NORM,
        bag_size: int = 13,
        own_exponent: float = 0.2,
        temperature: float = 3.0,
        anchor_generator: dict = _ANCHORS,
        bbox_coder: dict = _CODER,
        loss_cls: dict = _CLASSIFICATION,
        loss_bbox: dict = _REGRESSION,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = _START,
    ) -> None:
        if train_cfg:
            raise InputError('MuSuHead assigns by itself; set train_cfg=None in the model')
        if bag_size < 1 or not 0 <= own_exponent <= 0.5 or not temperature > 0:
            raise InputError(
                f'MuSuHead: bag_size={bag_size}, own_exponent={own_exponent}, '
                f'temperature={temperature}; they are at least 1, 0 to 0.5 and above 0'
            )
        self.stacked_convs = stacked_convs
        self.norm_cfg = norm_cfg
        super().__init__(
            num_classes,
            in_channels,
            feat_channels=feat_channels,
            anchor_generator=anchor_generator,
            bbox_coder=bbox_coder,
            reg_decoded_bbox=True,
            loss_cls={'use_sigmoid': True, **loss_cls},
            loss_bbox=loss_bbox,
            test_cfg=test_cfg or _TEST,
            init_cfg=init_cfg,
        )
        self.assignment = dict(
            bag_size=bag_size * self.num_base_priors,
            own_exponent=own_exponent,
            temperature=temperature,
        )

    def _init_layers(self) -> None:
        self.cls_convs = self._branch()
        self.reg_convs = self._branch()
        channels, anchors = self.feat_channels, self.num_base_priors
        self.conv_cls = nn.Conv2d(channels, anchors * self.cls_out_channels, 3, padding=1)
        self.conv_reg = nn.Conv2d(channels, anchors * 4, 3, padding=1)
        self.scales = nn.ModuleList(Scale(1.0) for _ in self.prior_generator.strides)

    def _branch(self) -> nn.Sequential:
        widths = [self.in_channels] + [self.feat_channels] * self.stacked_convs
        return nn.Sequential(
            *(
                ConvModule(before, after, 3, padding=1, norm_cfg=self.norm_cfg)
                for before, after in zip(widths, widths[1:])
            )
        )

    def forward(self, x: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """Map the levels' features to logits and to regression outputs, for all A anchors.

        Args:
            x: (B, in_channels, H, W) of each level.

        Returns:
            (B, A * num_classes, H, W) and (B, A * 4, H, W), float32, of each level.
        """
        return multi_apply(self.forward_single, x, self.scales)

    def forward_single(self, x: Tensor, scale: Scale) -> tuple[Tensor, Tensor]:
        """Do the same for one level."""
        logits = self.conv_cls(self.cls_convs(x))
        return logits, scale(self.conv_reg(self.reg_convs(x))).float()

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData | None] | None = None,
    ) -> dict[str, Tensor]:
        """Return ``loss_cls`` and ``loss_bbox`` of a batch; see the class.

        Args:
            cls_scores: logits of each level, as :meth:`forward` returns them.
            bbox_preds: regression outputs of each level.
            batch_gt_instances: of each image, with ``bboxes`` and ``labels``.
            batch_img_metas: of each image, with ``img_shape`` and ``pad_shape``.
            batch_gt_instances_ignore: of each image, with ``bboxes``, or None.
        """
        num_images = len(batch_img_metas)
        sizes = [level.shape[-2:] for level in cls_scores]
        levels, flags = self.get_anchors(sizes, batch_img_metas, device=cls_scores[0].device)
        anchors = torch.cat([get_box_tensor(level) for level in levels[0]])
        logits = _by_prior(cls_scores, self.cls_out_channels).float()
        outputs = _by_prior(bbox_preds, 4)
        boxes = get_box_tensor(
            self.bbox_coder.decode(anchors.repeat(num_images, 1), outputs.flatten(0, 1))
        ).view_as(outputs)
        scores, weights, truths, trained = multi_apply(
            self._image_targets,
            logits.detach().sigmoid(),
            boxes.detach(),
            flags,
            batch_gt_instances,
            batch_img_metas,
            batch_gt_instances_ignore or [None] * num_images,
            centres=_centres(anchors),
        )
        scores, weights, trained = (torch.cat(part) for part in (scores, weights, trained))
        totals = reduce_mean(torch.stack((scores.sum(), weights.sum()))).clamp(min=1)
        learns = weights > 0
        return dict(
            loss_cls=self.loss_cls(logits.flatten(0, 1), scores, trained, avg_factor=totals[0]),
            loss_bbox=self.loss_bbox(
                boxes.flatten(0, 1)[learns],
                torch.cat(truths),
                weights[learns],
                avg_factor=totals[1],
            ),
        )

    def _image_targets(
        self,
        scores: Tensor,
        boxes: Tensor,
        flags: list[Tensor],
        gt: InstanceData,
        meta: dict,
        ignored: InstanceData | None,
        centres: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Say what the N priors of one image are to learn.

        Returns:
            (N, num_classes), soft targets; (N,), weights of the regression loss; (K, 4), the boxes
            for the K priors whose weight is not 0; (N,), 0 where classification is not trained.
        """
        height, width = meta['img_shape'][:2]
        in_image = (centres < centres.new_tensor((width, height))).all(1, keepdim=True)
        truths = get_box_tensor(gt.bboxes)
        learned = assign(
            scores,
            boxes,
            centres.masked_fill(~in_image, float('inf')),
            truths,
            gt.labels,
            **self.assignment,
        )
        trained, taught = torch.cat(flags), (learned.scores > 0).any(1)
        for box in get_box_tensor(ignored.bboxes) if ignored is not None else ():
            trained = trained & (taught | ~inside(centres, box))
        boxes = truths[learned.objects[learned.weights > 0]]
        return learned.scores, learned.weights, boxes, trained.float()


def _by_prior(levels: list[Tensor], channels: int) -> Tensor:
    """Map (B, A * channels, H, W) of each level to (B, N, channels), in the order of anchors."""
    return torch.cat([x.permute(0, 2, 3, 1).reshape(len(x), -1, channels) for x in levels], dim=1)


def _centres(anchors: Tensor) -> Tensor:
    """Return the anchors' centres; their corners were rounded, by less than this is."""
    return ((anchors[:, :2] + anchors[:, 2:]) / 2).round(decimals=2)
