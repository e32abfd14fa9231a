# A LIP-ResNet-18 Faster R-CNN from scratch in minutes on two CPU cores: small images, a slim neck
# and head, few proposals. The backbone is the whole one.
#
# What mattered, for AP50 93 to 97: depth 18, which sees each image five times while depth 50 sees
# it twice in the time (AP50 63); batches of 8, over which batch normalization has statistics worth
# having; AdamW at twice the rate, with a warm-up short enough for so few iterations; and a cosine
# that ends with the training.
_base_ = ['mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', '../_base_/lip_resnet.py']

data_root = 'work_dirs/demo/data/'
classes = ('square', 'circle', 'triangle')
epochs = 5  # of 50 iterations

model = dict(
    backbone=dict(type='LIPResNet', depth=18, init_cfg=None, frozen_stages=-1, norm_eval=False),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=128),
    rpn_head=dict(
        in_channels=128,
        feat_channels=128,
        # Half of the usual size: anchors of 16 to 256 pixels.
        anchor_generator=dict(scales=[4]),
    ),
    roi_head=dict(
        # mmcv's RoIAlign runs on one core: with one sample a bin, and few boxes (below), a step
        # takes two thirds of the time.
        bbox_roi_extractor=dict(
            out_channels=128, finest_scale=28, roi_layer=dict(sampling_ratio=1)
        ),
        bbox_head=dict(
            in_channels=128,
            fc_out_channels=256,
            num_classes=len(classes),
            # Boxes of all classes teach one regressor.
            reg_class_agnostic=True,
        ),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=200, max_per_img=100), rcnn=dict(sampler=dict(num=64))
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=300, max_per_img=100),
        # Objects hardly overlap.
        rcnn=dict(nms=dict(iou_threshold=0.3)),
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(128, 128), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(128, 128), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        ann_file='train.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=classes),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        ann_file='val.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=classes),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'val.json', **_base_.coco_limits)
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=epochs, val_interval=epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        T_max=epochs,
        end=epochs,
        by_epoch=True,
        convert_to_iter_based=True,
        eta_min=1e-5,
    ),
]
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=8e-4, weight_decay=0.02),
    clip_grad=dict(max_norm=10, norm_type=2),
)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(save_optimizer=False))
randomness = dict(seed=0)
