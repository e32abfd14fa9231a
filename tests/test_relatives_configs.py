"""The configs of LIP-DenseNet, DenseNet and SGE build, take a training step and predict."""

import logging
from pathlib import Path

import mmengine
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from lip_mmdet import config_path
from lip_mmdet.backbones import DenseNet, LIPDenseNet, LIPResNet, SGEResNet
from lip_mmdet.errors import InputError
from lip_mmdet.layers import SGE

ROOT = Path(config_path())
SGE_CONFIGS = sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob('sge/*.py'))
TRAINED = [
    'densenet/faster-rcnn_d121_fpn_1x_coco.py',
    'lip/faster-rcnn_lip-d121_fpn_1x_coco.py',
    'lip/faster-rcnn_lip-r50-sge_fpn_1x_coco.py',
    # A deeper backbone differs in its depth alone.
    *(name for name in SGE_CONFIGS if 'r101' not in name or name.startswith('sge/faster')),
]


def load(name):
    init_default_scope('mmdet')
    return Config.fromfile(ROOT / name)


def build(config):
    logging.disable(logging.INFO)  # MMEngine logs every parameter's initialization
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    logging.disable(logging.NOTSET)
    return model


def sample():
    size = (64, 64)
    data = DetDataSample(
        metainfo=dict(
            img_shape=size,
            ori_shape=size,
            pad_shape=size,
            batch_input_shape=size,
            scale_factor=(1.0, 1.0),
        )
    )
    masks = np.zeros((2, *size), np.uint8)
    masks[0, 4:40, 4:40] = masks[1, 20:50, 30:60] = 1
    data.gt_instances = InstanceData(
        bboxes=torch.tensor([[4.0, 4.0, 40.0, 40.0], [30.0, 20.0, 60.0, 50.0]]),
        labels=torch.tensor([0, 79]),
        masks=BitmapMasks(masks, *size),
    )
    return data


@pytest.mark.parametrize('name', TRAINED)
def test_config_trains_and_predicts(name):
    config = load(name)
    config.model.backbone.init_cfg = None
    model = build(config)
    optimizer = build_optim_wrapper(model, config.optim_wrapper)
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    data = dict(inputs=[image], data_samples=[sample()])
    before = {k: v.detach().clone() for k, v in model.backbone.named_parameters()}
    losses = model.train().train_step(data, optimizer)
    assert torch.isfinite(losses['loss'])
    # Stem and first stage are frozen, the last stage is trained.
    moved = [k for k, v in model.backbone.named_parameters() if not torch.equal(v, before[k])]
    frozen = ('conv0', 'norm0', 'pool0', 'denseblock1', 'conv1', 'bn1', 'maxpool', 'layer1')
    assert moved
    assert not any(k.startswith(frozen) for k in moved)
    assert any(k.startswith(('denseblock4', 'layer4')) for k in moved)
    (prediction,) = model.eval().test_step(data)
    assert prediction.pred_instances.bboxes.shape[1] == 4
    assert ('masks' in prediction.pred_instances) == ('mask' in name)


@pytest.mark.parametrize('name', sorted({*TRAINED, *SGE_CONFIGS}))
def test_config_is_what_its_name_says(name):
    config = load(name)
    detector, kind = name.split('/')[1].split('_')[:2]
    names = {
        'faster-rcnn': 'FasterRCNN',
        'mask-rcnn': 'MaskRCNN',
        'cascade-rcnn': 'CascadeRCNN',
        'retinanet': 'RetinaNet',
    }
    assert config.model.type == names[detector]
    backbones = {
        'd121': (DenseNet, 121),
        'lip-d121': (LIPDenseNet, 121),
        'lip-r50-sge': (LIPResNet, 50),
        'sge-r50': (SGEResNet, 50),
        'sge-r101': (SGEResNet, 101),
    }
    backbone = config.model.backbone
    assert (MODELS.get(backbone.type), backbone.depth) == backbones[kind]
    assert str(backbone.depth) in backbone.init_cfg.checkpoint
    assert config.train_cfg.max_epochs == 12
    assert config.param_scheduler[1].milestones == [8, 11]
    assert config.optim_wrapper.optimizer.lr == (0.01 if detector == 'retinanet' else 0.02)
    for evaluator in (config.val_evaluator, config.test_evaluator):
        assert evaluator.proposal_nums == (1, 10, 100)
    # As a user's own config sees it: the backbone's channels are the neck's.
    with torch.no_grad():
        net = MODELS.build(dict(backbone, init_cfg=None)).eval()
        features = net(torch.zeros(1, 3, 32, 32))
    assert [f.shape[1] for f in features] == config.model.neck.in_channels


def test_lip_and_sge_meet_where_training_reaches():
    config = load('lip/faster-rcnn_lip-r50-sge_fpn_1x_coco.py')
    net = MODELS.build(dict(config.model.backbone, init_cfg=None))
    parts = [name for name, module in net.named_modules() if isinstance(module, SGE)]
    assert len(parts) == 4 + 6 + 3
    assert all(p.requires_grad for m in net.modules() if isinstance(m, SGE) for p in m.parameters())


@pytest.mark.parametrize('name', TRAINED[1:4])
def test_missing_imagenet_weights_say_so_before_training(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = MODELS.build(load(name).model)
    with pytest.raises(InputError, match='no ImageNet weights at checkpoints/'):
        model.init_weights()


@pytest.mark.parametrize('folder', ['sge', 'densenet', 'musu', 'lip_backbone'])
def test_each_config_stands_in_the_folders_table_and_metafile(folder):
    configs = {path.stem for path in (ROOT / folder).glob('*.py')}
    metafile = mmengine.load(ROOT / folder / 'metafile.yml')
    assert {model['Name'] for model in metafile['Models']} == configs
    for model in metafile['Models']:
        assert model['Config'] == f'configs/{folder}/{model["Name"]}.py'
        assert model['In Collection'] == metafile['Collections'][0]['Name']
    index = mmengine.load(ROOT.parent / 'model-index.yml')
    assert f'configs/{folder}/metafile.yml' in index['Import']
    table = (ROOT / folder / 'README.md').read_text(encoding='utf-8')
    assert all(f'(./{name}.py)' in table for name in configs)
