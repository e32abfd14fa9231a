"""A detector and a dataset small enough to run inference on in a test."""

import json

import numpy as np

CONFIG = """
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
classes = ('disk', 'bar')
model = dict(
    backbone=dict(depth=18, base_channels=8, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
    rpn_head=dict(in_channels=32, feat_channels=32),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32),
        bbox_head=dict(in_channels=32, fc_out_channels=32, num_classes=2),
    ),
    test_cfg=dict(rcnn=dict(score_thr=0.0, max_per_img=20)),
)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 96), keep_ratio=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
test_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root='{folder}/',
        ann_file='val.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=classes),
        pipeline=test_pipeline,
    ),
)
val_dataloader = test_dataloader
test_evaluator = dict(ann_file='{folder}/val.json')
val_evaluator = test_evaluator
"""


def write_project(folder, images=5):
    """Write images, annotations, a config and seeded weights below ``folder``.

    Returns the paths of config, checkpoint and annotations.
    """
    import torch
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from PIL import Image

    random = np.random.default_rng(0)
    (folder / 'images').mkdir(parents=True)
    dataset = dict(
        images=[], annotations=[], categories=[dict(id=3, name='disk'), dict(id=7, name='bar')]
    )
    for number in range(1, images + 1):
        pixels = random.integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / 'images' / f'{number}.png')
        dataset['images'].append(dict(id=number, file_name=f'{number}.png', width=96, height=96))
        for category in (3, 7):
            x, y = random.integers(0, 50, 2).tolist()
            dataset['annotations'].append(
                dict(
                    id=len(dataset['annotations']) + 1,
                    image_id=number,
                    category_id=category,
                    bbox=[x, y, 40, 40],
                    area=1600,
                    iscrowd=0,
                )
            )
    annotations = folder / 'val.json'
    annotations.write_text(json.dumps(dataset))
    config = folder / 'tiny.py'
    config.write_text(CONFIG.replace('{folder}', folder.as_posix()))

    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(config).model)
    checkpoint = folder / 'tiny.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), checkpoint)
    return config, checkpoint, annotations
