_base_ = ['mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py', '../_base_/lip_resnet.py']

model = dict(backbone=_base_.lip_resnet50)
val_evaluator = _base_.coco_limits
test_evaluator = _base_.coco_limits
# Without it MMDetection's command refuses --auto-scale-lr.
auto_scale_lr = dict(enable=False)
