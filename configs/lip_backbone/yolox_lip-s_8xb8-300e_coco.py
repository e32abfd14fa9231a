_base_ = 'mmdet::yolox/yolox_s_8xb8-300e_coco.py'

custom_imports = dict(imports=['lip_mmdet.plugin'], allow_failed_imports=False)
default_hooks = dict(check_data=dict(type='CheckDataHook'), resume=dict(type='LIPResumeHook'))
model = dict(backbone=dict(_delete_=True, type='LIPBackbone', backbone=_base_.model.backbone))
# As COCO scores; see ../_base_/plugin.py.
val_evaluator = dict(proposal_nums=(1, 10, 100))
test_evaluator = val_evaluator
