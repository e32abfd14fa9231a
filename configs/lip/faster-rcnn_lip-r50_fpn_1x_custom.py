# Your own data in COCO format: copy this file to where you like, set the paths and the class names,
# then train with
#   python tools/train.py my_config.py --auto-scale-lr
_base_ = __import__('lip_mmdet').config_path('lip/faster-rcnn_lip-r50_fpn_1x_coco.py')

data_root = 'data/my_dataset/'
train_annotations, train_images = 'annotations/train.json', 'train/'
val_annotations, val_images = 'annotations/val.json', 'val/'
classes = ('cat', 'dog')  # as the annotation files name them

# --- nothing below needs an edit ---------------------------------------------------------------
model = dict(
    # A plain ResNet-50 trained on ImageNet, fetched once; LIP starts from what it knows. With the
    # authors' LIP weights: 'checkpoints/lip_resnet-50.pth'.
    backbone=dict(
        init_cfg=dict(checkpoint='https://download.pytorch.org/models/resnet50-0676ba61.pth')
    ),
    roi_head=dict(bbox_head=dict(num_classes=len(classes))),
)
train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file=train_annotations,
        data_prefix=dict(img=train_images),
        metainfo=dict(classes=classes),
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file=val_annotations,
        data_prefix=dict(img=val_images),
        metainfo=dict(classes=classes),
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + val_annotations)
test_evaluator = val_evaluator
