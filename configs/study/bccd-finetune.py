# Blood cells (BCCD, 205 images) from the study's detectors of nuclei, as most users train: stage 1
# and batch statistics frozen, a short schedule. What fits of the detector is loaded.
_base_ = '../dsb2018/faster-rcnn_r18_fpn_6e_dsb2018-256.py'

data_root = 'data/bccd/'
classes = ('RBC', 'WBC', 'Platelets')
scale = (320, 240)
epochs = 4

model = dict(
    backbone=dict(frozen_stages=1, norm_eval=True),
    roi_head=dict(bbox_head=dict(num_classes=len(classes))),
)
train_pipeline = _base_.train_pipeline
test_pipeline = _base_.test_pipeline
train_pipeline[2].scale = scale
test_pipeline[1].scale = scale
data = dict(data_root=data_root, metainfo=dict(classes=classes))
train_dataloader = dict(dataset=dict(ann_file='train.json', pipeline=train_pipeline, **data))
val_dataloader = dict(dataset=dict(ann_file='val.json', pipeline=test_pipeline, **data))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'val.json')
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=epochs, val_interval=epochs)
param_scheduler = [
    _base_.param_scheduler[0],
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=epochs,
        T_max=epochs,
        by_epoch=True,
        convert_to_iter_based=True,
        eta_min=3e-6,
    ),
]
