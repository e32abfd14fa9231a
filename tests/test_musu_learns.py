"""MuSuHead learns eight generated images by heart."""

import json

import cv2
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from shapes import CLASSES, IMAGE_SIZE, make_shapes_dataset

import lip_mmdet.plugin  # noqa: F401
from lip_mmdet.engine.coco_metric import LIPCocoMetric


def detector():
    init_default_scope('mmdet')
    return MODELS.build(
        dict(
            type='SingleStageDetector',
            data_preprocessor=dict(type='DetDataPreprocessor', mean=[110] * 3, std=[60] * 3),
            backbone=dict(type='ResNet', depth=18, base_channels=32),
            neck=dict(
                type='FPN',
                in_channels=[32, 64, 128, 256],
                out_channels=64,
                add_extra_convs='on_output',
                num_outs=5,
            ),
            bbox_head=dict(
                type='MuSuHead',
                num_classes=len(CLASSES),
                in_channels=64,
                feat_channels=64,
                stacked_convs=2,
                anchor_generator=dict(
                    type='AnchorGenerator',
                    ratios=[1.0],
                    octave_base_scale=8,
                    scales_per_octave=1,
                    strides=[4, 8, 16, 32, 64],
                ),
            ),
        )
    )


def load_batch(folder):
    """Return the images of a generated dataset with their objects, as a dataloader would."""
    content = json.loads((folder / 'train.json').read_text())
    inputs, samples = [], []
    size = (IMAGE_SIZE, IMAGE_SIZE)
    for image in content['images']:
        picture = cv2.imread(str(folder / 'images' / image['file_name']))
        inputs.append(torch.from_numpy(picture).permute(2, 0, 1))
        sample = DetDataSample(
            metainfo=dict(img_id=image['id'], img_shape=size, ori_shape=size, scale_factor=(1, 1))
        )
        objects = [o for o in content['annotations'] if o['image_id'] == image['id']]
        boxes = torch.tensor([o['bbox'] for o in objects], dtype=torch.float)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([o['category_id'] - 1 for o in objects])
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def learn(model, batch, iterations):
    """Train on one batch with AdamW, a short warm-up and a cosine; return the last loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1e-3, total_steps=iterations, pct_start=0.1
    )
    model.train()
    for _ in range(iterations):
        losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
        schedule.step()
    return loss.item()


def score(model, batch, annotations):
    metric = LIPCocoMetric(str(annotations))
    metric.dataset_meta = dict(classes=CLASSES)
    predictions = model.eval().test_step(batch)
    metric.process(batch, [sample.to_dict() for sample in predictions])
    return metric.evaluate(len(predictions))


@pytest.mark.slow
def test_it_learns_eight_images_by_heart(tmp_path):
    make_shapes_dataset(tmp_path, num_train=8, num_val=1)
    batch = load_batch(tmp_path)
    torch.manual_seed(0)
    model = detector()
    model.init_weights()
    learn(model, batch, 300)
    figures = score(model, batch, tmp_path / 'train.json')
    assert figures['coco/bbox_mAP_50'] > 0.95
