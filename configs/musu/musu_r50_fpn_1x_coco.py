_base_ = ['mmdet::atss/atss_r50_fpn_1x_coco.py', '../_base_/plugin.py']

model = dict(
    type='SingleStageDetector',
    bbox_head=dict(_delete_=True, type='MuSuHead', num_classes=80, in_channels=256),
    train_cfg=None,
)
val_evaluator = _base_.coco_limits
test_evaluator = _base_.coco_limits
