_base_ = ['mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', '../_base_/densenet.py']

model = dict(
    backbone=dict(_delete_=True, **_base_.lip_densenet121),
    neck=dict(in_channels=_base_.densenet121_channels),
)
val_evaluator = _base_.coco_limits
test_evaluator = _base_.coco_limits
