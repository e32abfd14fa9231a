_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/lip_resnet.py']

model = dict(backbone=_base_.lip_resnet50)
val_evaluator = _base_.coco_limits
test_evaluator = _base_.coco_limits
