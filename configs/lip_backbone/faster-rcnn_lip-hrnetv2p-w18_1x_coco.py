_base_ = ['mmdet::hrnet/faster-rcnn_hrnetv2p-w18-1x_coco.py', '../_base_/plugin.py']

model = dict(backbone=dict(_delete_=True, type='LIPBackbone', backbone=_base_.model.backbone))
val_evaluator = _base_.coco_limits
test_evaluator = _base_.coco_limits
