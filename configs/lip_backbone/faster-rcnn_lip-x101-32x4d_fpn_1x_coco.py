_base_ = ['mmdet::faster_rcnn/faster-rcnn_x101-32x4d_fpn_1x_coco.py', '../_base_/plugin.py']

model = dict(backbone=dict(_delete_=True, type='LIPBackbone', backbone=_base_.model.backbone))
val_evaluator = _base_.coco_limits
test_evaluator = _base_.coco_limits
