# In caffe style, for which the authors have no weights: a warm start from those of the base config,
# every one of which is kept.
_base_ = ['mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', '../_base_/lip_resnet.py']

model = dict(backbone=dict(type='LIPResNet'))
val_evaluator = _base_.coco_limits
test_evaluator = _base_.coco_limits
