# ImageNet pre-training of LIP-ResNet-50 by mmpretrain, with the authors' settings: batches of 256,
# SGD at 0.1 with weight decay 1e-4, 90 epochs with decays after 30, 60 and 80, crops of 224 pixels
# and flips. Left open by paper and code, and chosen here as mmpretrain has it: how crops are
# interpolated (bilinear, by OpenCV) and the classifier's initial weights.
_base_ = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'

custom_imports = dict(imports=['lip_mmdet.plugin'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True, type='mmdet.LIPResNet', depth=50, out_indices=(3,), norm_eval=False
    )
)
train_cfg = dict(max_epochs=90)
param_scheduler = dict(milestones=[30, 60, 80])
