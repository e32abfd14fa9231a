# A trained ResNet detector becomes a LIP one in two epochs. Copy this file to where you like, set
# the two lines below, then train with
#   python tools/train.py my_upgrade.py
# with --auto-scale-lr where the detector was trained with it.
# What the same two epochs bring without LIP, to compare with:
#   python tools/train.py my_upgrade.py --work-dir work_dirs/control \
#       --cfg-options model.backbone.type=ResNet
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'  # your detector's config
load_from = 'checkpoints/faster_rcnn_r50_fpn_1x_coco.pth'  # and its weights

# --- nothing below needs an edit ---------------------------------------------------------------
custom_imports = dict(
    imports=[*_base_.get('custom_imports', {}).get('imports', []), 'lip_mmdet.plugin'],
    allow_failed_imports=False,
)
default_hooks = dict(check_data=dict(type='CheckDataHook'), resume=dict(type='LIPResumeHook'))
# The weights come from `load_from`, those of the backbone too.
model = dict(backbone=dict(type='LIPResNet', init_cfg=None))
optim_wrapper = dict(optimizer=dict(lr=_base_.optim_wrapper.optimizer.lr / 10))
param_scheduler = []
train_cfg = dict(max_epochs=2, val_interval=1)
