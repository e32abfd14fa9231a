"""Each config that ships builds, takes a training step and predicts."""

import logging
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, MODELS, TRANSFORMS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from shapes import CLASSES, make_shapes_dataset

import lip_mmdet.plugin  # noqa: F401
from lip_mmdet import config_path
from lip_mmdet.engine.config_checks import check_data

ROOT = Path(config_path())
# Other detectors are test_detector_configs.py's, other backbones test_lip_backbone.py's;
# LIP-DenseNet, DenseNet and SGE are test_relatives_configs.py's.
CONFIGS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.glob('[!_]*/faster-rcnn*.py')
    if not any(other in path.as_posix() for other in ('d121', 'sge', 'lip_backbone'))
)
# Epochs and decays; 3x goes through the data three times in each of its epochs.
SCHEDULES = {'1x': (12, [8, 11]), '2x': (24, [16, 22]), '3x': (12, [9, 11])}


def load(name):
    init_default_scope('mmdet')
    config = Config.fromfile(ROOT / name)
    config.model.backbone.init_cfg = None
    return config


def sample(num_classes):
    data = DetDataSample(
        metainfo=dict(
            img_shape=(64, 64),
            ori_shape=(64, 64),
            pad_shape=(64, 64),
            batch_input_shape=(64, 64),
            scale_factor=(1.0, 1.0),
        )
    )
    data.gt_instances = InstanceData(
        bboxes=torch.tensor([[4.0, 4.0, 40.0, 40.0], [30.0, 20.0, 60.0, 50.0]]),
        labels=torch.tensor([0, num_classes - 1]),
    )
    return data


@pytest.mark.parametrize('name', CONFIGS)
def test_config_trains_and_predicts(name):
    config = load(name)
    logging.disable(logging.INFO)  # MMEngine logs every parameter's initialization
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    logging.disable(logging.NOTSET)
    optimizer = build_optim_wrapper(model, config.optim_wrapper)
    num_classes = config.model.roi_head.bbox_head.num_classes
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    data = dict(inputs=[image], data_samples=[sample(num_classes)])
    before = model.rpn_head.rpn_conv.weight.detach().clone()
    losses = model.train().train_step(data, optimizer)
    assert torch.isfinite(losses['loss'])
    assert not torch.equal(model.rpn_head.rpn_conv.weight, before)
    (prediction,) = model.eval().test_step(data)
    assert prediction.pred_instances.bboxes.shape[1] == 4
    # COCO's own limits, in validation and testing; but nuclei are many in an image.
    limits = (1, 10, 400 if 'dsb2018' in name else 100)
    assert config.val_evaluator.proposal_nums == limits
    assert config.test_evaluator.proposal_nums == limits


@pytest.mark.parametrize('name', [n for n in CONFIGS if n.startswith('lip/')])
def test_config_is_what_its_name_says(name):
    backbone, schedule = name.split('_')[1], name.split('_')[3]
    config = load(name)
    kind = 'LIPResNetMD' if backbone.endswith('-md') else 'LIPResNet'
    depth = int(''.join(c for c in backbone if c.isdigit()))
    assert (config.model.backbone.type, config.model.backbone.depth) == (kind, depth)
    epochs, milestones = SCHEDULES[schedule[-2:]]
    assert config.train_cfg.max_epochs == epochs
    assert config.param_scheduler[1].milestones == milestones
    assert config.optim_wrapper.optimizer.lr == 0.02
    assert config.auto_scale_lr.base_batch_size == 16
    dataset = config.train_dataloader.dataset
    dataset = dataset.get('dataset', dataset)
    steps = [step['type'] for step in dataset.pipeline]
    multi_scale = {'ms-1x': 'RandomChoiceResize', 'ms-3x': 'RandomResize'}
    multi_scale['ms-2x'] = multi_scale['ms-1x']
    assert multi_scale.get(schedule, 'Resize') in steps


def test_multi_scale_training_resizes_to_its_scales(tmp_path):
    pipeline = load('lip/faster-rcnn_lip-r50_fpn_ms-1x_coco.py').train_dataloader.dataset.pipeline
    path = str(tmp_path / 'image.png')
    mmcv.imwrite(np.zeros((100, 120, 3), np.uint8), path)
    results = dict(img_id=1, img_path=path, instances=[], height=100, width=120)
    sides = set()
    np.random.seed(0)
    for _ in range(20):
        out = dict(results)
        for step in pipeline:
            out = TRANSFORMS.build(step)(out)
        sides.add(min(out['data_samples'].img_shape))
    assert sides <= {640, 672, 704, 736, 768, 800}
    assert len(sides) > 3


def test_own_data_needs_paths_and_class_names_only(tmp_path):
    """Copied elsewhere and edited above its line, the example fits a dataset."""
    make_shapes_dataset(tmp_path / 'shapes', num_train=2, num_val=1)
    text = (ROOT / 'lip/faster-rcnn_lip-r50_fpn_1x_custom.py').read_text()
    edited, rest = text.split('# --- nothing below needs an edit')
    for old, new in (
        ("'data/my_dataset/'", repr(f'{tmp_path.as_posix()}/shapes/')),
        ("'annotations/train.json', 'train/'", "'train.json', 'images/'"),
        ("'annotations/val.json', 'val/'", "'val.json', 'images/'"),
        ("('cat', 'dog')", repr(CLASSES)),
    ):
        assert old in edited
        edited = edited.replace(old, new)
    (tmp_path / 'my_config.py').write_text(f'{edited}# {rest}')
    config = Config.fromfile(tmp_path / 'my_config.py')
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        check_data(config, loader)
        assert len(DATASETS.build(config[loader].dataset)) > 0
    assert config.model.roi_head.bbox_head.num_classes == 3
    assert config.test_evaluator.ann_file == f'{tmp_path.as_posix()}/shapes/val.json'
