_base_ = ['mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py', '../_base_/lip_resnet.py']

model = dict(backbone=_base_.lip_resnet50)
val_evaluator = _base_.coco_limits
test_evaluator = _base_.coco_limits
# Without it MMDetection's command refuses --auto-scale-lr.
auto_scale_lr = dict(enable=False)
